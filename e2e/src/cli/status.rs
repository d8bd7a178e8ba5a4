//! `mesh status`.

use anyhow::Result;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ListParams};

use crate::mesh::Mesh;
use crate::state;

pub(super) async fn run() -> Result<()> {
    let states = state::list();
    if states.is_empty() {
        println!("no mesh is running; start one with `mesh up`");
    }
    for found in states {
        let owner = match &found.owner {
            None => "stays until `mesh down`",
            Some(owner) if owner.alive() => "belongs to a running program",
            Some(_) => "its owner is gone: `mesh down` removes it",
        };
        println!("mesh {}: {} ({owner})", found.id, found.server);
        match Mesh::attach(&found.id).await {
            Ok(mesh) => tell(&mesh).await?,
            Err(error) => println!("  {error:#}"),
        }
    }
    Ok(())
}

async fn tell(mesh: &Mesh) -> Result<()> {
    println!("  KUBECONFIG={}", mesh.kubeconfig().display());
    let pods = Api::<Pod>::all(mesh.client())
        .list(&ListParams::default())
        .await?;
    for record in mesh.pods() {
        let ready = pods.iter().any(|pod| {
            pod.metadata.name.as_deref() == Some(&record.name)
                && pod.metadata.namespace.as_deref() == Some(&record.namespace)
                && is_ready(pod)
        });
        let proxy = if record.proxied { "with proxy" } else { "plain" };
        let ready = if ready { "ready" } else { "not ready" };
        println!("  pod {} {} {proxy}, {ready}", record.full_name(), record.ip);
    }
    let services = Api::<Service>::all(mesh.client())
        .list(&ListParams::default())
        .await?;
    for service in services {
        let spec = service.spec.unwrap_or_default();
        let ports: Vec<String> = spec
            .ports
            .unwrap_or_default()
            .iter()
            .map(|port| port.port.to_string())
            .collect();
        println!(
            "  service {}/{} {} ports {}",
            service.metadata.namespace.unwrap_or_default(),
            service.metadata.name.unwrap_or_default(),
            spec.cluster_ip.unwrap_or_else(|| "-".to_owned()),
            ports.join(",")
        );
    }
    Ok(())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|it| it.type_ == "Ready" && it.status == "True"))
}
