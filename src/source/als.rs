//! The access-log intake: learns from what the fallback gateway serves.
//!
//! In: gRPC access logs (`envoy.service.accesslog.v3`) of the gateway's Envoys, one entry at the start of a
//! miss and one at its end. Out: a [`Miss`] for each call that is new to a stream, handed to a [`Sink`].
//! Invariants: a known call costs no lock that streams share, no allocation and no API call; one bad entry
//! never costs the others of its message; nothing that a stranger sends can panic, grow without bound or
//! choose a metric label.
//!
//! ```text
//! stream ─▶ identifier: is it our gateway? ─▶ wire: source, peer, destination ─▶ known? ─▶ done
//!                                                                                  │ no
//!                                                                     Miss::parse ─▶ Sink::observe
//! ```
//!
//! Start and end entries are treated alike. Envoy may lose or repeat either of them, so each one has to be
//! enough.
//!
//! # The drain
//!
//! Streams live as long as the gateway, so something has to end them: a shutdown, or the age of the
//! connection. Both do it in the same way. The server sends GOAWAY, so that no new stream comes on this
//! connection. Each stream finishes the message that it has in hand and ends with OK. Envoy then opens a new
//! stream, which the Service sends to any ready replica. Entries on their way at that moment are lost: access
//! logs promise no more, and the caller's next miss tells the same. After [`Settings::drain_timeout`] a
//! shutdown waits no longer.
//!
//! By age, all connections of a gateway would leave at once, as they came at once. So each stream stays on a
//! little longer, by a random time of its own: GOAWAY comes at [`Settings::max_connection_age`], the stream's
//! end up to a fifth later.

mod complaints;
mod excerpt;
mod grpc;
mod known;
mod metrics;
mod refusal;
pub mod sink;
mod stream;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use self::complaints::Complaints;
use crate::fence::miss::Miss;

pub use self::grpc::AccessLogService;
pub use self::metrics::AlsMetrics;
pub use self::refusal::Refusal;
pub use self::stream::Intake;

/// The largest message of a gateway that is read.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// What the intake asks of the rest of the program.
pub trait Sink: Send + Sync + 'static {
    /// Moves whenever an answer of [`Sink::observe`] may change: a pod, a Service or a fence changed. Streams
    /// then drop their caches.
    ///
    /// It has to move after the change can be seen by `observe`, not before: a stream that reads the new
    /// epoch keeps the answers that it gets until the next one.
    fn epoch(&self) -> u64;

    /// A miss that this stream has not seen since the epoch moved. Called off the hot path, by the task of
    /// the stream: it must not block.
    fn observe(&self, miss: &Miss<'_>) -> Outcome;
}

/// What became of a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is known or was handed on. The stream does not ask again until the epoch moves.
    Recorded,
    /// It concerns no fence, for a reason out of a bounded list: not fenced, not a mesh address. The stream
    /// does not ask again until the epoch moves, but counts each entry for this reason.
    Ignored(&'static str),
    /// It could not be handed on now, for instance because a queue is full. The stream asks again with the
    /// next entry of the same call. Until then it counts as ignored, for the reason `busy`.
    Busy,
}

/// Who may report calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reporters {
    /// The fallback gateway in this namespace, on behalf of those who called it. Who may connect is for the
    /// mesh to see to.
    Gateway(String),
    /// Sidecars, each of its own pod's calls: the namespace of the pod must be the one that the stream's
    /// certificate proves.
    Sidecars,
}

/// How the intake behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Who may send streams.
    pub reporters: Reporters,
    /// How long a stream may stay open before its first message.
    pub first_message_timeout: Duration,
    /// The age at which a connection is asked to go, so that streams spread over the replicas. None: never.
    pub max_connection_age: Option<Duration>,
    /// How often a connection is asked whether it is alive.
    pub keepalive_interval: Duration,
    /// How long it may take to answer.
    pub keepalive_timeout: Duration,
    /// How many streams a connection may have. Envoy needs one per worker thread and logger, and gives each
    /// worker a connection of its own.
    pub max_concurrent_streams: u32,
    /// The longest message that is read. A first message with its identifier has about 61 KB.
    pub max_message_bytes: usize,
    /// How many calls a stream remembers. A call takes about 200 bytes.
    pub known_calls_per_stream: usize,
    /// How long a shutdown waits for streams and connections to end.
    pub drain_timeout: Duration,
}

impl Settings {
    /// The defaults for a fallback gateway in `system_namespace`.
    pub fn of_gateway(system_namespace: impl Into<String>) -> Self {
        Self::new(Reporters::Gateway(system_namespace.into()))
    }

    /// The defaults for sidecars. There are many of them, and each knows the calls of one pod only.
    pub fn of_sidecars() -> Self {
        Self {
            max_message_bytes: 256 * 1024,
            known_calls_per_stream: 512,
            ..Self::new(Reporters::Sidecars)
        }
    }

    fn new(reporters: Reporters) -> Self {
        Self {
            reporters,
            first_message_timeout: Duration::from_secs(30),
            max_connection_age: Some(Duration::from_mins(15)),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            max_concurrent_streams: 16,
            max_message_bytes: MAX_MESSAGE_BYTES,
            known_calls_per_stream: 8192,
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// The access-log server stopped by itself.
#[derive(Debug, thiserror::Error)]
#[error("the access-log server failed: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

impl ServeError {
    /// A bounded name for the kind of this error.
    pub fn category(&self) -> &'static str {
        "access_log_server"
    }
}

/// What all streams of one intake share.
#[derive(Debug)]
struct Shared<S> {
    sink: Arc<S>,
    settings: Settings,
    metrics: AlsMetrics,
    complaints: Complaints,
}

/// The gRPC service, to be put on a server. Its streams end when `shutdown` is cancelled.
pub fn service<S: Sink>(
    sink: Arc<S>,
    settings: Settings,
    metrics: AlsMetrics,
    shutdown: CancellationToken,
) -> AccessLogService<S> {
    let shared = Shared {
        sink,
        settings,
        metrics,
        complaints: Complaints::new(),
    };
    AccessLogService::new(Arc::new(shared), shutdown)
}

/// Serves access logs on `listener` until `shutdown` is cancelled, then drains: see the head of this module.
pub async fn serve<S: Sink>(
    listener: TcpListener,
    sink: Arc<S>,
    settings: Settings,
    metrics: AlsMetrics,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let mut server = Server::builder()
        .max_concurrent_streams(settings.max_concurrent_streams)
        .http2_keepalive_interval(Some(settings.keepalive_interval))
        .http2_keepalive_timeout(Some(settings.keepalive_timeout));
    if let Some(age) = settings.max_connection_age {
        // Without tonic's grace: with one, it would send no GOAWAY and cut. The streams end by themselves.
        server = server.max_connection_age(age);
    }
    let incoming = TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        // HTTP/2 pings begin after the handshake. This finds a peer that vanished before it.
        .with_keepalive(Some(settings.keepalive_interval));
    let drain_timeout = settings.drain_timeout;
    let serving = server
        .add_service(service(sink, settings, metrics, shutdown.clone()))
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled());
    let out_of_patience = async {
        shutdown.cancelled().await;
        tokio::time::sleep(drain_timeout).await;
    };
    tokio::select! {
        served = serving => Ok(served?),
        () = out_of_patience => {
            tracing::warn!(?drain_timeout, "access-log connections are still open after the drain; going on without them");
            Ok(())
        }
    }
}

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
