//! A pod's status, from what its containers report.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::addresses::node_beside;

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It cannot start, or not yet.
    Waiting {
        /// A word, such as `ErrImagePull`.
        reason: &'static str,
        /// What is wrong.
        message: String,
    },
    /// It runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// It has ended.
    Terminated {
        /// With this exit code.
        code: i32,
        /// When.
        at: Timestamp,
    },
}

/// A container's report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) container: String,
    pub(super) image: String,
    pub(super) state: State,
    pub(super) ready: bool,
    pub(super) restarts: u32,
}

impl Report {
    fn json(&self) -> Value {
        let state = match &self.state {
            State::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
            State::Running { since } => json!({"running": {"startedAt": since}}),
            State::Terminated { code, at } => {
                let reason = if *code == 0 { "Completed" } else { "Error" };
                json!({"terminated": {"exitCode": code, "reason": reason, "finishedAt": at}})
            }
        };
        json!({
            "name": self.container, "image": self.image, "imageID": "", "ready": self.ready,
            "restartCount": self.restarts, "started": matches!(self.state, State::Running { .. }), "state": state,
        })
    }
}

/// All that is known of one pod.
#[derive(Debug, Default)]
pub(super) struct PodStatus {
    /// Its addresses, as the status lists them, once it has some.
    pub(super) ips: Value,
    pub(super) initialized: bool,
    pub(super) going: bool,
    /// Set when the pod will never run again.
    pub(super) end: Option<&'static str>,
    reports: BTreeMap<String, Report>,
    since: BTreeMap<&'static str, (bool, Timestamp)>,
}

impl PodStatus {
    /// Takes a report in.
    pub(super) fn take(&mut self, report: Report) {
        self.reports.insert(report.container.clone(), report);
    }

    /// The exit codes, when every container of these has ended.
    pub(super) fn exit_codes(&self, containers: &[String]) -> Option<Vec<i32>> {
        containers
            .iter()
            .map(|name| match self.reports.get(name)?.state {
                State::Terminated { code, .. } => Some(code),
                _ => None,
            })
            .collect()
    }

    /// The status as the API server wants it. A condition's time moves only when it changes.
    pub(super) fn json(&mut self, containers: &[String]) -> Value {
        let now = Timestamp::now();
        let all_ready = containers
            .iter()
            .all(|name| self.reports.get(name).is_some_and(|report| report.ready));
        let ready = all_ready && !self.going;
        let facts = [
            ("PodScheduled", true),
            ("Initialized", self.initialized),
            ("ContainersReady", ready),
            ("Ready", ready),
        ];
        let conditions: Vec<Value> = facts
            .into_iter()
            .map(|(kind, holds)| {
                let entry = self.since.entry(kind).or_insert((holds, now));
                if entry.0 != holds {
                    *entry = (holds, now);
                }
                let status = if holds { "True" } else { "False" };
                json!({"type": kind, "status": status, "lastTransitionTime": entry.1})
            })
            .collect();
        let started = self
            .reports
            .values()
            .any(|report| !matches!(report.state, State::Waiting { .. }));
        let phase = self.end.unwrap_or(if started { "Running" } else { "Pending" });
        let reports: Vec<Value> = self.reports.values().map(Report::json).collect();
        let mut status = json!({"phase": phase, "conditions": conditions, "containerStatuses": reports});
        if let Some(first) = self.ips.get(0) {
            status["hostIP"] = json!(node_beside(first["ip"].as_str().unwrap_or_default()));
            status["podIP"] = first["ip"].clone();
            status["podIPs"] = self.ips.clone();
        }
        json!({ "status": status })
    }
}
