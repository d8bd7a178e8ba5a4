//! The engine: everything that is known, and what a change of it touches.
//!
//! Flows in: changes, by [`Engine::apply`]. Flows out: `Dirty`, the things whose plan may be another one now; what
//! to do about them is said by `plan_*`. Invariant: the order in which changes arrive does not
//! matter to any plan.

mod apply;
mod arrivals;
mod mentions;
mod outside;
mod rules;
mod touched;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use jiff::{SignedDuration, Timestamp};
use servicefence_crd::{LearnedHost, Mode, ServiceFence, ServiceFenceSpec, names};

use crate::allow::{Allowed, What, Wishes};
use crate::discovery::Aside;
use crate::engine::arrivals::Arrivals;
use crate::engine::mentions::Mentions;
use crate::facts::{MeshConfigFacts, PodFacts, SidecarFacts, TelemetryFacts, Written};
use crate::gateway_api::GatewayApi;
use crate::history::{self, History};
use crate::labels::Asked;
use crate::mutual_tls::PeerAuthentications;
use crate::name::{Cidr, ConfigKey, FenceKey, Fingerprint, Name, PodKey};
use crate::optin::Named;
use crate::plan::EnvoyFilters;
use crate::plan::target::Target;
use crate::registry::Registry;
use crate::settings::Settings;
use crate::transition::Warm;

/// A fence and what was observed of it.
pub struct Fence {
    /// The object.
    pub resource: Arc<ServiceFence>,
    /// Made by us because of a label, and nobody has written into its spec since: with that it is its author's.
    pub generated: bool,
    /// When its Sidecar was last seen to change, since the start.
    pub sidecar_changed: Option<Timestamp>,
    /// Its spec, read.
    pub wishes: Wishes,
    /// Whose calls it is about.
    pub workload: Named,
    pub(crate) learned: BTreeMap<Name, usize>,
}

impl Fence {
    fn new(key: &FenceKey, resource: Arc<ServiceFence>, sidecar_changed: Option<Timestamp>) -> Self {
        let labels = resource.metadata.labels.as_ref();
        let by = labels.and_then(|labels| labels.get(names::MANAGED_BY));
        let is_ours = by.is_some_and(|by| by == names::MANAGER);
        let generated = is_ours && resource.spec == ServiceFenceSpec::default();
        let learned = |fence: &ServiceFence| {
            let learned = fence.status.iter().flat_map(|status| &status.learned);
            learned
                .enumerate()
                .map(|(at, host)| (Name::from(host.host.as_str()), at))
                .collect()
        };
        Self {
            generated,
            sidecar_changed,
            wishes: Wishes::of(&resource.spec, &key.namespace),
            workload: Named::of(key, &resource.spec),
            learned: learned(&resource),
            resource,
        }
    }

    /// What it has learned.
    pub fn learned(&self) -> &[LearnedHost] {
        self.resource
            .status
            .as_ref()
            .map_or(&[], |status| &status.learned)
    }

    /// What it has learned of a host.
    pub fn learned_host(&self, host: &str) -> Option<&LearnedHost> {
        self.learned.get(host).and_then(|at| self.learned().get(*at))
    }

    /// Whether it allows a host by name.
    pub(crate) fn allows(&self, host: &str) -> bool {
        let named = |allowed: &Allowed| matches!(&allowed.what, What::Host(pattern) if pattern.matches(host));
        self.wishes.allow.iter().any(named)
    }

    pub(crate) fn created(&self) -> Option<Timestamp> {
        self.resource
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0)
    }
}

/// Everything that is known.
pub struct Engine {
    pub(crate) settings: Settings,
    pub(crate) registry: Registry,
    pub(crate) gateway_api: GatewayApi,
    pub(crate) pods: BTreeMap<PodKey, PodFacts>,
    pub(crate) pods_known: BTreeSet<Name>,
    pub(crate) fences: BTreeMap<FenceKey, Fence>,
    /// Fences by what they have learned.
    pub(crate) learned_by: Mentions,
    /// Fences by what their Sidecars import.
    pub(crate) imported_by: Mentions,
    /// Fences that allow something.
    pub(crate) allowing: BTreeSet<FenceKey>,
    /// What labels ask for in each Namespace; found when first needed.
    pub(crate) asked: BTreeMap<Name, OnceLock<Asked>>,
    pub(crate) sidecars: BTreeMap<ConfigKey, SidecarFacts>,
    /// Since when the hosts of Sidecars have been warm, where there are such.
    pub(crate) warm: BTreeMap<ConfigKey, Warm>,
    /// Until when the proxies of a namespace that lost a Sidecar may not have heard of it.
    pub(crate) releasing: BTreeMap<Name, Timestamp>,
    /// VirtualServices that an older version left.
    pub(crate) leftovers: BTreeSet<ConfigKey>,
    pub(crate) envoy_filters: BTreeMap<Name, Written>,
    pub(crate) routes: BTreeMap<Name, Written>,
    /// What Istio refused of the routes to a namespace.
    pub(crate) routes_refused: BTreeMap<Name, Vec<Fingerprint>>,
    pub(crate) ports: Option<Written>,
    pub(crate) gateway_ready: bool,
    pub(crate) arrivals: Arrivals,
    /// When the way to a host that is no Service changed, by rules or imports; wildcards among them.
    pub(crate) outside_changed: BTreeMap<Name, Timestamp>,
    pub(crate) service_cidrs: BTreeSet<Cidr>,
    pub(crate) convergence: SignedDuration,
    pub(crate) write_errors: BTreeMap<Target, String>,
    pub(crate) telemetries: BTreeMap<ConfigKey, TelemetryFacts>,
    pub(crate) mesh_config: MeshConfigFacts,
    pub(crate) aside: Aside,
    pub(crate) mutual_tls: PeerAuthentications,
    pub(crate) history: History,
    pub(crate) history_read: history::Read,
    /// Digests of the specs that the namespaces' EnvoyFilters must have.
    pub(crate) envoy_filters_wanted: OnceLock<EnvoyFilters<Fingerprint>>,
}

impl Engine {
    /// An engine that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            registry: Registry::new(settings.system_namespace.clone(), settings.aliases.clone()),
            gateway_api: GatewayApi::default(),
            pods: BTreeMap::new(),
            pods_known: BTreeSet::new(),
            fences: BTreeMap::new(),
            learned_by: Mentions::default(),
            imported_by: Mentions::default(),
            allowing: BTreeSet::new(),
            asked: BTreeMap::new(),
            sidecars: BTreeMap::new(),
            warm: BTreeMap::new(),
            releasing: BTreeMap::new(),
            leftovers: BTreeSet::new(),
            envoy_filters: BTreeMap::new(),
            routes: BTreeMap::new(),
            routes_refused: BTreeMap::new(),
            outside_changed: BTreeMap::new(),
            ports: None,
            gateway_ready: false,
            arrivals: Arrivals::default(),
            service_cidrs: BTreeSet::new(),
            convergence: SignedDuration::ZERO,
            write_errors: BTreeMap::new(),
            telemetries: BTreeMap::new(),
            mesh_config: MeshConfigFacts::default(),
            aside: Aside::default(),
            mutual_tls: PeerAuthentications::new(settings.root_namespace.clone()),
            settings,
            history: History::default(),
            history_read: BTreeMap::new(),
            envoy_filters_wanted: OnceLock::new(),
        }
    }

    /// The settle time in force: the setting, or longer while istiod takes longer.
    pub fn settle_time(&self) -> SignedDuration {
        if self.settings.settle_time.is_zero() {
            SignedDuration::ZERO
        } else {
            self.settings.settle_time.max(self.convergence)
        }
    }

    /// What is known of the mesh.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// All fences.
    pub fn fences(&self) -> impl Iterator<Item = (&FenceKey, &Fence)> {
        self.fences.iter()
    }

    /// One fence.
    pub fn fence(&self, key: &FenceKey) -> Option<&Fence> {
        self.fences.get(key)
    }

    /// The mode of every fence, and whether its Sidecar exists.
    pub fn fence_states(&self) -> impl Iterator<Item = (Mode, bool)> {
        self.fences
            .iter()
            .map(|(key, fence)| (self.mode(key, fence), self.own_sidecar(key).is_some()))
    }

    /// The mode of every fence that says what it saves, and the bytes for all of its proxies.
    pub fn saved_bytes(&self) -> impl Iterator<Item = (Mode, i64)> {
        self.fences.iter().filter_map(|(key, fence)| {
            let savings = fence.resource.status.as_ref()?.savings.as_ref()?;
            let bytes = savings
                .estimated_bytes_per_proxy
                .saturating_mul(savings.proxies.into());
            Some((self.mode(key, fence), bytes))
        })
    }

    /// Whether the fallback gateway has a ready endpoint.
    pub fn gateway_ready(&self) -> bool {
        self.gateway_ready
    }

    /// Namespaces that have a fence: those whose pods must be known.
    pub fn fenced_namespaces(&self) -> BTreeSet<Name> {
        self.fences.keys().map(|key| key.namespace.clone()).collect()
    }
}
