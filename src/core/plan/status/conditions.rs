//! The conditions of a fence: `Ready` and `Enforced` say how the mesh is, `Learning` whether calls are seen,
//! `Conflicted` whether somebody else has the pods.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use servicefence_crd::{Fallback, Mode, Source};

use crate::evidence::BackfillProgress;
use crate::plan::case::Case;
use crate::plan::not_scoped::NotScoped;
use crate::plan::planning::Planning;
use crate::plan::status::reason::{Reason, Said};
use crate::plan::status::sentences::say_not_scoped;
use crate::time::seconds;
use crate::workloads::MOST_LEARNED;

/// A condition's time moves only with its status.
fn keep_time(mut condition: Condition, before: &[Condition], now: Timestamp) -> Condition {
    let old = before
        .iter()
        .find(|old| old.type_ == condition.type_ && old.status == condition.status);
    condition.last_transition_time = match old {
        Some(old) => old.last_transition_time.clone(),
        None => Time(seconds(now)),
    };
    condition
}

impl Planning<'_> {
    /// All conditions. The first two have one sentence.
    pub fn conditions(
        self,
        case: &Case<'_>,
        held: Option<&NotScoped>,
        is_ready: bool,
        said: &Said,
    ) -> Vec<Condition> {
        let (is_learning, of_learning) = self.learning(case, held);
        let (is_conflicted, of_conflict) = self.conflicted(case, held);
        let before = case.fence.resource.status.as_ref();
        let before = before.map_or(&[][..], |status| &status.conditions);
        let generation = case.fence.resource.metadata.generation;
        [
            ("Ready", is_ready, said),
            ("Enforced", case.current.is_some(), said),
            ("Learning", is_learning, &of_learning),
            ("Conflicted", is_conflicted, &of_conflict),
        ]
        .map(|(kind, is, said)| {
            let condition = Condition {
                type_: kind.to_owned(),
                status: if is { "True" } else { "False" }.to_owned(),
                reason: said.reason.to_string(),
                message: said.message.clone(),
                observed_generation: generation,
                last_transition_time: Time(self.now),
            };
            keep_time(condition, before, self.now)
        })
        .into()
    }

    /// Whether what the workload calls is seen and kept, else why not.
    fn learning(self, case: &Case<'_>, held: Option<&NotScoped>) -> (bool, Said) {
        let workload = case.fence.workload.to_string();
        let blocked = held.filter(|held| match held {
            NotScoped::Off
            | NotScoped::Retained(_)
            | NotScoped::Excluded(_)
            | NotScoped::Undiscovered(_)
            | NotScoped::NoService(_)
            | NotScoped::NoPods(_)
            | NotScoped::NoSidecars(_)
            | NotScoped::Conflict(_)
            | NotScoped::NoMeshConfig(_)
            | NotScoped::OtherRoot(_)
            | NotScoped::RemoteClusters
            | NotScoped::DynamicDns
            | NotScoped::EgressBlocked(_)
            | NotScoped::GatewayNotAuthorized(_)
            | NotScoped::NoGateway
            | NotScoped::GatewayGone
            | NotScoped::NoServiceRanges
            | NotScoped::RegistryOnly
            | NotScoped::Unseen(_)
            | NotScoped::Blind(_) => true,
            NotScoped::History(BackfillProgress { trouble, .. }) => trouble.is_some(),
            NotScoped::Observing | NotScoped::Pending(_) => false,
        });
        if let Some(held) = blocked {
            return (
                false,
                say_not_scoped(held, &workload, &self.settings.system_namespace),
            );
        }
        let sources: Vec<_> = self.sources(case);
        let said = |reason, message| Said { reason, message };
        if sources.is_empty() {
            let message = format!(
                "none of what spec.learning.sources names is read here, so nothing is learned of {workload}: its scope is \
                 what allow and the protocols put into it"
            );
            return (false, said(Reason::NoSource, message));
        }
        if case.fence.is_full() {
            let message = format!(
                "{workload} calls more than the {MOST_LEARNED} hosts that a fence can learn, and no further one is learned: \
                 allow whole namespaces, or set spec.mode to \"Off\""
            );
            return (false, said(Reason::ListFull, message));
        }
        let kept = self.known.forgetting_begins(case.fence).map(|(since, begin)| {
            let date = |time: Timestamp| time.strftime("%Y-%m-%d");
            format!(
                "; no host is forgotten before {}, since metrics are known without a gap only since {}",
                date(begin),
                date(since)
            )
        });
        let hidden = self.known.hides_requests(&case.fence.key);
        let hidden = hidden.filter(|_| self.known.reads_metrics(case.fence));
        let hidden =
            hidden.map(|key| format!("; HTTP hosts are not forgotten while Telemetry {key} hides requests"));
        let message = format!(
            "what {workload} calls is learned from {}{}",
            sources.join(", "),
            hidden.or(kept).unwrap_or_default()
        );
        (true, said(Reason::Learning, message))
    }

    /// What the fence learns from that is read.
    fn sources(self, case: &Case<'_>) -> Vec<&'static str> {
        let is_read = |source: Source| match source {
            // While it observes and metrics tell, no proxy reports.
            Source::AccessLog => {
                case.mode == Mode::Enforce
                    && self.fenced.fallback(&case.fence.key.namespace) == Fallback::Gateway
                    || self.fenced.reads_logs(&case.fence.key.namespace)
            }
            Source::Prometheus => self.settings.reads_history,
            Source::Policy => true,
        };
        [
            (Source::AccessLog, "access logs"),
            (Source::Prometheus, "Prometheus"),
            (Source::Policy, "policies"),
        ]
        .into_iter()
        .filter(|(source, _)| case.fence.resource.spec.learns_from(*source) && is_read(*source))
        .map(|(_, name)| name)
        .collect()
    }

    /// Whether somebody else has the pods, or a name that the fence needs.
    fn conflicted(self, case: &Case<'_>, held: Option<&NotScoped>) -> (bool, Said) {
        match held {
            Some(held @ NotScoped::Conflict(_)) => {
                let workload = case.fence.workload.to_string();
                (
                    true,
                    say_not_scoped(held, &workload, &self.settings.system_namespace),
                )
            }
            _ => (
                false,
                Said {
                    reason: Reason::NoConflict,
                    message: "no other object is in the way of this fence".to_owned(),
                },
            ),
        }
    }
}
