//! Why a host is in a fence's scope, or is not.
//!
//! Flows in: the engine, a fence and a host. Flows out: an [`Explanation`], from the same scope that
//! the Sidecar is made of. It changes nothing.

mod because;

use std::collections::BTreeSet;

use serde::Serialize;
use servicefence_crd::{Mode, NonHttp};

use crate::facts::{Caller, ServiceFacts, VirtualServiceFacts};
use crate::name::ours::sidecar_name;
use crate::name::{FenceKey, ScopeHost, ServiceKey};
use crate::scope::explain::because::said_by;
use crate::scope::headless::KeptHeadless;
use crate::scope::non_http::KeptNonHttp;
use crate::scope::scoping::Scoping;
use crate::scope::why::Why;
use crate::workloads::{Fence, HostPattern};

pub use self::because::Because;

/// Why a host is in a fence's scope, or is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The fence, `namespace/name`.
    pub fence: String,
    /// The mode in force.
    pub mode: Mode,
    /// The fully qualified host.
    pub host: String,
    /// Whether the host belongs to the scope.
    pub in_scope: bool,
    /// One sentence that answers the question.
    pub answer: String,
    /// Every reason to have it in scope.
    pub because: Vec<Because>,
    /// What the Sidecar imports for it, `namespace/host`; empty where there is no Sidecar or it is not there.
    pub imports: Vec<String>,
    /// The Sidecar that carries the scope, `namespace/name`; none while the proxies know the whole mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<String>,
}

impl<'a> Scoping<'a> {
    /// Explains a host, written as in `allow`; `None` where there is no such fence.
    pub fn explain(self, key: &FenceKey, host: &str) -> Option<Explanation> {
        let fence = self.fenced.workloads.fences.get(key)?;
        let host = self.full_name(key, host);
        let scope = self.scope_of(fence);
        let imported: Vec<_> = scope.hosts.iter().filter(|(is, _)| *is.name == *host).collect();
        let mut because = Vec::new();
        for (import, whys) in &imported {
            for why in whys.iter() {
                self.say_why(fence, import, why, &mut because);
            }
        }
        let current = self.mesh.sidecars.of_fence(key);
        let imports = current
            .into_iter()
            .flat_map(|sidecar| &sidecar.hosts)
            .filter(|is| *is.name == *host);
        let mut explanation = Explanation {
            fence: key.to_string(),
            mode: self.fenced.mode(fence),
            in_scope: !imported.is_empty(),
            answer: String::new(),
            because,
            imports: imports.map(ToString::to_string).collect(),
            sidecar: current.map(|_| format!("{}/{}", key.namespace, sidecar_name(&key.name))),
            host,
        };
        explanation.answer = self.answer(fence, &explanation);
        Some(explanation)
    }

    /// A host in full, as istiod knows it.
    fn full_name(self, key: &FenceKey, host: &str) -> String {
        let pattern = HostPattern::parse(host, &key.namespace);
        let named = pattern.hosts(self.mesh, &key.namespace).0;
        named
            .first()
            .map_or_else(|| host.to_owned(), |host| host.name.to_string())
    }

    fn say_why(self, fence: &Fence, host: &ScopeHost, why: Why, because: &mut Vec<Because>) {
        let baseline = |detail: &str| Because::new("Baseline", detail);
        let protocol = |detail: &str| Because::new("Protocol", detail);
        let reason = match why {
            Why::Own => baseline("ServiceFence itself needs it"),
            Why::Baseline => baseline("baseline.hosts of the chart names it"),
            Why::Provider => baseline("an extension provider of MeshConfig calls it from every proxy"),
            Why::EgressProxy => baseline(
                "the mesh's default Sidecar names it as egressProxy: proxies send there what the mesh does not know",
            ),
            Why::Jwks => {
                let servers = self.key_servers(fence);
                let here = servers.filter(|(server, _)| server == host);
                because.extend(here.map(|(_, of)| {
                    let detail = format!(
                        "the keys of RequestAuthentication {of} are there, and proxies may fetch them"
                    );
                    baseline(&detail)
                }));
                return;
            }
            Why::Spec => {
                because.extend(self.say_allowed(fence, host));
                return;
            }
            Why::Learned => {
                let Some(learned) = fence.learned_host(&host.name) else {
                    return;
                };
                for source in &learned.sources {
                    because.push(Because {
                        since: Some(learned.first_seen),
                        last_seen: Some(learned.last_seen),
                        until: self
                            .known
                            .missing_until(fence, &learned.host)
                            .or_else(|| self.known.forgets_at(fence, learned)),
                        ..Because::new(source.as_str(), said_by(*source))
                    });
                }
                return;
            }
            Why::Policy => {
                let accounts = self.fenced.accounts(fence);
                let caller = Caller {
                    namespace: &fence.key.namespace,
                    accounts: &accounts,
                };
                let opened = self.mesh.opened_for(&caller);
                let here = opened.filter(|(service, _)| service.host() == host.name);
                because.extend(here.map(|(_, policy)| {
                    let detail = format!("AuthorizationPolicy {policy} lets this caller in, and would refuse the fallback gateway");
                    Because::new("Policy", detail)
                }));
                return;
            }
            Why::Headless => {
                let service = self.service_of(&host.name);
                let kept = service.and_then(|(service, facts)| self.keeps_headless(fence, &service, facts));
                let why = kept.map_or("", KeptHeadless::as_str);
                protocol(&format!(
                    "it is headless, so calls go to the addresses of its pods, and {why}"
                ))
            }
            Why::Hidden => protocol("it is not exported to the fallback gateway's namespace"),
            Why::ServiceEntry => {
                let kept = self.keeps_entry(fence, host);
                let kept = kept.map_or_else(String::new, |kept| kept.to_string());
                protocol(&format!(
                    "a ServiceEntry declares it, the fallback gateway serves Services only, and {kept}"
                ))
            }
            Why::RuleOnly => protocol(
                "only a VirtualService knows this name, and the fallback gateway serves Services only",
            ),
            Why::SubsetRule => protocol(
                "a VirtualService of this namespace routes it to a subset whose DestinationRule the fallback gateway may not see",
            ),
            Why::NonHttp => protocol(&self.say_non_http(fence)),
            Why::PortCollision => protocol(
                "it has a port that is not HTTP, with a number whose HTTP listener would swallow its connections",
            ),
            Why::Alias => {
                because.extend(self.say_aliased(fence, host));
                return;
            }
            Why::Route => {
                let rules = self.mesh.rules.of_host(&host.name);
                let rules = rules.filter(|(rules, facts)| {
                    rules.namespace == host.namespace && facts.visibility.to(&fence.key.namespace)
                });
                let authors = rules.flat_map(|(rules, facts)| facts.authors(rules));
                because.extend(
                    authors.map(|author| Because::new("Route", format!("{author} has rules for it"))),
                );
                return;
            }
        };
        because.push(reason);
    }

    fn say_non_http(self, fence: &Fence) -> String {
        const CUT: &str = "it has a port that is not HTTP, and its open connections would be cut";
        match (fence.non_http(), self.known.connections_known_since(fence)) {
            (NonHttp::Auto, Err(unknown)) => format!(
                "{CUT}: learning.nonHttp Auto keeps such hosts until metrics have shown all connections of the workload \
                 for as long as expireAfter, and {unknown}"
            ),
            (NonHttp::Auto, Ok(_)) if self.kept_non_http(fence) == KeptNonHttp::Routed => format!(
                "{CUT}: a VirtualService has rules for it, and metrics name the Service that answers, so nothing tells that \
                 it is not used"
            ),
            // It is on its way into the status.
            (NonHttp::Auto, Ok(since)) => {
                format!("{CUT}: metrics show all connections of the workload since {since}, so it will leave")
            }
            (NonHttp::Learn | NonHttp::Keep, _) => format!("{CUT}: learning.nonHttp keeps such hosts"),
        }
    }

    fn say_allowed(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let entries = fence.owner_rules.allow.iter().enumerate();
        entries
            .filter(|(_, entry)| entry.holds(self.now))
            .filter(|(_, entry)| entry.hosts(self.mesh, &fence.key.namespace).0.contains(host))
            .map(|(at, entry)| {
                let reason = entry.reason.as_ref().map(|reason| format!(" ({reason})"));
                let detail = format!("spec.allow[{at}]: {entry}{}", reason.unwrap_or_default());
                Because {
                    until: entry.until,
                    ..Because::new("Spec", detail)
                }
            })
            .collect()
    }

    fn say_aliased(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let scope = self.scope_of(fence);
        let aliased = scope.aliased(self.mesh, &fence.key.namespace);
        let here = aliased.filter(|(_, _, import)| import == host);
        let of: BTreeSet<_> = here.map(|(of, alias, _)| (of, &alias.pattern)).collect();
        let said = of.into_iter().map(|(of, pattern)| {
            let detail =
                format!("aliases of the chart make it of {of}, which is in scope, by the pattern {pattern}");
            Because::new("Alias", detail)
        });
        said.collect()
    }

    fn answer(self, fence: &Fence, said: &Explanation) -> String {
        let host = &said.host;
        if !self.sees(&fence.key, host) {
            let wanted = if said.in_scope {
                " It will be in scope when it comes."
            } else {
                ""
            };
            let namespace = &fence.key.namespace;
            return format!(
                "the mesh has no host {host} that namespace {namespace} sees: a call to it is Istio's own affair.{wanted}"
            );
        }
        if said.sidecar.is_none() {
            let why = match said.mode {
                Mode::Off => "its mode is Off",
                Mode::Observe => "its mode is Observe",
                Mode::Enforce => "see its conditions",
            };
            let would = if said.in_scope { "in" } else { "out of" };
            return format!(
                "this fence has no Sidecar ({why}), so its proxies know the whole mesh, {host} included; it would be {would} scope"
            );
        }
        let first = said.because.first().map_or("", |because| because.detail.as_str());
        match (said.in_scope, !said.imports.is_empty()) {
            (true, true) => format!("{host} is in scope: {first}"),
            (true, false) => format!("{host} is on its way into the Sidecar: {first}"),
            (false, true) => match self.known.waits_for_connections(fence, host) {
                None => format!("{host} is on its way out of the Sidecar: nothing keeps it in scope"),
                Some(unknown) => format!(
                    "nothing keeps {host} in scope, but the Sidecar keeps it until metrics have shown all connections of \
                     the workload for as long as expireAfter: {unknown}"
                ),
            },
            (false, false) => {
                let why = if fence.owner_rules.denies(host) {
                    "spec.deny keeps it from being learned"
                } else {
                    "nothing allows it and no call to it was seen"
                };
                format!("{host} is not in scope: {why}; {}", self.served(&fence.key, host))
            }
        }
    }

    /// What becomes of calls to a host out of scope.
    fn served(self, key: &FenceKey, host: &str) -> &'static str {
        match self.service_of(host) {
            None => {
                "calls to it are passed through by Istio and not seen, so no call brings it into scope, and spec.allow does"
            }
            Some((_, facts))
                if facts.is_told_by_pods() && self.fenced.falls_back_to_gateway(&key.namespace) =>
            {
                "calls to it go by the fallback gateway, and from there to the pod that was dialled"
            }
            Some((service, facts)) if !self.mesh.services.has_routes(&service, facts) => {
                "the fallback gateway has no route to it, so a call to it is Istio's own affair"
            }
            _ => "calls to it go by the fallback gateway",
        }
    }

    /// Whether the fence's namespace sees a host.
    fn sees(self, key: &FenceKey, host: &str) -> bool {
        let names = |rules: &VirtualServiceFacts| rules.hosts.iter().any(|name| **name == *host);
        // Not all that is ServiceFence's own is among the Services.
        if self
            .own_hosts(&key.namespace)
            .iter()
            .any(|own| *own.name == *host)
        {
            return true;
        }
        match self.service_of(host) {
            Some((_, facts)) => facts.visibility.to(&key.namespace),
            None => {
                self.mesh.service_entries.declares(&key.namespace, host)
                    || self
                        .mesh
                        .rules
                        .seen_from(&key.namespace)
                        .any(|(_, rules)| names(rules))
            }
        }
    }

    fn service_of(self, host: &str) -> Option<(ServiceKey, &'a ServiceFacts)> {
        let key = ServiceKey::of_host(host)?;
        let facts = self.mesh.services.get(&key)?;
        Some((key, facts))
    }
}
