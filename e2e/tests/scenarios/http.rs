//! Every kind of HTTP exchange works as a first call, and gives what a direct call gives.
//!
//! One server stands behind many Services. The caller's fence allows the Service `direct`; every
//! other one is fresh, so a call to it is the first of a new pair. Both paths lead to the same pod,
//! so what they give can be compared at once.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::Version;
use servicefence_e2e::install::{GATEWAY, SOON};
use servicefence_e2e::wait::until;
use servicefence_e2e::{Call, Protocol, Reply, Via};

use crate::scene::Scene;

crate::scenarios![
    a8_a_first_call_may_take_longer_than_15_seconds,
    a8_first_calls_carry_large_bodies_streams_and_redirects,
    a8_first_calls_carry_websocket_grpc_and_http2,
    a8_a_kept_alive_connection_goes_from_gateway_to_direct,
    a8_first_calls_arrive_with_the_headers_of_direct_ones,
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
    /// In namespaces named after `topic`. `direct` is in scope from the start, `fresh` ones are not.
    async fn new(scene: Scene, topic: &str, fresh: &[(&str, Protocol)]) -> Result<Self> {
        let pair = Self {
            caller: format!("{topic}/web"),
            servers: format!("{topic}-server"),
            scene,
        };
        let scene = &pair.scene;
        scene
            .add([
                scene.app(&pair.caller).http(8080),
                scene.app(&pair.server()).http(8080),
            ])
            .await?;
        let direct = [("direct", Protocol::Http), ("direct-grpc", Protocol::Grpc)];
        for (name, protocol) in direct.iter().chain(fresh) {
            scene
                .service(&pair.service(name), "server", *protocol, 8080)
                .await?;
        }
        let allow = direct.map(|(name, _)| format!("{{host: {}}}", scene.host(&pair.service(name))));
        scene
            .fence(&pair.caller, &format!("allow: [{}]", allow.join(", ")))
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
        format!("{scheme}://{}:8080{path}", self.scene.host(&self.service(service)))
    }

    /// Makes the same call to a fresh Service and to the direct one, and proves both paths. What is
    /// said of an answer as a whole is compared here, bodies are the caller's.
    async fn both(&self, call: impl Fn(&str) -> Call, fresh: &str, direct: &str) -> Result<(Reply, Reply)> {
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
        let caller = format!(
            "spiffe://cluster.local/ns/{}/sa/web",
            self.scene.ns(self.caller.split('/').next().unwrap_or_default())
        );
        for (name, reply, identity) in [(fresh, &first, GATEWAY), (direct, &second, &*caller)] {
            ensure!(reply.error.is_none(), "{name}: {reply}");
            ensure!(
                server_of(reply).as_deref() == Some(&*self.scene.pod(&self.server())),
                "{name}: not the server answers, but {reply}"
            );
            let client = client_of(reply).with_context(|| format!("{name}: the server saw no certificate"))?;
            ensure!(client == identity, "{name}: the server saw {client}");
        }
        let (one, other) = (answer(&first), answer(&second));
        ensure!(one == other, "the first call gave {one:#?}, a direct one {other:#?}");
        Ok((first, second))
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

/// The identity of the last hop, as the server saw it.
fn client_of(reply: &Reply) -> Option<String> {
    let chain = match reply.headers.get("x-mesh-client") {
        Some(chain) => chain.to_str().ok()?.to_owned(),
        None if reply.grpc_status.is_some() => {
            return match reply.via.clone()? {
                Via::Through(identity) => Some(identity),
                // gRPC replies tell the chain as a verdict only.
                Via::Direct => Some(reply.headers.get("x-mesh-caller")?.to_str().ok()?.to_owned()),
                Via::Plaintext => None,
            };
        }
        None => reply.received("x-forwarded-client-cert").pop()?,
    };
    let last = chain.rsplit(',').next()?.to_owned();
    let uri = last.split(';').find_map(|pair| pair.strip_prefix("URI="))?;
    Some(uri.trim_matches('"').to_owned())
}

/// What an answer says, but for its body and for what differs from call to call.
fn answer(reply: &Reply) -> BTreeMap<String, String> {
    const VOLATILE: [&str; 4] = ["date", "x-envoy-upstream-service-time", "x-mesh-client", "content-length"];
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
