//! A mesh of IPv4 and IPv6, and one of IPv6 alone: what is dialled by an address of either family is reached,
//! learned and then called directly.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::api::Api;
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Call, Families, Mesh, MeshOptions, PodSpec, ServiceSpec, in_url};

use crate::remote_clusters::nothing_new_is_fenced_in_a_mesh_of_several_clusters;
use crate::shop;

pub(crate) const BOTH: &str = "first_calls_work_by_addresses_of_both_families";
pub(crate) const IPV6: &str = "first_calls_work_in_a_mesh_of_ipv6_alone";

/// The pod behind all Services.
const SERVER: &str = "books/server";

/// What is called: a name, a scheme, the name of the Service's port, and its number.
const KINDS: [(&str, &str, &str, u16); 4] = [
    ("http", "http", "http", 8080),
    ("tcp", "tcp", "tcp", 9000),
    ("first", "tcp-server-first", "tcp", 9001),
    // Not declared: its first bytes tell.
    ("peer", "http", "peer", 7070),
];

pub(crate) async fn both() -> Result<()> {
    run(Families::Both).await
}

pub(crate) async fn ipv6() -> Result<()> {
    run(Families::Ipv6).await
}

async fn run(families: Families) -> Result<()> {
    let mesh = shop::install(MeshOptions::default().families(families), &[]).await?;
    let result = steps(&mesh, families).await;
    result.inspect_err(|_| eprintln!("{}", mesh.dump()))
}

async fn steps(mesh: &Mesh, families: Families) -> Result<()> {
    // A Service for each family: the first call to one makes it known by both.
    let called: &[&str] = match families {
        Families::Both => &["4", "6"],
        Families::Ipv4 => &["4"],
        Families::Ipv6 => &["6"],
    };
    let server = PodSpec::new(SERVER)
        .http(8080)
        .tcp(9000)
        .tcp_server_first(9001)
        .http(7070);
    mesh.add_pod(server).await?;
    for family in called {
        for (kind, _, port, number) in KINDS {
            let service = ServiceSpec::new(&format!("books/{kind}{family}")).selects("server");
            let mut service = service.named_port(port, number, number);
            if families == Families::Both {
                service = service.dual_stack();
            }
            mesh.add_service(&service).await?;
            mesh.wait_endpoint(&format!("books/{kind}{family}")).await?;
        }
    }
    mesh.add_app(PodSpec::new("shop/web").http(8080)).await?;
    mesh.add_app(PodSpec::new("free/web").http(8080)).await?;
    mesh.apply_yaml(
        "{apiVersion: servicefence.io/v1alpha1, kind: ServiceFence, metadata: {name: web, namespace: shop}, \
         spec: {mode: Enforce, learning: {nonHttp: Learn}}}",
    )
    .await?;
    mesh.enforce("shop", &["web"]).await?;
    for (at, family) in called.iter().enumerate() {
        for (kind, scheme, _, number) in KINDS {
            let name = format!("{kind}{family}");
            let address = address(mesh, &name, at).await?;
            is_learned(mesh, &name, &format!("{scheme}://{address}:{number}/"))
                .await
                .with_context(|| format!("{name} at {address}"))?;
        }
    }
    if families == Families::Both {
        // Last: nothing else runs in this mesh.
        nothing_new_is_fenced_in_a_mesh_of_several_clusters(mesh).await?;
    }
    Ok(())
}

/// Calls until that goes directly; the first time by the gateway.
async fn is_learned(mesh: &Mesh, name: &str, url: &str) -> Result<()> {
    let call = Call::get(url).host(&format!("{name}.books"));
    let free = mesh.call("free/web", &call).await;
    ensure!(free.is_from(SERVER), "without a fence: {free}");
    let proxy = mesh.proxy("shop/web")?;
    let (reply, taken) = proxy.watch(mesh.call("shop/web", &call)).await?;
    ensure!(
        reply.is_from(SERVER) && taken.fallback(),
        "the first call: {reply}, by {taken}"
    );
    let host = format!("{name}.books.svc.cluster.local");
    mesh.wait_learned("shop", "web", &host).await?;
    until("a direct call", SOON, async || {
        let (reply, taken) = proxy.watch(mesh.call("shop/web", &call)).await?;
        ensure!(
            reply.is_from(SERVER) && taken.uses(&host) && !taken.fallback(),
            "{reply}, by {taken}"
        );
        Ok(())
    })
    .await
}

/// One of a Service's addresses, as a URL has it.
async fn address(mesh: &Mesh, service: &str, at: usize) -> Result<String> {
    let services: Api<Service> = Api::namespaced(mesh.client(), "books");
    let spec = services.get(service).await?.spec.unwrap_or_default();
    let ips = spec.cluster_ips.unwrap_or_default();
    let ip = ips
        .get(at)
        .with_context(|| format!("{service} has only {ips:?}"))?;
    Ok(in_url(ip))
}
