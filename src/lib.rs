//! ServiceFence keeps Istio sidecars small by itself.
//!
//! ```text
//!  Envoy access logs (gRPC) ─┐
//!  Prometheus (PromQL) ──────┤
//!  API watches ──────────────┴▶ source ─▶ state: Engine ─▶ plan ─▶ reconcile ─▶ writer ─▶ API server ─▶ istiod ─▶ Envoy
//!         ▲                              (fence: pure)                                        │
//!         └──────────────── status.learned: the durable memory, watched by every replica ◀────┘
//! ```
//!
//! The modules stand in the order of the flow. [`fence`] decides and does nothing else; everything
//! around it is IO.

pub use servicefence_core as fence;

pub mod events;
pub mod source;
pub mod state;

pub mod reconcile;
pub mod writer;

pub mod admin;
pub mod api;
pub mod app;
pub mod cli;
pub mod client;
pub mod config;
pub mod logging;
pub mod metrics;
pub mod readiness;
pub mod supervisor;
