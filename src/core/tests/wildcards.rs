//! VirtualServices for wildcards, beside those for a very host and where no Service is one of them, and for
//! names of no Service.

use serde_json::{Value, json};

use crate::observe::Watched;
use crate::simulate::world::SYSTEM;
use crate::tests::routes::rules;
use crate::tests::*;

const BOOKS: &str = "*.books.svc.cluster.local";
const REVIEWS: &str = "reviews.books.svc.cluster.local";

fn rules_for(host: &str, to: &str) -> Value {
    json!({"hosts": [host], "http": [{"route": [{"destination": {"host": to}}]}]})
}

/// Where the gateway sends calls to port 8080 of `reviews`, rule by rule: `caller -> service`.
fn led(world: &World) -> Vec<String> {
    let rules = rules(world, "books").into_iter();
    let led = rules.map(|rule| {
        let caller = rule["match"][0]["headers"]["x-servicefence-source"]["prefix"].as_str();
        let to = rule["route"][0]["destination"]["host"].as_str();
        let to = to.map_or("404", |host| host.split('.').next().unwrap());
        format!("{}{to}", caller.unwrap_or_default())
    });
    led.collect()
}

/// The same, with these VirtualServices of `books`: host, what they send calls to, and what else they say.
fn led_by(rules: &[(&str, &str, Value)]) -> Vec<String> {
    let mut world = World::new();
    world.service("books", "reviews", &["http:8080"]);
    for (at, (host, to, more)) in rules.iter().enumerate() {
        let mut spec = rules_for(host, to);
        if let Some(matched) = more.get("match") {
            spec["http"][0]["match"] = json!([matched]);
        }
        if let Some(export_to) = more.get("exportTo") {
            spec["exportTo"] = json!([export_to]);
        }
        world.object("VirtualService", "books", &format!("rules-{at}"), spec);
    }
    world.settle();
    led(&world)
}

#[test]
fn first_calls_follow_the_rules_of_the_most_exact_host() {
    let all = || json!({});
    let exact = ["exact", "404", "reviews"];
    assert_eq!(
        led_by(&[(BOOKS, "wide", all()), (REVIEWS, "exact", all())]),
        exact
    );
    assert_eq!(
        led_by(&[(REVIEWS, "exact", all()), (BOOKS, "wide", all())]),
        exact
    );
    let wide = ["wide", "404", "reviews"];
    assert_eq!(led_by(&[(BOOKS, "wide", all())]), wide);
    for wider in ["*.svc.cluster.local", "*s.books.svc.cluster.local", "*"] {
        let rules = [
            (wider, "other", all()),
            ("*ws.books.svc.cluster.local", "wide", all()),
        ];
        assert_eq!(led_by(&rules), wide, "{wider}");
    }
}

#[test]
fn a_wildcard_is_not_looked_at_where_a_more_exact_host_has_no_rule_for_the_call() {
    let other_port = || json!({"match": {"port": 9090}});
    assert_eq!(
        led_by(&[(BOOKS, "wide", json!({})), (REVIEWS, "exact", other_port())]),
        ["reviews"]
    );
    assert_eq!(
        led_by(&[(BOOKS, "older", other_port()), (BOOKS, "younger", json!({}))]),
        ["reviews"],
        "of several for a wildcard the first counts alone"
    );
    assert_eq!(
        led_by(&[(REVIEWS, "older", other_port()), (REVIEWS, "younger", json!({}))]),
        ["younger", "404", "reviews"],
        "of several for the very host the first that has a rule"
    );
}

#[test]
fn each_namespace_chooses_among_what_it_sees() {
    let to_shop = || json!({"exportTo": "shop"});
    let wide = || (BOOKS, "wide", json!({}));
    assert_eq!(
        led_by(&[wide(), (REVIEWS, "exact", to_shop())]),
        ["shop/exact", "shop/404", "wide", "404", "reviews"]
    );
    assert_eq!(
        led_by(&[(BOOKS, "wide", to_shop()), (REVIEWS, "exact", json!({}))]),
        ["exact", "404", "reviews"],
        "the shop follows the rules for the very host too"
    );
    for more in [json!({"port": 9090}), json!({"sourceLabels": {"app": "web"}})] {
        assert_eq!(
            led_by(&[
                wide(),
                (REVIEWS, "exact", json!({"exportTo": "shop", "match": more}))
            ]),
            ["shop/reviews", "wide", "404", "reviews"],
            "{more}: the shop does not follow the wildcard"
        );
    }
}

#[test]
fn rules_for_a_wildcard_over_no_service_are_in_scope_by_a_name_below_it() {
    let long = format!("*{}.example.com", "a".repeat(60));
    let imported = "books/servicefence.partner.example.com";
    let edge = json!({"hosts": ["*.partner.example.com"], "gateways": ["edge"], "http": [{}]});
    let private = json!({"hosts": ["*.partner.example.com"], "exportTo": ["."], "http": [{}]});
    let of_connections = json!({"hosts": ["*.partner.example.com"], "tls": [{}]});
    for (spec, imports) in [
        (rules_for("*.partner.example.com", "reviews"), Some(imported)),
        (
            rules_for("*-x.example.com", "reviews"),
            Some("books/servicefence-x.example.com"),
        ),
        (
            rules_for(BOOKS, "reviews"),
            Some("books/servicefence.books.svc.cluster.local"),
        ),
        (rules_for("*", "reviews"), None),
        (rules_for(&long, "reviews"), None),
        (edge, None),
        (private, None),
        (of_connections, None),
    ] {
        let mut world = shop();
        world.object("VirtualService", "books", "wide", spec.clone());
        world.settle();
        assert_eq!(scope(&world), Vec::from_iter(imports), "{spec}");
        world.gone(Watched::VirtualServices, "books", "wide");
        world.settle();
        assert!(scope(&world).is_empty(), "{spec}");
    }
}

#[test]
fn they_are_not_where_a_service_or_an_entry_below_or_above_has_the_port() {
    let mut world = shop();
    world.object("VirtualService", "books", "wide", rules_for(BOOKS, "reviews"));
    let partner = "*.partner.example.com";
    world.object(
        "VirtualService",
        "books",
        "partner",
        rules_for(partner, "reviews"),
    );
    world.settle();
    let both = [
        "books/servicefence.books.svc.cluster.local",
        "books/servicefence.partner.example.com",
    ];
    assert_eq!(scope(&world), both);
    let late = world.service("books", "late", &["http:80"]);
    world.settle();
    assert_eq!(scope(&world), both[1..]);
    world.no_service(&late);
    world.settle();
    assert_eq!(scope(&world), both);
    let entry =
        |host: &str, number: u16| json!({"hosts": [host], "ports": [{"number": number, "protocol": "HTTP"}]});
    for (host, number, is_followed) in [
        ("api.partner.example.com", 80, false),
        ("*.example.com", 80, false),
        ("api.partner.example.com", 8080, true),
        ("partner.example.com", 80, true),
    ] {
        world.object("ServiceEntry", "data", "entry", entry(host, number));
        world.settle();
        let is = scope(&world).contains(&both[1].to_owned());
        assert_eq!(is, is_followed, "{host} {number}: {:?}", scope(&world));
    }
}

#[test]
fn rules_for_the_name_of_a_service_that_is_not_seen_are_in_scope() {
    let mut world = shop();
    let host = "virtual.books.svc.cluster.local";
    world.object("VirtualService", "infra", "virtual", rules_for(host, REVIEWS));
    world.settle();
    let by_rules = ["infra/virtual.books.svc.cluster.local"];
    assert_eq!(scope(&world), by_rules);
    let service = world.service("books", "virtual", &["http:8080"]);
    world.settle();
    assert!(scope(&world).is_empty(), "its rules come with it");
    let hidden = json!({"metadata": {"annotations": {"networking.istio.io/exportTo": "."}}});
    world.service_with("books", "virtual", &["http:8080"], &hidden);
    world.settle();
    assert_eq!(scope(&world), by_rules);
    world.no_service(&service);
    world.settle();
    assert_eq!(scope(&world), by_rules);
}

/// The fallback gateway may see the Service that the caller does not.
#[test]
fn rules_that_come_for_a_service_that_is_not_seen_are_in_scope() {
    let mut world = shop();
    let export_to = format!("books,{SYSTEM}");
    let hidden = json!({"metadata": {"annotations": {"networking.istio.io/exportTo": export_to}}});
    world.service_with("books", "virtual", &["http:8080"], &hidden);
    world.settle();
    let host = "virtual.books.svc.cluster.local";
    world.object("VirtualService", "infra", "virtual", rules_for(host, REVIEWS));
    world.settle();
    assert_eq!(scope(&world), ["infra/virtual.books.svc.cluster.local"]);
}

#[test]
fn an_external_name_with_rules_is_in_scope_with_what_it_stands_for() {
    let mut world = shop();
    let external = json!({"spec": {"type": "ExternalName", "externalName": REVIEWS, "clusterIP": null}});
    world.service_with("data", "legacy", &["http:8080"], &external);
    world.settle();
    assert!(scope(&world).is_empty(), "without rules it is a name of reviews");
    let by_rules = [
        "books/legacy.data.svc.cluster.local",
        "books/reviews.books.svc.cluster.local",
        "data/legacy.data.svc.cluster.local",
        "infra/legacy.data.svc.cluster.local",
    ];
    let exact = "legacy.data.svc.cluster.local";
    world.object("VirtualService", "infra", "legacy", rules_for(exact, REVIEWS));
    world.settle();
    assert_eq!(scope(&world), by_rules);
    let wide = "*.data.svc.cluster.local";
    world.object("VirtualService", "infra", "legacy", rules_for(wide, REVIEWS));
    world.service("data", "other", &["http:80"]);
    world.settle();
    let mut with_other = scope(&world);
    with_other.retain(|host| !host.contains("/other.data"));
    assert_eq!(with_other, by_rules);
    let legacy = ServiceKey::new("data", "legacy");
    world.no_service(&legacy);
    world.settle();
    assert!(scope(&world).is_empty());
    world.service_with("data", "legacy", &["http:8080"], &external);
    world.settle();
    assert!(
        scope(&world).contains(&by_rules[2].to_owned()),
        "{:?}",
        scope(&world)
    );
    let explained = world.engine.explain(&web(), "legacy.data", world.now).unwrap();
    let because = explained.because.iter();
    assert!(
        because
            .clone()
            .any(|because| because.detail.contains("goes by the address")),
        "{:?}",
        because.collect::<Vec<_>>()
    );
}

/// Without one, istiod follows the wildcard's rules on port 80 for every name below it.
#[test]
fn a_scope_with_rules_for_a_wildcard_has_a_service_of_port_80_below_it() {
    let mut world = shop();
    world.object("VirtualService", "books", "wide", rules_for(BOOKS, "ratings"));
    world.service("books", "late", &["http:80"]);
    world.service("books", "later", &["http:80"]);
    world.settle();
    assert!(scope(&world).is_empty());
    learn(&mut world, &reviews());
    world.settle();
    let [late, later, reviews] =
        ["late", "later", "reviews"].map(|name| format!("books/{name}.books.svc.cluster.local"));
    assert_eq!(scope(&world), [late.clone(), reviews.clone()]);
    learn(&mut world, &ServiceKey::new("books", "later"));
    world.settle();
    assert_eq!(scope(&world), [later.clone(), reviews.clone()], "one is enough");
    world.no_service(&ServiceKey::new("books", "late"));
    world.service("books", "later", &["http:81"]);
    world.settle();
    assert_eq!(
        scope(&world),
        [
            later.clone(),
            reviews.clone(),
            "books/servicefence.books.svc.cluster.local".to_owned()
        ],
        "there is none of port 80"
    );
    let everywhere = rules_for("*", "ratings");
    world.object("VirtualService", "books", "wide", everywhere);
    world.service("data", "late", &["http:80"]);
    world.settle();
    assert_eq!(scope(&world), [later, reviews], "servicefence-ports has it");
}

/// Of the rules for the short name and of those for the host Istio takes the older ones, where it sees both.
#[test]
fn rules_for_a_short_name_come_with_the_service_that_has_it() {
    let imported = "books/reviews.books.svc.cluster.local".to_owned();
    for short in ["reviews.books", "reviews.books.svc"] {
        let mut world = shop();
        world.object("VirtualService", "books", "full", rules_for(REVIEWS, "ratings"));
        world.object("VirtualService", "infra", "short", rules_for(short, REVIEWS));
        world.settle();
        assert_eq!(scope(&world), [format!("infra/{short}")], "it has another port");
        world.service("books", "reviews", &["http:80"]);
        world.settle();
        assert!(scope(&world).contains(&imported), "{short}: {:?}", scope(&world));
        world.gone(Watched::VirtualServices, "infra", "short");
        world.settle();
        assert!(!scope(&world).contains(&imported), "{short}");
    }
}
