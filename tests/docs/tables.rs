//! Tables of the documentation that are made from the code.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::CommandFactory as _;
use prometheus::Registry;
use serde_json::Value;
use servicefence::cli::Cli;
use servicefence::fence::Unattributed;
use servicefence::metrics::DESCRIBED;
use servicefence::source::als::AlsMetrics;
use servicefence::source::prometheus as prometheus_source;

use crate::chart;

/// A cell: a bar would end it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn code(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("`{text}`")
    }
}

/// The flags of `servicefence run`.
pub fn flags() -> String {
    let command = Cli::command();
    let run = command.find_subcommand("run");
    let run = run.unwrap_or_else(|| panic!("there is no command `run`"));
    let values = chart::values_of_flags();
    let mut table =
        "| flag | environment | default | chart value | meaning |\n| --- | --- | --- | --- | --- |\n"
            .to_owned();
    let mut flags = BTreeSet::new();
    for argument in run.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let long = argument.get_long().unwrap_or_default();
        flags.insert(long.to_owned());
        let environment = argument.get_env().unwrap_or_default().to_string_lossy();
        let default: Vec<_> = argument
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy())
            .collect();
        let mut help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let choices = argument.get_possible_values();
        if !choices.is_empty() {
            let choices: Vec<_> = choices
                .iter()
                .map(|choice| format!("`{}`", choice.get_name()))
                .collect();
            let _ = write!(help, ": {}", choices.join(" or "));
        }
        let value = match values.get(long).map(String::as_str) {
            Some(prose @ ("fixed" | "the release's namespace")) => prose.to_owned(),
            Some(path) => code(path),
            None => panic!("the chart's Deployment does not set --{long}"),
        };
        let _ = writeln!(
            table,
            "| `--{long}` | {} | {} | {value} | {} |",
            code(&environment),
            code(&default.join(",")),
            cell(&help),
        );
    }
    let unknown: Vec<_> = values.keys().filter(|flag| !flags.contains(*flag)).collect();
    assert!(
        unknown.is_empty(),
        "the chart sets flags that do not exist: {unknown:?}"
    );
    table
}

/// A metric.
pub struct Metric {
    pub name: String,
    kind: String,
    labels: String,
    help: String,
}

/// Every metric of ours, by name.
pub fn described_metrics() -> Vec<Metric> {
    let mut metrics: Vec<_> = DESCRIBED
        .iter()
        .chain(&prometheus_source::DESCRIBED)
        .map(|(name, kind, labels, help)| Metric {
            name: (*name).to_owned(),
            kind: (*kind).to_owned(),
            labels: (*labels).to_owned(),
            help: (*help).to_owned(),
        })
        .collect();
    for family in access_log_registry().gather() {
        let label = |metric: &prometheus::proto::Metric| {
            let labels: Vec<_> = metric
                .get_label()
                .iter()
                .map(prometheus::proto::LabelPair::name)
                .collect();
            labels.join(", ")
        };
        metrics.push(Metric {
            name: family.name().to_owned(),
            kind: format!("{:?}", family.get_field_type()).to_lowercase(),
            labels: family.get_metric().first().map(label).unwrap_or_default(),
            help: family.help().to_owned(),
        });
    }
    metrics.sort_by(|one, other| one.name.cmp(&other.name));
    metrics
}

fn access_log_registry() -> Registry {
    let registry = Registry::new();
    AlsMetrics::new(&registry).unwrap_or_else(|error| panic!("the metrics of the intake: {error}"));
    registry
}

/// Every metric of ours.
pub fn metrics() -> String {
    let mut table = "| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for metric in described_metrics() {
        let labels: Vec<_> = metric.labels.split(", ").map(code).collect();
        let Metric { name, kind, help, .. } = metric;
        let _ = writeln!(
            table,
            "| `{name}` | {kind} | {} | {} |",
            labels.join(", "),
            cell(&help)
        );
    }
    table
}

/// The values that the labels of the intake's metrics can have.
pub fn metric_values() -> String {
    let mut table = "| metric | label | values |\n| --- | --- | --- |\n".to_owned();
    for family in access_log_registry().gather() {
        let mut values = BTreeSet::new();
        let mut label = String::new();
        for pair in family
            .get_metric()
            .iter()
            .flat_map(prometheus::proto::Metric::get_label)
        {
            pair.name().clone_into(&mut label);
            values.insert(pair.value().to_owned());
        }
        if family.name() == "servicefence_access_log_ignored_total" {
            values.extend(unattributed().map(|why| why.as_str().to_owned()));
        }
        if !values.is_empty() {
            let values: Vec<_> = values.iter().map(|value| code(value)).collect();
            let _ = writeln!(
                table,
                "| `{}` | `{label}` | {} |",
                family.name(),
                values.join(", ")
            );
        }
    }
    table
}

/// Every reason for which a well-formed miss teaches nothing; the match makes a new one fail here.
fn unattributed() -> [Unattributed; 6] {
    use Unattributed::{Denied, ListFull, NotFenced, NotMesh, SourceOff, UnknownPod};
    match UnknownPod {
        UnknownPod | NotFenced | NotMesh | Denied | SourceOff | ListFull => {
            [UnknownPod, NotFenced, NotMesh, Denied, SourceOff, ListFull]
        }
    }
}

/// The fields of a ServiceFence, as `kubectl explain` shows them.
pub fn fields(crd: &str) -> String {
    let crd: Value =
        serde_saphyr::from_str(crd).unwrap_or_else(|error| panic!("the CRD is not YAML: {error}"));
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut table = "| field | type | meaning |\n| --- | --- | --- |\n".to_owned();
    for part in ["spec", "status"] {
        add_fields(&schema[part], part, &mut table);
    }
    table
}

fn add_fields(schema: &Value, path: &str, table: &mut String) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let (path, of) = match field["type"].as_str() {
            Some("array") => (format!("{path}[]"), &field["items"]),
            _ => (path, field),
        };
        // Conditions are Kubernetes' own type: `kubectl explain` has its fields.
        let own = name != "conditions";
        let choices = of["enum"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        let choices: Vec<_> = choices.map(code).collect();
        let kind = match (choices.is_empty(), of["format"].as_str(), of["type"].as_str()) {
            (false, ..) => choices.join(", "),
            (true, Some(format @ ("date-time" | "int32" | "int64")), _) => format.to_owned(),
            (true, _, kind) => kind.unwrap_or_default().to_owned(),
        };
        let meaning = cell(field["description"].as_str().unwrap_or_default());
        let _ = writeln!(table, "| `{path}` | {kind} | {meaning} |");
        if own {
            add_fields(of, &path, table);
        }
    }
}
