//! What a stranger may send, and that it costs no one else anything.

use std::convert::Infallible;

use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::{
    SubjectAltName, subject_alt_name::San,
};
use envoy_types::pb::envoy::data::accesslog::v3::{AccessLogCommon, HttpRequestProperties};
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::Code;
use tonic::codegen::{Body as _, Service as _, http};

use super::*;

/// An entry of a caller with these URI names.
fn with_peers(uris: &[&str]) -> HttpAccessLogEntry {
    let mut entry = web("10.96.0.20:8080");
    let tls = entry
        .common_properties
        .as_mut()
        .unwrap()
        .tls_properties
        .as_mut()
        .unwrap();
    tls.peer_certificate_properties.as_mut().unwrap().subject_alt_name = uris
        .iter()
        .map(|uri| SubjectAltName {
            san: Some(San::Uri((*uri).to_owned())),
        })
        .collect();
    entry
}

fn without_header(name: &str) -> HttpAccessLogEntry {
    let mut entry = web("10.96.0.20:8080");
    entry
        .request
        .as_mut()
        .unwrap()
        .request_headers
        .remove(name)
        .unwrap();
    entry
}

/// One message as gRPC frames it.
pub(super) fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// One field that holds bytes, as protobuf writes it.
fn field(tag: u32, bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    encode_key(tag, WireType::LengthDelimited, &mut field);
    encode_varint(bytes.len() as u64, &mut field);
    field.extend_from_slice(bytes);
    field
}

pub(super) fn first_message() -> Vec<u8> {
    sample::message(Some(sample::identifier(sample::NODE)), vec![]).encode_to_vec()
}

/// Posts raw bytes as the body of the call, and returns the status code that ends it.
async fn post(intake: &Harness, path: &str, body: Vec<u8>) -> Code {
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(axum::body::Body::from(body)))
        .unwrap();
    let mut channel = intake.connect().await;
    std::future::poll_fn(|context| channel.poll_ready(context))
        .await
        .unwrap();
    let response = channel.call(request).await.unwrap();
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status.code();
    }
    let mut body = response.into_body();
    loop {
        let frame = std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context)).await;
        if let Ok(trailers) = frame.expect("an answer has trailers").unwrap().into_trailers() {
            return Status::from_header_map(&trailers).unwrap().code();
        }
    }
}

const PATH: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

#[tokio::test]
async fn each_kind_of_bad_entry_is_counted_and_the_good_ones_beside_it_are_kept() {
    let intake = Harness::start().await;
    let stream = intake.stream().await;
    let peer = "spiffe://cluster.local/ns/shop/sa/web";
    let long = "x".repeat(100_000);
    let cases = [
        (
            "missing_source",
            vec![
                without_header("x-servicefence-source"),
                HttpAccessLogEntry::default(),
            ],
        ),
        (
            "missing_source",
            vec![HttpAccessLogEntry {
                request: None,
                ..web("10.96.0.20:8080")
            }],
        ),
        (
            "missing_source",
            vec![sample::http_miss("", "web", "10.96.0.20:8080")],
        ),
        (
            "malformed_source",
            vec![sample::http_miss("shop/../books", "web", "10.96.0.20:8080")],
        ),
        (
            "malformed_source",
            vec![sample::http_miss(&long, "web", "10.96.0.20:8080")],
        ),
        (
            "missing_peer",
            vec![HttpAccessLogEntry {
                common_properties: None,
                ..web("10.96.0.20:8080")
            }],
        ),
        (
            "missing_peer",
            vec![HttpAccessLogEntry {
                common_properties: Some(AccessLogCommon::default()),
                ..web("10.96.0.20:8080")
            }],
        ),
        ("missing_peer", vec![with_peers(&[])]),
        (
            "malformed_peer",
            vec![
                with_peers(&["spiffe://cluster.local/ns/shop"]),
                with_peers(&[&long]),
            ],
        ),
        (
            "malformed_peer",
            vec![with_peers(&[peer, "spiffe://cluster.local/ns/books/sa/web"])],
        ),
        (
            "namespace_mismatch",
            vec![with_peers(&["spiffe://cluster.local/ns/books/sa/web"])],
        ),
        (
            "missing_destination",
            vec![without_header("x-servicefence-original-dst")],
        ),
        (
            "malformed_destination",
            vec![web("reviews.books.svc.cluster.local:8080"), web(&long)],
        ),
    ];
    let mut expected = std::collections::BTreeMap::new();
    for (category, bad) in cases {
        *expected.entry(category).or_insert(0) += bad.len() as u64;
        stream
            .entries([vec![web("10.96.0.20:8080")], bad, vec![web("10.96.0.20:8080")]].concat())
            .await;
    }
    stream.finish().await.unwrap();

    assert_eq!(expected.len(), 7, "every category has a case");
    for (category, count) in &expected {
        assert_eq!(intake.metric("rejected_total", category), *count, "{category}");
    }
    assert_eq!(intake.entries("rejected"), expected.values().sum::<u64>());
    assert_eq!((intake.entries("new"), intake.entries("known")), (1, 25));
    assert_eq!(intake.seen(), ["shop/web-1 10.96.0.20:8080"]);
}

#[tokio::test]
async fn a_name_that_repeats_the_same_identity_is_no_forgery() {
    let intake = Harness::start().await;
    let stream = intake.stream().await;
    stream
        .entries(vec![with_peers(&["spiffe://cluster.local/ns/shop/sa/web"; 2])])
        .await;
    stream.finish().await.unwrap();
    assert_eq!(intake.entries("new"), 1);
}

/// Protobuf text fields may hold anything on the wire; Envoy's full types would refuse the whole message.
#[tokio::test]
async fn text_that_is_not_utf8_costs_its_own_entry_only() {
    let intake = Harness::start().await;
    let replace = |mut bytes: Vec<u8>, from: &[u8]| {
        let at = bytes
            .windows(from.len())
            .position(|window| window == from)
            .unwrap();
        bytes[at] = 0xff;
        bytes
    };
    let message = |entry| sample::message(None, vec![entry]).encode_to_vec();
    let body = [
        frame(&first_message()),
        frame(&replace(message(web("10.96.0.20:8080")), b"shop/web-1")),
        frame(&replace(
            message(web("10.96.0.20:8080")),
            b"spiffe://cluster.local/ns/shop",
        )),
        frame(&replace(message(web("10.96.0.20:8080")), b"10.96.0.20:8080")),
        frame(&message(web("10.96.0.20:8080"))),
    ];
    assert_eq!(post(&intake, PATH, body.concat()).await, Code::Ok);
    for category in ["malformed_source", "malformed_peer", "malformed_destination"] {
        assert_eq!(intake.metric("rejected_total", category), 1, "{category}");
    }
    assert_eq!(intake.entries("new"), 1);
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_costs_itself_only() {
    let intake = Harness::start().await;
    let good = web("10.96.0.20:8080").encode_to_vec();
    // http_logs { log_entry: a request with a wrong length; log_entry: a good entry }
    let batch = field(2, &[field(1, &[0x1a, 0x7f]), field(1, &good)].concat());
    let body = [frame(&first_message()), frame(&batch)].concat();
    assert_eq!(post(&intake, PATH, body).await, Code::Ok);
    assert_eq!(intake.metric("rejected_total", "malformed_entry"), 1);
    assert_eq!(intake.entries("new"), 1);
}

#[tokio::test]
async fn a_message_that_is_not_protobuf_ends_the_stream() {
    let intake = Harness::start().await;
    let good = sample::message(None, vec![web("10.96.0.20:8080")]).encode_to_vec();
    let cut = &good[..good.len() - 1];
    let body = [frame(&first_message()), frame(&good), frame(cut), frame(&good)].concat();
    assert_eq!(post(&intake, PATH, body).await, Code::InvalidArgument);
    assert_eq!(
        post(&intake, PATH, frame(&[0xff; 100])).await,
        Code::InvalidArgument
    );
    assert_eq!(intake.metric("streams_refused_total", "malformed_message"), 2);
    assert_eq!((intake.entries("new"), intake.entries("known")), (1, 0));
    assert_eq!(intake.metric("streams", ""), 0);
}

#[tokio::test]
async fn bytes_that_are_not_grpc_end_the_stream() {
    let intake = Harness::start().await;
    let compressed = [&[1], &frame(&first_message())[1..]].concat();
    assert_eq!(post(&intake, PATH, compressed).await, Code::Internal);
    assert_eq!(post(&intake, PATH, vec![7; 100]).await, Code::Internal);
    let cut = frame(&first_message())[..100].to_vec();
    assert_eq!(post(&intake, PATH, cut).await, Code::Internal);
    assert_eq!(intake.metric("streams_refused_total", "unreadable"), 3);
    assert_eq!(
        post(
            &intake,
            "/envoy.service.accesslog.v3.AccessLogService/Other",
            vec![]
        )
        .await,
        Code::Unimplemented
    );
}

#[tokio::test]
async fn a_message_over_the_limit_ends_its_stream_only() {
    let intake = Harness::start().await;
    let (good, bad) = (intake.stream().await, intake.stream().await);
    // One byte below the limit is read.
    let mut entry = web("10.96.0.20:8080");
    let room = MAX_MESSAGE_BYTES - sample::message(None, vec![entry.clone()]).encoded_len();
    entry.request.as_mut().unwrap().path += &"x".repeat(room - 16);
    good.entries(vec![entry.clone()]).await;
    intake.until("entries_total", "new", 1).await;

    entry.request.as_mut().unwrap().path += &"x".repeat(64);
    bad.entries(vec![entry]).await;
    assert_eq!(bad.answer().await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(intake.metric("streams_refused_total", "unreadable"), 1);
    good.finish().await.unwrap();
}

#[tokio::test]
async fn only_the_gateway_of_the_system_namespace_may_report() {
    let intake = Harness::start().await;
    let cases = [
        (
            "sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local",
            Code::PermissionDenied,
            "not_gateway",
            "is not a gateway",
        ),
        (
            "router~10.0.0.7~gw-1.istio-system~istio-system.svc.cluster.local",
            Code::PermissionDenied,
            "foreign_namespace",
            "is not in the namespace servicefence-system",
        ),
        (
            "router~\n\x1b[2J",
            Code::InvalidArgument,
            "malformed_identifier",
            "\\n\\x1b[2J",
        ),
        (
            "",
            Code::InvalidArgument,
            "missing_identifier",
            "must carry an identifier",
        ),
    ];
    for (node, code, category, sentence) in cases {
        let stream = intake.silent_stream().await;
        stream
            .send(sample::message(
                Some(sample::identifier(node)),
                vec![web("10.96.0.20:8080")],
            ))
            .await;
        let status = stream.answer().await.unwrap_err();
        assert_eq!(status.code(), code, "{node}");
        assert!(status.message().contains(sentence), "{status}");
        assert_eq!(intake.metric("streams_refused_total", category), 1, "{node}");
    }
    assert_eq!(
        intake.seen(),
        [""; 0],
        "nothing that a refused stream said counts"
    );
}

#[tokio::test]
async fn a_first_message_without_identifier_ends_the_stream_and_a_later_one_is_normal() {
    let intake = Harness::start().await;
    let silent = intake.silent_stream().await;
    silent.entries(vec![web("10.96.0.20:8080")]).await;
    let status = silent.answer().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(post(&intake, PATH, frame(&[])).await, Code::InvalidArgument);
    assert_eq!(intake.metric("streams_refused_total", "missing_identifier"), 2);

    let body = [frame(&first_message()), frame(&[]), frame(&[])].concat();
    assert_eq!(post(&intake, PATH, body).await, Code::Ok);
    assert_eq!(intake.seen(), [""; 0]);
}

/// The entries may stand before the identifier on the wire.
#[tokio::test]
async fn entries_count_only_after_the_sender_is_known_to_be_the_gateway() {
    let intake = Harness::start().await;
    let entries = sample::message(None, vec![web("10.96.0.20:8080")]).encode_to_vec();
    let foreign = "router~10.0.0.7~gw-1.istio-system~istio-system.svc.cluster.local";
    let identifier = |node| sample::message(Some(sample::identifier(node)), vec![]).encode_to_vec();
    let body = |node| frame(&[&entries[..], &identifier(node)].concat());
    assert_eq!(post(&intake, PATH, body(foreign)).await, Code::PermissionDenied);
    assert_eq!(intake.seen(), [""; 0]);
    assert_eq!(post(&intake, PATH, body(sample::NODE)).await, Code::Ok);
    assert_eq!(intake.seen(), ["shop/web-1 10.96.0.20:8080"]);
}

#[tokio::test]
async fn a_flood_of_entries_and_headers_is_counted_to_the_last() {
    let intake = Harness::start().await;
    let stream = intake.stream().await;
    stream.entries(vec![HttpAccessLogEntry::default(); 200_000]).await;
    let request_headers = (0..10_000)
        .map(|n| (format!("x-header-{n}"), "v".repeat(20)))
        .collect();
    let request = Some(HttpRequestProperties {
        request_headers,
        ..HttpRequestProperties::default()
    });
    stream
        .entries(vec![HttpAccessLogEntry {
            request,
            ..web("10.96.0.20:8080")
        }])
        .await;
    stream.finish().await.unwrap();
    assert_eq!(intake.metric("rejected_total", "missing_source"), 200_001);
}

/// What `act` writes to the log.
fn logged(act: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, act);
    String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn rejects_are_logged_once_for_a_while_escaped_and_cut() {
    let registry = Registry::new();
    let metrics = AlsMetrics::new(&registry).unwrap();
    let mut intake = service(
        Arc::new(Recorder::default()),
        Settings::of_gateway(NAMESPACE),
        metrics,
        CancellationToken::new(),
    )
    .intake();
    intake.take(&first_message()).unwrap();
    let evil = format!("shop/web\n2026-01-01 ERROR all is lost{}", "!".repeat(100));
    let entry = sample::http_miss(&evil, "web", "10.96.0.20:8080");
    let message = sample::message(None, vec![entry, web("reviews:80"), web("reviews:80")]).encode_to_vec();
    let log = logged(|| {
        intake.take(&message).unwrap();
        intake.take(&message).unwrap();
    });
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 2, "one line for each category: {log}");
    assert!(
        lines[0].contains("malformed_source") && lines[0].contains(r"shop/web\n2026-01-01 ERROR"),
        "{log}"
    );
    assert!(
        lines[1].contains("malformed_destination") && lines[1].contains("reviews:80"),
        "{log}"
    );
    assert!(lines.iter().all(|line| line.len() < 1000), "{log}");
}

#[test]
fn bytes_after_the_identifier_never_panic() {
    use proptest::prelude::*;

    let registry = Registry::new();
    let metrics = AlsMetrics::new(&registry).unwrap();
    let service = service(
        Arc::new(Recorder::default()),
        Settings::of_gateway(NAMESPACE),
        metrics,
        CancellationToken::new(),
    );
    let good = sample::message(None, vec![web("10.96.0.20:8080"), web("10.96.0.20:9")]).encode_to_vec();
    let damage = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 0..200), damage in damage)| {
        let mut intake = service.intake();
        intake.take(&first_message()).unwrap();
        let mut damaged = good.clone();
        for (index, value) in damage {
            let index = index.index(damaged.len());
            damaged[index] = value;
        }
        let _ = intake.take(&damaged);
        let _ = intake.take(&bytes);
        let whole: Result<(), Infallible> = intake.take(&good).map_err(|refusal| panic!("{refusal}"));
        prop_assert!(whole.is_ok());
    });
}
