//! A real Istio mesh on one machine, without containers: etcd, kube-apiserver, kube-controller-manager,
//! istiod and Envoys as processes in network namespaces, as a library for tests and as the command `mesh`.
//!
//! ```text
//!  tools ──▶ control_plane ──▶ pod (netns, iptables, pilot-agent, Envoy, app) ◀── kubelet ◀── Deployments
//!                  │                     ▲                  ▲
//!            service_vips ───────────────┘                  │
//!                                                call, load, proxy, istiod: what tests do and look at
//! ```
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use servicefence_e2e::{Mesh, MeshOptions, PodSpec};
//! let mesh = Mesh::up(MeshOptions::default()).await?;
//! mesh.add_app(PodSpec::new("books/reviews").http(8080)).await?;
//! mesh.add_pod(PodSpec::new("shop/web")).await?;
//! let reply = mesh.get("shop/web", "http://reviews.books:8080/").await;
//! assert!(reply.is_from("books/reviews"), "{reply}");
//! # Ok(())
//! # }
//! ```

mod addresses;
pub mod admin;
pub mod app;
pub mod background;
pub mod call;
mod certificates;
pub mod cli;
mod client;
pub mod compatibility;
mod control_plane;
pub mod dump;
pub mod external;
pub mod fuzz;
mod handover;
mod hex;
pub mod install;
mod interception;
mod istiod;
pub mod kubelet;
pub mod load;
pub mod mesh;
pub mod netns;
pub mod objects;
pub mod pod;
mod process;
mod programs;
pub mod prometheus;
pub mod proxy;
pub mod scale;
pub mod schema;
mod service_vips;
pub mod state;
pub mod tools;
pub mod versions;
pub mod wait;
mod writes;

pub use addresses::{Families, in_url, node_namespace};
pub use background::Background;
pub use call::{Call, HttpClient, Reply, Scheme, TcpSession, Via};
pub use control_plane::revision::IstiodSpec;
pub use kubelet::images::Images;
pub use load::{Connections, Load, LoadReport, LoadSpec};
pub use mesh::Mesh;
pub use mesh::options::{MeshOptions, Mtls, OutboundTrafficPolicy};
pub use nix::sys::signal::Signal;
pub use pod::{PodKind, PodRecord, PodSpec, Protocol, Server, ServiceSpec};
pub use prometheus::Prometheus;
pub use proxy::{Proxy, ProxyFigures, Taken, Traffic};
pub use writes::Writes;
