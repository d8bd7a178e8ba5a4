//! What owners ask for: `allow` in all its forms, and `deny`.

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::learn::{Attribution, Unattributed};
use crate::name::PodKey;
use crate::observe::Watched;
use crate::simulate::world::mode_label;
use crate::tests::*;

/// The scope of `shop/web` with this spec, once all is at rest.
#[allow(clippy::needless_pass_by_value, reason = "tests write json!(…) in place")]
fn scope_with(world: &mut World, spec: Value) -> Vec<String> {
    world.edit("shop", "web", spec);
    world.settle();
    world.scope("shop", "web").unwrap()
}

fn with_label(key: &str, value: &str) -> Value {
    json!({"metadata": {"labels": {key: value}}})
}

const REVIEWS: &str = "books/reviews.books.svc.cluster.local";
const RATINGS: &str = "books/ratings.books.svc.cluster.local";
const LEDGER: &str = "payments/ledger.payments.svc.cluster.local";

#[test]
fn a_namespace_is_all_of_it_as_it_changes() {
    let mut world = shop();
    let spec = json!({"allow": [{"namespace": "payments"}]});
    assert!(scope_with(&mut world, spec).is_empty());
    let ready = &world.status("shop", "web").conditions[0];
    assert!(
        ready.message.ends_with("does not have: namespace payments"),
        "{}",
        ready.message
    );

    world.namespace("payments", None);
    let ledger = world.service("payments", "ledger", &["http:8080"]);
    let hidden = json!({"metadata": {"annotations": {"networking.istio.io/exportTo": "."}}});
    world.service_with("payments", "hidden", &["http:8080"], &hidden);
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap(), [LEDGER]);
    world.no_service(&ledger);
    world.settle();
    assert!(world.scope("shop", "web").unwrap().is_empty());
}

#[test]
fn a_wildcard_is_every_host_below_the_name() {
    let mut world = shop();
    let all = json!({"allow": [{"host": "*.books.svc.cluster.local"}]});
    assert_eq!(scope_with(&mut world, all), [RATINGS, REVIEWS]);
    world.service("books", "details", &["http:8080"]);
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap().len(), 3);
}

#[test]
fn services_are_selected_by_all_labels_of_an_entry_and_by_any_entry() {
    let mut world = shop();
    world.namespace_with("payments", None, &[("team", "money")]);
    world.service_with("payments", "ledger", &["http:8080"], &with_label("tier", "core"));
    world.service_with("books", "ratings", &["http:8080"], &with_label("tier", "core"));
    let tier = json!({"matchLabels": {"tier": "core"}});
    let core = json!({"allow": [{"serviceSelector": tier}]});
    assert_eq!(scope_with(&mut world, core), [RATINGS, LEDGER]);

    let of_team = json!({"allow": [{"serviceSelector": tier, "namespaceSelector": {"matchLabels": {"team": "money"}}}]});
    assert_eq!(scope_with(&mut world, of_team), [LEDGER]);
    world.namespace_with("books", None, &[("team", "money")]);
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap(), [RATINGS, LEDGER]);
    world.namespace("books", None);
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap(), [LEDGER]);

    let both = json!({"matchLabels": {"tier": "core"}, "matchExpressions": [{"key": "old", "operator": "DoesNotExist"}]});
    let either = json!({"allow": [{"serviceSelector": both}, {"host": "reviews.books"}]});
    assert_eq!(scope_with(&mut world, either), [RATINGS, REVIEWS, LEDGER]);
    let old = json!({"metadata": {"labels": {"tier": "core", "old": "yes"}}});
    world.service_with("books", "ratings", &["http:8080"], &old);
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap(), [REVIEWS, LEDGER]);
}

#[test]
fn an_entry_ends_by_itself() {
    let mut world = shop();
    let until = world.now + SignedDuration::from_hours(1);
    let spec = json!({"allow": [{"host": "reviews.books", "until": until.to_string()}]});
    world.edit("shop", "web", spec);
    world.pass(SignedDuration::from_secs(10));
    world.step();
    world.pass(SignedDuration::from_secs(10));
    world.step();
    assert_eq!(world.scope("shop", "web").unwrap(), [REVIEWS]);
    // Nothing happens but time.
    world.settle();
    assert!(world.now >= until);
    assert!(world.scope("shop", "web").unwrap().is_empty());
}

#[test]
fn what_is_denied_is_neither_learned_nor_kept() {
    let mut world = shop();
    let address = world.engine.mesh().services.get(&reviews()).unwrap().addresses[0];
    let source = PodKey::new("shop", "web-1");
    let miss = crate::miss::Miss {
        namespace: &source.namespace,
        pod: &source.name,
        destination: (address, 8080).into(),
    };
    assert!(matches!(
        world.engine.attribute(&miss, world.now),
        Attribution::New(_)
    ));
    learn(&mut world, &reviews());
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap(), [REVIEWS]);

    for denied in [
        "reviews.books",
        "reviews.books.svc.cluster.local",
        "*.books.svc.cluster.local",
    ] {
        assert!(
            scope_with(&mut world, json!({"deny": [denied]})).is_empty(),
            "{denied}"
        );
        assert_eq!(
            world.engine.attribute(&miss, world.now),
            Attribution::Unattributed(Unattributed::Denied)
        );
    }
    // What the owner asks for twice, they get.
    let both = json!({"deny": ["reviews.books"], "allow": [{"host": "reviews.books"}]});
    assert_eq!(scope_with(&mut world, both), [REVIEWS]);
}

#[test]
fn what_one_fence_asks_for_touches_no_other() {
    let mut world = shop();
    world.service("shop", "cart", &["http:8080"]);
    world.settle();
    let spec =
        json!({"allow": [{"namespace": "books"}, {"serviceSelector": {"matchLabels": {"tier": "core"}}}]});
    world.edit("shop", "web", spec);
    world.settle();
    let core = json!({"metadata": {"labels": {"tier": "core"}}});
    world.service_with("new", "core", &["http:8080"], &core);
    let writes = world.settle().to_vec();
    assert!(
        writes
            .iter()
            .any(|write| write == "apply Sidecar shop/servicefence-web"),
        "{writes:?}"
    );
    assert!(!writes.iter().any(|write| write.contains("cart")), "{writes:?}");
    assert!(world.scope("shop", "cart").unwrap().is_empty());
}

#[test]
fn a_label_that_no_fence_selects_by_writes_nothing() {
    let mut world = shop();
    scope_with(
        &mut world,
        json!({"allow": [{"serviceSelector": {"matchLabels": {"tier": "core"}}}]}),
    );
    let more = json!({"metadata": {"labels": {"colour": "blue"}}});
    world.service_with("books", "ratings", &["http:8080"], &more);
    let writes = world.settle().to_vec();
    assert!(
        !writes.iter().any(|write| write.contains("Sidecar")),
        "{writes:?}"
    );
    world.service_with("books", "ratings", &["http:8080"], &mode_label("off"));
    world.gone(Watched::Sidecars, "books", "none");
    let writes = world.settle().to_vec();
    assert!(
        !writes.iter().any(|write| write.contains("Sidecar")),
        "{writes:?}"
    );
}

#[test]
fn rules_for_a_host_that_is_allowed_by_its_namespace_come_with_it() {
    let mut world = shop();
    scope_with(&mut world, json!({"allow": [{"namespace": "books"}]}));
    let rules = json!({"hosts": ["reviews.books.svc.cluster.local"], "http": [{"route": [{"destination": {"host": "ratings.books.svc.cluster.local"}}]}]});
    world.object("VirtualService", "shop", "mine", rules);
    world.settle();
    let imports = "shop/reviews.books.svc.cluster.local".to_owned();
    assert!(world.scope("shop", "web").unwrap().contains(&imports));
    world.gone(Watched::VirtualServices, "shop", "mine");
    world.settle();
    assert!(!world.scope("shop", "web").unwrap().contains(&imports));
}

#[test]
fn a_label_of_a_service_that_is_not_http_counts_too() {
    let mut world = shop();
    let core = json!({"serviceSelector": {"matchLabels": {"tier": "core"}}});
    world.service("data", "db", &["tcp:5432"]);
    let spec = json!({"allow": [core], "learning": {"nonHttp": "Learn"}});
    assert!(scope_with(&mut world, spec).is_empty());
    world.service_with("data", "db", &["tcp:5432"], &with_label("tier", "core"));
    world.settle();
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["data/db.data.svc.cluster.local"]
    );
}

#[test]
fn a_new_http_port_in_scope_brings_what_its_listener_would_swallow() {
    let mut world = shop();
    world.service("data", "db", &["tcp:9090"]);
    let spec = json!({"allow": [{"host": "reviews.books"}], "learning": {"nonHttp": "Learn"}});
    assert_eq!(scope_with(&mut world, spec), [REVIEWS]);
    world.service("books", "reviews", &["http:8080", "http-more:9090"]);
    world.settle();
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        [REVIEWS, "data/db.data.svc.cluster.local"]
    );
}

#[test]
fn a_service_entry_of_the_same_name_hides_no_service() {
    let mut world = shop();
    let entry =
        json!({"hosts": ["reviews.books.svc.cluster.local"], "ports": [{"number": 80, "protocol": "HTTP"}]});
    world.object("ServiceEntry", "other", "squatter", entry);
    let hosts = scope_with(&mut world, json!({"allow": [{"host": "reviews.books"}]}));
    assert!(hosts.contains(&REVIEWS.to_owned()), "{hosts:?}");
}
