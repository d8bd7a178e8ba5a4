//! An HTTP client that keeps its connection: HTTP/1.1, HTTP/2 by prior knowledge, HTTP/1.1 over TLS.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, Version, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::target::{Scheme, Target};
use super::{Call, Reply, Via, tls};
use crate::mesh::Mesh;

enum Connection {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn open(target: &Target) -> Result<Self> {
        let stream = target.connect().await?;
        if target.scheme == Scheme::H2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            return Ok(Self::Two(sender));
        }
        let sender = if target.scheme == Scheme::Https {
            let stream = tls::connect(stream, &target.host).await?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            sender
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            sender
        };
        Ok(Self::One(sender))
    }

    fn is_open(&self) -> bool {
        match self {
            Self::One(sender) => !sender.is_closed(),
            Self::Two(sender) => !sender.is_closed(),
        }
    }

    async fn is_ready(&mut self) -> bool {
        match self {
            Self::One(sender) => sender.ready().await.is_ok(),
            Self::Two(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        Ok(match self {
            Self::One(sender) => sender.send_request(request).await?,
            Self::Two(sender) => sender.send_request(request).await?,
        })
    }
}

/// A client of one `scheme://host:port`, in a pod.
pub struct HttpClient {
    target: Target,
    connection: Option<Connection>,
    // A client that outlives the last handle of its mesh would call into nothing.
    _mesh: Mesh,
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "client of {}", self.target.authority)
    }
}

impl HttpClient {
    pub(crate) fn of(mesh: Mesh, target: Target) -> Self {
        Self {
            target,
            connection: None,
            _mesh: mesh,
        }
    }

    /// GET of a path.
    pub async fn get(&mut self, path: &str) -> Reply {
        self.target.path = path.to_owned();
        self.send(&Call::get(path)).await
    }

    /// Sends a call on the connection there is, or on a new one. Only the path of its URL counts, and only if
    /// it is one.
    pub async fn send(&mut self, call: &Call) -> Reply {
        if call.url.starts_with('/') {
            call.url.clone_into(&mut self.target.path);
        }
        let start = Instant::now();
        let mut reply = Reply::default();
        let result = match tokio::time::timeout(call.timeout, self.exchange(call, start, &mut reply)).await {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("no whole answer in {:?}", call.timeout)),
        };
        if let Err(error) = result {
            reply.error = Some(format!("{error:#}"));
            self.connection = None;
        }
        reply.elapsed = start.elapsed();
        let told = reply.json();
        reply.served_by = told["server"].as_str().map(str::to_owned);
        // Inside TLS of the app's own the proxies see nothing, and so the server cannot tell.
        if self.target.scheme != Scheme::Https {
            reply.via = Via::of_echo(&told, &self.target.principal);
        }
        reply
    }

    /// The connection there is, if it takes another request. The server may have said that it does not.
    async fn kept(&mut self) -> Option<Connection> {
        let mut kept = self.connection.take().filter(Connection::is_open)?;
        kept.is_ready().await.then_some(kept)
    }

    async fn exchange(&mut self, call: &Call, start: Instant, reply: &mut Reply) -> Result<()> {
        let request = self.request(call)?;
        let mut connection = if let Some(kept) = self.kept().await {
            kept
        } else {
            reply.new_connection = true;
            let mut new = Connection::open(&self.target).await?;
            ensure!(new.is_ready().await, "the new connection takes no request");
            new
        };
        let response = connection.send(request).await.context("no answer")?;
        read(response, start, reply).await?;
        self.connection = Some(connection);
        Ok(())
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>> {
        let mut headers = call.headers.clone();
        let host = headers.remove(header::HOST);
        let host = host.map_or_else(|| HeaderValue::try_from(&self.target.authority), Ok)?;
        let two = self.target.scheme == Scheme::H2;
        let uri = if two {
            format!("http://{}{}", host.to_str()?, self.target.path)
        } else {
            headers.insert(header::HOST, host);
            self.target.path.clone()
        };
        let mut request = Request::builder()
            .method(&call.method)
            .uri(uri)
            .version(if two { Version::HTTP_2 } else { Version::HTTP_11 })
            .body(Full::new(call.body.clone()))?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// Reads the whole answer, noting when each piece came; what was read stands in the reply even if it breaks
/// off.
async fn read(response: Response<Incoming>, start: Instant, reply: &mut Reply) -> Result<()> {
    let (parts, mut body) = response.into_parts();
    reply.status = Some(parts.status.as_u16());
    reply.version = Some(parts.version);
    reply.headers = parts.headers;
    let mut bytes = BytesMut::new();
    let result = loop {
        match body.frame().await {
            None => break Ok(()),
            Some(Err(error)) => break Err(error).context("the body broke off"),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    bytes.extend_from_slice(&data);
                    reply.pieces.push(start.elapsed());
                }
                Err(frame) => reply.trailers.extend(frame.into_trailers().unwrap_or_default()),
            },
        }
    };
    reply.body = bytes.freeze();
    result
}
