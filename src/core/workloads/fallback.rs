//! Who serves calls to hosts out of scope.
//!
//! The gateway does where the namespace's EnvoyFilter leads the calls there, and that is one object for all
//! proxies of a namespace. So a namespace has one fallback: Passthrough only where no fence of it takes the
//! gateway.

use servicefence_crd::{Fallback, Mode, Source};

use crate::workloads::fence::Fence;
use crate::workloads::fenced::Fenced;

impl<'a> Fenced<'a> {
    /// Who serves the calls of a fence's namespace.
    pub fn fallback(self, namespace: &str) -> Fallback {
        let by_default = self.label_fallback(namespace);
        let mut counting = self
            .workloads
            .fences_in(namespace)
            .filter(|fence| self.has_misses(fence))
            .map(|fence| fence.resource.spec.fallback.unwrap_or(by_default));
        match counting.next() {
            None => by_default,
            Some(Fallback::Passthrough) if counting.all(|asked| asked == Fallback::Passthrough) => {
                Fallback::Passthrough
            }
            Some(_) => Fallback::Gateway,
        }
    }

    /// Whether a fence is scoped, or about to be: only then is there anything out of its scope.
    fn has_misses(self, fence: &Fence) -> bool {
        self.mode(fence) == Mode::Enforce || !self.is_unscoped(&fence.key)
    }

    /// Whether calls of a namespace are led to the gateway.
    pub fn falls_back_to_gateway(self, namespace: &str) -> bool {
        self.fallback(namespace) == Fallback::Gateway
    }

    /// Whether the proxies of a fence must report its misses themselves.
    pub fn reports_misses(self, fence: &Fence) -> bool {
        fence.resource.spec.learns_from(Source::AccessLog)
            && self.has_misses(fence)
            && !self.falls_back_to_gateway(&fence.key.namespace)
    }

    /// The fallback of fences of a namespace that ask for none.
    pub fn label_fallback(self, namespace: &str) -> Fallback {
        let by_default = || Some(self.settings.default_fallback);
        let facts = self.mesh.namespace(namespace);
        let by_label = facts.map_or_else(by_default, |facts| facts.fallback.or(by_default));
        // All fences of a namespace have the same one.
        let in_force = || {
            let statuses = self
                .workloads
                .fences_in(namespace)
                .filter_map(|fence| fence.resource.status.as_ref());
            statuses.filter_map(|status| status.fallback).min()
        };
        by_label
            .or_else(in_force)
            .unwrap_or(self.settings.default_fallback)
    }

    /// The fences of a namespace that learn.
    pub fn learning_in(self, namespace: &str) -> impl Iterator<Item = &'a Fence> + use<'a> {
        self.workloads
            .fences_in(namespace)
            .filter(move |fence| self.mode(fence) != Mode::Off)
    }
}
