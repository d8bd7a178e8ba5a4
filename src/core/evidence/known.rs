//! What is known of calls, at a moment.

use jiff::Timestamp;

use crate::evidence::Evidence;
use crate::mesh::Mesh;
use crate::settings::Settings;
use crate::workloads::Fenced;

/// What metrics have shown of fences, at a moment.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// Who is fenced.
    pub fenced: Fenced<'a>,
    /// What the operator decides.
    pub settings: &'a Settings,
    /// The mesh.
    pub mesh: &'a Mesh,
    /// What metrics have shown.
    pub evidence: &'a Evidence,
    /// The moment.
    pub now: Timestamp,
}
