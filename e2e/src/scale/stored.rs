//! Sidecars as they are stored, seen by a watch.

use std::collections::HashSet;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use kube::api::{Api, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt as _};

use super::cluster::sidecar_resource;

/// The Sidecars with some labels.
pub(super) struct Stored {
    events: BoxStream<'static, watcher::Result<Event<PartialObjectMeta<DynamicObject>>>>,
    seen: HashSet<(Option<String>, String)>,
}

impl Stored {
    /// Begins to watch.
    pub(super) fn watch(client: &Client, labels: &str) -> Self {
        let all: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client.clone(), &sidecar_resource());
        let events = watcher(all, watcher::Config::default().labels(labels)).default_backoff();
        Self {
            events: events.boxed(),
            seen: HashSet::new(),
        }
    }

    /// How many different ones were stored so far.
    pub(super) fn count(&self) -> usize {
        self.seen.len()
    }

    /// Waits for the next event of the watch, which need not be of one. Dropping the future loses nothing.
    pub(super) async fn hear(&mut self) {
        // The watch begins anew after an error.
        if let Ok(Some(Event::Apply(sidecar) | Event::InitApply(sidecar))) = self.events.try_next().await {
            self.seen.insert((sidecar.namespace(), sidecar.name_any()));
        }
    }
}
