//! The values of the chart, as their comments describe them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::page::read;

/// A value of the chart with a comment that starts with `# -- `.
pub struct Described {
    /// Its keys, joined by dots.
    pub path: String,
    /// What the comment says.
    pub comment: String,
    /// Its default, as JSON.
    pub default: String,
}

/// The described values, in the order of the file.
pub fn values() -> Vec<Described> {
    let text = read("charts/servicefence/values.yaml");
    let values: Value =
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("values.yaml is not YAML: {error}"));
    let mut described = Vec::new();
    let mut keys: Vec<(usize, &str)> = Vec::new();
    let mut comment = None;
    for line in text.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if let Some(text) = content.strip_prefix("# -- ") {
            comment = Some(text.to_owned());
            continue;
        }
        let Some((key, _)) = content.split_once(':') else {
            continue;
        };
        keys.retain(|(outer, _)| *outer < indent);
        keys.push((indent, key));
        if let Some(comment) = comment.take() {
            let path: Vec<_> = keys.iter().map(|(_, key)| *key).collect();
            let default = path.iter().fold(&values, |value, key| &value[*key]);
            described.push(Described {
                default: default.to_string(),
                path: path.join("."),
                comment,
            });
        }
    }
    described
}

/// The table of the chart's README.
pub fn table() -> String {
    let mut table = "| key | default | description |\n| --- | --- | --- |\n".to_owned();
    for value in values() {
        let Described {
            path,
            default,
            comment,
        } = value;
        let _ = writeln!(table, "| `{path}` | `{default}` | {comment} |");
    }
    table
}

/// The descriptions in the chart's schema, by the same paths.
pub fn descriptions(schema: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    describe(schema, "", &mut found);
    found
}

fn describe(schema: &Value, path: &str, found: &mut BTreeMap<String, String>) {
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        if let Some(text) = property["description"].as_str() {
            found.insert(path.clone(), text.to_owned());
        }
        describe(property, &path, found);
    }
}

/// The value of the chart that sets each flag of the controller, from the Deployment's arguments.
pub fn values_of_flags() -> BTreeMap<String, String> {
    let template = read("charts/servicefence/templates/controller/deployment.yaml");
    let mut range = None;
    let mut found = BTreeMap::new();
    for line in template.lines().map(str::trim) {
        if let Some(list) = line.strip_prefix("{{- range .Values.") {
            range = list.strip_suffix(" }}");
        }
        let plain = line.strip_prefix("- --");
        // Quoted, since it may hold what YAML would read otherwise.
        let argument = plain.or_else(|| line.strip_prefix("- {{ printf \"--"));
        let Some((flag, argument)) = argument.and_then(|line| line.split_once('=')) else {
            continue;
        };
        let value = match argument {
            "{{ . }}" | "%s\" . | quote }}" => range,
            // Made of several values. This one is the operator's.
            "{{ include \"servicefence.istiodMetricsUrl\" . }}" => Some("istio.metricsUrl"),
            "{{ include \"servicefence.meshConfigMap\" . }}" => Some("istio.meshConfigMap"),
            "%s=%s\" $alias.pattern . | replace \"$\" \"$$\" | quote }}" => Some("aliases"),
            "%s=%s\" $name $value | quote }}" => Some("prometheus.headers"),
            "%s\" (.Values.namespaceSelector | toJson) | quote }}" => Some("namespaceSelector"),
            "%s\" .Values.prometheus.username | quote }}" => Some("prometheus.username"),
            file if file.starts_with("/etc/servicefence/prometheus/") => Some("prometheus.secretKeys"),
            "$(POD_NAMESPACE)" => Some("the release's namespace"),
            other => match other.strip_prefix("{{ .Values.") {
                Some(path) => path.strip_suffix(" }}"),
                None => Some("fixed"),
            },
        };
        let value = value.unwrap_or_else(|| panic!("deployment.yaml: cannot read the argument {line}"));
        found.insert(flag.to_owned(), value.to_owned());
    }
    found
}

/// All files of a folder and its folders, each with its path.
pub fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let text =
                fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            found.push((path, text));
        }
    }
    found
}
