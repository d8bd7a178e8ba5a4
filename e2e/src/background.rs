//! The rest of a big mesh: Services that no one calls, with endpoints that do not exist, made quickly.

use anyhow::{Result, ensure};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::addresses::NODE_NAME;
use crate::mesh::Mesh;
use crate::mesh::core::Core;
use crate::objects::ignore_status;
use crate::service_vips::BACKGROUND_LABEL;

/// So many calls to the API server at once; more make it no faster.
const AT_ONCE: usize = 32;
const SERVICES_PER_NAMESPACE: usize = 100;

/// Services that no one calls.
#[derive(Clone, Debug)]
pub struct Background {
    /// Their namespaces are called `<prefix>-0`, `<prefix>-1` …, with up to a hundred Services each.
    pub prefix: String,
    /// How many Services.
    pub services: usize,
    /// How many endpoints each has.
    pub endpoints: usize,
    /// Every so manieth speaks TCP, the others what `ports` say; 0 = none.
    pub tcp_every: usize,
    /// Names and numbers of the ports.
    pub ports: Vec<(String, u16)>,
    /// Namespaces that see them, separated by commas; empty: all.
    pub export_to: String,
}

impl Background {
    /// HTTP Services with five endpoints each.
    pub fn new(prefix: &str, services: usize) -> Self {
        Self {
            prefix: prefix.to_owned(),
            services,
            endpoints: 5,
            tcp_every: 0,
            ports: vec![("http".to_owned(), 8080)],
            export_to: String::new(),
        }
    }

    fn namespace(&self, index: usize) -> String {
        format!("{}-{}", self.prefix, index / SERVICES_PER_NAMESPACE)
    }
}

impl Mesh {
    /// Makes them, and gives their names (`namespace/name`). istiod learns of them as it does of any Service.
    pub async fn background_services(&self, what: &Background) -> Result<Vec<String>> {
        ensure!(
            what.services * what.endpoints.max(1) < 1 << 20,
            "so many endpoints have no addresses"
        );
        let core = self.core();
        for first in (0..what.services).step_by(SERVICES_PER_NAMESPACE) {
            let namespace = what.namespace(first);
            core.objects.namespace(&namespace).await?;
            // The API server refuses pods of a service account that is not there yet.
            core.objects.service_account(&namespace, "default").await?;
        }
        stream::iter((0..what.services).map(|index| make(core, what, index)))
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }
}

async fn make(core: &Core, what: &Background, index: usize) -> Result<String> {
    let (namespace, name) = (what.namespace(index), format!("service-{index}"));
    let is_tcp = what.tcp_every > 0 && index.is_multiple_of(what.tcp_every);
    let tcp = [("tcp".to_owned(), 9000)];
    let ports = if is_tcp { &tcp[..] } else { &what.ports };
    let mut metadata = json!({"name": name, "namespace": namespace, "labels": {BACKGROUND_LABEL: "true"}});
    if !what.export_to.is_empty() {
        metadata["annotations"] = json!({"networking.istio.io/exportTo": what.export_to});
    }
    let service_ports: Vec<Value> = ports
        .iter()
        .map(|(name, port)| json!({"name": name, "port": port, "targetPort": port}))
        .collect();
    let service: Service =
        serde_json::from_value(json!({"metadata": metadata, "spec": {"ports": service_ports}}))?;
    // istiod leaves out an endpoint without its pod; one Pod object serves all endpoints of a Service.
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name, "security.istio.io/tlsMode": "istio"}},
        "spec": {"nodeName": NODE_NAME, "automountServiceAccountToken": false,
            "containers": [{"name": "app", "image": "none"}]},
    }))?;
    let endpoints_at: Vec<String> = (0..what.endpoints)
        .map(|endpoint| address(index * what.endpoints + endpoint))
        .collect();
    let endpoints: Vec<Value> = endpoints_at
        .iter()
        .map(|address| {
            json!({"addresses": [address], "conditions": {"ready": true},
                "nodeName": NODE_NAME, "targetRef": {"kind": "Pod", "name": name, "namespace": namespace}})
        })
        .collect();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": ports.iter().map(|(name, port)| json!({"name": name, "port": port, "protocol": "TCP"})).collect::<Vec<_>>(),
    }))?;
    let how = PostParams::default();
    let client = || core.client.clone();
    let (pods, services, slices) = (
        Api::<Pod>::namespaced(client(), &namespace),
        Api::<Service>::namespaced(client(), &namespace),
        Api::<EndpointSlice>::namespaced(client(), &namespace),
    );
    ignore_status(pods.create(&how, &pod).await.map(drop), 409)?;
    // istiod may see the endpoints before the pod. It looks at them again when a pod with one of their
    // addresses comes.
    if let Some(ip) = endpoints_at.first() {
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
            .await?;
    }
    ignore_status(slices.create(&how, &slice).await.map(drop), 409)?;
    ignore_status(services.create(&how, &service).await.map(drop), 409)?;
    Ok(format!("{namespace}/{name}"))
}

/// Addresses 10.64.0.0 to 10.79.255.255: neither pods nor Services nor hosts outside have such.
pub(crate) fn address(number: usize) -> String {
    format!(
        "10.{}.{}.{}",
        64 + (number >> 16),
        (number >> 8) & 255,
        number & 255
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_distinct_and_in_their_range() {
        assert_eq!(address(0), "10.64.0.0");
        assert_eq!(address(65_536 + 257), "10.65.1.1");
        assert_eq!(address((1 << 20) - 1), "10.79.255.255");
    }
}
