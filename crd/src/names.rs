//! Fixed names: labels, ports and objects that the controller, the chart and Istio's configuration
//! agree on.
//!
//! No key here contains `istio.io`: istiod pushes on every change of an object if a label or
//! annotation keys do, even when its spec is equal (`config_compare.go` of Istio's pilot).

/// Field manager of every server-side apply, and value of [`MANAGED_BY`] on every object we own.
pub const MANAGER: &str = "servicefence";

/// Field manager of the learned list, which any replica may extend.
pub const LEARNING_MANAGER: &str = "servicefence-learning";

/// The recommended Kubernetes label that marks generated objects.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Label on a Namespace or Service that opts it in (`enforce`) or out (`off`).
pub const MODE_LABEL: &str = "servicefence.io/mode";

/// Label on a Namespace that says who serves calls to hosts out of scope: `gateway` or `passthrough`.
pub const FALLBACK_LABEL: &str = "servicefence.io/fallback";

/// Service and Gateway of the fallback gateway, installed by the chart in the system namespace.
pub const FALLBACK: &str = "servicefence-fallback";

/// `Gateway` of the tunnel for connections that are not HTTP.
pub const FALLBACK_TUNNEL: &str = "servicefence-fallback-tunnel";

/// Port of the fallback gateway for HTTP requests.
pub const FALLBACK_PORT: u16 = 15080;

/// Port of the fallback gateway for HTTP/2 CONNECT tunnels.
pub const TUNNEL_PORT: u16 = 15081;

/// Selector-less Service with one port per HTTP port number of the mesh: its import makes the
/// listeners exist on which Envoy recognises an HTTP miss.
pub const PORTS: &str = "servicefence-ports";

/// Request header with the address that the caller dialled.
pub const ORIGINAL_DST_HEADER: &str = "x-servicefence-original-dst";

/// Request header with the calling pod, `namespace/name`.
pub const SOURCE_HEADER: &str = "x-servicefence-source";

/// The header with the version of HTTP, on a call that the caller's proxy told by its first bytes.
pub const PROTOCOL_HEADER: &str = "x-servicefence-protocol";

/// Request header of what a caller's proxy looks at for the second time. An application that sends it itself
/// gets what Istio does without ServiceFence.
pub const SECOND_LOOK_HEADER: &str = "x-servicefence-second-look";
