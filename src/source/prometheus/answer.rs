//! What the server answers: <https://prometheus.io/docs/prometheus/latest/querying/api/#format-overview>.

use std::borrow::Cow;
use std::collections::HashMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::QueryError;
use crate::fence::name::Name;
use crate::fence::{Call, Teller};

/// So much of what the server says goes into conditions and logs.
const MOST_TEXT: usize = 200;

/// The envelope. What is not named here is not needed; infos are hints about the query, no defects of the
/// answer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer<'a> {
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<Data<'a>>,
    #[serde(default)]
    error_type: Option<String>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Data<'a> {
    #[serde(borrow)]
    result_type: Cow<'a, str>,
    #[serde(borrow)]
    result: Vec<Sample<'a>>,
}

/// One element of an instant vector.
#[derive(Deserialize)]
pub(super) struct Sample<'a> {
    #[serde(borrow)]
    metric: HashMap<Cow<'a, str>, Cow<'a, str>>,
    value: (f64, Cow<'a, str>),
}

impl<'a> Answer<'a> {
    /// Reads an answer. That there is none, or none of the right kind, is an error, never an empty list.
    pub(super) fn read(body: &'a [u8], status: u16) -> Result<(Vec<Sample<'a>>, Option<String>), QueryError> {
        let answer: Answer<'a> = match serde_json::from_slice(body) {
            Ok(answer) => answer,
            Err(_) if !(200..300).contains(&status) => return Err(QueryError::Status(status)),
            Err(error) => return Err(QueryError::Unreadable(error)),
        };
        if answer.status != "success" {
            return Err(QueryError::Refused {
                kind: answer.error_type.unwrap_or_default(),
                message: answer.error.unwrap_or_default().chars().take(MOST_TEXT).collect(),
            });
        }
        match answer.data {
            Some(data) if data.result_type == "vector" => {
                let warning = answer.warnings.into_iter().next();
                let cut = warning.map(|warning| warning.chars().take(MOST_TEXT).collect());
                Ok((data.result, cut))
            }
            _ => Err(QueryError::NoVector),
        }
    }
}

impl Sample<'_> {
    /// The time of the evaluation, by the server's clock.
    pub(super) fn at(&self) -> Option<Timestamp> {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "a time in milliseconds is far smaller"
        )]
        Timestamp::from_millisecond((self.value.0 * 1000.0) as i64).ok()
    }

    /// Whether it has a label.
    pub(super) fn has(&self, label: &str) -> bool {
        !self.label(label).is_empty()
    }

    /// Its value.
    pub(super) fn number(&self) -> Option<f64> {
        self.value.1.parse().ok()
    }

    /// The value of a label; empty where there is none.
    pub(super) fn label(&self, name: &str) -> &str {
        self.metric.get(name).map_or("", |value| &**value)
    }

    /// The workload that the series is of; `None` where the series names another namespace, or none.
    pub(super) fn teller(&self, namespace_label: &str) -> Option<Teller> {
        let claimed = self.label("source_workload_namespace");
        if !namespace_label.is_empty() && self.label(namespace_label) != claimed {
            return None;
        }
        Some(Teller {
            namespace: claimed.into(),
            workload: self.label("source_workload").into(),
            app: self.label("source_app").into(),
            version: self.label("source_version").into(),
            canonical: self.label("source_canonical_service").into(),
        })
    }

    /// Who called whom.
    pub(super) fn call(&self, namespace_label: &str) -> Option<Call> {
        Some(Call {
            from: self.teller(namespace_label)?,
            host: Name::from(self.label("destination_service")),
        })
    }
}
