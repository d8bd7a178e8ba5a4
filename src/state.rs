//! The one engine, shared.
//!
//! Flows in: changes, from watches and from the answers to our own writes. Flows out: what they
//! touch, to the reconcilers. Invariant: an older state of an object never replaces a newer one,
//! though a watch may deliver it after the answer to a write.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::{Notify, watch};

use crate::fence::observe::Watched;
use crate::fence::{Change, Dirty, Engine};

/// The shared engine.
pub struct State {
    engine: RwLock<Engine>,
    /// Moves with every change that can alter how a miss is attributed.
    epoch: AtomicU64,
    newest: Mutex<HashMap<ObjectId, u64>>,
    /// What changes touched since somebody asked: each target once, however many changes touched it.
    touched: Mutex<Dirty>,
    touches: Notify,
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
    /// Shares `engine`.
    pub fn new(engine: Engine) -> Self {
        Self {
            engine: RwLock::new(engine),
            epoch: AtomicU64::new(0),
            newest: Mutex::new(HashMap::new()),
            touched: Mutex::default(),
            touches: Notify::new(),
            fences: watch::Sender::new(()),
        }
    }

    /// What changes have touched since the last answer; waits where that is nothing. For one caller.
    pub async fn touched(&self) -> Dirty {
        loop {
            let touches = self.touches.notified();
            let touched = std::mem::take(&mut *self.touched.lock());
            if !touched.is_empty() {
                return touched;
            }
            touches.await;
        }
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
        let is_fence = matches!(change, Change::Fence(..));
        let dirty = self.engine.write().apply(change, Timestamp::now());
        if is_fence {
            self.fences.send_replace(());
        }
        if dirty.misses {
            self.epoch.fetch_add(1, Ordering::Release);
        }
        if !dirty.is_empty() {
            self.touched.lock().extend(dirty);
            self.touches.notify_one();
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
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::fence::facts::{EndpointsFacts, RouteKey, RouteKind};
    use crate::fence::name::{ConfigKey, FenceKey, ServiceKey};
    use crate::fence::{Settings, Target};

    /// With a fence that has this `learning.headless`.
    fn state(headless: &str) -> State {
        let state = State::new(Engine::new(Settings::default()));
        let fence = json!({
            "apiVersion": "servicefence.io/v1alpha1",
            "kind": "ServiceFence",
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"learning": {"headless": headless}},
        });
        let fence = Arc::new(serde_json::from_value(fence).unwrap());
        state.apply(Change::Fence(FenceKey::new("shop", "web"), Some(fence)));
        state
    }

    /// Whether a change makes streams ask again.
    fn moves(state: &State, change: Change) -> bool {
        let before = state.epoch();
        state.apply(change);
        state.epoch() != before
    }

    fn slice(service: &str, ready: u64, addresses: &[&str]) -> Change {
        let facts = EndpointsFacts {
            service: ServiceKey::new("data", service),
            ready,
            ipv6: false,
            addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
        };
        Change::Endpoints(ConfigKey::new("data", "peers-1"), Some(facts))
    }

    #[test]
    fn answers_are_asked_for_again_when_an_address_may_be_of_another_service() {
        let state = state("Keep");
        let gone = || Change::Endpoints(ConfigKey::new("data", "peers-1"), None);
        for (change, is) in [
            (slice("peers", 1, &[]), false),
            (slice("peers", 1, &["10.1.0.7", "10.1.0.8"]), true),
            (slice("peers", 2, &["10.1.0.7", "10.1.0.8"]), false),
            (slice("peers", 2, &["10.1.0.8", "10.1.0.7"]), false),
            (slice("others", 2, &["10.1.0.8", "10.1.0.7"]), true),
            (slice("others", 1, &["10.1.0.8"]), true),
            (gone(), true),
            (gone(), false),
        ] {
            assert_eq!(moves(&state, change.clone()), is, "{change:?}");
        }
    }

    #[tokio::test]
    async fn what_many_changes_touch_is_told_once() {
        let state = state("Keep");
        let touched = state.touched().await.targets;
        assert!(
            touched.contains(&Target::Fence(FenceKey::new("shop", "web"))),
            "{touched:?}"
        );
        for number in 0..1_000 {
            state.apply(Change::GatewayReady(number % 2 == 0));
        }
        assert_eq!(state.touched().await.targets.len(), 1);
        let nothing = tokio::time::timeout(std::time::Duration::from_millis(10), state.touched());
        assert!(nothing.await.is_err(), "there is nothing left to tell");
    }

    /// What decides whether a headless Service may be learned.
    fn decides() -> [Change; 4] {
        let key = ConfigKey::new("data", "some");
        let route = RouteKey {
            kind: RouteKind::Http,
            config: key.clone(),
        };
        [
            Change::Policy(key.clone(), None),
            Change::PeerAuthentication(key.clone(), None),
            Change::VirtualService(key, None),
            Change::Route(route, None),
        ]
    }

    #[test]
    fn answers_are_asked_for_again_when_a_headless_service_may_be_learned_or_no_longer() {
        let state = state("Learn");
        for change in decides() {
            assert!(moves(&state, change.clone()), "{change:?}");
        }
    }

    #[test]
    fn where_no_fence_learns_headless_services_answers_hold() {
        let state = state("Keep");
        for change in decides() {
            assert!(!moves(&state, change.clone()), "{change:?}");
        }
    }
}
