//! `servicefence run`

use std::error::Error;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::client;
use crate::config::Config;
use crate::logging;

pub(super) fn run(config: &Config) -> Result<(), Box<dyn Error>> {
    logging::init(&config.log_level, config.log_format)?;
    // kube and every other user of rustls in this process share one provider.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        return Err("a TLS provider was installed before ours".into());
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let shutdown = CancellationToken::new();
            on_signal(shutdown.clone())?;
            let kube_config = kube::Config::infer().await.map_err(|error| {
                format!("cannot find the API server: {error}; run in a cluster or set KUBECONFIG")
            })?;
            let client = client::client(kube_config)?;
            App::start(config, client, shutdown).await?.run().await?;
            Ok(())
        })
}

/// SIGTERM and SIGINT drain; a second one does not wait.
fn on_signal(shutdown: CancellationToken) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if shutdown.is_cancelled() {
                std::process::exit(130);
            }
            shutdown.cancel();
        }
    });
    Ok(())
}
