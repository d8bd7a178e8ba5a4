//! What to do for each kind of target.

use std::collections::BTreeSet;

use jiff::Timestamp;
use servicefence_crd::ServiceFenceStatus;

use crate::name::{Fingerprint, Name};
use crate::plan::status::reason::Said;
use crate::render::{NotCarried, Write};

/// What to do for one fence.
#[derive(Debug, Default)]
pub struct FencePlan {
    /// The Sidecar's write, if any.
    pub sidecar: Option<Write>,
    /// Whether the write only adds hosts: such writes go first.
    pub widens: bool,
    /// Hosts to be taken out of the learned list.
    pub forget: Vec<Name>,
    /// The fence itself is no longer asked for, and nothing is left of it.
    pub delete: bool,
    /// The status as it must be, without `learned`; `None` where it is so already.
    pub status: Option<ServiceFenceStatus>,
    /// What its owner must know, once.
    pub said: Option<Said>,
    /// When the passing of time alone may change this plan.
    pub again_at: Option<Timestamp>,
}

/// What to do for one namespace.
#[derive(Debug, Default)]
pub struct NamespacePlan {
    /// The writes, in order.
    pub writes: Vec<Write>,
    /// When the passing of time alone may change this plan.
    pub again_at: Option<Timestamp>,
}

/// What to do for the routes to one namespace's Services.
#[derive(Debug, Default)]
pub struct RoutesPlan {
    /// The writes; none when all is as it must be.
    pub writes: Vec<Write>,
    /// The users' rules that first calls do not follow.
    pub not_carried: BTreeSet<NotCarried>,
    /// Object names that somebody else has.
    pub taken: Vec<Name>,
    /// What Istio may refuse and take without the rules of Gateway API; `None`: these are left out.
    pub whole: Option<Vec<Fingerprint>>,
    /// When the passing of time alone may change this plan.
    pub again_at: Option<Timestamp>,
}

/// What to do for the placeholder Service.
#[derive(Debug, Default)]
pub struct PortsPlan {
    /// The write, if any.
    pub write: Option<Write>,
    /// Somebody else has its name.
    pub taken: bool,
}
