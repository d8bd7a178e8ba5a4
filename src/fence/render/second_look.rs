//! The second look at what may be a miss, inside the caller's proxy: a cluster that leads to a listener whose routes match the
//! address that was dialled, which the first pass wrote into a header.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use servicefence_crd::names;

use super::address::address_pattern;
use super::envoy_filter::{ALLOW_ANY, BLOCK_ALL, ENVOY_FILTER, authority, cluster, name_pattern};
use crate::fence::name::{Cidr, Name};

/// Istio's cluster for what is let pass: the address that was dialled.
const PASSTHROUGH: &str = "PassthroughCluster";

/// The addresses of the mesh.
#[derive(Clone, Copy)]
pub struct Ranges<'a> {
    /// Of Services.
    pub services: &'a BTreeSet<Cidr>,
    /// Of pods: headless Services have no other addresses, and clients that balance by themselves dial them.
    pub pods: &'a BTreeSet<Cidr>,
}

/// The cluster and the listener by which a request goes through the same proxy once more.
pub(super) fn second_look(system_namespace: &Name, ranges: &Ranges<'_>) -> [Value; 2] {
    let added = |apply_to: &str, value: Value| {
        json!({
            "applyTo": apply_to,
            "match": {"context": "SIDECAR_OUTBOUND"},
            "patch": {"operation": "ADD", "value": value},
        })
    };
    let unlimited = u32::MAX;
    let way_in = json!({
        "name": ENVOY_FILTER,
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [{
            "max_connections": unlimited,
            "max_pending_requests": unlimited,
            "max_requests": unlimited,
            "max_retries": unlimited,
        }]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}},
            },
        },
        // Istio's metrics name a call by it, as they name what Istio itself lets pass: nobody knows yet whose it is.
        "metadata": {"filter_metadata": {"istio": {"services": [{"name": PASSTHROUGH}]}}},
        "load_assignment": {
            "cluster_name": ENVOY_FILTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
                "envoy_internal_address": {"server_listener_name": ENVOY_FILTER},
            }}}]}],
        },
    });
    let listener = json!({
        "name": ENVOY_FILTER,
        "internal_listener": {},
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": connection_manager(&second_routes(system_namespace, ranges)),
        }]}],
    });
    [added("CLUSTER", way_in), added("LISTENER", listener)]
}

/// It changes nothing of a request and sets no limits: the caller's connection manager has done both.
fn connection_manager(routes: &[Value]) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": ENVOY_FILTER,
        "server_header_transformation": "PASS_THROUGH",
        "skip_xff_append": true,
        "generate_request_id": false,
        "preserve_external_request_id": true,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        // Only the first connection manager closes what is idle: closed from here, the next request would be lost.
        "common_http_protocol_options": {"idle_timeout": "0s"},
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
        "route_config": {
            "name": ENVOY_FILTER,
            "validate_clusters": false,
            "request_headers_to_remove": [names::REGISTRY_ONLY_HEADER],
            "virtual_hosts": [{"name": ENVOY_FILTER, "domains": ["*"], "routes": routes}],
        },
    })
}

/// By address: a Service's, a pod's by a name, any other.
fn second_routes(system_namespace: &Name, ranges: &Ranges<'_>) -> Vec<Value> {
    let to_gateway = |name: &str, headers: &[Value]| {
        json!({
            "name": name,
            "match": {"prefix": "/", "headers": headers},
            "route": {
                "cluster": cluster(system_namespace, names::FALLBACK_PORT),
                "timeout": "0s",
                "retry_policy": other_gateway(),
            },
        })
    };
    let mut routes = Vec::new();
    if let Some(services) = dialled(ranges.services) {
        routes.push(to_gateway("servicefence-services", &[services]));
    }
    if let Some(pods) = dialled(ranges.pods) {
        // Istio finds a pod by a name only: what names its address passes, with a fence or without.
        routes.push(to_gateway(
            "servicefence-pods",
            &[pods, authority(&name_pattern())],
        ));
    }
    routes.push(json!({
        "name": BLOCK_ALL,
        "match": {
            "prefix": "/",
            "headers": [{"name": names::REGISTRY_ONLY_HEADER, "present_match": true}],
        },
        "direct_response": {"status": 502},
    }));
    routes.push(json!({
        "name": ALLOW_ANY,
        "match": {"prefix": "/"},
        "route": {"cluster": PASSTHROUGH, "timeout": "0s"},
        "request_headers_to_remove": [names::ORIGINAL_DST_HEADER, names::SOURCE_HEADER],
    }));
    routes
}

/// A gateway that just went is no reason for a failure: the request has not been sent, so another
/// one gets it.
fn other_gateway() -> Value {
    json!({
        "retry_on": "connect-failure,refused-stream",
        "num_retries": 2,
        "retry_host_predicate": [{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            },
        }],
        "host_selection_retry_max_attempts": 5,
    })
}

/// Matches what was dialled, as Envoy writes it, where it is in one of these ranges; `None` where there are none.
fn dialled(ranges: &BTreeSet<Cidr>) -> Option<Value> {
    let addresses: Vec<_> = ranges.iter().filter_map(address_pattern).collect();
    let pattern = format!("({}):[0-9]+", addresses.join("|"));
    (!addresses.is_empty()).then(
        || json!({"name": names::ORIGINAL_DST_HEADER, "string_match": {"safe_regex": {"regex": pattern}}}),
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::envoy_filter::tests::{is_in_whole, patches, spec};
    use super::*;

    /// The connection manager of the second look.
    pub(in crate::fence::render) fn manager(spec: &Value) -> &Value {
        let is = |patch: &&Value| patch["applyTo"] == "LISTENER";
        let listener = &patches(spec).iter().find(is).unwrap()["patch"]["value"];
        &listener["filter_chains"][0]["filters"][0]["typed_config"]
    }

    /// Where the second look sends what is dialled, by Host.
    fn looked_at<'a>(spec: &'a Value, dialled: &str, host: &str) -> &'a str {
        let routes = manager(spec)["route_config"]["virtual_hosts"][0]["routes"]
            .as_array()
            .unwrap();
        let is_matched = |header: &Value| {
            let value = match header["name"].as_str().unwrap() {
                ":authority" => host,
                "x-servicefence-original-dst" => dialled,
                // The mesh is not REGISTRY_ONLY.
                _ => return false,
            };
            is_in_whole(
                header["string_match"]["safe_regex"]["regex"].as_str().unwrap(),
                value,
            )
        };
        let matched = routes.iter().find(|route| {
            let headers = route["match"]["headers"].as_array();
            headers.into_iter().flatten().all(is_matched)
        });
        matched.unwrap()["name"].as_str().unwrap()
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
            ("10.1.3.4:8080", "10.1.3.4:8080", "allow_any"),
            ("[fd00:10:1::4:5]:80", "[fd00:10:1::4:5]", "allow_any"),
            ("10.2.3.4:8080", "reviews.books:8080", "allow_any"),
            ("110.96.1.2:8080", "reviews.books", "allow_any"),
            ("93.184.215.14:80", "example.com", "allow_any"),
            ("[2001:db8::1]:80", "example.com", "allow_any"),
        ] {
            assert_eq!(looked_at(&spec, dialled, host), wanted, "{host} at {dialled}");
        }
    }

    #[test]
    fn without_ranges_nothing_is_led_to_the_gateway() {
        let spec = spec(&[], &[]);
        assert_eq!(looked_at(&spec, "10.96.1.2:8080", "reviews.books"), "allow_any");
        assert!(!spec.to_string().contains("servicefence-fallback"), "{spec}");
    }
}
