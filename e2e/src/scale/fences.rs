//! Fences that have learned, and whether Sidecars say the same.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::Size;
use crate::scale::names::{namespace, service};

/// A fence, by name of its Service.
pub(super) fn fence(service: &str) -> Value {
    json!({
        "apiVersion": "servicefence.io/v1alpha1", "kind": "ServiceFence",
        "metadata": {"name": service}, "spec": {"mode": "Enforce"},
    })
}

/// What the controller writes when it has learned these hosts.
pub(super) fn status(size: &Size, number: usize, now: Timestamp) -> Value {
    let learned = learned(size, number).into_iter().map(|(namespace, host)| {
        json!({
            "host": host, "namespace": namespace, "sources": ["AccessLog"],
            "firstSeen": now, "lastSeen": now,
        })
    });
    json!({"status": {"learned": learned.collect::<Vec<_>>()}})
}

/// Namespaces and hosts that a fence has learned: any Services of the mesh, the same ones in every run.
fn learned(size: &Size, number: usize) -> BTreeSet<(String, String)> {
    let mut hosts = BTreeSet::new();
    let mut draw = (number as u64) << 32;
    while hosts.len() < size.hosts {
        draw += 1;
        let host = usize::try_from(mixed(draw) >> 32).unwrap_or_default() % size.all_services();
        let (namespace, service) = (namespace(host / size.services), service(host % size.services));
        hosts.insert((
            namespace.clone(),
            format!("{service}.{namespace}.svc.cluster.local"),
        ));
    }
    hosts
}

/// A number that looks like chance: the generator splitmix64.
fn mixed(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Fails unless there is a Sidecar for each fence, with all that it has learned.
pub(super) fn check(size: &Size, sidecars: &[DynamicObject]) -> Result<()> {
    let by_name: BTreeMap<_, _> = sidecars
        .iter()
        .map(|sidecar| {
            (
                (sidecar.namespace().unwrap_or_default(), sidecar.name_any()),
                sidecar,
            )
        })
        .collect();
    for number in 0..size.fences() {
        let fence = (namespace(number / size.services), service(number % size.services));
        let name = (fence.0, format!("servicefence-{}", fence.1));
        let sidecar = by_name
            .get(&name)
            .with_context(|| format!("there is no Sidecar {name:?}"))?;
        let hosts = sidecar.data["spec"]["egress"][0]["hosts"].as_array();
        let hosts: BTreeSet<_> = hosts.into_iter().flatten().filter_map(Value::as_str).collect();
        for (namespace, host) in learned(size, number) {
            let host = format!("{namespace}/{host}");
            ensure!(
                hosts.contains(host.as_str()),
                "{host} was learned and is not in {name:?}"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_learn_different_hosts_and_the_same_in_every_run() {
        let size = Size {
            namespaces: 10,
            services: 10,
            pods: 1,
            fenced: 2,
            hosts: 20,
        };
        assert_eq!(learned(&size, 3).len(), 20);
        assert_eq!(learned(&size, 3), learned(&size, 3));
        assert_ne!(learned(&size, 3), learned(&size, 4));
    }
}
