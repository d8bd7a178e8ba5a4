//! EndpointSlices: where the pods of Services are.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::facts::metadata::label;
use crate::name::ServiceKey;

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointsFacts {
    /// The Service that has these endpoints.
    pub service: ServiceKey,
    /// How many are ready.
    pub ready: u64,
    /// Whether their addresses are of IPv6.
    pub ipv6: bool,
    /// Their addresses, ready or not, as Kubernetes itself tells them: callers of headless Services dial
    /// them, and clients that balance by themselves.
    pub addresses: Vec<IpAddr>,
}

/// Label of an EndpointSlice: who writes it.
const WRITTEN_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// Kubernetes itself, for the pods that a Service selects.
const KUBERNETES: &str = "endpointslice-controller.k8s.io";

/// Whether an endpoint takes calls; unknown counts as ready.
pub fn is_ready(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions.and_then(|conditions| conditions.ready) != Some(false)
}

impl EndpointsFacts {
    /// Reads an EndpointSlice of `namespace`; `None` where it is of no Service.
    pub fn of(slice: &EndpointSlice, namespace: &str) -> Option<Self> {
        let service = label(&slice.metadata, "kubernetes.io/service-name")?;
        let endpoints = || slice.endpoints.iter().flatten();
        let is_kubernetes = label(&slice.metadata, WRITTEN_BY) == Some(KUBERNETES);
        let addresses = endpoints()
            .filter(|_| is_kubernetes)
            .flat_map(|one| &one.addresses);
        Some(Self {
            service: ServiceKey::new(namespace, service),
            ready: endpoints().filter(|one| is_ready(one)).count() as u64,
            ipv6: slice.address_type == "IPv6",
            addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
        })
    }
}
