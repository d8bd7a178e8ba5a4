//! How to start a mesh.

use serde_json::{Value, json};

use crate::addresses::{Families, ISTIO_NAMESPACE};

/// Istio's `outboundTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutboundTrafficPolicy {
    /// Unknown destinations are passed through.
    #[default]
    AllowAny,
    /// Unknown destinations are refused.
    RegistryOnly,
}

impl OutboundTrafficPolicy {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::AllowAny => "ALLOW_ANY",
            Self::RegistryOnly => "REGISTRY_ONLY",
        }
    }
}

/// The mesh-wide mode of PeerAuthentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mtls {
    /// Only mTLS is accepted.
    #[default]
    Strict,
    /// Plaintext is accepted too.
    Permissive,
}

impl Mtls {
    /// The PeerAuthentication of the mesh.
    pub fn object(self) -> Value {
        let mode = match self {
            Self::Strict => "STRICT",
            Self::Permissive => "PERMISSIVE",
        };
        json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": "default", "namespace": ISTIO_NAMESPACE}, "spec": {"mtls": {"mode": mode}}})
    }
}

/// How to start a mesh. The default is a STRICT, ALLOW_ANY mesh that ends with its last handle.
#[derive(Clone, Debug, Default)]
pub struct MeshOptions {
    /// The id; a new one unless given.
    pub id: Option<String>,
    /// What happens to unknown destinations.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// Whether plaintext is accepted.
    pub mtls: Mtls,
    /// YAML fragments that are merged over MeshConfig, in this order.
    pub mesh_config: Vec<String>,
    /// Environment variables of istiod, over the usual ones.
    pub istiod_env: Vec<(String, String)>,
    /// The mesh outlives the last handle, until `mesh down`: a process of its own then keeps it.
    pub detached: bool,
    /// Nothing but etcd and an API server that knows Istio's kinds: no istiod, no controllers, no Service
    /// addresses.
    pub api_server_only: bool,
    /// The families of addresses that pods and Services have.
    pub families: Families,
    /// Print each step of the start to stderr.
    pub verbose: bool,
}

impl MeshOptions {
    /// Chooses the families of addresses.
    #[must_use]
    pub fn families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    /// Sets the policy for unknown destinations.
    #[must_use]
    pub fn outbound(mut self, policy: OutboundTrafficPolicy) -> Self {
        self.outbound_traffic_policy = policy;
        self
    }

    /// Sets the mesh-wide mTLS mode.
    #[must_use]
    pub fn mtls(mut self, mtls: Mtls) -> Self {
        self.mtls = mtls;
        self
    }

    /// Adds a YAML fragment of MeshConfig.
    #[must_use]
    pub fn mesh_config(mut self, fragment: impl Into<String>) -> Self {
        self.mesh_config.push(fragment.into());
        self
    }

    /// Sets an environment variable of istiod.
    #[must_use]
    pub fn istiod_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.istiod_env.push((name.into(), value.into()));
        self
    }
}
