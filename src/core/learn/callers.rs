//! The workload that metrics name as the caller, and its fences.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::Labels;
use crate::name::{FenceKey, Name};
use crate::workloads::{Fenced, Workload};

/// The caller of a call, in the words of Istio's standard metrics.
/// <https://istio.io/latest/docs/reference/config/metrics/>
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Teller {
    /// `source_workload_namespace`.
    pub namespace: Name,
    /// `source_workload`: the name of the Deployment, CronJob or the like.
    pub workload: Name,
    /// `source_app`: the pods' label `app`.
    pub app: Name,
    /// `source_version`: the pods' label `version`.
    pub version: Name,
    /// `source_canonical_service`.
    pub canonical: Name,
}

/// How far metrics tell of connections, in some period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Namespaces with a workload that tells its bytes, in both directions. In others they may be dropped,
    /// and all that there is of connections with them.
    pub namespaces: BTreeSet<Name>,
    /// Who has connections without bytes.
    pub without_bytes: BTreeSet<Teller>,
}

impl Teller {
    /// Whether its pods have these labels, as far as metrics can tell.
    fn has(&self, selector: &Labels) -> bool {
        selector.iter().all(|(key, value)| {
            let told = match key.as_str() {
                "app" => &self.app,
                "version" => &self.version,
                "app.kubernetes.io/name" | "service.istio.io/canonical-name" => &self.canonical,
                _ => return false,
            };
            **told == **value
        })
    }
}

/// The fences of whoever tells.
pub struct Callers<'a> {
    fenced: Fenced<'a>,
    /// Of the pods that are there, by namespace and name of their workload.
    by_workload: BTreeMap<(Name, Name), BTreeSet<&'a FenceKey>>,
}

impl<'a> Callers<'a> {
    /// Looks at the pods that are there.
    pub fn new(fenced: Fenced<'a>) -> Self {
        let mut fences = BTreeMap::<_, BTreeSet<_>>::new();
        // Pods of a workload are alike, and a rollout is slow enough to ask for each kind once.
        let mut known: BTreeMap<(&Name, &Labels), Option<&FenceKey>> = BTreeMap::new();
        for (pod, facts) in &fenced.workloads.pods {
            let of = *known
                .entry((&pod.namespace, &facts.labels))
                .or_insert_with(|| fenced.fence_of_pod(pod).map(|fence| &fence.key));
            if let Some(fence) = of {
                let name = (pod.namespace.clone(), facts.workload.clone());
                fences.entry(name).or_default().insert(fence);
            }
        }
        Self {
            fenced,
            by_workload: fences,
        }
    }

    /// The fences of those that tell.
    pub fn of(&self, teller: &Teller) -> BTreeSet<&'a FenceKey> {
        let name = (teller.namespace.clone(), teller.workload.clone());
        let fences = self.by_workload.get(&name).cloned();
        fences.unwrap_or_else(|| self.of_absent(teller))
    }

    /// The fences of a workload that has no pod now, such as a job between two runs: by the labels that
    /// metrics tell, else by name, else the default of the namespace.
    fn of_absent(&self, teller: &Teller) -> BTreeSet<&'a FenceKey> {
        let of = |chosen: &dyn Fn(&FenceKey, Option<&Labels>) -> bool| -> BTreeSet<&'a FenceKey> {
            self.fenced
                .learning_in(&teller.namespace)
                .filter(|fence| match self.fenced.workload(fence) {
                    Workload::Pods(selector) => chosen(&fence.key, selector),
                    Workload::NoService(_) | Workload::NoPods(_) => false,
                })
                .map(|fence| &fence.key)
                .collect()
        };
        let by_labels = of(&|_, selector| selector.is_some_and(|selector| teller.has(selector)));
        if !by_labels.is_empty() {
            return by_labels;
        }
        let by_name = of(&|key, selector| {
            selector.is_some() && (key.name == teller.workload || key.name == teller.canonical)
        });
        if !by_name.is_empty() {
            return by_name;
        }
        of(&|_, selector| selector.is_none())
    }
}

/// The fences that may have connections which metrics do not show.
pub fn uncounted(fenced: Fenced<'_>, counted: &Counted) -> BTreeSet<FenceKey> {
    let silent = fenced.workloads.fences.keys();
    let silent = silent.filter(|fence| !counted.namespaces.contains(&fence.namespace));
    let mut uncounted: BTreeSet<_> = silent.cloned().collect();
    // Mostly there are none.
    if !counted.without_bytes.is_empty() {
        let callers = Callers::new(fenced);
        let without_bytes = counted.without_bytes.iter().flat_map(|teller| callers.of(teller));
        uncounted.extend(without_bytes.cloned());
    }
    uncounted
}
