//! AuthorizationPolicies as declared dependencies.
//!
//! A policy that names certain callers decides otherwise about the fallback gateway: one that allows them
//! refuses the gateway, one that denies them lets it in. It may name a caller in a list of those that it
//! means, or in a `not…` list. Either way this caller must reach the destination directly from the first call
//! on. Where a policy looks at addresses, that holds for every caller. Any policy that asks who calls may
//! refuse a call without mutual TLS, which says nothing of that. Flows in: policies, read for the callers
//! that they name and the pods that they protect. Flows out: whether one names a caller, and whether it
//! protects a Service. In doubt the answer is yes: one host too many in a scope does no harm.
//!
//! <https://istio.io/latest/docs/reference/config/security/authorization-policy/>

use std::collections::BTreeSet;

use servicefence_crd::istio::{
    AuthorizationCondition, AuthorizationPolicySpec, AuthorizationRule, AuthorizationSource,
};

use crate::facts::labels::selected;
use crate::facts::{Labels, ServiceFacts, ServiceKind};
use crate::name::Name;

/// A policy that asks who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFacts {
    /// The pods that it protects; empty: all of its namespace.
    selector: Labels,
    /// Whom its rules name.
    sources: Vec<AuthorizationSource>,
    /// Whether it looks at the caller's address.
    by_address: bool,
    /// Its namespace, to which service accounts without one belong.
    namespace: Name,
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The caller's namespace.
    pub namespace: &'a str,
    /// Service accounts of the caller's pods; `None`: they are not known yet, so it may be any.
    pub accounts: Option<&'a BTreeSet<Name>>,
}

impl PolicyFacts {
    /// Reads a policy; `None` where it decides nothing at a sidecar, or treats all callers alike.
    pub fn of(spec: &AuthorizationPolicySpec, namespace: &str) -> Option<Self> {
        let at_sidecar = spec.target_ref.is_none() && spec.target_refs.is_empty();
        if spec.action == "AUDIT" || !at_sidecar {
            return None;
        }
        let asks = |rule: &AuthorizationRule| !rule.from.is_empty() || !rule.when.is_empty();
        // Only a user's own provider knows whom it lets in.
        let asks = spec.action == "CUSTOM" || spec.rules.iter().any(asks);
        let sources = spec.rules.iter().flat_map(named);
        asks.then(|| Self {
            selector: selected(spec.selector.as_ref()),
            sources: sources.filter(is_particular).collect(),
            by_address: spec.rules.iter().any(looks_at_addresses),
            namespace: namespace.into(),
        })
    }

    /// The namespaces of the callers that it names; `None` where a wildcard or an address leaves them open.
    pub fn caller_namespaces(&self) -> Option<BTreeSet<Name>> {
        if self.by_address {
            return None;
        }
        let mut all = BTreeSet::new();
        for source in &self.sources {
            // What is said must all hold, so one of the three is enough to know the namespaces.
            let accounts = source.service_accounts.iter();
            let of_account = |name: &String| {
                name.split_once('/')
                    .map_or_else(|| self.namespace.clone(), |(of, _)| of.into())
            };
            let of_principal = |pattern: &String| {
                let (_, rest) = pattern.split_once("/ns/")?;
                let (namespace, _) = rest.split_once('/')?;
                (!namespace.contains('*')).then(|| Name::from(namespace))
            };
            let exact = |pattern: &String| (!pattern.contains('*')).then(|| Name::from(pattern.as_str()));
            if !source.service_accounts.is_empty() {
                all.extend(accounts.map(of_account));
            } else if !source.namespaces.is_empty() {
                all.extend(source.namespaces.iter().map(exact).collect::<Option<Vec<_>>>()?);
            } else {
                all.extend(
                    source
                        .principals
                        .iter()
                        .map(of_principal)
                        .collect::<Option<Vec<_>>>()?,
                );
            }
        }
        Some(all)
    }

    /// Whether it may decide otherwise about a caller than about the fallback gateway.
    pub fn names(&self, caller: &Caller<'_>) -> bool {
        self.by_address || self.sources.iter().any(|source| self.holds(source, caller))
    }

    /// Whether a rule of it holds for one of two callers and not for the other.
    pub fn tells_apart(&self, one: &Caller<'_>, other: &Caller<'_>) -> bool {
        let mut sources = self.sources.iter();
        sources.any(|source| self.holds(source, one) != self.holds(source, other))
    }

    fn holds(&self, source: &AuthorizationSource, caller: &Caller<'_>) -> bool {
        let Caller { namespace, accounts } = *caller;
        let all_namespaces = source
            .namespaces
            .iter()
            .any(|pattern| matches(pattern, namespace));
        let is = |account: Option<&Name>| {
            let principal = |pattern: &String| {
                let any = || {
                    pattern
                        .rsplit("/sa/")
                        .next()
                        .unwrap_or_default()
                        .trim_matches('*')
                };
                is_principal(pattern, namespace, account.map_or_else(any, |name| &**name))
            };
            let named = |name: &String| {
                let (of, name) = name.split_once('/').unwrap_or((&self.namespace, name));
                of == namespace && account.is_none_or(|account| *name == **account)
            };
            (source.principals.is_empty() || source.principals.iter().any(principal))
                && (source.service_accounts.is_empty() || source.service_accounts.iter().any(named))
        };
        let by_account = !source.principals.is_empty() || !source.service_accounts.is_empty();
        let is_named = || match accounts {
            Some(accounts) => accounts.iter().any(|account| is(Some(account))),
            None => is(None),
        };
        (source.namespaces.is_empty() || all_namespaces) && (!by_account || is_named())
    }

    /// Whether it may protect the pods of a Service: nothing that is known of them says otherwise.
    pub fn protects(&self, facts: &ServiceFacts) -> bool {
        let fits = |(key, value): (&String, &String)| facts.selector.get(key).is_none_or(|is| is == value);
        facts.kind != ServiceKind::ExternalName && self.selector.iter().all(fits)
    }

    /// Whether it is for certain pods only.
    pub fn has_selector(&self) -> bool {
        !self.selector.is_empty()
    }
}

/// The callers that a rule names: each source that it means, and each of its `not…` lists by itself.
fn named(rule: &AuthorizationRule) -> Vec<AuthorizationSource> {
    // What is said must all hold, so a list with `*`, everybody with an identity, says nothing beside others.
    let particular = |list: &[String]| {
        let is_all = list.iter().any(|pattern| pattern == "*");
        if is_all { Vec::new() } else { list.to_vec() }
    };
    let of_lists = |principals: &[String], namespaces: &[String], accounts: &[String]| AuthorizationSource {
        principals: particular(principals),
        namespaces: particular(namespaces),
        service_accounts: particular(accounts),
        ..AuthorizationSource::default()
    };
    let of_source = |source: &AuthorizationSource| {
        [
            of_lists(&source.principals, &source.namespaces, &source.service_accounts),
            of_lists(&source.not_principals, &[], &[]),
            of_lists(&[], &source.not_namespaces, &[]),
            of_lists(&[], &[], &source.not_service_accounts),
        ]
    };
    let sources = rule.from.iter().flat_map(|from| of_source(&from.source));
    let of_condition = |condition: &AuthorizationCondition| {
        [&condition.values, &condition.not_values].map(|values| match condition.key.as_str() {
            "source.principal" => of_lists(values, &[], &[]),
            "source.namespace" => of_lists(&[], values, &[]),
            "source.serviceAccount" => of_lists(&[], &[], values),
            _ => AuthorizationSource::default(),
        })
    };
    sources.chain(rule.when.iter().flat_map(of_condition)).collect()
}

fn looks_at_addresses(rule: &AuthorizationRule) -> bool {
    let by_source = |source: &AuthorizationSource| {
        let lists = [
            &source.ip_blocks,
            &source.not_ip_blocks,
            &source.remote_ip_blocks,
            &source.not_remote_ip_blocks,
        ];
        lists.iter().any(|list| !list.is_empty())
    };
    let mut conditions = rule.when.iter();
    rule.from.iter().any(|from| by_source(&from.source))
        || conditions.any(|condition| matches!(condition.key.as_str(), "source.ip" | "remote.ip"))
}

/// Whether a source names somebody.
fn is_particular(source: &AuthorizationSource) -> bool {
    let lists = [&source.principals, &source.namespaces, &source.service_accounts];
    lists.iter().any(|list| !list.is_empty())
}

/// Istio's matching of strings: exact, `prefix*` or `*suffix`.
pub(crate) fn matches(pattern: &str, value: &str) -> bool {
    if let Some(suffix) = pattern.strip_prefix('*') {
        return value.ends_with(suffix);
    }
    match pattern.strip_suffix('*') {
        Some(prefix) => value.starts_with(prefix),
        None => pattern == value,
    }
}

/// Whether a pattern of principals, `<trust domain>/ns/<namespace>/sa/<account>`, can mean an account in
/// whatever trust domain.
fn is_principal(pattern: &str, namespace: &str, account: &str) -> bool {
    let rest = format!("/ns/{namespace}/sa/{account}");
    if let Some(suffix) = pattern.strip_prefix('*') {
        return rest.ends_with(suffix) || suffix.ends_with(&rest);
    }
    match pattern.find("/ns/") {
        Some(at) => matches(&pattern[at..], &rest),
        None => pattern.ends_with('*'),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(source: &serde_json::Value, namespace: &str, account: &str) -> bool {
        let facts = facts(source);
        let accounts = BTreeSet::from([Name::from(account)]);
        let caller = Caller {
            namespace,
            accounts: Some(&accounts),
        };
        let named = facts.as_ref().is_some_and(|facts| facts.names(&caller));
        let of = facts.and_then(|facts| facts.caller_namespaces());
        assert!(!named || of.is_none_or(|of| of.contains(namespace)), "{source}");
        named
    }

    fn facts(source: &serde_json::Value) -> Option<PolicyFacts> {
        let spec = json!({"rules": [{"from": [{"source": source}]}]});
        PolicyFacts::of(&serde_json::from_value(spec).unwrap(), "books")
    }

    #[test]
    fn a_policy_is_found_by_the_namespaces_of_those_whom_it_names() {
        let of = |source: serde_json::Value| {
            let of = facts(&source).unwrap().caller_namespaces()?;
            Some(of.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let some = |names: &str| Some(names.to_owned());
        assert_eq!(of(json!({"namespaces": ["shop", "till"]})), some("shop till"));
        assert_eq!(
            of(json!({"principals": ["td/ns/shop/sa/*", "*/ns/till/sa/pos"]})),
            some("shop till")
        );
        assert_eq!(
            of(json!({"serviceAccounts": ["web", "shop/web"]})),
            some("books shop")
        );
        assert_eq!(of(json!({"namespaces": ["shop", "t*"]})), None);
        assert_eq!(of(json!({"principals": ["*/sa/web"]})), None);
    }

    #[test]
    fn callers_are_named_as_istio_does() {
        for source in [
            json!({"principals": ["cluster.local/ns/shop/sa/web"]}),
            json!({"principals": ["other/ns/x/sa/y", "td/ns/shop/sa/web"]}),
            json!({"principals": ["*/ns/shop/sa/web"]}),
            json!({"principals": ["*/sa/web"]}),
            json!({"principals": ["cluster.local/ns/shop/*"]}),
            json!({"namespaces": ["shop"]}),
            json!({"namespaces": ["sh*"]}),
            json!({"serviceAccounts": ["shop/web"]}),
            json!({"namespaces": ["shop"], "principals": ["cluster.local/ns/shop/sa/web"]}),
            json!({"notNamespaces": ["shop"]}),
            json!({"namespaces": ["*"], "notPrincipals": ["cluster.local/ns/shop/sa/web"]}),
            json!({"notServiceAccounts": ["shop/web"]}),
            json!({"ipBlocks": ["10.0.0.0/8"]}),
            json!({"notRemoteIpBlocks": ["10.0.0.0/8"]}),
        ] {
            assert!(names(&source, "shop", "web"), "{source}");
        }
        for source in [
            json!({"principals": ["cluster.local/ns/shop/sa/cart"]}),
            json!({"principals": ["cluster.local/ns/books/sa/web"]}),
            json!({"principals": ["*/sa/cart"]}),
            json!({"principals": ["*"]}),
            json!({"namespaces": ["books"]}),
            json!({"namespaces": ["*"]}),
            json!({"serviceAccounts": ["web"]}),
            json!({"namespaces": ["books"], "principals": ["cluster.local/ns/shop/sa/web"]}),
            json!({"notNamespaces": ["books"]}),
            json!({}),
        ] {
            assert!(!names(&source, "shop", "web"), "{source}");
        }
        assert!(names(&json!({"serviceAccounts": ["web"]}), "books", "web"));
    }

    #[test]
    fn only_what_decides_at_a_sidecar_counts() {
        let accounts = BTreeSet::new();
        let shop = Caller {
            namespace: "shop",
            accounts: Some(&accounts),
        };
        let from = json!([{"from": [{"source": {"namespaces": ["shop"]}}]}]);
        let edge = json!({"targetRefs": [{"kind": "Gateway", "name": "edge"}]});
        for (more, counts, names) in [
            (json!({}), true, true),
            (json!({"action": "ALLOW"}), true, true),
            (json!({"action": "DENY"}), true, true),
            (json!({"action": "CUSTOM"}), true, true),
            (json!({"action": "AUDIT"}), false, false),
            (edge, false, false),
        ] {
            let mut spec = more.clone();
            spec["rules"] = from.clone();
            let spec: AuthorizationPolicySpec = serde_json::from_value(spec).unwrap();
            let facts = PolicyFacts::of(&spec, "books");
            let named = facts.as_ref().is_some_and(|facts| facts.names(&shop));
            assert_eq!((facts.is_some(), named), (counts, names), "{more}");
        }
    }

    #[test]
    fn conditions_name_callers_as_sources_do() {
        let accounts = BTreeSet::from([Name::from("web")]);
        let shop = Caller {
            namespace: "shop",
            accounts: Some(&accounts),
        };
        for (condition, names) in [
            (json!({"key": "source.namespace", "values": ["shop"]}), true),
            (json!({"key": "source.namespace", "notValues": ["shop"]}), true),
            (json!({"key": "source.namespace", "values": ["till"]}), false),
            (
                json!({"key": "source.principal", "values": ["*/ns/shop/sa/web"]}),
                true,
            ),
            (
                json!({"key": "source.serviceAccount", "values": ["shop/web"]}),
                true,
            ),
            (json!({"key": "source.ip", "values": ["10.0.0.1"]}), true),
            (json!({"key": "request.headers[x]", "values": ["shop"]}), false),
        ] {
            let spec = json!({"action": "DENY", "rules": [{"when": [condition]}]});
            let facts = PolicyFacts::of(&serde_json::from_value(spec).unwrap(), "books").unwrap();
            assert_eq!(facts.names(&shop), names, "{condition}");
        }
    }

    #[test]
    fn a_policy_asks_who_calls_unless_its_rules_are_about_the_request_alone() {
        for (spec, asks) in [
            (json!({}), false),
            (
                json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}),
                false,
            ),
            (
                json!({"action": "DENY", "rules": [{"from": [{"source": {"notPrincipals": ["*"]}}]}]}),
                true,
            ),
            (
                json!({"rules": [{"when": [{"key": "source.namespace", "values": ["shop"]}]}]}),
                true,
            ),
            (json!({"action": "CUSTOM", "rules": [{}]}), true),
        ] {
            let is: AuthorizationPolicySpec = serde_json::from_value(spec.clone()).unwrap();
            assert_eq!(PolicyFacts::of(&is, "books").is_some(), asks, "{spec}");
        }
    }
}
