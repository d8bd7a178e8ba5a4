//! DestinationRules that callers follow and the fallback gateway does not, and those that cover it.

use serde_json::{Value, json};

use crate::observe::Watched;
use crate::tests::*;

const REVIEWS: &str = "books/reviews.books.svc.cluster.local";

fn by_tls(host: &str, export_to: &[&str]) -> Value {
    json!({"host": host, "trafficPolicy": {"tls": {"mode": "SIMPLE"}}, "exportTo": export_to})
}

#[test]
fn a_service_that_callers_connect_to_by_a_rule_of_their_own_is_in_scope() {
    let mut world = shop();
    let host = "reviews.books.svc.cluster.local";
    for (namespace, rule, expected) in [
        ("shop", by_tls(host, &[]), true),
        ("shop", by_tls("*.books.svc.cluster.local", &["."]), true),
        (
            "shop",
            json!({"host": host, "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}),
            true,
        ),
        (
            "shop",
            json!({"host": "*.local", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}),
            false,
        ),
        // The gateway follows it as well.
        ("books", by_tls("reviews", &[]), false),
        ("books", by_tls("reviews", &["shop"]), true),
        ("books", by_tls("reviews", &["free"]), false),
        ("istio-system", by_tls(host, &[]), false),
        ("istio-system", by_tls(host, &["shop"]), true),
        // Of a third namespace it is for no call from shop to books.
        ("free", by_tls(host, &[]), false),
    ] {
        world.object("DestinationRule", namespace, "one", rule.clone());
        world.settle();
        let is_there = scope(&world).contains(&REVIEWS.to_owned());
        assert_eq!(is_there, expected, "{namespace}: {rule}");
        world.gone(Watched::DestinationRules, namespace, "one");
        world.settle();
        assert_eq!(scope(&world), [""; 0]);
    }
}

#[test]
fn a_service_that_comes_under_such_a_rule_is_in_scope_and_explained() {
    let mut world = shop();
    let rule = by_tls("late.books.svc.cluster.local", &[]);
    world.object("DestinationRule", "shop", "late", rule);
    world.service("books", "late", &["http:8080"]);
    world.settle();
    assert_eq!(scope(&world), ["books/late.books.svc.cluster.local"]);
    let said = world.engine.explain(&web(), "late.books", world.now).unwrap();
    assert!(
        said.answer
            .contains("callers of this namespace follow shop/late where the fallback gateway follows none"),
        "{}",
        said.answer
    );
}

/// Sidecars keep the client's version of HTTP on a port without a declared protocol, and gateways do not.
#[test]
fn an_upgrade_of_a_port_without_a_declared_protocol_is_left_to_the_caller() {
    let mut world = shop();
    world.service("books", "any", &["any:9000"]);
    let upgrade = json!({"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}});
    for name in ["any", "reviews"] {
        let rule = json!({"host": name, "trafficPolicy": upgrade});
        world.object("DestinationRule", "books", name, rule);
    }
    world.settle();
    assert_eq!(scope(&world), ["books/any.books.svc.cluster.local"]);
    world.service("books", "any", &["http:9000"]);
    world.settle();
    assert_eq!(scope(&world), [""; 0], "its protocol is declared");
}

/// Of two rules callers follow that of their own namespace, and all that the other one says is gone.
#[test]
fn a_rule_of_the_callers_that_takes_the_place_of_one_that_connects_is_left_to_them() {
    let mut world = shop();
    let balance = json!({"loadBalancer": {"simple": "RANDOM"}});
    let own = |host: &str, export_to: &[&str]| json!({"host": host, "trafficPolicy": balance, "exportTo": export_to});
    let of = |host: &str| json!({"host": host, "subsets": [{"name": "v1"}]});
    let reviews = "reviews.books.svc.cluster.local";
    for (theirs, host) in [
        ("books", reviews),
        ("books", "*.books.svc.cluster.local"),
        ("istio-system", reviews),
    ] {
        for (ours, export_to, expected) in [
            (reviews, [].as_slice(), true),
            ("*.books.svc.cluster.local", &[], true),
            (reviews, &["books"], false),
            ("ratings.books.svc.cluster.local", &[], host.starts_with('*')),
        ] {
            world.object("DestinationRule", theirs, "theirs", of(host));
            world.object("DestinationRule", "shop", "ours", own(ours, export_to));
            world.settle();
            let is_there = scope(&world).iter().any(|host| host.starts_with("books/"));
            assert_eq!(is_there, expected, "{theirs} {host}: {ours} {export_to:?}");
            world.gone(Watched::DestinationRules, theirs, "theirs");
            world.settle();
            assert_eq!(scope(&world), [""; 0], "{theirs} {host}: {ours} {export_to:?}");
            world.object("DestinationRule", theirs, "theirs", of(host));
            world.settle();
            let again = scope(&world).iter().any(|host| host.starts_with("books/"));
            assert_eq!(again, expected, "{theirs} {host}, last: {ours} {export_to:?}");
            if ours == reviews && expected {
                let said = world.engine.explain(&web(), "reviews.books", world.now).unwrap();
                let because = format!("follow shop/ours where the fallback gateway follows {theirs}/theirs");
                assert!(said.answer.contains(&because), "{}", said.answer);
            }
            world.gone(Watched::DestinationRules, "shop", "ours");
            world.settle();
            assert_eq!(scope(&world), [""; 0], "{theirs} {host}: {ours} {export_to:?}");
            world.gone(Watched::DestinationRules, theirs, "theirs");
        }
    }
}

/// Of the default Istio asks only whether rules stay in their namespace.
#[test]
fn a_default_export_of_mesh_config_counts() {
    let mut world = shop();
    world.object("DestinationRule", "shop", "web", by_tls("web", &[]));
    for (default, expected) in [
        ("['.']", vec!["shop/web.shop.svc.cluster.local"]),
        ("[till]", vec![]),
    ] {
        mesh_config(&mut world, &format!("defaultDestinationRuleExportTo: {default}"));
        assert_eq!(scope(&world), expected, "{default}");
    }
}

/// One for certain pods stays in its namespace, and hides less exact ones there.
#[test]
fn a_rule_for_certain_pods_is_left_to_them() {
    let mut world = shop();
    let selector = json!({"matchLabels": {"app": "web"}});
    let rule =
        json!({"host": "web", "workloadSelector": selector, "trafficPolicy": {"tls": {"mode": "SIMPLE"}}});
    world.object("DestinationRule", "shop", "web", rule);
    world.settle();
    assert_eq!(scope(&world), ["shop/web.shop.svc.cluster.local"]);
}

/// The gateway has no files of the caller, and makes no tunnels.
#[test]
fn what_only_the_callers_proxy_can_do_is_left_to_it() {
    let mut world = shop();
    let files =
        json!({"tls": {"mode": "MUTUAL", "clientCertificate": "/etc/c.pem", "privateKey": "/etc/k.pem"}});
    let tunnel = json!({"tunnel": {"targetHost": "a.b", "targetPort": 80}});
    for policy in [files, tunnel] {
        world.object(
            "DestinationRule",
            "books",
            "all",
            json!({"host": "reviews", "trafficPolicy": policy}),
        );
        world.settle();
        assert_eq!(scope(&world), [REVIEWS], "{policy}");
        let said = world.engine.explain(&web(), "reviews.books", world.now).unwrap();
        assert!(
            said.answer.contains("what only the caller's proxy has"),
            "{}",
            said.answer
        );
        world.gone(Watched::DestinationRules, "books", "all");
        world.settle();
        assert_eq!(scope(&world), [""; 0]);
    }
}

/// istiod takes the most exact ones that a namespace exports, and only then asks who sees them.
#[test]
fn a_rule_that_hides_another_from_some_counts() {
    let mut world = shop();
    world.namespace("books", Some("enforce"));
    world.service("books", "desk", &["http:8080"]);
    let books = "*.books.svc.cluster.local";
    world.object(
        "DestinationRule",
        "books",
        "all",
        json!({"host": books, "trafficPolicy": {"tls": {"mode": "SIMPLE"}}}),
    );
    world.settle();
    assert_eq!(world.scope("books", "desk"), Some(vec![]));
    // Callers in books do not have it among their own, and for others it takes the place of the first.
    world.object(
        "DestinationRule",
        "books",
        "one",
        json!({"host": "reviews", "exportTo": ["till"]}),
    );
    world.settle();
    assert_eq!(world.scope("books", "desk").unwrap(), [REVIEWS]);
    assert_eq!(
        scope(&world),
        [""; 0],
        "callers in shop follow none, as the gateway does"
    );
    // A rule of the root namespace takes the place of one that callers see and the gateway does not.
    world.gone(Watched::DestinationRules, "books", "all");
    let plain = json!({"host": "reviews", "exportTo": ["shop"], "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}});
    world.object("DestinationRule", "books", "one", plain);
    world.object(
        "DestinationRule",
        "istio-system",
        "root",
        by_tls("reviews.books.svc.cluster.local", &[]),
    );
    world.settle();
    assert_eq!(scope(&world), [REVIEWS]);
}

#[test]
fn a_rule_of_the_namespace_that_covers_the_gateway_keeps_its_fences_from_being_enforced() {
    let mut world = shop();
    let mutual = json!({"tls": {"mode": "ISTIO_MUTUAL"}});
    let limits = json!({"outlierDetection": {"consecutive5xxErrors": 5}});
    let conflict = "False ForeignDestinationRule";
    for (host, policy, expected) in [
        ("*.local", &limits, conflict),
        ("*", &limits, conflict),
        ("*.local", &mutual, "True Scoped"),
        ("*.books.svc.cluster.local", &limits, "True Scoped"),
    ] {
        let rule = json!({"host": host, "trafficPolicy": policy});
        world.object("DestinationRule", "shop", "all", rule);
        world.settle();
        assert_eq!(
            world.condition("shop", "web", "Enforced"),
            expected,
            "{host} {policy}"
        );
    }
    world.object(
        "DestinationRule",
        "shop",
        "all",
        json!({"host": "*.local", "trafficPolicy": limits}),
    );
    let ours = "servicefence-fallback.servicefence-system.svc.cluster.local";
    world.object(
        "DestinationRule",
        "shop",
        "ours",
        json!({"host": ours, "trafficPolicy": mutual}),
    );
    world.settle();
    assert_eq!(
        world.condition("shop", "web", "Enforced"),
        "True Scoped",
        "the most specific one counts"
    );
    world.object(
        "DestinationRule",
        "books",
        "all",
        json!({"host": "*.local", "trafficPolicy": limits}),
    );
    world.settle();
    assert_eq!(
        world.condition("shop", "web", "Enforced"),
        "True Scoped",
        "another namespace's"
    );
}
