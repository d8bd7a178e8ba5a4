//! What is to be written, at a moment.

use jiff::Timestamp;

use crate::evidence::Known;
use crate::mesh::Mesh;
use crate::plan::written::Written;
use crate::scope::Scoping;
use crate::settings::Settings;
use crate::workloads::Fenced;

/// What is to be written, at a moment.
#[derive(Clone, Copy)]
pub struct Planning<'a> {
    /// Which hosts are in scope.
    pub scoping: Scoping<'a>,
    /// What is known of calls.
    pub known: Known<'a>,
    /// Who is fenced.
    pub fenced: Fenced<'a>,
    /// What the operator decides.
    pub settings: &'a Settings,
    /// The mesh.
    pub mesh: &'a Mesh,
    /// What was written, and how that went.
    pub written: &'a Written,
    /// The moment.
    pub now: Timestamp,
}
