//! Services for pods.

use anyhow::Result;
use serde_json::{Value, json};

use super::spec::{PodSpec, Protocol};
use crate::mesh::Mesh;

/// A Service to add: `ServiceSpec::new("books/reviews").port(Protocol::Http, 8080)`.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    namespace: String,
    name: String,
    app: Option<String>,
    cluster_ip: Option<String>,
    dual_stack: bool,
    ports: Vec<Value>,
}

impl ServiceSpec {
    /// Named `namespace/name`; it selects pods with the name as their label `app`.
    pub fn new(name: &str) -> Self {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            app: Some(name.to_owned()),
            cluster_ip: None,
            dual_stack: false,
            ports: Vec::new(),
        }
    }

    /// A Service with a port for each server of a pod, that selects the pod's app.
    pub fn of(pod: &PodSpec) -> Self {
        let mut service = Self::new(&format!("{}/{}", pod.namespace, pod.app));
        for server in &pod.servers {
            service = service.port(server.protocol, server.port);
        }
        service
    }

    /// Selects pods by another label `app`.
    #[must_use]
    pub fn selects(mut self, app: &str) -> Self {
        self.app = Some(app.to_owned());
        self
    }

    /// Selects nothing; its endpoints are somebody else's.
    #[must_use]
    pub fn without_selector(mut self) -> Self {
        self.app = None;
        self
    }

    /// Has no address of its own.
    #[must_use]
    pub fn headless(self) -> Self {
        self.cluster_ip("None")
    }

    /// Asks for this address. Kubernetes gives the first 256 of its range only to those that ask.
    #[must_use]
    pub fn cluster_ip(mut self, ip: &str) -> Self {
        self.cluster_ip = Some(ip.to_owned());
        self
    }

    /// Has an address of IPv6 too.
    #[must_use]
    pub fn dual_stack(mut self) -> Self {
        self.dual_stack = true;
        self
    }

    /// Adds a port, named after its protocol.
    #[must_use]
    pub fn port(self, protocol: Protocol, port: u16) -> Self {
        self.named_port(&format!("{}-{port}", protocol.port_prefix()), port, port)
    }

    /// Adds a port with its own name and target port.
    #[must_use]
    pub fn named_port(mut self, name: &str, port: u16, target: u16) -> Self {
        self.ports
            .push(json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"}));
        self
    }
}

impl Mesh {
    /// Adds or changes a Service.
    pub async fn add_service(&self, service: &ServiceSpec) -> Result<()> {
        let core = self.core();
        core.objects.namespace(&service.namespace).await?;
        let mut spec = json!({"ports": service.ports});
        if let Some(app) = &service.app {
            spec["selector"] = json!({"app": app});
        }
        if let Some(ip) = &service.cluster_ip {
            spec["clusterIP"] = json!(ip);
        }
        if service.dual_stack {
            spec["ipFamilyPolicy"] = json!("RequireDualStack");
        }
        let metadata = json!({"name": service.name, "namespace": service.namespace});
        self.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}))
            .await
    }

    /// Adds a pod and the Service of its app, and waits until the Service's address leads to it.
    pub async fn add_app(&self, pod: PodSpec) -> Result<()> {
        let service = ServiceSpec::of(&pod);
        let (full_name, ready) = (format!("{}/{}", service.namespace, service.name), pod.ready);
        self.add_service(&service).await?;
        self.add_pod(pod).await?;
        if ready {
            self.wait_endpoint(&full_name).await?;
        }
        Ok(())
    }
}
