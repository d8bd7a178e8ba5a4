//! What was written to the API server, counted by the API server itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Serialize, Serializer};

use crate::mesh::Mesh;
use crate::wait::{LONG, until};

/// How long nothing may have been written for the mesh to count as quiet.
const QUIET: Duration = Duration::from_secs(4);

/// Requests that write, by `resource` and verb.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes(BTreeMap<(String, String), u64>);

impl Writes {
    /// All so far: Istio's objects, ours, Services and Events. Leases, pods and the rest are not the
    /// controller's.
    pub async fn so_far(mesh: &Mesh) -> Result<Self> {
        let text = mesh
            .client()
            .request_text(http::Request::get("/metrics").body(Vec::new())?)
            .await?;
        let mut writes = Self::default();
        for line in text
            .lines()
            .filter(|line| line.starts_with("apiserver_request_total{"))
        {
            let (labels, count) = line.rsplit_once(' ').context("a sample without value")?;
            let is = |name| label(labels, name);
            let ours = match is("group") {
                "networking.istio.io" | "telemetry.istio.io" | "servicefence.io" | "events.k8s.io" => true,
                "" => matches!(is("resource"), "services" | "events"),
                _ => false,
            };
            if ours
                && matches!(
                    is("verb"),
                    "POST" | "PUT" | "PATCH" | "APPLY" | "DELETE" | "DELETECOLLECTION"
                )
            {
                let key = (is("resource").to_owned(), is("verb").to_owned());
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a counter of requests is a small whole number"
                )]
                let count = count.parse::<f64>()? as u64;
                *writes.0.entry(key).or_default() += count;
            }
        }
        Ok(writes)
    }

    /// All so far, once nothing more is written.
    pub async fn at_rest(mesh: &Mesh) -> Result<Self> {
        until("the mesh to be quiet", LONG, async || {
            let before = Self::so_far(mesh).await?;
            tokio::time::sleep(QUIET).await;
            let more = Self::so_far(mesh).await?.since(&before);
            ensure!(more.0.is_empty(), "there still are writes: {more}");
            Ok(before)
        })
        .await
    }

    /// Those that are not in an earlier count.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let more = self.0.iter().filter_map(|(key, count)| {
            let more = count - before.0.get(key).copied().unwrap_or_default();
            (more > 0).then(|| (key.clone(), more))
        });
        Self(more.collect())
    }

    /// Those but the ones to Events.
    #[must_use]
    pub fn without_events(mut self) -> Self {
        self.0.retain(|(resource, _), _| resource != "events");
        self
    }

    /// Those but the ones of a verb to a resource.
    #[must_use]
    pub fn without(mut self, resource: &str, verb: &str) -> Self {
        self.0.remove(&(resource.to_owned(), verb.to_owned()));
        self
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many to a resource.
    pub fn to(&self, resource: &str) -> u64 {
        let all = self.0.iter().filter(|((is, _), _)| is == resource);
        all.map(|(_, count)| count).sum()
    }

    /// How many of a verb to a resource.
    pub fn of(&self, resource: &str, verb: &str) -> u64 {
        let key = (resource.to_owned(), verb.to_owned());
        self.0.get(&key).copied().unwrap_or_default()
    }
}

/// As `{"APPLY sidecars": 5}`.
impl Serialize for Writes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = self.0.iter();
        serializer.collect_map(all.map(|((resource, verb), count)| (format!("{verb} {resource}"), count)))
    }
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0.iter();
        let all: Vec<_> = all
            .map(|((resource, verb), count)| format!("{count} {verb} {resource}"))
            .collect();
        write!(f, "[{}]", all.join(", "))
    }
}

/// The value of a label. The comma or bracket before it tells `resource` from `subresource`.
fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let value = [",", "{"].iter().find_map(|before| {
        let start = labels.find(&format!("{before}{name}=\""))?;
        labels[start..].split('"').nth(1)
    });
    value.unwrap_or_default()
}
