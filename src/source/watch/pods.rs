//! The pods of namespaces with fences: their names, labels and service accounts, nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::Api;
use kube::runtime::watcher;
use tokio::task::{AbortHandle, JoinSet};

use super::{Context, Watch, pages};
use crate::fence::facts::TrimmedPod;
use crate::fence::name::Name;
use crate::fence::observe::{Lean, Watched, resource};
use crate::supervisor::Supervisor;

/// Fences that come and go within this time are looked at together: each namespace costs a list.
const CHECK_EVERY: Duration = Duration::from_millis(250);

pub(super) fn start(context: &Context, tasks: &mut Supervisor) {
    let context = context.clone();
    tasks.critical("pods", async move {
        let mut watches = JoinSet::new();
        let mut watched: BTreeMap<Name, AbortHandle> = BTreeMap::new();
        let mut fences = context.state.subscribe_fences();
        loop {
            let wanted = context.state.engine().fenced_namespaces();
            watched.retain(|namespace, watch| {
                let keep = wanted.contains(namespace);
                if !keep {
                    watch.abort();
                    context.state.forget_pods(namespace);
                }
                keep
            });
            for namespace in wanted {
                watched
                    .entry(namespace.clone())
                    .or_insert_with(|| watches.spawn(watch(context.clone(), namespace)));
            }
            tokio::select! {
                changed = fences.changed() => if changed.is_err() { return },
                Some(ended) = watches.join_next() => {
                    if ended.is_err_and(|error| error.is_panic()) {
                        return;
                    }
                }
            }
            tokio::time::sleep(CHECK_EVERY).await;
        }
    });
}

async fn watch(context: Context, namespace: Arc<str>) {
    let pods: Api<Lean<TrimmedPod>> =
        Api::namespaced_with(context.client.clone(), &namespace, &resource(Watched::Pods));
    let mut watch = Watch::new(Watched::Pods, context, None);
    watch.pods_of = Some(namespace);
    watch.run(watcher::watcher(pods, pages())).await;
}
