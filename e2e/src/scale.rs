//! What ServiceFence costs in a large mesh: the controller alone, on a real API server that holds thousands
//! of Services, pods and fences. istiod and proxies are left out: they would take the time of the machine.
//!
//! ```text
//!  cluster ──▶ API server ◀── controller      what it takes: usage; what it writes: counted by the API server
//!                  ▲
//!                 raw                         as many Sidecars again, by nothing but the client library
//! ```
//!
//! In: how large, and how long to look at it. Out: a [`Report`]. Times depend on the machine and on who else
//! uses it, so they are compared with the raw applies of the same run; [`Report::check`] knows only what is
//! right on any machine.

mod cluster;
mod controller;
mod fences;
mod names;
mod pods;
mod raw;
mod report;
mod requests;
mod stored;
mod usage;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cluster::Cluster;
use controller::Controller;

use crate::mesh::Mesh;
use crate::objects::lock;

pub use report::{Churn, Raw, Report, Rest, Start};
pub use usage::Usage;

/// New Services a second, while that is looked at.
const SERVICES_PER_SECOND: u32 = 10;
/// New pods a second, while that is looked at.
const PODS_PER_SECOND: u32 = 100;
/// Namespaces with a Service a second that come and go, while that is looked at.
const NAMESPACES_PER_SECOND: u32 = 2;

/// How large the mesh is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Size {
    /// Namespaces with Services.
    pub namespaces: usize,
    /// Services in each of them.
    pub services: usize,
    /// Pods of each Service.
    pub pods: usize,
    /// So many of the namespaces have a fence for each Service.
    pub fenced: usize,
    /// Hosts that each fence has learned.
    pub hosts: usize,
}

impl Size {
    /// All Services.
    pub fn all_services(&self) -> usize {
        self.namespaces * self.services
    }

    /// All pods.
    pub fn all_pods(&self) -> usize {
        self.all_services() * self.pods
    }

    /// All fences.
    pub fn fences(&self) -> usize {
        self.fenced * self.services
    }

    fn check(&self) -> Result<()> {
        ensure!(
            self.fences() > 0,
            "without a namespace with fences and Services nothing is measured"
        );
        ensure!(
            self.fenced <= self.namespaces,
            "there are fewer namespaces than namespaces with fences"
        );
        ensure!(
            self.hosts < self.all_services(),
            "there are too few Services for so many learned hosts"
        );
        ensure!(
            self.all_services() < 60_000 && self.all_pods() < 1 << 20,
            "there are not enough addresses for so many Services or pods"
        );
        Ok(())
    }
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// How large the mesh is.
    pub size: Size,
    /// How long the controller is watched doing nothing.
    pub rest: Duration,
    /// How long Services come, then pods, then namespaces.
    pub churn: Duration,
    /// The controller.
    pub program: PathBuf,
    /// Flags for its `run`, after those of the run.
    pub args: Vec<String>,
}

/// Fills a mesh that is nothing but an API server, and measures the controller on it. `say` is told each
/// step.
pub async fn run(mesh: &Mesh, options: &Options, say: impl Fn(&str)) -> Result<Report> {
    let size = options.size;
    size.check()?;
    let cluster = Cluster::new(mesh.client(), size);
    say(&format!(
        "making {} Services, {} pods and {} fences",
        size.all_services(),
        size.all_pods(),
        size.fences()
    ));
    let filling = Instant::now();
    cluster.fill(mesh).await?;
    let filled = filling.elapsed().as_secs_f64();

    say("the first start of the controller");
    let controller = Controller::start(mesh, options).await?;
    let cold = controller.first_start(size.fences(), &say).await?;
    let sidecars = cluster.sidecars().await?;
    fences::check(&size, &sidecars)?;
    say("at rest");
    let rest = controller.rest(options.rest).await?;
    controller.stop().await?;

    say("as many Sidecars again, without the controller");
    let raw = raw::apply(&mesh.client(), &sidecars).await?;

    say("a restart of the controller");
    let controller = Controller::start(mesh, options).await?;
    let restart = controller.restart(&say).await?;
    say("new Services");
    let services = controller
        .during(SERVICES_PER_SECOND, options.churn, |number| {
            cluster.new_service(number)
        })
        .await?;
    say("new pods");
    let pods = controller
        .during(PODS_PER_SECOND, options.churn, |number| cluster.new_pod(number))
        .await?;
    say("namespaces that come and go");
    let namespaces = controller
        .during(NAMESPACES_PER_SECOND, options.churn, |number| {
            cluster.passing_namespace(number)
        })
        .await?;
    let after_churn = controller.usage()?;
    controller.stop().await?;
    Ok(Report {
        size,
        filled,
        cold,
        rest,
        raw,
        restart,
        services,
        pods,
        namespaces,
        after_churn,
        api_server: of_program(mesh, "kube-apiserver")?,
        etcd: of_program(mesh, "etcd")?,
    })
}

/// What a program of the control plane has taken.
fn of_program(mesh: &Mesh, name: &str) -> Result<Usage> {
    let processes = lock(&mesh.core().processes);
    let pid = processes
        .get(&format!("control-plane/{name}"))
        .and_then(crate::process::Process::pid)
        .with_context(|| format!("{name} does not run"))?;
    Usage::of(pid)
}
