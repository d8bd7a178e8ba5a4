//! The second look at what may be a miss, inside the caller's proxy: a cluster that leads to a listener that
//! has Istio's own routes of one port number, and in front of their catch-all ours, which match the address
//! that was dialled. The first pass has written it into a header.
//!
//! The listener never changes, so that no request in it is cut when ranges do. And what is not of the mesh
//! meets Istio's own catch-all, whatever that does: pass, refuse, or take an `egressProxy`.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use servicefence_crd::names;

use crate::name::ours::ENVOY_FILTER;
use crate::name::{Cidr, Name};
use crate::render::address::address_pattern;
use crate::render::parts::{
    ALLOW_ANY, BLOCK_ALL, added, authority, cluster, internal_endpoint, name_pattern, other_gateway,
    unlimited,
};

/// Istio's routes by which the second look goes, by name: those of the gateway's port number, which every
/// proxy has that can reach the gateway.
const ROUTES: u16 = names::FALLBACK_PORT;

/// The addresses of the mesh, and the port numbers that need a look.
#[derive(Clone, Copy)]
pub struct Ranges<'a> {
    /// Of Services.
    pub services: &'a BTreeSet<Cidr>,
    /// Of pods: headless Services have no other addresses, and clients that balance by themselves dial them.
    pub pods: &'a BTreeSet<Cidr>,
    /// Port numbers on which only the first bytes tell whether a connection is HTTP.
    pub detected: &'a BTreeSet<u16>,
}

/// The patches for it. Of those that insert, the last one stands first.
pub(super) fn second_look(system_namespace: &Name, ranges: &Ranges<'_>) -> Vec<Value> {
    let mut patches = vec![
        added("CLUSTER", &way_in()),
        added("LISTENER", &listener()),
        passed(),
    ];
    let route = |name, headers: Vec<Value>| to_gateway(system_namespace, name, &headers);
    // Istio finds a pod by a name only: what names its address passes, with a fence or without.
    let pods = dialled(ranges.pods)
        .map(|dialled| route("servicefence-pods", vec![dialled, authority(&name_pattern())]));
    let services = dialled(ranges.services).map(|dialled| route("servicefence-services", vec![dialled]));
    for catch_all in [ALLOW_ANY, BLOCK_ALL] {
        let routes = pods.iter().chain(&services);
        patches.extend(routes.map(|route| second_route(catch_all, "INSERT_FIRST", route)));
    }
    patches
}

/// A patch of a catch-all of the second look.
fn second_route(catch_all: &str, operation: &str, value: &Value) -> Value {
    json!({
        "applyTo": "HTTP_ROUTE",
        "match": {
            "context": "SIDECAR_OUTBOUND",
            "routeConfiguration": {
                "name": ROUTES.to_string(),
                "vhost": {"name": catch_all, "route": {"name": catch_all}},
            },
        },
        "patch": {"operation": operation, "value": value},
    })
}

/// Removes the headers of the first pass from calls that leave the mesh.
fn passed() -> Value {
    let remove = [
        names::ORIGINAL_DST_HEADER,
        names::SOURCE_HEADER,
        names::SECOND_LOOK_HEADER,
    ];
    second_route(ALLOW_ANY, "MERGE", &json!({"request_headers_to_remove": remove}))
}

fn to_gateway(system_namespace: &Name, name: &str, headers: &[Value]) -> Value {
    json!({
        "name": name,
        "match": {"prefix": "/", "headers": headers},
        "route": {
            "cluster": cluster(system_namespace, names::FALLBACK_PORT),
            "timeout": "0s",
            "retry_policy": other_gateway(),
        },
        "request_headers_to_remove": [names::SECOND_LOOK_HEADER],
    })
}

fn way_in() -> Value {
    json!({
        "name": ENVOY_FILTER,
        "type": "STATIC",
        "circuit_breakers": unlimited(),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"max_headers_count": MOST_HEADERS},
                "use_downstream_protocol_config": {
                    "http_protocol_options": {"header_key_format": as_written()},
                    "http2_protocol_options": {},
                },
            },
        },
        "load_assignment": internal_endpoint(ENVOY_FILTER),
    })
}

/// No more headers fit into [`LARGEST_HEADERS`].
const MOST_HEADERS: u32 = 10_000;

/// In KiB: the most that Envoy takes.
const LARGEST_HEADERS: u32 = 8192;

/// Names of headers keep the case in which they come, where they come in any.
fn as_written() -> Value {
    json!({"stateful_formatter": {
        "name": "preserve_case",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
        },
    }})
}

fn listener() -> Value {
    json!({
        "name": ENVOY_FILTER,
        "internal_listener": {},
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": connection_manager(),
        }]}],
    })
}

/// It changes nothing of a request and sets no limits: the connection manager of the first pass has done
/// both.
fn connection_manager() -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": ENVOY_FILTER,
        "server_header_transformation": "PASS_THROUGH",
        "skip_xff_append": true,
        "generate_request_id": false,
        "preserve_external_request_id": true,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "proxy_100_continue": true,
        "max_request_headers_kb": LARGEST_HEADERS,
        // Only the first connection manager closes what is idle: closed from here, the next request would be
        // lost.
        "common_http_protocol_options": {"idle_timeout": "0s", "max_headers_count": MOST_HEADERS},
        "http_protocol_options": {"header_key_format": as_written()},
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [
            {
                "name": "servicefence-original-dst",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config",
                    "on_request_headers": [{
                        "object_key": "envoy.network.transport_socket.original_dst_address",
                        "format_string": {"text_format_source": {
                            "inline_string": format!("%REQ({})%", names::ORIGINAL_DST_HEADER),
                        }},
                    }],
                },
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": true,
                },
            },
        ],
        "rds": {
            "config_source": {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"},
            "route_config_name": ROUTES.to_string(),
        },
    })
}

/// Matches what was dialled, as Envoy writes it, where it is in one of these ranges; `None` where there are
/// none.
fn dialled(ranges: &BTreeSet<Cidr>) -> Option<Value> {
    let addresses: Vec<_> = ranges.iter().map(address_pattern).collect();
    let pattern = format!("({}):[0-9]+", addresses.join("|"));
    (!addresses.is_empty()).then(
        || json!({"name": names::ORIGINAL_DST_HEADER, "string_match": {"safe_regex": {"regex": pattern}}}),
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::envoy_filter::tests::{GATEWAY, is_in_whole, patches, spec};
    use super::*;

    /// The part of the chart with the gateway's way to addresses without a rule.
    const PASSTHROUGH: &str = include_str!("../../../charts/servicefence/templates/_helpers.tpl");

    /// The gateway refuses no headers that the second look lets pass.
    #[test]
    fn the_gateway_has_the_same_limits_of_headers() {
        let times = |text: &str, limit: String| text.matches(&limit).count();
        assert_eq!(
            times(GATEWAY, format!("max_request_headers_kb: {LARGEST_HEADERS}\n")),
            1
        );
        for text in [GATEWAY, PASSTHROUGH] {
            assert_eq!(times(text, format!("max_headers_count: {MOST_HEADERS}\n")), 1);
        }
    }

    /// What is done to the routes of the second look, in the order in which they match.
    pub(in crate::render) fn second_routes(spec: &Value) -> impl Iterator<Item = (&str, &Value)> {
        let of = |patch: &&Value| patch["match"]["routeConfiguration"]["name"] == "15080";
        let patches = patches(spec).iter().filter(of).rev();
        patches.map(|patch| {
            (
                patch["patch"]["operation"].as_str().unwrap(),
                &patch["patch"]["value"],
            )
        })
    }

    /// Where the second look sends what is dialled, by Host: the route that matches, of one catch-all.
    fn looked_at<'a>(spec: &'a Value, dialled: &str, host: &str) -> &'a str {
        let is_matched = |header: &Value| {
            let value = match header["name"].as_str().unwrap() {
                ":authority" => host,
                "x-servicefence-original-dst" => dialled,
                other => panic!("{other}"),
            };
            is_in_whole(
                header["string_match"]["safe_regex"]["regex"].as_str().unwrap(),
                value,
            )
        };
        let inserted = second_routes(spec).filter(|(operation, _)| *operation == "INSERT_FIRST");
        let mut matched = inserted.filter(|(_, route)| {
            let headers = route["match"]["headers"].as_array().unwrap();
            headers.iter().all(is_matched)
        });
        matched
            .next()
            .map_or("Istio", |(_, route)| route["name"].as_str().unwrap())
    }

    #[test]
    fn the_address_decides_and_for_pods_a_name_too() {
        let spec = spec(
            &["10.96.0.0/16", "fd00:10:96::/112"],
            &["10.1.0.0/16", "fd00:10:1::/64"],
        );
        for (dialled, host, wanted) in [
            ("10.96.1.2:8080", "reviews.books:8080", "servicefence-services"),
            ("10.96.1.2:8080", "10.96.1.2", "servicefence-services"),
            ("10.96.1.2:8080", "example.com", "servicefence-services"),
            ("[fd00:10:96::1f]:80", "reviews", "servicefence-services"),
            ("10.1.3.4:8080", "reviews.books:8080", "servicefence-pods"),
            (
                "10.1.3.4:8080",
                "peers-0.peers.data.svc.cluster.local.",
                "servicefence-pods",
            ),
            ("[fd00:10:1::4:5]:80", "peers.data", "servicefence-pods"),
            ("10.1.3.4:8080", "10.96.3.4:8080", "Istio"),
            ("10.2.3.4:8080", "reviews.books:8080", "Istio"),
            ("110.96.1.2:8080", "reviews.books", "Istio"),
            ("93.184.215.14:80", "example.com", "Istio"),
            ("[2001:db8::1]:80", "example.com", "Istio"),
        ] {
            assert_eq!(looked_at(&spec, dialled, host), wanted, "{host} at {dialled}");
        }
    }

    #[test]
    fn without_ranges_nothing_is_led_to_the_gateway() {
        let spec = spec(&[], &[]);
        assert_eq!(looked_at(&spec, "10.96.1.2:8080", "reviews.books"), "Istio");
        let chains = patches(&spec)
            .iter()
            .filter(|patch| patch["applyTo"] == "FILTER_CHAIN");
        assert_eq!(chains.count(), 0, "{spec}");
        let mut routes = second_routes(&spec);
        assert!(
            routes.all(|(_, route)| route["route"]["cluster"].is_null()),
            "{spec}"
        );
    }
}
