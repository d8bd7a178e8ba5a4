//! Objects that we wrote, or that stand where we would write.

use crate::name::Fingerprint;

/// An object that we wrote, or one that stands where we would write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Whether it carries our label; what does not is never overwritten.
    pub ours: bool,
    /// Digest of its spec.
    pub fingerprint: Fingerprint,
}
