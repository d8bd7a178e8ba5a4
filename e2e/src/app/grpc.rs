//! The gRPC service `mesh.Echo`: one unary method, one bidirectional stream, errors by request. Messages by
//! hand, no protoc.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::StreamExt as _;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

/// The path of the unary method.
pub const ECHO_UNARY: &str = "/mesh.Echo/Unary";
/// The path of the bidirectional stream.
pub const ECHO_STREAM: &str = "/mesh.Echo/Stream";

/// What is asked.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EchoRequest {
    /// Comes back as it is.
    #[prost(string, tag = "1")]
    pub message: String,
    /// A gRPC status code to fail with; 0 is success.
    #[prost(int32, tag = "2")]
    pub fail_with: i32,
}

/// What is answered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EchoReply {
    /// The message of the request.
    #[prost(string, tag = "1")]
    pub message: String,
    /// The pod that answers: namespace/name.
    #[prost(string, tag = "2")]
    pub server: String,
    /// The request's metadata.
    #[prost(map = "string, string", tag = "3")]
    pub metadata: HashMap<String, String>,
}

type Replies = Pin<Box<dyn Stream<Item = Result<EchoReply, Status>> + Send>>;

/// Whether a request is gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// Answers one gRPC request.
pub(super) async fn answer(pod: &str, request: Request<Incoming>) -> Response<Body> {
    let echo = Echo { pod: pod.to_owned() };
    let path = request.uri().path().to_owned();
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<EchoReply, EchoRequest>::default());
    match path.as_str() {
        ECHO_UNARY => grpc.unary(Unary(echo), request).await,
        ECHO_STREAM => grpc.streaming(Bidirectional(echo), request).await,
        _ => Status::unimplemented(format!("there is no method {path}")).into_http(),
    }
}

#[derive(Clone)]
struct Echo {
    pod: String,
}

impl Echo {
    fn reply(&self, request: EchoRequest, metadata: HashMap<String, String>) -> Result<EchoReply, Status> {
        match Code::from(request.fail_with) {
            Code::Ok => Ok(EchoReply {
                message: request.message,
                server: self.pod.clone(),
                metadata,
            }),
            code => Err(Status::new(code, format!("{} was asked to fail", self.pod))),
        }
    }
}

fn metadata(from: &MetadataMap) -> HashMap<String, String> {
    let headers = from.clone().into_headers();
    let pairs = headers
        .iter()
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
    pairs.collect()
}

struct Unary(Echo);

impl Service<tonic::Request<EchoRequest>> for Unary {
    type Response = tonic::Response<EchoReply>;
    type Error = Status;
    type Future = BoxFuture<Self::Response, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<EchoRequest>) -> Self::Future {
        let echo = self.0.clone();
        Box::pin(async move {
            let metadata = metadata(request.metadata());
            Ok(tonic::Response::new(echo.reply(request.into_inner(), metadata)?))
        })
    }
}

struct Bidirectional(Echo);

impl Service<tonic::Request<Streaming<EchoRequest>>> for Bidirectional {
    type Response = tonic::Response<Replies>;
    type Error = Status;
    type Future = BoxFuture<Self::Response, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Streaming<EchoRequest>>) -> Self::Future {
        let echo = self.0.clone();
        Box::pin(async move {
            let metadata = metadata(request.metadata());
            let replies = request
                .into_inner()
                .map(move |asked| echo.reply(asked?, metadata.clone()));
            Ok(tonic::Response::new(Box::pin(replies) as Replies))
        })
    }
}
