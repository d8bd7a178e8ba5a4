//! Plain HTTP GETs to the loopback ports of a namespace: Envoy's admin interface, istiod's debug pages,
//! probes.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;

/// What was answered.
#[derive(Clone, Debug)]
pub struct Page {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

impl Page {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// GET over a socket that belongs to the right namespace.
pub async fn get_over(socket: TcpSocket, address: SocketAddr, path: &str) -> Result<Page> {
    let request = async {
        let stream = socket
            .connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request = http::Request::get(path)
            .header("host", "localhost")
            .body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        driver.abort();
        Ok(Page { status, body })
    };
    tokio::time::timeout(Duration::from_secs(20), request)
        .await
        .with_context(|| format!("no answer to GET {path}"))?
}

/// GET from the namespace that this thread is in, without a runtime around. For clean-up and start-up code.
pub fn get(port: u16, path: &str) -> Result<Page> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async { get_over(TcpSocket::new_v4()?, loopback(port), path).await })
}

/// 127.0.0.1 and a port.
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
