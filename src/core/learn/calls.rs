//! From what metrics tell to what fences learn.
//!
//! Flows in: calls, as Istio's standard metrics name them. Flows out: [`Traffic`], the observations among
//! them that are news. Invariants: a call teaches only fences of its own namespace, and only hosts of the
//! mesh: Services, and what ServiceEntries declare.

use std::collections::{BTreeMap, BTreeSet};

use servicefence_crd::Source;

use crate::evidence::Told;
use crate::learn::Learning;
use crate::learn::callers::{Callers, Teller};
use crate::learn::observation::{Observation, Period, Unattributed};
use crate::name::{FenceKey, Name, ScopeHost, ServiceKey};
use crate::workloads::MOST_LEARNED;

/// Who called whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    /// Who called.
    pub from: Teller,
    /// `destination_service`: the host that answered.
    pub host: Name,
}

/// What calls teach.
#[derive(Debug, Default)]
pub struct Traffic {
    /// What is worth remembering.
    pub observations: BTreeMap<Observation, Period>,
    /// Hosts that a fence has not learned yet and will by these observations.
    pub joining: BTreeMap<FenceKey, BTreeSet<Name>>,
    /// Fences with any call, news or not, and the workloads that called.
    pub told: Told,
    /// How many calls teach nothing, by reason.
    pub unattributed: BTreeMap<Unattributed, usize>,
}

impl Traffic {
    fn count(&mut self, why: Unattributed) {
        *self.unattributed.entry(why).or_default() += 1;
    }
}

impl Learning<'_> {
    /// What `calls` teach the fences; with `only`, no others than these.
    pub fn learn_from_calls(
        self,
        calls: &BTreeMap<Call, Period>,
        only: Option<&BTreeSet<FenceKey>>,
    ) -> Traffic {
        let callers = Callers::new(self.fenced);
        let mut traffic = Traffic::default();
        for (call, period) in calls {
            let fences = callers.of(&call.from);
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
                    self.learn_call(fence, host, *period, &mut traffic);
                }
            }
        }
        traffic
    }

    fn learn_call(self, key: &FenceKey, import: &ScopeHost, period: Period, traffic: &mut Traffic) {
        let Some(fence) = self.fenced.workloads.fences.get(key) else {
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
        if fence.owner_rules.denies(host) {
            return traffic.count(Unattributed::Denied);
        }
        if let Some(known) = fence.learned_host(host) {
            // As the writer of the list sees it: what it would not write is not waited for.
            let is_news = period.last.duration_since(known.last_seen) >= self.fenced.expiry(fence).lag();
            if !is_news && known.sources.contains(&Source::Prometheus) {
                return;
            }
        } else if self.fenced.expiry(fence).is_over(period.last, self.now) {
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

    /// The host that answered a call, and Services with rules that may have led the call to it: metrics do
    /// not tell which name was called.
    fn hosts_called(self, call: &Call) -> BTreeSet<ScopeHost> {
        let Some(answered) = ServiceKey::of_host(&call.host) else {
            return self
                .mesh
                .service_entries
                .declared(&call.from.namespace, &call.host)
                .collect();
        };
        let named = self
            .mesh
            .rules
            .hosts_routed_to(&answered)
            .filter(|host| {
                let mut rules = self.mesh.rules.of_host(host);
                rules.any(|(_, rules)| {
                    rules.destinations.contains(&answered) && rules.visibility.to(&call.from.namespace)
                })
            })
            .filter_map(|host| ServiceKey::of_host(host));
        let all: BTreeSet<_> = named.chain([answered.clone()]).collect();
        let is_seen = |service: &ServiceKey| {
            let facts = self.mesh.services.get(service);
            facts.is_some_and(|facts| facts.visibility.to(&call.from.namespace))
        };
        let seen = all.iter().filter(|service| is_seen(service));
        seen.map(ServiceKey::scope_host).collect()
    }
}
