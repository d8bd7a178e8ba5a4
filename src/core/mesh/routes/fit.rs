//! Whether a rule that istiod makes of a route may be written into a VirtualService.
//!
//! istiod does not ask that of its own, and Istio's webhook does of ours. It refuses an object for one rule,
//! and with it all rules of the namespace.

mod regex;

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::facts::Rule;
use crate::mesh::rules::delegate;
use crate::name::is_dns_name;

/// Most bytes of a rule. A route has many matches, and a rule is made for each of them and for each port.
const LARGEST: usize = 32 * 1024;

/// The statuses after which requests can be tried again: those that have a name.
const STATUSES: [RangeInclusive<u16>; 7] = [
    400..=418,
    421..=426,
    428..=429,
    431..=431,
    451..=451,
    500..=508,
    510..=511,
];

/// What stands in the way.
pub(super) fn why_not(rule: &Rule) -> Option<&'static str> {
    if hosts(rule).any(|host| host.is_none()) {
        return Some("one of its backends is neither a Service nor a Hostname");
    }
    if !hosts(rule).flatten().all(is_dns_name) {
        return Some("the name of one of its backends is no DNS name");
    }
    if !regexes(rule).all(regex::is_taken) {
        return Some("it has a regular expression that Istio refuses in a VirtualService");
    }
    if delegate::is_refused(rule) {
        return Some("it changes the host twice");
    }
    if rule
        .get("rewrite")
        .is_some_and(|rewrite| rewrite["uriRegexRewrite"]["rewrite"] == "")
    {
        return Some("it replaces the path with nothing, which Istio refuses in a VirtualService");
    }
    if changes_host(rule) {
        return Some("it changes the header host in a way that Istio refuses in a VirtualService");
    }
    if removed(rule).any(|name| name.is_empty() || name.starts_with(':')) {
        return Some("it removes a header by a name that no header has");
    }
    if values(rule).any(|value| value.contains('%')) {
        return Some("it sets a header to a value with %, which Envoy takes for a command");
    }
    let attempts = rule
        .get("retries")
        .and_then(|retries| retries["attempts"].as_u64());
    if attempts.is_some_and(|attempts| i32::try_from(attempts).is_err()) {
        return Some("it tries again more often than a VirtualService can say");
    }
    let again_after = rule
        .get("retries")
        .and_then(|retries| retries["retryOn"].as_str());
    let statuses = again_after.into_iter().flat_map(|list| list.split(','));
    let mut statuses = statuses.filter_map(|one| one.parse::<u16>().ok());
    if statuses.any(|status| !STATUSES.iter().any(|known| known.contains(&status))) {
        return Some("it retries after a status that Istio does not know");
    }
    if json!(rule).to_string().len() > LARGEST {
        return Some("it is too large to share an object with the other rules of the namespace");
    }
    None
}

fn items<'a>(rule: &'a Rule, list: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    rule.get(list).and_then(Value::as_array).into_iter().flatten()
}

/// The hosts that it sends requests to; `None`: something that has none.
fn hosts(rule: &Rule) -> impl Iterator<Item = Option<&str>> {
    let all = items(rule, "route").chain(items(rule, "mirrors"));
    all.map(|to| to["destination"]["host"].as_str().filter(|host| !host.is_empty()))
}

fn regexes(rule: &Rule) -> impl Iterator<Item = &str> {
    let in_match = items(rule, "match").flat_map(|one| {
        let maps = ["headers", "queryParams"]
            .into_iter()
            .filter_map(|map| one[map].as_object());
        maps.flat_map(|map| map.values()).chain([&one["uri"]])
    });
    let origins = rule
        .get("corsPolicy")
        .and_then(|cors| cors["allowOrigins"].as_array());
    in_match
        .chain(origins.into_iter().flatten())
        .filter_map(|text| text["regex"].as_str())
}

/// The changes that it makes to headers of requests and answers: for whom, and what.
fn changes(rule: &Rule) -> impl Iterator<Item = (&'static str, &Value)> {
    let own = rule.get("headers").into_iter();
    let all = own.chain(items(rule, "route").map(|to| &to["headers"]));
    all.flat_map(|headers| ["request", "response"].map(|side| (side, &headers[side])))
}

/// The headers that it removes.
fn removed(rule: &Rule) -> impl Iterator<Item = &str> {
    let lists = changes(rule).filter_map(|(_, change)| change["remove"].as_array());
    lists.flatten().filter_map(Value::as_str)
}

/// Whether it drops the host, or gives one to an answer. To give one to a request is to rewrite it.
fn changes_host(rule: &Rule) -> bool {
    let is_host = |name: &str| name.eq_ignore_ascii_case("host");
    let mut of_answers = changes(rule).filter(|(side, _)| *side == "response");
    removed(rule).any(is_host)
        || of_answers.any(|(_, change)| {
            let mut given = ["set", "add"]
                .into_iter()
                .filter_map(|how| change[how].as_object());
            given.any(|headers| headers.keys().any(|name| is_host(name)))
        })
}

/// The values that it gives to headers.
pub fn values(rule: &Rule) -> impl Iterator<Item = &str> {
    let given = changes(rule).flat_map(|(_, change)| ["set", "add"].map(|how| &change[how]));
    given
        .filter_map(Value::as_object)
        .flat_map(|headers| headers.values().filter_map(Value::as_str))
}
