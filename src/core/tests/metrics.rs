//! What metrics teach, and what a first Sidecar waits for.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use serde_json::json;
use servicefence_crd::Source;

use crate::engine::Change;
use crate::evidence::{BackfillProgress, CallHistory};
use crate::learn::{Call, Period, Unattributed};
use crate::name::{FenceKey, ServiceKey};
use crate::settings::Settings;
use crate::simulate::world::{World, call, settings};
use crate::tests::web;

const REVIEWS: &str = "reviews.books.svc.cluster.local";

/// The shop of [`super::shop`], not settled yet, in a mesh with metrics.
fn shop() -> World {
    let mut world = World::with(Settings {
        reads_history: true,
        ..settings()
    });
    world.namespace("shop", Some("enforce"));
    world.namespace("books", None);
    world.service("shop", "web", &["http:8080"]);
    world.service("books", "reviews", &["http:8080"]);
    world.service("books", "ratings", &["http:8080"]);
    world.pod("shop", "web-1", &[("app", "web")]);
    world.settle();
    world
}

fn taught(world: &World, calls: &[Call]) -> BTreeSet<(String, String)> {
    let calls = calls.iter().cloned().map(|call| (call, Period::at(world.now)));
    let traffic = world.engine.learn_from_calls(&calls.collect(), None, world.now);
    let pairs = traffic.observations.into_keys();
    pairs
        .inspect(|seen| assert_eq!(seen.source, Source::Prometheus))
        .map(|seen| {
            (
                seen.fence.to_string(),
                ServiceKey::of_host(&seen.host.name).unwrap().to_string(),
            )
        })
        .collect()
}

fn why_not(world: &World, call: Call) -> Vec<Unattributed> {
    let calls = BTreeMap::from([(call, Period::at(world.now))]);
    let traffic = world.engine.learn_from_calls(&calls, None, world.now);
    assert!(traffic.observations.is_empty() && traffic.joining.is_empty());
    traffic.unattributed.into_keys().collect()
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    pairs
        .iter()
        .map(|(fence, service)| ((*fence).to_owned(), (*service).to_owned()))
        .collect()
}

#[test]
fn a_call_teaches_the_fence_of_its_workload_and_no_other() {
    let mut world = shop();
    world.namespace("other", Some("enforce"));
    world.service("other", "web", &["http:8080"]);
    world.pod("other", "web-1", &[("app", "web")]);
    world.settle();
    let both = [
        call("shop", "web", REVIEWS),
        call("other", "web", "ratings.books.svc.cluster.local"),
    ];
    assert_eq!(
        taught(&world, &both),
        pairs(&[("shop/web", "books/reviews"), ("other/web", "books/ratings")])
    );
    assert_eq!(
        why_not(&world, call("books", "web", REVIEWS)),
        [Unattributed::NotFenced]
    );
}

#[test]
fn two_workloads_of_one_service_teach_its_one_fence() {
    let mut world = shop();
    world.pod("shop", "canary-1", &[("app", "web"), ("version", "v2")]);
    assert_eq!(
        taught(&world, &[call("shop", "canary", REVIEWS)]),
        pairs(&[("shop/web", "books/reviews")])
    );
}

#[test]
fn a_workload_without_pods_is_found_by_labels_else_by_name_else_the_default_takes_it() {
    let mut world = shop();
    world.object(
        "ServiceFence",
        "shop",
        "jobs",
        json!({"workload": {"selector": {"app": "report"}}}),
    );
    world.settle();
    let mut job = call("shop", "monthly", REVIEWS);
    job.from.app = "report".into();
    assert_eq!(taught(&world, &[job]), pairs(&[("shop/jobs", "books/reviews")]));
    let mut named = call("shop", "web-of-yesterday", REVIEWS);
    named.from.canonical = "web".into();
    assert_eq!(taught(&world, &[named]), pairs(&[("shop/web", "books/reviews")]));
    let nobody = call("shop", "batch", REVIEWS);
    assert_eq!(why_not(&world, nobody.clone()), [Unattributed::NotFenced]);
    world.object(
        "ServiceFence",
        "shop",
        "rest",
        json!({"workload": {"namespaceDefault": true}}),
    );
    world.settle();
    assert_eq!(
        taught(&world, &[nobody]),
        pairs(&[("shop/rest", "books/reviews")])
    );
}

#[test]
fn the_host_that_a_rule_leads_to_brings_the_host_that_was_called() {
    let mut world = shop();
    world.service("books", "reviews-v2", &["http:8080"]);
    let rules = json!({"hosts": ["reviews.books.svc.cluster.local"], "http": [{"route": [{"destination": {"host": "reviews-v2.books.svc.cluster.local"}}]}]});
    world.object("VirtualService", "books", "reviews", rules.clone());
    let seen = [call("shop", "web", "reviews-v2.books.svc.cluster.local")];
    let both = pairs(&[("shop/web", "books/reviews"), ("shop/web", "books/reviews-v2")]);
    assert_eq!(taught(&world, &seen), both);
    let mut hidden = rules;
    hidden["exportTo"] = json!(["."]);
    world.object("VirtualService", "books", "reviews", hidden);
    assert_eq!(taught(&world, &seen), pairs(&[("shop/web", "books/reviews-v2")]));
}

#[test]
fn only_services_that_the_caller_sees_and_may_learn_are_taught() {
    let mut world = shop();
    for host in [
        "api.example.com",
        "gone.books.svc.cluster.local",
        "",
        "*",
        "books/reviews",
    ] {
        assert_eq!(
            why_not(&world, call("shop", "web", host)),
            [Unattributed::NotMesh],
            "{host}"
        );
    }
    let hide = json!({"metadata": {"annotations": {"networking.istio.io/exportTo": "."}}});
    world.service_with("books", "hidden", &["http:8080"], &hide);
    let hidden = call("shop", "web", "hidden.books.svc.cluster.local");
    assert_eq!(why_not(&world, hidden), [Unattributed::NotMesh]);
    world.edit("shop", "web", json!({"deny": ["reviews.books"]}));
    assert_eq!(
        why_not(&world, call("shop", "web", REVIEWS)),
        [Unattributed::Denied]
    );
    world.edit("shop", "web", json!({"learning": {"sources": ["AccessLog"]}}));
    assert_eq!(
        why_not(&world, call("shop", "web", REVIEWS)),
        [Unattributed::SourceOff]
    );
}

#[test]
fn what_is_known_is_told_once_in_a_while() {
    let mut world = shop();
    let seen = call("shop", "web", REVIEWS);
    world.calls(std::slice::from_ref(&seen));
    assert_eq!(taught(&world, std::slice::from_ref(&seen)), pairs(&[]));
    world.pass(SignedDuration::from_hours(41));
    assert_eq!(taught(&world, std::slice::from_ref(&seen)), pairs(&[]));
    world.pass(SignedDuration::from_hours(1));
    assert_eq!(taught(&world, &[seen]), pairs(&[("shop/web", "books/reviews")]));
}

/// The condition `Ready` of a fence of the shop.
fn said(world: &World, name: &str) -> String {
    let conditions = world.status("shop", name).conditions;
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .unwrap();
    format!("{} {} {}", ready.status, ready.reason, ready.message)
}

fn days(read: i64, trouble: Option<&str>) -> Change {
    Change::History(BackfillProgress {
        read: SignedDuration::from_hours(24 * read),
        of: SignedDuration::from_hours(24 * 14),
        trouble: trouble.map(ToOwned::to_owned),
    })
}

/// The past of `shop/web` was read, and these hosts were called in it.
fn read(world: &World, called: &[&str]) -> Change {
    let unstored = called.iter().map(|host| ((*host).into(), world.now)).collect();
    let known_since = world.now - SignedDuration::from_hours(336);
    Change::HistoryRead(BTreeMap::from([(
        web(),
        CallHistory {
            unstored,
            known_since,
            connections_known_since: world.now,
            told: world.now,
            told_by: BTreeMap::new(),
        },
    )]))
}

#[test]
fn a_first_sidecar_waits_until_the_past_is_read_and_stored() {
    let mut world = shop();
    assert_eq!(world.scope("shop", "web"), None);
    assert_eq!(world.engine.history_wanted(), BTreeSet::from([web()]));
    world.apply(days(3, None));
    world.settle();
    let said = said(&world, "web");
    assert!(
        said.contains("False HistoryPending") && said.contains("72 of 336 hours"),
        "{said}"
    );

    world.apply(read(&world, &[REVIEWS]));
    world.settle();
    assert!(world.engine.history_wanted().is_empty());
    assert_eq!(
        world.scope("shop", "web"),
        None,
        "what was read is not stored yet"
    );

    world.calls(&[call("shop", "web", REVIEWS)]);
    world.settle();
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["books/reviews.books.svc.cluster.local"]
    );
    assert!(world.said.iter().all(|(_, said)| !said.reason.is_warning()));
}

#[test]
fn a_past_that_cannot_be_read_is_said_and_holds_back_first_sidecars_only() {
    let mut world = shop();
    world.apply(read(&world, &[]));
    world.settle();
    let before = world.scope("shop", "web");
    assert!(before.is_some());
    world.service("shop", "cart", &["http:8080"]);
    world.settle();
    world.apply(days(0, Some("Prometheus cannot be reached: refused")));
    world.settle();
    let said = said(&world, "cart");
    assert!(
        said.contains("False HistoryUnavailable Prometheus cannot be reached: refused"),
        "{said}"
    );
    assert!(
        said.contains("leave Prometheus out of spec.learning.sources"),
        "{said}"
    );
    assert_eq!(world.scope("shop", "web"), before);

    world.edit(
        "shop",
        "cart",
        json!({"learning": {"sources": ["AccessLog", "Policy"]}}),
    );
    world.settle();
    assert!(world.scope("shop", "cart").is_some());
}

#[test]
fn a_fence_that_was_off_waits_anew() {
    let mut world = shop();
    world.apply(read(&world, &[]));
    world.settle();
    world.edit("shop", "web", json!({"mode": "Off"}));
    world.settle();
    world.apply(Change::History(BackfillProgress::default()));
    world.edit("shop", "web", json!({}));
    world.settle();
    assert_eq!(world.engine.history_wanted(), BTreeSet::from([web()]));
    assert_eq!(world.scope("shop", "web"), None);
}

#[test]
fn no_past_is_asked_for_where_none_can_be_read() {
    let world = super::shop();
    assert!(world.engine.history_wanted().is_empty());
    assert!(world.scope("shop", "web").is_some());
    assert!(world.engine.fence(&FenceKey::new("shop", "web")).is_some());
}
