//! What istiod's own metrics tell: how slow it is, and whether it serves other clusters.
//!
//! Flows in: `pilot_proxy_convergence_time`, a histogram of seconds from a change to all of its proxies being
//! sent it, and `istiod_managed_clusters`, which counts clusters. Flows out: [`Change::Convergence`], which
//! lengthens the settle time of transitions while istiod is slow, and [`Change::RemoteClusters`], which keeps
//! fences from being enforced. An istiod that cannot be read changes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jiff::SignedDuration;
use tokio_util::bytes::Bytes;

use crate::fence::Change;
use crate::logging::with_causes;
use crate::readiness::Pending;
use crate::state::State;

const EVERY: Duration = Duration::from_secs(5);

/// Samples that the quantile looks back over: 30 seconds.
const SAMPLES: usize = 6;

/// No transition waits longer than this, however slow istiod is.
const LONGEST: SignedDuration = SignedDuration::from_secs(30);

const TIMEOUT: Duration = Duration::from_secs(3);
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Cumulative counts by upper bound in milliseconds.
type Buckets = BTreeMap<i64, f64>;

/// Tries to read after which an istiod that cannot be read holds up the controller no longer.
const FIRST_TRIES: u32 = 3;

/// Reads istiod's metrics at `url` for as long as the process runs. `first` is done once they were read, or
/// could not be read for a while.
pub async fn run(url: String, state: Arc<State>, first: Pending) {
    let mut first = Some(first);
    let mut samples = VecDeque::new();
    let mut failed = 0_u32;
    loop {
        match read(&url).await {
            Ok(text) => {
                failed = 0;
                state.apply(Change::RemoteClusters(has_remote_clusters(&text)));
                first.take();
                samples.push_back(buckets(&text));
                if samples.len() > SAMPLES {
                    samples.pop_front();
                }
                if let (Some(first), Some(last)) = (samples.front(), samples.back()) {
                    state.apply(Change::Convergence(slowest(first, last)));
                }
            }
            Err(error) => {
                if failed == 0 {
                    let error = with_causes(&*error);
                    tracing::warn!(
                        url,
                        error,
                        "istiod's metrics cannot be read: the settle time stays as set, and other clusters are not seen"
                    );
                }
                failed = failed.saturating_add(1);
                first.take_if(|_| failed >= FIRST_TRIES);
                samples.clear();
                state.apply(Change::Convergence(SignedDuration::ZERO));
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn read(url: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let text = async {
        let answer = client.get(url.parse()?).await?;
        if !answer.status().is_success() {
            return Err(format!("it answered {}", answer.status()).into());
        }
        let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    };
    tokio::time::timeout(TIMEOUT, text).await?
}

/// The values of a metric, each with that of one of its labels.
fn samples<'a>(text: &'a str, metric: &str, label: &str) -> impl Iterator<Item = (&'a str, f64)> {
    text.lines().filter_map(move |line| {
        let labels_and_value = line.strip_prefix(metric)?.strip_prefix('{')?;
        let (labels, value) = labels_and_value.split_once('}')?;
        let mut labels = labels.split(',').filter_map(|label| label.split_once('='));
        let (_, quoted) = labels.find(|(name, _)| *name == label)?;
        let of_label = quoted.strip_prefix('"')?.strip_suffix('"')?;
        Some((of_label, value.trim().parse().ok()?))
    })
}

/// Whether istiod says that it reads Services and pods of other clusters too.
fn has_remote_clusters(text: &str) -> bool {
    let mut counts = samples(text, "istiod_managed_clusters", "cluster_type");
    counts.any(|(kind, count)| kind == "remote" && count > 0.0)
}

fn buckets(text: &str) -> Buckets {
    let mut buckets = Buckets::new();
    for (bound, count) in samples(text, "pilot_proxy_convergence_time_bucket", "le") {
        let bound = match bound {
            "+Inf" => i64::MAX,
            #[allow(clippy::cast_possible_truncation, reason = "bounds are a few seconds")]
            number => match number.parse::<f64>() {
                Ok(seconds) => (seconds * 1000.0) as i64,
                Err(_) => continue,
            },
        };
        *buckets.entry(bound).or_default() += count;
    }
    buckets
}

/// The bound below which 99 % of the pushes between two samples stayed.
fn slowest(first: &Buckets, last: &Buckets) -> SignedDuration {
    // A counter that went back is of an istiod that started anew.
    let since = |bound: &i64, count: &f64| (count - first.get(bound).copied().unwrap_or(0.0)).max(0.0);
    let total = last
        .iter()
        .map(|(bound, count)| since(bound, count))
        .fold(0.0, f64::max);
    if total <= 0.0 {
        return SignedDuration::ZERO;
    }
    let bound = last
        .iter()
        .find(|(bound, count)| since(bound, count) >= 0.99 * total)
        .map(|(bound, _)| *bound);
    bound.map_or(LONGEST, |bound| SignedDuration::from_millis(bound).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"
pilot_proxy_convergence_time_bucket{le="0.1"} 100
pilot_proxy_convergence_time_bucket{le="1"} 100
pilot_proxy_convergence_time_bucket{le="3"} 100
pilot_proxy_convergence_time_bucket{le="+Inf"} 100
pilot_xds_pushes{type="cds"} 7
"#;

    fn after(fast: u32, one: u32, three: u32, all: u32) -> Buckets {
        buckets(&format!(
            "pilot_proxy_convergence_time_bucket{{le=\"0.1\"}} {fast}\n\
             pilot_proxy_convergence_time_bucket{{le=\"1\"}} {one}\n\
             pilot_proxy_convergence_time_bucket{{le=\"3\"}} {three}\n\
             pilot_proxy_convergence_time_bucket{{le=\"+Inf\"}} {all}\n"
        ))
    }

    #[test]
    fn only_recent_pushes_count() {
        let before = buckets(BEFORE);
        assert_eq!(slowest(&before, &before), SignedDuration::ZERO);
        assert_eq!(
            slowest(&before, &after(200, 200, 200, 200)),
            SignedDuration::from_millis(100)
        );
        assert_eq!(
            slowest(&before, &after(150, 160, 200, 200)),
            SignedDuration::from_secs(3)
        );
        assert_eq!(slowest(&before, &after(150, 150, 150, 200)), LONGEST);
    }

    #[test]
    fn other_clusters_are_seen() {
        let with = |remote: u32| {
            has_remote_clusters(&format!(
                "istiod_managed_clusters{{cluster_type=\"local\"}} 1\n\
                 istiod_managed_clusters{{cluster_type=\"remote\"}} {remote}\n"
            ))
        };
        assert!(with(2));
        assert!(!with(0) && !has_remote_clusters(BEFORE));
    }

    #[test]
    fn a_restarted_istiod_is_no_error() {
        assert_eq!(
            slowest(&buckets(BEFORE), &after(5, 5, 5, 5)),
            SignedDuration::ZERO
        );
    }
}
