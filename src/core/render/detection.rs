//! Where a connection to an address of Services goes that no listener of its port number takes: through a
//! tunnel, or to the gateway as HTTP, call by call.
//!
//! An HTTP listener for all addresses of a number would hold up servers that speak first, so there is none on
//! numbers that some Service uses for anything else. On those that another one uses for HTTP a listener
//! inside the caller's proxy looks at the first bytes instead, for so long only that a server that speaks
//! first is not missed.
//!
//! Which numbers these are, a listener of its own knows. Istio's listener must not: of two filter chains
//! Envoy prefers the one with the number, and ends the connection if that one's addresses do not fit. So a
//! chain with a number and the addresses of Services would end all calls that leave the mesh on that number.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use servicefence_crd::names;

use crate::name::ours::{DETECTION, ENVOY_FILTER, TCP_MISS};
use crate::name::{Cidr, Name};
use crate::render::parts::{
    added, cluster, header, internal_endpoint, other_gateway, source_header, unlimited,
};

/// How long a connection is looked at before it counts as bytes. HTTP clients speak at once; each connection
/// to a server that speaks first is this much late while its Service is out of scope.
const LOOKED_AT_FOR: &str = "0.1s";

/// After so many requests a client is asked to connect anew: by then the Service may be in scope, and a new
/// connection goes to it directly. An HTTP client takes it well: it is what a server does that restarts.
const MOST_REQUESTS: u32 = 100;

/// Where the filter `original_dst` of a listener inside the proxy finds what was dialled.
const DIALLED: &str = "envoy.filters.listener.original_dst.local_ip";

/// The patches for the listeners and the ways into them.
pub(super) fn detection(system_namespace: &Name, numbers: &BTreeSet<u16>) -> [Value; 4] {
    [
        added("CLUSTER", &way_in(TCP_MISS)),
        added("CLUSTER", &way_in(DETECTION)),
        added("LISTENER", &by_number(system_namespace, numbers)),
        added("LISTENER", &by_first_bytes(system_namespace)),
    ]
}

/// Leads the connections to one range to the first of these listeners. Envoy ends the connections of a filter
/// chain that changes or goes, so each range has one of its own.
pub(super) fn tcp_miss(range: &Cidr) -> Value {
    let keeps = json!({
        "name": "envoy.filters.network.set_filter_state",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config",
            "on_new_connection": [{
                "object_key": DIALLED,
                "shared_with_upstream": "TRANSITIVE",
                "format_string": {"text_format_source": {"inline_string": "%DOWNSTREAM_LOCAL_ADDRESS%"}},
            }],
        },
    });
    let prefix = json!({"address_prefix": range.address.to_string(), "prefix_len": range.prefix});
    json!({
        "applyTo": "FILTER_CHAIN",
        "match": {"context": "SIDECAR_OUTBOUND", "listener": {"name": "virtualOutbound"}},
        "patch": {
            "operation": "ADD",
            "value": {
                "name": format!("{ENVOY_FILTER}-{range}"),
                "filter_chain_match": {"prefix_ranges": [prefix]},
                "filters": [keeps, tcp_proxy(inside(TCP_MISS))],
            },
        },
    })
}

fn tcp_proxy(mut config: Value) -> Value {
    config["@type"] = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy".into();
    config["stat_prefix"] = TCP_MISS.into();
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": config})
}

/// To a listener inside the proxy, which ends what is idle.
fn inside(listener: &str) -> Value {
    json!({"cluster": listener, "idle_timeout": "0s"})
}

fn way_in(listener: &str) -> Value {
    json!({
        "name": listener,
        "type": "STATIC",
        "circuit_breakers": unlimited(),
        // It hands on what is kept about the connection.
        "transport_socket": {
            "name": "envoy.transport_sockets.internal_upstream",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
                "transport_socket": {
                    "name": "envoy.transport_sockets.raw_buffer",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
                    },
                },
            },
        },
        "load_assignment": internal_endpoint(listener),
    })
}

/// Sends into the tunnel what no Service uses for HTTP: what is declared as TCP is bytes to Istio's proxies
/// even where it is HTTP. Numbers may come and go: where only filter chains of a listener change, and one
/// stays, Envoy keeps the connections of those that stay.
fn by_number(system_namespace: &Name, numbers: &BTreeSet<u16>) -> Value {
    let rest = json!({"name": TCP_MISS, "filters": [tcp_proxy(tunnel(system_namespace))]});
    let looked_at = numbers.iter().map(|number| {
        json!({
            "name": format!("{DETECTION}-{number}"),
            "filter_chain_match": {"destination_port": number},
            "filters": [tcp_proxy(inside(DETECTION))],
        })
    });
    json!({
        "name": TCP_MISS,
        "internal_listener": {},
        "listener_filters": [restores_address()],
        "filter_chains": std::iter::once(rest).chain(looked_at).collect::<Vec<_>>(),
    })
}

/// It never changes.
fn by_first_bytes(system_namespace: &Name) -> Value {
    let inspector = json!({
        "name": "envoy.filters.listener.http_inspector",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
        },
    });
    json!({
        "name": DETECTION,
        "internal_listener": {},
        "listener_filters": [restores_address(), inspector],
        "listener_filters_timeout": LOOKED_AT_FOR,
        "continue_on_listener_filters_timeout": true,
        "filter_chains": [{
            // HTTP/1.0 too is bytes: whether a proxy serves it is a setting of the mesh.
            "filter_chain_match": {"application_protocols": ["http/1.1", "h2c"]},
            "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": connection_manager(system_namespace),
            }],
        }],
        "default_filter_chain": {"filters": [tcp_proxy(tunnel(system_namespace))]},
    })
}

/// From then on the address that was dialled is the connection's own again.
fn restores_address() -> Value {
    json!({
        "name": "envoy.filters.listener.original_dst",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
        },
    })
}

/// So that these connections too are authenticated, and arrive under STRICT mutual TLS.
fn tunnel(system_namespace: &Name) -> Value {
    json!({
        "cluster": cluster(system_namespace, names::TUNNEL_PORT),
        "max_connect_attempts": 3,
        "tunneling_config": {
            "hostname": "%DOWNSTREAM_LOCAL_ADDRESS%",
            "headers_to_add": [source_header()],
        },
    })
}

/// It does to requests what those of Istio do to outbound ones by default (`buildHTTPConnectionManager`).
fn connection_manager(system_namespace: &Name) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": DETECTION,
        "normalize_path": true,
        "common_http_protocol_options": {"max_requests_per_connection": MOST_REQUESTS},
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
        "route_config": {
            "name": DETECTION,
            "virtual_hosts": [{
                "name": DETECTION,
                "domains": ["*"],
                "routes": [{
                    "name": DETECTION,
                    "match": {"prefix": "/"},
                    "route": {
                        "cluster": cluster(system_namespace, names::FALLBACK_PORT),
                        "timeout": "0s",
                        "retry_policy": other_gateway(),
                    },
                    "request_headers_to_add": [
                        header(names::ORIGINAL_DST_HEADER, "%DOWNSTREAM_LOCAL_ADDRESS%"),
                        source_header(),
                        header(names::PROTOCOL_HEADER, "%PROTOCOL%"),
                    ],
                }],
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::envoy_filter::tests::GATEWAY;

    /// What the application sends under these names is overwritten: the gateway believes them.
    #[test]
    fn the_gateway_is_told_what_was_dialled_and_by_whom() {
        let manager = super::connection_manager(&"system".into());
        let route = &manager["route_config"]["virtual_hosts"][0]["routes"][0];
        let told: Vec<_> = route["request_headers_to_add"]
            .as_array()
            .unwrap()
            .iter()
            .collect();
        let names: Vec<_> = told
            .iter()
            .map(|one| one["header"]["key"].as_str().unwrap())
            .collect();
        let wanted = [
            "x-servicefence-original-dst",
            "x-servicefence-source",
            "x-servicefence-protocol",
        ];
        assert_eq!(names, wanted);
        for name in wanted {
            assert!(
                GATEWAY.contains(&format!("\n            - {name}\n")),
                "no destination sees {name}"
            );
        }
        assert!(
            told.iter()
                .all(|one| one["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD")
        );
    }
}
