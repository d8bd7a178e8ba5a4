//! An istiod process of one revision, and further ones beside the first.
//!
//! In: a revision and its environment. Out: a process, and the Service `istiod-<revision>` by which the
//! agents of its pods find it. All have one certificate authority, which istiod keeps in a Secret, and one
//! MeshConfig. Only the first one validates.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::addresses::{Families, ISTIO_NAMESPACE, in_url};
use crate::mesh::Mesh;
use crate::netns::Netns;
use crate::objects::Objects;
use crate::process::{Process, Program};
use crate::tools::Tools;
use crate::wait::{self, Hopeless, until};

/// How far apart the ports of two istiods are.
const APART: u16 = 100;
/// Ports of the Service: name, port, port of the first istiod.
const PORTS: [(&str, u16, u16); 4] = [
    ("grpc-xds", 15010, 15010),
    ("https-dns", 15012, 15012),
    ("https-webhook", 443, 15017),
    ("http-monitoring", 15014, 15014),
];
const DEBUG_PORT: u16 = 8080;

/// A further istiod to add to a mesh.
#[derive(Clone, Debug)]
pub struct IstiodSpec {
    revision: String,
    env: Vec<(String, String)>,
}

impl IstiodSpec {
    /// An istiod of this revision, which is not `default`.
    pub fn new(revision: &str) -> Self {
        Self {
            revision: revision.to_owned(),
            env: Vec::new(),
        }
    }

    /// Sets an environment variable over the usual ones.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Does not read kinds of objects, named as their CRDs: `sidecars.networking.istio.io`.
    #[must_use]
    pub fn ignores(self, kinds: &[&str]) -> Self {
        self.env("PILOT_IGNORE_RESOURCES", &kinds.join(","))
    }
}

/// What tells one istiod from another.
pub(super) struct Instance<'a> {
    pub(super) revision: &'a str,
    pub(super) webhook: &'a str,
    /// What is added to every port.
    pub(super) shift: u16,
    pub(super) families: Families,
    pub(super) env: &'a [(String, String)],
}

/// The host name of the istiod of a revision.
pub(crate) fn host(revision: &str) -> String {
    match revision {
        "default" => format!("istiod.{ISTIO_NAMESPACE}.svc"),
        other => format!("istiod-{other}.{ISTIO_NAMESPACE}.svc"),
    }
}

/// The Service of an istiod, with its one endpoint.
pub(super) async fn apply_service(
    objects: &Objects,
    metadata: &Value,
    shift: u16,
    families: Families,
) -> Result<()> {
    let port = |name: &str, port: u16| json!({"name": name, "port": port, "protocol": "TCP"});
    let service_ports: Vec<Value> = PORTS
        .iter()
        .map(|(name, number, target)| {
            let mut port = port(name, *number);
            port["targetPort"] = json!(target + shift);
            port
        })
        .collect();
    objects
        .apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": service_ports}}))
        .await?;
    let slice_ports: Vec<Value> = PORTS
        .iter()
        .map(|(name, _, target)| port(name, target + shift))
        .collect();
    let name = &metadata["name"];
    objects
        .apply(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": if families == Families::Ipv6 { "IPv6" } else { "IPv4" },
            "metadata": {"name": name, "namespace": ISTIO_NAMESPACE, "labels": {"kubernetes.io/service-name": name}},
            "endpoints": [{"addresses": [families.node_ip()], "conditions": {"ready": true}}], "ports": slice_ports,
        }))
        .await?;
    Ok(())
}

/// Starts an istiod in a folder of its own.
pub(super) fn start(tools: &Tools, mesh: &Path, node: &Netns, instance: &Instance<'_>) -> Result<Process> {
    let name = match instance.revision {
        "default" => "istiod".to_owned(),
        other => format!("istiod-{other}"),
    };
    let folder = mesh.join(&name);
    fs::create_dir_all(&folder)?;
    let port = |number: u16| number + instance.shift;
    let any = in_url(instance.families.any());
    let mut program = Program::new(name, tools.program("pilot-discovery"), folder)
        .args(["discovery", "--kubeconfig"])
        .args([mesh.join("kubeconfig").to_string_lossy()])
        .args([
            format!("--grpcAddr={any}:{}", port(15010)),
            format!("--secureGRPCAddr={any}:{}", port(15012)),
            format!("--httpsAddr={any}:{}", port(15017)),
            format!("--httpAddr=127.0.0.1:{}", port(DEBUG_PORT)),
            format!("--monitoringAddr={any}:{}", port(15014)),
        ])
        .args([
            "--registries=Kubernetes",
            "--domain=cluster.local",
            "--kubernetesApiQPS=1000",
            "--kubernetesApiBurst=2000",
            "--ctrlz_port=0",
        ]);
    for (name, value) in [
        ("POD_NAMESPACE", ISTIO_NAMESPACE),
        ("POD_NAME", &format!("istiod-mesh-{}", instance.revision)),
        ("CLUSTER_ID", "Kubernetes"),
        ("REVISION", instance.revision),
        // Other revisions have a MeshConfig of their own, and then this one.
        ("SHARED_MESH_CONFIG", "istio"),
        ("JWT_POLICY", "third-party-jwt"),
        ("INJECT_ENABLED", "false"),
        ("INJECTION_WEBHOOK_CONFIG_NAME", ""),
        ("VALIDATION_WEBHOOK_CONFIG_NAME", instance.webhook),
        ("ENABLE_LEADER_ELECTION", "false"),
        // Routes of Gateway API are followed once it is installed. Its Gateways are not run.
        ("PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER", "false"),
        // A plain Envoy has none of Istio's own filters.
        ("PILOT_ENABLE_METADATA_EXCHANGE", "false"),
        ("PILOT_ENABLE_ALPN_FILTER", "false"),
        ("UNSAFE_ENABLE_ADMIN_ENDPOINTS", "true"),
    ] {
        // The first one reads its MeshConfig once.
        if name != "SHARED_MESH_CONFIG" || instance.revision != "default" {
            program = program.env(name, value);
        }
    }
    if instance.families == Families::Both {
        program = program.env("ISTIO_DUAL_STACK", "true");
    }
    for (name, value) in instance.env {
        program = program.env(name, value);
    }
    program.start(node, &mesh.join("logs"))
}

/// One look at whether an istiod says that it is ready.
pub(super) fn is_ready(node: &Netns, shift: u16) -> Result<()> {
    let answer = node.enter(|| crate::admin::get(DEBUG_PORT + shift, "/ready"))??;
    if answer.status == 200 {
        Ok(())
    } else {
        bail!("it answers {}", answer.status)
    }
}

impl Mesh {
    /// Starts one more istiod. Pods choose it by [`PodSpec::revision`](crate::PodSpec::revision).
    pub async fn add_istiod(&self, spec: &IstiodSpec) -> Result<()> {
        let (core, revision) = (self.core(), spec.revision.as_str());
        ensure!(
            revision != "default",
            "the mesh has an istiod of this revision already"
        );
        let name = format!("istiod-{revision}");
        let there = fs::read_dir(&core.folder)?
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("istiod"))
            .count();
        let shift = APART * u16::try_from(there).context("too many istiods")?;
        let labels = json!({"app": "istiod", "istio": "pilot", "istio.io/rev": revision});
        let metadata = json!({"name": name, "namespace": ISTIO_NAMESPACE, "labels": labels});
        apply_service(&core.objects, &metadata, shift, core.families).await?;
        let instance = Instance {
            revision,
            webhook: "",
            shift,
            families: core.families,
            env: &spec.env,
        };
        let process = start(&core.tools, &core.folder, &core.node(), &instance)?;
        until(format!("{name} is ready"), wait::LONG, || async {
            process.still_runs().map_err(Hopeless)?;
            is_ready(&core.node(), shift)
        })
        .await?;
        core.keep(&name, process);
        self.wait_endpoint(&format!("{ISTIO_NAMESPACE}/{name}")).await
    }

    /// Ends one that was added.
    pub async fn stop_istiod(&self, revision: &str) -> Result<()> {
        let mut processes = self.core().take(&format!("istiod-{revision}"));
        ensure!(
            !processes.is_empty(),
            "no istiod of revision {revision} was added"
        );
        for process in &mut processes {
            process.terminate(wait::SHORT).await?;
        }
        Ok(())
    }
}
