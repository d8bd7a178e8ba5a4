//! Hosts that are not HTTP: what must be known of a workload's connections before one leaves.

mod outside;
mod silence;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::engine::Change;
use crate::evidence::CallHistory;
use crate::settings::Settings;
use crate::simulate::world::{call, settings};
use crate::tests::expiry::told_by;
use crate::tests::*;

const DAY: SignedDuration = SignedDuration::from_hours(24);
const DB: &str = "data/db.data.svc.cluster.local";
const CACHE: &str = "data/cache.data.svc.cluster.local";
const REVIEWS: &str = "books/reviews.books.svc.cluster.local";

/// A shop with `web` that calls `reviews`, in a mesh with two Services that are not HTTP, and with metrics.
fn shop(reads_history: bool) -> World {
    let mut world = World::with(Settings {
        reads_history,
        ..settings()
    });
    world.namespace("shop", Some("enforce"));
    world.namespace("books", None);
    world.namespace("data", None);
    world.service("shop", "web", &["http:8080"]);
    world.service("books", "reviews", &["http:8080"]);
    world.service("data", "db", &["tcp:5432"]);
    world.service("data", "cache", &["tcp:6379"]);
    world.pod("shop", "web-1", &[("app", "web")]);
    world.settle();
    world
}

/// The past was read: calls are known since then, and connections since then.
fn read(world: &mut World, known_since: Timestamp, connections_known_since: Timestamp) {
    let past = CallHistory {
        unstored: BTreeMap::new(),
        known_since,
        connections_known_since,
        told: world.now,
        told_by: told_by(world.now),
    };
    world.apply(Change::HistoryRead([(web(), past)].into()));
}

/// The same, where these are used and both are known for so long.
fn used(world: &mut World, services: &[&str], known: SignedDuration) {
    let since = world.now - known;
    read(world, since, since);
    using(world, services);
    world.settle();
}

fn using(world: &mut World, services: &[&str]) {
    let calls: Vec<_> = services
        .iter()
        .map(|service| call("shop", "web", &format!("{service}.svc.cluster.local")))
        .collect();
    world.calls(&calls);
}

/// Time passes, in which these are used each hour.
fn pass(world: &mut World, time: SignedDuration, services: &[&str]) {
    pass_and(world, time, services, |_| ());
}

fn pass_and(world: &mut World, time: SignedDuration, services: &[&str], also: impl Fn(&mut World)) {
    for _ in 0..time.as_hours() {
        world.pass(SignedDuration::from_hours(1));
        using(world, services);
        also(world);
        world.resync();
        world.settle();
    }
}

const USED: [&str; 2] = ["reviews.books", "db.data"];

#[test]
fn a_host_leaves_once_all_connections_were_shown_for_as_long_as_expire_after() {
    let mut world = shop(true);
    let since = world.now;
    used(&mut world, &USED, SignedDuration::ZERO);
    assert_eq!(scope(&world), [REVIEWS, CACHE, DB]);
    assert_eq!(world.status("shop", "web").connections, None);
    pass(&mut world, DAY * 14 - SignedDuration::from_hours(1), &USED);
    assert_eq!(scope(&world), [REVIEWS, CACHE, DB]);
    pass(&mut world, SignedDuration::from_hours(2), &USED);
    assert_eq!(scope(&world), [REVIEWS, DB]);
    let connections = world.status("shop", "web").connections.unwrap();
    assert_eq!(connections.known_since.as_second(), since.as_second());
    assert_eq!(json!(connections.pods), json!({"app": "web"}));
}

#[test]
fn where_the_past_shows_it_the_first_sidecar_has_what_was_used() {
    let mut world = shop(true);
    used(&mut world, &USED, DAY * 14);
    assert_eq!(scope(&world), [REVIEWS, DB]);
    let sidecars = world.writes.iter().filter(|write| write.contains("Sidecar"));
    assert_eq!(
        sidecars.count(),
        2,
        "its two steps, and none in which more hosts leave"
    );
}

#[test]
fn a_connection_that_is_used_stays_and_a_silent_one_leaves() {
    let mut world = shop(true);
    used(&mut world, &["reviews.books", "db.data", "cache.data"], DAY * 14);
    assert_eq!(scope(&world), [REVIEWS, CACHE, DB]);
    pass(&mut world, DAY * 15, &USED);
    assert_eq!(scope(&world), [REVIEWS, CACHE, DB]);
    pass(&mut world, DAY, &USED);
    assert_eq!(scope(&world), [REVIEWS, DB]);
}

#[test]
fn nothing_leaves_where_metrics_leave_out_connections() {
    let mut world = shop(true);
    used(&mut world, &USED, SignedDuration::ZERO);
    let uncounted = |world: &mut World| {
        world.apply(Change::Uncounted([web()].into()));
    };
    pass_and(&mut world, DAY * 60, &USED, uncounted);
    assert_eq!(scope(&world), [REVIEWS, CACHE, DB]);
    // Those of another are not its.
    let of_another = |world: &mut World| {
        world.apply(Change::Uncounted([FenceKey::new("shop", "other")].into()));
    };
    pass_and(&mut world, DAY * 15, &USED, of_another);
    assert_eq!(scope(&world), [REVIEWS, DB]);
    // What was known once does not come back, and nothing more leaves.
    pass_and(&mut world, DAY * 60, &["reviews.books"], uncounted);
    assert_eq!(scope(&world), [REVIEWS, DB]);
}

#[test]
fn nothing_leaves_that_was_seen_and_is_not_stored() {
    let mut world = shop(true);
    let (now, long_ago) = (world.now, world.now - DAY * 20);
    let past = CallHistory {
        unstored: [(ServiceKey::new("data", "db").host(), now)].into(),
        known_since: long_ago,
        connections_known_since: long_ago,
        told: now,
        told_by: told_by(now),
    };
    world.apply(Change::HistoryRead([(web(), past)].into()));
    world.settle();
    assert_eq!(world.scope("shop", "web"), None);
    assert_eq!(world.status("shop", "web").connections, None);
}

#[test]
fn a_workload_that_metrics_no_longer_mention_keeps_all() {
    let mut world = shop(true);
    used(&mut world, &USED, SignedDuration::ZERO);
    pass(&mut world, DAY * 60, &[]);
    assert_eq!(scope(&world), [REVIEWS, CACHE, DB]);
}

#[test]
fn what_left_stays_out_after_a_restart_and_while_metrics_cannot_be_read() {
    let mut world = shop(true);
    used(&mut world, &USED, DAY * 14);
    world.apply(Change::HistoryLost);
    pass(&mut world, DAY * 3, &[]);
    assert_eq!(scope(&world), [REVIEWS, DB]);
    let mut again = world.restarted(|changes| {
        changes.retain(|change| !matches!(change, Change::HistoryRead(_)));
    });
    again.settle();
    assert_eq!(again.writes, [""; 0]);
    assert_eq!(scope(&again), [REVIEWS, DB]);
}

#[test]
fn without_metrics_all_come_back() {
    let mut world = shop(false);
    assert_eq!(scope(&world), [CACHE, DB]);
    let connections = json!({"knownSince": "2020-01-01T00:00:00Z", "pods": {"app": "web"}});
    let mut fence = (*world.fence("shop", "web").unwrap()).clone();
    let mut is = fence.status.unwrap();
    is.connections = serde_json::from_value(connections).unwrap();
    fence.status = Some(is);
    world.apply(Change::Fence(web(), Some(std::sync::Arc::new(fence))));
    world.settle();
    assert_eq!(scope(&world), [CACHE, DB]);
    assert_eq!(world.status("shop", "web").connections, None, "it is taken back");
}

#[test]
fn what_is_known_is_about_these_pods_only() {
    let mut world = shop(true);
    used(&mut world, &USED, DAY * 14);
    let selecting = |world: &mut World, app: &str| {
        world.service_with(
            "shop",
            "web",
            &["http:8080"],
            &json!({"spec": {"selector": {"app": app}}}),
        );
        world.settle();
    };
    world.pod("shop", "shop-1", &[("app", "shop")]);
    selecting(&mut world, "shop");
    assert_eq!(scope(&world), [REVIEWS, CACHE, DB]);
    assert_eq!(world.status("shop", "web").connections, None);
    // What was known of others before does not count for these.
    selecting(&mut world, "web");
    assert_eq!(scope(&world), [REVIEWS, CACHE, DB]);
}

#[test]
fn only_auto_waits_for_metrics() {
    let mut world = shop(true);
    used(&mut world, &USED, DAY * 14);
    world.edit("shop", "web", json!({"learning": {"nonHttp": "Keep"}}));
    world.settle();
    assert_eq!(scope(&world), [REVIEWS, CACHE, DB]);
    assert_eq!(world.status("shop", "web").connections, None);
    world.edit("shop", "web", json!({"learning": {"nonHttp": "Learn"}}));
    world.settle();
    assert_eq!(scope(&world), [REVIEWS, DB]);
    assert_eq!(world.status("shop", "web").connections, None);
    // Learn accepts a cut connection, so it forgets without counted bytes too.
    let now = world.now;
    read(&mut world, now, now + DAY * 999);
    pass(&mut world, DAY * 16, &["reviews.books"]);
    assert_eq!(scope(&world), [REVIEWS]);
}

#[test]
fn a_fence_keeps_all_where_no_metrics_can_tell_enough() {
    for (spec, why) in [
        (
            json!({"learning": {"expireAfter": "0s"}}),
            "expireAfter is 0s, so no silence is long enough",
        ),
        (
            json!({"learning": {"sources": ["AccessLog"]}}),
            "the fence learns from no metrics",
        ),
        (
            json!({"workload": {"namespaceDefault": true}}),
            "the pods of a namespace's default may be others tomorrow",
        ),
    ] {
        let mut world = shop(true);
        world.edit("shop", "web", spec);
        world.settle();
        used(&mut world, &USED, DAY * 40);
        assert_eq!(kept(&world), why);
        assert_eq!(world.status("shop", "web").connections, None, "{why}");
    }
}

/// What explain says of the host without calls, shortened to where it says why it is kept.
fn kept(world: &World) -> String {
    let said = world.engine.explain(&web(), "cache.data", world.now).unwrap();
    let detail = &said.because[0].detail;
    let (_, why) = detail.split_once("for as long as expireAfter, and ").unwrap();
    why.split(" since 2").next().unwrap().to_owned()
}

#[test]
fn all_come_back_where_calls_are_passed_through() {
    let mut world = shop(true);
    used(&mut world, &USED, DAY * 14);
    assert_eq!(scope(&world), [REVIEWS, DB]);
    mesh_config(&mut world, super::telemetry::PROVIDER);
    world.edit("shop", "web", json!({"fallback": "Passthrough"}));
    world.settle();
    assert!(scope(&world).contains(&CACHE.to_owned()), "{:?}", scope(&world));
    assert_eq!(
        kept(&world),
        "calls to hosts out of scope are passed through here"
    );
}

#[test]
fn a_telemetry_that_hides_connections_keeps_all_and_begins_them_anew() {
    let hiding =
        json!({"metrics": [{"overrides": [{"match": {"metric": "TCP_SENT_BYTES"}, "disabled": true}]}]});
    for namespace in ["shop", "istio-system"] {
        let mut world = shop(true);
        world.object("Telemetry", namespace, "cheap", hiding.clone());
        used(&mut world, &USED, DAY * 14);
        assert_eq!(scope(&world), [REVIEWS, CACHE, DB]);
        let said = format!("Telemetry {namespace}/cheap changes what proxies tell of connections");
        assert_eq!(kept(&world), said);
        world.gone(crate::observe::Watched::Telemetries, namespace, "cheap");
        world.settle();
        assert_eq!(kept(&world), "that is so only");
        pass(&mut world, DAY * 14, &USED);
        assert_eq!(scope(&world), [REVIEWS, DB]);
    }
    let mut world = shop(true);
    world.object("Telemetry", "books", "cheap", hiding);
    used(&mut world, &USED, DAY * 14);
    assert_eq!(scope(&world), [REVIEWS, DB], "one of other callers");
}

/// Rules of the user's for `db`, of TCP, that lead its calls to `cache`.
fn rules_for_db(world: &mut World) {
    let rules = json!({"hosts": ["db.data.svc.cluster.local"], "tcp": [{"route": [{"destination": {"host": "cache.data.svc.cluster.local"}}]}]});
    world.object("VirtualService", "data", "db", rules);
    world.settle();
}

#[test]
fn a_host_that_rules_lead_elsewhere_stays_since_metrics_do_not_name_it() {
    let mut world = shop(true);
    rules_for_db(&mut world);
    used(&mut world, &["reviews.books", "cache.data"], DAY * 14);
    assert!(world.status("shop", "web").connections.is_some());
    assert_eq!(scope(&world), [REVIEWS, CACHE, DB]);
    let said = world.engine.explain(&web(), "db.data", world.now).unwrap();
    let mut because = said.because.iter();
    assert!(
        because.any(|because| because.detail.contains("a VirtualService has rules for it")),
        "{said:?}"
    );
    // The gateway would not follow the rules either, so it need not be known who calls.
    world.edit("shop", "web", json!({"learning": {"nonHttp": "Learn"}}));
    world.settle();
    assert!(scope(&world).contains(&DB.to_owned()), "{:?}", scope(&world));
}

#[test]
fn each_workload_of_a_fence_must_be_told_of() {
    let mut world = shop(true);
    // A second Deployment behind the Service, which is not scraped.
    world.pod("shop", "other-1", &[("app", "web")]);
    used(&mut world, &USED, DAY * 14);
    assert_eq!(scope(&world), [REVIEWS, CACHE, DB]);
    assert_eq!(kept(&world), "metrics do not tell of the workload at present");
    world.apply(Change::Pod(crate::name::PodKey::new("shop", "other-1"), None));
    world.resync();
    world.settle();
    assert_eq!(scope(&world), [REVIEWS, DB]);
}

#[test]
fn what_was_known_while_a_fence_observed_does_not_count_when_it_is_enforced() {
    let mut world = shop(true);
    world.namespace("shop", Some("observe"));
    world.settle();
    used(&mut world, &USED, DAY * 14);
    assert!(world.status("shop", "web").connections.is_some());
    world.apply(Change::Uncounted([web()].into()));
    world.namespace("shop", Some("enforce"));
    world.settle();
    assert_eq!(scope(&world), [REVIEWS, CACHE, DB]);
}

#[test]
fn a_host_that_was_in_scope_for_another_reason_leaves_on_the_same_evidence() {
    let mut world = shop(true);
    // The HTTP listener of this number would take the connections of the other.
    world.service("data", "queue", &["tcp:9000"]);
    let clash = world.service("books", "clash", &["http:9000"]);
    world.edit("shop", "web", json!({"allow": [{"host": "clash.books"}]}));
    used(&mut world, &USED, DAY * 14);
    let queue = "data/queue.data.svc.cluster.local".to_owned();
    assert!(scope(&world).contains(&queue), "{:?}", scope(&world));
    // Its calls are seen by metrics only, which are not read now.
    world.apply(Change::HistoryLost);
    world.no_service(&clash);
    world.settle();
    assert!(scope(&world).contains(&queue), "{:?}", scope(&world));
    let said = world.engine.explain(&web(), "queue.data", world.now).unwrap();
    assert!(
        said.answer.contains("the Sidecar keeps it until metrics"),
        "{said:?}"
    );
    used(&mut world, &USED, DAY * 14);
    world.resync();
    world.settle();
    assert!(!scope(&world).contains(&queue), "{:?}", scope(&world));
}
