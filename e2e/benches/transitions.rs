//! Transitions under load, in two steps and, in the same run and on the same mesh, plainly in one.
//!
//! `cargo bench -p servicefence-e2e --bench transitions`; a number behind `--` sets how many widenings by
//! edits and by calls there are, and narrowings by edits and by forgetting (15). Two thirds as many times a
//! caller gets its first Sidecar and loses it. About twelve minutes on two cores.

#[path = "figures/run.rs"]
mod figures;
#[path = "../tests/hitless/plan.rs"]
mod plan;
#[path = "figures/settle.rs"]
mod settle;
#[path = "../tests/hitless/stage.rs"]
mod stage;
#[path = "figures/times.rs"]
mod times;
#[path = "../tests/hitless/traffic.rs"]
mod traffic;

use std::process::ExitCode;

use anyhow::Result;
use plan::{Outcome, scope_and_unscope, widen_and_narrow};
use serde_json::{Value, json};
use servicefence_e2e::install::Build;
use servicefence_e2e::{Background, Mesh};
use stage::{GATHER, Stage};
use times::{milliseconds, percentile};

const BACKGROUND: usize = 190;

fn main() -> ExitCode {
    let times = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(15);
    figures::bench("transitions", |mesh| measure(mesh, times))
}

async fn measure(mesh: Mesh, times: u32) -> Result<Value> {
    let values = [&["transitions.settleTime=1s"][..], &GATHER].concat();
    mesh.install(Build::Release, &values).await?;
    stage::add_server(&mesh).await?;
    mesh.background_services(&Background::new("team", BACKGROUND))
        .await?;
    let (fenced, labelled) = (Stage::fenced(&mesh).await?, Stage::labelled(&mesh).await?);

    let mut runs = Vec::new();
    for settle in ["1s", "0s"] {
        settle::set(&mesh, settle).await?;
        let say = |what: &str| eprintln!("[settle time {settle}] {what}");
        let moved = widen_and_narrow(&fenced, &mesh, times, say).await?;
        let scoped = scope_and_unscope(&labelled, &mesh, (times * 2).div_ceil(3), say).await?;
        let in_force = settle::in_force(&mesh).await?;
        let how = if settle == "0s" {
            "plain, in one step"
        } else {
            "in two steps"
        };
        println!("\nTransitions {how} (settle time {settle}, {in_force} ms in force at the end):");
        print(
            &moved,
            &format!(
                "{} widenings ({} by edits of allow, {} by calls), {} narrowings ({} by edits, {} by forgetting)",
                moved.widened_by_edit + moved.widened_by_call,
                moved.widened_by_edit,
                moved.widened_by_call,
                moved.narrowed_by_edit + moved.narrowed_by_forgetting,
                moved.narrowed_by_edit,
                moved.narrowed_by_forgetting,
            ),
        );
        print(
            &scoped,
            &format!(
                "{} first Sidecars by a label, {} removals, {BACKGROUND} Services beside",
                scoped.scoped, scoped.unscoped
            ),
        );
        runs.push(json!({
            "settle": settle, "settle_in_force_ms": in_force,
            "widen_and_narrow": as_json(&moved), "scope_and_unscope": as_json(&scoped),
        }));
    }
    Ok(json!({"runs": runs}))
}

fn print(outcome: &Outcome, what: &str) {
    println!("  {what}:");
    println!(
        "  {:16} {:>22} {:>22} {:>16}",
        "host", "failed, new conn.", "failed, kept conn.", "kept conn. cut"
    );
    for (name, met) in &outcome.met {
        println!(
            "  {name:16} {:>22} {:>22} {:>16}",
            format!("{} of {}", met.new_failed, met.new_calls),
            format!("{} of {}", met.kept_failed, met.kept_calls),
            met.cut
        );
    }
    println!(
        "  all              {} of {} failed, {} connections cut; a transition took {:.1} s p50, {:.1} s at most; at least {} calls to the host that moves in each",
        outcome.failed(),
        outcome.calls(),
        outcome.cut(),
        percentile(&outcome.took, 50).as_secs_f64(),
        percentile(&outcome.took, 100).as_secs_f64(),
        outcome.fewest_calls.unwrap_or_default()
    );
    for failure in outcome.failures().take(12) {
        println!("    {failure}");
    }
}

fn as_json(outcome: &Outcome) -> Value {
    let hosts: Vec<_> = outcome
        .met
        .iter()
        .map(|(name, met)| {
            json!({
                "host": name, "new": {"calls": met.new_calls, "failed": met.new_failed},
                "kept": {"calls": met.kept_calls, "failed": met.kept_failed, "cut": met.cut},
            })
        })
        .collect();
    json!({
        "widened": {"by_edit": outcome.widened_by_edit, "by_call": outcome.widened_by_call},
        "narrowed": {"by_edit": outcome.narrowed_by_edit, "by_forgetting": outcome.narrowed_by_forgetting},
        "scoped": outcome.scoped, "unscoped": outcome.unscoped,
        "calls": outcome.calls(), "failed": outcome.failed(), "cut": outcome.cut(),
        "fewest_calls_in_a_transition": outcome.fewest_calls,
        "transition_ms": {
            "p50": milliseconds(percentile(&outcome.took, 50)),
            "max": milliseconds(percentile(&outcome.took, 100)),
        },
        "hosts": hosts, "failures": outcome.failures().collect::<Vec<_>>(),
    })
}
