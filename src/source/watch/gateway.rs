//! Whether the fallback gateway can serve, and which addresses are Services'.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use futures_util::TryStreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use servicefence_crd::names;

use super::Context;
use crate::fence::Change;
use crate::fence::name::Cidr;
use crate::readiness::Readiness;
use crate::supervisor::Supervisor;

pub(super) fn start(context: &Context, tasks: &mut Supervisor, readiness: &Readiness) {
    let slices: Api<EndpointSlice> = Api::namespaced(context.client.clone(), &context.system_namespace);
    let of_gateway =
        watcher::Config::default().labels(&format!("kubernetes.io/service-name={}", names::FALLBACK));
    tasks.critical(
        "endpointslices",
        collect(
            slices,
            of_gateway,
            context.clone(),
            readiness,
            "endpointslices",
            has_ready_endpoint,
            |all| Change::GatewayReady(all.values().any(|ready| *ready)),
        ),
    );
    if context.service_cidrs.is_empty() {
        let ranges: Api<ServiceCIDR> = Api::all(context.client.clone());
        let all = watcher::Config::default();
        tasks.critical(
            "servicecidrs",
            collect(
                ranges,
                all,
                context.clone(),
                readiness,
                "servicecidrs",
                cidrs,
                |all| Change::ServiceCidrs(all.values().flatten().copied().collect()),
            ),
        );
    } else {
        context
            .state
            .apply(Change::ServiceCidrs(context.service_cidrs.clone()));
    }
}

/// Watches a few objects that make one fact together.
fn collect<K, V>(
    api: Api<K>,
    config: watcher::Config,
    context: Context,
    readiness: &Readiness,
    name: &'static str,
    read: impl Fn(&K) -> V + Send + 'static,
    fact: impl Fn(&BTreeMap<String, V>) -> Change + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    V: Send + 'static,
{
    let mut synced = Some(readiness.wait_for(name));
    async move {
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
                Event::InitDone => {
                    synced.take();
                }
                Event::Apply(object) => {
                    all.insert(name_of(&object), read(&object));
                }
                Event::Delete(object) => {
                    all.remove(&name_of(&object));
                }
            }
            context.state.apply(fact(&all));
        }
    }
}

fn has_ready_endpoint(slice: &EndpointSlice) -> bool {
    let ready = |endpoint: &k8s_openapi::api::discovery::v1::Endpoint| {
        endpoint
            .conditions
            .as_ref()
            .and_then(|conditions| conditions.ready)
            .unwrap_or(true)
    };
    slice.endpoints.iter().flatten().any(ready)
}

fn cidrs(object: &ServiceCIDR) -> BTreeSet<Cidr> {
    let ranges = object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    ranges.filter_map(|range| range.parse().ok()).collect()
}
