//! A label selector, as the chart writes it into a flag.

use std::collections::BTreeMap;

use serde::Deserialize;
use servicefence_crd::{Operator, Requirement, Selector};

/// A LabelSelector as written. A field that is not one would otherwise count as absent, and a selector
/// without fields matches everything.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<Requirement>,
}

/// Reads a LabelSelector of Kubernetes, as JSON.
pub(super) fn selector(text: &str) -> Result<Selector, String> {
    let written: Written = serde_json::from_str(text).map_err(|error| {
        format!(r#"{text} is not a LabelSelector ({error}): write {{"matchLabels":{{"team":"a"}}}}"#)
    })?;
    let takes_values = |one: &Requirement| matches!(one.operator, Operator::In | Operator::NotIn);
    let wrong = |one: &&Requirement| takes_values(one) == one.values.is_empty();
    if let Some(one) = written.match_expressions.iter().find(wrong) {
        return Err(format!(
            "{text} has a requirement for label {} that cannot be met: In and NotIn need values, Exists and DoesNotExist take none",
            one.key
        ));
    }
    Ok(Selector {
        match_labels: written.match_labels,
        match_expressions: written.match_expressions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(text: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let labels: BTreeMap<_, _> = labels.collect();
        selector(text).unwrap().matches(|label| labels.get(label))
    }

    #[test]
    fn labels_are_matched_as_kubernetes_does() {
        assert!(matches("{}", &[]));
        let team = r#"{"matchLabels":{"team":"a"}}"#;
        assert!(matches(team, &[("team", "a"), ("env", "prod")]));
        assert!(!matches(team, &[("team", "b")]));
        let all = r#"{"matchLabels":{"team":"a"},"matchExpressions":[{"key":"env","operator":"In","values":["prod"]},{"key":"old","operator":"DoesNotExist"}]}"#;
        assert!(matches(all, &[("team", "a"), ("env", "prod")]));
        assert!(!matches(all, &[("team", "a"), ("env", "prod"), ("old", "")]));
    }

    #[test]
    fn a_selector_that_is_none_says_what_to_write() {
        for (text, said) in [
            ("team=a", "is not a LabelSelector (expected"),
            ("", r#"write {"matchLabels":{"team":"a"}}"#),
            (r#"{"matchLabel":{"team":"a"}}"#, "unknown field `matchLabel`"),
            (
                r#"{"matchExpressions":[{"key":"env","operator":"Is","values":["a"]}]}"#,
                "unknown variant `Is`",
            ),
            (
                r#"{"matchExpressions":[{"key":"env","operator":"In"}]}"#,
                "label env that cannot be met: In and NotIn need values",
            ),
            (
                r#"{"matchExpressions":[{"key":"env","operator":"Exists","values":["a"]}]}"#,
                "Exists and DoesNotExist take none",
            ),
        ] {
            let error = selector(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
