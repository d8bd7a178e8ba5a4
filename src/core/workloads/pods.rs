//! The pods of workloads: which a fence has, and which fence has a pod.
//!
//! Flows in: fences, Services, pods. Flows out: answers. Invariant: a pod belongs to at most one fence, since
//! Istio lets one Sidecar per pod win.

use std::collections::BTreeSet;

use servicefence_crd::Mode;

use crate::facts::{Labels, ProxyCallsFacts, ProxyKind, ServiceKind, SidecarFacts, matches};
use crate::name::{FenceKey, Name, PodKey, ServiceKey};
use crate::workloads::fence::Fence;
use crate::workloads::fenced::Fenced;
use crate::workloads::workload_ref::WorkloadRef;

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

impl<'a> Fenced<'a> {
    /// Whether an object is for pods of a fence: for one that there is, or may be where there is none yet.
    pub fn concerns(self, facts: &ProxyCallsFacts, fence: &Fence) -> bool {
        if facts.selector.is_empty() {
            return true;
        }
        let Workload::Pods(of) = self.workload(fence) else {
            return false;
        };
        let pods = self
            .workloads
            .pods_in(&fence.key.namespace)
            .map(|(_, pod)| &pod.labels);
        let mut pods = pods
            .filter(|labels| of.is_none_or(|of| matches(of, labels)))
            .peekable();
        if pods.peek().is_none() {
            let fits = |(name, value)| {
                of.and_then(|of: &Labels| of.get(name))
                    .is_none_or(|is| is == value)
            };
            return facts.selector.iter().all(fits);
        }
        pods.any(|labels| matches(&facts.selector, labels))
    }

    /// What a fence's workload resolves to.
    pub fn workload<'f>(self, fence: &'f Fence) -> Workload<'f>
    where
        'a: 'f,
    {
        let service = match &fence.workload {
            WorkloadRef::Selector(labels) => return Workload::Pods(Some(labels)),
            WorkloadRef::NamespaceDefault => return Workload::Pods(None),
            WorkloadRef::Service(service) => service,
        };
        match self.mesh.services.get(service) {
            None => Workload::NoService(service.clone()),
            Some(facts) if facts.selector.is_empty() || facts.kind == ServiceKind::ExternalName => {
                Workload::NoPods(service.clone())
            }
            Some(facts) => Workload::Pods(Some(&facts.selector)),
        }
    }

    /// Whether the pods of one workload are of another one too. Those with a selector come before the one
    /// without: the two share no pod.
    pub fn overlaps<'f>(self, namespace: &str, of: Pods<'f>) -> impl Fn(Pods<'_>) -> bool + use<'a, 'f> {
        let labels = self.workloads.pods_in(namespace).map(|(_, pod)| &pod.labels);
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

    /// Whether a Sidecar that is not ours selects pods with these labels.
    pub fn has_users_sidecar(self, namespace: &str, labels: &Labels) -> bool {
        let selects =
            |sidecar: &SidecarFacts| sidecar.selector.as_ref().is_some_and(|of| matches(of, labels));
        self.mesh
            .sidecars
            .in_namespace(namespace)
            .any(|(_, sidecar)| !sidecar.ours && selects(sidecar))
    }

    /// The fence that a pod belongs to, and that learns from its calls: one that is enforced or observes.
    pub fn fence_of_pod(self, pod: &PodKey) -> Option<&'a Fence> {
        let labels = &self.workloads.pods.get(pod)?.labels;
        let has_users_sidecar = self.has_users_sidecar(&pod.namespace, labels);
        self.fences_selecting(&pod.namespace, labels)
            .filter(|fence| !(has_users_sidecar && fence.workload == WorkloadRef::NamespaceDefault))
            .filter(|fence| self.mode(fence) != Mode::Off)
            .min_by_key(|fence| {
                // The fence of the pod's present Sidecar: one that steps back learns nothing for another.
                let waits = self.is_unscoped(&fence.key);
                let observes = self.mode(fence) == Mode::Observe;
                let is_default = fence.workload == WorkloadRef::NamespaceDefault;
                (waits, observes, is_default, fence.created(), &fence.key)
            })
    }

    /// Whether a pod belongs to a fence, see [`Fenced::fence_of_pod`].
    pub fn is_of(self, pod: &PodKey, fence: &FenceKey) -> bool {
        self.fence_of_pod(pod).is_some_and(|of| of.key == *fence)
    }

    /// The fences that have pods with these labels.
    pub fn fences_selecting<'l>(
        self,
        namespace: &str,
        labels: &'l Labels,
    ) -> impl Iterator<Item = &'a Fence> + use<'a, 'l> {
        self.workloads
            .fences_in(namespace)
            .filter(move |fence| match self.workload(fence) {
                Workload::Pods(of) => of.is_none_or(|selector| matches(selector, labels)),
                Workload::NoService(_) | Workload::NoPods(_) => false,
            })
    }

    /// The service accounts of a fence's pods; `None`: it has none at the moment, such as those of a CronJob
    /// between two runs.
    pub fn accounts(self, fence: &Fence) -> Option<BTreeSet<Name>> {
        let Workload::Pods(of) = self.workload(fence) else {
            return Some(BTreeSet::new());
        };
        let pods = self.workloads.pods_in(&fence.key.namespace).map(|(_, pod)| pod);
        let pods = pods.filter(|pod| of.is_none_or(|selector| matches(selector, &pod.labels)));
        let accounts: BTreeSet<_> = pods.map(|pod| pod.account.clone()).collect();
        (!accounts.is_empty()).then_some(accounts)
    }

    /// Whether a workload has pods, and Sidecars apply to none of them: what their proxies are instead.
    pub fn without_sidecars(self, namespace: &str, of: Pods<'_>) -> Option<ProxyKind> {
        let pods = self.workloads.pods_in(namespace).map(|(_, pod)| pod);
        let pods = pods.filter(|pod| of.is_none_or(|selector| matches(selector, &pod.labels)));
        let kinds: Vec<_> = pods.map(|pod| pod.proxy).collect();
        if kinds.contains(&ProxyKind::Sidecar) {
            return None;
        }
        let gateway = kinds.iter().find(|kind| **kind == ProxyKind::Gateway);
        gateway.or(kinds.first()).copied()
    }

    /// How many proxies a fence's workload has.
    pub fn proxies(self, fence: &Fence) -> usize {
        let of: Pods<'_> = match self.workload(fence) {
            Workload::Pods(of) => of,
            Workload::NoService(_) | Workload::NoPods(_) => return 0,
        };
        let pods = self
            .workloads
            .pods_in(&fence.key.namespace)
            .filter(|(_, pod)| pod.proxy == ProxyKind::Sidecar);
        pods.filter(|(pod, facts)| match of {
            Some(selector) => matches(selector, &facts.labels),
            None => self.is_of(pod, &fence.key),
        })
        .count()
    }
}
