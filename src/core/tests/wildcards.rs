//! VirtualServices for wildcards, beside those for a very host.

use serde_json::{Value, json};

use crate::render::Kind;
use crate::simulate::world::SYSTEM;
use crate::tests::*;

const BOOKS: &str = "*.books.svc.cluster.local";
const REVIEWS: &str = "reviews.books.svc.cluster.local";

fn rules_for(host: &str, to: &str) -> Value {
    json!({"hosts": [host], "http": [{"route": [{"destination": {"host": to}}]}]})
}

/// Where the gateway sends calls to port 8080 of `reviews`, rule by rule: `caller -> service`.
fn led(world: &World) -> Vec<String> {
    let object = &world.objects[&(Kind::VirtualService, SYSTEM.into(), "fallback-books".into())];
    let rules = object["spec"]["http"].as_array().unwrap().iter();
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
