//! Why a host is in a fence's scope, or is not.
//!
//! Flows in: the engine, a fence and a host. Flows out: an [`Explanation`], from the same scope that
//! the Sidecar is made of. It changes nothing.

use serde::Serialize;
use servicefence_crd::Mode;

use crate::facts::VirtualServiceFacts;
use crate::name::ours::sidecar_name;
use crate::name::{FenceKey, ScopeHost};
use crate::scope::Scope;
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::scope::why::Why;
use crate::workloads::{Fence, HostPattern};

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

impl Scoping<'_> {
    /// Explains a host, written as in `allow`; `None` where there is no such fence.
    pub fn explain(self, key: &FenceKey, host: &str) -> Option<Explanation> {
        let fence = self.fenced.workloads.fences.get(key)?;
        let host = self.full_name(key, host);
        let scope = self.scope_of(fence);
        let imported: Vec<_> = scope.hosts.iter().filter(|(is, _)| *is.name == *host).collect();
        let reasons = imported.iter();
        let reasons = reasons.flat_map(|(import, whys)| whys.iter().map(move |why| (*import, why)));
        let because = reasons.flat_map(|(import, why)| self.because(fence, &scope, import, why));
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
            because: because.collect(),
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

    /// What a reason means for a host.
    fn because(self, fence: &Fence, scope: &Scope, host: &ScopeHost, why: Why) -> Vec<Because> {
        match why {
            Why::ProxyCalls => self.because_of_proxy_calls(fence, host),
            Why::Spec => self.because_allowed(fence, host),
            Why::Learned => self.because_learned(fence, host),
            Why::Policy => self.because_opened(fence, host),
            Why::Headless => self.because_headless(fence, host),
            Why::ServiceEntry => self.because_of_entry(fence, host),
            Why::Connection => self.because_connected(fence, host),
            Why::Covered => self.because_covered(fence, host),
            Why::NonHttp => self.because_not_http(fence),
            Why::Alias => self.because_aliased(fence, scope, host),
            Why::Route => self.because_of_rules(fence, host),
            Why::ExternalName => self.because_of_external_names(host),
            _ => {
                let sentence = why.sentence().into_iter();
                sentence
                    .map(|(source, detail)| Because::new(source, detail))
                    .collect()
            }
        }
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
                } else if fence.is_full() {
                    "the fence has learned as many hosts as it can"
                } else {
                    "nothing allows it and no call to it was seen"
                };
                format!("{host} is not in scope: {why}; {}", self.served(&fence.key, host))
            }
        }
    }

    /// What becomes of calls to a host out of scope.
    fn served(self, key: &FenceKey, host: &str) -> &'static str {
        match self.mesh.services.of_host(host) {
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
        match self.mesh.services.of_host(host) {
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
}
