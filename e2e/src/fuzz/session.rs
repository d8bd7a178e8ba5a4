//! A run over many seeds: plays them, reduces what is faulty, and writes it down.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::fault::{Fault, Kind};
use super::reduce::shrink;
use super::run::{Figures, Outcome};
use super::stage::Stage;
use super::world::{Change, World};

/// So many worlds may be stuck before a session ends.
const MOST_STUCK: usize = 5;

/// How to play.
#[derive(Clone, Debug)]
pub struct Plan {
    /// No world begins after this time.
    pub time: Duration,
    /// Whether faults are reduced, which takes a minute or two for each.
    pub reduce: bool,
    /// Where reduced worlds go, one file for each seed.
    pub folder: PathBuf,
}

/// Plays worlds. `say` is told what is found, as it is found.
pub async fn session(
    stage: &mut Stage,
    worlds: impl Iterator<Item = World>,
    plan: &Plan,
    mut say: impl FnMut(&str),
) -> Result<(Figures, Vec<Fault>)> {
    let start = Instant::now();
    let (mut figures, mut faults) = (Figures::default(), Vec::new());
    for world in worlds {
        if start.elapsed() > plan.time {
            break;
        }
        let seed = world.seed;
        let outcome = match stage.play(&world).await {
            Ok(outcome) => outcome,
            Err(error) => {
                say(&format!("stuck in seed {seed}: {error:#}"));
                figures.stuck += 1;
                ensure!(figures.stuck < MOST_STUCK, "{figures}; the last one: {error:#}");
                continue;
            }
        };
        for why in &outcome.refused {
            say(&format!("refused in seed {seed}: {why}"));
        }
        for (known, fault) in &outcome.known {
            if !figures.known.contains_key(known) {
                say(&format!("{known}: {fault}"));
            }
        }
        for fault in &outcome.faults {
            say(&fault.to_string());
        }
        figures.add(outcome.figures);
        say(&format!(
            "[{:.1} min] seed {seed}: {} faults; so far {figures}",
            start.elapsed().as_secs_f64() / 60.0,
            outcome.faults.len()
        ));
        if let Some(fault) = outcome.faults.iter().max_by_key(|fault| fault.gravity()) {
            let small = if plan.reduce {
                reduced(stage, &world, fault).await?
            } else {
                cut(&world, fault)
            };
            say(&format!(
                "kept in {}",
                keep(&plan.folder, &small, fault)?.display()
            ));
        }
        faults.extend(outcome.faults);
    }
    Ok((figures, faults))
}

/// Without what came after the fault.
fn cut(world: &World, fault: &Fault) -> World {
    let mut world = world.clone();
    world.changes.truncate(fault.step);
    world
}

/// The smallest world that was found with the same call and kind of fault.
async fn reduced(stage: &mut Stage, world: &World, fault: &Fault) -> Result<World> {
    let mut small = cut(world, fault);
    let others: Vec<_> = small
        .calls
        .iter()
        .filter(|call| **call != fault.call)
        .cloned()
        .collect();
    let needed = async |stage: &mut Stage, world: &World| {
        // A world without what it needs may not even settle, and is no answer then.
        let outcome = stage.play(world).await.unwrap_or_else(|_| Outcome::default());
        Ok::<_, anyhow::Error>(outcome.faults.iter().any(|found| is_same(found, fault)))
    };
    let base = small.clone();
    let calls = shrink(others, async |part| {
        let mut calls = part.to_vec();
        calls.push(fault.call.clone());
        let world = World {
            calls,
            ..base.clone()
        };
        needed(stage, &world).await
    })
    .await?;
    small.calls = calls;
    small.calls.push(fault.call.clone());
    let base = small.clone();
    let changes: Vec<Change> = shrink(small.changes, async |part| {
        let changes = part.to_vec();
        needed(
            stage,
            &World {
                changes,
                ..base.clone()
            },
        )
        .await
    })
    .await?;
    small.changes = changes;
    let base = small.clone();
    small.objects = shrink(small.objects, async |part| {
        let objects = part.to_vec();
        needed(
            stage,
            &World {
                objects,
                ..base.clone()
            },
        )
        .await
    })
    .await?;
    Ok(small)
}

fn is_same(one: &Fault, other: &Fault) -> bool {
    let direct = |fault: &Fault| fault.kind == Kind::NeverDirect;
    one.call == other.call && direct(one) == direct(other) && one.fenced.outcome == other.fenced.outcome
}

/// Writes a faulty world down, with both answers as comments.
fn keep(folder: &Path, world: &World, fault: &Fault) -> Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("{}.yaml", world.seed));
    let said: Vec<String> = fault
        .to_string()
        .lines()
        .map(|line| format!("# {line}"))
        .collect();
    fs::write(&path, said.join("\n") + "\n" + &world.yaml()?)?;
    Ok(path)
}
