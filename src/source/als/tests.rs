//! The intake over real loopback TCP, with Envoy's own message types on the other side.

mod hostile;
mod lifetime;
mod sidecars;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use envoy_types::pb::envoy::data::accesslog::v3::{HttpAccessLogEntry, TcpAccessLogEntry};
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    LogEntries, TcpAccessLogEntries,
};
use envoy_types::pb::envoy::service::accesslog::v3::{StreamAccessLogsMessage, StreamAccessLogsResponse};
use prometheus::Registry;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::*;

const NAMESPACE: &str = "servicefence-system";
/// The recorder knows no Service on this port.
const NO_SERVICE: u16 = 9;

/// The recorder is always too busy for calls to this port.
const TOO_BUSY: u16 = 10;

/// A sink that remembers what it was asked.
#[derive(Debug, Default)]
struct Recorder {
    epoch: AtomicU64,
    seen: Mutex<Vec<String>>,
}

impl Sink for Recorder {
    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn observe(&self, miss: &Miss<'_>) -> Outcome {
        let line = format!("{}/{} {}", miss.namespace, miss.pod, miss.destination);
        self.seen.lock().unwrap().push(line);
        match miss.destination.port() {
            NO_SERVICE => Outcome::Ignored("not_mesh"),
            TOO_BUSY => Outcome::Busy,
            _ => Outcome::Recorded,
        }
    }
}

/// A running intake.
struct Harness {
    address: SocketAddr,
    sink: Arc<Recorder>,
    registry: Registry,
    shutdown: CancellationToken,
    server: JoinHandle<Result<(), ServeError>>,
}

impl Harness {
    async fn start() -> Self {
        Self::with(Settings::of_gateway(NAMESPACE)).await
    }

    async fn with(settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sink, registry, shutdown) = (
            Arc::new(Recorder::default()),
            Registry::new(),
            CancellationToken::new(),
        );
        let metrics = AlsMetrics::new(&registry).unwrap();
        let server = tokio::spawn(serve(
            listener,
            Arc::clone(&sink),
            settings,
            metrics,
            shutdown.clone(),
        ));
        Self {
            address,
            sink,
            registry,
            shutdown,
            server,
        }
    }

    async fn connect(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    /// A stream that has said nothing yet.
    async fn silent_stream(&self) -> Sender {
        Sender::open(self.connect().await)
    }

    /// A stream of a sender that was accepted as the gateway.
    async fn stream(&self) -> Sender {
        let sender = self.silent_stream().await;
        sender
            .send(sample::message(Some(sample::identifier(sample::NODE)), vec![]))
            .await;
        sender
    }

    fn seen(&self) -> Vec<String> {
        self.sink.seen.lock().unwrap().clone()
    }

    /// The value of `name{label}`; zero when there is none.
    fn metric(&self, name: &str, label: &str) -> u64 {
        let name = format!("servicefence_access_log_{name}");
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metric = (family.get_metric().iter())
            .find(|metric| label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label));
        let value = metric.map_or(0.0, |metric| {
            metric.get_counter().get_value() + metric.get_gauge().get_value()
        });
        format!("{value:.0}").parse().unwrap()
    }

    fn entries(&self, result: &str) -> u64 {
        self.metric("entries_total", result)
    }

    /// Waits until a metric has a value. Entries have no answer to wait for.
    async fn until(&self, name: &str, label: &str, value: u64) {
        for _ in 0..1000 {
            if self.metric(name, label) == value {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{name}{{{label}}} is {}, not {value}", self.metric(name, label));
    }
}

/// The sending side of one stream.
struct Sender {
    messages: mpsc::Sender<StreamAccessLogsMessage>,
    answer: JoinHandle<Result<StreamAccessLogsResponse, Status>>,
}

impl Sender {
    fn open(channel: Channel) -> Self {
        Self::with_certificate(channel, "")
    }

    /// With the header in which our own sidecar tells of the sender's certificate; empty: none.
    fn with_certificate(channel: Channel, header: &str) -> Self {
        let (messages, receiver) = mpsc::channel(16);
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        if !header.is_empty() {
            let header = header.parse().unwrap();
            request.metadata_mut().insert("x-forwarded-client-cert", header);
        }
        let answer = tokio::spawn(async move {
            let mut client = AccessLogServiceClient::new(channel);
            client
                .stream_access_logs(request)
                .await
                .map(tonic::Response::into_inner)
        });
        Self { messages, answer }
    }

    async fn send(&self, message: StreamAccessLogsMessage) {
        self.messages.send(message).await.unwrap();
    }

    async fn entries(&self, entries: Vec<HttpAccessLogEntry>) {
        self.send(sample::message(None, entries)).await;
    }

    /// How the server ended the stream.
    async fn answer(self) -> Result<StreamAccessLogsResponse, Status> {
        tokio::time::timeout(Duration::from_secs(10), self.answer)
            .await
            .expect("the stream goes on")
            .unwrap()
    }

    /// Ends the stream as a client does that has nothing more to say.
    async fn finish(self) -> Result<StreamAccessLogsResponse, Status> {
        drop(self.messages);
        tokio::time::timeout(Duration::from_secs(10), self.answer)
            .await
            .expect("the stream goes on")
            .unwrap()
    }
}

fn web(destination: &str) -> HttpAccessLogEntry {
    sample::http_miss("shop/web-1", "web", destination)
}

#[tokio::test]
async fn a_call_is_observed_once_and_known_from_then_on() {
    let intake = Harness::start().await;
    let stream = intake.stream().await;
    // The start of the request, and its end; then the same call again.
    stream
        .entries(vec![web("10.96.0.20:8080"), web("10.96.0.20:8080")])
        .await;
    stream
        .entries(vec![
            web("10.96.0.20:8080"),
            sample::tunnel_miss("shop/web-1", "web", "10.96.0.22:9000"),
        ])
        .await;
    stream.finish().await.unwrap();

    assert_eq!(
        intake.seen(),
        ["shop/web-1 10.96.0.20:8080", "shop/web-1 10.96.0.22:9000"]
    );
    assert_eq!((intake.entries("new"), intake.entries("known")), (2, 2));
    assert_eq!((intake.entries("ignored"), intake.entries("rejected")), (0, 0));
    assert_eq!(intake.metric("messages_total", ""), 3);
    assert!(intake.metric("bytes_total", "") > 61_000);
}

#[tokio::test]
async fn entries_in_the_first_message_count() {
    let intake = Harness::start().await;
    let stream = intake.silent_stream().await;
    stream
        .send(sample::message(
            Some(sample::identifier(sample::NODE)),
            vec![web("10.96.0.20:8080")],
        ))
        .await;
    stream.finish().await.unwrap();
    assert_eq!(intake.seen(), ["shop/web-1 10.96.0.20:8080"]);
}

#[tokio::test]
async fn what_was_known_is_asked_again_after_the_epoch_moved() {
    let intake = Harness::start().await;
    let stream = intake.stream().await;
    stream.entries(vec![web("10.96.0.20:8080"); 2]).await;
    intake.until("entries_total", "known", 1).await;

    intake.sink.epoch.fetch_add(1, Ordering::Release);
    stream.entries(vec![web("10.96.0.20:8080"); 2]).await;
    stream.finish().await.unwrap();
    assert_eq!(intake.seen(), ["shop/web-1 10.96.0.20:8080"; 2]);
    assert_eq!((intake.entries("new"), intake.entries("known")), (2, 2));
}

#[tokio::test]
async fn a_call_that_concerns_no_fence_is_asked_once_and_counted_each_time() {
    let intake = Harness::start().await;
    let stream = intake.stream().await;
    stream.entries(vec![web("10.96.0.20:9"); 3]).await;
    stream.finish().await.unwrap();
    assert_eq!(intake.seen(), ["shop/web-1 10.96.0.20:9"]);
    assert_eq!(
        (
            intake.entries("ignored"),
            intake.metric("ignored_total", "not_mesh")
        ),
        (3, 3)
    );
    assert_eq!(intake.entries("new"), 0);
}

#[tokio::test]
async fn a_call_that_could_not_be_handed_on_is_asked_again() {
    let intake = Harness::start().await;
    let stream = intake.stream().await;
    stream.entries(vec![web("10.96.0.20:10"); 3]).await;
    stream.finish().await.unwrap();
    assert_eq!(intake.seen(), ["shop/web-1 10.96.0.20:10"; 3]);
    assert_eq!(
        (intake.entries("ignored"), intake.metric("ignored_total", "busy")),
        (3, 3)
    );
}

#[tokio::test]
async fn tcp_entries_are_counted_and_teach_nothing() {
    let intake = Harness::start().await;
    let stream = intake.stream().await;
    let log_entry = vec![
        TcpAccessLogEntry {
            common_properties: None,
            connection_properties: None
        };
        4
    ];
    let log_entries = Some(LogEntries::TcpLogs(TcpAccessLogEntries { log_entry }));
    stream
        .send(StreamAccessLogsMessage {
            identifier: None,
            log_entries,
        })
        .await;
    stream.finish().await.unwrap();
    assert_eq!(
        (
            intake.entries("ignored"),
            intake.metric("ignored_total", "tcp_entry")
        ),
        (4, 4)
    );
    assert_eq!(intake.seen(), [""; 0]);
}

#[tokio::test]
async fn a_cache_smaller_than_the_calls_in_use_still_counts_each_of_them() {
    let intake = Harness::with(Settings {
        known_calls_per_stream: 2,
        ..Settings::of_gateway(NAMESPACE)
    })
    .await;
    let stream = intake.stream().await;
    for port in [1, 2, 3, 3, 1] {
        stream.entries(vec![web(&format!("10.96.0.20:{port}"))]).await;
    }
    stream.finish().await.unwrap();
    // The third call emptied the cache, so the first is asked again; the repeated third is known.
    assert_eq!((intake.entries("new"), intake.entries("known")), (4, 1));
}

#[tokio::test]
async fn streams_do_not_disturb_each_other() {
    let intake = Harness::start().await;
    let (good, other, bad) = (
        intake.stream().await,
        intake.stream().await,
        intake.silent_stream().await,
    );
    intake.until("streams", "", 3).await;

    good.entries(vec![web("10.96.0.20:8080")]).await;
    bad.entries(vec![web("10.96.0.20:8080")]).await;
    bad.answer().await.unwrap_err();
    intake.until("streams", "", 2).await;

    // The other stream has a cache of its own: it asks for itself.
    other.entries(vec![web("10.96.0.20:8080")]).await;
    good.entries(vec![web("10.96.0.20:8080")]).await;
    other.finish().await.unwrap();
    good.finish().await.unwrap();
    assert_eq!((intake.entries("new"), intake.entries("known")), (2, 1));
    assert_eq!(intake.metric("streams", ""), 0);
}

#[tokio::test]
async fn many_streams_share_one_connection() {
    let intake = Harness::start().await;
    let channel = intake.connect().await;
    let first = sample::message(
        Some(sample::identifier(sample::NODE)),
        vec![web("10.96.0.20:8080")],
    );
    let streams: Vec<_> = (0..8).map(|_| Sender::open(channel.clone())).collect();
    for stream in &streams {
        stream.send(first.clone()).await;
    }
    intake.until("streams", "", 8).await;
    for stream in streams {
        stream.finish().await.unwrap();
    }
    assert_eq!(intake.seen().len(), 8);
}

#[test]
fn a_known_call_costs_no_allocation() {
    let registry = Registry::new();
    let metrics = AlsMetrics::new(&registry).unwrap();
    let service = service(
        Arc::new(Recorder::default()),
        Settings::of_gateway(NAMESPACE),
        metrics,
        CancellationToken::new(),
    );
    let mut intake = service.intake();
    let entries = vec![
        web("10.96.0.20:8080"),
        web("10.96.0.20:9"),
        sample::tunnel_miss("shop/a", "a", "[fd00::1]:1"),
    ];
    let first = sample::message(Some(sample::identifier(sample::NODE)), entries.clone()).encode_to_vec();
    intake.take(&first).unwrap();

    let message = sample::message(None, entries).encode_to_vec();
    let allocations = allocation_counter::measure(|| {
        for _ in 0..100 {
            intake.take(&message).unwrap();
        }
    });
    assert_eq!(allocations.count_total, 0);
}

#[test]
fn counters_can_be_registered_once_per_registry() {
    let registry = Registry::new();
    AlsMetrics::new(&registry).unwrap();
    AlsMetrics::new(&registry).unwrap_err();
}
