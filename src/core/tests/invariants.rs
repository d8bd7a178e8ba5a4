//! What must hold whatever happens.

mod wish;

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use crate::observe::Watched;
use crate::render::Kind;
use crate::settings::Settings;
use crate::simulate::world::{call, settings};
use crate::tests::invariants::wish::{Wish, spec, wish};
use crate::tests::*;

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const MESH_CONFIGS: [&str; 9] = [
    super::telemetry::PROVIDER,
    "outboundTrafficPolicy: {mode: REGISTRY_ONLY}",
    // Each namespace is of a team, or of none.
    "discoverySelectors: [{matchExpressions: [{key: team, operator: DoesNotExist}]}]",
    "{discoverySelectors: [{matchLabels: {team: a}}, {matchLabels: {of: us}}], defaultServiceExportTo: ['.']}",
    "{}",
    "defaultServiceExportTo: ['.']",
    "defaultServiceExportTo: [b, servicefence-system]",
    "defaultVirtualServiceExportTo: ['.']",
    "defaultDestinationRuleExportTo: ['.']",
];
/// One is that of a namespace too.
const NAMES: [&str; 4] = ["s", "t", "b", "v"];

/// So that some hosts bring others, and those are aliased in turn.
const ALIASES: [&str; 2] = [r"s\.(.+)=t.$1", r"t\.[ab]\.(.+)=b.c.$1"];

#[derive(Clone, Debug)]
enum Happening {
    Label(usize, Option<&'static str>),
    Service(usize, usize, &'static [&'static str]),
    /// It selects the pods of another name.
    Selects(usize, usize, usize),
    Headless(usize, usize),
    NoService(usize, usize),
    Endpoints(usize, usize, u64),
    Call(usize, usize, (usize, usize)),
    Allow(usize, usize, Vec<(usize, usize)>),
    Wish(usize, usize, Vec<Wish>),
    Core(usize, usize),
    Team(usize, bool),
    Policy(usize, Option<usize>, usize, bool),
    Pod(usize, usize, bool),
    Default(usize, bool),
    Users(usize, Option<usize>),
    Learn(usize, usize, (usize, usize)),
    Rules(usize, (usize, usize), Option<(usize, usize)>),
    NoRules(usize),
    /// Rules of a namespace come from another one's VirtualService.
    Root(usize, (usize, usize), usize),
    Delegate(usize, Option<((usize, usize), bool)>),
    /// A route of this name is bound to a Service and leads to another, or is gone.
    Route(usize, usize, Option<[(usize, usize); 2]>),
    GatewayReady(bool),
    MeshConfig(&'static str),
    /// Who serves the misses of a namespace: the gateway, or no one.
    Fallback(usize, bool),
    /// Whether a namespace takes mutual TLS only.
    MutualTls(usize, bool),
    Jwks(&'static str, Option<usize>, Option<(usize, usize)>),
}

fn happening() -> impl Strategy<Value = Happening> {
    let service = || (0..NAMESPACES.len(), 0..NAMES.len());
    let ports = prop_oneof![
        3 => Just(&["http:8080"][..]),
        1 => Just(&["tcp:5432"][..]),
        1 => Just(&["http:8080", "tcp:9000"][..]),
        1 => Just(&["tcp:8080"][..]),
    ];
    prop_oneof![
        (
            0..NAMESPACES.len(),
            prop_oneof![
                Just(Some("enforce")),
                Just(Some("observe")),
                Just(Some("off")),
                Just(Some("Enforce")),
                Just(None)
            ]
        )
            .prop_map(|(namespace, mode)| Happening::Label(namespace, mode)),
        (service(), ports).prop_map(|((namespace, name), ports)| Happening::Service(namespace, name, ports)),
        (service(), 0..NAMES.len())
            .prop_map(|((namespace, name), pods)| Happening::Selects(namespace, name, pods)),
        service().prop_map(|(namespace, name)| Happening::Headless(namespace, name)),
        service().prop_map(|(namespace, name)| Happening::NoService(namespace, name)),
        (service(), 0..4_u64)
            .prop_map(|((namespace, name), ready)| Happening::Endpoints(namespace, name, ready)),
        (service(), service()).prop_map(|((namespace, name), to)| Happening::Call(namespace, name, to)),
        (service(), prop::collection::vec(service(), 0..3))
            .prop_map(|((namespace, name), hosts)| Happening::Allow(namespace, name, hosts)),
        (service(), prop::collection::vec(wish(), 0..3))
            .prop_map(|((namespace, name), wishes)| Happening::Wish(namespace, name, wishes)),
        service().prop_map(|(namespace, name)| Happening::Core(namespace, name)),
        (0..NAMESPACES.len(), any::<bool>()).prop_map(|(namespace, is)| Happening::Team(namespace, is)),
        (
            0..NAMESPACES.len(),
            prop::option::of(0..NAMES.len()),
            0..NAMESPACES.len(),
            any::<bool>()
        )
            .prop_map(|(namespace, of, from, by_account)| Happening::Policy(namespace, of, from, by_account)),
        (service(), any::<bool>()).prop_map(|((namespace, name), is)| Happening::Pod(namespace, name, is)),
        (0..NAMESPACES.len(), any::<bool>()).prop_map(|(namespace, is)| Happening::Default(namespace, is)),
        (0..NAMESPACES.len(), prop::option::of(0..NAMES.len()))
            .prop_map(|(namespace, of)| Happening::Users(namespace, of)),
        (service(), service()).prop_map(|((namespace, name), to)| Happening::Learn(namespace, name, to)),
        (0..NAMESPACES.len(), service(), prop::option::of(service()))
            .prop_map(|(namespace, to, subset_of)| Happening::Rules(namespace, to, subset_of)),
        (0..NAMESPACES.len()).prop_map(Happening::NoRules),
        (0..NAMESPACES.len(), service(), 0..NAMESPACES.len())
            .prop_map(|(namespace, to, from)| Happening::Root(namespace, to, from)),
        (0..NAMESPACES.len(), prop::option::of((service(), any::<bool>())))
            .prop_map(|(namespace, to)| Happening::Delegate(namespace, to)),
        (service(), prop::option::of([service(), service()]))
            .prop_map(|((namespace, name), bound)| Happening::Route(namespace, name, bound)),
        any::<bool>().prop_map(Happening::GatewayReady),
        (
            prop::sample::select(&["a", "b", "istio-system"][..]),
            prop::option::of(0..NAMES.len()),
            prop::option::of(service())
        )
            .prop_map(|(namespace, of, keys)| Happening::Jwks(namespace, of, keys)),
        prop::sample::select(&MESH_CONFIGS[..]).prop_map(Happening::MeshConfig),
        (0..NAMESPACES.len(), any::<bool>())
            .prop_map(|(namespace, by_gateway)| Happening::Fallback(namespace, by_gateway)),
        (0..NAMESPACES.len(), any::<bool>())
            .prop_map(|(namespace, strict)| Happening::MutualTls(namespace, strict)),
    ]
}

fn host((namespace, name): (usize, usize)) -> String {
    format!("{}.{}.svc.cluster.local", NAMES[name], NAMESPACES[namespace])
}

fn happens(world: &mut World, happening: &Happening) {
    match happening {
        Happening::Label(namespace, mode) => world.namespace(NAMESPACES[*namespace], *mode),
        Happening::Service(namespace, name, ports) => {
            world.service(NAMESPACES[*namespace], NAMES[*name], ports);
        }
        Happening::Selects(namespace, name, pods) => {
            let selector = json!({"spec": {"selector": {"app": NAMES[*pods]}}});
            world.service_with(NAMESPACES[*namespace], NAMES[*name], &["http:8080"], &selector);
        }
        Happening::Headless(namespace, name) => {
            let headless = json!({"spec": {"clusterIP": "None"}});
            world.service_with(NAMESPACES[*namespace], NAMES[*name], &["http:8080"], &headless);
        }
        Happening::NoService(namespace, name) => {
            world.no_service(&ServiceKey::new(NAMESPACES[*namespace], NAMES[*name]));
        }
        Happening::Endpoints(namespace, name, ready) => {
            let (namespace, name) = (NAMESPACES[*namespace], NAMES[*name]);
            let facts = crate::facts::EndpointsFacts {
                service: ServiceKey::new(namespace, name),
                ready: *ready,
                ipv6: false,
                addresses: Vec::new(),
            };
            let key = crate::name::ConfigKey::new(namespace, format!("{name}-1"));
            world.apply(crate::engine::Change::Endpoints(
                key,
                (*ready > 0).then_some(facts),
            ));
        }
        Happening::Call(namespace, name, to) => {
            world.calls(&[call(NAMESPACES[*namespace], NAMES[*name], &host(*to))]);
        }
        Happening::Allow(namespace, name, hosts) => {
            let (namespace, name) = (NAMESPACES[*namespace], NAMES[*name]);
            if world.fence(namespace, name).is_some() {
                let hosts: Vec<_> = hosts.iter().map(|to| json!({"host": host(*to)})).collect();
                world.edit(
                    namespace,
                    name,
                    json!({"allow": hosts, "learning": {"nonHttp": "Learn"}}),
                );
            }
        }
        Happening::Wish(namespace, name, wishes) => {
            let (namespace, name) = (NAMESPACES[*namespace], NAMES[*name]);
            if world.fence(namespace, name).is_some() {
                world.edit(namespace, name, spec(wishes));
            }
        }
        Happening::Core(namespace, name) => {
            let core = json!({"metadata": {"labels": {"tier": "core"}}});
            world.service_with(NAMESPACES[*namespace], NAMES[*name], &["http:8080"], &core);
        }
        Happening::Team(namespace, is) => {
            let labels: &[_] = if *is { &[("team", "a")] } else { &[] };
            world.namespace_with(NAMESPACES[*namespace], Some("enforce"), labels);
        }
        Happening::Default(namespace, is) => {
            let namespace = NAMESPACES[*namespace];
            if *is {
                world.object(
                    "ServiceFence",
                    namespace,
                    "rest",
                    json!({"workload": {"namespaceDefault": true}}),
                );
            } else {
                world.gone(Watched::ServiceFences, namespace, "rest");
            }
        }
        Happening::Users(namespace, of) => {
            let namespace = NAMESPACES[*namespace];
            if let Some(of) = of {
                let selector = json!({"labels": {"app": NAMES[*of]}});
                let spec = json!({"workloadSelector": selector, "egress": [{"hosts": ["*/*"]}]});
                world.object("Sidecar", namespace, "users", spec);
            } else {
                world.gone(Watched::Sidecars, namespace, "users");
            }
        }
        Happening::Policy(namespace, of, from, by_account) => {
            let from = NAMESPACES[*from];
            let source = if *by_account {
                json!({"principals": [format!("cluster.local/ns/{from}/sa/own")]})
            } else {
                json!({"namespaces": [from]})
            };
            let selector: std::collections::BTreeMap<_, _> =
                of.iter().map(|of| ("app", NAMES[*of])).collect();
            world.object(
                "AuthorizationPolicy",
                NAMESPACES[*namespace],
                "callers",
                json!({"selector": {"matchLabels": selector}, "rules": [{"from": [{"source": source}]}]}),
            );
        }
        Happening::Pod(namespace, name, own) => {
            let (namespace, name) = (NAMESPACES[*namespace], NAMES[*name]);
            world.pod_of(
                namespace,
                &format!("{name}-1"),
                &[("app", name)],
                if *own { "own" } else { "default" },
            );
        }
        Happening::Learn(namespace, name, (to_namespace, to_name)) => {
            let fence = FenceKey::new(NAMESPACES[*namespace], NAMES[*name]);
            if world.engine.fence(&fence).is_some() {
                world.learned(
                    &fence,
                    &ServiceKey::new(NAMESPACES[*to_namespace], NAMES[*to_name]),
                );
            }
        }
        Happening::Rules(namespace, to, subset_of) => {
            let destination = subset_of.map(|of| json!({"destination": {"host": host(of), "subset": "v1"}}));
            let route: Vec<_> = destination.into_iter().collect();
            world.object(
                "VirtualService",
                NAMESPACES[*namespace],
                "rules",
                json!({"hosts": [host(*to)], "http": [{"route": route}]}),
            );
        }
        Happening::NoRules(namespace) => {
            world.gone(Watched::VirtualServices, NAMESPACES[*namespace], "rules");
        }
        Happening::Root(namespace, to, from) => {
            let delegate = json!({"name": "delegate", "namespace": NAMESPACES[*from]});
            let rules = json!({"hosts": [host(*to)], "http": [{"delegate": delegate}]});
            world.object("VirtualService", NAMESPACES[*namespace], "rules", rules);
        }
        Happening::Delegate(namespace, Some((to, subset))) => {
            let subset = if *subset { "v1" } else { "" };
            let route = json!([{"destination": {"host": host(*to), "subset": subset}}]);
            let rules = json!({"http": [{"route": route}]});
            world.object("VirtualService", NAMESPACES[*namespace], "delegate", rules);
        }
        Happening::Delegate(namespace, None) => {
            world.gone(Watched::VirtualServices, NAMESPACES[*namespace], "delegate");
        }
        Happening::Route(namespace, name, Some(bound)) => {
            let [from, to] = bound.map(|(of, name)| (NAMESPACES[of], NAMES[name]));
            super::gateway_api::lead(world, NAMESPACES[*namespace], NAMES[*name], from, to);
        }
        Happening::Route(namespace, name, None) => {
            world.gone(Watched::HttpRoutes, NAMESPACES[*namespace], NAMES[*name]);
        }
        Happening::Jwks(namespace, of, Some(keys)) => {
            let selector: std::collections::BTreeMap<_, _> =
                of.iter().map(|of| ("app", NAMES[*of])).collect();
            let rules = json!([{"jwksUri": format!("http://{}:8080/keys", host(*keys))}]);
            let spec = json!({"selector": {"matchLabels": selector}, "jwtRules": rules});
            world.object("RequestAuthentication", namespace, "tokens", spec);
        }
        Happening::Jwks(namespace, _, None) => {
            world.gone(Watched::RequestAuthentications, namespace, "tokens");
        }
        Happening::Fallback(namespace, by_gateway) => {
            let fallback = if *by_gateway { "gateway" } else { "passthrough" };
            let labels = [("servicefence.io/fallback", fallback)];
            world.namespace_with(NAMESPACES[*namespace], Some("enforce"), &labels);
        }
        Happening::MutualTls(namespace, strict) => {
            let mode = if *strict { "STRICT" } else { "PERMISSIVE" };
            world.object(
                "PeerAuthentication",
                NAMESPACES[*namespace],
                "default",
                json!({"mtls": {"mode": mode}}),
            );
        }
        Happening::MeshConfig(text) => mesh_config(world, text),
        Happening::GatewayReady(ready) => world.apply(crate::engine::Change::GatewayReady(*ready)),
    }
}

fn a_world(happenings: &[Happening]) -> World {
    let mut world = World::with(Settings {
        aliases: ALIASES.iter().map(|alias| alias.parse().unwrap()).collect(),
        ..settings()
    });
    for namespace in NAMESPACES {
        world.namespace(namespace, Some("enforce"));
    }
    world.apply(crate::engine::Change::Ready);
    for happening in happenings {
        happens(&mut world, happening);
        // Things also happen while others are under way.
        world.step();
    }
    world.apply(crate::engine::Change::GatewayReady(true));
    world.settle();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn writes_end_and_then_nothing_is_written(happenings in prop::collection::vec(happening(), 0..40)) {
        let mut world = a_world(&happenings);
        let written = world.writes.len();
        world.settle();
        prop_assert_eq!(world.writes.len(), written);
        prop_assert!(world.engine.fences().all(|(key, _)| world.warm(&key.namespace, &key.name).is_empty()));
    }

    #[test]
    fn a_label_that_means_nothing_changes_nothing(
        happenings in prop::collection::vec(happening(), 0..40),
        namespace in 0..NAMESPACES.len(),
    ) {
        let mut world = a_world(&happenings);
        // The labels that are not of ours stay.
        let labels = world.engine.mesh().namespace(NAMESPACES[namespace]).unwrap().labels.clone();
        let labels = labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let labels: Vec<_> = labels.filter(|(key, _)| !key.starts_with("servicefence.io/")).collect();
        let labels = [labels, vec![("servicefence.io/fallback", "neither")]].concat();
        let (before, written) = (world.objects.clone(), world.writes.len());
        world.namespace_with(NAMESPACES[namespace], Some("ON"), &labels);
        world.settle();
        let said = |write: &&String| write.starts_with("status");
        let writes: Vec<_> = world.writes[written..].iter().filter(|write| !said(write)).collect();
        prop_assert_eq!(writes, [] as [&String; 0]);
        prop_assert_eq!(&world.objects, &before);
        // Nor does another word that means nothing, after a restart.
        let mut again = world.restarted(|_| ());
        again.namespace_with(NAMESPACES[namespace], Some("yes"), &labels);
        again.settle();
        let writes: Vec<_> = again.writes.iter().filter(|write| !said(write)).collect();
        prop_assert_eq!(writes, [] as [&String; 0]);
    }

    #[test]
    fn a_scope_contains_what_is_allowed_and_learned(happenings in prop::collection::vec(happening(), 0..40)) {
        let world = a_world(&happenings);
        for (key, fence) in world.engine.fences() {
            let Some(scope) = world.scope(&key.namespace, &key.name) else { continue };
            let hosts: BTreeSet<_> = scope.iter().filter_map(|host| Some(host.split_once('/')?.1)).collect();
            let in_sight = |namespace: &str| !world.engine.mesh().is_out_of_sight(namespace);
            let allowed = fence.owner_rules.allow.iter().flat_map(|entry| entry.hosts(world.engine.mesh(), &key.namespace).0);
            for host in allowed.filter(|host| in_sight(&host.namespace)) {
                prop_assert!(scope.contains(&host.to_string()), "{} lacks {}: {:?}", key, host, scope);
            }
            let learned = fence.learned().iter().filter(|learned| !fence.owner_rules.denies(&learned.host));
            for learned in learned.filter(|learned| in_sight(&learned.namespace)) {
                prop_assert!(hosts.contains(learned.host.as_str()), "{} lacks {}: {:?}", key, learned.host, hosts);
            }
        }
    }

    #[test]
    fn an_explanation_agrees_with_the_sidecar(happenings in prop::collection::vec(happening(), 0..40)) {
        let world = a_world(&happenings);
        for (key, _) in world.engine.fences() {
            let Some(scope) = world.scope(&key.namespace, &key.name) else { continue };
            if world.condition(&key.namespace, &key.name, "Ready") != "True Scoped" {
                // Nothing leaves while misses would be refused or unseen.
                continue;
            }
            for namespace in 0..NAMESPACES.len() {
                for name in 0..NAMES.len() {
                    let host = host((namespace, name));
                    let said = world.engine.explain(key, &host, world.now).unwrap();
                    let imported: Vec<_> = scope.iter().filter(|import| import.ends_with(&format!("/{host}"))).collect();
                    prop_assert_eq!(said.imports.iter().collect::<Vec<_>>(), imported);
                    prop_assert_eq!(said.in_scope, !said.imports.is_empty(), "{:?}", said);
                    prop_assert_eq!(said.in_scope, !said.because.is_empty(), "{:?}", said);
                }
            }
        }
    }

    #[test]
    fn no_fence_is_widened_by_what_another_one_does(happenings in prop::collection::vec(happening(), 0..40)) {
        let world = a_world(&happenings);
        for (key, fence) in world.engine.fences() {
            let others = || world.engine.fences().filter(|(other, _)| *other != key);
            let elsewhere: BTreeSet<_> =
                others().flat_map(|(_, other)| other.learned()).map(|learned| learned.host.clone()).collect();
            let scope = world.engine.scope_of(fence, world.now);
            for (host, whys) in &scope.hosts {
                if whys.contains(crate::scope::Why::Learned) {
                    prop_assert!(fence.learned_host(&host.name).is_some(), "{} has {} of {:?}", key, host, elsewhere);
                }
            }
        }
    }

    #[test]
    fn no_source_widens_a_fence_of_another_namespace(
        happenings in prop::collection::vec(happening(), 0..30),
        from in (0..NAMESPACES.len(), 0..NAMES.len()),
        to in (0..NAMESPACES.len(), 0..NAMES.len()),
    ) {
        let mut world = a_world(&happenings);
        let scopes = |world: &World| {
            let elsewhere = world.engine.fences().filter(|(key, _)| *key.namespace != *NAMESPACES[from.0]);
            elsewhere.map(|(key, fence)| (key.clone(), world.engine.scope_of(fence, world.now))).collect::<Vec<_>>()
        };
        let before = scopes(&world);
        happens(&mut world, &Happening::Call(from.0, from.1, to));
        happens(&mut world, &Happening::Learn(from.0, from.1, to));
        prop_assert_eq!(scopes(&world), before);
    }

    #[test]
    fn the_size_of_the_mesh_is_the_sum_of_its_services(happenings in prop::collection::vec(happening(), 0..40)) {
        let world = a_world(&happenings);
        let mesh = world.engine.mesh();
        let visible = mesh.services.iter().filter(|(_, facts)| facts.visibility.to("a"));
        let sum = visible.map(|(key, _)| mesh.size_of(key)).fold(crate::mesh::Size::default(), std::ops::Add::add);
        prop_assert_eq!(mesh.size_visible_to("a"), sum);
    }

    #[test]
    fn a_restart_writes_nothing_whatever_the_order_in_which_it_learns_what_exists(
        happenings in prop::collection::vec(happening(), 0..40),
        seed in any::<u64>(),
    ) {
        let world = a_world(&happenings);
        let mut again = world.restarted(|changes| {
            changes.sort_by_cached_key(|change| {
                use std::hash::{DefaultHasher, Hash, Hasher};
                let mut hasher = DefaultHasher::new();
                (seed, format!("{change:?}")).hash(&mut hasher);
                hasher.finish()
            });
        });
        again.settle();
        prop_assert_eq!(&again.writes, &[] as &[String]);
        prop_assert_eq!(&again.objects, &world.objects);
    }

    #[test]
    fn a_sidecar_never_exists_without_the_filter_that_serves_its_misses(happenings in prop::collection::vec(happening(), 0..40)) {
        let world = a_world(&happenings);
        for (kind, namespace, _) in world.objects.keys() {
            if *kind == Kind::Sidecar {
                let passes_through = !world.engine.falls_back_to_gateway(namespace);
                prop_assert!(passes_through || world.has(Kind::EnvoyFilter, namespace, "servicefence"));
            }
        }
    }
}
