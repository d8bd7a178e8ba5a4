//! What a run has measured: as a table for people, as JSON, and whether it is right.

use std::fmt;

use anyhow::{Result, bail};
use serde::Serialize;

use super::{Size, Usage};
use crate::writes::Writes;

/// Everything. Times are seconds, memory is bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The mesh.
    pub size: Size,
    /// How long it took to make it.
    pub filled: f64,
    /// The first start, in a mesh without Sidecars.
    pub cold: Start,
    /// Rest after it.
    pub rest: Rest,
    /// As many Sidecars without the controller.
    pub raw: Raw,
    /// A start in a mesh in which everything is written.
    pub restart: Start,
    /// While Services came.
    pub services: Churn,
    /// While pods came.
    pub pods: Churn,
    /// While namespaces with a Service came and went.
    pub namespaces: Churn,
    /// The controller after them.
    pub after_churn: Usage,
    /// The API server at the end.
    pub api_server: Usage,
    /// etcd at the end.
    pub etcd: Usage,
}

/// From a start to rest, in seconds from the start.
#[derive(Clone, Debug, Serialize)]
pub struct Start {
    /// `/readyz` says yes.
    pub ready: f64,
    /// The first Sidecar is stored.
    pub first_sidecar: Option<f64>,
    /// A Sidecar is stored for each fence.
    pub all_sidecars: Option<f64>,
    /// How often the API server collected its garbage until then.
    pub collections: Option<u64>,
    /// The last write, to a second.
    pub last_write: Option<f64>,
    /// What it had taken when it rested.
    pub usage: Usage,
    /// What it has written until then.
    pub writes: Writes,
}

/// While nothing happens.
#[derive(Clone, Debug, Serialize)]
pub struct Rest {
    /// How long.
    pub seconds: f64,
    /// Thousandths of a processor.
    pub millicores: f64,
    /// At its end.
    pub memory: u64,
    /// What was written.
    pub writes: Writes,
}

/// Applies by nothing but the client library, several times, since one varies.
#[derive(Clone, Debug, Serialize)]
pub struct Raw {
    /// How many.
    pub count: usize,
    /// How many at once.
    pub at_once: usize,
    /// The length of one as JSON, on average.
    pub bytes_each: usize,
    /// How long all of them took, each time.
    pub seconds: Vec<f64>,
    /// How often the API server collected its garbage meanwhile, each time.
    pub collections: Vec<u64>,
}

/// While something is made again and again.
#[derive(Clone, Debug, Serialize)]
pub struct Churn {
    /// How often.
    pub per_second: u32,
    /// How long.
    pub seconds: f64,
    /// Thousandths of a processor, as if all work had been done in that time.
    pub millicores: f64,
    /// What the controller has written.
    pub writes: Writes,
}

impl Report {
    /// What is right on any machine: the run itself has seen all Sidecars, a restart writes nothing, and so
    /// does rest. And whatever comes or goes, no EnvoyFilter changes.
    pub fn check(&self) -> Result<()> {
        let wrong = [
            ("after a restart", &self.restart.writes),
            ("at rest", &self.rest.writes),
        ];
        let mut wrong: Vec<_> = wrong
            .iter()
            .filter(|(_, writes)| !writes.is_empty())
            .map(|(when, writes)| format!("{when} the controller wrote {writes}"))
            .collect();
        let filters = self
            .churns()
            .into_iter()
            .filter(|(_, churn)| churn.writes.to("envoyfilters") > 0);
        wrong.extend(
            filters.map(|(what, churn)| format!("during {what} the controller wrote {}", churn.writes)),
        );
        if !wrong.is_empty() {
            bail!("{}", wrong.join("; "));
        }
        Ok(())
    }

    /// How many times as long as raw applies on average the controller took for all Sidecars: from its start,
    /// and from the first one.
    pub fn times_raw(&self) -> Option<(f64, f64)> {
        let (first, all) = self.cold.first_sidecar.zip(self.cold.all_sidecars)?;
        let raw = self.raw.mean();
        Some((all / raw, (all - first) / raw))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = &self.size;
        writeln!(
            f,
            "{} Services in {} namespaces, {} pods, {} fences with {} learned hosts each (made in {:.0} s)\n",
            size.all_services(),
            size.namespaces,
            size.all_pods(),
            size.fences(),
            size.hosts,
            self.filled
        )?;
        self.starts(f)?;
        self.sidecars(f)?;
        writeln!(f, "\nWrites")?;
        writeln!(f, "  {:<28}{}", "first start", self.cold.writes)?;
        writeln!(f, "  {:<28}{}", "restart", self.restart.writes)?;
        writeln!(
            f,
            "  {:<28}{}",
            format!("rest of {:.0} s", self.rest.seconds),
            self.rest.writes
        )?;
        for (what, churn) in self.churns() {
            writeln!(f, "  {what:<28}{}", churn.writes)?;
        }
        writeln!(f, "\nProcessor time of the controller")?;
        let rest = format!("rest of {:.0} s", self.rest.seconds);
        writeln!(f, "  {rest:<28}{:>8.1} millicores", self.rest.millicores)?;
        for (what, churn) in self.churns() {
            writeln!(f, "  {what:<28}{:>8.1} millicores", churn.millicores)?;
        }
        writeln!(
            f,
            "\n{:<30}{:>12}{:>12}{:>12}",
            "At the end", "memory", "most", "processor"
        )?;
        for (name, usage) in [
            ("controller, since restart", &self.after_churn),
            ("kube-apiserver", &self.api_server),
            ("etcd", &self.etcd),
        ] {
            let (memory, most) = (megabytes(usage.memory), megabytes(usage.most_memory));
            writeln!(
                f,
                "  {name:<28}{memory:>9.1} MB{most:>9.1} MB{:>10.1} s",
                usage.cpu
            )?;
        }
        Ok(())
    }
}

impl Report {
    fn starts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cold, restart) = (&self.cold, &self.restart);
        let seconds = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |time| format!("{time:.2} s"));
        let bytes = |bytes: u64| format!("{:.1} MB", megabytes(bytes));
        let rows = [
            ("ready", seconds(Some(cold.ready)), seconds(Some(restart.ready))),
            ("first Sidecar stored", seconds(cold.first_sidecar), seconds(None)),
            ("all Sidecars stored", seconds(cold.all_sidecars), seconds(None)),
            (
                "last write",
                seconds(cold.last_write),
                seconds(restart.last_write),
            ),
            (
                "processor time until rest",
                seconds(Some(cold.usage.cpu)),
                seconds(Some(restart.usage.cpu)),
            ),
            (
                "most memory",
                bytes(cold.usage.most_memory),
                bytes(restart.usage.most_memory),
            ),
            (
                "memory at rest",
                bytes(self.rest.memory),
                bytes(restart.usage.memory),
            ),
        ];
        writeln!(
            f,
            "{:<30}{:>12}{:>12}",
            "From the start of the process", "first start", "restart"
        )?;
        for (what, cold, restart) in rows {
            writeln!(f, "  {what:<28}{cold:>12}{restart:>12}")?;
        }
        Ok(())
    }

    fn sidecars(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raw = &self.raw;
        writeln!(
            f,
            "\nAs many Sidecars by raw applies ({} of {} bytes, {} at once)",
            raw.count, raw.bytes_each, raw.at_once
        )?;
        let collected = |count: u64| format!("garbage collections of the API server: {count}");
        for (seconds, count) in raw.seconds.iter().zip(&raw.collections) {
            writeln!(
                f,
                "  {:<28}{seconds:>10.2} s   {}",
                "all of them",
                collected(*count)
            )?;
        }
        let mean = raw.mean();
        #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52 Sidecars")]
        let per_second = raw.count as f64 / mean;
        writeln!(
            f,
            "  {:<28}{mean:>10.2} s{per_second:>8.0} a second",
            "on average"
        )?;
        if let Some((from_start, from_first)) = self.times_raw() {
            let rows = [
                ("the controller, from its start", from_start),
                ("from its first Sidecar", from_first),
            ];
            for (what, times) in rows {
                writeln!(f, "  {what:<30}{times:>8.2} times as long")?;
            }
            if let Some(count) = self.cold.collections {
                writeln!(f, "  meanwhile, {}", collected(count))?;
            }
        }
        Ok(())
    }

    fn churns(&self) -> [(String, &Churn); 3] {
        let (services, pods, namespaces) = (&self.services, &self.pods, &self.namespaces);
        [
            (format!("{} new Services a second", services.per_second), services),
            (format!("{} new pods a second", pods.per_second), pods),
            (
                format!("{} namespaces a second", namespaces.per_second),
                namespaces,
            ),
        ]
    }
}

impl Raw {
    /// Seconds for all of them, on average.
    #[allow(clippy::cast_precision_loss, reason = "few rounds")]
    pub fn mean(&self) -> f64 {
        self.seconds.iter().sum::<f64>() / self.seconds.len() as f64
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a process has far less than 2^52 bytes"
)]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
