//! The objects of a large mesh, made by plain requests.
//!
//! Nothing but the API server runs, so what controllers would write is written here: service accounts,
//! endpoint slices, the pods' statuses, and of the chart the fallback gateway's Service with a ready
//! endpoint.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use super::requests::{create, delete, for_each, merge};
use super::{Size, fences, pods};
use crate::addresses::{ISTIO_NAMESPACE, NODE_NAME};
use crate::background::address;
use crate::install::SYSTEM;
use crate::mesh::Mesh;
use crate::scale::names::{namespace, service};
use crate::tools::repository;
use crate::wait::{SHORT, until};

const CORE: &str = "/api/v1";
const DISCOVERY: &str = "/apis/discovery.k8s.io/v1";
const FENCES: &str = "/apis/servicefence.io/v1alpha1";

/// The controller's own objects.
pub(super) const OURS: &str = "app.kubernetes.io/managed-by=servicefence";

pub(super) fn sidecar_resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("networking.istio.io", "v1", "Sidecar");
    ApiResource::from_gvk_with_plural(&kind, "sidecars")
}

fn collection(api: &str, namespace: &str, kind: &str) -> String {
    format!("{api}/namespaces/{namespace}/{kind}")
}

/// The mesh that is made.
#[derive(Clone)]
pub(super) struct Cluster {
    client: Client,
    size: Size,
}

impl Cluster {
    pub(super) fn new(client: Client, size: Size) -> Self {
        Self { client, size }
    }

    /// Makes everything.
    pub(super) async fn fill(&self, mesh: &Mesh) -> Result<()> {
        self.install_crd(mesh).await?;
        let namespaces = (0..self.size.namespaces).map(namespace);
        let namespaces = namespaces.chain([SYSTEM.to_owned(), ISTIO_NAMESPACE.to_owned()]);
        for_each(namespaces, |name| self.clone().make_namespace(name)).await?;
        self.make_system().await?;
        for_each(0..self.size.all_services(), |number| {
            self.clone().make_service(number)
        })
        .await?;
        for_each(0..self.size.all_pods(), |number| self.clone().make_pod(number)).await?;
        for_each(0..self.size.fences(), |number| self.clone().make_fence(number)).await?;
        self.read_istio_kinds().await
    }

    /// Reads each of Istio's kinds once. The API server takes a second for the first request to a kind. In a
    /// mesh, istiod makes that request long before.
    async fn read_istio_kinds(&self) -> Result<()> {
        for group in self.client.list_api_groups().await?.groups {
            let Some(version) = group
                .preferred_version
                .filter(|_| group.name.ends_with("istio.io"))
            else {
                continue;
            };
            let kinds = self
                .client
                .list_api_group_resources(&version.group_version)
                .await?;
            for kind in kinds.resources.iter().filter(|kind| !kind.name.contains('/')) {
                let path = format!("/apis/{}/{}?limit=1", version.group_version, kind.name);
                self.client
                    .request::<Value>(http::Request::get(path).body(Vec::new())?)
                    .await?;
            }
        }
        Ok(())
    }

    async fn install_crd(&self, mesh: &Mesh) -> Result<()> {
        let file = repository().join("crd/servicefence.yaml");
        let crd =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        mesh.apply_yaml(&crd).await?;
        until("the ServiceFence API is served", SHORT, async || {
            let request = http::Request::get(format!("{FENCES}/servicefences")).body(Vec::new())?;
            self.client.request::<Value>(request).await?;
            Ok(())
        })
        .await
    }

    async fn make_namespace(self, name: String) -> Result<()> {
        let object = json!({"metadata": {"name": name}});
        create(&self.client, &format!("{CORE}/namespaces"), &object).await?;
        // The API server refuses pods of a service account that is not there.
        let account = json!({"metadata": {"name": "default"}});
        create(
            &self.client,
            &collection(CORE, &name, "serviceaccounts"),
            &account,
        )
        .await
    }

    /// What the chart and Istio bring and the controller looks at.
    async fn make_system(&self) -> Result<()> {
        let config =
            json!({"metadata": {"name": "istio"}, "data": {"mesh": "rootNamespace: istio-system\n"}});
        create(
            &self.client,
            &collection(CORE, ISTIO_NAMESPACE, "configmaps"),
            &config,
        )
        .await?;
        let ports = [("fallback", 15080), ("http2-tunnel", 15081)];
        let ports = ports.map(|(name, port)| json!({"name": name, "port": port}));
        let name = "servicefence-fallback";
        let service = json!({"metadata": {"name": name}, "spec": {"ports": ports}});
        create(&self.client, &collection(CORE, SYSTEM, "services"), &service).await?;
        let endpoint = json!({"addresses": ["10.63.0.1"], "conditions": {"ready": true}});
        self.make_slice(SYSTEM, name, &json!(ports), &[endpoint]).await
    }

    async fn make_service(self, number: usize) -> Result<()> {
        let size = &self.size;
        let (namespace, name) = (namespace(number / size.services), service(number % size.services));
        self.make_plain_service(&namespace, &name).await?;
        let endpoints = (0..size.pods).map(|pod| {
            json!({
                "addresses": [address(number * size.pods + pod)], "nodeName": NODE_NAME,
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "name": pod_name(&name, pod), "namespace": namespace},
            })
        });
        let endpoints: Vec<_> = endpoints.collect();
        let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
        self.make_slice(&namespace, &name, &ports, &endpoints).await
    }

    async fn make_plain_service(&self, namespace: &str, name: &str) -> Result<()> {
        let object = json!({
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 8080}]},
        });
        create(&self.client, &collection(CORE, namespace, "services"), &object).await
    }

    async fn make_slice(
        &self,
        namespace: &str,
        service: &str,
        ports: &Value,
        endpoints: &[Value],
    ) -> Result<()> {
        let object = json!({
            "metadata": {"name": format!("{service}-x7k2p"), "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            }},
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
        });
        create(
            &self.client,
            &collection(DISCOVERY, namespace, "endpointslices"),
            &object,
        )
        .await
    }

    async fn make_pod(self, number: usize) -> Result<()> {
        let (of_service, pod) = (number / self.size.pods, number % self.size.pods);
        let namespace = namespace(of_service / self.size.services);
        let service = service(of_service % self.size.services);
        let name = pod_name(&service, pod);
        let pods = collection(CORE, &namespace, "pods");
        create(&self.client, &pods, &pods::pod(&namespace, &service, &name)).await?;
        let status = pods::status(&address(number));
        merge(&self.client, &format!("{pods}/{name}/status"), &status).await
    }

    async fn make_fence(self, number: usize) -> Result<()> {
        let size = &self.size;
        let (namespace, name) = (namespace(number / size.services), service(number % size.services));
        let all = collection(FENCES, &namespace, "servicefences");
        create(&self.client, &all, &fences::fence(&name)).await?;
        // As the controller itself names the owner of the field.
        let path = format!("{all}/{name}/status?fieldManager=servicefence-learning");
        merge(&self.client, &path, &fences::status(size, number, second())).await
    }

    /// One more Service, anywhere, that no one calls.
    pub(super) fn new_service(&self, number: usize) -> impl Future<Output = Result<()>> + Send + 'static {
        let this = self.clone();
        async move {
            let namespace = namespace(number * 7 % this.size.namespaces);
            this.make_plain_service(&namespace, &format!("new-{number}"))
                .await
        }
    }

    /// One more pod of a Service with a fence.
    pub(super) fn new_pod(&self, number: usize) -> impl Future<Output = Result<()>> + Send + 'static {
        let this = self.clone();
        async move {
            let fence = number * 7 % this.size.fences();
            let namespace = namespace(fence / this.size.services);
            let service = service(fence % this.size.services);
            let pod = pods::pod(&namespace, &service, &format!("{service}-new-{number}"));
            create(&this.client, &collection(CORE, &namespace, "pods"), &pod).await
        }
    }

    /// One more namespace with a Service, and both go again.
    pub(super) fn passing_namespace(
        &self,
        number: usize,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let this = self.clone();
        async move {
            let name = format!("passing-{number}");
            this.clone().make_namespace(name.clone()).await?;
            this.make_plain_service(&name, "app").await?;
            let endpoint = json!({"addresses": [address(number)], "conditions": {"ready": true}});
            let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
            this.make_slice(&name, "app", &ports, &[endpoint]).await?;
            for path in [
                format!("{}/app-x7k2p", collection(DISCOVERY, &name, "endpointslices")),
                format!("{}/app", collection(CORE, &name, "services")),
                format!("{CORE}/namespaces/{name}"),
            ] {
                delete(&this.client, &path).await?;
            }
            Ok(())
        }
    }

    /// The controller's Sidecars.
    pub(super) async fn sidecars(&self) -> Result<Vec<DynamicObject>> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &sidecar_resource());
        Ok(api.list(&ListParams::default().labels(OURS)).await?.items)
    }
}

fn pod_name(service: &str, number: usize) -> String {
    format!("{service}-5d8f6c9b7c-{number:05}")
}

/// Now, as the API has it: without fractions of a second.
fn second() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}
