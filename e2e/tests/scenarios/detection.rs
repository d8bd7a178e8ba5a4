//! Port numbers that are not HTTP everywhere: proxies tell by the first bytes.

use anyhow::{Result, ensure};
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Call, Protocol, Server, ServiceSpec};

use crate::scene::Scene;

crate::scenarios![
    c15_calls_on_a_port_without_a_name_are_balanced_and_move_off_the_gateway,
    c15_first_calls_on_a_number_that_is_tcp_elsewhere_follow_rules,
    c15_what_is_no_service_is_called_as_before_on_a_number_that_is_looked_at,
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

/// Of two filter chains Envoy prefers the one with the port number, and looks at no other if its addresses
/// do not fit.
async fn c15_what_is_no_service_is_called_as_before_on_a_number_that_is_looked_at(
    scene: Scene,
) -> Result<()> {
    let (web, peer, bytes) = ("outward/web", "outward-data/peer", "outward-data/bytes");
    let pod = scene.app(peer);
    let pod = pod.serve(Protocol::Http, 19_110).serve(Protocol::Tcp, 19_111);
    scene.mesh.add_pod(pod).await?;
    // Two Services, since the one that is learned brings its listeners.
    for (name, protocol, port) in [(peer, Protocol::Http, 19_110), (bytes, Protocol::Tcp, 19_111)] {
        let service = ServiceSpec::new(&scene.pod(name)).selects("peer");
        scene.mesh.add_service(&service.port(protocol, port)).await?;
        scene.mesh.wait_endpoint(&scene.pod(name)).await?;
    }
    scene.add([scene.app(web).http(8080)]).await?;
    let server = Server {
        protocol: Protocol::Http,
        port: 19_110,
    };
    let outside = scene.mesh.add_external("outward.example.com", &[server]).await?;
    scene.fence(web, LEARN).await?;
    let url = format!("tcp://{}:19111", scene.host(bytes));
    let mut session = scene.mesh.tcp_session(&scene.pod(web), &url).await?;
    session.exchange(b"in the tunnel\n").await?;
    let proxy = scene.mesh.proxy(&scene.pod(web))?;
    let in_place = "listener_manager.listener_in_place_updated";
    let before = proxy.stat(in_place).await?;

    let undeclared = ServiceSpec::new(&scene.pod("outward-data/peers"))
        .selects("peer")
        .named_port("peer", 19_110, 19_110);
    scene.mesh.add_service(&undeclared).await?;
    scene.mesh.wait_endpoint(&scene.pod("outward-data/peers")).await?;
    until("the number is looked at", SOON, async || {
        let listeners = proxy.listeners().await?;
        ensure!(
            !listeners.iter().any(|name| name.ends_with("_19110")),
            "{listeners:?}"
        );
        // Envoy would give the connections of a listener that is modified as a whole 45 seconds.
        ensure!(
            proxy.stat(in_place).await? > before,
            "no listener has other chains"
        );
        Ok(())
    })
    .await?;

    for url in [
        "http://outward.example.com:19110/".to_owned(),
        format!("http://{}:19110/", outside.ip),
    ] {
        let (reply, taken) = scene.call(web, &Call::get(&url)).await?;
        ensure!(reply.is_ok() && !taken.fallback(), "{url}: {reply}, by {taken}");
    }
    let call = Call::get(&format!("http://{}:19110/", scene.host("outward-data/peers")));
    let (first, taken) = scene.call(web, &call).await?;
    ensure!(
        first.is_ok() && taken.uses("outbound|15080"),
        "{first}, by {taken}"
    );
    session.exchange(b"still\n").await?;
    Ok(())
}
