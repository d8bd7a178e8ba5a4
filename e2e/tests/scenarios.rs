//! The acceptance scenarios, on one real mesh under STRICT mutual TLS with the chart installed.
//!
//! Each has namespaces of its own, so they run side by side. A figure of what they need: about a
//! minute and a half on two cores.

#[path = "scenarios/bound.rs"]
mod bound;
#[path = "scenarios/covered.rs"]
mod covered;
#[path = "scenarios/destination_rules.rs"]
mod destination_rules;
#[path = "scenarios/detection.rs"]
mod detection;
#[path = "scenarios/external_names.rs"]
mod external_names;
#[path = "scenarios/headless.rs"]
mod headless;
#[path = "scenarios/hosts.rs"]
mod hosts;
#[path = "scenarios/http.rs"]
mod http;
#[path = "scenarios/learning.rs"]
mod learning;
#[path = "scenarios/proxy_calls.rs"]
mod proxy_calls;
#[path = "scenarios/risks.rs"]
mod risks;
#[path = "scenarios/routing.rs"]
mod routing;
#[path = "scenarios/scene.rs"]
mod scene;
#[path = "scenarios/tcp.rs"]
mod tcp;
#[path = "scenarios/wildcards.rs"]
mod wildcards;
#[path = "scenarios/workloads.rs"]
mod workloads;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use scene::Scene;
use servicefence_e2e::install::Build;
use servicefence_e2e::{Mesh, MeshOptions, tools};
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Scenarios mostly wait for the mesh.
    arguments.test_threads.get_or_insert(6);
    // Those first that take longest.
    let all = tcp::all()
        .chain(http::all())
        .chain(routing::all())
        .chain(bound::all())
        .chain(workloads::all())
        .chain(learning::all())
        .chain(hosts::all())
        .chain(headless::all())
        .chain(external_names::all())
        .chain(covered::all())
        .chain(wildcards::all())
        .chain(proxy_calls::all())
        .chain(destination_rules::all())
        .chain(detection::all())
        .chain(risks::all());
    // `make versions` names several, with `|` between them.
    let filter = arguments.filter.take().unwrap_or_default();
    let exact = arguments.exact && !filter.is_empty();
    let is = |name: &str, part: &str| if exact { name == part } else { name.contains(part) };
    let wanted = |name: &str| filter.split('|').any(|part| is(name, part));
    let all = all.filter(|(name, _)| wanted(name));
    if arguments.list {
        let names = all.map(|(name, _)| Trial::test(name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, names).exit_code();
    }
    if !tools::can_run() {
        return ExitCode::SUCCESS;
    }
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let mesh = match runtime.block_on(set_up()) {
        Ok(mesh) => mesh,
        Err(error) => return fail(&error),
    };
    let trials = all.map(|(name, scenario)| {
        let (scene, handle) = (Scene::new(mesh.clone(), name), runtime.handle().clone());
        Trial::test(name, move || {
            handle
                .block_on(scenario(scene.clone()))
                .map_err(|error| Failed::from(format!("{error:#}")))?;
            // The pods of one that failed stay, to be looked at. No test waits for proxies that drain.
            handle.spawn(async move {
                if let Err(error) = scene.leave().await {
                    eprintln!("the pods of {name} stay: {error:#}");
                }
            });
            Ok(())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if conclusion.has_failed() {
        eprintln!("{}", mesh.dump());
    }
    conclusion.exit_code()
}

async fn set_up() -> anyhow::Result<Mesh> {
    let mesh = Mesh::up(MeshOptions {
        verbose: true,
        ..MeshOptions::default()
    })
    .await?;
    if let Err(error) = mesh.install(Build::Debug, &[]).await {
        eprintln!("{}", mesh.dump());
        return Err(error);
    }
    Ok(mesh)
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("the mesh of the scenarios cannot be set up: {error:#}");
    ExitCode::FAILURE
}
