//! Whether proxies report their own calls: of a fence that observes and reads no metrics, and of one with
//! misses that are passed through.

use std::collections::BTreeSet;

use servicefence_crd::{Mode, Source};

use crate::name::ours::TELEMETRY;
use crate::name::{ConfigKey, Name};
use crate::workloads::fenced::Fenced;

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

impl Fenced<'_> {
    /// Whether some fence of the namespace learns from access logs while it observes.
    pub fn observes_by_logs(self, namespace: &str) -> bool {
        !self.settings.reads_history
            && self.workloads.fences_in(namespace).any(|fence| {
                self.mode(fence) == Mode::Observe && fence.resource.spec.learns_from(Source::AccessLog)
            })
    }

    /// Whether some fence of the namespace needs its proxies' access logs.
    pub fn reads_logs(self, namespace: &str) -> bool {
        self.observes_by_logs(namespace)
            || self
                .workloads
                .fences_in(namespace)
                .any(|fence| self.reports_misses(fence))
    }

    /// What keeps the proxies of a namespace from reporting their calls. `Ok(true)`: nothing, and a Telemetry
    /// of ours is needed; `Ok(false)`: the user's own one reports them.
    pub fn sight(self, namespace: &str) -> Result<bool, Blind> {
        if !self.mesh.config.has_provider {
            return Err(Blind::NoProvider);
        }
        let users = self
            .mesh
            .telemetries
            .in_namespace(namespace)
            .filter(|(_, telemetry)| !telemetry.ours)
            .filter(|(key, telemetry)| {
                telemetry.for_all || !telemetry.access_logging.is_empty() || *key.name == *TELEMETRY
            })
            .find(|(_, telemetry)| !telemetry.reports());
        if let Some((key, _)) = users {
            return Err(Blind::Telemetry(key.clone()));
        }
        let reported = self
            .mesh
            .telemetries
            .in_namespace(namespace)
            .any(|(_, telemetry)| !telemetry.ours && telemetry.for_all);
        if !reported && self.mesh.logging_of_mesh().is_none() {
            return Err(Blind::AccessLogFile(self.mesh.config.access_log_file.clone()));
        }
        Ok(!reported)
    }

    /// Namespaces with a fence that needs access logs of its proxies.
    pub fn reading_logs(self) -> BTreeSet<Name> {
        let mut namespaces = self.workloads.fenced_namespaces();
        namespaces.retain(|namespace| self.reads_logs(namespace));
        namespaces
    }
}
