//! What a test sees of the world.

use std::sync::Arc;

use serde_json::Value;
use servicefence_crd::{ServiceFence, ServiceFenceStatus};

use crate::name::FenceKey;
use crate::name::ours::WARM;
use crate::render::Kind;
use crate::simulate::world::{SYSTEM, World};

impl World {
    pub(crate) fn fence(&self, namespace: &str, name: &str) -> Option<Arc<ServiceFence>> {
        self.engine
            .fence(&FenceKey::new(namespace, name))
            .map(|fence| fence.resource.clone())
    }

    pub(crate) fn status(&self, namespace: &str, name: &str) -> ServiceFenceStatus {
        self.fence(namespace, name)
            .and_then(|fence| fence.status.clone())
            .unwrap_or_default()
    }

    /// `True Scoped` and the like.
    pub(crate) fn condition(&self, namespace: &str, name: &str, kind: &str) -> String {
        let status = self.status(namespace, name);
        let condition = status.conditions.iter().find(|condition| condition.type_ == kind);
        condition.map_or_else(String::new, |condition| {
            format!("{} {}", condition.status, condition.reason)
        })
    }

    /// Hosts of a fence's Sidecar, without those that ServiceFence itself needs.
    pub(crate) fn scope(&self, namespace: &str, name: &str) -> Option<Vec<String>> {
        let hosts = self.hosts_of(namespace, name, |listener| listener["port"].is_null())?;
        let hosts = hosts.into_iter();
        Some(
            hosts
                .filter(|host| !host.contains(&format!(".{SYSTEM}.")))
                .collect(),
        )
    }

    /// Hosts that a fence's Sidecar keeps warm.
    pub(crate) fn warm(&self, namespace: &str, name: &str) -> Vec<String> {
        let hosts = self.hosts_of(namespace, name, |listener| listener["port"]["name"] == WARM);
        hosts.unwrap_or_default()
    }

    fn hosts_of(&self, namespace: &str, name: &str, of: impl Fn(&&Value) -> bool) -> Option<Vec<String>> {
        let name = format!("servicefence-{name}").into();
        let sidecar = self.objects.get(&(Kind::Sidecar, namespace.into(), name))?;
        let listeners = sidecar["spec"]["egress"].as_array().unwrap();
        let hosts = listeners.iter().filter(of);
        let hosts = hosts.flat_map(|listener| listener["hosts"].as_array().unwrap());
        Some(hosts.map(|host| host.as_str().unwrap().to_owned()).collect())
    }

    pub(crate) fn has(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        self.objects.contains_key(&(kind, namespace.into(), name.into()))
    }
}
