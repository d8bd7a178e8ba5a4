//! One reason why a host is in a scope, said to a person.

use jiff::Timestamp;
use serde::Serialize;

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Because {
    /// Where it comes from: `Spec`, `AccessLog`, `Prometheus`, `Policy`, `Baseline`, `Protocol`, `Alias` or
    /// `Route`.
    pub source: &'static str,
    /// What exactly.
    pub detail: String,
    /// Since when, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When it was last seen, where calls are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// When it ends by itself: an entry of `allow`, or what was learned if no call is seen before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl Because {
    /// A reason without times.
    pub fn new(source: &'static str, detail: impl Into<String>) -> Self {
        Self {
            source,
            detail: detail.into(),
            since: None,
            last_seen: None,
            until: None,
        }
    }
}
