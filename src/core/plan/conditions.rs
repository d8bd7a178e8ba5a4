//! The conditions of a fence: `Ready` and `Enforced` say how the mesh is, `Learning` whether calls are seen, `Conflicted`
//! whether somebody else has the pods.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use servicefence_crd::{Fallback, Mode, Source};

use crate::engine::Engine;
use crate::history::History;
use crate::learn::MOST_LEARNED;
use crate::plan::Held;
use crate::plan::fence::Case;
use crate::plan::sentences::say_held;
use crate::plan::status::{Reason, Said};
use crate::time::seconds;

impl Engine {
    /// All conditions, of which the first two say the same.
    pub(super) fn conditions(
        &self,
        case: &Case<'_>,
        held: Option<&Held>,
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
                last_transition_time: Time(case.now),
            };
            keep_time(condition, before, case.now)
        })
        .into()
    }

    /// Whether what the workload calls is seen and kept, else why not.
    fn learning(&self, case: &Case<'_>, held: Option<&Held>) -> (bool, Said) {
        let workload = case.fence.workload.to_string();
        let blocked = held.filter(|held| match held {
            Held::Off
            | Held::Retained(_)
            | Held::Excluded(_)
            | Held::Undiscovered(_)
            | Held::NoService(_)
            | Held::NoPods(_)
            | Held::Conflict(_)
            | Held::NoGateway
            | Held::GatewayGone
            | Held::NoServiceRanges
            | Held::RegistryOnly
            | Held::Unseen(_)
            | Held::Blind(_) => true,
            Held::History(History { trouble, .. }) => trouble.is_some(),
            Held::Observing | Held::Pending(_) => false,
        });
        if let Some(held) = blocked {
            return (false, say_held(held, &workload, &self.settings.system_namespace));
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
        if case.fence.learned().len() >= MOST_LEARNED {
            let message = format!(
                "{workload} calls more than the {MOST_LEARNED} hosts that a fence can learn, and no further one is learned: \
                 allow whole namespaces, or set spec.mode to \"Off\""
            );
            return (false, said(Reason::ListFull, message));
        }
        let message = format!("what {workload} calls is learned from {}", sources.join(", "));
        (true, said(Reason::Learning, message))
    }

    /// What the fence learns from that is read.
    fn sources(&self, case: &Case<'_>) -> Vec<&'static str> {
        let is_read = |source: Source| match source {
            // While it observes and metrics tell, no proxy reports.
            Source::AccessLog => {
                case.mode == Mode::Enforce && self.fallback(&case.key.namespace) == Fallback::Gateway
                    || self.reads_logs(&case.key.namespace)
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
    fn conflicted(&self, case: &Case<'_>, held: Option<&Held>) -> (bool, Said) {
        match held {
            Some(held @ Held::Conflict(_)) => {
                let workload = case.fence.workload.to_string();
                (true, say_held(held, &workload, &self.settings.system_namespace))
            }
            _ => (
                false,
                Said {
                    reason: Reason::NoConflict,
                    message: "nobody else's object is in the way of this fence".to_owned(),
                },
            ),
        }
    }
}

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
