//! A mesh that refuses what Istio does not know: misses inside the mesh still work, everything else is
//! refused as before. Its MeshConfig stands in two ConfigMaps.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Call, Mesh, MeshOptions, OutboundTrafficPolicy, PodSpec, Protocol, Reply, Server};

use crate::{shared_mesh_config, shop, stopped};

/// What a caller's proxy adds for itself and for the gateway.
const OURS: [&str; 3] = [
    "x-servicefence-original-dst",
    "x-servicefence-source",
    "x-servicefence-second-look",
];

pub(crate) const NAME: &str = "a_registry_only_mesh_serves_misses_and_refuses_strangers";

pub(crate) async fn run() -> Result<()> {
    let options = MeshOptions::default().outbound(OutboundTrafficPolicy::RegistryOnly);
    let options = options.istiod_env("SHARED_MESH_CONFIG", shared_mesh_config::MAP);
    let mesh = shop::install(options, &[shared_mesh_config::VALUE]).await?;
    let result = steps(&mesh).await;
    result.inspect_err(|_| eprintln!("{}", mesh.dump()))
}

async fn steps(mesh: &Mesh) -> Result<()> {
    mesh.add_app(PodSpec::new("books/reviews").http(8080)).await?;
    mesh.add_app(PodSpec::new("books/db").tcp_server_first(9001))
        .await?;
    mesh.add_app(PodSpec::new("shop/web").http(8080)).await?;
    // Not fenced, to compare with.
    mesh.add_app(PodSpec::new("free/web").http(8080)).await?;
    mesh.add_external(
        "api.example.com",
        &[
            Server {
                protocol: Protocol::Http,
                port: 8080,
            },
            Server {
                protocol: Protocol::Tcp,
                port: 9100,
            },
        ],
    )
    .await?;
    mesh.apply_yaml(
        "
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: web, namespace: shop}
spec: {mode: Enforce, learning: {nonHttp: Learn}}
",
    )
    .await?;
    shared_mesh_config::comes(mesh).await?;

    for (url, host, pod) in [
        (
            "http://reviews.books:8080/",
            "reviews.books.svc.cluster.local",
            "books/reviews",
        ),
        (
            "tcp-server-first://db.books:9001",
            "db.books.svc.cluster.local",
            "books/db",
        ),
    ] {
        let call = Call::get(url);
        let proxy = mesh.proxy("shop/web")?;
        let (reply, taken) = proxy.watch(mesh.call("shop/web", &call)).await?;
        ensure!(
            reply.is_from(pod) && taken.fallback(),
            "first call to {url}: {reply}, by {taken}"
        );
        mesh.wait_learned("shop", "web", host).await?;
        until(format!("a direct call to {url}"), SOON, async || {
            let (reply, taken) = proxy.watch(mesh.call("shop/web", &call)).await?;
            ensure!(reply.is_from(pod), "{reply}");
            ensure!(taken.uses(host) && !taken.fallback(), "it went by {taken}");
            Ok(())
        })
        .await?;
    }

    for url in ["http://api.example.com:8080/", "tcp://api.example.com:9100"] {
        let call = Call::get(url).timeout(Duration::from_secs(5));
        let free = mesh.call("free/web", &call).await;
        let fenced = mesh.call("shop/web", &call).await;
        refused_alike(url, &free, &fenced)?;
    }
    names_of_the_mesh(mesh).await?;
    a_proxy_that_lets_pass(mesh).await?;
    stopped::stop(mesh).await?;
    stopped::what_comes_is_reached(mesh).await
}

/// Of hosts that look like names of the mesh the address decides, and nothing that the application sends
/// changes that.
async fn names_of_the_mesh(mesh: &Mesh) -> Result<()> {
    let proxy = mesh.proxy("shop/web")?;
    for host in ["nothing", "nothing.books", "nothing.books.svc.cluster.local"] {
        let call = |url| {
            let call = Call::get(url).host(host);
            call.header("x-servicefence-original-dst", "10.96.0.1:443")
        };
        let (reply, taken) = proxy
            .watch(mesh.call("shop/web", &call("http://reviews.books:8080/")))
            .await?;
        ensure!(
            reply.is_from("books/reviews") && taken.fallback(),
            "Host {host} at a Service: {reply}, by {taken}"
        );
        sees_nothing_of_ours(&reply)?;

        for url in ["http://api.example.com:8080/", "h2://api.example.com:8080/"] {
            let free = mesh.call("free/web", &call(url)).await;
            let (fenced, taken) = proxy.watch(mesh.call("shop/web", &call(url))).await?;
            refused_alike(url, &free, &fenced).with_context(|| format!("Host {host}"))?;
            ensure!(
                !taken.fallback(),
                "Host {host} at {url} was refused by the gateway"
            );
        }
    }
    Ok(())
}

fn sees_nothing_of_ours(reply: &Reply) -> Result<()> {
    for header in OURS {
        ensure!(reply.received(header).is_empty(), "the destination sees {header}");
    }
    Ok(())
}

/// A Sidecar of the user's opens one workload of the same namespace. It keeps what Istio gives it.
async fn a_proxy_that_lets_pass(mesh: &Mesh) -> Result<()> {
    mesh.apply_yaml(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: open, namespace: shop}
spec:
  workloadSelector: {labels: {app: open}}
  outboundTrafficPolicy: {mode: ALLOW_ANY}
  egress: [{hosts: [servicefence-system/*]}]
",
    )
    .await?;
    mesh.add_app(PodSpec::new("shop/open").http(8080)).await?;
    let proxy = mesh.proxy("shop/open")?;
    for (url, pod, by_gateway) in [
        ("http://reviews.books:8080/", "books/reviews", true),
        ("http://api.example.com:8080/", "external/api.example.com", false),
    ] {
        let call = Call::get(url).host("nothing");
        until(format!("{url} where all may pass"), SOON, async || {
            let (reply, taken) = proxy.watch(mesh.call("shop/open", &call)).await?;
            ensure!(
                reply.is_from(pod) && taken.fallback() == by_gateway,
                "{reply}, by {taken}"
            );
            sees_nothing_of_ours(&reply)
        })
        .await?;
    }
    Ok(())
}

/// As Istio refuses what it does not know: 502 for HTTP, a connection that is closed for TCP.
fn refused_alike(url: &str, free: &Reply, fenced: &Reply) -> Result<()> {
    let wanted = (!url.starts_with("tcp")).then_some(502);
    for (caller, reply) in [("without a fence", free), ("with a fence", fenced)] {
        ensure!(
            !reply.is_ok() && reply.status == wanted,
            "{url} {caller}: {reply}"
        );
        let timed_out = reply
            .error
            .as_deref()
            .is_some_and(|error| error.contains("no answer in"));
        ensure!(!timed_out, "{url} {caller} is left hanging: {reply}");
    }
    Ok(())
}
