//! The client for the API server: kube's own, with smaller buffers, and with connections that notice when the
//! other side is gone.
//!
//! A load balancer or a node that goes takes connections with it without a word. What is written then
//! waits for an answer, and a watch for events, until a time limit ends it: kube's is five minutes. A proxy
//! would wait as long for the host that it lacks. So each packet has to be acknowledged within ten seconds; a
//! server that answers late does acknowledge, and may take its time.
//!
//! Each watch has a connection, and there are dozens: one for each kind and one for the pods of each
//! namespace with fences. hyper lets the buffer of a connection grow to 400 KB with a large list and never
//! shrinks it.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::Config;
use kube::client::retry::RetryPolicy;
use kube::client::{ClientBuilder, ConfigExt as _};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

/// Most bytes of an answer that a connection holds at once.
const LARGEST_BUFFER: usize = 64 * 1024;

/// How long a connection may be idle before it is asked whether it is alive, and how long a packet, this
/// question too, may go without an acknowledgement before the connection counts as dead. Half of the grace
/// that the controller has to write what it has learned before it ends.
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// The same layers as `kube::Client::try_from` has, but the one that traces.
///
/// # Errors
///
/// Where the configuration names certificates, credentials or headers that cannot be used.
pub fn client(config: Config) -> Result<kube::Client, kube::Error> {
    if config.proxy_url.is_some() {
        // Refused there with a sentence: kube's features for proxies are off.
        return kube::Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(DEAD_AFTER));
    tcp.set_keepalive_interval(Some(DEAD_AFTER / 2));
    tcp.set_keepalive_retries(Some(2));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(DEAD_AFTER));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let http = Client::builder(TokioExecutor::new())
        .http1_max_buf_size(LARGEST_BUFFER)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(
            config
                .default_retry
                .then(|| RetryLayer::new(RetryPolicy::server_retry())),
        )
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}
