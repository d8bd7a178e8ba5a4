//! Nothing fails while a scope changes: hosts join and leave it, and proxies get their first Sidecar and lose
//! it, under load, on new and kept connections, HTTP and TCP. Longer runs, with figures and with plain
//! one-step changes beside them: `cargo bench -p servicefence-e2e --bench transitions`.

#[path = "hitless/plan.rs"]
mod plan;
#[path = "hitless/stage.rs"]
mod stage;
#[path = "hitless/traffic.rs"]
mod traffic;

use anyhow::{Result, ensure};
use plan::{Outcome, scope_and_unscope, widen_and_narrow};
use servicefence_e2e::install::Build;
use servicefence_e2e::{Background, Mesh, MeshOptions, tools};
use stage::{GATHER, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_and_no_connection_is_cut_while_scopes_change() -> Result<()> {
    if !tools::can_run() {
        return Ok(());
    }
    let mesh = Mesh::up(MeshOptions::default()).await?;
    let result = run(&mesh).await;
    if result.is_err() {
        eprintln!("{}", mesh.dump());
    }
    result
}

async fn run(mesh: &Mesh) -> Result<()> {
    mesh.install(Build::Debug, &GATHER).await?;
    stage::add_server(mesh).await?;
    mesh.background_services(&Background::new("team", 40)).await?;

    let fenced = Stage::fenced(mesh).await?;
    check(&widen_and_narrow(&fenced, mesh, 2, |said| eprintln!("{said}")).await?)?;
    let labelled = Stage::labelled(mesh).await?;
    check(&scope_and_unscope(&labelled, mesh, 2, |said| eprintln!("{said}")).await?)
}

fn check(outcome: &Outcome) -> Result<()> {
    let failures: Vec<_> = outcome.failures().take(20).map(String::as_str).collect();
    ensure!(
        outcome.failed() == 0 && outcome.cut() == 0,
        "{} of {} calls failed, {} kept connections were cut:\n{}",
        outcome.failed(),
        outcome.calls(),
        outcome.cut(),
        failures.join("\n")
    );
    let fewest = outcome.fewest_calls.unwrap_or_default();
    ensure!(fewest > 0, "a transition met no call to a host that moved");
    Ok(())
}
