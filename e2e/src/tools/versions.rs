//! Other versions of Istio and Envoy than the default ones: `SERVICEFENCE_MESH=istio-1.30,envoy-1.36`.
//!
//! In: names of pins in `e2e/tools/versions`. Out: a folder `<cache>/<name>-<key>` for each. A file in one
//! stands for the file of the same name in the default folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::build;

/// The environment variable that chooses other versions.
pub(crate) const VARIABLE: &str = "SERVICEFENCE_MESH";

/// A version that is not the default one.
#[derive(Clone, Debug)]
pub(super) struct Other {
    /// `istio-1.30`, `envoy-1.36`: the name of its pin.
    pub(super) name: String,
    /// Of an Istio a module, of an Envoy a file of requirements.
    pin: PathBuf,
}

/// What the environment variable names.
pub(super) fn chosen() -> Result<Vec<Other>> {
    let names = std::env::var(VARIABLE).unwrap_or_default();
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(Other::named).collect()
}

/// The names of all pins.
pub fn others() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(pins())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.push(name.strip_suffix(".txt").unwrap_or(&name).to_owned());
    }
    names.sort();
    Ok(names)
}

fn pins() -> PathBuf {
    build::module().join("versions")
}

impl Other {
    fn named(name: &str) -> Result<Self> {
        let all = others()?;
        if !all.iter().any(|one| one == name) {
            let all = all.join(", ");
            bail!("{VARIABLE} names {name}, and e2e/tools/versions has no pin of it: there are {all}");
        }
        let (module, envoy) = (pins().join(name), pins().join(format!("{name}.txt")));
        let pin = if module.is_dir() { module } else { envoy };
        let name = name.to_owned();
        Ok(Self { name, pin })
    }

    /// Its folder, whether it is there or not.
    pub(super) fn folder(&self, cache: &Path) -> Result<PathBuf> {
        let decides = if self.pin.is_dir() {
            ["go.mod", "go.sum"].map(|name| self.pin.join(name)).into()
        } else {
            vec![self.pin.clone()]
        };
        Ok(cache.join(format!("{}-{}", self.name, build::key(&decides)?)))
    }

    /// Gets its programs.
    pub(super) fn fill(&self, folder: &Path) -> Result<()> {
        if self.pin.is_dir() {
            build::istio(folder, &self.pin)
        } else {
            build::envoy(folder, &self.pin)
        }
    }
}
