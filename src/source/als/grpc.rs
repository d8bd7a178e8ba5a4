//! The gRPC side: `envoy.service.accesslog.v3.AccessLogService`, written by hand.
//!
//! In: HTTP/2 requests. Out: the bytes of each message to an [`Intake`], and one answer at the end. A
//! generated server would decode every message in full before anybody sees it. This one hands out the bytes
//! as they lie in the receive buffer.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntGauge;
use prost::bytes::Buf;
use tokio_util::sync::CancellationToken;
use tonic::body::Body as ResponseBody;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tonic::codegen::{Body, BoxFuture, Bytes, Context, Poll, Service, StdError, http};
use tonic::server::{ClientStreamingService, Grpc, NamedService};
use tonic::{Code, Request, Response, Status};

use super::refusal;
use super::stream::refuse;
use super::{Intake, Refusal, Shared, Sink};

/// The gRPC service of the access-log intake.
#[derive(Debug)]
pub struct AccessLogService<S> {
    shared: Arc<Shared<S>>,
    shutdown: CancellationToken,
}

impl<S: Sink> AccessLogService<S> {
    pub(super) fn new(shared: Arc<Shared<S>>, shutdown: CancellationToken) -> Self {
        Self { shared, shutdown }
    }

    /// The state for one more stream, to be fed without gRPC.
    pub fn intake(&self) -> Intake<S> {
        Intake::new(Arc::clone(&self.shared), None)
    }
}

impl<S> Clone for AccessLogService<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            shutdown: self.shutdown.clone(),
        }
    }
}

impl<S> NamedService for AccessLogService<S> {
    const NAME: &'static str = "envoy.service.accesslog.v3.AccessLogService";
}

impl<S, B> Service<http::Request<B>> for AccessLogService<S>
where
    S: Sink,
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<ResponseBody>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs" {
            return Box::pin(async {
                Ok(Status::unimplemented("this service has StreamAccessLogs only").into_http())
            });
        }
        let most = self.shared.settings.max_message_bytes;
        let method = StreamAccessLogs(self.clone());
        Box::pin(async move {
            let mut grpc = Grpc::new(RawCodec).max_decoding_message_size(most);
            Ok(grpc.client_streaming(method, request).await)
        })
    }
}

struct StreamAccessLogs<S>(AccessLogService<S>);

impl<S: Sink> ClientStreamingService<Bytes> for StreamAccessLogs<S> {
    type Response = ();
    type Future = BoxFuture<Response<()>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let AccessLogService { shared, shutdown } = self.0.clone();
        // A token of its own: streams that all asked the parent would share its lock.
        let shutdown = shutdown.child_token();
        Box::pin(async move {
            let _open = OpenStream::count(&shared.metrics.streams);
            // Written by our own sidecar, which adds the sender's certificate at the end.
            let peer = request.metadata().get("x-forwarded-client-cert");
            let peer = peer.and_then(|value| refusal::peer(value.to_str().ok()?));
            let mut intake = Intake::new(Arc::clone(&shared), peer.map(str::to_owned));
            match run(&mut intake, &shared, request.into_inner(), &shutdown).await {
                Ok(()) => Ok(Response::new(())),
                Err(refusal) => Err(refuse(&shared, refusal, intake.node())),
            }
        })
    }
}

/// Feeds a stream's messages to its intake until the sender is done, or the stream has to end.
async fn run<S: Sink>(
    intake: &mut Intake<S>,
    shared: &Shared<S>,
    mut messages: Streaming<Bytes>,
    shutdown: &CancellationToken,
) -> Result<(), Refusal> {
    let settings = &shared.settings;
    let mut end = pin!(async {
        match settings.max_connection_age {
            Some(age) => {
                // Returns early when the shutdown comes first.
                let _ = tokio::time::timeout(jittered(age), shutdown.cancelled()).await;
            }
            None => shutdown.cancelled().await,
        }
    });
    let mut silence = pin!(tokio::time::sleep(settings.first_message_timeout));
    loop {
        let message = tokio::select! {
            biased;
            () = &mut end => return Ok(()),
            message = messages.message() => message,
            () = &mut silence, if intake.node().is_none() => {
                return Err(Refusal::Idle(settings.first_message_timeout.as_secs()));
            }
        };
        match message {
            Ok(Some(message)) => intake.take(&message)?,
            Ok(None) => return Ok(()),
            // The connection broke, or the sender took the stream back, so there is no one to answer.
            Err(status) if matches!(status.code(), Code::Unknown | Code::Unavailable | Code::Cancelled) => {
                return Ok(());
            }
            Err(status) => {
                return Err(Refusal::Unreadable {
                    code: status.code(),
                    message: status.message().to_owned(),
                });
            }
        }
    }
}

/// `age`, and up to a fifth more.
fn jittered(age: Duration) -> Duration {
    // The standard library's only source of chance, keyed anew for each call.
    let chance = RandomState::new().hash_one(()) % 1000;
    age + age / 5 * u32::try_from(chance).unwrap_or(0) / 1000
}

/// Counts an open stream, also when its task is dropped.
struct OpenStream(IntGauge);

impl OpenStream {
    fn count(streams: &IntGauge) -> Self {
        streams.inc();
        Self(streams.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Messages as bytes, answers as the empty message.
struct RawCodec;

impl Codec for RawCodec {
    type Encode = ();
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        // No copy: it splits the receive buffer.
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jitter_spreads_ages_over_a_fifth() {
        let age = Duration::from_secs(1000);
        let ages: Vec<_> = (0..200).map(|_| jittered(age).as_secs()).collect();
        assert!(ages.iter().all(|age| (1000..1200).contains(age)), "{ages:?}");
        assert!(
            ages.iter().any(|age| *age < 1050) && ages.iter().any(|age| *age > 1150),
            "{ages:?}"
        );
    }
}
