//! Which hosts that are not HTTP are in a scope, called or not.

use servicefence_crd::NonHttp;

use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

/// Which hosts that are not HTTP are in a scope, called or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptNonHttp {
    /// All of them.
    All,
    /// Those for which a VirtualService has rules: metrics name the Service that answered, not the one that was called.
    Routed,
    /// None.
    None,
}

impl Scoping<'_> {
    /// Which hosts that are not HTTP are in a fence's scope, called or not.
    pub fn kept_non_http(self, fence: &Fence) -> KeptNonHttp {
        match fence.non_http() {
            NonHttp::Learn => KeptNonHttp::None,
            NonHttp::Auto if self.known.connections_decide(fence) => KeptNonHttp::Routed,
            NonHttp::Auto | NonHttp::Keep => KeptNonHttp::All,
        }
    }
}
