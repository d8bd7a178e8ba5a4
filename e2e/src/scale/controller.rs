//! The controller as a process beside the API server, and what it does in a while.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::cluster::OURS;
use super::report::{Churn, Rest, Start};
use super::requests::{at_rate, collect_garbage, collections};
use super::stored::Stored;
use super::{Options, Usage};
use crate::admin::{get_over, loopback};
use crate::install::SYSTEM;
use crate::mesh::Mesh;
use crate::process::{Process, Program};
use crate::wait::{Hopeless, until};
use crate::writes::Writes;

/// The controller counts as resting when for so long it has written nothing and hardly computed.
const QUIET: Duration = Duration::from_secs(5);
/// More of a processor than this is work.
const HARDLY: f64 = 0.1;
/// Who neither stores a Sidecar nor writes anything else for so long will not do so later.
const STALLED: Duration = Duration::from_mins(2);
/// Nothing takes longer.
const DEADLINE: Duration = Duration::from_mins(30);

/// A controller that runs.
pub(super) struct Controller {
    mesh: Mesh,
    process: Process,
    pid: u32,
    started: Instant,
    /// What was written before it started.
    before: Writes,
    /// How often the API server had collected its garbage before.
    collections: u64,
}

impl Controller {
    /// Starts it. Its write budget is open, so that it takes what it needs and no more.
    pub(super) async fn start(mesh: &Mesh, options: &Options) -> Result<Self> {
        let collections = collect_garbage(&mesh.client()).await?;
        let before = Writes::so_far(mesh).await?;
        let core = mesh.core();
        let program = Program::new("servicefence", &options.program, &core.folder)
            .args([
                "run",
                "--write-qps=1000000",
                "--write-burst=1000000",
                "--log-format=text",
                // Here is no istiod, and no MeshConfig.
                "--istio-mesh-config-map=",
            ])
            .args(&options.args)
            .env("KUBECONFIG", core.kubeconfig().to_string_lossy())
            .env("POD_NAMESPACE", SYSTEM);
        let started = Instant::now();
        let process = program.start(&core.node(), &core.logs())?;
        let pid = process.pid().context("the controller ended at once")?;
        Ok(Self {
            mesh: mesh.clone(),
            process,
            pid,
            started,
            before,
            collections,
        })
    }

    /// Follows it from its start to its rest, in a mesh that has no Sidecars yet.
    pub(super) async fn first_start(&self, fences: usize, say: &impl Fn(&str)) -> Result<Start> {
        let (ready, (first, all)) = tokio::try_join!(self.ready(say), self.stored(fences, say))?;
        let collections = collections(&self.mesh.client()).await? - self.collections;
        let mut start = self.settled(ready).await?;
        start.collections = Some(collections);
        start.first_sidecar = Some(first);
        start.all_sidecars = Some(all);
        Ok(start)
    }

    /// Follows it from its start to its rest.
    pub(super) async fn restart(&self, say: &impl Fn(&str)) -> Result<Start> {
        let ready = self.ready(say).await?;
        self.settled(ready).await
    }

    async fn settled(&self, ready: f64) -> Result<Start> {
        let (writes, last_write) = self.at_rest().await?;
        Ok(Start {
            ready,
            first_sidecar: None,
            all_sidecars: None,
            collections: None,
            last_write: last_write.map(|at| at.duration_since(self.started).as_secs_f64()),
            usage: self.usage()?,
            writes: writes.since(&self.before),
        })
    }

    /// Seconds from the start until it says that it is ready.
    async fn ready(&self, say: &impl Fn(&str)) -> Result<f64> {
        let sockets = self.mesh.core().sockets(&self.mesh.core().node())?;
        let ready = until("the controller is ready", DEADLINE, async || {
            self.process.still_runs().map_err(Hopeless)?;
            let page = get_over(sockets.tcp().await?, loopback(8080), "/readyz").await?;
            ensure!(page.status == 200, "{}", page.text());
            Ok(self.started.elapsed().as_secs_f64())
        })
        .await?;
        say(&format!("ready after {ready:.1} s"));
        Ok(ready)
    }

    /// Seconds from the start until the first of its Sidecars and until so many are stored.
    async fn stored(&self, wanted: usize, say: &impl Fn(&str)) -> Result<(f64, f64)> {
        let mut stored = Stored::watch(&self.mesh.client(), OURS);
        let (mut first, mut writes) = (None, self.before.clone());
        while stored.count() < wanted {
            if tokio::time::timeout(STALLED, stored.hear()).await.is_ok() {
                if stored.count() > 0 {
                    first.get_or_insert(self.started.elapsed().as_secs_f64());
                }
                continue;
            }
            self.process.still_runs()?;
            let (now, count) = (Writes::so_far(&self.mesh).await?, stored.count());
            ensure!(
                now != writes,
                "only {count} of {wanted} Sidecars are stored, and nothing more is written"
            );
            writes = now;
            say(&format!(
                "{count} of {wanted} Sidecars are stored; written so far: {}",
                writes.since(&self.before)
            ));
        }
        let all = self.started.elapsed().as_secs_f64();
        let writes = Writes::so_far(&self.mesh).await?.since(&self.before);
        say(&format!(
            "all Sidecars are stored after {all:.1} s; written so far: {writes}"
        ));
        Ok((first.unwrap_or(all), all))
    }

    /// Waits until it rests. Gives all writes, and when the last of them was seen.
    async fn at_rest(&self) -> Result<(Writes, Option<Instant>)> {
        let start = Instant::now();
        let (mut writes, mut cpu) = (Writes::so_far(&self.mesh).await?, self.usage()?.cpu);
        let (mut last_write, mut busy, mut looked) = (None, start, start);
        while busy.elapsed() < QUIET {
            ensure!(start.elapsed() < DEADLINE, "the controller does not come to rest");
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.process.still_runs()?;
            let (now, now_cpu) = (Writes::so_far(&self.mesh).await?, self.usage()?.cpu);
            if now != writes {
                last_write = Some(Instant::now());
            }
            if now != writes || now_cpu - cpu > HARDLY * looked.elapsed().as_secs_f64() {
                busy = Instant::now();
            }
            (writes, cpu, looked) = (now, now_cpu, Instant::now());
        }
        Ok((writes, last_write))
    }

    /// What it does while nothing happens.
    pub(super) async fn rest(&self, time: Duration) -> Result<Rest> {
        let (before, usage) = (Writes::so_far(&self.mesh).await?, self.usage()?);
        let start = Instant::now();
        tokio::time::sleep(time).await;
        let after = self.usage()?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Rest {
            seconds,
            millicores: (after.cpu - usage.cpu) / seconds * 1000.0,
            memory: after.memory,
            writes: Writes::so_far(&self.mesh).await?.since(&before),
        })
    }

    /// What it does while something is made so many times a second. All of its work is counted, also what it
    /// does after.
    pub(super) async fn during<F>(
        &self,
        per_second: u32,
        time: Duration,
        make: impl Fn(usize) -> F,
    ) -> Result<Churn>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (before, usage) = (Writes::so_far(&self.mesh).await?, self.usage()?);
        let seconds = at_rate(per_second, time, make).await?.as_secs_f64();
        let (writes, _) = self.at_rest().await?;
        Ok(Churn {
            per_second,
            seconds,
            millicores: (self.usage()?.cpu - usage.cpu) / seconds * 1000.0,
            // The Services that were made and deleted; the controller applies.
            writes: writes
                .since(&before)
                .without("services", "POST")
                .without("services", "DELETE"),
        })
    }

    /// What it has taken since its start.
    pub(super) fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid)
    }

    /// Ends it, as Kubernetes would.
    pub(super) async fn stop(mut self) -> Result<()> {
        let status = self.process.terminate(Duration::from_secs(30)).await?;
        ensure!(
            status.success(),
            "the controller ended with {status} when it was asked to end"
        );
        Ok(())
    }
}
