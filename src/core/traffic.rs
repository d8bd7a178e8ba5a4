//! From what metrics tell to what fences learn.
//!
//! Flows in: calls, as Istio's standard metrics name them. Flows out: [`Traffic`], the observations among them that
//! are news. Invariants: a call teaches only fences of its own namespace, and only hosts of the mesh: Services, and what
//! ServiceEntries declare.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use servicefence_crd::{Mode, Source};

use crate::engine::{Engine, Fence};
use crate::facts::Labels;
use crate::learn::{MOST_LEARNED, Observation, Period, Unattributed};
use crate::name::{FenceKey, Name, ScopeHost, ServiceKey};
use crate::optin::Workload;

/// Whose proxies tell, in the words of Istio's standard metrics.
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

/// Who called whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    /// Who called.
    pub from: Teller,
    /// `destination_service`: the host that answered.
    pub host: Name,
}

/// Fences of which metrics tell, with the names of the workloads that they name.
pub type Told = BTreeMap<FenceKey, BTreeSet<Name>>;

/// How far metrics tell of connections, in some period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Namespaces of which some workload tells its bytes, in both directions. Of others they may be dropped, and all that
    /// there is of connections with them.
    pub namespaces: BTreeSet<Name>,
    /// Who has connections without bytes.
    pub without_bytes: BTreeSet<Teller>,
}

/// What calls teach.
#[derive(Debug, Default)]
pub struct Traffic {
    /// What is worth remembering.
    pub observations: BTreeMap<Observation, Period>,
    /// Hosts that a fence has not learned yet and will by these observations.
    pub joining: BTreeMap<FenceKey, BTreeSet<Name>>,
    /// Fences of which there was any call, news or not, with the workloads that called.
    pub told: Told,
    /// How many calls teach nothing, by reason.
    pub unattributed: BTreeMap<Unattributed, usize>,
}

/// Fences by namespace and name of their pods' workload.
type Callers<'a> = BTreeMap<(Name, Name), BTreeSet<&'a FenceKey>>;

impl Engine {
    /// What `calls` teach the fences; with `only`, no others than these.
    pub fn learn_from_calls(
        &self,
        calls: &BTreeMap<Call, Period>,
        only: Option<&BTreeSet<FenceKey>>,
        now: Timestamp,
    ) -> Traffic {
        let callers = self.fences_by_workload();
        let mut traffic = Traffic::default();
        for (call, period) in calls {
            let fences = self.fences_of(&call.from, &callers);
            if fences.is_empty() {
                traffic.count(Unattributed::NotFenced);
                continue;
            }
            let hosts = self.hosts_called(call);
            if hosts.is_empty() {
                traffic.count(Unattributed::NotMesh);
                continue;
            }
            for fence in fences {
                if only.is_some_and(|only| !only.contains(fence)) {
                    continue;
                }
                let workloads = match traffic.told.get_mut(fence) {
                    Some(workloads) => workloads,
                    None => traffic.told.entry(fence.clone()).or_default(),
                };
                if !workloads.contains(&call.from.workload) {
                    workloads.insert(call.from.workload.clone());
                }
                for host in &hosts {
                    self.learn_call(fence, host, *period, now, &mut traffic);
                }
            }
        }
        traffic
    }

    fn learn_call(
        &self,
        key: &FenceKey,
        import: &ScopeHost,
        period: Period,
        now: Timestamp,
        traffic: &mut Traffic,
    ) {
        let Some(fence) = self.fences.get(key) else {
            return;
        };
        let host = &import.name;
        // In the scopes of all others it is in any case.
        if ServiceKey::of_host(host).is_none() && !fence.learns_service_entries() {
            return;
        }
        if !fence.resource.spec.learns_from(Source::Prometheus) {
            return traffic.count(Unattributed::SourceOff);
        }
        if fence.wishes.denies(host) {
            return traffic.count(Unattributed::Denied);
        }
        if let Some(known) = fence.learned_host(host) {
            // As the writer of the list sees it: what it would not write is not waited for.
            let is_news = period.last.duration_since(known.last_seen) >= self.expiry(fence).lag();
            if !is_news && known.sources.contains(&Source::Prometheus) {
                return;
            }
        } else if self.expiry(fence).is_over(period.last, now) {
            // It would only be forgotten again.
            return;
        } else {
            let joining = traffic.joining.entry(key.clone()).or_default();
            if fence.learned().len() + joining.len() >= MOST_LEARNED && !joining.contains(host) {
                return traffic.count(Unattributed::ListFull);
            }
            joining.insert(host.clone());
        }
        let observation = Observation {
            fence: key.clone(),
            host: import.clone(),
            source: Source::Prometheus,
        };
        traffic
            .observations
            .entry(observation)
            .and_modify(|known| *known = known.and(period))
            .or_insert(period);
    }

    /// The fences of whose workloads there may be connections that metrics do not show.
    pub fn uncounted(&self, counted: &Counted) -> BTreeSet<FenceKey> {
        let tellers = counted.without_bytes.iter();
        // Mostly there are none.
        let callers = if counted.without_bytes.is_empty() {
            Callers::new()
        } else {
            self.fences_by_workload()
        };
        let without_bytes = tellers.flat_map(|teller| self.fences_of(teller, &callers));
        let silent = self.fences.keys();
        let silent = silent.filter(|fence| !counted.namespaces.contains(&fence.namespace));
        without_bytes.chain(silent).cloned().collect()
    }

    fn fences_of<'a>(&'a self, teller: &Teller, callers: &Callers<'a>) -> BTreeSet<&'a FenceKey> {
        let name = (teller.namespace.clone(), teller.workload.clone());
        let fences = callers.get(&name).cloned();
        fences.unwrap_or_else(|| self.fences_of_absent(teller))
    }

    /// The fences of the pods that are there.
    fn fences_by_workload(&self) -> Callers<'_> {
        let mut fences = Callers::new();
        // Pods of a workload are alike, and a rollout is slow enough to ask for each kind once.
        let mut known: BTreeMap<(&Name, &Labels), Option<&FenceKey>> = BTreeMap::new();
        for (pod, facts) in &self.pods {
            let of = *known
                .entry((&pod.namespace, &facts.labels))
                .or_insert_with(|| self.fence_of_pod(pod).map(|(fence, _)| fence));
            if let Some(fence) = of {
                let name = (pod.namespace.clone(), facts.workload.clone());
                fences.entry(name).or_default().insert(fence);
            }
        }
        fences
    }

    /// The fences of a workload that has no pod now, such as a job between two runs: by the labels that metrics tell,
    /// else by name, else the default of the namespace.
    fn fences_of_absent<'a>(&'a self, teller: &Teller) -> BTreeSet<&'a FenceKey> {
        let of = |chosen: &dyn Fn(&FenceKey, Option<&Labels>) -> bool| -> BTreeSet<&'a FenceKey> {
            self.learning_in(&teller.namespace)
                .filter(|(key, fence)| match self.workload(fence) {
                    Workload::Pods(selector) => chosen(key, selector),
                    Workload::NoService(_) | Workload::NoPods(_) => false,
                })
                .map(|(key, _)| key)
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

    fn learning_in<'a, 'b>(
        &'a self,
        namespace: &'b str,
    ) -> impl Iterator<Item = (&'a FenceKey, &'a Fence)> + use<'a, 'b> {
        self.fences_in(namespace)
            .filter(move |(key, fence)| self.mode(key, fence) != Mode::Off)
    }

    /// The host that answered a call, and Services whose rules may have led the call to it: metrics do not tell which
    /// name was called.
    fn hosts_called(&self, call: &Call) -> BTreeSet<ScopeHost> {
        let Some(answered) = ServiceKey::of_host(&call.host) else {
            return self.registry.declared(&call.from.namespace, &call.host).collect();
        };
        let named = self
            .registry
            .hosts_routed_to(&answered)
            .filter(|host| {
                let mut rules = self.registry.rules_of_host(host);
                rules.any(|(_, rules)| {
                    rules.destinations.contains(&answered) && rules.visibility.to(&call.from.namespace)
                })
            })
            .filter_map(|host| ServiceKey::of_host(host));
        let all: BTreeSet<_> = named.chain([answered.clone()]).collect();
        let is_seen = |service: &ServiceKey| {
            let facts = self.registry.service(service);
            facts.is_some_and(|facts| facts.visibility.to(&call.from.namespace))
        };
        let seen = all.iter().filter(|service| is_seen(service));
        seen.map(ServiceKey::scope_host).collect()
    }
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

impl Traffic {
    fn count(&mut self, why: Unattributed) {
        *self.unattributed.entry(why).or_default() += 1;
    }
}
