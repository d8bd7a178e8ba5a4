//! Where a connection to an address of Services goes that no listener of its port number takes: through a
//! tunnel, or to the gateway as HTTP, call by call.
//!
//! An HTTP listener for all addresses of a number would hold up servers that speak first, so there is none on
//! numbers that some Service uses for anything else. On those that another one uses for HTTP a listener
//! inside the caller's proxy looks at the first bytes instead, for so long only that a server that speaks
//! first is not missed.

use serde_json::{Value, json};
use servicefence_crd::names;

use crate::name::ours::{DETECTION, ENVOY_FILTER};
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

/// What was dialled, as the filter chain of the first listener keeps it for the second one.
const DIALLED: &str = "servicefence.original_dst";

/// The patches for the listener and the way into it. They never change.
pub(super) fn detection(system_namespace: &Name) -> [Value; 2] {
    [
        added("CLUSTER", &way_in()),
        added("LISTENER", &listener(system_namespace)),
    ]
}

/// Leads the connections to one range into the tunnel, whatever they are: no Service uses their port numbers
/// for HTTP, and what is declared as TCP is bytes to Istio's proxies even where it is HTTP.
pub(super) fn tcp_miss(system_namespace: &Name, range: &Cidr) -> Value {
    let tunnel = tunnel(system_namespace, "%DOWNSTREAM_LOCAL_ADDRESS%");
    filter_chain(range, None, &json!([tcp_proxy(tunnel)]))
}

/// Leads those of one port number to the listener that looks at them.
pub(super) fn detected(range: &Cidr, number: u16) -> Value {
    let keeps = json!({
        "name": DIALLED,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config",
            "on_new_connection": [{
                "object_key": DIALLED,
                "factory_key": "envoy.string",
                "shared_with_upstream": "ONCE",
                "format_string": {"text_format_source": {"inline_string": "%DOWNSTREAM_LOCAL_ADDRESS%"}},
            }],
        },
    });
    // The second listener ends what is idle.
    let to_listener = tcp_proxy(json!({"cluster": DETECTION, "idle_timeout": "0s"}));
    filter_chain(range, Some(number), &json!([keeps, to_listener]))
}

/// Envoy ends the connections of a filter chain that changes or goes, so each range and number has one of its
/// own. The number counts before the range.
fn filter_chain(range: &Cidr, number: Option<u16>, filters: &Value) -> Value {
    let prefix = json!({"address_prefix": range.address.to_string(), "prefix_len": range.prefix});
    let mut name = format!("{ENVOY_FILTER}-{range}");
    let mut matched = json!({"prefix_ranges": [prefix]});
    if let Some(number) = number {
        name = format!("{DETECTION}-{range}-{number}");
        matched["destination_port"] = number.into();
    }
    json!({
        "applyTo": "FILTER_CHAIN",
        "match": {"context": "SIDECAR_OUTBOUND", "listener": {"name": "virtualOutbound"}},
        "patch": {
            "operation": "ADD",
            "value": {"name": name, "filter_chain_match": matched, "filters": filters},
        },
    })
}

fn tcp_proxy(mut config: Value) -> Value {
    config["@type"] = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy".into();
    config["stat_prefix"] = DETECTION.into();
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": config})
}

fn way_in() -> Value {
    json!({
        "name": DETECTION,
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
        "load_assignment": internal_endpoint(DETECTION),
    })
}

fn listener(system_namespace: &Name) -> Value {
    json!({
        "name": DETECTION,
        "internal_listener": {},
        "listener_filters": [{
            "name": "envoy.filters.listener.http_inspector",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
            },
        }],
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
        "default_filter_chain": {"filters": [tcp_proxy(tunnel(system_namespace, &dialled()))]},
    })
}

/// So that these connections too are authenticated, and arrive under STRICT mutual TLS.
fn tunnel(system_namespace: &Name, dialled: &str) -> Value {
    json!({
        "cluster": cluster(system_namespace, names::TUNNEL_PORT),
        "max_connect_attempts": 3,
        "tunneling_config": {"hostname": dialled, "headers_to_add": [source_header()]},
    })
}

fn dialled() -> String {
    format!("%FILTER_STATE({DIALLED}:PLAIN)%")
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
                        header(names::ORIGINAL_DST_HEADER, &dialled()),
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
