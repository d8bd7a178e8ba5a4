//! How the controller behaves while it is operated: restarts, rest, other people's hands on its objects, bad
//! input, strangers at its log port, its own end, labels that change, what outlives them, and opting out.
//!
//! The steps run one after another in this order, in a mesh where nothing else happens, since most of them
//! count writes.

#[path = "operation/absence.rs"]
mod absence;
#[path = "operation/dead_connections.rs"]
mod dead_connections;
#[path = "operation/discovery.rs"]
mod discovery;
#[path = "operation/egress_proxy.rs"]
mod egress_proxy;
#[path = "operation/families.rs"]
mod families;
#[path = "operation/foreign.rs"]
mod foreign;
#[path = "operation/istio_tools.rs"]
mod istio_tools;
#[path = "operation/labels.rs"]
mod labels;
#[path = "operation/log_port.rs"]
mod log_port;
#[path = "operation/memory.rs"]
mod memory;
#[path = "operation/opt_out.rs"]
mod opt_out;
#[path = "operation/registry_only.rs"]
mod registry_only;
#[path = "operation/remote_clusters.rs"]
mod remote_clusters;
#[path = "operation/repair.rs"]
mod repair;
#[path = "operation/revisions.rs"]
mod revisions;
#[path = "operation/root_policy.rs"]
mod root_policy;
#[path = "operation/shared_mesh_config.rs"]
mod shared_mesh_config;
#[path = "operation/shop.rs"]
mod shop;
#[path = "operation/shutdown.rs"]
mod shutdown;
#[path = "operation/slow_status.rs"]
mod slow_status;
#[path = "operation/stopped.rs"]
mod stopped;
#[path = "operation/uncaptured.rs"]
mod uncaptured;
#[path = "operation/unreadable.rs"]
mod unreadable;
#[path = "operation/virtual_machines.rs"]
mod virtual_machines;

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use servicefence_e2e::{Mesh, tools};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;

/// A step by name.
type Step = (
    &'static str,
    fn(Mesh) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>,
);

/// Lists the steps of a module, which are async functions of a [`Mesh`].
#[macro_export]
macro_rules! steps {
    ($($name:ident),* $(,)?) => {
        pub(crate) const STEPS: &[$crate::Step] =
            &[$((stringify!($name), |mesh| Box::pin($name(mesh)))),*];
    };
}

/// In this order, in one mesh.
const STEPS: &[&[Step]] = &[
    shop::STEPS,
    repair::STEPS,
    // Before steps that leave entries with the gateway: these arrive when the controller is a new one.
    shutdown::STEPS,
    dead_connections::STEPS,
    istio_tools::STEPS,
    foreign::STEPS,
    unreadable::STEPS,
    log_port::STEPS,
    stopped::STEPS,
    absence::STEPS,
    egress_proxy::STEPS,
    root_policy::STEPS,
    labels::STEPS,
    slow_status::STEPS,
    uncaptured::STEPS,
    discovery::STEPS,
    virtual_machines::STEPS,
    memory::STEPS,
    opt_out::STEPS,
];

/// A test with a mesh of its own, by name.
type Apart = (
    &'static str,
    fn() -> Pin<Box<dyn Future<Output = Result<()>> + Send>>,
);

/// They run one after another beside the steps, which wait most of the time.
const APART: [Apart; 4] = [
    (registry_only::NAME, || Box::pin(registry_only::run())),
    (revisions::NAME, || Box::pin(revisions::run())),
    (families::BOTH, || Box::pin(families::both())),
    (families::IPV6, || Box::pin(families::ipv6())),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let steps = STEPS.iter().copied().flatten();
    if arguments.list {
        let names = steps.map(|(name, _)| *name);
        let names = names.chain(APART.map(|(name, _)| name));
        let trials = names.map(|name| Trial::test(name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    if !tools::can_run() {
        return ExitCode::SUCCESS;
    }
    let set_up = Runtime::new().map_err(anyhow::Error::from).and_then(|runtime| {
        let mesh = runtime.block_on(shop::open())?;
        Ok((runtime, mesh))
    });
    let (runtime, mesh) = match set_up {
        Ok(all) => all,
        Err(error) => {
            eprintln!("the mesh of these tests cannot be set up: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let trials = steps.map(|(name, step)| {
        let (mesh, handle) = (mesh.clone(), runtime.handle().clone());
        Trial::test(*name, move || handle.block_on(step(mesh)).map_err(failed))
    });
    let trials = trials.chain(apart(&arguments, runtime.handle())).collect();
    arguments.test_threads = Some(1);
    let ended = libtest_mimic::run(&arguments, trials);
    if ended.has_failed() {
        eprintln!("{}", mesh.dump());
    }
    drop(mesh);
    ended.exit_code()
}

/// Starts the tests with meshes of their own that are asked for; their trials wait for the end of them.
fn apart(arguments: &Arguments, handle: &Handle) -> Vec<Trial> {
    let one_at_a_time = Arc::new(Semaphore::new(1));
    let asked_for = |name: &str| {
        arguments
            .filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter))
    };
    let trials = APART.map(|(name, run)| {
        let turn = one_at_a_time.clone();
        let running = asked_for(name).then(|| {
            handle.spawn(async move {
                let _turn = turn.acquire_owned().await?;
                run().await
            })
        });
        let handle = handle.clone();
        Trial::test(name, move || {
            let running = running.ok_or("it was not started, since it was not asked for")?;
            handle.block_on(running)?.map_err(failed)
        })
    });
    trials.into()
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn failed(error: anyhow::Error) -> Failed {
    Failed::from(format!("{error:#}"))
}
