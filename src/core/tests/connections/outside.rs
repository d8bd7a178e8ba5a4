//! Hosts of ServiceEntries: what keeps one in scope, and on what evidence it leaves.

use serde_json::Value;

use crate::name::PodKey;
use crate::observe::Watched;
use crate::tests::connections::*;

const API: &str = "data/api.example.com";
/// Of each kind of listener two stay.
const KEEPERS: [&str; 2] = ["data/first.example.com", "data/second.example.com"];
const LEARN: &str = "Learn";

/// A shop that learns hosts of ServiceEntries and has called `reviews` and these for long enough, in a mesh
/// with three such hosts of one port.
fn shop_outside(mode: &str, called: &[&str]) -> World {
    let mut world = shop(true);
    declare(&mut world, "data", "a", &entry("first.example.com"));
    declare(&mut world, "data", "aa", &entry("second.example.com"));
    declare(&mut world, "data", "api", &entry("api.example.com"));
    world.edit("shop", "web", json!({"learning": {"serviceEntries": mode}}));
    world.settle();
    known(&mut world, called);
    world
}

fn entry(host: &str) -> Value {
    json!({"hosts": [host], "resolution": "DNS", "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}]})
}

fn declare(world: &mut World, namespace: &str, name: &str, spec: &Value) {
    world.object("ServiceEntry", namespace, name, spec.clone());
    world.settle();
}

/// All connections are known for as long as it takes, and these hosts were called.
fn known(world: &mut World, called: &[&str]) {
    let since = world.now - DAY * 14;
    read(world, since, since);
    calling(world, called);
    world.settle();
}

fn calling(world: &mut World, called: &[&str]) {
    let always = ["reviews.books.svc.cluster.local", "db.data.svc.cluster.local"];
    let calls: Vec<_> = called
        .iter()
        .chain(&always)
        .map(|host| call("shop", "web", host))
        .collect();
    world.calls(&calls);
}

/// Two hours pass.
fn rest(world: &mut World) {
    world.pass(SignedDuration::from_hours(2));
    calling(world, &[]);
    world.resync();
    world.settle();
}

/// The hosts of `example.com` in scope, but for those that keep a listener.
fn outside(world: &World) -> Vec<String> {
    let all = all_outside(world).into_iter();
    all.filter(|host| !KEEPERS.contains(&&**host)).collect()
}

fn all_outside(world: &World) -> Vec<String> {
    let scope = scope(world).into_iter();
    scope.filter(|host| host.ends_with(".example.com")).collect()
}

fn explain(world: &World, host: &str) -> crate::Explanation {
    world.engine.explain(&web(), host, world.now).unwrap()
}

fn why(world: &World, host: &str) -> String {
    let because = explain(world, host).because;
    because.into_iter().map(|because| because.detail).collect()
}

#[test]
fn one_that_was_not_used_is_not_in_scope_and_one_that_was_is() {
    let world = shop_outside(LEARN, &[]);
    assert_eq!(outside(&world), [""; 0]);
    let said = explain(&world, "api.example.com").answer;
    assert_eq!(
        said,
        "api.example.com is not in scope: nothing allows it and no call to it was seen; calls to it are passed through by \
         Istio and not seen, so no call brings it into scope, and spec.allow does"
    );
    let mut world = shop_outside(LEARN, &["api.example.com"]);
    assert_eq!(outside(&world), [API]);
    assert_eq!(why(&world, "api.example.com"), "metrics tell of calls to it");
    // And leaves again, silent for long enough.
    for _ in 0..(17 * 24) {
        world.pass(SignedDuration::from_hours(1));
        calling(&mut world, &[]);
        world.resync();
        world.settle();
    }
    assert_eq!(outside(&world), [""; 0]);
}

#[test]
fn all_stay_where_they_are_not_learned_and_until_connections_are_known() {
    let world = shop_outside("Keep", &["api.example.com"]);
    assert_eq!(outside(&world), [API]);
    assert!(why(&world, "api.example.com").contains("learning.serviceEntries keeps such hosts"));
    let mut world = shop(true);
    declare(&mut world, "data", "a", &entry("first.example.com"));
    declare(&mut world, "data", "aa", &entry("second.example.com"));
    declare(&mut world, "data", "api", &entry("api.example.com"));
    let learning = json!({"learning": {"serviceEntries": LEARN, "nonHttp": "Learn"}});
    world.edit("shop", "web", learning);
    world.settle();
    used(&mut world, &USED, DAY);
    assert_eq!(outside(&world), [API]);
    let said = why(&world, "api.example.com");
    assert!(
        said.contains("until metrics have shown all connections"),
        "{said}"
    );
    known(&mut world, &[]);
    assert_eq!(outside(&world), [""; 0], "nonHttp has nothing to do with it");
}

#[test]
fn what_depends_on_its_service_entry_stays() {
    let more = [
        (
            json!({"location": "MESH_INTERNAL"}),
            "its location is MESH_INTERNAL",
        ),
        (
            json!({"addresses": ["240.0.0.7"]}),
            "its addresses lead nowhere else",
        ),
        (
            json!({"endpoints": [{"address": "proxy.example.org"}]}),
            "its endpoints are not",
        ),
        (
            json!({"workloadSelector": {"labels": {"app": "vm"}}}),
            "its endpoints are not",
        ),
        (
            json!({"ports": [{"number": 80, "protocol": "HTTP", "targetPort": 443}]}),
            "its targetPort",
        ),
        (
            json!({"ports": [{"number": 443, "protocol": "TLS"}, {"number": 3306, "protocol": "TCP"}]}),
            "neither HTTP nor TLS",
        ),
        (json!({"ports": [{"number": 443}]}), "neither HTTP nor TLS"),
        (
            json!({"ports": [{"number": 80, "protocol": "GRPC"}]}),
            "a port of HTTP/2",
        ),
    ];
    for (more, said) in more {
        let mut world = shop_outside(LEARN, &[]);
        let mut spec = entry("api.example.com");
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        declare(&mut world, "data", "api", &spec);
        assert!(outside(&world).contains(&API.to_owned()), "{more}");
        assert!(
            why(&world, "api.example.com").contains(said),
            "{}",
            why(&world, "api.example.com")
        );
        // Whichever of several ServiceEntries of the host it is.
        declare(&mut world, "books", "again", &entry("api.example.com"));
        rest(&mut world);
        let both = ["books/api.example.com", API];
        assert_eq!(&outside(&world)[..2], both, "{more}");
    }
}

#[test]
fn what_others_say_of_a_host_keeps_it() {
    let rules = json!({"hosts": ["api.example.com"], "tls": []});
    let wildcard = json!({"hosts": ["*.example.com"]});
    let partial = json!({"host": "*pi.example.com"});
    let named = json!({"host": "api.example.com", "trafficPolicy": {"tls": {"mode": "SIMPLE"}}});
    let all = json!({"host": "*.example.com"});
    let parent =
        json!({"group": "networking.istio.io", "kind": "ServiceEntry", "name": "api", "namespace": "data"});
    let route = json!({"parentRefs": [parent], "rules": [{"backendRefs": [{"name": "proxy", "port": 80}]}]});
    let covering = entry("*.example.com");
    let swallowing = json!({"hosts": ["db.example.org"], "ports": [{"number": 443, "protocol": "TCP"}]});
    for (kind, watched, namespace, spec, said) in [
        (
            "VirtualService",
            Watched::VirtualServices,
            "data",
            rules,
            "a VirtualService or route has rules for it",
        ),
        (
            "VirtualService",
            Watched::VirtualServices,
            "data",
            wildcard,
            "a VirtualService or route has rules for it",
        ),
        (
            "HTTPRoute",
            Watched::HttpRoutes,
            "shop",
            route,
            "a VirtualService or route has rules for it",
        ),
        (
            "ServiceEntry",
            Watched::ServiceEntries,
            "elsewhere",
            covering,
            "it is one of a wildcard of another ServiceEntry",
        ),
        (
            "ServiceEntry",
            Watched::ServiceEntries,
            "elsewhere",
            swallowing,
            "another ServiceEntry has its port number",
        ),
        (
            "DestinationRule",
            Watched::DestinationRules,
            "elsewhere",
            named,
            "a DestinationRule says",
        ),
        (
            "DestinationRule",
            Watched::DestinationRules,
            "elsewhere",
            partial,
            "a DestinationRule says",
        ),
        (
            "DestinationRule",
            Watched::DestinationRules,
            "istio-system",
            all,
            "a DestinationRule says",
        ),
    ] {
        let mut world = shop_outside(LEARN, &[]);
        world.object(kind, namespace, "mine", spec.clone());
        world.settle();
        assert!(outside(&world).contains(&API.to_owned()), "{kind} {spec}");
        assert!(
            why(&world, "api.example.com").contains(said),
            "{kind}: {}",
            why(&world, "api.example.com")
        );
        world.gone(watched, namespace, "mine");
        world.step();
        assert_eq!(
            outside(&world),
            [API],
            "{kind} {spec}: its new connections do not show yet"
        );
        world.settle();
        assert_eq!(outside(&world), [""; 0], "{kind} {spec}");
    }
    let mut world = shop_outside(LEARN, &[]);
    world.object("DestinationRule", "data", "db", json!({"host": "api"}));
    assert!(world.settle().is_empty(), "it is of a Service");
}

#[test]
fn all_stay_where_a_call_would_be_refused_or_not_resolved() {
    let mut world = shop_outside(LEARN, &[]);
    mesh_config(&mut world, "outboundTrafficPolicy: {mode: REGISTRY_ONLY}");
    assert_eq!(outside(&world), [API]);
    assert!(why(&world, "api.example.com").contains("the mesh is REGISTRY_ONLY"));
    mesh_config(&mut world, "");
    rest(&mut world);
    assert_eq!(outside(&world), [""; 0]);
    let proxy = json!({"egress": [{"hosts": ["*/*"]}], "outboundTrafficPolicy": {"egressProxy": {"host": "out.data.svc.cluster.local"}}});
    world.object("Sidecar", "istio-system", "default", proxy);
    world.settle();
    assert_eq!(outside(&world), [API]);
    assert!(why(&world, "api.example.com").contains("egressProxy"));
    world.gone(Watched::Sidecars, "istio-system", "default");
    world.settle();
    rest(&mut world);
    assert_eq!(outside(&world), [""; 0]);
    let pod = |world: &mut World, captures_dns| {
        let key = PodKey::new("shop", "web-1");
        let facts = crate::facts::PodFacts {
            labels: [("app".to_owned(), "web".to_owned())].into_iter().collect(),
            account: "default".into(),
            workload: "web".into(),
            proxy: crate::facts::ProxyKind::Sidecar,
            captures_dns,
            ..Default::default()
        };
        world.apply(Change::Pod(key, Some(facts)));
        world.settle();
    };
    pod(&mut world, true);
    assert_eq!(outside(&world), [API]);
    assert!(why(&world, "api.example.com").contains("ISTIO_META_DNS_CAPTURE"));
    pod(&mut world, false);
    rest(&mut world);
    assert_eq!(outside(&world), [""; 0]);
}

#[test]
fn two_hosts_keep_each_kind_of_listener_of_a_port_number() {
    let mut world = shop_outside(LEARN, &[]);
    assert_eq!(all_outside(&world), KEEPERS);
    let said = why(&world, "first.example.com");
    assert!(
        said.contains("connections that pass through there would be cut"),
        "{said}"
    );
    // Whoever has the first may take it away.
    world.gone(Watched::ServiceEntries, "data", "a");
    world.settle();
    assert_eq!(all_outside(&world), [API, KEEPERS[1]]);
    let http = |host: &str| json!({"hosts": [host], "resolution": "DNS", "ports": [{"number": 443, "protocol": "HTTP"}]});
    declare(&mut world, "data", "web", &http("web.example.com"));
    declare(&mut world, "data", "web2", &http("web2.example.com"));
    declare(&mut world, "data", "web3", &http("web3.example.com"));
    rest(&mut world);
    let kept = [API, KEEPERS[1], "data/web.example.com", "data/web2.example.com"];
    assert_eq!(all_outside(&world), kept);
    // Hosts that stay for themselves are enough.
    for name in ["y", "z"] {
        let mut bound = entry(&format!("{name}.example.com"));
        bound["location"] = json!("MESH_INTERNAL");
        declare(&mut world, "data", name, &bound);
    }
    rest(&mut world);
    let bound = ["data/y.example.com", "data/z.example.com"];
    let kept = [kept[2], kept[3], bound[0], bound[1]];
    assert_eq!(all_outside(&world), kept);
    // One without hosts keeps nothing, and of two of one name only the first is there.
    declare(
        &mut world,
        "data",
        "0",
        &json!({"hosts": [], "ports": http("")["ports"]}),
    );
    let mut again = entry("y.example.com");
    again["ports"][0]["number"] = json!(8443);
    declare(&mut world, "books", "y", &again);
    rest(&mut world);
    let all = all_outside(&world);
    assert!(
        all.contains(&KEEPERS[1].to_owned()) && all.contains(&"data/web2.example.com".to_owned()),
        "{all:?}"
    );
}

#[test]
fn one_leaves_an_hour_after_rules_that_led_it_elsewhere_are_gone() {
    let mut world = shop_outside(LEARN, &[]);
    let rules = json!({"hosts": ["*.example.com"], "tls": []});
    world.object("VirtualService", "data", "mine", rules);
    world.settle();
    for _ in 0..5 {
        rest(&mut world);
    }
    world.gone(Watched::VirtualServices, "data", "mine");
    world.step();
    assert_eq!(
        outside(&world),
        [API],
        "what connects to it now does not show yet"
    );
    let said = explain(&world, "api.example.com").answer;
    assert!(said.contains("less than an hour ago"), "{said}");
    // No one has to ask again.
    let before = world.now;
    world.settle();
    assert_eq!(outside(&world), [""; 0]);
    assert_eq!(world.now - SignedDuration::from_secs(3_601), before);
}

#[test]
fn a_service_entry_does_not_hide_the_service_of_its_name() {
    let mut world = shop(true);
    used(&mut world, &USED, DAY * 14);
    let squatter = json!({"hosts": ["reviews.books.svc.cluster.local"], "ports": [{"number": 8080, "protocol": "HTTP"}]});
    declare(&mut world, "evil", "squatter", &squatter);
    assert!(scope(&world).contains(&REVIEWS.to_owned()), "{:?}", scope(&world));
}

#[test]
fn a_fence_that_keeps_them_all_learns_none() {
    let world = shop_outside("Keep", &["api.example.com"]);
    let learned = world.status("shop", "web").learned;
    assert!(
        learned.iter().all(|learned| learned.host != "api.example.com"),
        "{learned:?}"
    );
}

#[test]
fn what_is_allowed_or_has_keys_of_tokens_is_in_scope() {
    let mut world = shop_outside(LEARN, &[]);
    let rule = json!({"jwtRules": [{"issuer": "x", "jwksUri": "https://api.example.com/keys"}]});
    world.object("RequestAuthentication", "shop", "tokens", rule);
    world.settle();
    assert_eq!(outside(&world), [API]);
    assert!(why(&world, "api.example.com").contains("the keys of RequestAuthentication shop/tokens"));
    world.gone(Watched::RequestAuthentications, "shop", "tokens");
    world.settle();
    rest(&mut world);
    assert_eq!(outside(&world), [""; 0]);
    let learning = json!({"serviceEntries": LEARN});
    let allowed = json!({"allow": [{"host": "api.example.com"}], "learning": learning});
    world.edit("shop", "web", allowed);
    known(&mut world, &[]);
    assert_eq!(outside(&world), [API]);
    // What it called meanwhile has to be read again: a connection may be open.
    world.edit("shop", "web", json!({"learning": learning}));
    world.settle();
    assert_eq!(outside(&world), [API]);
    let said = explain(&world, "api.example.com").answer;
    assert!(said.contains("the Sidecar keeps it until metrics"), "{said}");
    known(&mut world, &[]);
    rest(&mut world);
    assert_eq!(outside(&world), [""; 0]);
}

#[test]
fn a_call_teaches_what_the_callers_namespace_sees_of_a_host() {
    let mut world = shop_outside(LEARN, &[]);
    let mut hidden = entry("hidden.example.com");
    hidden["exportTo"] = json!(["."]);
    declare(&mut world, "data", "hidden", &hidden);
    declare(&mut world, "books", "api", &entry("api.example.com"));
    let host = ["api.example.com", "hidden.example.com", "nobody.example.com"];
    calling(&mut world, &host);
    world.settle();
    assert_eq!(outside(&world), ["books/api.example.com", API]);
    let learned = world.status("shop", "web").learned;
    assert!(
        learned.iter().all(|learned| !host[1..].contains(&&*learned.host)),
        "{learned:?}"
    );
    // It is the same one when another namespace declares it alone.
    world.gone(Watched::ServiceEntries, "books", "api");
    world.settle();
    assert_eq!(outside(&world), [API]);
}

#[test]
fn a_host_that_was_used_stays_where_metrics_leave_out_connections() {
    let mut world = shop_outside(LEARN, &["api.example.com"]);
    for _ in 0..(60 * 24) {
        world.pass(SignedDuration::from_hours(1));
        calling(&mut world, &[]);
        world.apply(Change::Uncounted([web()].into()));
        world.resync();
        world.settle();
    }
    assert_eq!(outside(&world), [API]);
    assert_eq!(
        why(&world, "api.example.com"),
        "metrics tell of calls to it",
        "it is not even forgotten"
    );
}

#[test]
fn what_has_the_name_of_a_service_stays_and_other_short_names_leave() {
    for (host, stays) in [
        ("db.old.svc.cluster.local", true),
        ("example.com", false),
        ("api.example.books", false),
    ] {
        let mut world = shop_outside(LEARN, &[]);
        declare(&mut world, "data", "api", &entry(host));
        assert_eq!(scope(&world).contains(&format!("data/{host}")), stays, "{host}");
        let said = why(&world, host);
        assert_eq!(
            said.contains("its name is that of a Service of the cluster"),
            stays,
            "{said}"
        );
    }
}
