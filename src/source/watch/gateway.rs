//! Whether the fallback gateway can serve, and which addresses are Services'.
//!
//! Flows in: a few objects that make one fact together. Flows out: the fact, whenever it may be
//! another one. Invariant: readiness waits for the first fact, so nothing is planned without it.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{Api, ApiResource};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use servicefence_crd::names;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Context;
use super::optional::{ASK_EVERY, is_served};
use crate::fence::Change;
use crate::fence::facts::is_ready;
use crate::fence::name::Cidr;
use crate::readiness::{Pending, Readiness};
use crate::supervisor::Supervisor;

/// How long the gateway must be without a ready endpoint until that is a fact. Every fence says it
/// in its status, and a rewritten EndpointSlice or a rolling restart must not write to all of them.
const GONE_AFTER: Duration = Duration::from_secs(5);

pub(super) fn start(context: &Context, tasks: &mut Supervisor, readiness: &Readiness) {
    let slices: Api<EndpointSlice> = Api::namespaced(context.client.clone(), &context.system_namespace);
    let of_gateway =
        watcher::Config::default().labels(&format!("kubernetes.io/service-name={}", names::FALLBACK));
    let (seen, settled) = watch::channel(None);
    let collecting = collect(
        slices,
        of_gateway,
        context.clone(),
        "gateway",
        has_ready_endpoint,
        move |all| {
            let ready = Some(all.values().any(|ready| *ready));
            seen.send_if_modified(|seen| std::mem::replace(seen, ready) != ready);
        },
    );
    let mut synced = Some(readiness.wait_for("gateway"));
    let state = context.state.clone();
    let settling = settle(settled, move |ready| {
        state.apply(Change::GatewayReady(ready));
        synced.take();
    });
    tasks.critical("gateway", async {
        tokio::join!(collecting, settling);
    });
    if context.service_cidrs.is_empty() {
        let synced = readiness.wait_for("servicecidrs");
        tasks.critical("servicecidrs", service_cidrs(context.clone(), synced, ASK_EVERY));
    } else {
        context
            .state
            .apply(Change::ServiceCidrs(context.service_cidrs.clone()));
    }
}

/// Follows the ServiceCIDR objects. Kubernetes has them from 1.33 on; without them there are no ranges, and
/// nothing waits for any.
async fn service_cidrs(context: Context, synced: Pending, ask_every: Duration) {
    let (state, mut synced) = (context.state.clone(), Some(synced));
    let mut report = |ranges| {
        state.apply(Change::ServiceCidrs(ranges));
        synced.take();
    };
    let resource = ApiResource::erase::<ServiceCIDR>(&());
    if !is_served(&context.client, &resource).await {
        tracing::warn!(
            "this Kubernetes has no ServiceCIDR objects: without serviceCIDRs of the chart no fence with the fallback Gateway is enforced"
        );
        report(BTreeSet::new());
        while !is_served(&context.client, &resource).await {
            sleep(ask_every).await;
        }
    }
    let ranges: Api<ServiceCIDR> = Api::all(context.client.clone());
    let all = watcher::Config::default();
    collect(ranges, all, context, "servicecidrs", cidrs, |all| {
        report(all.values().flatten().copied().collect());
    })
    .await;
}

/// Passes on the first state and that the gateway is ready, at once; that it no longer is, once it has
/// lasted.
async fn settle(mut seen: watch::Receiver<Option<bool>>, mut report: impl FnMut(bool)) {
    let mut was = None;
    while seen.changed().await.is_ok() {
        let mut ready = *seen.borrow_and_update();
        while was == Some(true) && ready == Some(false) {
            match timeout(GONE_AFTER, seen.changed()).await {
                Ok(Ok(())) => ready = *seen.borrow_and_update(),
                Ok(Err(_)) => return,
                Err(_) => break,
            }
        }
        ready.into_iter().for_each(&mut report);
        was = ready;
    }
}

/// Watches a few objects that make one fact together.
async fn collect<K, V>(
    api: Api<K>,
    config: watcher::Config,
    context: Context,
    name: &'static str,
    read: impl Fn(&K) -> V,
    mut report: impl FnMut(&BTreeMap<String, V>),
) where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut events = pin!(watcher::watcher(api, config).default_backoff());
    let mut all = BTreeMap::new();
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                context.metrics.watch_errors.with_label_values(&[name]).inc();
                tracing::warn!(watch = name, %error, "a watch failed and is tried again");
                continue;
            }
        };
        let name_of = |object: &K| object.meta().name.clone().unwrap_or_default();
        match event {
            Event::Init => {
                all.clear();
                continue;
            }
            Event::InitApply(object) => {
                all.insert(name_of(&object), read(&object));
                continue;
            }
            Event::InitDone => {}
            Event::Apply(object) => {
                all.insert(name_of(&object), read(&object));
            }
            Event::Delete(object) => {
                all.remove(&name_of(&object));
            }
        }
        report(&all);
    }
}

fn has_ready_endpoint(slice: &EndpointSlice) -> bool {
    slice.endpoints.iter().flatten().any(is_ready)
}

fn cidrs(object: &ServiceCIDR) -> BTreeSet<Cidr> {
    let ranges = object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    ranges.filter_map(|range| range.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, mpsc};

    use axum::extract::{Query, State as Shared};
    use axum::routing::get;
    use axum::{Json, Router};
    use serde_json::json;
    use tokio::time::Instant;

    use super::super::client_of;
    use super::*;

    /// What is reported of the gateway, and when, while it is seen to be ready or not for so long.
    async fn reported(seen: &[(bool, Duration)]) -> Vec<(bool, Duration)> {
        let start = Instant::now();
        let (sender, settled) = watch::channel(None);
        let (report, reports) = mpsc::channel();
        let settling = settle(settled, |ready| report.send((ready, start.elapsed())).unwrap());
        let seeing = async move {
            for (ready, lasts) in seen {
                sender.send_replace(Some(*ready));
                sleep(*lasts).await;
            }
        };
        tokio::join!(settling, seeing);
        reports.try_iter().collect()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_gateway_is_ready_at_once_and_gone_only_when_that_has_lasted() {
        let seen = [(true, SECOND), (false, 9 * SECOND), (true, SECOND)];
        let expected = [
            (true, Duration::ZERO),
            (false, SECOND + GONE_AFTER),
            (true, 10 * SECOND),
        ];
        assert_eq!(reported(&seen).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_blinks_is_never_gone() {
        let seen = [(true, SECOND), (false, 4 * SECOND)].repeat(5);
        let reported = reported(&seen).await;
        assert!(reported.iter().all(|(ready, _)| *ready), "{reported:?}");
    }

    /// An API server of Kubernetes 1.32 or older, which becomes a newer one, and a client of it.
    async fn api_server(has_ranges: Arc<AtomicBool>) -> kube::Client {
        let kinds = async |Shared(has_ranges): Shared<Arc<AtomicBool>>| {
            let kind = json!({"name": "servicecidrs", "singularName": "", "namespaced": false, "kind": "ServiceCIDR", "verbs": []});
            let kinds = if has_ranges.load(Ordering::Relaxed) {
                vec![kind]
            } else {
                Vec::new()
            };
            Json(json!({"groupVersion": "networking.k8s.io/v1", "resources": kinds}))
        };
        let ranges = async |Query(asked): Query<BTreeMap<String, String>>| {
            if asked.get("watch").is_some_and(|watch| watch == "true") {
                std::future::pending::<()>().await;
            }
            let range = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}});
            Json(json!({"metadata": {"resourceVersion": "1"}, "items": [range]}))
        };
        let all = Router::new()
            .route("/apis/networking.k8s.io/v1", get(kinds))
            .route("/apis/networking.k8s.io/v1/servicecidrs", get(ranges))
            .with_state(has_ranges);
        client_of(all).await
    }

    #[tokio::test]
    async fn nothing_waits_for_service_cidrs_where_kubernetes_has_none_and_they_count_once_it_has() {
        let has_ranges = Arc::new(AtomicBool::new(false));
        let context = Context::of_tests(api_server(has_ranges.clone()).await);
        let readiness = Readiness::default();
        let synced = readiness.wait_for("servicecidrs");
        let following = service_cidrs(context.clone(), synced, Duration::from_millis(10));
        let following = tokio::spawn(following);
        timeout(5 * SECOND, readiness.ready()).await.unwrap();
        let known = || context.state.engine().mesh().service_cidrs.len();
        assert_eq!(known(), 0);

        has_ranges.store(true, Ordering::Relaxed);
        let seen = async {
            while known() != 1 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(5 * SECOND, seen).await.unwrap();
        following.abort();
        let errors = context.metrics.watch_errors.with_label_values(&["servicecidrs"]);
        assert_eq!(errors.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_is_not_there_at_the_start_holds_nothing_up() {
        let expected = [(false, Duration::ZERO)];
        assert_eq!(reported(&[(false, 9 * SECOND)]).await, expected);
    }
}
