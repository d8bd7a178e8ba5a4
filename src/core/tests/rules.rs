//! One golden case for each rule by which scopes are decided: the whole scope with the reason of every host,
//! or the whole of what is written.
use serde_json::{Value, json};

use crate::engine::Change;
use crate::learn::Attribution;
use crate::learn::miss::Miss;
use crate::name::ScopeHost;
use crate::observe::Watched;
use crate::render::Kind;
use crate::settings::Settings;
use crate::simulate::world::{SYSTEM, settings};
use crate::tests::expiry::know_since;
use crate::tests::*;

/// What a fence should import, with the reasons, in the order of a Sidecar.
fn scope_of(world: &World, fence: &FenceKey) -> Vec<String> {
    let known = world.engine.fence(fence).unwrap();
    let scope = world.engine.scope_of(known, world.now);
    let hosts = scope.hosts.iter();
    hosts.map(|(host, whys)| format!("{host} {whys:?}")).collect()
}

/// The same without what ServiceFence itself needs.
fn scope(world: &World) -> Vec<String> {
    let mut all = scope_of(world, &web());
    all.retain(|host| !host.contains(SYSTEM));
    all
}

fn object(world: &World, kind: Kind, namespace: &str, name: &str) -> Value {
    world.objects[&(kind, namespace.into(), name.into())].clone()
}

/// What comes of a log entry with this source header, certificate and original destination.
fn outcome(world: &World, source: &str, peer: &str, destination: &str) -> String {
    let miss = match Miss::parse(source, Some(peer), destination) {
        Ok(miss) => miss,
        Err(reject) => return reject.category().to_owned(),
    };
    match world.engine.attribute(&miss, world.now) {
        Attribution::New(seen) => {
            let said = seen.iter().map(|seen| {
                format!(
                    "{} calls {} ({:?})",
                    seen.fence,
                    ServiceKey::of_host(&seen.host.name).unwrap(),
                    seen.source
                )
            });
            said.collect::<Vec<_>>().join(", ")
        }
        Attribution::Known => "known".to_owned(),
        Attribution::Unattributed(why) => why.as_str().to_owned(),
    }
}

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn annotated(key: &str, value: &str) -> Value {
    json!({"metadata": {"annotations": {key: value}}})
}

/// Rule 1: The host of a miss is the Service that has the dialled address and port. No name plays a part.
#[test]
fn the_dialled_address_is_the_host_of_a_miss() {
    let mut world = shop();
    let dual = json!({"spec": {"clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1", "fd00::1"]}});
    world.service_with("books", "dual", &["http:8080", "tcp-debug:9000"], &dual);
    let hidden = json!({"spec": {"clusterIP": "10.96.1.2"}, "metadata": {"annotations": {"networking.istio.io/exportTo": "."}}});
    world.service_with("books", "hidden", &["http:8080"], &hidden);
    let headless = json!({"spec": {"clusterIP": "None"}});
    world.service_with("books", "peers", &["http:8080"], &headless);
    world.settle();
    let dual = "shop/web calls books/dual (AccessLog)";
    for (destination, expected) in [
        ("10.96.1.1:8080", dual),
        ("10.96.1.1:9000", dual),
        ("[fd00::1]:8080", dual),
        ("[::ffff:10.96.1.1]:8080", dual),
        ("10.96.1.1:8081", "not_mesh"),
        ("10.96.1.2:8080", "not_mesh"),
        ("10.96.9.9:8080", "not_mesh"),
        ("10.1.0.7:8080", "not_mesh"),
        ("192.0.2.1:443", "not_mesh"),
        ("dual.books.svc.cluster.local:8080", "malformed_destination"),
    ] {
        assert_eq!(
            outcome(&world, "shop/web-1", WEB, destination),
            expected,
            "{destination}"
        );
    }
    learn(&mut world, &ServiceKey::new("books", "dual"));
    assert_eq!(outcome(&world, "shop/web-1", WEB, "10.96.1.1:8080"), "known");
    // An address that another Service gets is that Service's from then on.
    world.no_service(&ServiceKey::new("books", "dual"));
    let next = json!({"spec": {"clusterIP": "10.96.1.1"}});
    world.service_with("books", "next", &["http:8080"], &next);
    assert_eq!(
        outcome(&world, "shop/web-1", WEB, "10.96.1.1:8080"),
        "shop/web calls books/next (AccessLog)"
    );
}

/// Rule 2: The caller is the pod that its proxy names, in the namespace that its certificate proves.
#[test]
fn the_pod_behind_the_certificate_is_the_caller_of_a_miss() {
    let mut world = shop();
    world.service("shop", "cart", &["http:8080"]);
    world.pod("shop", "cart-1", &[("app", "cart")]);
    world.pod("shop", "job-1", &[("job", "nightly")]);
    world.pod("books", "reviews-1", &[("app", "reviews")]);
    world.settle();
    let address = world.engine.mesh().services.get(&reviews()).unwrap().addresses[0];
    let reviews = format!("{address}:8080");
    for (source, peer, expected) in [
        ("shop/web-1", WEB, "shop/web calls books/reviews (AccessLog)"),
        // The account is not the pod's name: one account may have many workloads.
        ("shop/cart-1", WEB, "shop/cart calls books/reviews (AccessLog)"),
        ("shop/job-1", WEB, "not_fenced"),
        ("shop/gone-1", WEB, "unknown_pod"),
        ("books/reviews-1", WEB, "namespace_mismatch"),
        ("", WEB, "missing_source"),
        ("shop/web-1", "", "missing_peer"),
        ("shop/web-1", "spiffe://cluster.local/shop/web", "malformed_peer"),
    ] {
        assert_eq!(
            outcome(&world, source, peer, &reviews),
            expected,
            "{source} as {peer}"
        );
    }
}

/// Rule 3: Every rule that Istio would follow comes along, by the namespace that has it.
#[test]
fn a_destination_brings_the_rules_for_it() {
    let mut world = shop();
    let to = |host: &str| json!([{"route": [{"destination": {"host": host}}]}]);
    let full = "reviews.books.svc.cluster.local";
    for (namespace, name, spec) in [
        (
            "books",
            "own",
            json!({"hosts": ["reviews"], "http": to("ratings")}),
        ),
        (
            "shop",
            "mine",
            json!({"hosts": [full], "http": to("ratings.books.svc.cluster.local")}),
        ),
        ("istio-system", "root", json!({"hosts": [full], "http": []})),
        (
            "other",
            "private",
            json!({"hosts": [full], "exportTo": ["."], "http": []}),
        ),
        (
            "other",
            "edge",
            json!({"hosts": [full], "gateways": ["edge"], "http": []}),
        ),
        (
            "other",
            "unrelated",
            json!({"hosts": ["ratings.books.svc.cluster.local"], "http": []}),
        ),
    ] {
        world.object("VirtualService", namespace, name, spec);
    }
    learn(&mut world, &reviews());
    world.settle();
    assert_eq!(
        scope(&world),
        [
            "books/reviews.books.svc.cluster.local {Learned, Route}",
            "istio-system/reviews.books.svc.cluster.local {Route}",
            "shop/reviews.books.svc.cluster.local {Route}",
        ]
    );
    for (namespace, name) in [("books", "own"), ("shop", "mine"), ("istio-system", "root")] {
        world.gone(Watched::VirtualServices, namespace, name);
    }
    world.settle();
    assert_eq!(scope(&world), ["books/reviews.books.svc.cluster.local {Learned}"]);
}

/// Rule 4: A policy that names the caller may decide otherwise about the gateway: a declared dependency.
#[test]
fn a_policy_that_names_the_caller_admits_its_destination() {
    let mut world = shop();
    world.pod_of("shop", "web-1", &[("app", "web")], "web");
    let let_in = |source: Value| json!({"action": "ALLOW", "selector": {"matchLabels": {"app": "reviews"}}, "rules": [{"from": [{"source": source}]}]});
    let named = ["books/reviews.books.svc.cluster.local {Policy}"];
    for (source, admitted) in [
        (json!({"principals": ["cluster.local/ns/shop/sa/web"]}), true),
        (json!({"namespaces": ["shop"]}), true),
        (json!({"principals": ["cluster.local/ns/shop/sa/cart"]}), false),
        (json!({"namespaces": ["books"]}), false),
    ] {
        world.object("AuthorizationPolicy", "books", "callers", let_in(source.clone()));
        world.settle();
        assert_eq!(scope(&world) == named, admitted, "{source}: {:?}", scope(&world));
    }
    let mut deny = let_in(json!({"namespaces": ["shop"]}));
    deny["action"] = json!("DENY");
    world.object("AuthorizationPolicy", "books", "callers", deny);
    world.settle();
    assert_eq!(
        scope(&world),
        named,
        "one that it refuses is refused from the first call on"
    );
}

/// Rule 5: What the gateway cannot serve, or what would be cut, is in scope by a rule of its own.
#[test]
fn the_protocol_decides_what_cannot_leave() {
    let mut world = shop();
    world.service("data", "db", &["tcp-db:5432"]);
    world.service("data", "mixed", &["http:8080", "tcp-admin:9000"]);
    world.service("data", "clash", &["tcp-x:8080"]);
    let headless = json!({"spec": {"clusterIP": "None"}});
    world.service_with("data", "peers", &["http:8080"], &headless);
    world.service_with("data", "db-peers", &["tcp:5432"], &headless);
    let to_shop = annotated("networking.istio.io/exportTo", "shop");
    world.service_with("data", "vault", &["http:8080"], &to_shop);
    let alias = json!({"spec": {"type": "ExternalName", "externalName": "www.example.com"}});
    world.service_with("data", "alias", &["http:8080"], &alias);
    let entry = |host: &str| json!({"hosts": [host], "ports": [{"number": 443, "protocol": "TLS"}]});
    world.object("ServiceEntry", "data", "api", entry("api.example.com"));
    let name = json!({"hosts": ["name.example.com"], "http": [{"route": [{"destination": {"host": "db"}}]}]});
    world.object("VirtualService", "data", "name", name);
    let always = [
        "data/api.example.com {ServiceEntry}",
        "data/db-peers.data.svc.cluster.local {Headless}",
        "data/name.example.com {RuleOnly, Route}",
        "data/peers.data.svc.cluster.local {Headless}",
        "data/vault.data.svc.cluster.local {Hidden}",
    ];
    for keep in ["Auto", "Keep"] {
        world.edit("shop", "web", json!({"learning": {"nonHttp": keep}}));
        world.settle();
        let more =
            ["clash", "db", "mixed"].map(|name| format!("data/{name}.data.svc.cluster.local {{NonHttp}}"));
        let mut expected: Vec<_> = always.map(str::to_owned).into_iter().chain(more).collect();
        expected.sort_unstable();
        assert_eq!(scope(&world), expected, "{keep}");
    }
    // The owner accepts one reconnect. Port 8080 has no HTTP listener but where HTTP on it is in scope, and
    // `peers` and `vault` are.
    world.edit("shop", "web", json!({"learning": {"nonHttp": "Learn"}}));
    world.settle();
    let mut expected: Vec<_> = always.map(str::to_owned).into();
    expected.push("data/clash.data.svc.cluster.local {PortCollision}".to_owned());
    expected.sort_unstable();
    assert_eq!(scope(&world), expected);
}

/// Rule 6: What proxies need and applications never call.
#[test]
fn the_baseline_is_in_every_scope() {
    let host = |text: &str| ScopeHost::parse(text).unwrap();
    let mut world = World::with(Settings {
        baseline: vec![
            host("observe/zipkin.observe.svc.cluster.local"),
            host("data/api.example.com"),
        ],
        ..settings()
    });
    let authz =
        "extensionProviders: [{name: authz, envoyExtAuthzGrpc: {service: authz.security.svc.cluster.local}}]";
    world.mesh_config("istio", Some(authz));
    world.namespace("shop", Some("enforce"));
    world.service("shop", "web", &["http:8080"]);
    world.service("shop", "cart", &["http:8080"]);
    world.settle();
    let expected = [
        "data/api.example.com {Baseline}",
        "observe/zipkin.observe.svc.cluster.local {Baseline}",
        "security/authz.security.svc.cluster.local {Provider}",
        "servicefence-system/servicefence-fallback.servicefence-system.svc.cluster.local {Own}",
        "servicefence-system/servicefence-ports.servicefence-system.svc.cluster.local {Own}",
    ];
    for name in ["web", "cart"] {
        let fence = FenceKey::new("shop", name);
        assert_eq!(scope_of(&world, &fence), expected, "{name}");
        let sidecar = object(&world, Kind::Sidecar, "shop", &format!("servicefence-{name}"));
        let hosts = expected.map(|line| line.split(' ').next().unwrap());
        assert_eq!(sidecar["spec"]["egress"], json!([{"hosts": hosts}]));
    }
}

/// istiod imports it into no Sidecar, and a proxy without its cluster answers 503 to all that the mesh does
/// not know.
#[test]
fn the_egress_proxy_is_in_every_scope() {
    let mut world = World::new();
    world.namespace("shop", Some("enforce"));
    world.service("shop", "web", &["http:8080"]);
    let entry = json!({
        "hosts": ["out.example.com"],
        "ports": [{"number": 3128, "name": "tcp", "protocol": "TCP"}],
    });
    world.object("ServiceEntry", "edge", "out", entry);
    world.settle();
    for host in ["out.edge.svc.cluster.local", "out.example.com"] {
        let proxy = json!({"host": host, "port": {"number": 3128}});
        let spec = json!({
            "egress": [{"hosts": ["*/*"]}],
            "outboundTrafficPolicy": {"egressProxy": proxy},
        });
        world.object("Sidecar", "istio-system", "default", spec);
        world.settle();
        let import = format!("edge/{host}");
        let scope = scope_of(&world, &FenceKey::new("shop", "web"));
        let found = scope
            .iter()
            .any(|line| line.starts_with(&import) && line.contains("EgressProxy"));
        assert!(found, "{scope:?}");
        let sidecar = object(&world, Kind::Sidecar, "shop", "servicefence-web");
        assert!(
            sidecar["spec"]["egress"].to_string().contains(&import),
            "{sidecar}"
        );
    }
}

/// Rule 8: Observing writes nothing but the fence into the namespace; the first Sidecar starts from all that
/// was seen.
#[test]
fn what_was_observed_is_the_first_sidecar() {
    let mut world = World::with(Settings {
        reads_history: true,
        ..settings()
    });
    world.namespace("shop", Some("observe"));
    world.service("shop", "web", &["http:8080"]);
    world.service("books", "reviews", &["http:8080"]);
    world.service("books", "ratings", &["http:8080"]);
    world.pod("shop", "web-1", &[("app", "web")]);
    world.settle();
    let now = world.now;
    know_since(&mut world, now);
    learn(&mut world, &reviews());
    world.settle();
    let in_shop = |world: &World| {
        let objects = world
            .objects
            .keys()
            .filter(|(_, namespace, _)| **namespace == *"shop");
        let names = objects.map(|(kind, _, name)| format!("{} {name}", kind.as_str()));
        names.collect::<Vec<_>>()
    };
    assert_eq!(in_shop(&world), ["ServiceFence web"]);
    let status = world.status("shop", "web");
    assert_eq!(
        json!([status.mode, status.scope]),
        json!(["Observe", {"hosts": 1, "meshHosts": 3}])
    );
    world.namespace("shop", Some("enforce"));
    let writes = world.settle().to_vec();
    let writes: Vec<_> = writes
        .iter()
        .filter(|write| !write.starts_with("status"))
        .collect();
    assert_eq!(
        writes,
        [
            "apply EnvoyFilter shop/servicefence",
            "apply EnvoyFilter shop/servicefence",
            "apply Sidecar shop/servicefence-web",
            "apply Sidecar shop/servicefence-web",
        ]
    );
    assert_eq!(scope(&world), ["books/reviews.books.svc.cluster.local {Learned}"]);
    assert_eq!(
        in_shop(&world),
        [
            "ServiceFence web",
            "Sidecar servicefence-web",
            "EnvoyFilter servicefence"
        ]
    );
}

/// Rule 9: Without a gateway nothing becomes smaller and no workload is scoped anew; hosts still come in.
#[test]
fn a_missing_gateway_widens_only() {
    let mut world = shop();
    world.edit("shop", "web", allow(&["reviews.books"]));
    world.settle();
    world.apply(Change::GatewayReady(false));
    world.namespace("late", Some("enforce"));
    world.service("late", "web", &["http:8080"]);
    world.edit("shop", "web", json!({"deny": ["reviews.books"]}));
    learn(&mut world, &ServiceKey::new("books", "ratings"));
    let writes = |world: &mut World| -> Vec<String> {
        let writes = world.settle().iter();
        let sidecars = writes.filter(|write| write.contains("Sidecar"));
        sidecars.cloned().collect()
    };
    let both = [
        "books/ratings.books.svc.cluster.local",
        "books/reviews.books.svc.cluster.local",
    ];
    assert_eq!(writes(&mut world), ["apply Sidecar shop/servicefence-web"]);
    assert_eq!(world.scope("shop", "web").unwrap(), both);
    assert_eq!(
        world.condition("late", "web", "Enforced"),
        "False GatewayNotReady"
    );
    world.apply(Change::GatewayReady(true));
    let mut after = writes(&mut world);
    after.sort_unstable();
    assert_eq!(
        after,
        [
            "apply Sidecar late/servicefence-web",
            "apply Sidecar late/servicefence-web",
            "apply Sidecar shop/servicefence-web",
            "apply Sidecar shop/servicefence-web"
        ]
    );
    assert_eq!(world.scope("shop", "web").unwrap(), both[..1]);
}

/// All of what one enforced fence with one host makes us write, but for the EnvoyFilter and the gateway's
/// routes, which have tests of their own.
#[test]
fn the_objects_of_a_fence_are_written_in_full() {
    let mut world = shop();
    world.service("books", "odd", &["grpc:9090", "tcp:9000"]);
    learn(&mut world, &reviews());
    world.edit("shop", "web", json!({"learning": {"nonHttp": "Learn"}}));
    world.step();
    let ours = json!({"app.kubernetes.io/managed-by": "servicefence"});
    let ports = "servicefence-ports.servicefence-system.svc.cluster.local";
    let scope = json!({"hosts": [
        "books/reviews.books.svc.cluster.local",
        "servicefence-system/servicefence-fallback.servicefence-system.svc.cluster.local",
        format!("servicefence-system/{ports}"),
    ]});
    let mut own_only = scope.clone();
    own_only["hosts"].as_array_mut().unwrap().remove(0);
    let warm = json!({
        "port": {"number": 65534, "protocol": "HTTP_PROXY", "name": "servicefence-warm"},
        "bind": "127.0.0.1",
        "hosts": ["books/reviews.books.svc.cluster.local"],
    });
    let sidecar = |egress: &[&Value]| {
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "Sidecar",
            "metadata": {
                "namespace": "shop",
                "name": "servicefence-web",
                "labels": ours,
                "ownerReferences": [{
                    "apiVersion": "servicefence.io/v1alpha1",
                    "kind": "ServiceFence",
                    "name": "web",
                    "uid": "uid-web",
                    "controller": true,
                }],
            },
            "spec": {"workloadSelector": {"labels": {"app": "web"}}, "egress": egress},
        })
    };
    let is = |world: &World| object(world, Kind::Sidecar, "shop", "servicefence-web");
    assert_eq!(is(&world), sidecar(&[&warm, &own_only]));
    world.settle();
    assert_eq!(is(&world), sidecar(&[&scope]));
    assert_eq!(
        object(&world, Kind::Service, SYSTEM, "servicefence-ports"),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "namespace": SYSTEM,
                "name": "servicefence-ports",
                "labels": ours,
                "annotations": {"networking.istio.io/exportTo": "*"},
            },
            "spec": {"type": "ClusterIP", "ports": [
                {"name": "http-8080", "port": 8080, "protocol": "TCP"},
                {"name": "http-9090", "port": 9090, "protocol": "TCP"},
            ]},
        })
    );
    let fence = object(&world, Kind::ServiceFence, "shop", "web");
    assert_eq!(
        (&fence["spec"], &fence["metadata"]["labels"]),
        (&json!({}), &ours)
    );
}
