//! The plan: how often a scope is widened and narrowed, by editing `allow` and by calls, and how often a
//! label scopes a caller and unscopes it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use servicefence_e2e::Mesh;

use crate::stage::{FENCED, LABELLED, Stage};
use crate::traffic::{Met, Traffic};

/// What was done, and what clients met meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Widenings by editing `allow`.
    pub(crate) widened_by_edit: u32,
    /// Widenings by first calls.
    pub(crate) widened_by_call: u32,
    /// Narrowings by editing `allow`.
    pub(crate) narrowed_by_edit: u32,
    /// Narrowings by removing learned entries.
    pub(crate) narrowed_by_forgetting: u32,
    /// First Sidecars.
    pub(crate) scoped: u32,
    /// Sidecars removed.
    pub(crate) unscoped: u32,
    /// Fewest calls that a moving host got during one transition.
    pub(crate) fewest_calls: Option<u64>,
    /// How long each transition took, from the edit until all conditions held.
    pub(crate) took: Vec<Duration>,
    /// By destination.
    pub(crate) met: Vec<(&'static str, Met)>,
}

impl Outcome {
    async fn during(
        &mut self,
        traffic: &Traffic,
        moving: [&str; 2],
        step: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let (start, before) = (Instant::now(), moving.map(|name| traffic.calls(name)));
        step.await?;
        self.took.push(start.elapsed());
        let calls = moving
            .iter()
            .zip(before)
            .map(|(name, before)| traffic.calls(name) - before);
        self.fewest_calls = self.fewest_calls.into_iter().chain(calls).min();
        Ok(())
    }

    pub(crate) fn calls(&self) -> u64 {
        self.met.iter().map(|(_, met)| met.calls()).sum()
    }

    pub(crate) fn failed(&self) -> u64 {
        self.met.iter().map(|(_, met)| met.failed()).sum()
    }

    pub(crate) fn cut(&self) -> u64 {
        self.met.iter().map(|(_, met)| met.cut).sum()
    }

    pub(crate) fn failures(&self) -> impl Iterator<Item = &String> {
        self.met.iter().flat_map(|(_, met)| &met.failures)
    }
}

const MOVING: [&str; 2] = ["http moves", "tcp moves"];
const TWICE: [&str; 2] = ["http external"; 2];
const OUTSIDE: [&str; 2] = ["http outside", "tcp"];

/// At least `times` widenings and narrowings of each kind under load. `say` hears of every round.
pub(crate) async fn widen_and_narrow(
    stage: &Stage,
    mesh: &Mesh,
    times: u32,
    say: impl Fn(&str),
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    stage.reset().await?;
    // The kept connection to the TCP host that moves begins outside the scope, in the tunnel, where it stays:
    // one that begins inside is cut when the host leaves, as `nonHttp: Learn` says.
    let traffic = Traffic::start(mesh, &stage.caller(), &FENCED).await?;
    let first = async {
        stage.wait_moving_learned().await?;
        stage.wait_moved(&traffic, true).await
    };
    outcome.during(&traffic, MOVING, first).await?;
    outcome.widened_by_call += 1;
    // Envoy ends the connections of a filter chain that is gone after 45 s. The rest of the run takes longer
    // than that.
    stage.further_range(&traffic, true).await?;

    stage.allow_moving(true).await?;
    while outcome.widened_by_edit < times {
        ensure!(
            outcome.narrowed_by_edit < 3 * times,
            "calls always widen the scope before the edit does"
        );
        stage.forget_at_rest().await?;
        let narrow = async {
            stage.allow_moving(false).await?;
            stage.wait_moved(&traffic, false).await
        };
        outcome.during(&traffic, MOVING, narrow).await?;
        outcome.narrowed_by_edit += 1;
        let by_call = stage.has_learned().await?;
        let widen = async {
            stage.allow_moving(true).await?;
            stage.wait_moved(&traffic, true).await
        };
        outcome.during(&traffic, MOVING, widen).await?;
        if by_call {
            outcome.widened_by_call += 1;
        } else {
            outcome.widened_by_edit += 1;
        }
        stage.wait_moving_learned().await?;
        say(&said(&traffic, &outcome));
    }

    stage.allow_moving(false).await?;
    while outcome.narrowed_by_forgetting < times {
        let narrow = async {
            stage.forget().await?;
            stage.wait_moved(&traffic, false).await
        };
        outcome.during(&traffic, MOVING, narrow).await?;
        outcome.narrowed_by_forgetting += 1;
        let widen = async {
            stage.wait_moving_learned().await?;
            stage.wait_moved(&traffic, true).await
        };
        outcome.during(&traffic, MOVING, widen).await?;
        outcome.widened_by_call += 1;
        say(&said(&traffic, &outcome));
    }
    stage.further_range(&traffic, false).await?;
    outcome.met = traffic.stop().await?.into_iter().collect();
    Ok(outcome)
}

/// So many first Sidecars and removals of them under load.
pub(crate) async fn scope_and_unscope(
    stage: &Stage,
    mesh: &Mesh,
    times: u32,
    say: impl Fn(&str),
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let traffic = Traffic::start(mesh, &stage.caller(), &LABELLED).await?;
    while outcome.unscoped < times {
        traffic.more(10).await?;
        outcome
            .during(&traffic, OUTSIDE, stage.label(&traffic, true))
            .await?;
        outcome.scoped += 1;
        if outcome.scoped == 1 {
            let ranges = async {
                stage.further_range(&traffic, true).await?;
                stage.further_range(&traffic, false).await
            };
            outcome.during(&traffic, TWICE, ranges).await?;
        }
        outcome
            .during(&traffic, OUTSIDE, stage.label(&traffic, false))
            .await?;
        outcome.unscoped += 1;
        stage.forget_between().await?;
        say(&said(&traffic, &outcome));
    }
    outcome.met = traffic.stop().await?.into_iter().collect();
    Ok(outcome)
}

fn said(traffic: &Traffic, outcome: &Outcome) -> String {
    let met = traffic.so_far();
    let calls: u64 = met.values().map(Met::calls).sum();
    let failed: u64 = met.values().map(Met::failed).sum();
    let cut: u64 = met.values().map(|met| met.cut).sum();
    format!(
        "{} transitions, {calls} calls, {failed} failed, {cut} connections cut",
        outcome.took.len()
    )
}
