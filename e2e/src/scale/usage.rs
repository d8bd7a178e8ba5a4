//! What a process takes, as the kernel counts it.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

/// Time on processors and memory of a process, until now.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Usage {
    /// Seconds of processor time, its own and the kernel's for it.
    pub cpu: f64,
    /// Bytes in memory.
    pub memory: u64,
    /// The most bytes in memory that it ever had.
    pub most_memory: u64,
}

impl Usage {
    /// Of a process that runs.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            value.with_context(|| format!("/proc/{pid}/status has no {name}"))
        };
        Ok(Self {
            cpu: cpu(pid)?.as_secs_f64(),
            memory: kilobytes("VmRSS:")? * 1024,
            most_memory: kilobytes("VmHWM:")? * 1024,
        })
    }
}

/// Fields 14 and 15 of `/proc/<pid>/stat`; the name in field 2 may hold spaces, so count after its closing
/// bracket.
fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name in /proc/<pid>/stat")?;
    let mut times = fields.split_whitespace().skip(11);
    let mut next = || -> Result<u64> { Ok(times.next().context("no times in /proc/<pid>/stat")?.parse()?) };
    let ticks = next()? + next()?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the kernel does not say how long a tick is")?;
    Ok(Duration::from_secs(ticks) / u32::try_from(per_second)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_computes_takes_time_and_memory() {
        let before = Usage::of(std::process::id()).unwrap();
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(200) {
            std::hint::spin_loop();
        }
        let after = Usage::of(std::process::id()).unwrap();
        assert!(after.cpu > before.cpu, "{before:?} {after:?}");
        assert!(
            after.memory > 1 << 20 && after.most_memory >= after.memory,
            "{after:?}"
        );
    }
}
