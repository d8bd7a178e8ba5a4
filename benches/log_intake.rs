//! What a log entry costs: read, looked up, and end to end over gRPC.
//!
//! `cargo bench --bench log_intake` prints, after criterion's own report, two tables: allocations per entry
//! (counted per thread by a counting global allocator) and the end-to-end figures.
//!
//! How the end-to-end figures are made: the sender is a process of its own (this program, started again), so
//! its CPU is not in the figures. It sends messages that it encoded beforehand, as fast as the server takes
//! them, each stream on a connection of its own, as the workers of an Envoy do. The server process does
//! nothing but serve. Its CPU is the sum of the run time of all its threads as the kernel accounts it
//! (`/proc/self/task/*/schedstat`, nanoseconds), kernel time for reading the sockets included. What the
//! kernel does to deliver a packet over loopback runs in the sender, so it is missing; `1e6 / (entries/s)` is
//! an upper bound that includes even the waiting. Both numbers are differences between two moments in steady
//! state: connecting and the first, unknown entries are left out.

#![allow(clippy::expect_used, reason = "a bench stops at the first surprise")]

#[path = "../src/source/als/sample.rs"]
mod sample;

use std::hint::black_box;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use prometheus::Registry;
use prost::Message;
use prost::bytes::{BufMut as _, Bytes};
use servicefence::fence::miss::Miss;
use servicefence::source::als::{self, AlsMetrics, Intake, Outcome, Settings, Sink, wire};
use tokio_util::sync::CancellationToken;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Different calls that are under way at the same time.
const PAIRS: usize = 1000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, address, streams, batch, seconds] = &arguments[..]
        && command == "send"
    {
        let number = |text: &str| text.parse().expect("the bench passes numbers");
        send(
            address,
            number(streams),
            number(batch),
            Duration::from_secs(number(seconds) as u64),
        );
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    reading(&mut criterion);
    criterion.final_summary();
    // `cargo test --benches` and a filter want no long run.
    if arguments.iter().any(|argument| argument == "--bench") && arguments.len() == 2 {
        allocations();
        end_to_end();
    }
}

/// Everything is known.
#[derive(Debug)]
struct Known;

impl Sink for Known {
    fn epoch(&self) -> u64 {
        0
    }

    fn observe(&self, _: &Miss<'_>) -> Outcome {
        Outcome::Recorded
    }
}

/// Messages of `batch` entries each, in which all pairs take turns.
fn messages(batch: usize) -> Vec<Bytes> {
    let entry = |n: usize| {
        let source = format!("shop-{}/web-{n}-7d4b9c6f5-x2x1z", n % 20);
        let destination = format!("10.96.{}.{}:8080", n / 250, n % 250);
        let miss = if n % 10 == 9 {
            sample::tunnel_miss
        } else {
            sample::http_miss
        };
        miss(&source, "web", &destination)
    };
    (0..PAIRS)
        .step_by(batch)
        .map(|first| {
            sample::message(None, (first..first + batch).map(entry).collect())
                .encode_to_vec()
                .into()
        })
        .collect()
}

fn intake() -> Intake<Known> {
    let metrics = AlsMetrics::new(&Registry::new()).expect("a fresh registry");
    let settings = Settings::of_gateway("servicefence-system");
    let mut intake = als::service(Arc::new(Known), settings, metrics, CancellationToken::new()).intake();
    intake.take(&first_message()).expect("the sample is a gateway's");
    intake
}

fn first_message() -> Bytes {
    sample::message(Some(sample::identifier(sample::NODE)), vec![])
        .encode_to_vec()
        .into()
}

fn read_in_place(message: &[u8]) {
    let read = wire::parts(message, |part| {
        if let wire::Part::Http(entry) = part {
            black_box(wire::Entry::read(entry).expect("the sample is well formed"));
        }
    });
    read.expect("the sample is well formed");
}

fn reading(criterion: &mut Criterion) {
    let all = messages(10);
    let bytes: usize = all.iter().map(Bytes::len).sum();
    println!(
        "{PAIRS} entries of {} bytes, 10 in a message; time and throughput are for 10 entries",
        bytes / PAIRS
    );
    let mut group = criterion.benchmark_group("log_intake");
    group.throughput(Throughput::Elements(10));
    let mut turn = all.iter().cycle();
    let mut next = || turn.next().expect("a cycle has no end").clone();
    group.bench_function("read in place", |bencher| bencher.iter(|| read_in_place(&next())));
    let mut intake = intake();
    group.bench_function("read in place, look up", |bencher| {
        bencher.iter(|| intake.take(&next()).expect("the sample is well formed"));
    });
    group.bench_function("slim derived message", |bencher| {
        bencher.iter(|| slim::StreamAccessLogsMessage::decode(next()).expect("the sample is well formed"));
    });
    group.bench_function("full envoy-types message", |bencher| {
        bencher.iter(|| StreamAccessLogsMessage::decode(next()).expect("the sample is well formed"));
    });
    group.finish();
}

#[allow(clippy::cast_precision_loss, reason = "counts of a bench")]
fn allocations() {
    let all = messages(10);
    let mut intake = intake();
    let row = |name, mut read: Box<dyn FnMut(Bytes) + '_>| {
        all.iter().cloned().for_each(&mut read);
        let info = allocation_counter::measure(|| all.iter().cloned().for_each(&mut read));
        let per_entry = |count: u64| count as f64 / PAIRS as f64;
        println!(
            "{name:<26} {:>6.2} {:>8.1}",
            per_entry(info.count_total),
            per_entry(info.bytes_total)
        );
    };
    println!("\nper entry{:>24} {:>8}", "allocs", "bytes");
    row("read in place", Box::new(|message| read_in_place(&message)));
    row(
        "read in place, look up",
        Box::new(|message| intake.take(&message).expect("well formed")),
    );
    row(
        "slim derived message",
        Box::new(|message| drop(slim::StreamAccessLogsMessage::decode(message))),
    );
    row(
        "full envoy-types message",
        Box::new(|message| drop(StreamAccessLogsMessage::decode(message))),
    );
}

#[allow(clippy::cast_precision_loss, reason = "counts of a bench")]
fn end_to_end() {
    println!("\nend to end over loopback gRPC, known pairs; server CPU only, kernel included");
    println!(
        "{:>7} {:>9} {:>7} {:>11} {:>11} {:>12} {:>14}",
        "streams", "entries/m", "threads", "entries/s", "MB/s", "CPU us/entry", "entries/s/core"
    );
    for (streams, threads, batch) in [
        (1, 1, 50),
        (1, 1, 10),
        (1, 1, 1),
        (2, 1, 10),
        (2, 2, 50),
        (2, 2, 10),
    ] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .expect("a runtime");
        let registry = Registry::new();
        let metrics = AlsMetrics::new(&registry).expect("a fresh registry");
        let shutdown = CancellationToken::new();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let address = listener.local_addr().expect("a bound port");
        let settings = Settings::of_gateway("servicefence-system");
        let server = runtime.spawn(als::serve(
            listener,
            Arc::new(Known),
            settings,
            metrics,
            shutdown.clone(),
        ));
        let mut sender = Command::new(std::env::current_exe().expect("this program"))
            .args([
                "send",
                &address.to_string(),
                &streams.to_string(),
                &batch.to_string(),
                "6",
            ])
            .stdout(Stdio::null())
            .spawn()
            .expect("the sender starts");
        std::thread::sleep(Duration::from_secs(2));
        let before = (Instant::now(), cpu_time(), counted(&registry));
        std::thread::sleep(Duration::from_secs(3));
        let after = (Instant::now(), cpu_time(), counted(&registry));

        let seconds = (after.0 - before.0).as_secs_f64();
        let entries = after.2.0 - before.2.0;
        let cpu = after.1.saturating_sub(before.1).as_secs_f64() * 1e6 / entries;
        println!(
            "{streams:>7} {batch:>9} {threads:>7} {:>11.0} {:>11.0} {cpu:>12.2} {:>14.0}",
            entries / seconds,
            (after.2.1 - before.2.1) / seconds / 1e6,
            1e6 / cpu
        );
        assert!(
            sender.wait().expect("it was started").success(),
            "the sender failed"
        );
        shutdown.cancel();
        runtime
            .block_on(server)
            .expect("no panic")
            .expect("the server ends in good order");
    }
}

/// Known entries and bytes so far.
fn counted(registry: &Registry) -> (f64, f64) {
    let families = registry.gather();
    let value = |name, label: &str| {
        let family = families
            .iter()
            .find(|family| family.name() == name)
            .expect("a metric of the intake");
        let fits = |metric: &&prometheus::proto::Metric| {
            label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label)
        };
        family
            .get_metric()
            .iter()
            .find(fits)
            .expect("a resolved label")
            .get_counter()
            .get_value()
    };
    (
        value("servicefence_access_log_entries_total", "known"),
        value("servicefence_access_log_bytes_total", ""),
    )
}

/// The CPU that all threads of this process have used, in user and kernel mode.
fn cpu_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let nanoseconds = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// The sender's process.
fn send(address: &str, streams: usize, batch: usize, time: Duration) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let all: Arc<[Bytes]> = messages(batch).into();
    let end = Instant::now() + time;
    runtime.block_on(async {
        let tasks: Vec<_> = (0..streams)
            .map(|_| {
                let (address, all) = (format!("http://{address}"), Arc::clone(&all));
                tokio::spawn(async move {
                    let channel = tonic::transport::Endpoint::from_shared(address).expect("an address");
                    let mut client =
                        tonic::client::Grpc::new(channel.connect().await.expect("the server is up"));
                    client.ready().await.expect("the server is up");
                    let endless = (0..).map(move |n: usize| all[n % all.len()].clone());
                    let messages = std::iter::once(first_message()).chain(endless);
                    let in_time = tokio_stream::iter(messages.take_while(move |_| Instant::now() < end));
                    let path = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
                        .parse()
                        .expect("a path");
                    client
                        .client_streaming(tonic::Request::new(in_time), path, Raw)
                        .await
                        .map(|_| ())
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic").expect("the server takes all");
        }
    });
}

/// Messages that are already encoded.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = tonic::Status;

    fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<()>, tonic::Status> {
        Ok(Some(()))
    }
}

/// The alternative to reading in place: derived messages of just the needed fields, which borrow from the
/// buffer.
mod slim {
    use prost::bytes::Bytes;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct StreamAccessLogsMessage {
        #[prost(message, optional, tag = "2")]
        http_logs: Option<HttpAccessLogEntries>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct HttpAccessLogEntries {
        #[prost(message, repeated, tag = "1")]
        log_entry: Vec<HttpAccessLogEntry>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct HttpAccessLogEntry {
        #[prost(message, optional, tag = "1")]
        common_properties: Option<AccessLogCommon>,
        #[prost(message, optional, tag = "3")]
        request: Option<HttpRequestProperties>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct AccessLogCommon {
        #[prost(message, optional, tag = "4")]
        tls_properties: Option<TlsProperties>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct TlsProperties {
        #[prost(message, optional, tag = "5")]
        peer_certificate_properties: Option<CertificateProperties>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct CertificateProperties {
        #[prost(message, repeated, tag = "1")]
        subject_alt_name: Vec<SubjectAltName>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct SubjectAltName {
        #[prost(bytes = "bytes", tag = "1")]
        uri: Bytes,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct HttpRequestProperties {
        #[prost(int32, tag = "1")]
        request_method: i32,
        #[prost(bytes = "bytes", tag = "3")]
        authority: Bytes,
        #[prost(message, repeated, tag = "13")]
        request_headers: Vec<Header>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Header {
        #[prost(bytes = "bytes", tag = "1")]
        name: Bytes,
        #[prost(bytes = "bytes", tag = "2")]
        value: Bytes,
    }
}
