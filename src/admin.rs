//! The admin port: `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::state::State;

/// What the port serves.
#[derive(Clone)]
pub struct Admin {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is waited for.
    pub readiness: Readiness,
    /// For the gauges.
    pub state: Arc<State>,
    /// Not ready once it is cancelled.
    pub shutdown: CancellationToken,
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) -> std::io::Result<()> {
    let app = Router::new()
        .route("/livez", get(async || "ok"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(admin);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn readyz(Shared(admin): Shared<Admin>) -> (StatusCode, String) {
    if admin.shutdown.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".to_owned());
    }
    let pending = admin.readiness.pending();
    if pending.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let pending: Vec<_> = pending.into_iter().collect();
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("waiting for the first list of: {}\n", pending.join(", ")),
    )
}

async fn metrics(Shared(admin): Shared<Admin>) -> impl IntoResponse {
    set_gauges(&admin);
    match admin.metrics.encode() {
        Ok(text) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            error.to_string(),
        ),
    }
}

/// Gauges are read when somebody asks.
fn set_gauges(admin: &Admin) {
    let engine = admin.state.engine();
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    admin.metrics.fences.reset();
    admin.metrics.saved_bytes.reset();
    for (mode, bytes) in engine.saved_bytes() {
        admin
            .metrics
            .saved_bytes
            .with_label_values(&[mode.as_str()])
            .add(bytes);
    }
    for (mode, enforced) in engine.fence_states() {
        let enforced = if enforced { "true" } else { "false" };
        admin
            .metrics
            .fences
            .with_label_values(&[mode.as_str(), enforced])
            .inc();
    }
    admin
        .metrics
        .services
        .set(count(engine.mesh().services.iter().count()));
    admin.metrics.gateway_ready.set(i64::from(engine.gateway_ready()));
    admin
        .metrics
        .settle_milliseconds
        .set(i64::try_from(engine.settle_time().as_millis()).unwrap_or(i64::MAX));
}
