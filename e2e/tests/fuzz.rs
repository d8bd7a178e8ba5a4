//! A bounded run of the fuzzer from fixed seeds: a fenced caller gets the answers that an unscoped one gets.
//! `make fuzz` goes on for hours.

use std::time::Duration;

use anyhow::{Result, ensure};
use servicefence_e2e::fuzz::{Plan, Stage, generate, session};
use servicefence_e2e::tools::{can_run, repository};

/// How many of a hundred objects may be refused: a refused one tests nothing.
const MOST_REFUSED: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_caller_gets_the_answers_of_an_unscoped_one() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut stage = Stage::start().await?;
    let plan = Plan {
        time: Duration::from_secs(150),
        reduce: false,
        folder: repository().join("target/fuzz"),
    };
    let worlds = (1000..1012).map(generate);
    let (figures, faults) = session(&mut stage, worlds, &plan, |line| {
        println!("{line}");
    })
    .await?;
    ensure!(figures.worlds > 3, "too few for a test: {figures}");
    ensure!(
        figures.refused * 100 <= figures.objects * MOST_REFUSED,
        "too many are refused: {figures}"
    );
    ensure!(figures.stuck == 0, "the mesh did not come to rest: {figures}");
    ensure!(
        figures.first_by_gateway > 0 && figures.direct > 0,
        "nothing was learned: {figures}"
    );
    ensure!(
        faults.is_empty(),
        "{} faults, the first: {}",
        faults.len(),
        faults[0]
    );
    Ok(())
}
