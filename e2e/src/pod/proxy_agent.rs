//! Istio's own agent and the Envoy that it starts: the files and the environment that injection would give
//! them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::record::PodRecord;
use super::spec::{PodKind, REVISION};
use crate::addresses::{Families, ISTIO_NAMESPACE, NODE_NAME};
use crate::admin;
use crate::control_plane::revision::host;
use crate::interception::interception;
use crate::mesh::core::Core;
use crate::objects::{self, merge};
use crate::process::{PROXY_USER, Process, Program};
use crate::wait::{self, Hopeless, until};

/// The port of the agent's health endpoint.
pub(crate) const HEALTH_PORT: u16 = 15021;

/// What the agent is told about its pod.
#[derive(Debug)]
pub(crate) struct Identity<'a> {
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) annotations: &'a BTreeMap<String, String>,
    pub(crate) kind: PodKind,
    /// The name of the workload, usually the Deployment's.
    pub(crate) workload: &'a str,
    /// Fields of ProxyConfig over the usual ones.
    pub(crate) proxy_config: &'a Value,
    /// Environment over the usual one, such as a gateway container's own.
    pub(crate) env: &'a [(String, String)],
}

/// Starts the agent; it gets its certificate and starts Envoy by itself.
pub(crate) async fn start(core: &Core, pod: &PodRecord, identity: &Identity<'_>) -> Result<Process> {
    let kept = pod.folder.join("agent");
    fs::create_dir_all(&kept)?;
    // The agent's sockets lie in this folder, and the path of a socket has at most 107 bytes.
    let folder = pod.netns().short_path(&kept)?;
    write_files(core, pod, identity, &folder).await?;
    let role = if identity.kind == PodKind::Router {
        "router"
    } else {
        "sidecar"
    };
    let mut program = Program::new(
        format!("{}.proxy", pod.log_name()),
        core.tools.program("pilot-agent"),
        &folder,
    )
    .args([
        "proxy",
        role,
        "--proxyLogLevel=warning",
        "--log_output_level=default:info",
        "--domain",
    ])
    .args([format!("{}.svc.cluster.local", pod.namespace)])
    .run_as(PROXY_USER);
    let workload = identity.workload;
    let owner = format!(
        "kubernetes://apis/apps/v1/namespaces/{}/deployments/{workload}",
        pod.namespace
    );
    let proxy_config = proxy_config(core, &folder, identity)?;
    for (name, value) in [
        ("PROXY_CONFIG", proxy_config.as_str()),
        ("POD_NAME", &pod.name),
        ("POD_NAMESPACE", &pod.namespace),
        ("INSTANCE_IP", &pod.ip),
        ("SERVICE_ACCOUNT", &pod.service_account),
        ("HOST_IP", core.families.node_ip()),
        ("CA_ADDR", &istiod(identity)),
        ("TRUST_DOMAIN", "cluster.local"),
        ("PILOT_CERT_PROVIDER", "istiod"),
        ("JWT_POLICY", "third-party-jwt"),
        ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
        ("ISTIO_META_MESH_ID", "cluster.local"),
        ("ISTIO_META_NODE_NAME", NODE_NAME),
        ("ISTIO_META_INTERCEPTION_MODE", interception(identity.annotations)),
        ("ISTIO_META_APP_CONTAINERS", "app"),
        ("ISTIO_META_WORKLOAD_NAME", workload),
        ("ISTIO_META_OWNER", &owner),
        (
            "ISTIO_DUAL_STACK",
            if core.families == Families::Both {
                "true"
            } else {
                "false"
            },
        ),
        ("GOMEMLIMIT", "200MiB"),
    ] {
        program = program.env(name, value);
    }
    for (name, value) in identity.env {
        program = program.env(name, value);
    }
    program.start(&pod.netns(), &core.logs())
}

async fn write_files(core: &Core, pod: &PodRecord, identity: &Identity<'_>, folder: &Path) -> Result<()> {
    let root_certificate =
        core.objects
            .config_map_value(ISTIO_NAMESPACE, "istio-ca-root-cert", "root-cert.pem");
    let token = core
        .objects
        .token(&pod.namespace, &pod.service_account, Some("istio-ca"));
    let (root_certificate, token) = tokio::try_join!(root_certificate, token)?;
    let files = [
        ("var/run/secrets/tokens/istio-token", token),
        ("var/run/secrets/istio/root-cert.pem", root_certificate),
        ("etc/istio/pod/labels", downward(identity.labels)?),
        ("etc/istio/pod/annotations", downward(identity.annotations)?),
    ];
    for made in ["etc/istio/proxy", "var/lib/istio/data"] {
        fs::create_dir_all(folder.join(made))?;
    }
    for (path, text) in files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text)?;
    }
    give_to_proxy_user(folder)
}

/// The downward API's file format.
fn downward(map: &BTreeMap<String, String>) -> Result<String> {
    let mut text = String::new();
    for (name, value) in map {
        let _ = writeln!(text, "{name}={}", serde_json::to_string(value)?);
    }
    Ok(text)
}

fn give_to_proxy_user(path: &Path) -> Result<()> {
    let user = PROXY_USER.parse().ok();
    chown(path, user, user)?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give_to_proxy_user(&entry?.path())?;
        }
    }
    Ok(())
}

/// The istiod of the pod's revision.
fn istiod(identity: &Identity<'_>) -> String {
    let revision = identity
        .annotations
        .get(REVISION)
        .map_or("default", String::as_str);
    format!("{}:15012", host(revision))
}

fn proxy_config(core: &Core, folder: &Path, identity: &Identity<'_>) -> Result<String> {
    let mut config = json!({
        "discoveryAddress": istiod(identity),
        "binaryPath": core.tools.program("envoy"),
        "configPath": folder.join("etc/istio/proxy"),
        "proxyBootstrapTemplatePath": core.tools.envoy_bootstrap(),
        "concurrency": 2,
        "tracing": {},
    });
    if let Some(annotation) = identity.annotations.get("proxy.istio.io/config") {
        for document in objects::documents(annotation)? {
            merge(&mut config, document);
        }
    }
    if !identity.proxy_config.is_null() {
        merge(&mut config, identity.proxy_config.clone());
    }
    Ok(config.to_string())
}

/// Waits until the agent says that Envoy has its first configuration.
pub(crate) async fn wait_ready(core: &Core, pod: &PodRecord, process: &Process) -> Result<()> {
    until(
        format!("the proxy of {} is ready", pod.full_name()),
        wait::LONG,
        || async {
            process.still_runs().map_err(Hopeless)?;
            is_ready(core, pod).await
        },
    )
    .await
}

/// One look at the agent's health endpoint.
pub(crate) async fn is_ready(core: &Core, pod: &PodRecord) -> Result<()> {
    let address = SocketAddr::new(core.families.loopback(), HEALTH_PORT);
    let socket = core.sockets(&pod.netns())?.tcp_to(address).await?;
    let page = admin::get_over(socket, address, "/healthz/ready").await?;
    if page.status == 200 {
        Ok(())
    } else {
        bail!("its health endpoint answers {}", page.status)
    }
}
