//! What load met: counts by outcome, every failure with its time, and how long calls took.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::call::{Reply, Via};

/// Failures beyond this many are counted, not kept.
const KEPT_FAILURES: usize = 1000;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outcome {
    /// The HTTP status; none for TCP and for calls without an answer.
    pub status: Option<u16>,
    /// The pod that answered.
    pub served_by: Option<String>,
    /// The way, as far as the server can see it.
    pub via: Option<Via>,
    /// Whether it worked.
    pub ok: bool,
}

/// A call that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it began.
    pub at: Timestamp,
    /// What was called.
    pub url: String,
    /// What came back.
    pub reply: String,
    /// Whether it was the first on its connection.
    pub new_connection: bool,
}

/// What load met.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// All calls.
    pub calls: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Calls by how they ended.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// The failures, the first thousand of them.
    pub failures: Vec<Failure>,
    /// Half of all calls took no longer.
    pub p50: Duration,
    /// All but one in a hundred took no longer.
    pub p99: Duration,
    /// The longest call.
    pub slowest: Duration,
}

impl LoadReport {
    /// How many calls took this way.
    pub fn count(&self, wanted: impl Fn(&Via) -> bool) -> u64 {
        let counts = self
            .outcomes
            .iter()
            .filter(|(outcome, _)| outcome.via.as_ref().is_some_and(&wanted));
        counts.map(|(_, count)| count).sum()
    }

    /// How many this pod answered.
    pub fn served_by(&self, pod: &str) -> u64 {
        let counts = self
            .outcomes
            .iter()
            .filter(|(outcome, _)| outcome.served_by.as_deref() == Some(pod));
        counts.map(|(_, count)| count).sum()
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} calls, {} failed; p50 {:?}, p99 {:?}, slowest {:?}",
            self.calls, self.failed, self.p50, self.p99, self.slowest
        )?;
        for (outcome, count) in &self.outcomes {
            let status = outcome.status.map_or_else(
                || if outcome.ok { "ok" } else { "no answer" }.to_owned(),
                |it| it.to_string(),
            );
            write!(f, "  {count:7} {status}")?;
            if let Some(pod) = &outcome.served_by {
                write!(f, " from {pod}")?;
            }
            if let Some(via) = &outcome.via {
                write!(f, ", {via}")?;
            }
            writeln!(f)?;
        }
        for failure in self.failures.iter().take(20) {
            let kind = if failure.new_connection { "new" } else { "kept" };
            writeln!(
                f,
                "  {} {} ({kind} connection): {}",
                failure.at, failure.url, failure.reply
            )?;
        }
        Ok(())
    }
}

/// What clients write into while they run.
#[derive(Debug)]
pub(super) struct Record {
    report: LoadReport,
    /// Calls by duration; the buckets grow by a tenth, so a percentile is right to within that.
    durations: BTreeMap<u32, u64>,
}

impl Record {
    pub(super) fn new() -> Self {
        Self {
            report: LoadReport::default(),
            durations: BTreeMap::new(),
        }
    }

    pub(super) fn take(&mut self, at: Timestamp, url: &str, reply: &Reply) {
        let ok = reply.is_ok();
        let report = &mut self.report;
        report.calls += 1;
        report.slowest = report.slowest.max(reply.elapsed);
        let outcome = Outcome {
            status: reply.status,
            served_by: reply.served_by.clone(),
            via: reply.via.clone(),
            ok,
        };
        *report.outcomes.entry(outcome).or_default() += 1;
        *self.durations.entry(bucket(reply.elapsed)).or_default() += 1;
        if ok {
            return;
        }
        report.failed += 1;
        if report.failures.len() < KEPT_FAILURES {
            let (url, new_connection) = (url.to_owned(), reply.new_connection);
            report.failures.push(Failure {
                at,
                url,
                reply: reply.to_string(),
                new_connection,
            });
        }
    }

    pub(super) fn report(&self) -> LoadReport {
        let mut report = self.report.clone();
        report.p50 = self.percentile(50);
        report.p99 = self.percentile(99);
        report
    }

    fn percentile(&self, percent: u64) -> Duration {
        let mut left = (self.report.calls * percent).div_ceil(100);
        for (bucket, count) in &self.durations {
            if *count >= left {
                return upper_end(*bucket);
            }
            left -= count;
        }
        self.report.slowest
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most a few hundred, never negative"
)]
fn bucket(duration: Duration) -> u32 {
    (duration.as_secs_f64() * 1e6).max(1.0).log(1.1).ceil() as u32
}

fn upper_end(bucket: u32) -> Duration {
    Duration::from_secs_f64(1.1_f64.powf(f64::from(bucket)) / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(milliseconds: u64, status: u16) -> Reply {
        Reply {
            elapsed: Duration::from_millis(milliseconds),
            status: Some(status),
            ..Reply::default()
        }
    }

    #[test]
    fn a_failure_is_kept_and_counted() {
        let mut record = Record::new();
        for _ in 0..99 {
            record.take(Timestamp::UNIX_EPOCH, "http://a/", &reply(2, 200));
        }
        record.take(Timestamp::UNIX_EPOCH, "http://a/", &reply(900, 503));
        let report = record.report();
        assert_eq!((report.calls, report.failed, report.failures.len()), (100, 1, 1));
        assert!(report.to_string().contains("100 calls, 1 failed"));
    }

    #[test]
    fn percentiles_are_right_to_within_a_tenth() {
        let mut record = Record::new();
        for milliseconds in 1..=100 {
            record.take(Timestamp::UNIX_EPOCH, "http://a/", &reply(milliseconds, 200));
        }
        let report = record.report();
        assert!(
            (50.0..56.0).contains(&(report.p50.as_secs_f64() * 1000.0)),
            "{:?}",
            report.p50
        );
        assert!(
            (99.0..110.0).contains(&(report.p99.as_secs_f64() * 1000.0)),
            "{:?}",
            report.p99
        );
    }
}
