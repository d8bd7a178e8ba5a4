//! What the mesh itself promises: calls of each protocol, real admission, real Deployments, nothing left
//! behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use servicefence_e2e::{
    Background, Call, LoadSpec, Mesh, MeshOptions, Mtls, OutboundTrafficPolicy, PodSpec, Protocol, Reply,
    Server, ServiceSpec, Signal, Via, state, tools,
};

#[path = "mesh/deployments.rs"]
mod deployments;
#[path = "mesh/lifetime.rs"]
mod lifetime;

/// Takes a mesh that stays down when the test ends, however it ends.
struct TakeDown(String);

impl Drop for TakeDown {
    fn drop(&mut self) {
        if let Err(error) = state::destroy(&self.0) {
            eprintln!("mesh {}: {error:#}", self.0);
        }
    }
}

/// A command line by its words.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_mesh"))
}

async fn up() -> Mesh {
    Mesh::up(MeshOptions::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_protocol_arrives_directly_under_strict_mtls() {
    if !tools::can_run() {
        return;
    }
    let mesh = up().await;
    let reviews = PodSpec::new("books/reviews")
        .http(8080)
        .grpc(9090)
        .tcp(9000)
        .tcp_server_first(9001)
        .tls(8443);
    mesh.add_app(reviews).await.unwrap();
    mesh.add_pod(PodSpec::new("shop/web")).await.unwrap();
    mesh.add_pod(PodSpec::new("shop/plain").plain()).await.unwrap();
    let proxy = mesh.proxy("shop/web").unwrap();

    for (url, port) in [
        ("http://reviews.books:8080/", 8080),
        ("h2://reviews.books.svc:8080/", 8080),
        ("ws://reviews.books.svc.cluster.local:8080/", 8080),
        ("grpc://reviews.books:9090", 9090),
        ("tcp://reviews.books:9000", 9000),
        ("tcp-server-first://reviews.books:9001", 9001),
        ("tls://reviews.books:8443/", 8443),
    ] {
        let before = proxy.traffic().await.unwrap();
        let reply = mesh.get("shop/web", url).await;
        assert!(reply.is_from("books/reviews"), "{url}: {reply}");
        let taken = proxy.taken_since(&before).await.unwrap();
        let cluster = format!("outbound|{port}||reviews.books.svc.cluster.local");
        assert!(taken.uses(&cluster) && !taken.passthrough(), "{url} took {taken}");
        if let Some(via) = reply.via {
            assert_eq!(via, Via::Direct, "{url}");
        }
        // Without a proxy the caller has no certificate; only TLS of the app's own needs none of Istio's.
        assert!(
            !mesh.get("shop/plain", url).await.is_ok(),
            "{url} is open to plaintext"
        );
    }
    the_app_tells_what_reached_it(&mesh).await;
    connections_are_kept(&mesh).await;
}

async fn the_app_tells_what_reached_it(mesh: &Mesh) {
    let post = Call::post("http://reviews.books:8080/a/b?c=d", vec![b'x'; 100_000])
        .host("other.example")
        .header("x-a", "1");
    let reply = mesh.call("shop/web", &post).await;
    // A Host that no Service has is passed through to the address that was called, and STRICT refuses
    // plaintext.
    assert_eq!(reply.status, Some(503), "{reply}");
    let post = Call::post("http://reviews.books:8080/a/b?c=d", vec![b'x'; 100_000]).header("x-a", "1");
    let reply = mesh.call("shop/web", &post).await;
    let told = reply.json();
    assert_eq!(
        (&told["method"], &told["path"], &told["query"]),
        (&json!("POST"), &json!("/a/b"), &json!("c=d"))
    );
    assert_eq!(told["body"]["bytes"], 100_000);
    assert_eq!(reply.received("x-a"), ["1"]);
    assert_eq!(
        mesh.get("shop/web", "http://reviews.books:8080/redirect")
            .await
            .status,
        Some(302)
    );
    assert_eq!(
        mesh.get("shop/web", "http://reviews.books:8080/status/418")
            .await
            .status,
        Some(418)
    );
    let slow = mesh
        .get("shop/web", "http://reviews.books:8080/slow?ms=150")
        .await;
    assert!(
        slow.is_ok() && slow.elapsed >= Duration::from_millis(150),
        "{slow}"
    );
    let stream = mesh
        .get("shop/web", "http://reviews.books:8080/stream?n=4&ms=50")
        .await;
    assert_eq!(
        stream
            .text()
            .lines()
            .filter(|line| line.starts_with("data: "))
            .count(),
        4
    );
    let spread = stream.pieces.last().unwrap().saturating_sub(stream.pieces[0]);
    assert!(
        spread >= Duration::from_millis(100),
        "the events came together: {:?}",
        stream.pieces
    );
    let stream = mesh
        .call(
            "shop/web",
            &Call::post("grpc://reviews.books:9090", "one\ntwo\nthree"),
        )
        .await;
    assert_eq!(
        (stream.grpc_status, stream.text().as_str()),
        (Some(0), "one\ntwo\nthree"),
        "{stream}"
    );
    let refused = mesh.get("shop/web", "grpc://reviews.books:9090/status/7").await;
    assert_eq!(refused.grpc_status, Some(7), "{refused}");
}

async fn connections_are_kept(mesh: &Mesh) {
    let mut client = mesh
        .http_client("shop/web", "http://reviews.books:8080")
        .await
        .unwrap();
    assert!(client.get("/").await.new_connection);
    assert!(!client.get("/").await.new_connection);
    let mut session = mesh
        .tcp_session("shop/web", "tcp-server-first://reviews.books:9001")
        .await
        .unwrap();
    assert_eq!(session.served_by.as_deref(), Some("books/reviews"));
    assert_eq!(session.exchange(b"abc").await.unwrap(), "abc");
    assert!(!session.ends_within(Duration::from_millis(200)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn istiods_webhook_refuses_a_bad_object() {
    if !tools::can_run() {
        return;
    }
    let mesh = up().await;
    let host = |host: &str| {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "reviews", "namespace": "default"},
            "spec": {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": host}, "weight": -1}]}]},
        })
    };
    let error = format!("{:#}", mesh.apply(&host("reviews")).await.unwrap_err());
    assert!(
        error.contains("admission webhook \"rev.validation.istio.io\" denied the request"),
        "{error}"
    );
    assert!(error.contains("weight -1 < 0"), "{error}");
    mesh.apply(&json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "reviews", "namespace": "default"},
        "spec": {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}]}]},
    }))
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_outside_and_policies_are_istios() {
    if !tools::can_run() {
        return;
    }
    let options = MeshOptions::default()
        .outbound(OutboundTrafficPolicy::RegistryOnly)
        .mtls(Mtls::Permissive);
    let mesh = Mesh::up(options).await.unwrap();
    let servers = [
        Server {
            protocol: Protocol::Http,
            port: 80,
        },
        Server {
            protocol: Protocol::Tls,
            port: 443,
        },
    ];
    mesh.add_external("api.example.com", &servers).await.unwrap();
    mesh.add_pod(PodSpec::new("shop/web")).await.unwrap();
    mesh.add_pod(PodSpec::new("shop/plain").plain()).await.unwrap();
    mesh.add_app(PodSpec::new("books/reviews").http(8080))
        .await
        .unwrap();

    assert!(
        mesh.get("shop/plain", "http://api.example.com/")
            .await
            .is_from("external/api.example.com")
    );
    let refused = mesh.get("shop/web", "http://api.example.com/").await;
    assert!(
        !refused.is_ok(),
        "REGISTRY_ONLY lets an unknown host through: {refused}"
    );
    mesh.apply_yaml(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec:
  hosts: [api.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
  resolution: DNS
",
    )
    .await
    .unwrap();
    for url in ["http://api.example.com/", "tls://api.example.com/"] {
        let is_known = |reply: &Reply| reply.is_from("external/api.example.com");
        mesh.eventually("shop/web", &Call::get(url), is_known)
            .await
            .unwrap();
    }
    // MeshConfig can change while the mesh runs.
    mesh.add_external("other.example.com", &servers).await.unwrap();
    let other = Call::get("http://other.example.com/");
    assert!(!mesh.call("shop/web", &other).await.is_ok());
    mesh.set_mesh_config("outboundTrafficPolicy: {mode: ALLOW_ANY}")
        .await
        .unwrap();
    mesh.eventually("shop/web", &other, Reply::is_ok).await.unwrap();
    // PERMISSIVE: plaintext is let in, and the server can tell.
    let reply = mesh.get("shop/plain", "http://reviews.books:8080/").await;
    assert_eq!((reply.status, reply.via), (Some(200), Some(Via::Plaintext)));
}

#[tokio::test(flavor = "multi_thread")]
async fn load_counts_what_happened_and_services_follow_their_pods() {
    if !tools::can_run() {
        return;
    }
    let mesh = up().await;
    let version = |name: &str| {
        PodSpec::new(&format!("books/{name}"))
            .app("reviews")
            .http(8080)
            .tcp(9000)
    };
    mesh.add_service(&ServiceSpec::of(&version("one"))).await.unwrap();
    mesh.add_pods(vec![version("one"), version("two"), PodSpec::new("shop/web")])
        .await
        .unwrap();
    mesh.wait_service("books/reviews", 2).await.unwrap();
    let web = mesh.proxy("shop/web").unwrap();
    let small = web.figures().await.unwrap();

    let spec = LoadSpec::new("shop/web")
        .get("http://reviews.books:8080/")
        .get("tcp://reviews.books:9000");
    let load = mesh.start_load(&spec).await.unwrap();
    load.more(400).await.unwrap();
    // While calls run: a pod stops being ready, then a big mesh appears around them.
    mesh.set_ready("books/one", false).await.unwrap();
    mesh.wait_service("books/reviews", 1).await.unwrap();
    let background = Background {
        tcp_every: 10,
        ..Background::new("crowd", 200)
    };
    let names = mesh.background_services(&background).await.unwrap();
    assert_eq!((names.len(), names[150].as_str()), (200, "crowd-1/service-150"));
    mesh.wait_cluster("shop/web", "service-199.crowd-1", true)
        .await
        .unwrap();
    load.more(400).await.unwrap();
    let report = load.stop().await;

    assert!(
        report.served_by("books/one") > 0 && report.served_by("books/two") > 0,
        "{report}"
    );
    assert_eq!(report.failed, 0, "{report}");
    assert!(report.count(|via| *via == Via::Direct) > 0, "{report}");
    let big = web.figures().await.unwrap();
    assert!(
        big.clusters >= small.clusters + 200 && big.endpoints >= 1000,
        "{small:?} {big:?}"
    );
    assert!(big.allocated_bytes > small.allocated_bytes, "{small:?} {big:?}");
    assert!(web.stat("cluster_manager.cds.update_success").await.unwrap() > 0);
    assert!(mesh.syncz().await.unwrap().as_array().unwrap().len() >= 3);
    assert!(
        mesh.istiod_metric("pilot_xds_pushes")
            .await
            .unwrap()
            .values()
            .sum::<f64>()
            > 0.0
    );

    mesh.signal("books/two", "mesh app", Signal::SIGKILL).unwrap();
    let dead = mesh.get("shop/web", "http://reviews.books:8080/").await;
    assert!(
        !dead.is_ok() && !report.to_string().is_empty(),
        "a killed app still answers: {dead}"
    );
    let dump = mesh.dump();
    assert!(
        dump.contains("web.shop in sync") && dump.contains("configuration in"),
        "{dump}"
    );
}
