//! Log messages as a gateway sends them, made with Envoy's full message types. For tests and benches.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::{
    Address, Metadata, Node, RequestMethod, SocketAddress, address, socket_address,
};
use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::{
    SubjectAltName, subject_alt_name::San,
};
use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::{CertificateProperties, TlsVersion};
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpRequestProperties, HttpResponseProperties,
    ResponseFlags, TlsProperties,
};
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, Identifier, LogEntries,
};
use envoy_types::pb::google::protobuf::{Duration, Struct, Timestamp, UInt32Value, Value, value::Kind};

/// The node id of the fallback gateway that the samples come from.
pub(super) const NODE: &str = "router~10.244.1.7~servicefence-fallback-5c9f7d8b6-x2x1z.servicefence-system~servicefence-system.svc.cluster.local";

/// The first part of every stream. Istio's node metadata makes it about 61 KB.
pub(super) fn identifier(node_id: &str) -> Identifier {
    let text = |text: String| Value {
        kind: Some(Kind::StringValue(text)),
    };
    let fields = (0..600)
        .map(|n| (format!("METADATA_{n}"), text("x".repeat(80))))
        .collect();
    Identifier {
        node: Some(Node {
            id: node_id.to_owned(),
            cluster: "servicefence-fallback.servicefence-system".to_owned(),
            metadata: Some(Struct { fields }),
            ..Node::default()
        }),
        log_name: "servicefence".to_owned(),
    }
}

/// A message with these HTTP entries.
pub(super) fn message(
    identifier: Option<Identifier>,
    log_entry: Vec<HttpAccessLogEntry>,
) -> StreamAccessLogsMessage {
    let log_entries = Some(LogEntries::HttpLogs(HttpAccessLogEntries { log_entry }));
    StreamAccessLogsMessage {
        identifier,
        log_entries,
    }
}

/// The entry for an HTTP miss, about 1 KB, at the start of the request.
pub(super) fn http_miss(source: &str, account: &str, destination: &str) -> HttpAccessLogEntry {
    let namespace = source.split('/').next().unwrap_or_default();
    HttpAccessLogEntry {
        common_properties: Some(common(&format!(
            "spiffe://cluster.local/ns/{namespace}/sa/{account}"
        ))),
        protocol_version: 2,
        request: Some(HttpRequestProperties {
            request_method: RequestMethod::Get.into(),
            scheme: "https".to_owned(),
            authority: "reviews.books.svc.cluster.local:8080".to_owned(),
            path: "/api/v1/products/0/reviews?page=1&sort=newest&fields=id,author,stars,text".to_owned(),
            user_agent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0.0.0 Safari/537.36".to_owned(),
            forwarded_for: "10.244.2.31".to_owned(),
            request_id: "6f1d1c0e-52dc-9b1f-a6f2-0f3b7c2f5a11".to_owned(),
            request_headers_bytes: 912,
            request_headers: HashMap::from([
                ("x-servicefence-source".to_owned(), source.to_owned()),
                ("x-servicefence-original-dst".to_owned(), destination.to_owned()),
            ]),
            ..HttpRequestProperties::default()
        }),
        response: Some(HttpResponseProperties::default()),
    }
}

/// The entry for a non-HTTP miss: the tunnel that the caller's proxy opens.
pub(super) fn tunnel_miss(source: &str, account: &str, destination: &str) -> HttpAccessLogEntry {
    let mut entry = http_miss(source, account, destination);
    let request = entry.request.get_or_insert_default();
    request.request_method = RequestMethod::Connect.into();
    destination.clone_into(&mut request.authority);
    request.path = String::new();
    request.request_headers.remove("x-servicefence-original-dst");
    entry
}

fn common(peer: &str) -> AccessLogCommon {
    let certificate = |uri: &str| {
        let san = Some(San::Uri(uri.to_owned()));
        Some(CertificateProperties {
            subject_alt_name: vec![SubjectAltName { san }],
            ..CertificateProperties::default()
        })
    };
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let workload = Struct {
        fields: HashMap::from([
            ("workload".to_owned(), text("web")),
            ("namespace".to_owned(), text("shop")),
            (
                "request.auth.principal".to_owned(),
                text("cluster.local/ns/shop/sa/web"),
            ),
        ]),
    };
    AccessLogCommon {
        downstream_remote_address: Some(address("10.244.2.31", 43210)),
        downstream_local_address: Some(address("10.244.1.7", 15080)),
        tls_properties: Some(TlsProperties {
            tls_version: TlsVersion::TlSv13.into(),
            tls_cipher_suite: Some(UInt32Value { value: 0x1302 }),
            tls_sni_hostname: "servicefence-fallback.servicefence-system.svc.cluster.local".to_owned(),
            local_certificate_properties: certificate(
                "spiffe://cluster.local/ns/servicefence-system/sa/servicefence-fallback",
            ),
            peer_certificate_properties: certificate(peer),
            ..TlsProperties::default()
        }),
        start_time: Some(Timestamp {
            seconds: 1_790_000_000,
            nanos: 123_456_789,
        }),
        time_to_last_rx_byte: Some(Duration {
            seconds: 0,
            nanos: 81_234,
        }),
        upstream_remote_address: Some(address("10.244.3.12", 8080)),
        upstream_local_address: Some(address("10.244.1.7", 51234)),
        upstream_cluster: "outbound|8080||reviews.books.svc.cluster.local".to_owned(),
        response_flags: Some(ResponseFlags::default()),
        metadata: Some(Metadata {
            filter_metadata: HashMap::from([("istio_authn".to_owned(), workload)]),
            ..Metadata::default()
        }),
        route_name: "servicefence-system/fallback-books".to_owned(),
        downstream_direct_remote_address: Some(address("10.244.2.31", 43210)),
        stream_id: "0c1b1f4e-3c1a-4a43-9a56-0d5d2c4a7a10".to_owned(),
        downstream_wire_bytes_received: 512,
        access_log_type: AccessLogType::DownstreamStart.into(),
        ..AccessLogCommon::default()
    }
}

fn address(ip: &str, port: u32) -> Address {
    let socket = SocketAddress {
        address: ip.to_owned(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    Address {
        address: Some(address::Address::SocketAddress(socket)),
    }
}
