//! Headless Services: callers dial the addresses of pods, for which the gateway has no route. They stay in scope, or are
//! learned where a first call may be plain text.

use anyhow::{Result, anyhow, ensure};
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::{Hopeless, until};
use servicefence_e2e::{Call, Protocol, ServiceSpec, Via};

use crate::scene::Scene;

crate::scenarios![
    headless_services_are_called_directly_before_and_after_scoping,
    peers_behind_a_headless_service_are_learned_where_plain_text_is_taken,
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

/// Each has a pod of its own: one call teaches all that share a pod.
async fn peers_behind_a_headless_service_are_learned_where_plain_text_is_taken(scene: Scene) -> Result<()> {
    for (namespace, pod, name) in [
        ("soft", "one", "peers"),
        ("soft", "two", "quorum"),
        ("strict", "three", "vault"),
    ] {
        let server = scene.app(&format!("{namespace}/{pod}")).http(8080);
        scene.mesh.add_pod(server).await?;
        let name = scene.pod(&format!("{namespace}/{name}"));
        let service = ServiceSpec::new(&name).selects(pod).headless();
        scene
            .mesh
            .add_service(&service.port(Protocol::Http, 8080))
            .await?;
    }
    scene.add([scene.app("shop/web").http(8080)]).await?;
    scene
        .yaml(
            "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
              metadata: {name: default, namespace: $P-soft}, spec: {mtls: {mode: PERMISSIVE}}}",
        )
        .await?;
    scene.fence("shop/web", "learning: {headless: Learn}").await?;
    let scope = scene.scope("shop/web").await?;
    ensure!(
        scope.contains(&scene.import("strict/vault")),
        "a first call would be refused: {scope:?}"
    );
    for name in ["soft/peers", "soft/quorum"] {
        ensure!(!scope.contains(&scene.import(name)), "{name} is in {scope:?}");
    }
    let url = |name: &str| format!("http://{}:8080/", scene.host(name));
    let quorum = Call::get(&url("soft/quorum")).host(&format!("two.{}", scene.host("soft/quorum")));
    for (pod, name, call) in [
        ("soft/one", "soft/peers", Call::get(&url("soft/peers"))),
        // By the name of its pod.
        ("soft/two", "soft/quorum", quorum),
    ] {
        let (reply, taken) = scene.call("shop/web", &call).await?;
        ensure!(
            reply.is_from(&scene.pod(pod)) && taken.fallback(),
            "first call to {name}: {reply}, by {taken}"
        );
        ensure!(reply.via == Some(Via::Plaintext), "first call to {name}: {reply}");
        scene.learned("shop/web", name).await?;
        until(format!("a direct call to {name}"), SOON, async || {
            let (reply, taken) = scene.call("shop/web", &call).await?;
            if !reply.is_from(&scene.pod(pod)) {
                return Err(Hopeless(anyhow!("{reply}, by {taken}")).into());
            }
            ensure!(
                taken.uses(&scene.host(name)) && reply.via == Some(Via::Direct),
                "{reply}, by {taken}"
            );
            Ok(())
        })
        .await?;
    }
    let (reply, taken) = scene.call("shop/web", &Call::get(&url("strict/vault"))).await?;
    ensure!(
        reply.is_from(&scene.pod("strict/three")) && taken.uses(&scene.host("strict/vault")),
        "{reply}, by {taken}"
    );
    let learned = scene.learned_hosts("shop/web").await?;
    let expected = ["soft/peers", "soft/quorum"].map(|name| scene.host(name));
    ensure!(learned == expected.into(), "learned: {learned:?}");
    Ok(())
}
