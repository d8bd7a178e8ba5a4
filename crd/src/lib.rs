//! The `ServiceFence` API, the few types of Istio and Gateway API that the controller reads or writes, and
//! the names that both share.
//!
//! What stands here is what `kubectl explain servicefence` shows and what the chart installs:
//! `crd/servicefence.yaml` is generated from [`ServiceFence`] by `servicefence crd`.

mod definition;
pub mod gateway_api;
pub mod istio;
pub mod names;
mod service_fence;

pub use definition::definition;
pub use service_fence::{
    Allow, Connections, Duration, Fallback, Forgot, Headless, LearnedHost, Learning, MissingHost, Mode,
    NonHttp, Operator, Requirement, Savings, Scope, Selector, ServiceEntries, ServiceFence, ServiceFenceSpec,
    ServiceFenceStatus, Source, Workload,
};
