//! The API for people and tools: why a host is in a scope, or is not.
//!
//! Flows in: questions over HTTP. Flows out: JSON, from the engine that the controller runs on. It names
//! hosts, fences and VirtualServices, so it listens on loopback: whoever may `kubectl port-forward` to the
//! pod may ask.

use std::sync::Arc;

use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::fence::name::FenceKey;
use crate::state::State;

/// The longest DNS name, and so the longest host that there can be.
const LONGEST_HOST: usize = 253;

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, state: Arc<State>, stop: CancellationToken) -> std::io::Result<()> {
    let app = Router::new().route("/v1/explain", get(explain)).with_state(state);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

/// A question about a fence and a host.
#[derive(Deserialize)]
struct Question {
    /// `namespace/name`.
    #[serde(default)]
    fence: String,
    /// As in `allow`.
    #[serde(default)]
    host: String,
}

async fn explain(Shared(state): Shared<Arc<State>>, Query(question): Query<Question>) -> Response {
    let Question { fence, host } = question;
    let Some((namespace, name)) = fence
        .split_once('/')
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
    else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "fence is namespace/name: ask /v1/explain?fence=shop/web&host=reviews.books",
        );
    };
    if host.is_empty() || host.len() > LONGEST_HOST || host.contains('*') {
        return refuse(
            StatusCode::BAD_REQUEST,
            "host is one name, without wildcards: ask /v1/explain?fence=shop/web&host=reviews.books",
        );
    }
    let explained = state
        .engine()
        .explain(&FenceKey::new(namespace, name), &host, Timestamp::now());
    match explained {
        Some(explanation) => Json(explanation).into_response(),
        None => refuse(
            StatusCode::NOT_FOUND,
            "there is no such ServiceFence: see kubectl get sf -A",
        ),
    }
}

fn refuse(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({"error": error}))).into_response()
}
