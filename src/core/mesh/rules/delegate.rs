//! Delegates: the rules that a VirtualService takes from another one.
//!
//! Flows in: the HTTP rules of a root, and of the VirtualServices without hosts that they name in `delegate`.
//! Flows out: the rules that apply instead, as istiod merges them (`mergeVirtualServices`,
//! `MergeHTTPRoutes`). Invariant: merged rules mean the same in any namespace, for all their hosts and
//! gateways are written in full.

mod matches;

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::facts::Rule;
use crate::name::{ConfigKey, qualify};

/// What a rule of a delegate has of the root's where it says nothing itself, each under all its names.
const INHERITED: [&[&str]; 11] = [
    &["rewrite"],
    &["directResponse"],
    &["timeout"],
    &["retries"],
    &["fault"],
    &["mirror"],
    &["mirrorPercent", "mirror_percent"],
    &["mirrorPercentage"],
    &["corsPolicy"],
    &["mirrors"],
    &["headers"],
];

/// The delegates that rules of a VirtualService in `namespace` name.
pub fn named_by(http: &[Rule], namespace: &str) -> BTreeSet<ConfigKey> {
    http.iter()
        .filter_map(|rule| named_by_rule(rule, namespace))
        .collect()
}

fn named_by_rule(rule: &Rule, namespace: &str) -> Option<ConfigKey> {
    let delegate = set(rule, "delegate")?;
    let of = delegate["namespace"].as_str().filter(|of| !of.is_empty());
    let name = delegate["name"].as_str().unwrap_or_default();
    Some(ConfigKey::new(of.unwrap_or(namespace), name))
}

/// The rules that apply in place of those of a root in `namespace`. `rules_of` has the rules of a delegate
/// that the root may use; only a rule with a delegate that has none is left out.
pub fn effective<'a>(
    http: &[Rule],
    namespace: &str,
    rules_of: impl Fn(&ConfigKey) -> Option<&'a [Rule]>,
) -> Vec<Rule> {
    let mut effective = Vec::new();
    for rule in http {
        let Some(delegate) = named_by_rule(rule, namespace) else {
            effective.push(rule.clone());
            continue;
        };
        let mut root = rule.clone();
        qualify_all(&mut root, namespace);
        for rule in rules_of(&delegate).into_iter().flatten() {
            let mut rule = rule.clone();
            qualify_all(&mut rule, &delegate.namespace);
            effective.extend(merge(&root, rule));
        }
    }
    effective
}

/// A root's rule and one of its delegate in one; `None` where the two never hold together.
fn merge(root: &Rule, mut delegate: Rule) -> Option<Rule> {
    let matches = matches::merge(matches::of(root), matches::of(&delegate))?;
    if matches.is_empty() {
        delegate.remove("match");
    } else {
        delegate.insert("match".into(), Value::Array(matches));
    }
    join_names(root, &mut delegate);
    for names in INHERITED {
        if names.iter().any(|name| set(&delegate, name).is_some()) {
            continue;
        }
        let inherited = names
            .iter()
            .find_map(|name| Some(((*name).to_owned(), set(root, name)?.clone())));
        delegate.extend(inherited);
    }
    // Of several answers Istio takes the first of these, and refuses to store a rule with two.
    let answers = ["redirect", "directResponse", "route"];
    if let Some(answer) = answers.iter().position(|answer| set(&delegate, answer).is_some()) {
        for never in &answers[answer + 1..] {
            delegate.remove(*never);
        }
        if answers[answer] != "route" {
            delegate.remove("rewrite");
        }
    }
    Some(delegate)
}

/// Whether Istio would refuse a rule that it has made itself: it merges without asking whether the result may
/// be written in one VirtualService (`validateHTTPRoute`).
pub fn is_refused(rule: &Rule) -> bool {
    let has = |name: &str| set(rule, name).is_some();
    let fault_without_route = has("fault") && (has("redirect") || has("directResponse"));
    let rewritten = rule.get("rewrite").map(|rewrite| &rewrite["authority"]);
    let rewritten = rewritten
        .and_then(Value::as_str)
        .is_some_and(|authority| !authority.is_empty());
    let request = rule.get("headers").map(|headers| &headers["request"]);
    let headers = ["set", "add"]
        .into_iter()
        .filter_map(|how| request?.get(how)?.as_object())
        .flat_map(Map::keys)
        .filter(|name| name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host"));
    let rewrites_prefix = rule
        .get("redirect")
        .and_then(|redirect| redirect["prefixRewrite"].as_str())
        .is_some_and(|prefix| !prefix.is_empty());
    let no_prefix = |uri: &Value| uri.is_object() && uri.get("prefix").is_none();
    fault_without_route
        || (has("mirror") && has("mirrors"))
        || headers.count() + usize::from(rewritten) > 1
        || (rewrites_prefix && matches::of(rule).iter().any(|one| no_prefix(&one["uri"])))
}

/// `root-delegate`.
fn join_names(root: &Rule, delegate: &mut Rule) {
    let name = |rule: &Rule| {
        let name = rule.get("name").and_then(Value::as_str);
        name.filter(|name| !name.is_empty()).map(ToOwned::to_owned)
    };
    let names: Vec<_> = name(root).into_iter().chain(name(delegate)).collect();
    if !names.is_empty() {
        delegate.insert("name".into(), Value::from(names.join("-")));
    }
}

/// What an object says under a name. Istio cannot tell an empty list from none.
fn set<'a>(object: &'a Rule, name: &str) -> Option<&'a Value> {
    let value = object.get(name)?;
    let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    (!is_empty).then_some(value)
}

/// Writes in full what is short for something of `namespace` (Istio: `ResolveVirtualServiceShortnames`).
fn qualify_all(rule: &mut Rule, namespace: &str) {
    for list in ["route", "mirrors"] {
        let routes = rule.get_mut(list).and_then(Value::as_array_mut);
        for route in routes.into_iter().flatten() {
            if let Some(destination) = route.get_mut("destination") {
                qualify_host(destination, namespace);
            }
        }
    }
    if let Some(mirror) = rule.get_mut("mirror") {
        qualify_host(mirror, namespace);
    }
    let matches = rule.get_mut("match").and_then(Value::as_array_mut);
    for one in matches.into_iter().flatten() {
        let gateways = one.get_mut("gateways").and_then(Value::as_array_mut);
        for gateway in gateways.into_iter().flatten() {
            if let Some(full) = gateway.as_str().map(|name| full_gateway(name, namespace)) {
                *gateway = full.into();
            }
        }
    }
}

fn qualify_host(destination: &mut Value, namespace: &str) {
    if let Some(host) = destination.get_mut("host")
        && let Some(full) = host.as_str().map(|name| qualify(name, namespace))
    {
        *host = Value::from(&*full);
    }
}

/// A Gateway as `namespace/name` (Istio: `resolveGatewayName`).
fn full_gateway(name: &str, namespace: &str) -> String {
    match (name.split_once('/'), name.split_once('.')) {
        _ if name == "mesh" => name.to_owned(),
        (Some((".", name)), _) => format!("{namespace}/{name}"),
        (Some(_), _) => name.to_owned(),
        // Its host, in an old way of writing.
        (None, Some((name, rest))) => format!("{}/{name}", rest.split('.').next().unwrap_or(rest)),
        (None, None) => format!("{namespace}/{name}"),
    }
}

#[cfg(test)]
mod tests;
