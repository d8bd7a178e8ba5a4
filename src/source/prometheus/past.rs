//! The past of fences, read piece by piece from now backward.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::client::{Client, Found, Gapless, QueryError};
use super::{Calls, LATE};
use crate::fence::name::{FenceKey, Name};
use crate::fence::{
    BackfillProgress, CallHistories, CallHistory, Change, Counted, MOST_SILENT, Told, ToldBy, Traffic,
};
use crate::state::State;

/// A piece. Smaller ones tell better when a host was called, bigger ones cost fewer queries.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// The smallest piece, for servers to which bigger ones are too much.
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// How often waiting fences are told how far it is: each time is a write to each of them.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// A reading of the past.
pub(super) struct Backfill {
    /// The fences that are read.
    pub(super) fences: BTreeSet<FenceKey>,
    /// Whether any of them waits for it.
    pub(super) is_waited_for: bool,
    /// What was found so far.
    pub(super) found: Calls,
    /// Why it does not go on.
    pub(super) trouble: Option<String>,
    end: Timestamp,
    /// For how long before the end there are metrics without a gap; it grows while `is_gapless`.
    gapless: SignedDuration,
    is_gapless: bool,
    /// The same of bytes.
    counted: SignedDuration,
    is_counted: bool,
    /// Until when connections of a fence, or their bytes, were left out at least.
    uncounted: BTreeMap<FenceKey, Timestamp>,
    /// The newest moment at which metrics told of a fence, and since when they did again and again.
    told: BTreeMap<FenceKey, (Timestamp, Timestamp)>,
    /// The same of each of its workloads.
    told_by: BTreeMap<FenceKey, BTreeMap<Name, ToldBy>>,
    read: SignedDuration,
    of: SignedDuration,
    piece: SignedDuration,
    said: Instant,
}

impl Backfill {
    pub(super) fn new(
        fences: BTreeSet<FenceKey>,
        is_waited_for: bool,
        end: Timestamp,
        of: SignedDuration,
    ) -> Self {
        Self {
            fences,
            is_waited_for,
            found: Calls::new(),
            trouble: None,
            end,
            gapless: SignedDuration::ZERO,
            is_gapless: true,
            counted: SignedDuration::ZERO,
            is_counted: true,
            uncounted: BTreeMap::new(),
            told: BTreeMap::new(),
            told_by: BTreeMap::new(),
            read: SignedDuration::ZERO,
            of,
            piece: DAY,
            said: Instant::now(),
        }
    }

    /// How far it is.
    pub(super) fn progress(&self) -> BackfillProgress {
        BackfillProgress {
            read: self.read,
            of: self.of,
            trouble: self.trouble.clone(),
        }
    }

    /// Whether all of it was read.
    pub(super) fn is_complete(&self) -> bool {
        self.read >= self.of
    }

    /// What is known of each fence once it is complete, with what is about to be stored.
    pub(super) fn known(&self, traffic: &Traffic) -> CallHistories {
        let gapless_since = self.end - self.gapless;
        let of_fence = |fence: &FenceKey| {
            let (told, since) = self
                .told
                .get(fence)
                .copied()
                .unwrap_or((Timestamp::UNIX_EPOCH, self.end));
            let known_since = gapless_since.max(since);
            let uncounted = self.uncounted.get(fence).copied().unwrap_or(known_since);
            CallHistory {
                unstored: BTreeMap::new(),
                known_since,
                connections_known_since: known_since.max(self.end - self.counted).max(uncounted),
                told,
                told_by: self.told_by.get(fence).cloned().unwrap_or_default(),
            }
        };
        let mut known: CallHistories = self
            .fences
            .iter()
            .map(|fence| (fence.clone(), of_fence(fence)))
            .collect();
        for (seen, period) in &traffic.observations {
            if let Some(past) = known.get_mut(&seen.fence) {
                past.unstored.insert(seen.host.name.clone(), period.last);
            }
        }
        known
    }

    /// Reads one more piece. After an error it goes on where it was; a piece with a warning was not read.
    pub(super) async fn read_on(&mut self, client: &Client, state: &State) -> Result<(), QueryError> {
        let piece = self.piece.min(self.of - self.read);
        let (answer, gapless, counted) = match self.piece(client, piece).await {
            Err(error) if error.is_too_much() && piece > HOUR => {
                self.piece = (piece / 2).max(HOUR);
                return Ok(());
            }
            answer => answer?,
        };
        let traffic = state
            .engine()
            .learn_from_calls(&answer.found, Some(&self.fences), self.end);
        for (call, period) in answer.found {
            self.found
                .entry(call)
                .and_modify(|known| *known = known.and(period))
                .or_insert(period);
        }
        if let Some(warning) = answer.warning {
            return Err(QueryError::Partial(warning));
        }
        self.note_told(traffic.told, piece);
        self.trouble = None;
        self.is_gapless &= gapless.calls;
        if self.is_gapless {
            self.gapless += piece;
        }
        self.is_counted &= gapless.bytes;
        if self.is_counted {
            self.counted += piece;
        }
        let uncounted = counted.map(|counted| state.engine().uncounted(&counted));
        let end = self.end - self.read;
        for fence in uncounted.into_iter().flatten() {
            // Pieces are read backward: the first is the newest.
            self.uncounted.entry(fence).or_insert(end);
        }
        self.read += piece;
        if self.said.elapsed() >= TELL_EVERY {
            self.said = Instant::now();
            state.apply(Change::History(self.progress()));
        }
        Ok(())
    }

    fn note_told(&mut self, told: Told, piece: SignedDuration) {
        let (begin, end) = (self.end - self.read - piece, self.end - self.read);
        for (fence, workloads) in told {
            let told_by = self.told_by.entry(fence.clone()).or_default();
            for workload in workloads {
                let known = told_by.entry(workload).or_insert(ToldBy {
                    since: end,
                    last: end,
                });
                if known.since.duration_since(end) <= MOST_SILENT {
                    known.since = begin;
                }
            }
            let (_, since) = self.told.entry(fence).or_insert((end, end));
            if since.duration_since(end) <= MOST_SILENT {
                *since = begin;
            }
        }
    }

    /// What was called in a piece, whether there are metrics all through it, and the workloads with
    /// connections that they leave out.
    async fn piece(
        &self,
        client: &Client,
        piece: SignedDuration,
    ) -> Result<(Found, Gapless, Option<Counted>), QueryError> {
        const NOTHING: Gapless = Gapless {
            calls: false,
            bytes: false,
        };
        let clock = client.clock().await?;
        clock.check()?;
        let namespaces: BTreeSet<Name> = self.fences.iter().map(|fence| fence.namespace.clone()).collect();
        let end = self.end - self.read;
        // A little more, since between the last sample of a piece and the first of the next a counter may
        // grow too.
        let mut found = client.calls(&clock, end, piece + LATE, &namespaces).await?;
        if !self.is_gapless {
            return Ok((found, NOTHING, None));
        }
        let gapless = match client.gapless(&clock, end, piece).await {
            // What is not known counts as a gap. No fence waits for it.
            Err(error) if error.is_too_much() && piece <= HOUR => NOTHING,
            gapless => gapless?,
        };
        if !self.is_counted || !gapless.bytes {
            return Ok((found, gapless, None));
        }
        let (counted, warning) = client.counted(&clock, end, piece + LATE, &namespaces).await?;
        found.warning = found.warning.or(warning);
        Ok((found, gapless, Some(counted)))
    }
}
