//! The one engine, shared.
//!
//! Flows in: changes, from watches and from the answers to our own writes. Flows out: what they
//! touch, to the reconcilers. Invariant: an older state of an object never replaces a newer one,
//! though a watch may deliver it after the answer to a write.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::{mpsc, watch};

use crate::fence::{Change, Dirty, Engine};
use crate::source::convert::Watched;

/// The shared engine.
pub struct State {
    engine: RwLock<Engine>,
    /// Moves with every change that can give another answer to whose miss it was and to what.
    epoch: AtomicU64,
    newest: Mutex<HashMap<ObjectId, u64>>,
    dirty: mpsc::UnboundedSender<Dirty>,
    /// Moves when a fence comes or goes.
    fences: watch::Sender<()>,
}

/// An object of the API server, for telling old from new.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectId {
    /// Its kind.
    pub watched: Watched,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectId {
    /// The id of an object.
    pub fn new(watched: Watched, namespace: Option<&str>, name: Option<&str>) -> Self {
        let owned = |part: Option<&str>| part.unwrap_or_default().to_owned();
        Self {
            watched,
            namespace: owned(namespace),
            name: owned(name),
        }
    }
}

impl State {
    /// Shares `engine`; what its changes touch goes to the receiver.
    pub fn new(engine: Engine) -> (Self, mpsc::UnboundedReceiver<Dirty>) {
        let (dirty, receiver) = mpsc::unbounded_channel();
        let state = Self {
            engine: RwLock::new(engine),
            epoch: AtomicU64::new(0),
            newest: Mutex::new(HashMap::new()),
            dirty,
            fences: watch::Sender::new(()),
        };
        (state, receiver)
    }

    /// The engine, to read.
    pub fn engine(&self) -> RwLockReadGuard<'_, Engine> {
        self.engine.read()
    }

    /// See [`crate::source::als::Sink::epoch`].
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Takes in a change.
    pub fn apply(&self, change: Change) {
        let attributes = matches!(
            change,
            Change::Service(..)
                | Change::Pod(..)
                | Change::Fence(..)
                | Change::Namespace(..)
                | Change::Sidecar(..)
                | Change::MeshConfig(..)
        ) || matches!(&change, Change::Endpoints(_, Some(facts)) if !facts.addresses.is_empty());
        let is_fence = matches!(change, Change::Fence(..));
        let dirty = self.engine.write().apply(change, Timestamp::now());
        if is_fence {
            self.fences.send_replace(());
        }
        if attributes {
            self.epoch.fetch_add(1, Ordering::Release);
        }
        if !dirty.targets.is_empty() || !dirty.unknown_labels.is_empty() {
            // The receiver ends with the process; then there is nobody to tell.
            let _ = self.dirty.send(dirty);
        }
    }

    /// Tells when a fence came or went.
    pub fn subscribe_fences(&self) -> watch::Receiver<()> {
        self.fences.subscribe()
    }

    /// Forgets the pods of a namespace that has no fence any more.
    pub fn forget_pods(&self, namespace: &str) {
        self.apply(Change::PodsKnown(namespace.into(), false));
        let pods = self.engine.read().pods_of(namespace);
        for pod in pods {
            self.forget(&ObjectId::new(
                Watched::Pods,
                Some(&pod.namespace),
                Some(&pod.name),
            ));
            self.apply(Change::Pod(pod, None));
        }
    }

    /// Whether an object's state is at least as new as the newest known. Resource versions of
    /// custom and built-in objects are comparable numbers (KEP-5504); where one is not, the object
    /// is taken as new.
    pub fn is_current(&self, id: &ObjectId, version: Option<&str>) -> bool {
        let Some(version) = version.and_then(|version| version.parse::<u64>().ok()) else {
            return true;
        };
        let mut newest = self.newest.lock();
        let known = newest.entry(id.clone()).or_default();
        let current = version >= *known;
        *known = version.max(*known);
        current
    }

    /// Forgets an object that is gone.
    pub fn forget(&self, id: &ObjectId) {
        self.newest.lock().remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fence::facts::EndpointsFacts;
    use crate::fence::name::{ConfigKey, ServiceKey};
    use crate::fence::world::settings;

    #[test]
    fn answers_are_asked_for_again_when_an_address_may_be_of_another_headless_service() {
        let (state, _dirty) = State::new(Engine::new(settings()));
        let moves = |addresses: &[&str]| {
            let before = state.epoch();
            let facts = EndpointsFacts {
                service: ServiceKey::new("data", "peers"),
                ready: 1,
                ipv6: false,
                addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
            };
            state.apply(Change::Endpoints(ConfigKey::new("data", "peers-1"), Some(facts)));
            state.epoch() != before
        };
        assert!(moves(&["10.1.0.7"]));
        assert!(!moves(&[]));
    }
}
