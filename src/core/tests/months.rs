//! Four months of traffic on a virtual clock: what is called each hour, day, week and month, a dependency
//! that a deploy drops, an outage of Prometheus, and a Prometheus that loses all it had while the controller
//! restarts. And connections: one that stays open and in use, one that falls silent, one that carries
//! something once a week, and a server that is not used.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::engine::Change;
use crate::evidence::{BackfillProgress, CallHistory};
use crate::learn::{Call, Period};
use crate::name::{Name, PodKey};
use crate::settings::Settings;
use crate::simulate::world::settings;
use crate::tests::*;

const DAYS: i64 = 120;
const EXPIRE_AFTER: SignedDuration = SignedDuration::from_hours(336);

/// Days without Prometheus.
const OUTAGE: std::ops::Range<i64> = 40..42;
/// The day on which Prometheus loses its past and the controller restarts.
const LOST: i64 = 70;

/// Services that are not HTTP: a connection to each is open from the beginning.
const CONNECTED: [&str; 3] = ["ledger", "standby", "mainframe"];
/// And one to which there is none.
const UNUSED: &str = "cache";

/// The services that a workload calls in an hour since the beginning.
fn called(workload: &str, hour: i64) -> Vec<&'static str> {
    let every = |service, hours: i64| (hour % hours == 0).then_some(service);
    let all = match workload {
        "web" => vec![
            every("reviews", 1),
            every("backup", 24),
            every("weekly", 24 * 7),
            every("invoice", 24 * 30),
            (hour < 24 * 20).then_some("legacy"),
            // Not HTTP: bytes of a connection that is never opened anew.
            every("ledger", 1),
            every("standby", 24 * 7),
            (hour < 24 * 25).then_some("mainframe"),
        ],
        // A job that runs once a month, and has no pod between.
        _ => vec![every("archive", 24 * 30)],
    };
    all.into_iter().flatten().collect()
}

/// Prometheus, and who reads it.
struct Store {
    /// What was scraped: hour, workload and service.
    calls: BTreeSet<(i64, &'static str, &'static str)>,
    begin: Timestamp,
    /// Since which hour it has everything.
    gapless_since: i64,
    read_until: i64,
}

impl Store {
    fn at(&self, hour: i64) -> Timestamp {
        self.begin + SignedDuration::from_hours(hour)
    }

    fn calls(&self, hours: std::ops::Range<i64>) -> BTreeMap<Call, Period> {
        let mut found: BTreeMap<Call, Period> = BTreeMap::new();
        for (hour, workload, service) in self.calls.iter().filter(|(hour, ..)| hours.contains(hour)) {
            let call = crate::simulate::world::call("shop", workload, &host(service));
            let period = Period::at(self.at(*hour));
            found
                .entry(call)
                .and_modify(|known| *known = known.and(period))
                .or_insert(period);
        }
        found
    }

    /// What [`crate::source::prometheus::Reader`] does in an hour.
    fn read(&mut self, world: &mut World, hour: i64) {
        let wanted = world.engine.history_wanted();
        let past = |world: &World, since| {
            world
                .engine
                .learn_from_calls(&self.calls(since..hour + 1), None, world.now)
        };
        let since = if wanted.is_empty() {
            self.read_until
        } else {
            hour - 378
        };
        let traffic = past(world, since);
        let known_since = self.at(self.gapless_since.max(hour - 378));
        let mut read: BTreeMap<_, CallHistory> = wanted
            .into_iter()
            .map(|fence| {
                (
                    fence,
                    CallHistory {
                        unstored: BTreeMap::new(),
                        known_since,
                        connections_known_since: known_since,
                        told: world.now,
                        told_by: super::expiry::told_by(world.now),
                    },
                )
            })
            .collect();
        for (seen, period) in &traffic.observations {
            if let Some(past) = read.get_mut(&seen.fence) {
                past.unstored.insert(seen.host.name.clone(), period.last);
            }
        }
        world.apply(Change::History(BackfillProgress::default()));
        world.apply(Change::HistoryRead(read));
        world.apply(Change::Told(traffic.told));
        for (seen, period) in traffic.observations {
            world.store(&seen, period);
        }
        self.read_until = hour;
    }
}

fn host(service: &str) -> Name {
    ServiceKey::new("books", service).host()
}

fn is_in_scope(world: &World, workload: &str, service: &str) -> bool {
    let scope = world.scope("shop", workload).unwrap_or_default();
    scope.iter().any(|import| import.ends_with(&*host(service)))
}

fn mesh() -> World {
    let mut world = World::with(Settings {
        reads_history: true,
        ..settings()
    });
    world.namespace("shop", Some("enforce"));
    world.namespace("books", None);
    for service in ["reviews", "backup", "weekly", "invoice", "legacy", "archive"] {
        world.service("books", service, &["http:8080"]);
    }
    for service in CONNECTED.into_iter().chain([UNUSED]) {
        world.service("books", service, &["tcp:5432"]);
    }
    world.service("shop", "web", &["http:8080"]);
    world.pod("shop", "web-1", &[("app", "web")]);
    world.object(
        "ServiceFence",
        "shop",
        "job",
        json!({"workload": {"selector": {"app": "job"}}}),
    );
    world.settle();
    world
}

#[test]
fn what_is_in_use_never_leaves_and_what_is_not_does() {
    let mut world = mesh();
    let mut store = Store {
        calls: BTreeSet::new(),
        begin: world.now,
        gapless_since: 0,
        read_until: 0,
    };
    let mut last_call: BTreeMap<(String, Name), Timestamp> = BTreeMap::new();
    let (mut left, mut unused_left) = (Vec::new(), None);
    for hour in 0..24 * DAYS {
        world.now = world.now.max(store.at(hour));
        let day = hour / 24;
        let is_up = !OUTAGE.contains(&day);
        if hour == LOST * 24 {
            store.calls.clear();
            store.gapless_since = hour;
            world =
                world.restarted(|changes| changes.retain(|change| !matches!(change, Change::HistoryRead(_))));
            world.settle();
            // The past is not known again yet, so statuses may no longer say that it is short.
            assert_eq!(writes(&world, 0), [""; 0], "what has left stays out");
        }
        let runs = hour % (24 * 30) == 0;
        let pod = PodKey::new("shop", "job-1");
        if runs {
            world.pod("shop", "job-1", &[("app", "job")]);
        } else if world.engine.pods_of("shop").contains(&pod) {
            world.apply(Change::Pod(pod, None));
        }
        for workload in ["web", "job"] {
            for service in called(workload, hour) {
                last_call.insert((workload.to_owned(), host(service)), store.at(hour));
                let is_miss =
                    world.scope("shop", workload).is_some() && !is_in_scope(&world, workload, service);
                if is_miss {
                    assert!(
                        !CONNECTED.contains(&service),
                        "day {day}: the connection to {service} is cut"
                    );
                    world.learned(
                        &FenceKey::new("shop", workload),
                        &ServiceKey::new("books", service),
                    );
                } else if is_up {
                    store.calls.insert((hour, workload, service));
                }
            }
        }
        if is_up {
            store.read(&mut world, hour);
        } else {
            store.gapless_since = hour + 1;
            world.apply(Change::HistoryLost);
        }
        let from = world.writes.len();
        world.resync();
        world.settle();
        if unused_left.is_none() && hour > 0 && !is_in_scope(&world, "web", UNUSED) {
            unused_left = Some(day);
        }
        for write in &world.writes[from..] {
            let Some((fence, hosts)) = write
                .strip_prefix("forget shop/")
                .and_then(|rest| rest.split_once(' '))
            else {
                continue;
            };
            for host in hosts.split(',') {
                let silent = world
                    .now
                    .duration_since(last_call[&(fence.to_owned(), host.into())]);
                assert!(
                    silent >= EXPIRE_AFTER,
                    "day {day}: {host} left {fence} after {silent}"
                );
                left.push((day, host.split('.').next().unwrap().to_owned()));
            }
        }
    }
    // 15 days and 18 hours after the last call, or after the last gap in what is known. A host that left
    // comes back by the gateway, and stays until metrics have seen it too: from day 30 to 85, and from 90 on.
    let expected = [
        (15, "invoice"),
        (35, "legacy"),
        (57, "mainframe"),
        (85, "invoice"),
    ];
    let expected = expected.map(|(day, service)| (day, service.to_owned()));
    assert_eq!(left, expected);
    assert_eq!(
        unused_left,
        Some(14),
        "once all connections were shown for 14 days"
    );
    for service in ["reviews", "backup", "weekly", "ledger", "standby"] {
        assert!(is_in_scope(&world, "web", service), "{service}");
    }
    for service in ["archive", UNUSED].into_iter().chain(CONNECTED) {
        assert!(
            is_in_scope(&world, "job", service),
            "a job without pods forgets nothing: {service}"
        );
    }
}
