//! The callers' EnvoyFilter: where a miss goes. One object per namespace, which does the same in all of them.
//!
//! A miss is told by the address that was dialled. Envoy's routes cannot match that address, but they can
//! write it into a header: so what may be a miss goes once more through the same proxy, by a listener inside
//! it with routes that match the header. A network filter in front of the connection manager could tell them
//! too (`set_filter_state`), but to add or remove it ends every HTTP connection of the namespace's pods.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Value, json};
use servicefence_crd::names;

use crate::name::ours::ENVOY_FILTER;
use crate::name::{Cidr, Name};
use crate::render::address::address_pattern;
use crate::render::detection::{detection, tcp_miss};
use crate::render::parts::{ALLOW_ANY, BLOCK_ALL, authority, header, name_pattern, source_header};
use crate::render::second_look::{Ranges, second_look};
use crate::render::{Kind, Object};

/// The EnvoyFilter of a namespace.
pub fn envoy_filter(namespace: &Name, spec: &Value) -> Object {
    Object::new(Kind::EnvoyFilter, namespace, ENVOY_FILTER, spec)
}

/// The spec, in every namespace.
///
/// Known hosts have a virtual host of their own and never reach `allow_any` (or `block_all` where the mesh
/// is `REGISTRY_ONLY`), so the inserted routes see misses only. Those with a Host that may be one of the
/// mesh are looked at by address: to the gateway, or on as Istio would have sent them. All other external
/// names keep Istio's own path. Connections to a Service address on a port number without an HTTP listener
/// are tunnelled, or looked at by their first bytes where some Service may speak HTTP on the number.
pub fn envoy_filter_spec(system_namespace: &Name, ranges: &Ranges<'_>) -> Value {
    let mut patches = vec![
        http_miss(ALLOW_ANY, ranges.services),
        http_miss(BLOCK_ALL, ranges.services),
    ];
    patches.extend(waiting(system_namespace, ranges));
    patches.extend(ranges.services.iter().map(tcp_miss));
    json!({"configPatches": patches})
}

/// The spec for a while before and after: the listeners inside the proxy are there, and nothing leads to
/// them. Istio takes a cluster and a listener from a proxy before the routes that lead to them, and a
/// listener that came is ready after them.
pub fn envoy_filter_standby_spec(system_namespace: &Name, ranges: &Ranges<'_>) -> Value {
    json!({"configPatches": waiting(system_namespace, ranges)})
}

/// The same by other words: a patch more, for a cluster that there is not.
pub fn told_again(spec: &Value) -> Value {
    let mut patches = spec["configPatches"].as_array().cloned().unwrap_or_default();
    patches.push(json!({
        "applyTo": "CLUSTER",
        "match": {"context": "SIDECAR_OUTBOUND", "cluster": {"name": "servicefence-told-again"}},
        "patch": {"operation": "REMOVE"},
    }));
    json!({"configPatches": patches})
}

/// What the others lead to.
fn waiting(system_namespace: &Name, ranges: &Ranges<'_>) -> Vec<Value> {
    let mut patches = second_look(system_namespace, ranges);
    patches.extend(detection(system_namespace, ranges.detected));
    patches
}

/// Leads to the second look what Istio would let pass or refuse, where the Host may be one of the mesh. The
/// route has the catch-all's name, because Istio's metrics take the destination from that name.
fn http_miss(catch_all: &str, services: &BTreeSet<Cidr>) -> Value {
    json!({
        "applyTo": "HTTP_ROUTE",
        "match": {
            "context": "SIDECAR_OUTBOUND",
            "routeConfiguration": {"vhost": {"name": catch_all, "route": {"name": catch_all}}},
        },
        "patch": {
            "operation": "INSERT_FIRST",
            "value": {
                "name": catch_all,
                "match": {"prefix": "/", "headers": [
                    // The second look goes by Istio's routes too, and there is no third.
                    {"name": names::SECOND_LOOK_HEADER, "present_match": true, "invert_match": true},
                    authority(&host_pattern(services)),
                ]},
                "route": {"cluster": ENVOY_FILTER, "timeout": "0s", "max_grpc_timeout": "0s"},
                "request_headers_to_add": [
                    header(names::ORIGINAL_DST_HEADER, "%DOWNSTREAM_LOCAL_ADDRESS%"),
                    source_header(),
                    header(names::SECOND_LOOK_HEADER, "true"),
                ],
            },
        },
    })
}

/// Matches, in whole, what a Host header of the mesh may be: a name, or an address of a Service.
fn host_pattern(services: &BTreeSet<Cidr>) -> String {
    let mut pattern = name_pattern();
    for addresses in services.iter().map(address_pattern) {
        let _ = write!(pattern, "|{addresses}(:[0-9]+)?");
    }
    pattern
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::second_look::tests::second_routes;
    use super::*;

    /// The chart's part, which the headers are for.
    pub(in crate::render) const GATEWAY: &str =
        include_str!("../../../charts/servicefence/templates/fallback/envoyfilter.yaml");

    pub(in crate::render) fn spec(services: &[&str], pods: &[&str]) -> Value {
        let ranges = |of: &[&str]| of.iter().map(|range| range.parse().unwrap()).collect();
        let (services, pods) = (ranges(services), ranges(pods));
        let ranges = Ranges {
            services: &services,
            pods: &pods,
            detected: &[9000].into(),
        };
        envoy_filter_spec(&"system".into(), &ranges)
    }

    pub(in crate::render) fn patches(spec: &Value) -> &Vec<Value> {
        spec["configPatches"].as_array().unwrap()
    }

    /// The route in front of a catch-all.
    fn route(catch_all: &str) -> Value {
        let spec = spec(&["10.96.0.0/16"], &[]);
        let of = |patch: &&Value| patch["match"]["routeConfiguration"]["vhost"]["name"] == catch_all;
        patches(&spec).iter().find(of).unwrap()["patch"]["value"].clone()
    }

    fn added(route: &Value) -> Vec<(&str, &str)> {
        let added = route["request_headers_to_add"].as_array().unwrap();
        added
            .iter()
            .map(|one| {
                assert_eq!(one["append_action"], "OVERWRITE_IF_EXISTS_OR_ADD", "{one}");
                let header = &one["header"];
                (header["key"].as_str().unwrap(), header["value"].as_str().unwrap())
            })
            .collect()
    }

    #[test]
    fn the_first_pass_says_what_it_knows_whatever_the_application_sends() {
        let wanted = [
            ("x-servicefence-original-dst", "%DOWNSTREAM_LOCAL_ADDRESS%"),
            (
                "x-servicefence-source",
                "%ENVIRONMENT(POD_NAMESPACE)%/%ENVIRONMENT(POD_NAME)%",
            ),
            ("x-servicefence-second-look", "true"),
        ];
        for catch_all in ["allow_any", "block_all"] {
            assert_eq!(added(&route(catch_all)), wanted);
        }
    }

    #[test]
    fn no_destination_sees_what_is_added() {
        let whole = spec(&["10.96.0.0/16"], &["10.1.0.0/16"]);
        let removed = |by: &Value, name: &str| {
            let all = by["request_headers_to_remove"].as_array();
            all.is_some_and(|all| all.iter().any(|one| one == name))
        };
        let gateway = GATEWAY.split_once("applyTo: ROUTE_CONFIGURATION").unwrap().1;
        let gateway = gateway.split_once("applyTo:").unwrap().0;
        let (passed, to_gateway): (Vec<_>, Vec<_>) =
            second_routes(&whole).partition(|(operation, _)| *operation == "MERGE");
        assert_eq!((passed.len(), to_gateway.len()), (1, 4));
        for (name, _) in added(&route("allow_any")) {
            assert!(removed(passed[0].1, name), "{name} goes outside");
            let at_gateway = gateway.contains(&format!("\n            - {name}\n"));
            for (_, route) in &to_gateway {
                assert!(
                    removed(route, name) || at_gateway,
                    "{name} goes through the gateway"
                );
            }
        }
    }

    /// As Envoy matches.
    pub(in crate::render) fn is_in_whole(pattern: &str, text: &str) -> bool {
        regex::Regex::new(&format!("^(?:{pattern})$"))
            .unwrap()
            .is_match(text)
    }

    #[test]
    fn what_has_no_name_of_the_mesh_keeps_the_way_that_istio_gives_it() {
        let route = route("allow_any");
        let pattern = route["match"]["headers"][1]["string_match"]["safe_regex"]["regex"]
            .as_str()
            .unwrap();
        for host in [
            "reviews",
            "reviews:80",
            "REVIEWS.books.",
            "reviews.books.svc",
            "reviews.books.svc.cluster.local:8080",
            "peers-0.peers.data",
            "peers-0.peers.data.svc",
            "peers-0.peers.data.svc.cluster.local.",
            "10.96.0.1",
            "10.96.0.1:8080",
        ] {
            assert!(is_in_whole(pattern, host), "{host}");
        }
        for host in [
            "www.shop.example.com",
            "a.b.c.d.svc",
            "a.b.svc.k8s.example",
            "reviews.books.svc.cluster.local.x",
            // Who dials pods by their addresses, and says so, is not looked at.
            "10.1.0.1:8080",
        ] {
            assert!(!is_in_whole(pattern, host), "{host}");
        }
    }

    /// Envoy ends what is in a listener that changes.
    #[test]
    fn the_listeners_are_the_same_whatever_the_ranges_are() {
        let listeners = |spec: &Value| -> Vec<Value> {
            let are = patches(spec)
                .iter()
                .filter(|patch| patch["applyTo"] == "LISTENER");
            are.cloned().collect()
        };
        let without = listeners(&spec(&[], &[]));
        assert_eq!(without.len(), 3);
        for services in [&["10.96.0.0/16"][..], &["10.96.0.0/16", "fd00:10:96::/112"]] {
            assert_eq!(listeners(&spec(services, &["10.1.0.0/16"])), without);
        }
    }

    #[test]
    fn nothing_leads_to_what_stands_by_and_nothing_else_changes() {
        let services = ["10.96.0.0/16".parse().unwrap()].into();
        let ranges = Ranges {
            services: &services,
            pods: &BTreeSet::new(),
            detected: &[9000].into(),
        };
        let (whole, standby) = (
            envoy_filter_spec(&"system".into(), &ranges),
            envoy_filter_standby_spec(&"system".into(), &ranges),
        );
        let gone: Vec<_> = patches(&whole)
            .iter()
            .filter(|patch| !patches(&standby).contains(patch))
            .map(|patch| (&patch["applyTo"], &patch["match"]["routeConfiguration"]["name"]))
            .collect();
        let first_pass = (&json!("HTTP_ROUTE"), &Value::Null);
        let chain = (&json!("FILTER_CHAIN"), &Value::Null);
        assert_eq!(gone, [first_pass, first_pass, chain]);
    }
}
