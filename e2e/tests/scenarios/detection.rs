//! Port numbers that are not HTTP everywhere: proxies tell by the first bytes.

use anyhow::{Result, ensure};
use servicefence_e2e::install::SOON;
use servicefence_e2e::{Call, Protocol, ServiceSpec};

use crate::scene::Scene;

crate::scenarios![
    c15_calls_on_a_port_without_a_name_are_balanced_and_move_off_the_gateway,
    c15_first_calls_on_a_number_that_is_tcp_elsewhere_follow_rules,
];

/// The pods of the Service with a channel.
const NAMES: [&str; 3] = ["one", "two", "three"];

const LEARN: &str = "learning: {nonHttp: Learn}";

/// One channel, opened while the Service is out of scope.
async fn c15_calls_on_a_port_without_a_name_are_balanced_and_move_off_the_gateway(
    scene: Scene,
) -> Result<()> {
    let (web, to) = ("chan/web", "chan-data/grpc");
    let pods = NAMES.map(|name| scene.pod(&format!("chan-data/{name}")));
    for name in NAMES {
        let pod = scene.app(&format!("chan-data/{name}")).app("grpc");
        scene.mesh.add_pod(pod.serve(Protocol::Grpc, 19_090)).await?;
    }
    let service = ServiceSpec::new(&scene.pod(to)).named_port("peer", 19_090, 19_090);
    scene.mesh.add_service(&service).await?;
    scene.mesh.wait_endpoint(&scene.pod(to)).await?;
    scene.add([scene.app(web).http(8080)]).await?;
    scene.fence(web, LEARN).await?;

    let (from, url) = (scene.pod(web), format!("h2://{}:19090", scene.host(to)));
    let (proxy, mut client) = (
        scene.mesh.proxy(&from)?,
        scene.mesh.http_client(&from, &url).await?,
    );
    let (first, taken) = proxy.watch(client.get("/")).await?;
    ensure!(
        first.is_ok() && taken.uses("outbound|15080"),
        "{first}, by {taken}"
    );
    let told = first.json();
    ensure!(
        told["protocol"] == "HTTP/2.0",
        "the version is another one: {told}"
    );
    let mut servers: Vec<_> = first.served_by.into_iter().collect();
    let start = tokio::time::Instant::now();
    loop {
        ensure!(
            start.elapsed() < SOON,
            "no direct call after {} calls",
            servers.len()
        );
        let (reply, taken) = proxy.watch(client.get("/")).await?;
        ensure!(reply.is_ok(), "call {}: {reply}, by {taken}", servers.len() + 1);
        servers.extend(reply.served_by);
        if taken.uses(&scene.host(to)) && !taken.fallback() {
            break;
        }
    }
    // One that is direct is balanced by the caller's proxy.
    while !pods.iter().all(|pod| servers.contains(pod)) {
        ensure!(start.elapsed() < SOON, "{servers:?}");
        let reply = client.get("/").await;
        ensure!(reply.is_ok(), "{reply}");
        servers.extend(reply.served_by);
    }
    Ok(())
}

async fn c15_first_calls_on_a_number_that_is_tcp_elsewhere_follow_rules(scene: Scene) -> Result<()> {
    let (web, http, tcp) = ("mixed/web", "mixed-data/http", "mixed-data/tcp");
    scene
        .add([
            scene.app(web).http(8080),
            scene.app(http).serve(Protocol::Http, 19_100),
            scene.app(tcp).serve(Protocol::TcpServerFirst, 19_100),
        ])
        .await?;
    scene
        .yaml(
            "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: http, namespace: $P-mixed-data}, \
             spec: {hosts: [http], http: [{headers: {request: {set: {x-by-rule: 'yes'}}}, route: [{destination: {host: http}}]}]}}",
        )
        .await?;
    let call = Call::get(&format!("http://{}:19100/", scene.host(http)));
    let unscoped = scene
        .mesh
        .eventually(&scene.pod(web), &call, |reply| {
            reply.received("x-by-rule") == ["yes"]
        })
        .await?;
    scene.fence(web, LEARN).await?;

    let first = scene.first_call(web, http, &call).await?;
    for header in ["x-by-rule", "x-forwarded-proto", "x-envoy-attempt-count"] {
        ensure!(
            first.received(header) == unscoped.received(header),
            "{header}: {first}, and without a fence {unscoped}"
        );
    }
    ensure!(
        first.headers.get("server") == unscoped.headers.get("server"),
        "{first}"
    );
    let call = Call::get(&format!("tcp-server-first://{}:19100/", scene.host(tcp)));
    let (banner, taken) = scene.call(web, &call).await?;
    ensure!(
        banner.is_from(&scene.pod(tcp)) && taken.uses("outbound|15081"),
        "{banner}, by {taken}"
    );
    scene.learned(web, http).await?;
    scene.learned(web, tcp).await
}
