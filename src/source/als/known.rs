//! The calls that one stream has already handed on.
//!
//! In: the raw bytes of a call. Out: what the rest of the program said about it. Invariants: a stream's cache
//! belongs to that stream alone, so no lock guards it; a look-up allocates nothing; two calls are the same
//! only if all their bytes are; the size is bounded, whatever is sent.

use std::collections::HashMap;

use prometheus::IntCounter;

use crate::fence::miss::Miss;

/// The raw bytes of a call: what an entry says before anybody has judged it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call<'a> {
    pub(super) source: &'a [u8],
    pub(super) peer: &'a [u8],
    pub(super) destination: &'a [u8],
}

/// What is known about a call.
#[derive(Debug, Clone)]
pub(super) enum Known {
    /// It was handed on: nothing to do.
    Recorded,
    /// It concerns no fence: count it for this reason.
    Ignored(IntCounter),
}

/// The hash is keyed at random (SipHash): a caller cannot choose calls that collide.
#[derive(Debug)]
pub(super) struct KnownCalls {
    calls: HashMap<Box<[u8]>, Known>,
    limit: usize,
    /// The key of the call that was looked up last. It keeps its capacity.
    key: Vec<u8>,
}

impl KnownCalls {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            calls: HashMap::new(),
            limit: limit.max(1),
            key: Vec::new(),
        }
    }

    pub(super) fn get(&mut self, call: &Call<'_>) -> Option<&Known> {
        if !call.write_key(&mut self.key) {
            return None;
        }
        self.calls.get(self.key.as_slice())
    }

    /// Remembers a call. A full cache is emptied first: what is in use comes back with its next entry, and
    /// nothing has to be kept about the order of use.
    pub(super) fn insert(&mut self, call: &Call<'_>, known: Known) {
        if !call.write_key(&mut self.key) {
            return;
        }
        if self.calls.len() >= self.limit {
            self.calls.clear();
        }
        self.calls.insert(self.key.as_slice().into(), known);
    }

    pub(super) fn clear(&mut self) {
        self.calls.clear();
    }
}

impl Call<'_> {
    /// Writes the key, in which the lengths keep the parts apart. False: it is longer than any well-formed
    /// call, so it cannot be known.
    fn write_key(&self, key: &mut Vec<u8>) -> bool {
        key.clear();
        for (part, longest) in [
            (self.source, Miss::MAX_SOURCE),
            (self.peer, Miss::MAX_PEER),
            (self.destination, Miss::MAX_DESTINATION),
        ] {
            let Ok(length) = u16::try_from(part.len()) else {
                return false;
            };
            if part.len() > longest {
                return false;
            }
            key.extend_from_slice(&length.to_le_bytes());
            key.extend_from_slice(part);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call<'a>(source: &'a [u8], peer: &'a [u8], destination: &'a [u8]) -> Call<'a> {
        Call {
            source,
            peer,
            destination,
        }
    }

    #[test]
    fn a_call_is_known_by_all_its_bytes() {
        let mut known = KnownCalls::new(10);
        known.insert(&call(b"shop/web", b"spiffe", b"10.0.0.1:80"), Known::Recorded);
        assert!(known.get(&call(b"shop/web", b"spiffe", b"10.0.0.1:80")).is_some());
        for other in [
            call(b"shop/web2", b"spiffe", b"10.0.0.1:80"),
            call(b"shop/web", b"spiffd", b"10.0.0.1:80"),
            call(b"shop/web", b"spiffe", b"10.0.0.1:8"),
            // The same bytes, cut elsewhere.
            call(b"shop/webs", b"piffe", b"10.0.0.1:80"),
            call(b"shop/web", b"spiffe1", b"0.0.0.1:80"),
        ] {
            assert!(known.get(&other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn the_size_is_bounded_and_what_is_in_use_comes_back() {
        let mut known = KnownCalls::new(3);
        for port in 0..100 {
            let destination = format!("10.0.0.1:{port}");
            known.insert(
                &call(b"shop/web", b"spiffe", destination.as_bytes()),
                Known::Recorded,
            );
            assert!(known.calls.len() <= 3);
            assert!(
                known
                    .get(&call(b"shop/web", b"spiffe", destination.as_bytes()))
                    .is_some()
            );
        }
    }

    #[test]
    fn a_call_that_is_too_long_to_be_well_formed_takes_no_room() {
        let mut known = KnownCalls::new(3);
        for long in [Miss::MAX_PEER + 1, 70_000] {
            let long = vec![b'a'; long];
            for call in [
                call(&long, b"", b""),
                call(b"", &long, b""),
                call(b"", b"", &long),
            ] {
                known.insert(&call, Known::Recorded);
                assert!(known.get(&call).is_none());
            }
        }
        assert!(known.calls.is_empty() && known.key.capacity() < 4096);
    }
}
