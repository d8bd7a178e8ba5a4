//! Headless Services: callers dial the addresses of pods, for which the gateway has no route, so they stay in scope.

use anyhow::{Result, ensure};
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Call, Protocol, ServiceSpec};

use crate::scene::Scene;

crate::scenarios![headless_services_are_called_directly_before_and_after_scoping];

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
