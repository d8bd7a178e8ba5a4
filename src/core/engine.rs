//! The engine: everything that is known, and what a change of it touches.
//!
//! Flows in: changes, by [`Engine::apply`]. Flows out: `Dirty`, the targets that may have another plan now;
//! what to do about them is said by `plan_*`. Invariant: the order in which changes arrive does not matter to
//! any plan.

mod apply;
mod change;
mod mentions;
mod touched;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use servicefence_crd::Mode;

use crate::engine::mentions::Mentions;
use crate::evidence::{CallHistory, Evidence, Known, WhyForgotten};
use crate::learn::miss::Miss;
use crate::learn::{Attribution, Call, Counted, Learning, Period, Traffic, uncounted};
use crate::mesh::Mesh;
use crate::name::{FenceKey, Name, PodKey};
use crate::plan::planning::Planning;
use crate::plan::ports::plan_ports;
use crate::plan::rank::rank;
use crate::plan::target::{Rank, Target};
use crate::plan::written::Written;
use crate::plan::{FencePlan, NamespacePlan, PortsPlan, RoutesPlan};
use crate::render::Kind;
use crate::scope::{Explanation, Scope, Scoping};
use crate::settings::Settings;
use crate::workloads::{Expiry, Fence, Fenced, Workloads};

pub use self::change::{Change, Dirty};

/// Everything that is known.
pub struct Engine {
    pub(crate) settings: Settings,
    mesh: Mesh,
    workloads: Workloads,
    evidence: Evidence,
    written: Written,
    /// Fences by what they have learned.
    learned_by: Mentions,
    /// Fences by what their Sidecars import.
    imported_by: Mentions,
    /// Fences that allow something.
    allowing: BTreeSet<FenceKey>,
}

impl Engine {
    /// An engine that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            mesh: Mesh::new(&settings),
            workloads: Workloads::default(),
            evidence: Evidence::default(),
            written: Written::default(),
            learned_by: Mentions::default(),
            imported_by: Mentions::default(),
            allowing: BTreeSet::new(),
            settings,
        }
    }

    fn fenced(&self) -> Fenced<'_> {
        Fenced {
            settings: &self.settings,
            mesh: &self.mesh,
            workloads: &self.workloads,
        }
    }

    fn known(&self, now: Timestamp) -> Known<'_> {
        Known {
            fenced: self.fenced(),
            settings: &self.settings,
            mesh: &self.mesh,
            evidence: &self.evidence,
            now,
        }
    }

    fn scoping(&self, now: Timestamp) -> Scoping<'_> {
        Scoping {
            known: self.known(now),
            fenced: self.fenced(),
            settings: &self.settings,
            mesh: &self.mesh,
            now,
        }
    }

    fn learning(&self, now: Timestamp) -> Learning<'_> {
        Learning {
            scoping: self.scoping(now),
            fenced: self.fenced(),
            mesh: &self.mesh,
            now,
        }
    }

    fn planning(&self, now: Timestamp) -> Planning<'_> {
        Planning {
            scoping: self.scoping(now),
            known: self.known(now),
            fenced: self.fenced(),
            settings: &self.settings,
            mesh: &self.mesh,
            written: &self.written,
            now,
        }
    }

    /// What is known of the mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Whether the fallback gateway has a ready endpoint.
    pub fn gateway_ready(&self) -> bool {
        self.mesh.gateway_ready
    }

    /// All fences.
    pub fn fences(&self) -> impl Iterator<Item = (&FenceKey, &Fence)> {
        self.workloads.fences.iter()
    }

    /// One fence.
    pub fn fence(&self, key: &FenceKey) -> Option<&Fence> {
        self.workloads.fences.get(key)
    }

    /// Namespaces that have a fence: their pods must be known.
    pub fn fenced_namespaces(&self) -> BTreeSet<Name> {
        self.workloads.fenced_namespaces()
    }

    /// The known pods of a namespace.
    pub fn pods_of(&self, namespace: &str) -> Vec<PodKey> {
        let pods = self.workloads.pods_in(namespace);
        pods.map(|(key, _)| key.clone()).collect()
    }

    /// Whether calls of a namespace to hosts out of scope are led to the fallback gateway.
    pub fn falls_back_to_gateway(&self, namespace: &str) -> bool {
        self.fenced().falls_back_to_gateway(namespace)
    }

    /// When hosts of a fence are forgotten.
    pub fn expiry(&self, fence: &Fence) -> Expiry {
        self.fenced().expiry(fence)
    }

    /// Whether a fence has no Sidecar: the first one waits for the past.
    pub fn is_unscoped(&self, key: &FenceKey) -> bool {
        self.fenced().is_unscoped(key)
    }

    /// The longest silence after which any fence forgets a host; zero where none ever does.
    pub fn longest_silence(&self) -> SignedDuration {
        self.fenced().longest_silence()
    }

    /// What is known of a fence's past.
    pub fn past(&self, key: &FenceKey) -> Option<&CallHistory> {
        self.evidence.read.get(key)
    }

    /// The fences to read the past of next: those that wait for it, and when there is none, the others.
    pub fn history_wanted(&self) -> BTreeSet<FenceKey> {
        self.evidence.wanted(self.fenced())
    }

    /// The hosts that a fence forgets now, and why.
    pub fn forgotten(&self, fence: &Fence, now: Timestamp) -> (WhyForgotten, Vec<Name>) {
        self.known(now).forgotten(fence)
    }

    /// The scope that a fence should have.
    pub fn scope_of(&self, fence: &Fence, now: Timestamp) -> Scope {
        self.scoping(now).scope_of(fence)
    }

    /// Explains a host, written as in `allow`; `None` where there is no such fence.
    pub fn explain(&self, key: &FenceKey, host: &str, now: Timestamp) -> Option<Explanation> {
        self.scoping(now).explain(key, host)
    }

    /// Finds the caller's fence and the destination of a miss.
    pub fn attribute(&self, miss: &Miss<'_>, now: Timestamp) -> Attribution {
        self.learning(now).attribute(miss)
    }

    /// What `calls` teach the fences; with `only`, no others than these.
    pub fn learn_from_calls(
        &self,
        calls: &BTreeMap<Call, Period>,
        only: Option<&BTreeSet<FenceKey>>,
        now: Timestamp,
    ) -> Traffic {
        self.learning(now).learn_from_calls(calls, only)
    }

    /// The fences that may have connections which metrics do not show.
    pub fn uncounted(&self, counted: &Counted) -> BTreeSet<FenceKey> {
        uncounted(self.fenced(), counted)
    }

    /// The plan of a fence; `None` where there is no such fence, or its namespace's pods are not known yet.
    pub fn plan_fence(&self, key: &FenceKey, now: Timestamp) -> Option<FencePlan> {
        self.planning(now).plan_fence(key)
    }

    /// The plan of a namespace.
    pub fn plan_namespace(&self, namespace: &Name, now: Timestamp) -> NamespacePlan {
        self.planning(now).plan_namespace(namespace)
    }

    /// The plan of the routes to a namespace's Services; without the rules of Gateway API where Istio refused
    /// these very routes with them.
    pub fn plan_routes(&self, namespace: &Name, now: Timestamp) -> RoutesPlan {
        self.planning(now).plan_routes(namespace)
    }

    /// The plan of the placeholder Service.
    pub fn plan_ports(&self) -> PortsPlan {
        plan_ports(&self.settings, &self.mesh, &self.written)
    }

    /// How a target compares with others that are due.
    pub fn rank(&self, target: &Target) -> Rank {
        rank(self.fenced(), &self.written, target)
    }

    /// The settle time in force: the setting, or longer while istiod takes longer.
    pub fn settle_time(&self) -> SignedDuration {
        self.written.settle_time(&self.settings)
    }

    /// The mode of every fence, and whether its Sidecar exists.
    pub fn fence_states(&self) -> impl Iterator<Item = (Mode, bool)> {
        self.workloads.fences.iter().map(|(key, fence)| {
            (
                self.fenced().mode(fence),
                self.mesh.sidecars.of_fence(key).is_some(),
            )
        })
    }

    /// The mode of every fence that says what it saves, and the bytes for all of its proxies.
    pub fn saved_bytes(&self) -> impl Iterator<Item = (Mode, i64)> {
        self.workloads.fences.values().filter_map(|fence| {
            let savings = fence.resource.status.as_ref()?.savings.as_ref()?;
            let bytes = savings
                .estimated_bytes_per_proxy
                .saturating_mul(savings.proxies.into());
            Some((self.fenced().mode(fence), bytes))
        })
    }

    /// How many objects each kind of ours has, for the metrics.
    pub fn written(&self) -> impl Iterator<Item = (Kind, usize)> {
        let sidecars = self
            .mesh
            .sidecars
            .iter()
            .filter(|(_, sidecar)| sidecar.ours)
            .count();
        [
            (Kind::ServiceFence, self.workloads.fences.len()),
            (Kind::Sidecar, sidecars),
            (Kind::VirtualService, self.written.routes.len()),
            (Kind::EnvoyFilter, self.written.envoy_filters.len()),
            (Kind::Service, usize::from(self.written.ports.is_some())),
        ]
        .into_iter()
    }
}
