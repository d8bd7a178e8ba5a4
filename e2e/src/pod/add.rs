//! Adding and removing pods with apps of the harness.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::network::{self, Place};
use super::proxy_agent::{self, Identity};
use super::record::PodRecord;
use super::spec::{PodKind, PodSpec, REVISION, Server};
use crate::addresses::NODE_NAME;
use crate::interception::{intercept, interception};
use crate::mesh::Mesh;
use crate::mesh::core::Core;
use crate::netns::Netns;
use crate::objects::ignore_status;
use crate::process::Program;
use crate::service_vips;
use crate::wait::{self, until};

impl Mesh {
    /// Adds a pod and waits until its proxy is ready, its app listens and its Ready condition is set.
    pub async fn add_pod(&self, spec: PodSpec) -> Result<PodRecord> {
        let name = format!("{}/{}", spec.namespace, spec.name);
        add(self.core(), spec)
            .await
            .with_context(|| format!("cannot add pod {name}"))
    }

    /// Adds several pods at once.
    pub async fn add_pods(&self, specs: Vec<PodSpec>) -> Result<Vec<PodRecord>> {
        try_join_all(specs.into_iter().map(|spec| self.add_pod(spec))).await
    }

    /// What is known of a running pod.
    pub fn pod(&self, name: &str) -> Result<PodRecord> {
        self.core().pod(name)
    }

    /// All running pods.
    pub fn pods(&self) -> Vec<PodRecord> {
        PodRecord::all(&self.core().folder)
    }

    /// Deletes a pod: first its object, so that no call is sent there any more, then what runs in it.
    pub async fn remove_pod(&self, name: &str) -> Result<()> {
        let core = self.core();
        let record = core.pod(name)?;
        let api: Api<Pod> = Api::namespaced(core.client.clone(), &record.namespace);
        ignore_status(
            api.delete(&record.name, &DeleteParams::default().grace_period(0))
                .await
                .map(drop),
            404,
        )?;
        tear_down(core, &record, Duration::from_secs(5)).await
    }

    /// Sets or clears a pod's Ready condition.
    pub async fn set_ready(&self, name: &str, ready: bool) -> Result<()> {
        let record = self.core().pod(name)?;
        write_status(self.core(), &record, ready).await
    }
}

async fn add(core: &Arc<Core>, spec: PodSpec) -> Result<PodRecord> {
    core.objects.namespace(&spec.namespace).await?;
    core.objects
        .service_account(&spec.namespace, &spec.service_account)
        .await?;
    let full_name = format!("{}/{}", spec.namespace, spec.name);
    let record = make_home(
        core,
        &full_name,
        &spec.service_account,
        spec.kind,
        &spec.annotations,
    )?;
    let netns = record.netns();

    let (labels, annotations) = metadata(&spec);
    create_object(core, &spec, &labels, &annotations).await?;
    // istiod must know the pod's address before the proxy asks for its configuration.
    write_status(core, &record, false).await?;
    start_app(core, &record, &spec.servers)?;
    if record.proxied {
        let identity = Identity {
            labels: &labels,
            annotations: &annotations,
            kind: spec.kind,
            workload: &spec.app,
            proxy_config: &spec.proxy_config,
            env: &[],
        };
        let proxy = proxy_agent::start(core, &record, &identity).await?;
        proxy_agent::wait_ready(core, &record, &proxy).await?;
        core.keep(&full_name, proxy);
    }
    for server in &spec.servers {
        wait_listening(core, &netns, server.port).await?;
    }
    if spec.ready {
        write_status(core, &record, true).await?;
    }
    Ok(record)
}

/// A network namespace with an address, interception and the Service addresses in force; and the record of
/// it.
pub(crate) fn make_home(
    core: &Core,
    full_name: &str,
    service_account: &str,
    kind: PodKind,
    annotations: &BTreeMap<String, String>,
) -> Result<PodRecord> {
    let (namespace, name) = full_name
        .split_once('/')
        .context("a pod has a namespace and a name")?;
    let (netns, ip) = network::create(&core.id, &core.folder, Place::Pod, core.families)?;
    let record = PodRecord {
        folder: PodRecord::folder_of(&core.folder, full_name),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ip,
        netns: netns.name().to_owned(),
        proxied: kind != PodKind::Plain,
        service_account: service_account.to_owned(),
        uid: None,
    };
    record.save()?;
    intercept(&netns, kind, annotations)?;
    service_vips::install(&netns, &core.folder, namespace)?;
    Ok(record)
}

/// The labels and annotations that the pod gets, those of injection included.
fn metadata(spec: &PodSpec) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let (mut labels, mut annotations) = (spec.labels.clone(), spec.annotations.clone());
    labels.entry("app".to_owned()).or_insert_with(|| spec.app.clone());
    if spec.kind != PodKind::Plain {
        inject(&mut labels, &mut annotations, spec.kind, &spec.app);
    }
    (labels, annotations)
}

/// Adds what Istio's injection adds to a pod's labels and annotations.
pub(crate) fn inject(
    labels: &mut BTreeMap<String, String>,
    annotations: &mut BTreeMap<String, String>,
    kind: PodKind,
    workload: &str,
) {
    let canonical = labels
        .get("app.kubernetes.io/name")
        .or_else(|| labels.get("app"))
        .cloned();
    let version = labels
        .get("app.kubernetes.io/version")
        .or_else(|| labels.get("version"))
        .cloned();
    for (name, value) in [
        (
            "service.istio.io/canonical-name",
            canonical.unwrap_or_else(|| workload.to_owned()),
        ),
        (
            "service.istio.io/canonical-revision",
            version.unwrap_or_else(|| "latest".to_owned()),
        ),
    ] {
        labels.entry(name.to_owned()).or_insert(value);
    }
    if kind == PodKind::Sidecar {
        // Not on a gateway: what its ports speak is up to its Gateway objects.
        labels
            .entry("security.istio.io/tlsMode".to_owned())
            .or_insert_with(|| "istio".to_owned());
    }
    let asked = labels.get(REVISION).map_or("default", String::as_str);
    annotations
        .entry(REVISION.to_owned())
        .or_insert_with(|| asked.to_owned());
    annotations
        .entry("sidecar.istio.io/status".to_owned())
        .or_insert_with(|| INJECTED.to_owned());
}

/// The annotation that tells an injected pod.
const INJECTED: &str = r#"{"initContainers":null,"containers":["istio-proxy"],"volumes":null,"imagePullSecrets":null,"revision":"default"}"#;

async fn create_object(
    core: &Core,
    spec: &PodSpec,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
) -> Result<()> {
    let ports: Vec<Value> = spec
        .servers
        .iter()
        .map(|server| json!({"containerPort": server.port}))
        .collect();
    let mut containers = Vec::new();
    if spec.kind != PodKind::Router {
        containers.push(json!({"name": "app", "image": "mesh-app", "ports": ports}));
    }
    if spec.kind != PodKind::Plain {
        let mode = json!({"name": "ISTIO_META_INTERCEPTION_MODE", "value": interception(annotations)});
        let role = if spec.kind == PodKind::Router {
            "router"
        } else {
            "sidecar"
        };
        containers.push(
            json!({"name": "istio-proxy", "image": "istio-proxy", "args": ["proxy", role], "env": [mode]}),
        );
    }
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": spec.name, "namespace": spec.namespace, "labels": labels, "annotations": annotations},
        "spec": {"nodeName": NODE_NAME, "serviceAccountName": spec.service_account, "containers": containers,
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0},
    }))?;
    let api: Api<Pod> = Api::namespaced(core.client.clone(), &spec.namespace);
    api.create(&PostParams::default(), &pod).await?;
    Ok(())
}

async fn write_status(core: &Core, record: &PodRecord, ready: bool) -> Result<()> {
    let now = jiff::Timestamp::now();
    let conditions: Vec<Value> = ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
        .iter()
        .map(|kind| {
            let holds = ready || !kind.contains("Ready");
            json!({"type": kind, "status": if holds { "True" } else { "False" }, "lastTransitionTime": now})
        })
        .collect();
    let status = json!({"status": {"phase": "Running", "hostIP": core.families.node_ip(), "podIP": record.ip,
        "podIPs": core.pod_ips(&record.ip), "conditions": conditions, "startTime": now}});
    let api: Api<Pod> = Api::namespaced(core.client.clone(), &record.namespace);
    api.patch_status(&record.name, &PatchParams::default(), &Patch::Merge(status))
        .await?;
    Ok(())
}

/// Starts the harness's own app, which serves every port of the pod.
pub(crate) fn start_app(core: &Core, record: &PodRecord, servers: &[Server]) -> Result<()> {
    if servers.is_empty() {
        return Ok(());
    }
    let mut program = Program::new(
        format!("{}.app", record.log_name()),
        this_program()?,
        &record.folder,
    )
    .args(["app", "--pod", &record.full_name()]);
    for server in servers {
        program = program.args([server.protocol.option().to_owned(), server.port.to_string()]);
    }
    let process = program.start(&record.netns(), &core.logs())?;
    core.keep(&record.full_name(), process);
    Ok(())
}

/// The `mesh` program: this one, or the one that cargo built beside the test that runs.
pub(crate) fn this_program() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    if me.file_name().is_some_and(|name| name == "mesh") {
        return Ok(me);
    }
    me.ancestors()
        .skip(1)
        .take(3)
        .map(|folder| folder.join("mesh"))
        .find(|path| path.is_file())
        .context("there is no program `mesh` beside this one: build it with `cargo build --workspace --bins`")
}

/// Waits until something accepts connections on a port inside a namespace.
pub(crate) async fn wait_listening(core: &Core, netns: &Netns, port: u16) -> Result<()> {
    let sockets = core.sockets(netns)?;
    until(format!("port {port} is served"), wait::SHORT, || async {
        sockets.tcp().await?.connect(crate::admin::loopback(port)).await?;
        Ok(())
    })
    .await
}

/// Ends what runs in a pod and removes its namespace and record.
pub(crate) async fn tear_down(core: &Core, record: &PodRecord, grace: Duration) -> Result<()> {
    for mut process in core.take(&record.full_name()) {
        process.terminate(grace).await?;
    }
    core.forget_sockets(&record.netns());
    record.netns().delete()?;
    // What ends may still write a file.
    until(
        "the pod's folder is gone",
        wait::SHORT,
        async || match std::fs::remove_dir_all(&record.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        },
    )
    .await
}
