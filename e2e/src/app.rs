//! The app of a test pod: answers on its ports with who it is and what reached it. Runs inside the pod's
//! namespace.

mod grpc;
mod http_echo;
mod tcp;
mod tls;

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use tokio::net::{TcpListener, TcpStream};

pub use grpc::{ECHO_STREAM, ECHO_UNARY, EchoReply, EchoRequest};

/// What to serve.
#[derive(Clone, Debug, clap::Args)]
pub struct AppOptions {
    /// Who it says it is: namespace/name
    #[arg(long)]
    pub pod: String,
    /// HTTP/1.1, HTTP/2, WebSocket and gRPC
    #[arg(long)]
    pub http: Vec<u16>,
    /// TCP echo; the client speaks first
    #[arg(long)]
    pub tcp: Vec<u16>,
    /// TCP with a banner first
    #[arg(long)]
    pub tcp_server_first: Vec<u16>,
    /// TLS with a certificate of its own, HTTP inside
    #[arg(long)]
    pub tls: Vec<u16>,
}

/// Who answers, on which port.
#[derive(Debug)]
struct Me {
    pod: String,
    port: u16,
}

/// Serves until the process ends.
pub async fn serve(options: AppOptions) -> Result<()> {
    let tls = tls::acceptor(&options.pod)?;
    let mut servers = Vec::new();
    for port in options.http {
        servers.push(
            listen(&options.pod, port, |me, stream, peer| {
                http_echo::serve(me, stream, peer)
            })
            .await?,
        );
    }
    for port in options.tcp {
        servers.push(listen(&options.pod, port, |me, stream, _| tcp::client_first(me, stream)).await?);
    }
    for port in options.tcp_server_first {
        servers.push(listen(&options.pod, port, |me, stream, _| tcp::server_first(me, stream)).await?);
    }
    for port in options.tls {
        let tls = tls.clone();
        let serve = move |me, stream, peer| tls::serve(me, tls.clone(), stream, peer);
        servers.push(listen(&options.pod, port, serve).await?);
    }
    try_join_all(servers).await?;
    Ok(())
}

async fn listen<F, S>(pod: &str, port: u16, serve: S) -> Result<tokio::task::JoinHandle<()>>
where
    S: Fn(Arc<Me>, TcpStream, SocketAddr) -> F + Send + 'static,
    F: Future<Output = Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .await
        .with_context(|| format!("cannot listen on port {port}"))?;
    let me = Arc::new(Me {
        pod: pod.to_owned(),
        port,
    });
    Ok(tokio::spawn(async move {
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                continue;
            };
            // IPv4 comes in the form of IPv6.
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            let answer = serve(Arc::clone(&me), stream, peer);
            tokio::spawn(async move {
                if let Err(error) = answer.await {
                    eprintln!("{peer}: {error:#}");
                }
            });
        }
    }))
}
