//! What keeps a fence from being enforced: somebody else has its pods or its name.

use servicefence_crd::Mode;

use crate::facts::{LabelValue, Labels, ProxyKind, VmKey, matches};
use crate::name::ours::{ENVOY_FILTER, fence_of_sidecar, sidecar_of};
use crate::name::{ConfigKey, FenceKey, covers};
use crate::plan::not_scoped::Conflict;
use crate::plan::planning::Planning;
use crate::render::Kind;
use crate::workloads::{Fence, Pods, Workload, WorkloadRef};

impl<'a> Planning<'a> {
    /// What keeps a fence from being enforced.
    pub fn conflict(self, fence: &Fence, of: Pods<'_>) -> Option<Conflict> {
        let own_name = sidecar_of(&fence.key);
        if self
            .mesh
            .sidecars
            .get(&own_name)
            .is_some_and(|sidecar| !sidecar.ours)
        {
            return Some(Conflict::NameTaken(Kind::Sidecar, own_name));
        }
        let by_gateway = self.fenced.falls_back_to_gateway(&fence.key.namespace);
        if by_gateway
            && self
                .written
                .envoy_filters
                .get(&fence.key.namespace)
                .is_some_and(|is| !is.ours)
        {
            let name = ConfigKey::new(fence.key.namespace.clone(), ENVOY_FILTER);
            return Some(Conflict::NameTaken(Kind::EnvoyFilter, name));
        }
        let overlaps = self.fenced.overlaps(&fence.key.namespace, of);
        let user = self
            .mesh
            .sidecars
            .in_namespace(&fence.key.namespace)
            .find(|(_, sidecar)| {
                let of_user = sidecar.selector.as_ref();
                !sidecar.ours && (of_user.is_none() || overlaps(of_user))
            });
        if let Some((user, _)) = user {
            return Some(Conflict::UserSidecar(user.clone()));
        }
        let default = self.mesh.default_sidecar().filter(|(_, sidecar)| sidecar.listens);
        if let Some((key, _)) = default {
            return Some(Conflict::DefaultListens(key.clone()));
        }
        let opted_out = match of {
            None => self.opted_out(&fence.key),
            Some(selector) => self.opted_out_beside(fence, selector, &overlaps),
        };
        if let Some(opted_out) = opted_out {
            return Some(Conflict::OptedOut(opted_out));
        }
        if let Some(conflict) = self.unserved_pods(&fence.key.namespace, of) {
            return Some(conflict);
        }
        if let Some(vm) = self.scoped_vm(&fence.key.namespace, of) {
            return Some(Conflict::Vm(vm.clone()));
        }
        let without = self.sidecar_without_fallback(&fence.key.namespace);
        if let Some(sidecar) = without.filter(|_| by_gateway) {
            return Some(Conflict::SidecarWithoutFallback(sidecar.clone()));
        }
        let rule = self.rule_over_fallback(&fence.key.namespace);
        if let Some(rule) = rule.filter(|_| by_gateway) {
            return Some(Conflict::DestinationRule(rule.clone()));
        }
        self.fenced
            .workloads
            .fences_in(&fence.key.namespace)
            .filter(|other| (other.created(), &other.key) < (fence.created(), &fence.key))
            .filter(|other| match self.fenced.workload(other) {
                Workload::Pods(other) => overlaps(other),
                Workload::NoService(_) | Workload::NoPods(_) => false,
            })
            .find(|other| self.fenced.mode(other) == Mode::Enforce)
            .map(|other| Conflict::OlderFence(other.key.clone()))
    }

    /// Another fence that still has a Sidecar for these pods. If both fences had one, the pods would go from
    /// the first Sidecar to the second in a single step.
    pub fn holder(self, key: &FenceKey, of: Pods<'_>) -> Option<FenceKey> {
        let overlaps = self.fenced.overlaps(&key.namespace, of);
        self.mesh
            .sidecars
            .in_namespace(&key.namespace)
            .filter(|(_, sidecar)| sidecar.ours && overlaps(sidecar.selector.as_ref()))
            .filter_map(|(sidecar, _)| fence_of_sidecar(sidecar))
            .find(|other| other != key && self.fenced.workloads.fences.contains_key(other))
    }

    /// The workload of a pod that the fence's Sidecar would scope, and that no EnvoyFilter helps with calls
    /// out of scope. Where a proxy intercepts nothing its application calls the proxy's own address, and that
    /// does not tell which Service a call is to; proxyless gRPC takes no EnvoyFilter.
    fn unserved_pods(self, namespace: &str, of: Pods<'_>) -> Option<Conflict> {
        let pods = self.fenced.workloads.pods_in(namespace);
        let mut scoped = pods.filter(|(_, pod)| self.scopes(namespace, of, &pod.labels));
        scoped.find_map(|(_, pod)| {
            if pod.proxy == ProxyKind::Proxyless {
                Some(Conflict::Proxyless(pod.workload.clone()))
            } else {
                pod.uncaptured.then(|| Conflict::Uncaptured(pod.workload.clone()))
            }
        })
    }

    /// Virtual machines that the fence's Sidecar would scope. Their agents resolve names, and know what the
    /// Sidecar imports and nothing else; and what they call cannot be learned, since they are no pods.
    fn scoped_vm(self, namespace: &str, of: Pods<'_>) -> Option<&'a VmKey> {
        let mut vms = self.mesh.vms.in_namespace(namespace);
        let scoped = vms.find(|(_, vm)| self.scopes(namespace, of, &vm.labels));
        scoped.map(|(key, _)| key)
    }

    /// Whether a fence's Sidecar for these pods would apply to a proxy with these labels.
    fn scopes(self, namespace: &str, of: Pods<'_>, labels: &Labels) -> bool {
        match of {
            Some(selector) => matches(selector, labels),
            None => !self.fenced.has_users_sidecar(namespace, labels),
        }
    }

    /// What is not to be enforced in the namespace of its default: a Service by its label, or the workload of
    /// a fence by its spec. A Sidecar without a selector would apply to its pods too.
    fn opted_out(self, default: &FenceKey) -> Option<WorkloadRef> {
        let namespace = &default.namespace;
        let is_there = self.mesh.sidecars.of_fence(default).is_some();
        let services = self.mesh.services.workloads_in(namespace).into_values().flatten();
        let by_label = services
            .filter(|(service, facts)| self.fenced.is_opted_out(service, facts, is_there))
            .map(|(key, _)| WorkloadRef::Service(key.clone()));
        let by_spec = self
            .fenced
            .workloads
            .fences_in(namespace)
            .filter(|fence| fence.resource.spec.mode.is_some_and(|mode| mode != Mode::Enforce))
            .map(|fence| fence.workload.clone())
            .filter(|workload| *workload != WorkloadRef::NamespaceDefault);
        by_label.chain(by_spec).next()
    }

    /// What is switched off in the namespace and has pods of a fence too. Where the pods are the same by
    /// their selector, the label decides about the fence itself.
    fn opted_out_beside(
        self,
        fence: &Fence,
        selector: &Labels,
        overlaps: impl Fn(Pods<'_>) -> bool,
    ) -> Option<WorkloadRef> {
        // Whatever the labels of the next pod are, it has those that select it.
        let has_pods = |of: &Labels| of != selector && (matches(of, selector) || overlaps(Some(of)));
        let services = self
            .mesh
            .services
            .workloads_in(&fence.key.namespace)
            .into_values();
        let mut off = services
            .flatten()
            .filter(|(_, facts)| facts.mode == LabelValue::Is(Mode::Off));
        if let Some((service, _)) = off.find(|(_, facts)| has_pods(&facts.selector)) {
            return Some(WorkloadRef::Service(service.clone()));
        }
        let fences = self.fenced.workloads.fences_in(&fence.key.namespace);
        let mut off = fences.filter(|other| other.resource.spec.mode == Some(Mode::Off));
        let other = off.find(|other| match self.fenced.workload(other) {
            Workload::Pods(Some(of)) => has_pods(of),
            Workload::Pods(None) | Workload::NoService(_) | Workload::NoPods(_) => false,
        })?;
        Some(other.workload.clone())
    }

    /// A DestinationRule of the namespace by which its proxies would connect to the fallback gateway, instead
    /// of by ours: Istio takes the most specific one of the caller's namespace, and looks no further.
    fn rule_over_fallback(self, namespace: &str) -> Option<&'a ConfigKey> {
        let fallback = self.settings.fallback().host();
        let rules = self.mesh.destination_rules.in_namespace(namespace);
        let covering = rules.filter(|(_, rule)| covers(&rule.host, &fallback));
        let first = covering.max_by_key(|(_, rule)| (!rule.host.starts_with('*'), rule.host.len()));
        first.filter(|(_, rule)| !rule.suits_gateway).map(|(key, _)| key)
    }

    /// A user's Sidecar with which the namespace's EnvoyFilter would do harm: the filter is for all
    /// proxies of the namespace and leads misses to the fallback gateway, and a proxy that does not
    /// know the gateway's cluster answers 503 where it passed calls through before.
    fn sidecar_without_fallback(self, namespace: &str) -> Option<&'a ConfigKey> {
        let fallback = self.settings.fallback();
        let users = self
            .mesh
            .sidecars
            .in_namespace(namespace)
            .filter(|(_, sidecar)| !sidecar.ours);
        users
            .chain(self.mesh.default_sidecar())
            .find(|(_, sidecar)| !sidecar.imports(&fallback))
            .map(|(key, _)| key)
    }
}
