//! The real mesh on which worlds are played: the pool's pods, the two callers, and the judge's istiod.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::pool::{self, CALLER, DESTINATIONS, Destination, EXTERNAL, HOME, JUDGE, NAMESPACES};
use super::world::{Change, World};
use crate::control_plane::revision::IstiodSpec;
use crate::install::Build;
use crate::mesh::Mesh;
use crate::mesh::options::MeshOptions;
use crate::wait::{LONG, until};

const REVISION: &str = "judge";
/// The namespace with destinations that are fenced themselves.
const FENCED: &str = "bank";
/// What ServiceFence writes for proxies, as CRDs.
const FENCING: [&str; 3] = [
    "sidecars.networking.istio.io",
    "envoyfilters.networking.istio.io",
    "telemetries.telemetry.istio.io",
];

/// A mesh with the pool, on which one world is played after the other.
pub struct Stage {
    /// The mesh.
    pub(super) mesh: Mesh,
    there: Vec<Value>,
    relabelled: bool,
    barrier: u64,
    addresses: BTreeMap<String, String>,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stage on {:?}", self.mesh)
    }
}

impl Stage {
    /// Starts it; about a minute.
    pub async fn start() -> Result<Self> {
        let mesh = Mesh::up(MeshOptions {
            verbose: true,
            ..MeshOptions::default()
        })
        .await?;
        mesh.install(Build::Debug, &[]).await?;
        // Two that give ServiceEntries addresses get in each other's way, and one of them panics
        // (`resolveConflict`). Only proxies that capture DNS use these.
        let judge = IstiodSpec::new(REVISION)
            .ignores(&FENCING)
            .env("PILOT_ENABLE_IP_AUTOALLOCATE", "false");
        mesh.add_istiod(&judge).await?;
        pool::create(&mesh, REVISION).await?;
        let mut stage = Self {
            mesh,
            there: Vec::new(),
            relabelled: false,
            barrier: 0,
            addresses: BTreeMap::new(),
        };
        stage.enforce().await?;
        stage.take_addresses().await?;
        stage.barrier().await?;
        Ok(stage)
    }

    /// Fences the caller. The markers of the barrier are in its scope.
    async fn enforce(&self) -> Result<()> {
        let mesh = &self.mesh;
        for namespace in NAMESPACES {
            let ports = [json!({"name": "http", "port": 8099, "targetPort": 8099})];
            mesh.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "marker", "namespace": namespace},
                "spec": {"selector": {"app": "marker"}, "ports": ports}}))
                .await?;
        }
        self.write_fence(&json!({})).await?;
        mesh.enforce(FENCED, &[]).await?;
        mesh.enforce(HOME, &["caller"]).await
    }

    async fn write_fence(&self, more: &Value) -> Result<()> {
        let mut spec = more.clone();
        let hosts =
            NAMESPACES.map(|namespace| json!({"host": format!("marker.{namespace}.svc.cluster.local")}));
        spec["allow"] = json!(hosts);
        self.mesh
            .apply(
                &json!({"apiVersion": "servicefence.io/v1alpha1", "kind": "ServiceFence",
                "metadata": {"name": "caller", "namespace": HOME}, "spec": spec}),
            )
            .await
    }

    /// Takes a world in. What the API server refuses is left out, and told.
    pub(super) async fn set(&mut self, world: &World) -> Result<Vec<String>> {
        self.clear().await?;
        self.write_fence(&world.fence).await?;
        self.mesh
            .wait_condition(HOME, "caller", "Enforced", "True")
            .await?;
        let mut refused = Vec::new();
        for object in &world.objects {
            if let Some(why) = self.apply(object).await? {
                refused.push(why);
            }
        }
        self.settle().await?;
        Ok(refused)
    }

    /// Removes the world that is there, and what the fence learned of it.
    pub(super) async fn clear(&mut self) -> Result<()> {
        for object in std::mem::take(&mut self.there) {
            self.mesh.delete(&object).await?;
        }
        if std::mem::take(&mut self.relabelled) {
            for pod in DESTINATIONS {
                self.relabel(&pod.full_name(), pod.version).await?;
            }
        }
        self.forget().await?;
        self.settle().await?;
        self.mesh.wait_at_rest(HOME).await
    }

    /// Makes the fence as new.
    async fn forget(&self) -> Result<()> {
        until("the fence has forgotten", LONG, async || {
            let fence = self.mesh.fence(HOME, "caller").await?;
            let learned = fence["status"]["learned"].as_array().map_or(0, Vec::len);
            if learned > 0 {
                self.mesh
                    .kubectl(&[
                        "-n",
                        HOME,
                        "patch",
                        "servicefence",
                        "caller",
                        "--subresource=status",
                        "--type=merge",
                        "-p",
                        r#"{"status":{"learned":null}}"#,
                    ])
                    .await?;
            }
            ensure!(learned == 0, "it knows {learned} hosts");
            Ok(())
        })
        .await
    }

    /// Makes a change; tells why if the API server refuses it.
    pub(super) async fn change(&mut self, change: &Change) -> Result<Option<String>> {
        let refused = match change {
            Change::Apply(object) => self.apply(object).await?,
            Change::Delete(object) => {
                self.mesh.delete(&self.filled(object)?).await?;
                None
            }
            Change::Replace(object) => {
                self.mesh.delete(&self.filled(object)?).await?;
                self.apply(object).await?
            }
            Change::Relabel { pod, version } => {
                self.relabelled = true;
                self.relabel(pod, version).await?;
                None
            }
        };
        self.settle().await?;
        Ok(refused)
    }

    async fn relabel(&self, pod: &str, version: &str) -> Result<()> {
        let (namespace, name) = pod.split_once('/').context("namespace/name")?;
        let api: Api<Pod> = Api::namespaced(self.mesh.client(), namespace);
        let patch = json!({"metadata": {"labels": {"version": version}}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    /// The reason if it was refused.
    async fn apply(&mut self, object: &Value) -> Result<Option<String>> {
        let object = self.filled(object)?;
        match self.mesh.apply(&object).await {
            Ok(()) => {
                self.there.push(object);
                Ok(None)
            }
            Err(error) => match error.downcast_ref::<kube::Error>() {
                Some(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
                    Ok(Some(format!("{error:#}")))
                }
                _ => Err(error),
            },
        }
    }

    /// With addresses for what stands for them.
    fn filled(&self, object: &Value) -> Result<Value> {
        Ok(serde_json::from_str(&self.fill(&object.to_string()))?)
    }

    /// With addresses for what stands for them.
    pub(super) fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, address) in &self.addresses {
            text = text.replace(name, address);
        }
        text
    }

    /// Waits until everybody knows everything that was written.
    async fn settle(&mut self) -> Result<()> {
        self.mesh.wait_services().await?;
        self.take_addresses().await?;
        // Once for what was written, and once for what the controller has written then.
        self.barrier().await?;
        self.mesh.wait_at_rest(HOME).await?;
        self.barrier().await?;
        self.drained().await
    }

    async fn take_addresses(&mut self) -> Result<()> {
        self.addresses.clear();
        for pod in self.mesh.pods() {
            let name = if pod.name == EXTERNAL {
                "{external}".to_owned()
            } else {
                format!("{{pod {}}}", pod.full_name())
            };
            self.addresses.insert(name, pod.ip);
        }
        let services = Api::<Service>::all(self.mesh.client())
            .list(&ListParams::default())
            .await?;
        for service in services {
            let ip = service
                .spec
                .and_then(|spec| spec.cluster_ip)
                .filter(|ip| ip != "None");
            let metadata = service.metadata;
            if let (Some(namespace), Some(name), Some(ip)) = (metadata.namespace, metadata.name, ip) {
                self.addresses
                    .insert(format!("{{service {namespace}/{name}}}"), ip);
            }
        }
        Ok(())
    }

    /// Writes a marker in each namespace and waits until it has come to both callers, to the destinations
    /// that know the whole mesh and, by the controller, to the gateway. What was written before has come
    /// too.
    async fn barrier(&mut self) -> Result<()> {
        self.barrier += 1;
        let mark = |namespace: &str| format!("/barrier-{}-{namespace}", self.barrier);
        for namespace in NAMESPACES {
            let host = format!("marker.{namespace}.svc.cluster.local");
            let http = [
                json!({"match": [{"uri": {"exact": mark(namespace)}}], "route": [{"destination": {"host": host}}]}),
            ];
            self.mesh
                .apply(&json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
                    "metadata": {"name": "marker", "namespace": namespace}, "spec": {"hosts": [host], "http": http}}))
                .await?;
        }
        let marks = NAMESPACES.map(|namespace| format!("\"{}\"", mark(namespace)));
        let gateways = self.mesh.gateway_pods().map(|pod| pod.full_name());
        let unscoped = DESTINATIONS
            .into_iter()
            .filter(|one| one.proxied && ![FENCED, HOME].contains(&one.namespace));
        let destinations = unscoped.map(Destination::full_name);
        let pods: Vec<String> = gateways
            .chain(destinations)
            .chain([CALLER, JUDGE].map(str::to_owned))
            .collect();
        try_join_all(pods.iter().map(|pod| self.have_come(pod, &marks))).await?;
        Ok(())
    }

    /// Waits until no destination drains what it had for a Service that has changed. Whoever has a connection
    /// from before is answered by that, with 503 where its cluster is gone.
    async fn drained(&self) -> Result<()> {
        let proxied = DESTINATIONS.into_iter().filter(|one| one.proxied);
        try_join_all(proxied.map(async |one| {
            let proxy = self.mesh.proxy(&one.full_name())?;
            until(format!("{} drains nothing", one.full_name()), LONG, async || {
                let text = proxy
                    .get("/stats?filter=listener_manager.total_.*_draining")
                    .await?
                    .text();
                ensure!(text.lines().all(|line| line.ends_with(": 0")), "{text}");
                Ok(())
            })
            .await
        }))
        .await?;
        Ok(())
    }

    async fn have_come(&self, pod: &str, marks: &[String]) -> Result<()> {
        let proxy = self.mesh.proxy(pod)?;
        until(format!("marks at {pod}"), LONG, async || {
            let text = proxy
                .get("/config_dump?resource=dynamic_route_configs")
                .await?
                .text();
            let missing: Vec<_> = marks.iter().filter(|mark| !text.contains(*mark)).collect();
            ensure!(missing.is_empty(), "{missing:?} have not come");
            Ok(())
        })
        .await
    }
}
