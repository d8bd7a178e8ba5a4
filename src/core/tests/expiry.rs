//! Forgetting: what leaves, when, and what must be known for it.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::json;

use crate::engine::Change;
use crate::evidence::{CallHistory, ToldBy};
use crate::name::Name;
use crate::settings::Settings;
use crate::simulate::world::settings;
use crate::tests::*;

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

/// A shop with `web` that has learned these Services of `books` from metrics.
fn shop(learned: &[&str]) -> World {
    let mut world = World::with(Settings {
        reads_history: true,
        ..settings()
    });
    world.namespace("shop", Some("enforce"));
    world.namespace("books", None);
    world.service("shop", "web", &["http:8080"]);
    for service in learned {
        world.service("books", service, &["http:8080"]);
    }
    world.pod("shop", "web-1", &[("app", "web")]);
    world.settle();
    let now = world.now;
    know_since(&mut world, now);
    for service in learned {
        call(&mut world, service);
    }
    world.settle();
    world.writes.clear();
    world
}

/// The past was read, and there are metrics since then.
pub(super) fn know_since(world: &mut World, known_since: jiff::Timestamp) {
    read(world, BTreeMap::new(), known_since);
}

/// The past was read, and found calls that are not stored yet.
fn read(world: &mut World, unstored: BTreeMap<Name, jiff::Timestamp>, known_since: jiff::Timestamp) {
    let past = CallHistory {
        unstored,
        known_since,
        connections_known_since: known_since,
        told: world.now,
        told_by: told_by(world.now),
    };
    world.apply(Change::HistoryRead([(web(), past)].into()));
}

/// The workloads of these tests are told of at all times.
pub(super) fn told_by(now: jiff::Timestamp) -> BTreeMap<Name, ToldBy> {
    let begun = ToldBy {
        since: jiff::Timestamp::UNIX_EPOCH,
        last: now,
    };
    ["web", "job", "shop"]
        .map(|workload| (workload.into(), begun))
        .into()
}

/// Metrics tell of a call.
fn call(world: &mut World, service: &str) {
    let host = ServiceKey::new("books", service).host();
    world.calls(&[crate::simulate::world::call("shop", "web", &host)]);
}

/// Time passes, in which these are called each hour; what is written.
fn pass(world: &mut World, time: SignedDuration, called: &[&str]) -> Vec<String> {
    let from = world.writes.len();
    for _ in 0..time.as_hours() {
        world.pass(hours(1));
        for service in called {
            call(world, service);
        }
        world.resync();
        world.settle();
    }
    let forgotten = world.writes[from..]
        .iter()
        .filter(|write| write.starts_with("forget"));
    forgotten.cloned().collect()
}

fn learned(world: &World) -> Vec<String> {
    let learned = world.status("shop", "web").learned;
    let names = learned
        .iter()
        .map(|host| host.host.split('.').next().unwrap().to_owned());
    names.collect()
}

#[test]
fn a_host_leaves_after_its_time_of_silence_and_comes_back_with_a_call() {
    let mut world = shop(&["reviews", "ratings"]);
    assert_eq!(pass(&mut world, DAY * 14, &["reviews"]), [""; 0]);
    let forgotten = pass(&mut world, DAY * 2, &["reviews"]);
    assert_eq!(forgotten, ["forget shop/web ratings.books.svc.cluster.local"]);
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["books/reviews.books.svc.cluster.local"]
    );
    let forgot = world.status("shop", "web").forgot.unwrap();
    assert_eq!(forgot.hosts, ["ratings.books.svc.cluster.local"]);
    world.learned(&web(), &ServiceKey::new("books", "ratings"));
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap().len(), 2);
}

#[test]
fn nothing_leaves_while_the_past_is_not_known_for_as_long() {
    let mut world = shop(&["reviews", "ratings"]);
    pass(&mut world, DAY * 10, &["reviews"]);
    let now = world.now;
    know_since(&mut world, now);
    assert_eq!(pass(&mut world, DAY * 15, &["reviews"]), [""; 0]);
    // Metrics cannot be read for a while.
    world.apply(Change::HistoryLost);
    assert_eq!(pass(&mut world, DAY * 30, &["reviews"]), [""; 0]);
    let long_ago = world.now - DAY * 16;
    know_since(&mut world, long_ago);
    assert_eq!(pass(&mut world, hours(1), &["reviews"]).len(), 1);
}

#[test]
fn what_was_read_and_is_not_stored_yet_does_not_leave() {
    let mut world = shop(&["reviews", "ratings"]);
    pass(&mut world, DAY * 14, &["reviews"]);
    world.apply(Change::HistoryLost);
    pass(&mut world, DAY * 20, &["reviews"]);
    let known_since = world.now - DAY * 40;
    let host = ServiceKey::new("books", "ratings").host();
    let unstored = [(host, world.now - DAY)].into();
    read(&mut world, unstored, known_since);
    assert_eq!(pass(&mut world, hours(5), &["reviews"]), [""; 0]);
}

#[test]
fn a_workload_that_metrics_do_not_mention_forgets_nothing() {
    let mut world = shop(&["reviews", "ratings"]);
    // Its proxies are no longer scraped, or it stands still.
    assert_eq!(pass(&mut world, DAY * 60, &[]), [""; 0]);
    assert_eq!(learned(&world), ["ratings", "reviews"]);
    // A fence that the gateway has taught and metrics never.
    let mut world = shop(&[]);
    world.service("books", "reviews", &["http:8080"]);
    world.learned(&web(), &reviews());
    assert_eq!(pass(&mut world, DAY * 60, &[]), [""; 0]);
}

#[test]
fn nothing_is_forgotten_while_a_telemetry_hides_requests() {
    let mut world = shop(&["reviews", "ratings"]);
    pass(&mut world, DAY * 12, &["reviews"]);
    let off = json!({"match": {"metric": "REQUEST_COUNT", "mode": "CLIENT"}, "disabled": true});
    world.object(
        "Telemetry",
        "shop",
        "quiet",
        json!({"metrics": [{"overrides": [off]}]}),
    );
    assert_eq!(pass(&mut world, DAY * 30, &["reviews"]), [""; 0]);
    let conditions = world.status("shop", "web").conditions;
    let mut conditions = conditions.iter();
    let says = "while Telemetry shop/quiet hides requests";
    assert!(conditions.any(|one| one.message.contains(says)));
    world.gone(crate::observe::Watched::Telemetries, "shop", "quiet");
    assert_eq!(
        pass(&mut world, DAY * 12, &["reviews"]),
        [""; 0],
        "it is told of since then"
    );
    assert_eq!(pass(&mut world, DAY * 4, &["reviews"]).len(), 1);
}

#[test]
fn a_workload_without_pods_forgets_nothing() {
    let mut world = shop(&["reviews", "ratings"]);
    pass(&mut world, DAY * 15, &["reviews"]);
    let pod = crate::name::PodKey::new("shop", "web-1");
    world.apply(Change::Pod(pod, None));
    assert_eq!(pass(&mut world, DAY * 3, &["reviews"]), [""; 0]);
}

#[test]
fn a_tenth_leaves_in_an_hour_and_at_least_one() {
    let names: Vec<String> = (0..40).map(|number| format!("svc-{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = shop(&names);
    pass(&mut world, DAY * 15, &["svc-00"]);
    let mut left = Vec::new();
    while learned(&world).len() > 1 {
        pass(&mut world, hours(1), &["svc-00"]);
        left.push(learned(&world).len());
        assert!(left.len() < 200, "{left:?}");
    }
    let mut before = 40;
    for now in left.into_iter().skip_while(|now| *now == 40) {
        assert!(before - now <= (before / 10).max(1), "{before} -> {now}");
        before = now;
    }
    assert_eq!(learned(&world), ["svc-00"]);
}

#[test]
fn a_fence_may_say_how_long_and_zero_is_never() {
    let mut world = shop(&["reviews", "ratings"]);
    world.edit("shop", "web", json!({"learning": {"expireAfter": "48h"}}));
    let now = world.now;
    know_since(&mut world, now);
    assert_eq!(pass(&mut world, hours(51), &["reviews"]), [""; 0]);
    assert_eq!(pass(&mut world, hours(4), &["reviews"]).len(), 1);
    let mut world = shop(&["reviews", "ratings"]);
    world.edit("shop", "web", json!({"learning": {"expireAfter": "0s"}}));
    let now = world.now;
    know_since(&mut world, now);
    assert_eq!(pass(&mut world, DAY * 90, &["reviews"]), [""; 0]);
}

#[test]
fn an_edit_makes_the_past_unknown() {
    let mut world = shop(&["reviews", "ratings"]);
    pass(&mut world, DAY * 10, &["reviews"]);
    world.edit("shop", "web", json!({"learning": {"expireAfter": "24h"}}));
    assert_eq!(world.engine.history_wanted(), [web()].into());
    assert_eq!(pass(&mut world, DAY * 3, &["reviews"]), [""; 0]);
}

#[test]
fn what_only_the_gateway_has_seen_stays_and_so_does_what_rules_lead_elsewhere() {
    let mut world = shop(&["reviews", "ratings"]);
    world.service("books", "once", &["http:8080"]);
    world.learned(&web(), &ServiceKey::new("books", "once"));
    let rules = json!({"hosts": ["ratings.books.svc.cluster.local"], "http": [{"route": [{"destination": {"host": "api.example.com"}}]}]});
    world.object("VirtualService", "books", "ratings", rules);
    world.settle();
    assert_eq!(pass(&mut world, DAY * 60, &["reviews"]), [""; 0]);
}

#[test]
fn a_workload_that_was_not_scraped_for_long_begins_anew() {
    let mut world = shop(&["reviews", "ratings"]);
    pass(&mut world, DAY * 2, &["reviews"]);
    pass(&mut world, DAY * 21, &[]);
    // It is scraped again: one call is told.
    assert_eq!(pass(&mut world, DAY * 14, &["reviews"]), [""; 0]);
    assert_eq!(pass(&mut world, DAY * 2, &["reviews"]).len(), 1);
}

#[test]
fn a_short_time_of_silence_is_seen_with_a_shorter_lag() {
    let mut world = shop(&["reviews", "ratings"]);
    world.edit("shop", "web", json!({"learning": {"expireAfter": "24h"}}));
    let now = world.now;
    know_since(&mut world, now);
    assert_eq!(pass(&mut world, DAY * 10, &["reviews", "ratings"]), [""; 0]);
}

#[test]
fn nothing_leaves_while_the_gateway_is_gone() {
    let mut world = shop(&["reviews", "ratings"]);
    pass(&mut world, DAY * 15, &["reviews"]);
    world.apply(Change::GatewayReady(false));
    assert_eq!(pass(&mut world, DAY * 3, &["reviews"]), [""; 0]);
    world.apply(Change::GatewayReady(true));
    assert_eq!(pass(&mut world, hours(2), &["reviews"]).len(), 1);
}

/// What happens to a fence that learns from metrics, and to the reading.
#[derive(Clone, Debug)]
enum Turn {
    /// Hours pass.
    Pass(i64),
    /// Such a Service is called.
    Call(usize),
    /// Metrics can no longer be read.
    Lost,
    /// They can again, and so many hours of the past are there without a gap.
    Read(i64),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        3 => (1..200_i64).prop_map(Turn::Pass),
        5 => (0..4_usize).prop_map(Turn::Call),
        1 => Just(Turn::Lost),
        1 => (0..600_i64).prop_map(Turn::Read),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn no_host_leaves_but_on_a_proven_silence(turns in prop::collection::vec(turn(), 1..60)) {
        const SERVICES: [&str; 4] = ["always", "one", "two", "three"];
        let mut world = shop(&SERVICES);
        let mut called: BTreeMap<&str, jiff::Timestamp> = SERVICES.map(|service| (service, world.now)).into();
        let mut known_since = Some(world.now);
        for turn in turns {
            let from = world.writes.len();
            match turn {
                Turn::Pass(hours) => for _ in 0..hours {
                    world.pass(SignedDuration::from_hours(1));
                    called.insert("always", world.now);
                    if known_since.is_some() {
                        call(&mut world, "always");
                    }
                    world.resync();
                    world.settle();
                },
                Turn::Call(at) => {
                    called.insert(SERVICES[at], world.now);
                    if known_since.is_some() {
                        call(&mut world, SERVICES[at]);
                    }
                }
                Turn::Lost => {
                    known_since = None;
                    world.apply(Change::HistoryLost);
                }
                Turn::Read(hours) => {
                    let since = world.now - SignedDuration::from_hours(hours);
                    known_since = Some(since);
                    let found = called.iter().filter(|(_, at)| **at >= since);
                    let unstored = found.map(|(service, at)| (ServiceKey::new("books", *service).host(), *at)).collect();
                    read(&mut world, unstored, since);
                    for (service, at) in called.clone().into_iter().filter(|(_, at)| *at >= since) {
                        let seen = crate::Observation {
                            fence: web(),
                            host: ServiceKey::new("books", service).scope_host(),
                            source: servicefence_crd::Source::Prometheus,
                        };
                        world.store(&seen, crate::Period::at(at));
                    }
                }
            }
            for write in &world.writes[from..] {
                let Some(hosts) = write.strip_prefix("forget shop/web ") else { continue };
                let since = known_since.expect("nothing leaves while metrics cannot be read");
                prop_assert!(world.now.duration_since(since) >= hours(336), "known since {}", since);
                for host in hosts.split(',') {
                    let service = host.split('.').next().unwrap();
                    prop_assert!(world.now.duration_since(called[service]) >= hours(336), "{} was called at {}", host, called[service]);
                }
            }
        }
    }
}

#[test]
fn learning_says_from_when_on_hosts_are_forgotten_while_the_past_is_too_short() {
    let mut world = shop(&["reviews", "ratings"]);
    let learning = |world: &World| {
        let conditions = world.status("shop", "web").conditions;
        let learning = conditions
            .into_iter()
            .find(|condition| condition.type_ == "Learning");
        learning.unwrap().message
    };
    let since = world.now.strftime("%Y-%m-%d").to_string();
    let says = format!("since metrics are known without a gap only since {since}");
    assert!(learning(&world).ends_with(&says), "{}", learning(&world));
    pass(&mut world, DAY * 17, &["reviews"]);
    assert!(!learning(&world).contains("forgotten"), "{}", learning(&world));
}
