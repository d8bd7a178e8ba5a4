//! gRPC calls of `mesh.Echo`: one line of the body is a unary call, several are the messages of a stream.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::uri::PathAndQuery;
use http::{HeaderMap, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::MetadataMap;
use tonic_prost::ProstCodec;

use super::target::Target;
use super::{Call, Reply, Via};
use crate::app::{ECHO_STREAM, ECHO_UNARY, EchoReply, EchoRequest};

/// How long a call is given to notice that its connection has ended.
const NEWS_OF_AN_END: Duration = Duration::from_secs(1);

/// One HTTP/2 connection as tonic wants it.
struct Connection(http2::SendRequest<Body>);

impl Service<http::Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<Response<Incoming>, hyper::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

pub(super) async fn exchange(target: &Target, call: &Call) -> Result<Reply> {
    let start = Instant::now();
    let stream = target.connect().await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    // A call that begins as its connection ends may never be told so.
    let ended = async {
        let _ = connection.await;
        tokio::time::sleep(NEWS_OF_AN_END).await;
    };
    tokio::select! {
        reply = on_connection(sender, target, call, start) => reply,
        () = ended => bail!("the connection ended without an answer"),
    }
}

async fn on_connection(
    sender: http2::SendRequest<Body>,
    target: &Target,
    call: &Call,
    start: Instant,
) -> Result<Reply> {
    let mut headers = call.headers.clone();
    let host = headers.remove(http::header::HOST);
    let authority = host
        .as_ref()
        .and_then(|host| host.to_str().ok())
        .unwrap_or(&target.authority);
    let mut grpc = Grpc::with_origin(Connection(sender), format!("http://{authority}").parse()?);
    grpc.ready().await.context("no connection")?;

    let text = String::from_utf8(call.body.to_vec())?;
    let fail_with = target
        .path
        .strip_prefix("/status/")
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    let mut messages: Vec<EchoRequest> = text
        .lines()
        .map(|line| EchoRequest {
            message: line.to_owned(),
            fail_with,
        })
        .collect();
    let codec = ProstCodec::<EchoRequest, EchoReply>::default();
    let mut outcome = Outcome::default();
    let result = if messages.len() > 1 {
        let request = with_headers(stream::iter(messages), headers);
        outcome
            .stream(
                grpc.streaming(request, PathAndQuery::from_static(ECHO_STREAM), codec)
                    .await,
            )
            .await
    } else {
        let message = messages.pop().unwrap_or(EchoRequest {
            message: "ping".to_owned(),
            fail_with,
        });
        let path = PathAndQuery::from_static(ECHO_UNARY);
        outcome.unary(grpc.unary(with_headers(message, headers), path, codec).await)
    };
    Ok(outcome.reply(result.err(), target, start))
}

fn with_headers<T>(message: T, headers: HeaderMap) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    request
}

/// What came, whether the call ended well or not.
#[derive(Default)]
struct Outcome {
    headers: HeaderMap,
    trailers: HeaderMap,
    replies: Vec<EchoReply>,
}

impl Outcome {
    fn unary(
        &mut self,
        result: Result<tonic::Response<EchoReply>, tonic::Status>,
    ) -> Result<(), tonic::Status> {
        let response = result?;
        self.headers = response.metadata().clone().into_headers();
        self.replies.push(response.into_inner());
        Ok(())
    }

    async fn stream(
        &mut self,
        result: Result<tonic::Response<tonic::Streaming<EchoReply>>, tonic::Status>,
    ) -> Result<(), tonic::Status> {
        let response = result?;
        self.headers = response.metadata().clone().into_headers();
        let mut replies = response.into_inner();
        while let Some(reply) = replies.next().await {
            self.replies.push(reply?);
        }
        self.trailers = replies
            .trailers()
            .await?
            .map(MetadataMap::into_headers)
            .unwrap_or_default();
        Ok(())
    }

    fn reply(self, failure: Option<tonic::Status>, target: &Target, start: Instant) -> Reply {
        let first = self.replies.first();
        let chain = first.map(|reply| reply.metadata.get("x-forwarded-client-cert").map(String::as_str));
        let lines: Vec<&str> = self.replies.iter().map(|reply| reply.message.as_str()).collect();
        Reply {
            grpc_status: Some(failure.as_ref().map_or(0, |status| status.code() as i32)),
            headers: self.headers,
            trailers: self.trailers,
            body: Bytes::from(lines.join("\n")),
            served_by: first.map(|reply| reply.server.clone()),
            via: chain.map(|chain| Via::of_chain(chain, &target.principal)),
            elapsed: start.elapsed(),
            error: failure.map(|status| status.to_string()),
            ..Reply::default()
        }
    }
}
