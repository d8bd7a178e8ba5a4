//! How streams and connections end.

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::Code;
use tonic::codegen::{Service as _, http};

use super::hostile::{first_message, frame};
use super::*;

/// Gives the service a stream that sends `messages` and then stays silent, without any network: with a paused
/// clock, the time that passes is exactly the time that the service waits.
async fn silence_after(messages: Vec<Vec<u8>>) -> (Code, Duration, Harness) {
    let harness = Harness::start().await;
    let metrics_of_its_own = Registry::new();
    let metrics = AlsMetrics::new(&metrics_of_its_own).unwrap();
    let mut service = service(
        Arc::clone(&harness.sink),
        Settings::of_gateway(NAMESPACE),
        metrics,
        harness.shutdown.clone(),
    );
    let sent = stream::iter(messages).map(|message| Ok::<_, std::io::Error>(frame(&message)));
    let request = http::Request::post("/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs")
        .header("content-type", "application/grpc")
        .body(axum::body::Body::from_stream(sent.chain(stream::pending())))
        .unwrap();
    let start = Instant::now();
    let response = service.call(request).await.unwrap();
    let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
    let harness = Harness {
        registry: metrics_of_its_own,
        ..harness
    };
    (code, start.elapsed(), harness)
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_never_says_who_it_is_is_closed() {
    let (code, waited, harness) = silence_after(vec![]).await;
    assert_eq!((code, waited.as_secs()), (Code::DeadlineExceeded, 30));
    assert_eq!(harness.metric("streams_refused_total", "idle"), 1);
    assert_eq!(harness.metric("streams", ""), 0);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_without_misses_may_stay_silent_until_its_connection_is_old() {
    let (code, waited, harness) = silence_after(vec![first_message()]).await;
    assert_eq!(code, Code::Ok);
    assert!((15 * 60..18 * 60).contains(&waited.as_secs()), "{waited:?}");
    assert_eq!(harness.metric("streams_refused_total", "idle"), 0);
}

#[tokio::test]
async fn an_old_connection_is_told_to_go_and_closed() {
    let age = Duration::from_millis(300);
    let intake = Harness::with(Settings {
        max_connection_age: Some(age),
        ..Settings::of_gateway(NAMESPACE)
    })
    .await;
    let stream = intake.stream().await;
    // A connection by hand, to see the frames: preface and an empty SETTINGS frame.
    let start = Instant::now();
    let connection = TcpStream::connect(intake.address).await.unwrap();
    write(&connection, HELLO).await;
    let mut received = Vec::new();
    while !frame_types(&received).contains(&GOAWAY) {
        assert!(
            read(&connection, &mut received).await > 0,
            "closed without GOAWAY: {received:?}"
        );
    }
    assert!(start.elapsed() >= age, "{:?}", start.elapsed());
    // The server asks by a ping of its own whether GOAWAY has arrived, and closes when it has.
    write(
        &connection,
        b"\0\0\x08\x06\x01\0\0\0\0\x0b\x7b\xa2\xf0\x8b\x9b\xfe\x54",
    )
    .await;
    while read(&connection, &mut received).await > 0 {}

    // The stream was open all the time. It ended in good order, and the next one is welcome.
    stream.answer().await.unwrap();
    let again = intake.stream().await;
    again.entries(vec![web("10.96.0.20:8080")]).await;
    intake.until("entries_total", "new", 1).await;
}

#[tokio::test]
async fn a_shutdown_ends_streams_in_good_order_and_closes_the_port() {
    let intake = Harness::start().await;
    let streams = [
        intake.stream().await,
        intake.stream().await,
        intake.silent_stream().await,
    ];
    streams[0].entries(vec![web("10.96.0.20:8080")]).await;
    intake.until("entries_total", "new", 1).await;
    intake.until("streams", "", 3).await;

    let start = Instant::now();
    intake.shutdown.cancel();
    for stream in streams {
        stream.answer().await.unwrap();
    }
    let Harness { server, address, .. } = intake;
    ended(server).await;
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "nobody had to be waited for: {:?}",
        start.elapsed()
    );
    TcpStream::connect(address).await.unwrap_err();
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever_for_a_peer_that_says_nothing() {
    let drain_timeout = Duration::from_millis(200);
    let intake = Harness::with(Settings {
        drain_timeout,
        ..Settings::of_gateway(NAMESPACE)
    })
    .await;
    // It never sends HTTP/2, so it cannot be told to go.
    let _mute = TcpStream::connect(intake.address).await.unwrap();
    intake.stream().await.finish().await.unwrap();

    let start = Instant::now();
    intake.shutdown.cancel();
    let Harness { server, .. } = intake;
    ended(server).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_sender_that_vanishes_is_no_refusal() {
    let intake = Harness::start().await;
    let stream = intake.stream().await;
    stream.entries(vec![web("10.96.0.20:8080")]).await;
    intake.until("entries_total", "new", 1).await;
    stream.answer.abort();
    drop(stream.messages);
    intake.until("streams", "", 0).await;
    for reason in Refusal::CATEGORIES {
        assert_eq!(intake.metric("streams_refused_total", reason), 0, "{reason}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_no_refusal() {
    let intake = Harness::start().await;
    // HTTP/2 by hand: preface, SETTINGS, and the head of the call. Then the connection is gone.
    let connection = TcpStream::connect(intake.address).await.unwrap();
    let head: Vec<u8> = [
        &b"\x83\x86"[..],
        &literal(b":authority", b"als"),
        &literal(b":path", PATH),
        &literal(b"te", b"trailers"),
    ]
    .into_iter()
    .chain([&literal(b"content-type", b"application/grpc")[..]])
    .flatten()
    .copied()
    .collect();
    let length = u8::try_from(head.len()).unwrap();
    write(
        &connection,
        &[HELLO, &[0, 0, length, 1, 4, 0, 0, 0, 1], &head].concat(),
    )
    .await;
    intake.until("streams", "", 1).await;
    drop(connection);
    intake.until("streams", "", 0).await;
    for reason in Refusal::CATEGORIES {
        assert_eq!(intake.metric("streams_refused_total", reason), 0, "{reason}");
    }
}

/// HTTP/2's preface and an empty SETTINGS frame.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const GOAWAY: u8 = 7;
const PATH: &[u8] = b"/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// One header, as HPACK writes it without its tables.
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length = |text: &[u8]| u8::try_from(text.len()).unwrap();
    [&[0, length(name)], name, &[length(value)], value].concat()
}

async fn ended(server: JoinHandle<Result<(), ServeError>>) {
    tokio::time::timeout(Duration::from_secs(20), server)
        .await
        .expect("it serves on")
        .unwrap()
        .unwrap();
}

async fn write(connection: &TcpStream, bytes: &[u8]) {
    connection.writable().await.unwrap();
    assert_eq!(connection.try_write(bytes).unwrap(), bytes.len());
}

/// Appends what comes next. Zero: the connection was closed.
async fn read(connection: &TcpStream, received: &mut Vec<u8>) -> usize {
    let mut buffer = [0; 4096];
    loop {
        tokio::time::timeout(Duration::from_secs(10), connection.readable())
            .await
            .expect("it stays open")
            .unwrap();
        match connection.try_read(&mut buffer) {
            Ok(count) => {
                received.extend_from_slice(&buffer[..count]);
                return count;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn frame_types(mut frames: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [high, middle, low, kind, _, _, _, _, _, rest @ ..] = frames {
        types.push(*kind);
        let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
        frames = rest.get(length..).unwrap_or_default();
    }
    types
}
