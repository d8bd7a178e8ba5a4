//! How proxies tell of their own calls, by an Istio `Telemetry`: of all, where a fence only observes and no metrics are
//! read; of those to hosts out of scope, where these are passed through and no gateway sees them.
//!
//! Flows in: Telemetries and MeshConfig. Flows out: whether one of ours is needed in a namespace, and what it must say.
//! Invariant: nobody's access logs are lost by it. Istio replaces the providers of an upper level by those of the lower
//! one, so ours repeats them, and it steps back where the namespace has a Telemetry of its own.
//! <https://istio.io/latest/docs/tasks/observability/telemetry/>

use std::collections::BTreeSet;

use serde_json::{Value, json};
use servicefence_crd::{Mode, Source};

use crate::engine::Engine;
use crate::facts::{PROVIDER, TelemetryFacts};
use crate::name::ours::TELEMETRY;
use crate::name::{ConfigKey, Name};
use crate::render;

/// Calls to what a proxy does not know, which it passes through.
const MISSES: &str = "xds.cluster_name == 'PassthroughCluster' || xds.route_name == 'allow_any'";

/// Istio's built-in provider for Envoy's standard output.
const STDOUT_PROVIDER: &str = "envoy";
const STDOUT: &str = "/dev/stdout";

/// Why proxies do not tell of their calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blind {
    /// MeshConfig does not have the extension provider.
    NoProvider,
    /// The namespace has a Telemetry that ours would replace, or that would replace ours.
    Telemetry(ConfigKey),
    /// MeshConfig's `accessLogFile` cannot be repeated by a provider.
    AccessLogFile(String),
}

impl Engine {
    /// Whether some fence of the namespace learns from access logs while it observes.
    pub(crate) fn observes_by_logs(&self, namespace: &str) -> bool {
        !self.settings.reads_history
            && self.fences_in(namespace).any(|(key, fence)| {
                self.mode(key, fence) == Mode::Observe && fence.resource.spec.learns_from(Source::AccessLog)
            })
    }

    /// Whether some fence of the namespace needs its proxies' access logs.
    pub(crate) fn reads_logs(&self, namespace: &str) -> bool {
        self.observes_by_logs(namespace)
            || self
                .fences_in(namespace)
                .any(|(key, fence)| self.reports_misses(key, fence))
    }

    /// What keeps the proxies of a namespace from reporting their calls. `Ok(true)`: nothing, and a Telemetry of ours is
    /// needed; `Ok(false)`: the user's own one reports them.
    pub(crate) fn sight(&self, namespace: &str) -> Result<bool, Blind> {
        if !self.mesh_config.has_provider {
            return Err(Blind::NoProvider);
        }
        let users = self
            .telemetries_in(namespace)
            .filter(|(_, telemetry)| !telemetry.ours)
            .filter(|(key, telemetry)| {
                telemetry.for_all || !telemetry.access_logging.is_empty() || *key.name == *TELEMETRY
            })
            .find(|(_, telemetry)| !telemetry.reports());
        if let Some((key, _)) = users {
            return Err(Blind::Telemetry(key.clone()));
        }
        let reported = self
            .telemetries_in(namespace)
            .any(|(_, telemetry)| !telemetry.ours && telemetry.for_all);
        if !reported && self.logging_of_mesh().is_none() {
            return Err(Blind::AccessLogFile(self.mesh_config.access_log_file.clone()));
        }
        Ok(!reported)
    }

    /// The access logging of our Telemetry: our own entry, and what applies without it.
    pub(crate) fn wanted_access_logging(&self, namespace: &str) -> Vec<Value> {
        let mut own = json!({"providers": [{"name": PROVIDER}], "match": {"mode": "CLIENT"}});
        if !self.observes_by_logs(namespace) {
            own["filter"] = json!({"expression": MISSES});
        }
        let others = self.logging_of_mesh().unwrap_or_default();
        std::iter::once(own).chain(others).collect()
    }

    /// What applies to a namespace without a Telemetry, each entry with its providers. `None`: a file that no provider
    /// that there always is writes to.
    fn logging_of_mesh(&self) -> Option<Vec<Value>> {
        let config = &self.mesh_config;
        let of = |names: &[String]| names.iter().map(|name| json!({"name": name})).collect::<Value>();
        let root = self
            .telemetries_in(&self.settings.root_namespace)
            .filter(|(key, telemetry)| telemetry.for_all && self.is_discovered(&key.namespace))
            .min_by_key(|(key, telemetry)| (telemetry.created, *key))
            .map(|(_, telemetry)| &telemetry.access_logging)
            .filter(|logging| !logging.is_empty());
        if let Some(logging) = root {
            let mut parents = of(&config.default_providers);
            let repeated = logging.iter().cloned().map(|mut entry| {
                // Without providers of its own, Istio takes those of the entry before.
                match entry.get("providers").and_then(Value::as_array) {
                    Some(own) if !own.is_empty() => parents = own.clone().into(),
                    _ => entry["providers"] = parents.clone(),
                }
                entry
            });
            return Some(repeated.collect());
        }
        if !config.default_providers.is_empty() {
            return Some(vec![json!({"providers": of(&config.default_providers)})]);
        }
        match config.access_log_file.as_str() {
            "" => Some(Vec::new()),
            STDOUT => Some(vec![json!({"providers": [{"name": STDOUT_PROVIDER}]})]),
            _ => None,
        }
    }

    pub(crate) fn telemetries_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a TelemetryFacts)> {
        self.telemetries
            .range(ConfigKey::new(namespace, "")..)
            .take_while(move |(key, _)| &*key.namespace == namespace)
    }

    /// Whether the Telemetry of a namespace, ours or the user's, makes its proxies report.
    pub(crate) fn is_reported(&self, namespace: &Name) -> bool {
        match self.sight(namespace) {
            Err(_) => false,
            Ok(false) => true,
            Ok(true) => {
                let key = ConfigKey::new(namespace.clone(), TELEMETRY);
                let is = self.telemetries.get(&key).filter(|is| is.ours);
                let wanted = render::telemetry(namespace, &self.wanted_access_logging(namespace));
                is.is_some_and(|is| is.fingerprint == wanted.fingerprint())
            }
        }
    }

    /// Namespaces with a fence that needs access logs of its proxies.
    pub(crate) fn reading_logs(&self) -> BTreeSet<Name> {
        let mut namespaces = self.fenced_namespaces();
        namespaces.retain(|namespace| self.reads_logs(namespace));
        namespaces
    }
}
