//! What a match of a user's rule says of gateways and callers.

use serde_json::{Map, Value};

use crate::name::Name;

/// The matches of a rule; none: it is for every request.
pub(super) fn matches_of(rule: &Map<String, Value>) -> &[Value] {
    let matches = rule.get("match").and_then(Value::as_array);
    matches.map_or(&[], Vec::as_slice)
}

/// Whether it counts who calls: not where gateways are named, `mesh` among them (istiod: `sourceMatchHTTP`).
pub(super) fn asks_who_calls(one: &Map<String, Value>) -> bool {
    gateways_of(one).is_empty()
}

/// The gateways that a match names.
pub(super) fn gateways_of(one: &Map<String, Value>) -> &[Value] {
    let gateways = one.get("gateways").and_then(Value::as_array);
    gateways.map_or(&[], Vec::as_slice)
}

/// The callers, of those who see a rule, that one of its matches is about.
pub(super) fn callers_of<'a>(
    one: &'a Map<String, Value>,
    callers: &[Option<&'a Name>],
) -> Vec<Option<&'a str>> {
    let from = one.get("sourceNamespace").filter(|_| asks_who_calls(one));
    let from = from.and_then(Value::as_str).filter(|from| !from.is_empty());
    let seen_by = callers.iter().map(|caller| caller.map(|name| &**name));
    seen_by
        .filter(|seen_by| seen_by.is_none() || from.is_none() || *seen_by == from)
        .map(|seen_by| from.or(seen_by))
        .collect()
}

/// The object at `key`, made where there is none.
pub(super) fn child<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = parent.entry(key).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    #[allow(clippy::expect_used, reason = "the line above made it an object")]
    value.as_object_mut().expect("an object")
}
