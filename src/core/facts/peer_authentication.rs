//! PeerAuthentications: who takes mutual TLS only.

use jiff::Timestamp;
use kube::core::ObjectMeta;
use servicefence_crd::istio::{self, PeerAuthenticationSpec};

use crate::facts::labels::{Labels, selected};
use crate::facts::metadata::created;

/// What inbound connections must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MutualTls {
    /// Mutual TLS.
    Strict,
    /// Anything else.
    Lax,
}

/// A PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthenticationFacts {
    /// Its mode; `None`: that of the level above.
    pub mode: Option<MutualTls>,
    /// The pods that it is for; empty: all.
    pub selector: Labels,
    /// Whether some port must be mutual TLS. Counts only with a selector.
    pub strict_port: bool,
    /// Among several of one level Istio takes the oldest.
    pub created: Timestamp,
}

impl PeerAuthenticationFacts {
    /// Reads one.
    pub fn of(spec: &PeerAuthenticationSpec, meta: &ObjectMeta) -> Self {
        let mode = |mode: &str| match mode {
            "" | "UNSET" => None,
            "STRICT" => Some(MutualTls::Strict),
            _ => Some(MutualTls::Lax),
        };
        let is_strict = |port: &istio::MutualTls| mode(&port.mode) == Some(MutualTls::Strict);
        Self {
            mode: spec.mtls.as_ref().and_then(|mtls| mode(&mtls.mode)),
            selector: selected(spec.selector.as_ref()),
            strict_port: spec.port_level_mtls.values().any(is_strict),
            created: created(meta),
        }
    }

    pub(crate) fn is_for_some(&self) -> bool {
        !self.selector.is_empty()
    }

    pub(crate) fn can_be_strict(&self) -> bool {
        self.mode == Some(MutualTls::Strict) || self.strict_port
    }
}
