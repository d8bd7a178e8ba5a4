//! The wiring: binds everything first, then starts it, and returns a handle with the real
//! addresses, so that tests run what production runs.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin as Served};
use crate::api;
use crate::config::Config;
use crate::events::Events;
use crate::fence::Engine;
use crate::fence::name::set_cluster_domain;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::reconcile::Reconciler;
use crate::source::als::sink::Learn;
use crate::source::als::{self, AlsMetrics};
use crate::source::prometheus::{PrometheusMetrics, Reader};
use crate::source::{istiod, watch};
use crate::state::State;
use crate::supervisor::{Ended, Supervisor};
use crate::writer::{Budget, Learning, LearningSettings, Writer};

/// Observations that may wait to be gathered. More are dropped: their misses go on and bring them
/// again.
const MOST_WAITING: usize = 65_536;

/// Why the controller could not start or run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A port is taken or not ours to have.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Another controller of this process has another cluster domain.
    #[error("the cluster domain is {0} already in this process")]
    ClusterDomain(&'static str),
    /// The metrics are wrong in themselves.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] ::prometheus::Error),
    /// A task ended.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// A running controller.
pub struct App {
    /// Where access logs arrive.
    pub log_address: SocketAddr,
    /// Where `/metrics` and the rest are.
    pub admin_address: SocketAddr,
    /// Where people ask.
    pub api_address: SocketAddr,
    tasks: Supervisor,
    shutdown: CancellationToken,
    servers: [JoinHandle<()>; 2],
    stop_servers: CancellationToken,
    grace: Duration,
}

impl App {
    /// Binds and starts everything. It runs until `shutdown` is cancelled.
    pub async fn start(
        config: &Config,
        client: kube::Client,
        shutdown: CancellationToken,
    ) -> Result<Self, AppError> {
        set_cluster_domain(&config.cluster_domain).map_err(AppError::ClusterDomain)?;
        let log = bind(config.log_listen).await?;
        let observe = bind(config.observe_listen).await?;
        let admin_port = bind(config.admin_listen).await?;
        let log_address = address(&log, config.log_listen);
        let admin_address = address(&admin_port, config.admin_listen);
        let api_port = bind(config.api_listen).await?;
        let api_address = address(&api_port, config.api_listen);

        let metrics = Arc::new(Metrics::new()?);
        let als_metrics = AlsMetrics::new(metrics.registry())?;
        let readiness = Readiness::default();
        let state = Arc::new(State::new(Engine::new(config.settings())));
        let events = Events::new(client.clone(), config.pod_name.clone());
        let writer = writer(config, &client, &state, &metrics);

        let mut tasks = Supervisor::new(shutdown.clone());
        let context = context(config, client, &state, &events, &metrics);
        watch::start(&context, &mut tasks, &readiness);
        if !config.istiod_metrics_url.is_empty() {
            tasks.critical(
                "istiod's metrics",
                istiod::run(
                    config.istiod_metrics_url.clone(),
                    state.clone(),
                    readiness.wait_for("istiod's metrics"),
                ),
            );
        }

        let (observations, seen) = mpsc::channel(MOST_WAITING);
        let learning = Learning::new(learning_settings(config), writer.clone(), events.clone());
        tasks.draining("learning", learning.run(seen, shutdown.clone()));
        if let Some(settings) = config.prometheus.settings() {
            let metrics = PrometheusMetrics::new(metrics.registry())?;
            let reader = Reader::new(settings, state.clone(), observations.clone(), metrics);
            tasks.critical("prometheus", reader.run(readiness.clone()));
        }
        let sink = Arc::new(Learn {
            state: state.clone(),
            metrics: metrics.clone(),
            observations,
        });
        for (name, listener, settings) in [
            (
                "access logs",
                log,
                als::Settings::of_gateway(&config.system_namespace),
            ),
            ("access logs of sidecars", observe, als::Settings::of_sidecars()),
        ] {
            let intake = als::serve(
                listener,
                sink.clone(),
                settings,
                als_metrics.clone(),
                shutdown.clone(),
            );
            tasks.draining(name, or_say("the access-log service", intake));
        }

        let reconciler = Reconciler::new(state.clone(), writer, events, metrics.clone());
        tasks.draining("reconciler", reconciler.run(readiness.clone(), shutdown.clone()));

        let stop_servers = CancellationToken::new();
        let answering = api::serve(api_port, state.clone(), stop_servers.clone());
        let api = tokio::spawn(or_say("the API", answering));
        let served = Served {
            metrics,
            readiness,
            state,
            shutdown: shutdown.clone(),
        };
        let serving = admin::serve(admin_port, served, stop_servers.clone());
        let admin = tokio::spawn(or_say("the admin port", serving));
        tracing::info!(version = env!("CARGO_PKG_VERSION"), %log_address, %admin_address, %api_address, "started");
        Ok(Self {
            log_address,
            admin_address,
            api_address,
            tasks,
            shutdown,
            servers: [admin, api],
            stop_servers,
            grace: positive(config.shutdown_grace),
        })
    }

    /// Runs until shutdown and drains: streams end, what was learned is written, and the admin port
    /// answers until all of it is done. An error is a task that ended by itself.
    pub async fn run(mut self) -> Result<(), AppError> {
        let result = self.tasks.run().await;
        self.shutdown.cancel();
        tracing::info!("shutting down");
        if tokio::time::timeout(self.grace, self.tasks.drain())
            .await
            .is_err()
        {
            let tasks = self.tasks.running().join(", ");
            tracing::warn!(grace = ?self.grace, tasks, "not everything ended within the grace period");
        }
        self.stop_servers.cancel();
        self.servers.iter().for_each(JoinHandle::abort);
        result.map_err(AppError::from)
    }
}

/// Runs a server to its end, and says so where that is an error.
async fn or_say<E: std::fmt::Display>(what: &'static str, serving: impl Future<Output = Result<(), E>>) {
    if let Err(error) = serving.await {
        tracing::error!(%error, "{what} failed");
    }
}

fn context(
    config: &Config,
    client: kube::Client,
    state: &Arc<State>,
    events: &Events,
    metrics: &Arc<Metrics>,
) -> watch::Context {
    watch::Context {
        client,
        state: state.clone(),
        events: events.clone(),
        metrics: metrics.clone(),
        system_namespace: config.system_namespace.as_str().into(),
        istio_namespace: config.istio_namespace.as_str().into(),
        mesh_config_maps: config.mesh_config_maps(),
        service_cidrs: config.service_cidrs.iter().copied().collect(),
    }
}

fn learning_settings(config: &Config) -> LearningSettings {
    LearningSettings {
        quiet: positive(config.debounce),
        at_most: positive(config.debounce_max),
    }
}

fn writer(config: &Config, client: &kube::Client, state: &Arc<State>, metrics: &Arc<Metrics>) -> Writer {
    Writer::new(
        client.clone(),
        state.clone(),
        metrics.clone(),
        Budget::new(config.write_qps, config.write_burst),
        config.system_namespace.as_str().into(),
    )
}

/// Listens there; all addresses of IPv6 are those of IPv4 too, and where the kernel has no IPv6, those alone.
async fn bind(address: SocketAddr) -> Result<TcpListener, AppError> {
    let mut bound = TcpListener::bind(address).await;
    if bound.is_err() && address.ip() == Ipv6Addr::UNSPECIFIED {
        bound = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await;
    }
    bound.map_err(|source| AppError::Listen { address, source })
}

fn address(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

fn positive(duration: SignedDuration) -> Duration {
    Duration::try_from(duration).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families() {
        let listener = bind((Ipv6Addr::UNSPECIFIED, 0).into()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        if listener.local_addr().unwrap().is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.unwrap();
        }
    }
}
