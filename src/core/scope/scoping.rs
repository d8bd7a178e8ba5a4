//! Which hosts fences have in scope, at a moment.

use jiff::Timestamp;

use crate::evidence::Known;
use crate::mesh::Mesh;
use crate::settings::Settings;
use crate::workloads::Fenced;

/// Which hosts fences have in scope, at a moment.
#[derive(Clone, Copy)]
pub struct Scoping<'a> {
    /// What is known of calls.
    pub known: Known<'a>,
    /// Who is fenced.
    pub fenced: Fenced<'a>,
    /// What the operator decides.
    pub settings: &'a Settings,
    /// The mesh.
    pub mesh: &'a Mesh,
    /// The moment.
    pub now: Timestamp,
}
