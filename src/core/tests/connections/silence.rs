//! Whatever happens, a host that is not HTTP, or of a ServiceEntry, leaves on a proven silence only.

use proptest::prelude::*;

use crate::name::ScopeHost;
use crate::tests::connections::*;

/// What happens to a fence and to the metrics that are read for it.
#[derive(Clone, Debug)]
enum Turn {
    Pass(i64),
    /// Bytes flow to such a host.
    Use(usize),
    Uncounted,
    Lost,
    Observe(bool),
    /// Whether there is an HTTP Service in scope with the port of all these.
    Clash(bool),
    /// The past is read again: so many hours of calls without a gap, and of connections.
    Read(i64, i64),
    Restart,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => (1..200_i64).prop_map(Turn::Pass),
        4 => (0..5_usize).prop_map(Turn::Use),
        1 => Just(Turn::Uncounted),
        1 => Just(Turn::Lost),
        3 => (0..600_i64, 0..600_i64).prop_map(|(calls, bytes)| Turn::Read(calls, bytes)),
        1 => Just(Turn::Restart),
        1 => any::<bool>().prop_map(Turn::Observe),
        1 => any::<bool>().prop_map(Turn::Clash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn no_host_with_connections_that_would_be_cut_leaves_but_on_a_proven_silence(turns in prop::collection::vec(turn(), 1..40)) {
        const HOSTS: [&str; 5] = [
            "db.data.svc.cluster.local",
            "cache.data.svc.cluster.local",
            "queue.data.svc.cluster.local",
            "search.data.svc.cluster.local",
            "api.example.com",
        ];
        let long = SignedDuration::from_hours(336);
        let mut world = shop(true);
        for service in ["db", "cache", "queue", "search"] {
            world.service("data", service, &["tcp:5432"]);
        }
        // Two keep the listener.
        for (name, host) in [("a", "first.example.com"), ("aa", "second.example.com"), ("api", "api.example.com")] {
            let entry = json!({"hosts": [host], "ports": [{"number": 443, "protocol": "TLS"}]});
            world.object("ServiceEntry", "data", name, entry);
        }
        world.edit("shop", "web", json!({"learning": {"serviceEntries": "Learn"}}));
        world.settle();
        let mut last_used: BTreeMap<&str, Timestamp> = BTreeMap::new();
        // Since when connections are known, as this test reckons.
        let mut known_since: Option<Timestamp> = None;
        for turn in turns {
            // Without a Sidecar the proxies know the whole mesh.
            let all = || HOSTS.map(|host| format!("data/{host}")).to_vec();
            let before = world.scope("shop", "web").unwrap_or_else(all);
            match turn {
                Turn::Pass(hours) => for _ in 0..hours {
                    world.pass(SignedDuration::from_hours(1));
                    if known_since.is_some() {
                        using(&mut world, &["reviews.books"]);
                    }
                    world.resync();
                    world.settle();
                },
                Turn::Use(at) => {
                    last_used.insert(HOSTS[at], world.now);
                    if known_since.is_some() {
                        world.calls(&[call("shop", "web", HOSTS[at])]);
                    }
                }
                Turn::Uncounted => {
                    world.apply(Change::Uncounted([web()].into()));
                    known_since = known_since.map(|_| world.now);
                }
                Turn::Lost => {
                    world.apply(Change::HistoryLost);
                    known_since = None;
                }
                Turn::Read(calls, bytes) => {
                    let since = [calls, bytes].map(|hours| world.now - SignedDuration::from_hours(hours));
                    let of_connections = since[0].max(since[1]);
                    read(&mut world, since[0], of_connections);
                    known_since = Some(of_connections);
                    for (host, at) in last_used.clone() {
                        if at >= since[0] {
                            let seen = crate::Observation {
                                fence: web(),
                                host: ScopeHost::new("data", host),
                                source: servicefence_crd::Source::Prometheus,
                            };
                            world.store(&seen, crate::Period::at(at));
                        }
                    }
                    world.settle();
                }
                Turn::Observe(observe) => {
                    world.namespace("shop", Some(if observe { "observe" } else { "enforce" }));
                    world.settle();
                }
                Turn::Clash(clash) => {
                    world.service("books", "reviews", &[if clash { "http:5432" } else { "http:8080" }]);
                    world.settle();
                }
                Turn::Restart => {
                    world = world.restarted(|changes| changes.retain(|change| !matches!(change, Change::HistoryRead(_))));
                    known_since = None;
                    world.settle();
                }
            }
            let after = world.scope("shop", "web").unwrap_or_else(all);
            for left in before.into_iter().filter(|host| !after.contains(host)) {
                let host = HOSTS.into_iter().find(|host| left == format!("data/{host}"));
                let Some(host) = host else { continue };
                let known = known_since.expect("nothing leaves while metrics cannot be read");
                prop_assert!(world.now.duration_since(known) >= long, "{} left, connections are known since {}", left, known);
                if let Some(used) = last_used.get(host) {
                    prop_assert!(world.now.duration_since(*used) >= long, "{} left, used {}", left, used);
                }
            }
        }
    }
}
