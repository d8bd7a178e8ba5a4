//! Every kind of HTTP exchange works as a first call, and gives what a direct call gives.
//!
//! One server stands behind many Services. The caller's fence allows the Service `direct`; every
//! other one is fresh, so a call to it is the first of a new pair. Both paths lead to the same pod,
//! so what they give can be compared at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use http::Version;
use servicefence_e2e::fuzz::REQUEST_HEADERS_THAT_DIFFER;
use servicefence_e2e::install::{GATEWAY, SOON};
use servicefence_e2e::wait::until;
use servicefence_e2e::{Call, Protocol, Reply, Via};

use crate::scene::Scene;

crate::scenarios![
    a8_a_first_call_may_take_longer_than_15_seconds,
    a8_first_calls_carry_large_bodies_streams_and_redirects,
    a8_first_calls_carry_websocket_and_http2,
    a8_first_calls_carry_grpc,
    a8_a_kept_alive_connection_goes_from_gateway_to_direct,
    a8_first_calls_arrive_with_the_headers_of_direct_ones,
    a8_first_calls_may_have_as_many_headers_as_direct_ones,
];

const MIB: usize = 1024 * 1024;
const LARGE: usize = 20 * MIB;

/// A caller, a server, and the Services in front of it.
struct Pair {
    scene: Scene,
    caller: String,
    servers: String,
}

impl Pair {
    /// In namespaces named after `topic`. The Service `direct` is in scope from the start, `fresh` ones are
    /// not. All are of one protocol, since the server's own proxy takes it from the oldest Service of the
    /// port.
    async fn new(scene: Scene, topic: &str, protocol: Protocol, fresh: &[&str]) -> Result<Self> {
        let pair = Self {
            caller: format!("{topic}/web"),
            servers: format!("{topic}-server"),
            scene,
        };
        let scene = &pair.scene;
        scene
            .add([
                scene.app(&pair.caller).http(8080),
                scene.app(&pair.server()).serve(protocol, 8080),
            ])
            .await?;
        for name in fresh.iter().chain(&["direct"]) {
            scene
                .service(&pair.service(name), "server", protocol, 8080)
                .await?;
        }
        let direct = scene.host(&pair.service("direct"));
        scene
            .fence(&pair.caller, &format!("allow: [{{host: {direct}}}]"))
            .await?;
        Ok(pair)
    }

    fn server(&self) -> String {
        format!("{}/server", self.servers)
    }

    fn service(&self, name: &str) -> String {
        format!("{}/{name}", self.servers)
    }

    fn url(&self, scheme: &str, service: &str, path: &str) -> String {
        format!(
            "{scheme}://{}:8080{path}",
            self.scene.host(&self.service(service))
        )
    }

    /// The most headers with which a call is not refused.
    async fn most_headers(&self, call: impl Fn(usize) -> Call) -> Result<usize> {
        for count in (60..=100).rev() {
            let (reply, _) = self.scene.call(&self.caller, &call(count)).await?;
            match reply.status {
                Some(200) => return Ok(count),
                Some(431) => {}
                _ => bail!("with {count} headers: {reply}"),
            }
        }
        bail!("60 headers are too many")
    }

    /// Makes the same call to a fresh Service and to the direct one, and proves both paths. What is
    /// said of an answer as a whole is compared here, bodies are the caller's.
    async fn both(&self, call: impl Fn(&str) -> Call, fresh: &str) -> Result<(Reply, Reply)> {
        let direct = "direct";
        let (first, taken) = self.scene.call(&self.caller, &call(fresh)).await?;
        ensure!(
            taken.fallback() && !taken.uses(&self.service_host(fresh)),
            "the first call to {fresh} went by {taken}: {first}"
        );
        ensure!(
            self.scene.at_gateway(&self.service(fresh)).await?.requests > 0,
            "the gateway sent nothing to {fresh}"
        );
        let (second, taken) = self.scene.call(&self.caller, &call(direct)).await?;
        ensure!(
            taken.uses(&self.service_host(direct)) && !taken.fallback(),
            "the call to {direct} went by {taken}: {second}"
        );
        for (name, reply, via) in [
            (fresh, &first, Via::Through(GATEWAY.to_owned())),
            (direct, &second, Via::Direct),
        ] {
            ensure!(reply.error.is_none(), "{name}: {reply}");
            ensure!(
                server_of(reply).as_deref() == Some(&*self.scene.pod(&self.server())),
                "{name}: not the server answers, but {reply}"
            );
            let seen = self.seen(reply);
            ensure!(seen.as_ref() == Some(&via), "{name}: the server saw it {seen:?}");
        }
        let (one, other) = (answer(&first), answer(&second));
        ensure!(
            one == other,
            "the first call gave {one:#?}, a direct one {other:#?}"
        );
        Ok((first, second))
    }

    /// How the request came, as the server's proxy told the server.
    fn seen(&self, reply: &Reply) -> Option<Via> {
        let Some(chain) = reply.headers.get("x-mesh-client") else {
            return reply.via.clone();
        };
        let last = chain.to_str().ok()?.rsplit(',').next()?;
        let uri = last.split(';').find_map(|pair| pair.strip_prefix("URI="))?;
        let namespace = self.scene.ns(self.caller.split('/').next()?);
        Some(match uri.trim_matches('"') {
            uri if uri == format!("spiffe://cluster.local/ns/{namespace}/sa/web") => Via::Direct,
            uri => Via::Through(uri.to_owned()),
        })
    }

    fn service_host(&self, service: &str) -> String {
        self.scene.host(&self.service(service))
    }
}

/// The pod that answered.
fn server_of(reply: &Reply) -> Option<String> {
    let header = || Some(reply.headers.get("x-mesh-server")?.to_str().ok()?.to_owned());
    reply.served_by.clone().or_else(header)
}

/// What an answer says, but for its body and for what differs from call to call.
fn answer(reply: &Reply) -> BTreeMap<String, String> {
    const VOLATILE: [&str; 5] = [
        "content-length",
        "date",
        "sec-websocket-accept",
        "x-envoy-upstream-service-time",
        "x-mesh-client",
    ];
    let mut all: BTreeMap<String, String> = [
        ("status".to_owned(), format!("{:?}", reply.status)),
        ("version".to_owned(), format!("{:?}", reply.version)),
        ("grpc-status".to_owned(), format!("{:?}", reply.grpc_status)),
    ]
    .into();
    for (kind, headers) in [("header", &reply.headers), ("trailer", &reply.trailers)] {
        for name in headers.keys().filter(|name| !VOLATILE.contains(&name.as_str())) {
            let values: Vec<_> = headers.get_all(name).iter().collect();
            all.insert(format!("{kind} {name}"), format!("{values:?}"));
        }
    }
    all
}

async fn a8_a_first_call_may_take_longer_than_15_seconds(scene: Scene) -> Result<()> {
    let pair = Pair::new(scene, "slow", Protocol::Http, &["slow"]).await?;
    let call = |service: &str| {
        let url = pair.url("http", service, "/slow?ms=16500");
        Call::get(&url).timeout(Duration::from_secs(30))
    };
    let (slow, direct) = (call("slow"), call("direct"));
    let from = pair.scene.pod(&pair.caller);
    let (mesh, proxy) = (&pair.scene.mesh, pair.scene.mesh.proxy(&from)?);
    let slow = async { (mesh.call(&from, &slow).await, Instant::now()) };
    let learned = async {
        let fresh = pair.service("slow");
        let learned = pair.scene.learned(&pair.caller, &fresh).await;
        learned.map(|()| Instant::now())
    };
    // Side by side: what each took is told by the server's proxy, and that both were used by the caller's.
    let all = async { tokio::join!(slow, mesh.call(&from, &direct), learned) };
    let (((slow, answered), direct, learned), taken) = Box::pin(proxy.watch(all)).await?;
    ensure!(
        learned? < answered,
        "it was learned at the end of the call, not at its start"
    );
    ensure!(
        taken.fallback() && taken.uses(&pair.service_host("direct")),
        "they went by {taken}"
    );
    for (reply, via) in [(&slow, Via::Through(GATEWAY.to_owned())), (&direct, Via::Direct)] {
        ensure!(
            reply.is_from(&pair.scene.pod(&pair.server())) && reply.via == Some(via),
            "{reply}"
        );
        ensure!(reply.elapsed > Duration::from_secs(16), "it came early: {reply}");
    }
    ensure!(answer(&slow) == answer(&direct), "{slow} and {direct} differ");
    Ok(())
}

async fn a8_first_calls_carry_large_bodies_streams_and_redirects(scene: Scene) -> Result<()> {
    let fresh = ["up", "down", "stream", "moved"];
    let pair = Pair::new(scene, "bodies", Protocol::Http, &fresh).await?;

    let large: Bytes = (0..=250).cycle().take(LARGE).collect();
    let up = |service: &str| {
        Call::post(&pair.url("http", service, "/"), large.clone()).timeout(Duration::from_mins(1))
    };
    let (first, direct) = pair.both(up, "up").await?;
    ensure!(first.json()["body"]["bytes"] == LARGE, "{}", first.text());
    ensure!(
        first.json()["body"] == direct.json()["body"],
        "{} arrived, direct {}",
        first.json()["body"],
        direct.json()["body"]
    );

    let down = |service: &str| {
        let url = pair.url("http", service, &format!("/bytes?n={LARGE}"));
        Call::get(&url).timeout(Duration::from_mins(1))
    };
    let (first, direct) = pair.both(down, "down").await?;
    ensure!(first.body == large, "{} bytes came, or others", first.body.len());
    ensure!(direct.body == large, "{} bytes came direct", direct.body.len());

    let stream = |service: &str| Call::get(&pair.url("http", service, "/stream?n=5&ms=400"));
    let (first, direct) = pair.both(stream, "stream").await?;
    ensure!(
        first.body == direct.body,
        "{} and {}",
        first.text(),
        direct.text()
    );
    for reply in [&first, &direct] {
        // Five events, and none waits for the next one.
        let gaps: Vec<_> = reply
            .pieces
            .windows(2)
            .map(|two| two[1].saturating_sub(two[0]))
            .collect();
        ensure!(
            gaps.len() == 4 && gaps.iter().all(|gap| *gap > Duration::from_millis(150)),
            "the pieces came at {:?}",
            reply.pieces
        );
    }

    let moved = |service: &str| Call::get(&pair.url("http", service, "/redirect"));
    let (first, _) = pair.both(moved, "moved").await?;
    ensure!(
        first.status == Some(302) && first.headers.get("location").is_some_and(|to| to == "/"),
        "{first}: {:?}",
        first.headers
    );
    Ok(())
}

async fn a8_first_calls_carry_websocket_and_http2(scene: Scene) -> Result<()> {
    let pair = Pair::new(scene, "protocols", Protocol::Http, &["socket", "two"]).await?;

    let socket = |service: &str| Call::post(&pair.url("ws", service, "/"), "over a WebSocket");
    let (first, _) = pair.both(socket, "socket").await?;
    ensure!(
        first.status == Some(101) && first.text() == "over a WebSocket",
        "{first}"
    );

    let two = |service: &str| Call::post(&pair.url("h2", service, "/"), "by prior knowledge");
    let (first, direct) = pair.both(two, "two").await?;
    ensure!(first.is_ok() && first.version == Some(Version::HTTP_2), "{first}");
    ensure!(
        first.json()["protocol"] == direct.json()["protocol"],
        "{} and {}",
        first.json()["protocol"],
        direct.json()["protocol"]
    );

    Ok(())
}

async fn a8_first_calls_carry_grpc(scene: Scene) -> Result<()> {
    let fresh = ["unary", "stream", "failing"];
    let pair = Pair::new(scene, "grpc", Protocol::Grpc, &fresh).await?;

    let unary = |service: &str| Call::post(&pair.url("grpc", service, "/"), "one");
    let (first, _) = pair.both(unary, "unary").await?;
    ensure!(first.grpc_status == Some(0) && first.text() == "one", "{first}");

    let stream = |service: &str| Call::post(&pair.url("grpc", service, "/"), "one\ntwo\nthree");
    let (first, _) = pair.both(stream, "stream").await?;
    ensure!(
        first.grpc_status == Some(0) && first.text() == "one\ntwo\nthree",
        "{first}"
    );
    ensure!(!first.trailers.is_empty(), "the stream came without trailers");

    // A status that is only known after the answer has begun can come in trailers only.
    let failing = |service: &str| Call::post(&pair.url("grpc", service, "/status/9"), "one\ntwo");
    let (first, taken) = pair.scene.call(&pair.caller, &failing("failing")).await?;
    let direct = pair
        .scene
        .mesh
        .call(&pair.scene.pod(&pair.caller), &failing("direct"))
        .await;
    ensure!(taken.fallback(), "it went by {taken}");
    ensure!(
        first.grpc_status == Some(9) && first.error == direct.error,
        "{first} and {direct}"
    );
    ensure!(answer(&first) == answer(&direct), "{first} and {direct} differ");
    Ok(())
}

async fn a8_a_kept_alive_connection_goes_from_gateway_to_direct(scene: Scene) -> Result<()> {
    let pair = Pair::new(scene, "kept", Protocol::Http, &["kept"]).await?;
    let (scene, from, server) = (
        &pair.scene,
        pair.scene.pod(&pair.caller),
        pair.scene.pod(&pair.server()),
    );
    let (mesh, proxy) = (&scene.mesh, scene.mesh.proxy(&from)?);
    let mut client = mesh.http_client(&from, &pair.url("http", "kept", "/")).await?;
    let (first, taken) = proxy.watch(client.get("/")).await?;
    ensure!(
        first.is_from(&server) && taken.fallback() && first.via == Some(Via::Through(GATEWAY.to_owned())),
        "{first}, by {taken}"
    );
    let mut ways = vec![first.via];
    let start = tokio::time::Instant::now();
    while ways.last() != Some(&Some(Via::Direct)) {
        ensure!(
            start.elapsed() < SOON,
            "no direct call after {} calls",
            ways.len()
        );
        let reply = client.get("/").await;
        ensure!(
            reply.is_from(&server) && !reply.new_connection,
            "call {} on the connection: {reply}",
            ways.len() + 1
        );
        ways.push(reply.via);
    }
    let (last, taken) = proxy.watch(client.get("/")).await?;
    ensure!(
        last.via == Some(Via::Direct) && !last.new_connection && !taken.fallback(),
        "{last}, by {taken}"
    );
    Ok(())
}

/// Two headers differ: the certificates have one element more, the first, which names the caller;
/// and a call with `x-forwarded-for` has `x-envoy-external-address` too.
async fn a8_first_calls_arrive_with_the_headers_of_direct_ones(scene: Scene) -> Result<()> {
    let pair = Pair::new(scene, "headers", Protocol::Http, &["bare", "rich"]).await?;
    let (scene, server) = (&pair.scene, pair.service("server"));
    let caller = format!("URI=spiffe://cluster.local/ns/{}/sa/web", scene.ns("headers"));
    let bare = Call::get(&pair.url("http", "bare", "/a%2Fb//c?d=%20e"));
    let rich = Call::post(&pair.url("http", "rich", "/"), "text")
        .header("x-request-id", "0a1b2c3d-0000-4000-8000-000000000001")
        .header("user-agent", "scenario/1.0")
        .header("accept", "text/html")
        .header("cookie", "a=b; c=d")
        .header("x-twice", "one")
        .header("x-twice", "two")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-for", "192.0.2.1");
    for (service, call) in [("bare", bare), ("rich", rich)] {
        let first = scene.first_call(&pair.caller, &server, &call).await?;
        let direct = until(format!("a direct call to {service}"), SOON, async || {
            let (reply, taken) = scene.call(&pair.caller, &call).await?;
            ensure!(reply.is_from(&scene.pod(&server)), "{reply}");
            ensure!(
                taken.uses(&pair.service_host(service)) && !taken.fallback(),
                "by {taken}"
            );
            Ok(reply)
        })
        .await?;
        let chain = |reply: &Reply| reply.received("x-forwarded-client-cert").join(",");
        let (long, short) = (chain(&first), chain(&direct));
        ensure!(
            long.split(',').count() == short.split(',').count() + 1
                && long
                    .split(',')
                    .next()
                    .is_some_and(|first| first.contains(&caller)),
            "{service}: the certificates are {long}, direct {short}"
        );
        let outside = |reply: &Reply| reply.received("x-envoy-external-address");
        ensure!(
            outside(&direct).is_empty() && outside(&first) == first.received("x-forwarded-for"),
            "{service}: x-envoy-external-address is {:?}, direct {:?}",
            outside(&first),
            outside(&direct)
        );
        let told = |reply: &Reply| {
            let mut told = reply.json();
            // The connection from the server's own proxy.
            told["peer"].take();
            if let Some(headers) = told["headers"].as_object_mut() {
                headers.retain(|name, _| match name.as_str() {
                    name if REQUEST_HEADERS_THAT_DIFFER.contains(&name) => false,
                    // Without one from the caller, its proxy makes one for each request.
                    "x-request-id" => service == "rich",
                    _ => true,
                });
            }
            told
        };
        let (one, other) = (told(&first), told(&direct));
        ensure!(one == other, "{service}: there arrived {one:#}, direct {other:#}");
    }
    Ok(())
}

/// Envoy answers 431 to more headers than 100, as many servers do, and to larger ones than 60 KiB. Both
/// limits can be raised. The caller's proxy adds headers for the gateway. These must not count against the
/// application, and the gateway must have no lower limit.
async fn a8_first_calls_may_have_as_many_headers_as_direct_ones(scene: Scene) -> Result<()> {
    let pair = Pair::new(scene, "limits", Protocol::Http, &["many", "large"]).await?;
    let call = |service: &str, count: usize, bytes: usize| {
        let call = Call::get(&pair.url("http", service, "/"));
        (0..count).fold(call, |call, number| {
            call.header(&format!("x-{number}"), &"a".repeat(bytes))
        })
    };
    // Before the first call: connections keep the limits with which they began.
    for (topic, pod) in [("limits", &pair.caller), (&pair.servers, &pair.server())] {
        raise_limits(&pair.scene, topic, pod).await?;
    }
    let most = pair.most_headers(|count| call("direct", count, 1)).await?;
    pair.both(|service| call(service, most, 1), "many").await?;
    pair.both(|service| call(service, 80, 1000), "large").await?;
    Ok(())
}

async fn raise_limits(scene: &Scene, topic: &str, pod: &str) -> Result<()> {
    let text = "
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: limits, namespace: $N}
spec:
  configPatches:
  - applyTo: NETWORK_FILTER
    match: {listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
    patch:
      operation: MERGE
      value:
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          max_request_headers_kb: 96
";
    scene
        .mesh
        .apply_yaml(&text.replace("$N", &scene.ns(topic)))
        .await?;
    let proxy = scene.mesh.proxy(&scene.pod(pod))?;
    until(format!("the raised limits of {pod}"), SOON, async || {
        let dump = proxy.config_dump().await?.to_string();
        ensure!(
            dump.contains("\"max_request_headers_kb\":96"),
            "they are as before"
        );
        Ok(())
    })
    .await
}
