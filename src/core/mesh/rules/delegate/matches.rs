//! What a root's rule and its delegate's match together.
//!
//! Flows in: the `match` of both. Flows out: the matches of the merged rule (Istio:
//! `mergeHTTPMatchRequests`). Invariant: each is no wider than one of the root's. Where Istio is stricter
//! than that, so is this: a rule that istiod drops must not be carried.

use serde_json::{Map, Value};

use crate::facts::Rule;

/// Matches of one string.
const STRINGS: [&str; 4] = ["uri", "scheme", "method", "authority"];

/// Matches by name.
const MAPS: [&str; 3] = ["headers", "withoutHeaders", "queryParams"];

/// The matches of a rule; none: it matches everything.
pub(super) fn of(rule: &Rule) -> &[Value] {
    let list = rule.get("match").and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

/// One match for each pair that fits. `None` where one of the delegate's fits none of the root's.
pub(super) fn merge(root: &[Value], delegate: &[Value]) -> Option<Vec<Value>> {
    if root.is_empty() || delegate.is_empty() {
        return Some([root, delegate].concat());
    }
    let objects =
        |list: &'_ [Value]| -> Vec<Rule> { list.iter().filter_map(Value::as_object).cloned().collect() };
    let (root, delegate) = (objects(root), objects(delegate));
    let mut merged = Vec::new();
    for leaf in &delegate {
        let before = merged.len();
        let fitting = root.iter().filter(|root| !conflict(root, leaf));
        merged.extend(fitting.map(|root| Value::Object(merge_one(root, leaf))));
        if merged.len() == before {
            return None;
        }
    }
    (!merged.is_empty()).then_some(merged)
}

fn merge_one(root: &Rule, leaf: &Rule) -> Rule {
    let mut merged = leaf.clone();
    super::join_names(root, &mut merged);
    for field in STRINGS {
        if value(leaf, field).is_none() {
            merged.extend(value(root, field).map(|value| (field.to_owned(), value.clone())));
        }
    }
    for field in MAPS.into_iter().chain(["sourceLabels"]) {
        let mut all = map(root, field).cloned().unwrap_or_default();
        all.extend(map(leaf, field).cloned().unwrap_or_default());
        if !all.is_empty() {
            merged.insert(field.to_owned(), Value::Object(all));
        }
    }
    for field in ["port", "sourceNamespace", "gateways", "statPrefix"] {
        if is_unset(leaf.get(field)) && !is_unset(root.get(field)) {
            merged.extend(root.get(field).map(|value| (field.to_owned(), value.clone())));
        }
    }
    merged
}

/// Whether a delegate's match does not fit into a root's (Istio: `hasConflict`).
fn conflict(root: &Rule, leaf: &Rule) -> bool {
    let differ = |root: Option<&Value>, leaf: Option<&Value>| match (root, leaf) {
        (Some(root), Some(leaf)) => strings_conflict(root, leaf),
        _ => false,
    };
    let strings = STRINGS
        .iter()
        .any(|field| differ(value(root, field), value(leaf, field)));
    let maps = MAPS.iter().any(|field| {
        let mut named = map(leaf, field).into_iter().flatten();
        named.any(|(name, leaf)| {
            let root = map(root, field).and_then(|root| value(root, name));
            differ(root, Some(leaf).filter(|leaf| !leaf.is_null()))
        })
    });
    let ignores_case = |one: &Rule| one.get("ignoreUriCase").and_then(Value::as_bool) == Some(true);
    let (from, port) = (root.get("sourceNamespace"), root.get("port"));
    // A delegate that leaves it open is wider than the root, and so in conflict.
    let sources = !is_unset(from) && from != leaf.get("sourceNamespace");
    let ports = !is_unset(port) && !is_unset(leaf.get("port")) && port != leaf.get("port");
    let labels = map(leaf, "sourceLabels")
        .into_iter()
        .flatten()
        .any(|(name, leaf)| {
            let root = map(root, "sourceLabels").and_then(|root| root.get(name));
            root.is_some_and(|root| root != leaf)
        });
    strings
        || maps
        || ignores_case(root) != ignores_case(leaf)
        || ports
        || sources
        || labels
        || gateways_conflict(root, leaf)
}

fn gateways_conflict(root: &Rule, leaf: &Rule) -> bool {
    let gateways = |one| -> &[Value] {
        let list = Rule::get(one, "gateways").and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    };
    let (root, leaf) = (gateways(root), gateways(leaf));
    !root.is_empty()
        && !leaf.is_empty()
        && (root.len() < leaf.len() || leaf.iter().any(|gateway| !root.contains(gateway)))
}

/// Whether a delegate's string is in conflict with a root's (Istio: `stringMatchConflict`). A regular
/// expression is with everything, and so is one that says nothing.
fn strings_conflict(root: &Value, leaf: &Value) -> bool {
    let says = |one: &Value, how: &str| -> Option<String> {
        let text = one.get(how)?.as_str()?;
        (!text.is_empty()).then(|| text.to_owned())
    };
    if says(root, "regex").is_some() || says(leaf, "regex").is_some() {
        return true;
    }
    let (exact, prefix) = (says(leaf, "exact"), says(leaf, "prefix"));
    match (says(root, "exact"), says(root, "prefix")) {
        (Some(root), _) => prefix.is_some() || exact != Some(root),
        (None, Some(root)) => !prefix.or(exact).is_some_and(|leaf| leaf.starts_with(&root)),
        (None, None) => true,
    }
}

fn value<'a>(object: &'a Rule, field: &str) -> Option<&'a Value> {
    object.get(field).filter(|value| !value.is_null())
}

fn map<'a>(object: &'a Rule, field: &str) -> Option<&'a Map<String, Value>> {
    object.get(field).and_then(Value::as_object)
}

/// Whether Istio takes a value as not there: it cannot tell an empty one from none.
fn is_unset(value: Option<&Value>) -> bool {
    value.is_none_or(|value| match value {
        Value::Null => true,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Bool(_) | Value::Object(_) => false,
    })
}
