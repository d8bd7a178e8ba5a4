//! ServiceFence keeps Istio sidecars small by itself.
//!
//! ```text
//!  Envoy access logs (gRPC) ─┐
//!  Prometheus (PromQL) ──────┤
//!  API watches ──────────────┴▶ source ─▶ state: Engine ─▶ plan ─▶ reconcile ─▶ writer ─▶ API server
//!         ▲                              (fence: pure)                                         │  │
//!         └─────────── status.learned: the durable memory, watched by every replica ◀──────────┘  ▼
//!                                                                                        istiod ─▶ Envoy
//! ```
//!
//! [`fence`] is the core: it decides and does nothing else. The modules here are IO. They stand from the
//! ground up, and each names only those before it.

pub use servicefence_core as fence;

pub mod logging;
pub mod metrics;
pub mod readiness;
pub mod supervisor;

pub mod state;

pub mod events;

pub mod source;

pub mod writer;

pub mod reconcile;

pub mod admin;
pub mod api;
pub mod app;
pub mod cli;
pub mod client;
pub mod config;
