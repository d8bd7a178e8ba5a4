//! A TLS server with a certificate that it makes for itself, and the HTTP echo inside.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{Me, http_echo};

/// With a certificate for the pod's name.
pub(super) fn acceptor(pod: &str) -> Result<TlsAcceptor> {
    let made = rcgen::generate_simple_self_signed(vec![pod.replace('/', "."), "localhost".to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

pub(super) async fn serve(me: Arc<Me>, tls: TlsAcceptor, stream: TcpStream, peer: SocketAddr) -> Result<()> {
    http_echo::serve(me, tls.accept(stream).await?, peer).await
}
