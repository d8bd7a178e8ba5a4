//! From a miss to what a fence learns.
//!
//! Flows in: a miss, as the access log tells it. Flows out: an [`Observation`] where it is news,
//! and the fence's learned list with it. Invariant: a miss teaches only Services of the mesh, found by
//! the address that was dialled; no name that a caller sends enters a scope.

use servicefence_crd::Source;

use crate::facts::{ServiceFacts, ServiceKind};
use crate::learn::Learning;
use crate::learn::miss::Miss;
use crate::learn::observation::{Observation, Unattributed};
use crate::name::{PodKey, ServiceKey};
use crate::workloads::Fence;

/// What a miss means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribution {
    /// Something to remember: one Service, or all that share the pod that was called.
    New(Vec<Observation>),
    /// It is remembered already.
    Known,
    /// It belongs to no fence or no Service.
    Unattributed(Unattributed),
}

impl<'a> Learning<'a> {
    /// Finds the caller's fence and the destination of a miss.
    pub fn attribute(self, miss: &Miss<'_>) -> Attribution {
        let pod = PodKey::new(miss.namespace, miss.pod);
        let caller = self.fenced.fence_of_pod(&pod);
        let called = self.called(miss, caller);
        if called.is_empty() {
            return Attribution::Unattributed(Unattributed::NotMesh);
        }
        if !self.fenced.workloads.pods.contains_key(&pod) {
            return Attribution::Unattributed(Unattributed::UnknownPod);
        }
        let Some(fence) = caller else {
            return Attribution::Unattributed(Unattributed::NotFenced);
        };
        if !fence.resource.spec.learns_from(Source::AccessLog) {
            return Attribution::Unattributed(Unattributed::SourceOff);
        }
        let mut new = Vec::new();
        let mut otherwise = Attribution::Known;
        for service in called {
            match self.is_news(fence, service) {
                Ok(true) => new.push(Observation {
                    fence: fence.key.clone(),
                    host: service.scope_host(),
                    source: Source::AccessLog,
                }),
                Ok(false) => {}
                Err(why) => otherwise = Attribution::Unattributed(why),
            }
        }
        if new.is_empty() {
            otherwise
        } else {
            Attribution::New(new)
        }
    }

    /// The Services that a miss may be to, of those that the caller sees: the one with that address, or those
    /// with that pod. Which of these was called, only the caller tells. Headless ones that are in its scope
    /// were not missed.
    fn called(self, miss: &Miss<'_>, caller: Option<&Fence>) -> Vec<&'a ServiceKey> {
        let visible = |service: &ServiceKey| {
            let facts = self.mesh.services.get(service);
            facts.filter(|facts| facts.visibility.to(miss.namespace))
        };
        let at = self.mesh.service_at(miss.destination);
        let at = at.filter(|service| visible(service).is_some());
        let by_pod = self.mesh.by_pod_at(miss.destination).into_iter();
        let by_pod = by_pod.filter(|service| {
            let learned = |facts: &ServiceFacts| {
                facts.kind != ServiceKind::Headless
                    || caller
                        .is_some_and(|fence| self.scoping.keeps_headless(fence, service, facts).is_none())
            };
            visible(service).is_some_and(learned)
        });
        at.into_iter().chain(by_pod).collect()
    }

    /// Whether a call to a Service is worth a write, or why it teaches nothing.
    fn is_news(self, fence: &Fence, service: &ServiceKey) -> Result<bool, Unattributed> {
        let host = service.host();
        if fence.owner_rules.denies(&host) {
            return Err(Unattributed::Denied);
        }
        match fence.learned_host(&host) {
            Some(host) => Ok(self.now.duration_since(host.last_seen) >= self.fenced.expiry(fence).lag()),
            None if fence.is_full() => Err(Unattributed::ListFull),
            None => Ok(true),
        }
    }
}
