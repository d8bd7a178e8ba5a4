//! Plays a world: each call by both callers, after each step, until it is direct.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::answer::Answer;
use super::fault::{Fault, Kind};
use super::known::{Known, Way};
use super::pool::{CALLER, JUDGE};
use super::stage::Stage;
use super::world::{FuzzCall, World};
use crate::install::SOON;
use crate::proxy::Taken;

/// How long a call may take. One that hangs hangs for both.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often a call is tried until the judge's answer stands still.
const TRIES: usize = 5;
/// So many faults end a world: the rest usually follows from them.
const ENOUGH: usize = 3;

/// What one or more worlds came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Worlds.
    pub worlds: usize,
    /// Objects and changes that were written.
    pub objects: usize,
    /// Those that the API server or istiod refused.
    pub refused: usize,
    /// Calls that were compared.
    pub calls: usize,
    /// Those that a server answered.
    pub arrived: usize,
    /// Those of `arrived` that went through the gateway the first time after a step.
    pub first_by_gateway: usize,
    /// Those of `arrived` that were direct in the end.
    pub direct: usize,
    /// Those that `explain` says will not become direct.
    pub explained: usize,
    /// Calls by which the judge never said the same twice.
    pub unsettled: usize,
    /// Worlds that could not be played to the end: the mesh did not come to rest.
    pub stuck: usize,
    /// Differences that are known.
    pub known: BTreeMap<Known, usize>,
}

impl Figures {
    /// Adds another one's.
    pub fn add(&mut self, other: Self) {
        self.worlds += other.worlds;
        self.objects += other.objects;
        self.refused += other.refused;
        self.calls += other.calls;
        self.arrived += other.arrived;
        self.first_by_gateway += other.first_by_gateway;
        self.direct += other.direct;
        self.explained += other.explained;
        self.unsettled += other.unsettled;
        self.stuck += other.stuck;
        for (known, count) in other.known {
            *self.known.entry(known).or_default() += count;
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} worlds, {} objects and changes ({} refused), {} calls: {} answered by a server, {} first by the gateway, \
             {} direct in the end, {} explained; {} unsettled, {} stuck",
            self.worlds,
            self.objects,
            self.refused,
            self.calls,
            self.arrived,
            self.first_by_gateway,
            self.direct,
            self.explained,
            self.unsettled,
            self.stuck
        )?;
        for (known, count) in &self.known {
            write!(f, ", {count} {known}")?;
        }
        Ok(())
    }
}

/// What a world came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Counts.
    pub figures: Figures,
    /// Differences.
    pub faults: Vec<Fault>,
    /// The first difference of each kind that is known.
    pub known: BTreeMap<Known, Fault>,
    /// What was refused, and why.
    pub refused: Vec<String>,
}

/// Both callers' answers to one call.
struct Pair {
    judge: Answer,
    judge_taken: Taken,
    fenced: Answer,
    taken: Taken,
    way: Way,
}

impl Pair {
    fn differs(&self) -> bool {
        self.judge != self.fenced
    }

    fn known(&self) -> Option<Known> {
        if !self.differs() {
            return None;
        }
        // Envoy forgets where it passed a connection through soon after its end, and the counters with it: a
        // time-out outlasts that.
        let is_forgotten = self.judge.outcome == "time-out" && self.judge_taken.0.is_empty();
        let way = Way {
            passed_through: self.taken.passthrough() || self.judge_taken.passthrough(),
            past_rules: self.judge_taken.passthrough() || is_forgotten,
            detected: self.taken.uses("servicefence-detection"),
            headless: self.way.headless && !self.taken.fallback(),
            ..self.way
        };
        Known::of(&self.judge, &self.fenced, way)
    }
}

impl Stage {
    /// Plays a world from a fence that knows nothing.
    pub async fn play(&mut self, world: &World) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        outcome.figures.worlds = 1;
        outcome.refused = self.set(world).await?;
        outcome.figures.objects = world.objects.len() + world.changes.len();
        self.step(world, 0, &mut outcome).await?;
        for (at, change) in world.changes.iter().enumerate() {
            if outcome.faults.len() >= ENOUGH {
                break;
            }
            outcome.refused.extend(self.change(change).await?);
            self.step(world, at + 1, &mut outcome).await?;
        }
        outcome.figures.refused = outcome.refused.len();
        Ok(outcome)
    }

    async fn step(&self, world: &World, step: usize, outcome: &mut Outcome) -> Result<()> {
        let fault = |call: &FuzzCall, kind, pair: Pair, explained| Fault {
            seed: world.seed,
            step,
            call: call.clone(),
            kind,
            judge: pair.judge,
            fenced: pair.fenced,
            taken: pair.taken.to_string(),
            judge_taken: pair.judge_taken.to_string(),
            explained,
        };
        let mut waiting = Vec::new();
        for call in world.calls.iter().filter(|call| call.after <= step) {
            if outcome.faults.len() >= ENOUGH {
                return Ok(());
            }
            outcome.figures.calls += 1;
            let Some(pair) = self.both(world, step, call).await? else {
                outcome.figures.unsettled += 1;
                continue;
            };
            if let Some(known) = pair.known() {
                *outcome.figures.known.entry(known).or_default() += 1;
                let fault = fault(call, Kind::First, pair, Value::Null);
                outcome.known.entry(known).or_insert(fault);
            } else if pair.differs() {
                let explained = self.explained(&pair).await;
                outcome.faults.push(fault(call, Kind::First, pair, explained));
            } else if pair.judge.arrived() {
                outcome.figures.arrived += 1;
                outcome.figures.first_by_gateway += usize::from(pair.taken.fallback());
                if !world.names_one_that_is_gone(call, step) {
                    waiting.push(call);
                }
            }
        }
        let start = Instant::now();
        for call in waiting {
            let (pair, kind) = self.until_direct(world, step, call, start).await?;
            match (pair, kind) {
                (None, _) => outcome.figures.direct += 1,
                (Some(pair), Kind::NeverDirect) => {
                    let explained = self.explained(&pair).await;
                    if says_why(&explained) {
                        outcome.figures.explained += 1;
                    } else {
                        outcome
                            .faults
                            .push(fault(call, Kind::NeverDirect, pair, explained));
                    }
                }
                (Some(pair), kind) => {
                    let explained = self.explained(&pair).await;
                    outcome.faults.push(fault(call, kind, pair, explained));
                }
            }
        }
        Ok(())
    }

    /// Calls until the gateway is no longer in it. What came instead, if anything, and what is wrong with it.
    async fn until_direct(
        &self,
        world: &World,
        step: usize,
        call: &FuzzCall,
        start: Instant,
    ) -> Result<(Option<Pair>, Kind)> {
        loop {
            let Some(pair) = self.both(world, step, call).await? else {
                return Ok((None, Kind::Later));
            };
            if pair.differs() && pair.known().is_none() {
                return Ok((Some(pair), Kind::Later));
            }
            // What Istio itself passes through has no host to be learned.
            if !pair.taken.fallback() || !pair.judge_taken.uses("outbound|") {
                return Ok((None, Kind::Later));
            }
            if start.elapsed() > SOON {
                return Ok((Some(pair), Kind::NeverDirect));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The judge calls before and after the fenced caller. None if its own answers differ each time.
    async fn both(&self, world: &World, step: usize, call: &FuzzCall) -> Result<Option<Pair>> {
        for _ in 0..TRIES {
            let (before, judge_taken) = self.one(JUDGE, call).await?;
            let (fenced, taken) = self.one(CALLER, call).await?;
            let (after, _) = self.one(JUDGE, call).await?;
            if before == after {
                return Ok(Some(Pair {
                    judge: before,
                    judge_taken,
                    fenced,
                    taken,
                    way: Way {
                        forged: world.is_forged(call),
                        http2: call.url.starts_with("h2:"),
                        to_pod: call.url.contains("://{pod "),
                        changed: step > 0,
                        headless: world.is_headless(call),
                        ..Way::default()
                    },
                }));
            }
        }
        Ok(None)
    }

    async fn one(&self, from: &str, call: &FuzzCall) -> Result<(Answer, Taken)> {
        let call = call.call(|text| self.fill(text)).timeout(PATIENCE);
        let proxy = self.mesh.proxy(from)?;
        let (reply, taken) = proxy.watch(self.mesh.call(from, &call)).await?;
        Ok((Answer::of(&reply), taken))
    }

    /// What the controller says of the host that the judge's call went to.
    async fn explained(&self, pair: &Pair) -> Value {
        let cluster = pair
            .judge_taken
            .0
            .keys()
            .find(|cluster| cluster.starts_with("outbound|"));
        let host = cluster.and_then(|cluster| cluster.rsplit('|').next());
        match host {
            Some(host) => self
                .mesh
                .explain(CALLER, host)
                .await
                .unwrap_or_else(|error| format!("{error:#}").into()),
            None => Value::Null,
        }
    }
}

/// Whether the explanation says that the host is not in scope, and why although it was called.
fn says_why(explained: &Value) -> bool {
    let answer = explained["answer"].as_str().unwrap_or_default();
    explained["inScope"] == false && !answer.contains("no call to it was seen")
}
