//! Calls from a pod: sockets are made inside its network namespace, so its sidecar sees them as the app's
//! own.
//!
//! In: a pod and a [`Call`]. Out: a [`Reply`] that never hides a failure: what came, what did not, and how
//! long it took.

mod grpc;
mod http_client;
mod target;
mod tcp;
mod tls;
mod via;
mod web_socket;

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use serde_json::Value;

pub use http_client::HttpClient;
pub use target::{Scheme, Target};
pub use tcp::TcpSession;
pub use via::Via;

use crate::mesh::Mesh;
use crate::proxy::Taken;
use crate::wait::{self, until};

/// One call. `Call::get("http://reviews.books:8080/")` is complete.
///
/// Schemes: `http` and `https` (HTTP/1.1), `h2` (HTTP/2 by prior knowledge), `grpc`, `ws`, `tcp`,
/// `tcp-server-first`, `tls` (the same as `https`). Names are those of Services (`reviews`, `reviews.books`,
/// …), addresses, or external hosts.
#[derive(Clone, Debug)]
pub struct Call {
    url: String,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
    timeout: Duration,
}

impl Call {
    /// A GET, or for other schemes than HTTP the default exchange.
    pub fn get(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            method: Method::GET,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            timeout: Duration::from_secs(10),
        }
    }

    /// A POST. For TCP, WebSocket and gRPC the body is what is sent; gRPC sends each line as a message of a
    /// stream.
    pub fn post(url: &str, body: impl Into<Bytes>) -> Self {
        Self {
            method: Method::POST,
            body: body.into(),
            ..Self::get(url)
        }
    }

    /// The URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Another method.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Adds a header. Names and values that HTTP does not know are left out.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.headers.append(name, value);
        }
        self
    }

    /// Sends another Host (`:authority`) than the URL's.
    #[must_use]
    pub fn host(self, host: &str) -> Self {
        self.header("host", host)
    }

    /// Gives up after this time; 10 s otherwise.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The HTTP status; none when no HTTP answer came, or for TCP.
    pub status: Option<u16>,
    /// The HTTP version of the answer.
    pub version: Option<Version>,
    /// The headers of the answer.
    pub headers: HeaderMap,
    /// The trailers of the answer.
    pub trailers: HeaderMap,
    /// The body, or the bytes that TCP, WebSocket or gRPC messages brought.
    pub body: Bytes,
    /// The gRPC status.
    pub grpc_status: Option<i32>,
    /// The pod that answered, `namespace/name`, if it was one of the harness's own apps.
    pub served_by: Option<String>,
    /// How the request came to the server, as far as the server can see; for HTTP and gRPC.
    pub via: Option<Via>,
    /// From the connect to the end of the body.
    pub elapsed: Duration,
    /// From the connect to each piece of the body.
    pub pieces: Vec<Duration>,
    /// Whether a new connection was made for it.
    pub new_connection: bool,
    /// What went wrong, if anything: no connection, reset, time-out, a body that broke off.
    pub error: Option<String>,
}

impl Reply {
    fn failed(error: &anyhow::Error) -> Self {
        Self {
            error: Some(format!("{error:#}")),
            ..Self::default()
        }
    }

    /// Whether it worked: no error, and a status of success where there is one.
    pub fn is_ok(&self) -> bool {
        let status = self
            .status
            .is_none_or(|status| status == 101 || (200..300).contains(&status));
        self.error.is_none() && status && self.grpc_status.unwrap_or(0) == 0
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The values of a request header, as the echo server received them.
    pub fn received(&self, header: &str) -> Vec<String> {
        let values = self.json()["headers"][header]
            .as_array()
            .cloned()
            .unwrap_or_default();
        values
            .iter()
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect()
    }

    /// Whether this pod answered with success.
    pub fn is_from(&self, pod: &str) -> bool {
        self.is_ok() && self.served_by.as_deref() == Some(pod)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status, self.grpc_status) {
            (_, Some(code)) => write!(f, "grpc {code}")?,
            (Some(status), None) => write!(f, "{status}")?,
            (None, None) if self.error.is_none() => write!(f, "ok")?,
            (None, None) => write!(f, "failed")?,
        }
        write!(f, " in {:.1} ms", self.elapsed.as_secs_f64() * 1000.0)?;
        if let Some(pod) = &self.served_by {
            write!(f, " from {pod}")?;
        }
        if let Some(via) = &self.via {
            write!(f, ", {via}")?;
        }
        if let Some(error) = &self.error {
            write!(f, ": {error}")?;
        } else if !self.is_ok() && !self.body.is_empty() {
            write!(
                f,
                ": {}",
                self.text().chars().take(200).collect::<String>().trim_end()
            )?;
        }
        Ok(())
    }
}

impl Mesh {
    /// One call from a pod, on a new connection.
    pub async fn call(&self, from: &str, call: &Call) -> Reply {
        match self.try_call(from, call).await {
            Ok(reply) => reply,
            Err(error) => Reply::failed(&error),
        }
    }

    /// The shortest form: a GET.
    pub async fn get(&self, from: &str, url: &str) -> Reply {
        self.call(from, &Call::get(url)).await
    }

    /// Repeats a call until the reply is as wanted; for what istiod has to tell proxies first.
    pub async fn eventually(
        &self,
        from: &str,
        call: &Call,
        wanted: impl Fn(&Reply) -> bool,
    ) -> Result<Reply> {
        until(
            format!("the wanted reply to {} from {from}", call.url),
            wait::SHORT,
            || async {
                let reply = self.call(from, call).await;
                ensure!(wanted(&reply), "{reply}");
                Ok(reply)
            },
        )
        .await
    }

    /// A call, and which clusters the proxies of these pods used for it: the proof of the way it took, also
    /// for TCP. Ask the caller's pod and the gateways in question, and let nothing else run through them
    /// meanwhile.
    pub async fn call_seen_by(&self, from: &str, call: &Call, pods: &[&str]) -> Result<(Reply, Vec<Taken>)> {
        let mut before = Vec::new();
        for pod in pods {
            let proxy = self.proxy(pod)?;
            let traffic = proxy.traffic().await?;
            before.push((proxy, traffic));
        }
        let reply = self.call(from, call).await;
        let mut taken = Vec::new();
        for (proxy, before) in &before {
            taken.push(proxy.taken_since(before).await?);
        }
        Ok((reply, taken))
    }

    async fn try_call(&self, from: &str, call: &Call) -> Result<Reply> {
        let target = self.target(from, &call.url).await?;
        let start = Instant::now();
        let exchange = async {
            match target.scheme {
                Scheme::Http | Scheme::Https | Scheme::H2 => {
                    Ok(HttpClient::of(self.clone(), target.clone()).send(call).await)
                }
                Scheme::Tcp | Scheme::TcpServerFirst => Ok(TcpSession::call(&mut None, &target, call).await),
                Scheme::Ws => web_socket::exchange(&target, call).await,
                Scheme::Grpc => grpc::exchange(&target, call).await,
            }
        };
        let mut reply = match tokio::time::timeout(call.timeout, exchange).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => Reply::failed(&error),
            Err(_) => Reply {
                error: Some(format!("no answer in {:?}", call.timeout)),
                ..Reply::default()
            },
        };
        reply.new_connection = true;
        if reply.elapsed.is_zero() {
            reply.elapsed = start.elapsed();
        }
        Ok(reply)
    }

    /// A client that keeps its connection to one `scheme://host:port` and makes a new one only when it must.
    pub async fn http_client(&self, from: &str, url: &str) -> Result<HttpClient> {
        Ok(HttpClient::of(self.clone(), self.target(from, url).await?))
    }

    /// A TCP connection that stays open until it is dropped.
    pub async fn tcp_session(&self, from: &str, url: &str) -> Result<TcpSession> {
        TcpSession::open(&self.target(from, url).await?).await
    }
}
