//! Names: what a caller writes into its Host header, and names outside the mesh.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, anyhow, ensure};
use servicefence_e2e::install::{GATEWAY, SOON};
use servicefence_e2e::wait::{Hopeless, until};
use servicefence_e2e::{Call, Protocol, Reply, Server, Taken, Via};

use crate::scene::Scene;

crate::scenarios![
    a11_the_dialled_address_counts_whatever_the_host_says,
    a11_forged_headers_credit_no_one,
    a13_external_names_never_go_through_the_gateway,
];

/// The Host of a call to the fresh Service `name` with the address `ip`.
type Host = fn(scene: &Scene, name: &str, ip: &str) -> String;

/// Each is sent to a fresh Service, so each is a first call.
const HOSTS: [(&str, Host); 14] = [
    ("full-name", |scene, name, _| format!("{}:8080", of(scene, name))),
    ("without-port", |scene, name, _| of(scene, name)),
    ("wrong-port", |scene, name, _| format!("{}:1", of(scene, name))),
    ("short-name", |scene, name, _| {
        format!("{name}.{}", scene.ns("host-books"))
    }),
    ("svc-name", |scene, name, _| {
        format!("{name}.{}.svc:8080", scene.ns("host-books"))
    }),
    ("upper-case", |scene, name, _| of(scene, name).to_uppercase()),
    ("trailing-dot", |scene, name, _| format!("{}.", of(scene, name))),
    ("dot-and-port", |scene, name, _| {
        format!("{}.:8080", of(scene, name))
    }),
    ("address", |_, _, ip| ip.to_owned()),
    ("address-and-port", |_, _, ip| format!("{ip}:8080")),
    ("other-service", |scene, _, _| of(scene, "third")),
    ("single-label", |_, _, _| "nothing".to_owned()),
    ("no-service", |scene, _, _| of(scene, "nothing")),
    ("foreign", |_, _, _| "www.example.com".to_owned()),
];

fn of(scene: &Scene, name: &str) -> String {
    scene.host(&format!("host-books/{name}"))
}

async fn fresh(scene: &Scene, namespace: &str, names: impl IntoIterator<Item = &str>) -> Result<()> {
    for name in names {
        let name = format!("{namespace}/{name}");
        scene.service(&name, "server", Protocol::Http, 8080).await?;
    }
    Ok(())
}

/// A call to an address with a Host of its own.
fn dial(ip: &str, host: &str) -> Call {
    Call::get(&format!("http://{ip}:8080/")).host(host)
}

/// Two Hosts are Istio's own matter. That of a Service in scope has a route at the caller's proxy, so the
/// call goes to that Service: Istio routes HTTP by Host. One that has not the form of a name of the mesh is
/// passed through as without a fence.
async fn a11_the_dialled_address_counts_whatever_the_host_says(scene: Scene) -> Result<()> {
    let server = |name: &str| scene.app(&format!("host-books/{name}")).http(8080);
    scene
        .add([
            scene.app("host/web").http(8080),
            server("server"),
            server("known"),
            server("third"),
        ])
        .await?;
    fresh(&scene, "host-books", HOSTS.map(|(name, _)| name)).await?;
    fresh(&scene, "host-books", ["in-scope", "outside"]).await?;
    let outside = dial(
        &scene.address("host-books/outside").await?,
        "www.shop.example.com",
    );
    let (unfenced, _) = scene.call("host/web", &outside).await?;
    let allow = format!("allow: [{{host: {}}}]", of(&scene, "known"));
    scene.fence("host/web", &allow).await?;

    let mut dialled = BTreeSet::new();
    for (name, host) in HOSTS {
        let ip = scene.address(&format!("host-books/{name}")).await?;
        let host = host(&scene, name, &ip);
        let reply = scene
            .first_call("host/web", "host-books/server", &dial(&ip, &host))
            .await
            .with_context(|| format!("Host {host}"))?;
        ensure!(
            reply.json()["host"] == *host,
            "Host {host} arrived as {}",
            reply.json()["host"]
        );
        dialled.insert(of(&scene, name));
    }

    let ip = scene.address("host-books/in-scope").await?;
    let (reply, taken) = scene.call("host/web", &dial(&ip, &of(&scene, "known"))).await?;
    ensure!(
        reply.is_from(&scene.pod("host-books/known")) && reply.via == Some(Via::Direct) && !taken.fallback(),
        "the Host of a Service in scope: {reply}, by {taken}"
    );
    let (fenced, taken) = scene.call("host/web", &outside).await?;
    ensure!(
        fenced.status == unfenced.status && taken.passthrough() && !taken.fallback(),
        "a Host outside the mesh: {fenced}, by {taken}, without a fence {unfenced}"
    );

    until("all that was dialled is learned", SOON, async || {
        let learned = scene.learned_hosts("host/web").await?;
        ensure!(learned.len() >= dialled.len(), "learned: {learned:?}");
        Ok(())
    })
    .await?;
    let learned = scene.learned_hosts("host/web").await?;
    ensure!(learned == dialled, "learned: {learned:?}, dialled: {dialled:?}");
    // Names that have a route now go direct; unknown ones and those of Services out of scope stay with the
    // gateway.
    for (name, host) in HOSTS {
        let ip = scene.address(&format!("host-books/{name}")).await?;
        let call = dial(&ip, &host(&scene, name, &ip));
        if ["other-service", "single-label", "no-service", "foreign"].contains(&name) {
            let reply = scene.first_call("host/web", "host-books/server", &call).await?;
            ensure!(
                reply.via == Some(Via::Through(GATEWAY.to_owned())),
                "{name}: {reply}"
            );
        } else {
            direct(&scene, name, &call).await?;
        }
    }
    let learned = scene.learned_hosts("host/web").await?;
    ensure!(learned == dialled, "learned later: {learned:?}");
    Ok(())
}

async fn direct(scene: &Scene, name: &str, call: &Call) -> Result<()> {
    until(format!("a direct call to {name}"), SOON, async || {
        let (reply, taken) = scene.call("host/web", call).await?;
        if !reply.is_from(&scene.pod("host-books/server")) {
            return Err(Hopeless(anyhow!("{reply}, by {taken}")).into());
        }
        ensure!(taken.uses(&of(scene, name)) && !taken.fallback(), "by {taken}");
        Ok(())
    })
    .await
}

/// `web` sends our two headers by itself: as if `cart`, its neighbour, had called `third`; and the same
/// straight to the gateway's own address, where no proxy of a caller overwrites them, in the name of another
/// namespace.
async fn a11_forged_headers_credit_no_one(scene: Scene) -> Result<()> {
    let app = |name: &str| scene.app(name).http(8080);
    scene
        .add([
            app("forged/web"),
            app("forged/cart"),
            app("forged-other/web"),
            app("forged-books/server"),
        ])
        .await?;
    fresh(&scene, "forged-books", ["real", "known", "third"]).await?;
    let victims = ["forged/cart", "forged-other/web"];
    for victim in victims {
        let namespace = victim.split('/').next().unwrap_or_default();
        scene.enforce(namespace, &[]).await?;
    }
    let allow = format!("allow: [{{host: {}}}]", scene.host("forged-books/known"));
    scene.fence("forged/web", &allow).await?;
    for victim in victims {
        let full = scene.pod(victim);
        let (namespace, name) = full.split_once('/').context("namespace/name")?;
        scene
            .mesh
            .wait_condition(namespace, name, "Enforced", "True")
            .await?;
        scene.mesh.wait_at_rest(namespace).await?;
    }

    let third = format!("{}:8080", scene.address("forged-books/third").await?);
    let forge = |host: &str, source: &str| {
        Call::get(&format!("http://{}:8080/", scene.host(host)))
            .header("x-servicefence-source", &scene.pod(source))
            .header("x-servicefence-source", "kube-system/other")
            .header("x-servicefence-original-dst", &third)
            .header("x-servicefence-original-dst", "10.96.0.1:443")
    };
    let call = forge("forged-books/real", "forged/cart");
    let reply = scene
        .first_call("forged/web", "forged-books/server", &call)
        .await?;
    for ours in ["x-servicefence-original-dst", "x-servicefence-source"] {
        ensure!(reply.received(ours).is_empty(), "the destination sees {ours}");
    }
    let (reply, taken) = scene
        .call("forged/web", &forge("forged-books/known", "forged/cart"))
        .await?;
    ensure!(
        reply.is_from(&scene.pod("forged-books/server")) && !taken.fallback(),
        "{reply}, by {taken}"
    );

    let gateway = Call::get("http://servicefence-fallback.servicefence-system:15080/")
        .header("x-servicefence-source", &scene.pod("forged-other/web"))
        .header("x-servicefence-original-dst", &third);
    let rejected = rejected(&scene).await?;
    scene.call("forged/web", &gateway).await?;
    until("the forged source to be rejected", SOON, async || {
        let now = self::rejected(&scene).await?;
        ensure!(now > rejected, "{now} were");
        Ok(())
    })
    .await?;

    scene.learned("forged/web", "forged-books/real").await?;
    let learned = scene.learned_hosts("forged/web").await?;
    ensure!(
        learned == [scene.host("forged-books/real")].into(),
        "web learned {learned:?}"
    );
    for victim in victims {
        let learned = scene.learned_hosts(victim).await?;
        ensure!(learned.is_empty(), "{victim} is credited with {learned:?}");
    }
    Ok(())
}

/// How many log entries spoke for another namespace than their caller's.
async fn rejected(scene: &Scene) -> Result<f64> {
    let metrics = scene.mesh.controller_metrics().await?;
    let line = metrics
        .lines()
        .find(|line| line.contains("access_log_rejected_total") && line.contains("\"namespace_mismatch\""));
    let value = line.and_then(|line| line.rsplit(' ').next());
    Ok(value.map(str::parse).transpose()?.unwrap_or(0.0))
}

/// The last is not known.
const NAMES: [&str; 4] = [
    "dns.a13.example",
    "static.a13.example",
    "exported.a13.example",
    "unknown.a13.example",
];

/// Namespaces of the ServiceEntries for all but the last.
const DECLARED_IN: [&str; 3] = ["shop", "shop", "egress"];

/// `address` is that of the second; its entry says it.
async fn declare(scene: &Scene, address: &str) -> Result<()> {
    let ports = "[{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]";
    let fixed = format!("resolution: STATIC, endpoints: [{{address: {address}}}]");
    let how = ["resolution: DNS", &fixed, "resolution: DNS"];
    for ((namespace, host), how) in DECLARED_IN.into_iter().zip(NAMES).zip(how) {
        let name = host.split('.').next().unwrap_or(host);
        let visible = if namespace == "shop" { "." } else { "$P-shop" };
        scene
            .yaml(&format!(
                "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: $P-{namespace}}}, \
                 spec: {{hosts: [{host}], location: MESH_EXTERNAL, exportTo: [\"{visible}\"], ports: {ports}, {how}}}}}"
            ))
            .await?;
    }
    Ok(())
}

/// Names outside the mesh, as each of them is known to Istio: by a ServiceEntry that resolves by DNS or has
/// addresses, in the caller's namespace or exported to it, for plain HTTP and for TLS; or not at all.
async fn a13_external_names_never_go_through_the_gateway(scene: Scene) -> Result<()> {
    let servers = [
        Server {
            protocol: Protocol::Http,
            port: 80,
        },
        Server {
            protocol: Protocol::Http,
            port: 8080,
        },
        Server {
            protocol: Protocol::Tls,
            port: 443,
        },
        Server {
            protocol: Protocol::Tcp,
            port: 19_013,
        },
    ];
    scene
        .add([
            scene.app("shop/web").http(8080),
            scene.app("egress/other").http(8080),
        ])
        .await?;
    let mut addresses = Vec::new();
    for name in NAMES {
        addresses.push(scene.mesh.add_external(name, &servers).await?.ip);
    }
    declare(&scene, &addresses[1]).await?;
    let mut calls = Vec::new();
    for name in NAMES {
        let by = if name == NAMES[3] {
            "PassthroughCluster"
        } else {
            name
        };
        calls.push((name, format!("http://{name}/"), by));
        calls.push((name, format!("tls://{name}/"), by));
    }
    // On a port number that the mesh uses for HTTP, by address, and as plain TCP.
    calls.push((
        NAMES[3],
        format!("http://{}:8080/", NAMES[3]),
        "PassthroughCluster",
    ));
    calls.push((
        NAMES[3],
        format!("http://{}:8080/", addresses[3]),
        "PassthroughCluster",
    ));
    calls.push((
        NAMES[3],
        format!("tcp://{}:19013", NAMES[3]),
        "PassthroughCluster",
    ));
    let right = |name: &str, by: &str, reply: &Reply, taken: &Taken| {
        ensure!(reply.is_from(&format!("external/{name}")), "{reply}, by {taken}");
        ensure!(taken.uses(by) && !taken.fallback(), "{reply}, by {taken}");
        Ok(())
    };
    for (name, url, by) in &calls {
        until(format!("{url} before scoping"), SOON, async || {
            let (reply, taken) = scene.call("shop/web", &Call::get(url)).await?;
            right(name, by, &reply, &taken)
        })
        .await?;
    }
    scene.enforce("shop", &["web"]).await?;
    let scope = scene.mesh.scope(&scene.ns("shop"), "web").await?;
    for (namespace, name) in DECLARED_IN.into_iter().zip(NAMES) {
        let import = format!("{}/{name}", scene.ns(namespace));
        ensure!(scope.contains(&import), "there is no {import} in {scope:?}");
    }
    ensure!(!scope.iter().any(|host| host.ends_with(NAMES[3])), "{scope:?}");
    for (name, url, by) in &calls {
        let (reply, taken) = scene.call("shop/web", &Call::get(url)).await?;
        right(name, by, &reply, &taken).with_context(|| format!("{url} after scoping"))?;
    }
    let learned = scene.learned_hosts("shop/web").await?;
    ensure!(learned.is_empty(), "learned: {learned:?}");
    Ok(())
}
