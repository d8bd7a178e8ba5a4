//! One container as one process: started, probed, restarted as the pod's policy says, ended with grace.

use std::future::pending;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::mpsc;

use super::environment::{self, expand};
use super::probe::Prober;
use super::status::{Report, State};
use super::volumes::Volumes;
use super::{Gone, Stop, usual_grace};
use crate::kubelet::images::Images;
use crate::mesh::core::Core;
use crate::pod::PodRecord;
use crate::process::{Process, Program};

/// The user of an image that must not run as root and names none.
const NOBODY_IN_PARTICULAR: i64 = 65532;

/// Everything that a container needs to run.
pub(super) struct Keeper {
    pub(super) core: Arc<Core>,
    pub(super) images: Arc<Images>,
    pub(super) record: PodRecord,
    pub(super) pod: Arc<Pod>,
    pub(super) container: Container,
    /// `Always`, `OnFailure` or `Never`.
    pub(super) restart: String,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) stop: Stop,
}

#[derive(Default)]
struct Probes {
    startup: Option<Prober>,
    readiness: Option<Prober>,
    liveness: Option<Prober>,
}

/// Why a run of the process is over.
enum Over {
    Ended(ExitStatus),
    Unhealthy,
    Stopped(Gone),
}

impl Keeper {
    /// Runs the container until it has ended for good or the pod goes. Gives its last exit code.
    pub(super) async fn keep(mut self) -> i32 {
        let mut restarts = 0;
        loop {
            let (program, probes) = match self.prepare().await {
                Ok(prepared) => prepared,
                Err(error) => {
                    self.report(waiting("CreateContainerConfigError", &error), false, restarts);
                    self.stopped().await;
                    return 1;
                }
            };
            let mut process = match program.start(&self.record.netns(), &self.core.logs()) {
                Ok(process) => process,
                Err(error) => {
                    self.report(waiting("RunContainerError", &error), false, restarts);
                    self.stopped().await;
                    return 1;
                }
            };
            let over = self.watch(&mut process, &probes, restarts).await;
            let code = match over {
                Over::Ended(status) => code(status),
                Over::Unhealthy => self.end(&mut process, usual_grace(&self.pod)).await,
                Over::Stopped(gone) => {
                    let code = match gone {
                        Gone::Deleted(grace) => self.end(&mut process, grace).await,
                        Gone::Vanished => self.end(&mut process, 0).await,
                    };
                    self.report(terminated(code), false, restarts);
                    return code;
                }
            };
            self.report(terminated(code), false, restarts);
            if self.restart == "Never" || (self.restart == "OnFailure" && code == 0) {
                return code;
            }
            let pause = Duration::from_millis(200 << restarts.min(5));
            if tokio::time::timeout(pause, self.stopped()).await.is_ok() {
                return code;
            }
            restarts += 1;
        }
    }

    async fn prepare(&self) -> Result<(Program, Probes)> {
        let image = self.container.image.as_deref().unwrap_or_default();
        let path = self
            .images
            .program(image)
            .with_context(|| format!("no program stands for image {image}"))?;
        let environment =
            environment::of(&self.core.client, &self.pod, &self.record, &self.container).await?;
        let volumes = Volumes::of(&self.core.client, &self.pod, &self.record, &self.container).await?;
        let name = format!("{}.{}", self.record.log_name(), self.container.name);
        let mut program = Program::new(name, path, &self.record.folder)
            .env("KUBERNETES_SERVICE_HOST", self.core.families.api_ip())
            .env("KUBERNETES_SERVICE_PORT", "443")
            .env("HOSTNAME", &self.record.name);
        let kubeconfig = self.record.folder.join("kubeconfig");
        if kubeconfig.exists() {
            program = program.env("KUBECONFIG", kubeconfig.to_string_lossy());
        }
        // The first word of a command is the program inside the image; here the image's program stands for
        // it.
        let command = self.container.command.iter().flatten().skip(1);
        program = program.args(
            command
                .chain(self.container.args.iter().flatten())
                .map(|arg| volumes.place(&expand(arg, &environment))),
        );
        for (name, value) in environment {
            program = program.env(name, volumes.place(&value));
        }
        if let Some(user) = self.user() {
            program = program.run_as(user.to_string());
        }
        Ok((program, self.probes()?))
    }

    fn user(&self) -> Option<i64> {
        let own = self.container.security_context.as_ref();
        let pods = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.security_context.as_ref());
        let user = own
            .and_then(|it| it.run_as_user)
            .or_else(|| pods.and_then(|it| it.run_as_user));
        let not_root = own
            .and_then(|it| it.run_as_non_root)
            .or_else(|| pods.and_then(|it| it.run_as_non_root));
        user.or_else(|| (not_root == Some(true)).then_some(NOBODY_IN_PARTICULAR))
    }

    fn probes(&self) -> Result<Probes> {
        let sockets = self.core.sockets(&self.record.netns())?;
        let of = |probe: &Option<k8s_openapi::api::core::v1::Probe>| {
            probe
                .as_ref()
                .map(|probe| Prober::of(probe, &self.container, &self.record, &sockets))
                .transpose()
        };
        Ok(Probes {
            startup: of(&self.container.startup_probe)?,
            readiness: of(&self.container.readiness_probe)?,
            liveness: of(&self.container.liveness_probe)?,
        })
    }

    async fn watch(&mut self, process: &mut Process, probes: &Probes, restarts: u32) -> Over {
        let since = Timestamp::now();
        self.report(State::Running { since }, false, restarts);
        let reporter = |ready| self.report(State::Running { since }, ready, restarts);
        let mut stop = self.stop.clone();
        tokio::select! {
            status = process.wait() => status.map_or(Over::Unhealthy, Over::Ended),
            () = health(probes, reporter) => Over::Unhealthy,
            gone = gone(&mut stop) => Over::Stopped(gone),
        }
    }

    /// Waits `preStop`'s sleep, then SIGTERM, then what is left of the grace.
    async fn end(&self, process: &mut Process, grace: u64) -> i32 {
        let hook = self
            .container
            .lifecycle
            .as_ref()
            .and_then(|it| it.pre_stop.as_ref())
            .and_then(|it| it.sleep.as_ref());
        let sleep = hook
            .and_then(|hook| hook.seconds.try_into().ok())
            .unwrap_or(0_u64)
            .min(grace);
        tokio::time::sleep(Duration::from_secs(sleep)).await;
        let ended = process.terminate(Duration::from_secs(grace - sleep)).await;
        ended.map_or(137, code)
    }

    async fn stopped(&mut self) {
        gone(&mut self.stop).await;
    }

    fn report(&self, state: State, ready: bool, restarts: u32) {
        let image = self.container.image.clone().unwrap_or_default();
        let report = Report {
            container: self.container.name.clone(),
            image,
            state,
            ready,
            restarts,
        };
        // The worker has left when the mesh ends; the report has no use then.
        let _ = self.reports.send(report);
    }
}

/// Waits until the pod goes.
pub(super) async fn gone(stop: &mut Stop) -> Gone {
    match stop.wait_for(Option::is_some).await {
        Ok(gone) => gone.unwrap_or(Gone::Vanished),
        // The kubelet itself has left, which happens when the mesh ends.
        Err(_) => Gone::Vanished,
    }
}

/// Reports readiness; returns when the container must be restarted.
async fn health(probes: &Probes, ready: impl Fn(bool)) {
    if let Some(startup) = &probes.startup
        && !starts(startup).await
    {
        return;
    }
    let readiness = async {
        match &probes.readiness {
            None => ready(true),
            Some(prober) => follow(prober, &ready).await,
        }
        pending::<()>().await;
    };
    let liveness = async {
        match &probes.liveness {
            None => pending().await,
            Some(prober) => dies(prober).await,
        }
    };
    tokio::select! {
        () = readiness => {}
        () = liveness => {}
    }
}

/// A first success is looked for often, so that a test need not wait for a chart's calm period.
fn eager(prober: &Prober) -> Duration {
    prober.period.min(Duration::from_millis(200))
}

async fn starts(prober: &Prober) -> bool {
    let deadline = tokio::time::Instant::now() + prober.delay + prober.period * prober.failures;
    while prober.look().await.is_err() {
        if tokio::time::Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(eager(prober)).await;
    }
    true
}

async fn follow(prober: &Prober, ready: &impl Fn(bool)) {
    let (mut is_ready, mut failures) = (false, 0);
    loop {
        failures = if prober.look().await.is_ok() {
            0
        } else {
            failures + 1
        };
        let now = if is_ready {
            failures < prober.failures
        } else {
            failures == 0
        };
        if now != is_ready {
            is_ready = now;
            ready(now);
        }
        tokio::time::sleep(if is_ready { prober.period } else { eager(prober) }).await;
    }
}

async fn dies(prober: &Prober) {
    tokio::time::sleep(prober.delay).await;
    let mut failures = 0;
    while failures < prober.failures {
        tokio::time::sleep(prober.period).await;
        failures = if prober.look().await.is_ok() {
            0
        } else {
            failures + 1
        };
    }
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1)
}

fn waiting(reason: &'static str, error: &anyhow::Error) -> State {
    State::Waiting {
        reason,
        message: format!("{error:#}"),
    }
}

fn terminated(code: i32) -> State {
    State::Terminated {
        code,
        at: Timestamp::now(),
    }
}
