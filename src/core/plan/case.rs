//! A fence as it stands.

use servicefence_crd::Mode;

use crate::facts::SidecarFacts;
use crate::workloads::Fence;

/// A fence as it stands.
pub struct Case<'a> {
    /// The fence.
    pub fence: &'a Fence,
    /// The mode in force.
    pub mode: Mode,
    /// Its Sidecar.
    pub current: Option<&'a SidecarFacts>,
}
