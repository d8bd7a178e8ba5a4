//! The stand-in for kube-proxy and cluster DNS: Service addresses lead to ready endpoints, Service names to
//! addresses.
//!
//! In: Services and EndpointSlices. Out: a chain `VIP` of DNAT rules and a hosts file in every namespace of
//! the mesh. Only endpoints that really run here get a rule; the made-up ones of background services get
//! none. `vips.json` in the mesh's folder says what is in force, so that any process can wait for it.

mod rules;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::stream::select;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, ListParams};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};

use crate::addresses::{NODE_IP, NODE_IPV6};
use crate::interception::Family;
use crate::mesh::Mesh;
use crate::mesh::core::Core;
use crate::netns::{self, Netns};
use crate::state::write_whole;
use crate::wait::{self, until};

pub(crate) use rules::Table;

/// The label of Services that no one calls: they get neither rules nor names.
pub(crate) const BACKGROUND_LABEL: &str = "mesh-background";

/// The rules that each namespace has, by its name and the family.
type Applied = HashMap<String, String>;

const FILE: &str = "vips.json";
/// Computes and applies once; for the start, before the task runs.
pub(crate) async fn apply_once(client: &Client, folder: &Path) -> Result<()> {
    let services = Api::<Service>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    let slices = Api::<EndpointSlice>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    let id = folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let table = Table::of(&services.items, &slices.items, &is_real(&id));
    apply(&id, folder, &table, &mut Applied::default())
}

/// Follows Services and EndpointSlices until the mesh ends.
pub(crate) async fn keep(core: Arc<Core>) {
    let (services, services_writer) = reflector::store::<Service>();
    let (slices, slices_writer) = reflector::store::<EndpointSlice>();
    let config = watcher::Config::default;
    let service_events = reflector(services_writer, watcher(Api::all(core.client.clone()), config()));
    let slice_events = reflector(slices_writer, watcher(Api::all(core.client.clone()), config()));
    let changes = select(
        service_events.default_backoff().map(|event| event.map(drop)),
        slice_events.default_backoff().map(|event| event.map(drop)),
    );
    let mut changes = pin!(changes);
    let mut applied = Applied::default();
    let mut last = None;
    while settle(&mut changes).await {
        let both =
            async { services.wait_until_ready().await.is_ok() && slices.wait_until_ready().await.is_ok() };
        if !both.now_or_never().unwrap_or(false) {
            continue;
        }
        let table = Table::of(
            services.state().iter().map(AsRef::as_ref),
            slices.state().iter().map(AsRef::as_ref),
            &is_real(&core.id),
        );
        let mut failures = 0;
        while last.as_ref() != Some(&table) {
            match apply_elsewhere(&core, &table, &applied).await {
                Ok(now) => {
                    applied = now;
                    last = Some(table.clone());
                }
                // A namespace that goes away in the middle is the usual reason; the next pass does not see
                // it.
                Err(error) => {
                    failures += 1;
                    if failures > 5 {
                        eprintln!("mesh {}: Service addresses: {error:#}", core.id);
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}

/// Waits for a change and lets a burst of them become one pass, without waiting for the end of a long one.
async fn settle(changes: &mut (impl Stream + Unpin)) -> bool {
    if changes.next().await.is_none() {
        return false;
    }
    let burst = async {
        let quiet = Duration::from_millis(20);
        while tokio::time::timeout(quiet, changes.next())
            .await
            .is_ok_and(|next| next.is_some())
        {}
    };
    // Being cut off is fine: what has come is in the stores.
    let _ = tokio::time::timeout(Duration::from_millis(250), burst).await;
    true
}

/// The programs that it runs block, so they run on a thread of their own.
async fn apply_elsewhere(core: &Arc<Core>, table: &Table, applied: &Applied) -> Result<Applied> {
    let (core, table, mut applied) = (Arc::clone(core), table.clone(), applied.clone());
    tokio::task::spawn_blocking(move || {
        apply(&core.id, &core.folder, &table, &mut applied)?;
        Ok(applied)
    })
    .await?
}

/// An address is real when its namespace exists, or when it is the node's.
fn is_real(id: &str) -> impl Fn(&str) -> bool {
    let id = id.to_owned();
    move |ip| {
        [NODE_IP, NODE_IPV6].contains(&ip)
            || crate::pod::network::namespace_of(&id, ip).is_some_and(|netns| netns.exists())
    }
}

fn apply(id: &str, folder: &Path, table: &Table, applied: &mut Applied) -> Result<()> {
    let lock = File::create(folder.join("vips.lock"))?;
    lock.lock()?;
    for netns in netns::with_prefix(&format!("sf{id}-")) {
        apply_in(&netns, folder, table, applied)?;
    }
    // Last, since whoever waits for a Service takes it for done everywhere.
    write_whole(&folder.join(FILE), &serde_json::to_vec_pretty(table)?)
}

fn apply_in(netns: &Netns, folder: &Path, table: &Table, applied: &mut Applied) -> Result<()> {
    for family in Family::ALL {
        let (key, rules) = (format!("{} {family:?}", netns.name()), table.iptables(family));
        if applied.get(&key) != Some(&rules) {
            netns.run(family.restore(), &["--noflush"], &rules)?;
            applied.insert(key, rules);
        }
    }
    let home = fs::read_to_string(home_file(folder, netns)).unwrap_or_default();
    netns.write_hosts(&table.hosts(&home, &externals(folder)))
}

/// Gives a new namespace the rules that are in force. Its later changes come from the task.
pub(crate) fn install(netns: &Netns, folder: &Path, home: &str) -> Result<()> {
    fs::write(home_file(folder, netns), home)?;
    let lock = File::create(folder.join("vips.lock"))?;
    lock.lock()?;
    apply_in(netns, folder, &in_force(folder)?, &mut Applied::default())
}

/// Where it is written which Kubernetes namespace a network namespace is at home in: short names depend on
/// it.
fn home_file(folder: &Path, netns: &Netns) -> std::path::PathBuf {
    let number = netns.name().rsplit('-').next().unwrap_or_default();
    folder.join("net").join(number).join("home")
}

fn in_force(folder: &Path) -> Result<Table> {
    Ok(serde_json::from_slice(&fs::read(folder.join(FILE))?)?)
}

/// Names outside the mesh and their addresses.
pub(crate) fn externals(folder: &Path) -> BTreeMap<String, String> {
    let text = fs::read(folder.join("externals.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Adds a name outside the mesh and tells every namespace.
pub(crate) fn add_external(core: &Core, name: &str, ip: &str) -> Result<()> {
    let mut names = externals(&core.folder);
    names.insert(name.to_owned(), ip.to_owned());
    write_whole(
        &core.folder.join("externals.json"),
        &serde_json::to_vec_pretty(&names)?,
    )?;
    let table = in_force(&core.folder)?;
    for netns in netns::with_prefix(&format!("sf{}-", core.id)) {
        let home = fs::read_to_string(home_file(&core.folder, &netns)).unwrap_or_default();
        netns.write_hosts(&table.hosts(&home, &names))?;
    }
    Ok(())
}

/// How many ready endpoints of a Service are in force everywhere.
fn endpoints(folder: &Path, service: &str) -> Result<usize> {
    in_force(folder)?
        .endpoints(service)
        .context("there is no such Service")
}

impl Mesh {
    /// Waits until names and addresses lead everywhere to what the API server says now, and Services with a
    /// selector have the pods that it selects.
    pub(crate) async fn wait_services(&self) -> Result<()> {
        let core = self.core();
        until("the addresses of all Services", wait::LONG, || async {
            let all = ListParams::default();
            let services = Api::<Service>::all(core.client.clone()).list(&all).await?;
            let slices = Api::<EndpointSlice>::all(core.client.clone()).list(&all).await?;
            let pods = Api::<Pod>::all(core.client.clone()).list(&all).await?;
            let table = Table::of(&services.items, &slices.items, &is_real(&core.id));
            for service in &services.items {
                let Some(wanted) = rules::selected(service, &pods.items) else {
                    continue;
                };
                let (namespace, name) = (&service.metadata.namespace, &service.metadata.name);
                let key = format!(
                    "{}/{}",
                    namespace.as_deref().unwrap_or_default(),
                    name.as_deref().unwrap_or_default()
                );
                let has = table.endpoints(&key).unwrap_or(wanted);
                ensure!(has == wanted, "{key} has {has} endpoints instead of {wanted}");
            }
            ensure!(table == in_force(&core.folder)?, "not yet in force");
            Ok(())
        })
        .await
    }

    /// Waits until `namespace/name` has exactly this many ready endpoints and its address leads to them,
    /// everywhere.
    pub async fn wait_service(&self, service: &str, count: usize) -> Result<()> {
        until(
            format!("Service {service} with {count} endpoints"),
            wait::SHORT,
            || async {
                let ready = endpoints(&self.core().folder, service)?;
                ensure!(ready == count, "it has {ready}");
                Ok(())
            },
        )
        .await
    }

    /// Waits until there is no such Service and its address leads nowhere, everywhere. Where it goes with its
    /// namespace, that takes seconds.
    pub async fn wait_no_service(&self, service: &str) -> Result<()> {
        until(format!("no Service {service}"), wait::LONG, || async {
            let known = in_force(&self.core().folder)?.endpoints(service);
            ensure!(known.is_none(), "it is there");
            Ok(())
        })
        .await
    }

    /// Waits until a Service's address leads to at least one endpoint.
    pub async fn wait_endpoint(&self, service: &str) -> Result<()> {
        until(
            format!("an endpoint of Service {service}"),
            wait::SHORT,
            || async {
                ensure!(endpoints(&self.core().folder, service)? > 0, "it has none");
                Ok(())
            },
        )
        .await
    }
}
