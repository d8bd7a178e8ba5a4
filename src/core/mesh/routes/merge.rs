//! All routes of a namespace that are bound to one Service, as one VirtualService.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::facts::route::Parent;
use crate::facts::{
    MadeOf, RouteFacts, RouteKey, Rule, VirtualServiceFacts, Visibility, destinations, destinations_outside,
};
use crate::mesh::routes::fit;

/// What istiod makes of routes of `namespace`.
pub(super) fn virtual_service<'a>(
    parent: &Parent,
    namespace: &str,
    routes: impl Iterator<Item = (&'a RouteKey, &'a RouteFacts)>,
) -> VirtualServiceFacts {
    let mut routes: Vec<_> = routes.collect();
    // istiod names what it makes of each `<route>~…`, and sorts by that (`sortRoutesByCreationTime`).
    routes.sort_by_cached_key(|(key, facts)| (facts.created, format!("{}~", key.config.name), *key));
    let created = routes.first().map(|(_, facts)| facts.created);
    let rules = routes
        .iter()
        .flat_map(|(key, facts)| facts.rules.iter().map(|rule| (*key, rule)));
    let mut rules: Vec<_> = rules.collect();
    // Rules of equal precedence stay in the order of their routes, and of the rules in these.
    rules.sort_by_key(|(_, rule)| Reverse(precedence(rule)));
    let (mut http, mut made_of) = (Vec::new(), Vec::new());
    for (route, rule) in rules {
        for mut rule in separated(rule) {
            if let Some(port) = parent.port {
                bind_to_port(&mut rule, port);
            }
            made_of.push(MadeOf {
                route: route.clone(),
                unfit: fit::why_not(&rule),
            });
            http.push(rule);
        }
    }
    VirtualServiceFacts {
        hosts: vec![parent.service.host()],
        mesh: true,
        visibility: Visibility::All,
        exported_by_default: true,
        exported_to: Visibility::All,
        destinations: destinations(&http, namespace),
        leads_connections: false,
        of_connections: BTreeSet::new(),
        outside: destinations_outside(&http, namespace),
        http,
        made_of,
        created: created.unwrap_or_default(),
    }
}

fn the_match(rule: &Rule) -> Option<&Map<String, Value>> {
    rule.get("match")?.get(0)?.as_object()
}

/// Which of two rules is asked first, the greater one (Istio: `sortHTTPRoutes`). A rule has one match at
/// most.
fn precedence(rule: &Rule) -> (bool, usize, usize, bool, usize, usize) {
    let Some(matched) = the_match(rule) else {
        return (false, 0, 0, false, 0, 0);
    };
    let uri = ["regex", "prefix", "exact"]
        .into_iter()
        .enumerate()
        .find_map(|(rank, how)| Some((rank + 1, matched.get("uri")?.get(how)?.as_str()?.len())));
    let (rank, length) = uri.unwrap_or_default();
    let count = |of: &str| matched.get(of).and_then(Value::as_object).map_or(0, Map::len);
    (
        true,
        rank,
        length,
        matched.contains_key("method"),
        count("headers"),
        count("queryParams"),
    )
}

/// A rule in words of a VirtualService. A prefix of Gateway API ends where a part of the path does, which a
/// VirtualService can only say as the path itself and what is below it.
fn separated(rule: &Rule) -> Vec<Rule> {
    let uri = the_match(rule).and_then(|matched| matched.get("uri"));
    let prefix = uri
        .and_then(|uri| uri["prefix"].as_str())
        .map(|prefix| prefix.trim_end_matches('/'));
    let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty()) else {
        return vec![rule.clone()];
    };
    let with = |uri: Value| {
        let mut rule = rule.clone();
        rule["match"][0]["uri"] = uri;
        rule
    };
    let mut itself = with(json!({"exact": prefix}));
    let mut below = with(json!({"prefix": format!("{prefix}/")}));
    let text = |of: &str, field: &str| rule.get(of).and_then(|of| of[field].as_str());
    if let Some(to) = text("rewrite", "uri") {
        below["rewrite"]["uri"] = format!("{}/", to.trim_end_matches('/')).into();
    } else if let Some(to) = text("redirect", "prefixRewrite") {
        // istiod leaves a slash at its end where it is (`createRedirectFilter`).
        below["redirect"]["prefixRewrite"] = format!("{to}/").into();
        // Istio takes a new prefix for a match by prefix only.
        let to = to.to_owned();
        if let Some(redirect) = itself.get_mut("redirect").and_then(Value::as_object_mut) {
            redirect.remove("prefixRewrite");
            redirect.insert("uri".into(), to.into());
        }
    } else {
        let matches = [&itself, &below].map(|rule| rule["match"][0].clone());
        itself["match"] = matches.into_iter().collect();
        return vec![itself];
    }
    vec![itself, below]
}

fn bind_to_port(rule: &mut Rule, port: u16) {
    let matches = rule.entry("match").or_insert_with(|| json!([{}]));
    for one in matches.as_array_mut().into_iter().flatten() {
        one["port"] = port.into();
    }
}
