//! Calls to the addresses of pods, for which the gateway has no route: headless Services, which stay in scope
//! or are learned, and other Services with callers that balance by themselves.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use servicefence_e2e::install::{GATEWAY, SOON};
use servicefence_e2e::wait::{Hopeless, LONG, until};
use servicefence_e2e::{Call, LoadSpec, Protocol, ServiceSpec, Via};

use crate::scene::Scene;

crate::scenarios![
    headless_services_are_called_directly_before_and_after_scoping,
    peers_behind_a_headless_service_are_learned,
    balanced_by_the_caller_a_service_is_served_and_learned,
    traffic_to_headless_services_survives_their_way_out_of_a_scope_and_back,
];

async fn headless_services_are_called_directly_before_and_after_scoping(scene: Scene) -> Result<()> {
    const KINDS: [(&str, Protocol, &str, u16); 2] = [
        ("web-peers", Protocol::Http, "http", 8080),
        ("db-peers", Protocol::TcpServerFirst, "tcp-server-first", 19_005),
    ];
    let server = scene.app("data/server").http(8080).tcp_server_first(19_005);
    scene.mesh.add_pod(server).await?;
    scene.add([scene.app("shop/web").http(8080)]).await?;
    for (name, protocol, _, port) in KINDS {
        let name = scene.pod(&format!("data/{name}"));
        let service = ServiceSpec::new(&name).selects("server").headless();
        scene.mesh.add_service(&service.port(protocol, port)).await?;
    }
    let calls = KINDS.map(|(name, _, scheme, port)| {
        let name = format!("data/{name}");
        let call = Call::get(&format!("{scheme}://{}:{port}/", scene.host(&name)));
        (name, call)
    });
    let direct = async |name: &str, call: &Call| {
        let (reply, taken) = scene.call("shop/web", call).await?;
        ensure!(
            reply.is_from(&scene.pod("data/server")),
            "{name}: {reply}, by {taken}"
        );
        ensure!(
            taken.uses(&scene.host(name)) && !taken.fallback() && !taken.passthrough(),
            "{name}: by {taken}"
        );
        Ok(())
    };
    for (name, call) in &calls {
        until(format!("{name} before scoping"), SOON, async || {
            direct(name, call).await
        })
        .await?;
    }
    // Also where the owner accepts that other services leave.
    scene.fence("shop/web", "learning: {nonHttp: Learn}").await?;
    let scope = scene.scope("shop/web").await?;
    for (name, call) in &calls {
        ensure!(scope.contains(&scene.import(name)), "{name} is not in {scope:?}");
        direct(name, call).await?;
    }
    let learned = scene.learned_hosts("shop/web").await?;
    ensure!(learned.is_empty(), "learned: {learned:?}");
    Ok(())
}

/// A headless Service with a pod of its own: one call teaches all that share a pod.
async fn headless(scene: &Scene, pod: &str, name: &str) -> Result<()> {
    scene.mesh.add_pod(scene.app(pod).http(8080)).await?;
    let (namespace, app) = pod.split_once('/').context("namespace/name")?;
    let name = scene.pod(&format!("{namespace}/{name}"));
    let service = ServiceSpec::new(&name).selects(app).headless();
    scene.mesh.add_service(&service.port(Protocol::Http, 8080)).await
}

/// The same twice, in namespace `soft`, where pods take plain text too.
async fn permissive(scene: &Scene, pods: [(&str, &str); 2]) -> Result<()> {
    for (pod, name) in pods {
        headless(scene, &format!("soft/{pod}"), name).await?;
    }
    scene
        .yaml(
            "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
              metadata: {name: default, namespace: $P-soft}, spec: {mtls: {mode: PERMISSIVE}}}",
        )
        .await
}

async fn peers_behind_a_headless_service_are_learned(scene: Scene) -> Result<()> {
    permissive(&scene, [("one", "peers"), ("two", "quorum")]).await?;
    headless(&scene, "strict/three", "vault").await?;
    scene
        .mesh
        .add_pod(scene.app("bare/four").http(8080).plain())
        .await?;
    let bare = ServiceSpec::new(&scene.pod("bare/open"))
        .selects("four")
        .headless();
    scene.mesh.add_service(&bare.port(Protocol::Http, 8080)).await?;
    scene.add([scene.app("shop/web").http(8080)]).await?;
    scene.fence("shop/web", "learning: {headless: Learn}").await?;
    let scope = scene.scope("shop/web").await?;
    for name in ["soft/peers", "soft/quorum", "strict/vault", "bare/open"] {
        ensure!(!scope.contains(&scene.import(name)), "{name} is in {scope:?}");
    }
    let url = |name: &str| format!("http://{}:8080/", scene.host(name));
    let quorum = Call::get(&url("soft/quorum")).host(&format!("two.{}", scene.host("soft/quorum")));
    let by_gateway = || Via::Through(GATEWAY.to_owned());
    for (pod, name, call, via, later) in [
        (
            "soft/one",
            "soft/peers",
            Call::get(&url("soft/peers")),
            by_gateway(),
            Via::Direct,
        ),
        // By the name of its pod.
        ("soft/two", "soft/quorum", quorum, by_gateway(), Via::Direct),
        (
            "strict/three",
            "strict/vault",
            Call::get(&url("strict/vault")),
            by_gateway(),
            Via::Direct,
        ),
        (
            "bare/four",
            "bare/open",
            Call::get(&url("bare/open")),
            Via::Plaintext,
            Via::Plaintext,
        ),
    ] {
        let (reply, taken) = scene.call("shop/web", &call).await?;
        ensure!(
            reply.is_from(&scene.pod(pod)) && taken.fallback(),
            "first call to {name}: {reply}, by {taken}"
        );
        ensure!(reply.via == Some(via), "first call to {name}: {reply}");
        scene.learned("shop/web", name).await?;
        until(format!("a direct call to {name}"), SOON, async || {
            let (reply, taken) = scene.call("shop/web", &call).await?;
            if !reply.is_from(&scene.pod(pod)) {
                return Err(Hopeless(anyhow!("{reply}, by {taken}")).into());
            }
            ensure!(
                taken.uses(&scene.host(name)) && reply.via.as_ref() == Some(&later),
                "{reply}, by {taken}"
            );
            Ok(())
        })
        .await?;
    }
    let learned = scene.learned_hosts("shop/web").await?;
    let expected = ["soft/peers", "soft/quorum", "strict/vault", "bare/open"].map(|name| scene.host(name));
    ensure!(learned == expected.into(), "learned: {learned:?}");
    Ok(())
}

/// gRPC clients that resolve Services by themselves, and network plugins that balance sockets, dial pods and
/// keep the Service's name as Host.
async fn balanced_by_the_caller_a_service_is_served_and_learned(scene: Scene) -> Result<()> {
    scene
        .add([
            scene.app("books/reviews").http(8080),
            scene.app("shop/web").http(8080),
        ])
        .await?;
    scene.enforce("shop", &["web"]).await?;
    let address = scene.mesh.pod(&scene.pod("books/reviews"))?.ip;
    let host = format!("reviews.{}:8080", scene.ns("books"));
    let call = Call::get(&format!("http://{address}:8080/")).host(&host);
    scene.first_call("shop/web", "books/reviews", &call).await?;
    scene.learned("shop/web", "books/reviews").await?;
    scene.until_direct("shop/web", "books/reviews", &call).await?;
    Ok(())
}

/// One is called all the time, so it is learned as it leaves. Of the other, one call is under way until its
/// clusters are gone.
async fn traffic_to_headless_services_survives_their_way_out_of_a_scope_and_back(scene: Scene) -> Result<()> {
    // Milliseconds: several times as long as hosts take to leave.
    const UNDER_WAY: &str = "25000";
    permissive(&scene, [("one", "peers"), ("two", "quorum")]).await?;
    scene.add([scene.app("shop/web").http(8080)]).await?;
    scene.fence("shop/web", "learning: {headless: Keep}").await?;
    let url = |name: &str, path: &str| format!("http://{}:8080/{path}", scene.host(name));
    let from = scene.pod("shop/web");
    let load = LoadSpec::new(&from)
        .clients(4)
        .pause(Duration::from_millis(5))
        .get(&url("soft/peers", ""));
    let load = scene.mesh.start_load(&load).await?;
    load.more(50).await?;
    let slow = Call::get(&url("soft/quorum", &format!("slow?ms={UNDER_WAY}"))).timeout(LONG);
    let meanwhile = async {
        scene.fence("shop/web", "learning: {headless: Learn}").await?;
        scene.learned("shop/web", "soft/peers").await?;
        let namespace = scene.ns("shop");
        scene.mesh.wait_at_rest(&namespace).await?;
        anyhow::Ok(Instant::now())
    };
    let called = async {
        let reply = scene.mesh.call(&from, &slow).await;
        (reply, Instant::now())
    };
    let ((reply, ended), at_rest) = tokio::join!(called, meanwhile);
    ensure!(at_rest? < ended, "the call did not outlive the clusters");
    ensure!(
        reply.is_from(&scene.pod("soft/two")) && reply.via == Some(Via::Direct),
        "the call under way: {reply}"
    );
    let scope = scene.scope("shop/web").await?;
    ensure!(
        !scope.contains(&scene.import("soft/quorum")),
        "it did not leave: {scope:?}"
    );
    load.more(50).await?;
    let met = load.stop().await;
    ensure!(met.failed == 0, "{met}");
    let missed = met.count(|via| *via == Via::Through(GATEWAY.to_owned()));
    ensure!(missed > 0 && missed < met.calls, "no call was a miss: {met}");
    Ok(())
}
