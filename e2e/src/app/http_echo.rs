//! The HTTP server: tells in JSON what reached it, and can redirect, be slow, stream, send much, fail and
//! talk WebSocket or gRPC. Answers that are not JSON tell in headers who answers and which certificate came.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use ring::digest;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Me, grpc};
use crate::hex::hex;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The header of an answer that names the pod which gives it.
const SERVER: &str = "x-mesh-server";
/// The header of an answer that repeats the request's `x-forwarded-client-cert`.
const CLIENT: &str = "x-mesh-client";

/// Serves one connection, HTTP/1.1 or HTTP/2 as the client begins.
pub(super) async fn serve<S>(me: Arc<Me>, stream: S, peer: SocketAddr) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let me = Arc::clone(&me);
        async move { Ok::<_, Infallible>(answer(&me, peer, request).await) }
    });
    auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await
        .map_err(anyhow::Error::from_boxed)
}

async fn answer(me: &Me, peer: SocketAddr, request: Request<Incoming>) -> Response<Body> {
    if grpc::is_grpc(request.headers()) {
        return grpc::answer(&me.pod, request)
            .await
            .map(|body| body.map_err(BoxError::from).boxed_unsync());
    }
    if let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() {
        let client = request.headers().get("x-forwarded-client-cert").cloned();
        return signed(me, client, web_socket(&me.pod, request, key.as_bytes()));
    }
    let path = request.uri().path().to_owned();
    let query = query(request.uri().query().unwrap_or_default());
    let number = |name: &str| {
        query
            .get(name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(0_u64)
    };
    let client = request.headers().get("x-forwarded-client-cert").cloned();
    match path.as_str() {
        "/redirect" => {
            let mut response = whole(StatusCode::FOUND, String::new());
            response
                .headers_mut()
                .insert(header::LOCATION, header::HeaderValue::from_static("/"));
            return signed(me, client, response);
        }
        "/stream" => {
            let pause = Duration::from_millis(number("ms"));
            return signed(me, client, chunks(number("n"), pause));
        }
        "/bytes" => return signed(me, client, many(number("n"))),
        "/slow" => tokio::time::sleep(Duration::from_millis(number("ms"))).await,
        _ => {}
    }
    let status = path.strip_prefix("/status/").and_then(|code| code.parse().ok());
    match tell(me, peer, request).await {
        Ok(text) => whole(status.unwrap_or(StatusCode::OK), text),
        Err(error) => whole(StatusCode::BAD_REQUEST, format!("the body broke off: {error}")),
    }
}

/// What reached the server.
async fn tell(me: &Me, peer: SocketAddr, request: Request<Incoming>) -> Result<String> {
    let (parts, mut body) = request.into_parts();
    let (mut bytes, mut hash) = (0_usize, digest::Context::new(&digest::SHA256));
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            bytes += data.len();
            hash.update(data);
        }
    }
    let hash = hex(hash.finish().as_ref());
    let host = parts
        .uri
        .authority()
        .map(ToString::to_string)
        .or_else(|| text(&parts.headers, "host"));
    let headers: BTreeMap<&str, Vec<&str>> = parts
        .headers
        .keys()
        .map(|name| {
            let values = parts
                .headers
                .get_all(name)
                .iter()
                .filter_map(|value| value.to_str().ok());
            (name.as_str(), values.collect())
        })
        .collect();
    let told = json!({
        "server": me.pod, "port": me.port, "host": host, "method": parts.method.as_str(),
        "path": parts.uri.path(), "query": parts.uri.query(), "protocol": format!("{:?}", parts.version),
        "peer": peer, "headers": headers, "body": {"bytes": bytes, "sha256": hash},
    });
    Ok(told.to_string() + "\n")
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn query(text: &str) -> BTreeMap<&str, &str> {
    text.split('&').filter_map(|pair| pair.split_once('=')).collect()
}

fn whole(status: StatusCode, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text))
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

/// Tells in headers what the body does not.
fn signed(me: &Me, client: Option<header::HeaderValue>, mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    if let Ok(server) = header::HeaderValue::from_str(&me.pod) {
        headers.insert(SERVER, server);
    }
    if let Some(client) = client {
        headers.insert(CLIENT, client);
    }
    response
}

/// A body of so many bytes, the same every time.
fn many(count: u64) -> Response<Body> {
    let bytes: Bytes = (0..=250)
        .cycle()
        .take(usize::try_from(count).unwrap_or_default())
        .collect();
    Response::new(Full::new(bytes).map_err(|never| match never {}).boxed_unsync())
}

/// Server-sent events, one every `pause`.
fn chunks(count: u64, pause: Duration) -> Response<Body> {
    let events = stream::unfold(0, move |index| async move {
        if index == count {
            return None;
        }
        if index > 0 {
            tokio::time::sleep(pause).await;
        }
        Some((
            Ok::<_, BoxError>(Frame::data(Bytes::from(format!("data: {index}\n\n")))),
            index + 1,
        ))
    });
    let mut response = Response::new(StreamBody::new(events).boxed_unsync());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/event-stream"),
    );
    response
}

/// Accepts the upgrade, says who it is and echoes every message.
fn web_socket(pod: &str, request: Request<Incoming>, key: &[u8]) -> Response<Body> {
    let accept = derive_accept_key(key);
    let greeting = Message::text(format!("hello from {pod}"));
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        if socket.send(greeting).await.is_err() {
            return;
        }
        while let Some(Ok(message)) = socket.next().await {
            let is_data = message.is_text() || message.is_binary();
            if message.is_close() || (is_data && socket.send(message).await.is_err()) {
                break;
            }
        }
        // The client may have left without a word.
        let _ = socket.close(None).await;
    });
    let mut response = whole(StatusCode::SWITCHING_PROTOCOLS, String::new());
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    if let Ok(accept) = header::HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}
