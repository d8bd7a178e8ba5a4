//! The learned list of a fence, with what was seen.

use servicefence_crd::LearnedHost;

use crate::learn::observation::{Observation, Period};
use crate::time::seconds;
use crate::workloads::{Expiry, MOST_LEARNED};

/// A learned list with observations added, sorted by host; `None` where they say nothing that is worth a
/// write. A write carries all that is known by then.
pub fn learn<'a>(
    learned: &[LearnedHost],
    expiry: Expiry,
    seen: impl IntoIterator<Item = (&'a Observation, Period)>,
) -> Option<Vec<LearnedHost>> {
    let mut list = learned.to_vec();
    let mut changed = false;
    for (observation, period) in seen {
        let period = Period {
            first: seconds(period.first),
            last: seconds(period.last),
        };
        let host = &observation.host;
        if let Some(known) = list.iter_mut().find(|known| *known.host == *host.name) {
            if !known.sources.contains(&observation.source) {
                known.sources.push(observation.source);
                known.sources.sort_unstable();
                changed = true;
            }
            changed |= period.last.duration_since(known.last_seen) >= expiry.lag();
            known.first_seen = known.first_seen.min(period.first);
            known.last_seen = known.last_seen.max(period.last);
        } else if list.len() < MOST_LEARNED {
            list.push(LearnedHost {
                host: host.name.to_string(),
                namespace: host.namespace.to_string(),
                sources: vec![observation.source],
                first_seen: period.first,
                last_seen: period.last,
            });
            changed = true;
        }
    }
    list.sort_by(|one, other| one.host.cmp(&other.host));
    changed.then_some(list)
}
