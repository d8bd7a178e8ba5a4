//! Who is fenced: the workload of each fence, which pods belong to it, and what keeps it from being enforced.
//!
//! Flows in: fences, Services, pods, Sidecars. Flows out: answers. Invariant: a pod belongs to at most one fence, since Istio
//! lets one Sidecar per pod win.

use std::collections::BTreeSet;
use std::fmt;

use servicefence_crd::{Mode, ServiceFenceSpec, names};

use crate::engine::{Engine, Fence};
use crate::facts::{Labels, NamespaceFacts, PodFacts, ServiceKind, SidecarFacts, matches};
use crate::name::ours::{ENVOY_FILTER, fence_of_sidecar, sidecar_of};
use crate::name::{ConfigKey, FenceKey, Name, PodKey, ServiceKey};
use crate::render::Kind;

/// Why a fence that should be enforced is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// A Sidecar that is not ours applies to the same pods.
    UserSidecar(ConfigKey),
    /// Pods that must be left alone have no fence of their own that keeps the namespace's default from them.
    OptedOut(Named),
    /// A Sidecar that is not ours, for other pods of the namespace, does not import the fallback gateway.
    SidecarWithoutFallback(ConfigKey),
    /// An object that is not ours has the name that we would write.
    NameTaken(Kind, ConfigKey),
    /// The proxies of this workload of Istio's, which has some of the pods, intercept nothing.
    Uncaptured(Name),
    /// An older fence has the same pods.
    OlderFence(FenceKey),
}

/// Why the operator lets nothing in a namespace be fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// Its name is on the list.
    Named,
    /// Its labels do not match the selector.
    NotSelected,
}

/// The workload that a fence names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// The pods of a Service.
    Service(ServiceKey),
    /// Pods by label.
    Selector(Labels),
    /// All pods of the namespace that nothing else has.
    NamespaceDefault,
}

impl Named {
    /// Reads the spec of a fence.
    pub fn of(key: &FenceKey, spec: &ServiceFenceSpec) -> Self {
        let workload = spec.workload.clone().unwrap_or_default();
        if workload.namespace_default == Some(true) {
            return Self::NamespaceDefault;
        }
        if let Some(selector) = workload.selector.filter(|selector| !selector.is_empty()) {
            return Self::Selector(selector.into_iter().collect());
        }
        let service = workload.service.as_deref().unwrap_or(&key.name);
        Self::Service(ServiceKey::new(key.namespace.clone(), service))
    }

    pub(crate) fn service(&self) -> Option<&ServiceKey> {
        match self {
            Self::Service(service) => Some(service),
            Self::Selector(_) | Self::NamespaceDefault => None,
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(f, "Service {}", service.name),
            Self::Selector(labels) => {
                let labels: Vec<_> = labels
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                write!(f, "pods with {}", labels.join(","))
            }
            Self::NamespaceDefault => f.write_str("pods without a fence of their own"),
        }
    }
}

/// The pods of a workload: those with these labels; `None`: all that nothing else has.
pub type Pods<'a> = Option<&'a Labels>;

/// What a fence's workload resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload<'a> {
    /// These pods.
    Pods(Pods<'a>),
    /// The Service does not exist.
    NoService(ServiceKey),
    /// The Service has no selector, or is an alias: no pods of its own to scope.
    NoPods(ServiceKey),
}

impl Engine {
    /// What a fence's workload resolves to.
    pub(crate) fn workload<'a>(&'a self, fence: &'a Fence) -> Workload<'a> {
        let service = match &fence.workload {
            Named::Selector(labels) => return Workload::Pods(Some(labels)),
            Named::NamespaceDefault => return Workload::Pods(None),
            Named::Service(service) => service,
        };
        match self.registry.service(service) {
            None => Workload::NoService(service.clone()),
            Some(facts) if facts.selector.is_empty() || facts.kind == ServiceKind::ExternalName => {
                Workload::NoPods(service.clone())
            }
            Some(facts) => Workload::Pods(Some(&facts.selector)),
        }
    }

    /// Whether nothing in the namespace is fenced: it must not be, or istiod does not look into it.
    pub(crate) fn is_excluded(&self, namespace: &str) -> bool {
        self.exclusion(namespace).is_some() || !self.is_discovered(namespace)
    }

    /// Why nothing in the namespace may be fenced. One that is not known has no labels that could exclude it: what it
    /// has stays until they are seen.
    pub(crate) fn exclusion(&self, namespace: &str) -> Option<Exclusion> {
        let unlike = |facts: &NamespaceFacts| {
            !self
                .settings
                .namespace_selector
                .matches(|label| facts.labels.get(label))
        };
        if self.settings.excluded_namespaces.contains(namespace) {
            Some(Exclusion::Named)
        } else if self.registry.namespace(namespace).is_some_and(unlike) {
            Some(Exclusion::NotSelected)
        } else {
            None
        }
    }

    /// What keeps a fence from being enforced.
    pub(crate) fn conflict(&self, key: &FenceKey, fence: &Fence, of: Pods<'_>) -> Option<Conflict> {
        let own_name = sidecar_of(key);
        if self.sidecars.get(&own_name).is_some_and(|sidecar| !sidecar.ours) {
            return Some(Conflict::NameTaken(Kind::Sidecar, own_name));
        }
        let by_gateway = self.falls_back_to_gateway(&key.namespace);
        if by_gateway && self.envoy_filters.get(&key.namespace).is_some_and(|is| !is.ours) {
            let name = ConfigKey::new(key.namespace.clone(), ENVOY_FILTER);
            return Some(Conflict::NameTaken(Kind::EnvoyFilter, name));
        }
        let overlaps = self.overlaps(&key.namespace, of);
        let user = self.sidecars_in(&key.namespace).find(|(_, sidecar)| {
            let of_user = sidecar.selector.as_ref();
            !sidecar.ours && (of_user.is_none() || overlaps(of_user))
        });
        if let Some((user, _)) = user {
            return Some(Conflict::UserSidecar(user.clone()));
        }
        if of.is_none()
            && let Some(opted_out) = self.opted_out(key)
        {
            return Some(Conflict::OptedOut(opted_out));
        }
        if let Some(workload) = self.uncaptured(&key.namespace, of) {
            return Some(Conflict::Uncaptured(workload));
        }
        let without = self.sidecar_without_fallback(&key.namespace);
        if let Some(sidecar) = without.filter(|_| by_gateway) {
            return Some(Conflict::SidecarWithoutFallback(sidecar.clone()));
        }
        self.fences_in(&key.namespace)
            .filter(|(other_key, other)| (other.created(), *other_key) < (fence.created(), key))
            .filter(|(_, other)| match self.workload(other) {
                Workload::Pods(other) => overlaps(other),
                Workload::NoService(_) | Workload::NoPods(_) => false,
            })
            .find(|(other_key, other)| self.mode(other_key, other) == Mode::Enforce)
            .map(|(other, _)| Conflict::OlderFence(other.clone()))
    }

    /// Whether the pods of one workload are of another one too. Those with a selector come before the one without: the two share
    /// no pod.
    fn overlaps<'a>(&'a self, namespace: &'a str, of: Pods<'a>) -> impl Fn(Pods<'_>) -> bool {
        let labels = self.pods_in(namespace).map(|(_, pod)| &pod.labels);
        let pods: Vec<&Labels> = labels
            .filter(|labels| of.is_some_and(|selector| matches(selector, labels)))
            .collect();
        move |other| match (of, other) {
            (None, None) => true,
            (Some(selector), Some(other)) => {
                selector == other || pods.iter().any(|labels| matches(other, labels))
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// Another fence that still has a Sidecar for these pods. If both fences had one, the pods would go from the first Sidecar to the
    /// second in a single step.
    pub(crate) fn holder(&self, key: &FenceKey, of: Pods<'_>) -> Option<FenceKey> {
        let overlaps = self.overlaps(&key.namespace, of);
        self.sidecars_in(&key.namespace)
            .filter(|(_, sidecar)| sidecar.ours && overlaps(sidecar.selector.as_ref()))
            .filter_map(|(sidecar, _)| fence_of_sidecar(sidecar))
            .find(|other| other != key && self.fences.contains_key(other))
    }

    /// The workload of a pod that the fence's Sidecar would scope and whose proxy intercepts nothing. Its application calls the
    /// proxy's own address, and that does not tell which Service a call out of scope is to.
    fn uncaptured(&self, namespace: &str, of: Pods<'_>) -> Option<Name> {
        self.pods_in(namespace)
            .filter(|(_, pod)| pod.uncaptured)
            .find(|(_, pod)| match of {
                Some(selector) => matches(selector, &pod.labels),
                None => !self.has_users_sidecar(namespace, &pod.labels),
            })
            .map(|(_, pod)| pod.workload.clone())
    }

    /// Whether a Sidecar that is not ours selects pods with these labels.
    fn has_users_sidecar(&self, namespace: &str, labels: &Labels) -> bool {
        let selects =
            |sidecar: &SidecarFacts| sidecar.selector.as_ref().is_some_and(|of| matches(of, labels));
        self.sidecars_in(namespace)
            .any(|(_, sidecar)| !sidecar.ours && selects(sidecar))
    }

    /// What is not to be enforced in the namespace of its default: a Service by its label, or the workload of a fence by its
    /// spec. A Sidecar without a selector would apply to its pods too.
    fn opted_out(&self, default: &FenceKey) -> Option<Named> {
        let namespace = &default.namespace;
        let is_there = self.own_sidecar(default).is_some();
        let services = self.registry.workloads_in(namespace).into_values().flatten();
        let by_label = services
            .filter(|(service, facts)| self.is_opted_out(service, facts, is_there))
            .map(|(key, _)| Named::Service(key.clone()));
        let by_spec = self
            .fences_in(namespace)
            .filter(|(_, fence)| fence.resource.spec.mode.is_some_and(|mode| mode != Mode::Enforce))
            .map(|(_, fence)| fence.workload.clone())
            .filter(|workload| *workload != Named::NamespaceDefault);
        by_label.chain(by_spec).next()
    }

    /// A user's Sidecar with which the namespace's EnvoyFilter would do harm: the filter is for all
    /// proxies of the namespace and leads misses to the fallback gateway, and a proxy that does not
    /// know the gateway's cluster answers 503 where it passed calls through before.
    fn sidecar_without_fallback<'a>(&'a self, namespace: &'a Name) -> Option<&'a ConfigKey> {
        let fallback = ServiceKey::new(self.settings.system_namespace.clone(), names::FALLBACK);
        let users = self.sidecars_in(namespace).filter(|(_, sidecar)| !sidecar.ours);
        users
            .chain(self.default_sidecar())
            .find(|(_, sidecar)| !sidecar.imports(&fallback))
            .map(|(key, _)| key)
    }

    /// The Sidecar that Istio applies where a pod has no other: the oldest of the root namespace without a selector.
    pub(crate) fn default_sidecar(&self) -> Option<(&ConfigKey, &SidecarFacts)> {
        self.sidecars_in(&self.settings.root_namespace)
            .filter(|(key, sidecar)| sidecar.selector.is_none() && self.is_discovered(&key.namespace))
            .min_by_key(|(key, sidecar)| (sidecar.created, *key))
    }

    /// The fence that a pod belongs to, and that learns from its calls: one that is enforced or observes.
    pub(crate) fn fence_of_pod<'a>(&'a self, pod: &'a PodKey) -> Option<(&'a FenceKey, &'a Fence)> {
        let labels = &self.pods.get(pod)?.labels;
        let has_users_sidecar = self.has_users_sidecar(&pod.namespace, labels);
        self.fences_selecting(&pod.namespace, labels)
            .filter(|(_, fence)| !(has_users_sidecar && fence.workload == Named::NamespaceDefault))
            .filter(|(key, fence)| self.mode(key, fence) != Mode::Off)
            .min_by_key(|(key, fence)| {
                // Whose Sidecar the pod has now: one that steps back learns nothing for another.
                let waits = self.own_sidecar(key).is_none();
                let observes = self.mode(key, fence) == Mode::Observe;
                let is_default = fence.workload == Named::NamespaceDefault;
                (waits, observes, is_default, fence.created(), *key)
            })
    }

    /// The fences whose workload a pod with these labels is part of.
    pub(crate) fn fences_selecting<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = (&'a FenceKey, &'a Fence)> {
        self.fences_in(namespace)
            .filter(move |(_, fence)| match self.workload(fence) {
                Workload::Pods(of) => of.is_none_or(|selector| matches(selector, labels)),
                Workload::NoService(_) | Workload::NoPods(_) => false,
            })
    }

    pub(crate) fn fences_in<'a, 'b>(
        &'a self,
        namespace: &'b str,
    ) -> impl Iterator<Item = (&'a FenceKey, &'a Fence)> + use<'a, 'b> {
        self.fences
            .range(FenceKey::new(namespace, "")..)
            .take_while(move |(key, _)| &*key.namespace == namespace)
    }

    /// The service accounts of a fence's pods.
    pub(crate) fn accounts(&self, key: &FenceKey, fence: &Fence) -> BTreeSet<Name> {
        let Workload::Pods(of) = self.workload(fence) else {
            return BTreeSet::new();
        };
        self.pods_in(&key.namespace)
            .filter(|(_, pod)| of.is_none_or(|selector| matches(selector, &pod.labels)))
            .map(|(_, pod)| pod.account.clone())
            .collect()
    }

    /// The known pods of a namespace.
    pub fn pods_of(&self, namespace: &str) -> Vec<PodKey> {
        self.pods_in(namespace).map(|(key, _)| key.clone()).collect()
    }

    pub(crate) fn pods_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a PodKey, &'a PodFacts)> {
        self.pods
            .range(PodKey::new(namespace, "")..)
            .take_while(move |(key, _)| &*key.namespace == namespace)
    }

    pub(crate) fn sidecars_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a SidecarFacts)> {
        self.sidecars
            .range(ConfigKey::new(namespace, "")..)
            .take_while(move |(key, _)| &*key.namespace == namespace)
    }
}
