//! What one stream does with its messages.
//!
//! In: the bytes of one message after another. Out: misses that this stream has not seen, handed to the
//! [`Sink`], and counters. The path of a known call is: read in place, look up in the stream's own cache, add
//! one to a local number. It takes no lock, allocates nothing and makes no call.

use std::sync::Arc;

use super::known::{Call, Known, KnownCalls};
use super::metrics::{MALFORMED_ENTRY, Tally};
use super::refusal::{Refusal, check_gateway, check_sidecar};
use super::wire::{self, Entry, Part, Text};
use super::{Outcome, Reporters, Shared, Sink};
use crate::fence::miss::{Miss, Reject};
use crate::source::als::excerpt::Excerpt;

/// The state of one stream.
///
/// The gRPC server feeds it; benches feed it directly.
#[derive(Debug)]
pub struct Intake<S> {
    shared: Arc<Shared<S>>,
    node: Option<String>,
    /// The identity that the stream's certificate proves.
    peer: Option<String>,
    /// The pod that makes the calls, as `namespace/pod`, where the sender reports its own.
    own_pod: Option<String>,
    /// The destination of the entry in hand, written here; it keeps its capacity.
    destination: Vec<u8>,
    /// The sink's epoch when `known` was filled.
    epoch: u64,
    known: KnownCalls,
}

impl<S: Sink> Intake<S> {
    pub(super) fn new(shared: Arc<Shared<S>>, peer: Option<String>) -> Self {
        let known = KnownCalls::new(shared.settings.known_calls_per_stream);
        Self {
            epoch: shared.sink.epoch(),
            node: None,
            peer,
            own_pod: None,
            destination: Vec::new(),
            known,
            shared,
        }
    }

    /// Takes one `StreamAccessLogsMessage`.
    ///
    /// An error ends the stream. Entries before a malformed byte count, since each stands for itself.
    pub fn take(&mut self, message: &[u8]) -> Result<(), Refusal> {
        if self.node.is_none() {
            // Looked for ahead of the entries: they may stand in front of it, and count only if it is right.
            let id = wire::node_id(message)?
                .filter(|id| !id.is_empty())
                .ok_or(Refusal::MissingIdentifier)?;
            let node = match &self.shared.settings.reporters {
                Reporters::Gateway(namespace) => check_gateway(id, namespace)?,
                Reporters::Sidecars => {
                    let (node, pod) = check_sidecar(id, self.peer.as_deref())?;
                    self.own_pod = Some(pod);
                    node
                }
            };
            tracing::debug!(node, "access-log stream opened");
            self.node = Some(node.to_owned());
        }
        // Read before any call is judged: a change that comes in between moves it, and the next message sees
        // that.
        let epoch = self.shared.sink.epoch();
        if epoch != self.epoch {
            self.known.clear();
            self.epoch = epoch;
        }
        let mut tally = Tally::default();
        let read = wire::parts(message, |part| match part {
            Part::Http(entry) if self.own_pod.is_some() => self.own_entry(entry, &mut tally),
            Part::Http(entry) => self.entry(entry, &mut tally),
            Part::Tcp(_) => tally.tcp += 1,
        });
        self.shared.metrics.count_message(message.len(), tally);
        Ok(read?)
    }

    /// The node that sends this stream, once it has said so.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    fn entry(&mut self, bytes: &[u8], tally: &mut Tally) {
        let entry = match Entry::read(bytes) {
            Ok(entry) => entry,
            Err(malformed) => {
                tally.rejected += 1;
                return self.complain(MALFORMED_ENTRY, &malformed, None);
            }
        };
        let call = match call(&entry) {
            Ok(call) => call,
            Err(reject) => {
                tally.rejected += 1;
                return self.complain(reject.category(), &reject, None);
            }
        };
        self.count(&call, tally);
    }

    /// An entry of a sidecar about its own pod: of it only the address counts that was dialled.
    fn own_entry(&mut self, bytes: &[u8], tally: &mut Tally) {
        let mut destination = std::mem::take(&mut self.destination);
        let pod = self.own_pod.take().unwrap_or_default();
        let peer = self.peer.take().unwrap_or_default();
        match wire::write_local_address(bytes, &mut destination) {
            Ok(true) => {
                let call = Call {
                    source: pod.as_bytes(),
                    peer: peer.as_bytes(),
                    destination: &destination,
                };
                self.count(&call, tally);
            }
            Ok(false) => {
                tally.rejected += 1;
                let reject = Reject::MissingDestination;
                self.complain(reject.category(), &reject, None);
            }
            Err(malformed) => {
                tally.rejected += 1;
                self.complain(MALFORMED_ENTRY, &malformed, None);
            }
        }
        (self.destination, self.own_pod, self.peer) = (destination, Some(pod), Some(peer));
    }

    fn count(&mut self, call: &Call<'_>, tally: &mut Tally) {
        match self.known.get(call) {
            Some(Known::Recorded) => tally.known += 1,
            Some(Known::Ignored(counter)) => {
                counter.inc();
                tally.ignored += 1;
            }
            None => self.unknown(call, tally),
        }
    }

    /// Off the hot path: the stream has not seen this call since the epoch moved.
    #[cold]
    fn unknown(&mut self, call: &Call<'_>, tally: &mut Tally) {
        let miss = match parse(call) {
            Ok(miss) => miss,
            Err(reject) => {
                tally.rejected += 1;
                return self.complain(reject.category(), &reject, Some(call));
            }
        };
        let known = match self.shared.sink.observe(&miss) {
            Outcome::Recorded => {
                tally.new += 1;
                Known::Recorded
            }
            Outcome::Ignored(reason) => {
                tally.ignored += 1;
                let counter = self.shared.metrics.ignored_because(reason);
                counter.inc();
                Known::Ignored(counter)
            }
            Outcome::Busy => {
                tally.busy += 1;
                return;
            }
        };
        self.known.insert(call, known);
    }

    #[cold]
    fn complain(&self, category: &'static str, why: &dyn std::error::Error, call: Option<&Call<'_>>) {
        self.shared.metrics.count_reject(category);
        let Some(left_out) = self.shared.complaints.may_say(category) else {
            return;
        };
        let excerpt = |bytes| tracing::field::display(Excerpt(bytes));
        tracing::warn!(
            category,
            left_out,
            node = self.node(),
            source = call.map(|call| excerpt(call.source)),
            peer = call.map(|call| excerpt(call.peer)),
            destination = call.map(|call| excerpt(call.destination)),
            "access-log entry rejected: {why}"
        );
    }
}

/// Logs and counts a refusal, and makes the answer of it.
pub(super) fn refuse<S>(shared: &Shared<S>, refusal: Refusal, node: Option<&str>) -> tonic::Status {
    let category = refusal.category();
    shared.metrics.count_refusal(category);
    if let Some(left_out) = shared.complaints.may_say(category) {
        tracing::warn!(category, left_out, node, "access-log stream ended: {refusal}");
    }
    refusal.into()
}

/// The raw parts of a call, each given once.
fn call<'a>(entry: &Entry<'a>) -> Result<Call<'a>, Reject> {
    let given = |text: Text<'a>, missing, conflicting| match text {
        Text::Given(bytes) => Ok(bytes),
        Text::Absent => Err(missing),
        Text::Conflicting => Err(conflicting),
    };
    let several = "it is given several times, with different values";
    Ok(Call {
        source: given(
            entry.source,
            Reject::MissingSource,
            Reject::MalformedSource(several),
        )?,
        peer: given(entry.peer, Reject::MissingPeer, Reject::MalformedPeer(several))?,
        destination: given(
            entry.destination(),
            Reject::MissingDestination,
            Reject::MalformedDestination,
        )?,
    })
}

/// Bytes that are not UTF-8 are as malformed as any other text that is not a name.
fn parse<'a>(call: &Call<'a>) -> Result<Miss<'a>, Reject> {
    let text = |bytes, reject| str::from_utf8(bytes).map_err(|_| reject);
    Miss::parse(
        text(call.source, Reject::MalformedSource("it is not UTF-8"))?,
        Some(text(call.peer, Reject::MalformedPeer("it is not UTF-8"))?),
        text(call.destination, Reject::MalformedDestination)?,
    )
}
