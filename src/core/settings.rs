//! What the operator of the controller decides.
//!
//! Flows in: flags, as the chart sets them. Flows out: plain values. Invariant: they stay for the life of the
//! process, and their defaults are the chart's.

mod alias;

pub use self::alias::Alias;

use std::collections::BTreeSet;

use jiff::SignedDuration;
use servicefence_crd::{Fallback, Mode, Selector, names};

use crate::name::{Cidr, Name, ScopeHost, ServiceKey};

/// What the operator of the controller decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the controller and the fallback gateway.
    pub system_namespace: Name,
    /// istiod's namespace.
    pub istio_namespace: Name,
    /// Istio's root namespace. Its Sidecar without a selector is the mesh's default.
    pub root_namespace: Name,
    /// The ConfigMaps with Istio's MeshConfig in istiod's namespace, each over those before it; none: the
    /// defaults hold.
    pub mesh_config_maps: Vec<Name>,
    /// Whether fences are enforced although istiod serves other clusters.
    pub fences_multi_cluster: bool,
    /// Mode of workloads without any label.
    pub default_mode: Mode,
    /// Who serves calls to hosts out of scope where nothing else says.
    pub default_fallback: Fallback,
    /// Whether the fallback gateway is installed.
    pub has_gateway: bool,
    /// Whether it sends calls to addresses that it has no rule for on to them.
    pub gateway_passes_on: bool,
    /// Namespaces in which nothing is fenced, the system's, istiod's and Istio's root namespace among them.
    pub excluded_namespaces: BTreeSet<Name>,
    /// Namespaces with labels that it does not match are excluded as well; an empty one matches all.
    pub namespace_selector: Selector,
    /// How long a host is warm before and after it moves; zero turns the warm phase off.
    pub settle_time: SignedDuration,
    /// Hosts of every scope.
    pub baseline: Vec<ScopeHost>,
    /// Further hosts that come into a scope with those that match a pattern.
    pub aliases: Vec<Alias>,
    /// Ranges of pod addresses; empty: those in which the pods of Services are.
    pub pod_cidrs: BTreeSet<Cidr>,
    /// After how long without a call learned hosts are forgotten; zero: never.
    pub expire_after: SignedDuration,
    /// How long what was learned is kept without use: by a fence that no label asks for, and of hosts that
    /// the mesh does not have; zero: for ever.
    pub retention: SignedDuration,
    /// Whether metrics tell of the past: no fence is enforced then before its past was read.
    pub reads_history: bool,
}

impl Settings {
    /// The Service of the fallback gateway.
    pub fn fallback(&self) -> ServiceKey {
        ServiceKey::new(self.system_namespace.clone(), names::FALLBACK)
    }
}

impl Default for Settings {
    /// As the chart of a release named `servicefence` has them, in a mesh with istiod in `istio-system`.
    fn default() -> Self {
        let (system, root) = (Name::from("servicefence-system"), Name::from("istio-system"));
        Self {
            excluded_namespaces: [system.clone(), root.clone()].into(),
            system_namespace: system,
            istio_namespace: root.clone(),
            root_namespace: root,
            mesh_config_maps: vec!["istio".into()],
            fences_multi_cluster: false,
            default_mode: Mode::Off,
            default_fallback: Fallback::Gateway,
            has_gateway: true,
            gateway_passes_on: true,
            namespace_selector: Selector::default(),
            settle_time: SignedDuration::from_secs(1),
            baseline: Vec::new(),
            aliases: Vec::new(),
            pod_cidrs: BTreeSet::new(),
            expire_after: SignedDuration::from_hours(312),
            retention: SignedDuration::from_hours(720),
            reads_history: false,
        }
    }
}
