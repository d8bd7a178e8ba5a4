//! How proxies tell of their own calls, by an Istio `Telemetry`: of all, where a fence only observes and no
//! metrics are read; of those to hosts out of scope, where these are passed through and no gateway sees them.
//!
//! Flows in: Telemetries and MeshConfig. Flows out: whether one of ours is needed in a namespace, and what it
//! must say. Invariant: no user loses access logs by it. Istio replaces the providers of an upper level by
//! those of the lower one, so ours repeats them, and it steps back where the namespace has a Telemetry of its
//! own.
//! <https://istio.io/latest/docs/tasks/observability/telemetry/>

use serde_json::{Value, json};

use crate::facts::PROVIDER;
use crate::name::ours::TELEMETRY;
use crate::name::{ConfigKey, Name};
use crate::plan::planning::Planning;
use crate::plan::plans::NamespacePlan;
use crate::render::{self, Kind, Write};

/// Calls to what a proxy does not know, which it passes through.
const MISSES: &str = "xds.cluster_name == 'PassthroughCluster' || xds.route_name == 'allow_any'";

impl Planning<'_> {
    /// Whether calls of a namespace can be passed through, and its fences learn of them as they ask for.
    pub fn can_pass_through(self, namespace: &Name) -> bool {
        let mut fences = self.fenced.workloads.fences_in(namespace);
        let needs_reports = fences.any(|fence| self.fenced.reports_misses(fence));
        !self.mesh.is_registry_only() && (!needs_reports || self.is_reported(namespace))
    }

    /// While a fence learns from its proxies' access logs, and no user's Telemetry is in the way.
    pub fn plan_telemetry(self, namespace: &Name, plan: &mut NamespacePlan) {
        let key = ConfigKey::new(namespace.clone(), TELEMETRY);
        let is = self.mesh.telemetries.get(&key);
        if is.is_some_and(|is| !is.ours) {
            return;
        }
        if self.fenced.reads_logs(namespace) && self.fenced.sight(namespace) == Ok(true) {
            let object = render::telemetry(namespace, &self.wanted_access_logging(namespace));
            if is.is_none_or(|is| is.fingerprint != object.fingerprint()) {
                plan.writes.push(Write::Apply(object));
            }
        } else if is.is_some() {
            plan.writes
                .push(Write::Delete(Kind::Telemetry, namespace.clone(), key.name));
        }
    }

    /// The access logging of our Telemetry: our own entry, and what applies without it.
    pub fn wanted_access_logging(self, namespace: &str) -> Vec<Value> {
        let mut own = json!({"providers": [{"name": PROVIDER}], "match": {"mode": "CLIENT"}});
        if !self.fenced.observes_by_logs(namespace) {
            own["filter"] = json!({"expression": MISSES});
        }
        let others = self.mesh.logging_of_mesh().unwrap_or_default();
        std::iter::once(own).chain(others).collect()
    }

    /// Whether the Telemetry of a namespace, ours or the user's, makes its proxies report.
    pub fn is_reported(self, namespace: &Name) -> bool {
        match self.fenced.sight(namespace) {
            Err(_) => false,
            Ok(false) => true,
            Ok(true) => {
                let key = ConfigKey::new(namespace.clone(), TELEMETRY);
                let is = self.mesh.telemetries.get(&key).filter(|is| is.ours);
                let wanted = render::telemetry(namespace, &self.wanted_access_logging(namespace));
                is.is_some_and(|is| is.fingerprint == wanted.fingerprint())
            }
        }
    }
}
