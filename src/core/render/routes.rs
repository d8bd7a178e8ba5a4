//! The fallback gateway's routes to the Services of one namespace.
//!
//! A miss is routed by the address that the caller dialled, not by its Host: an alias, a short name
//! or any other Host reaches what it would have reached. The users' HTTP rules bind to `mesh` and do
//! not apply at a gateway, so they are carried over, each match and-ed with the original address.
//! The chart's EnvoyFilter of the gateway removes our headers behind every rule.

mod matches;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use servicefence_crd::names;

use crate::facts::{Author, Port, Protocol, ServiceFacts, VirtualServiceFacts};
use crate::mesh::Mesh;
use crate::mesh::routes::fit::values;
use crate::mesh::rules::{Naming, WITHOUT_SERVICE, callers_apart, delegate, first_for};
use crate::name::ours::object_of_routes;
use crate::name::{ConfigKey, Name, ServiceKey, envoy_address, qualify};
use crate::render::routes::matches::{asks_who_calls, callers_of, child, gateways_of, matches_of};
use crate::render::{Kind, Object};
use crate::settings::Settings;

/// Most rules of one object.
const MOST_RULES: usize = 1_000;

/// Most bytes of the rules of one object: a third of what etcd stores in one (1.5 MiB by default).
const MOST_BYTES: usize = 512 * 1024;

/// Commands of Envoy for headers that stand for its own proxy, or for the connection that it took.
const OF_ITS_OWN_PROXY: [&str; 6] = [
    "%HOSTNAME%",
    "%ENVIRONMENT(",
    "%DOWNSTREAM_LOCAL_",
    "%DOWNSTREAM_PEER_",
    "%DOWNSTREAM_DIRECT_",
    "%DOWNSTREAM_TLS_",
];

/// The port on which rules for the name of a Service hold that has no such port.
const BY_NAME: Port = Port {
    number: WITHOUT_SERVICE,
    protocol: Protocol::Http,
};

/// A user's rule that the gateway cannot apply to first calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NotCarried {
    /// The object that has it.
    pub author: Author,
    /// What stands in the way.
    pub because: &'static str,
}

/// Routes to the Services of a namespace.
#[derive(Debug, Default)]
pub struct Routes {
    /// The objects that carry them.
    pub objects: Vec<Object>,
    /// The users' rules that could not be carried over.
    pub not_carried: BTreeSet<NotCarried>,
}

/// Which rules of users first calls follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carry {
    /// All that can be carried over.
    All,
    /// Those of VirtualServices, which Istio's webhook has taken as they are. It has seen none of those of
    /// Gateway API, and what it refuses of one would keep all routes of a namespace from being written.
    VirtualServices,
}

/// Routes to the ports of `namespace`'s Services that the gateway knows.
pub fn routes(
    mesh: &Mesh,
    settings: &Settings,
    namespace: &Name,
    carry: Carry,
    is_known: impl Fn(&ServiceKey, u16) -> bool,
) -> Routes {
    let mut routes = Routes::default();
    let mut rules = Vec::new();
    for (key, facts) in mesh
        .services
        .in_namespace(namespace)
        .filter(|(key, facts)| mesh.services.has_routes(key, facts))
    {
        let host = key.host();
        let target = |port, by_name| Target {
            mesh,
            host: &host,
            facts,
            port,
            carry,
            by_name,
            passes_on: settings.gateway_passes_on,
        };
        for port in facts.ports.iter().filter(|port| is_known(key, port.number)) {
            let target = target(port, false);
            let first = rules.len();
            if port.protocol != Protocol::Other {
                rules.extend(target.carried(&mut routes.not_carried));
            }
            rules.push(target.plain());
            if target.leaves_http2() {
                leave_http2(&mut rules[first..]);
            }
        }
        if mesh.is_ruled_by_name(&host, facts) {
            rules.extend(target(&BY_NAME, true).carried(&mut routes.not_carried));
        }
    }
    for (at, chunk) in chunks(&rules).into_iter().enumerate() {
        let name = object_of_routes(namespace, at);
        let spec = json!({
            "hosts": ["*"],
            "gateways": [names::FALLBACK, names::FALLBACK_TUNNEL],
            "exportTo": ["."],
            "http": chunk,
        });
        routes.objects.push(Object::new(
            Kind::VirtualService,
            &settings.system_namespace,
            &name,
            &spec,
        ));
    }
    routes
}

/// The rules that share an object. One that is too large for that is alone.
fn chunks(mut rules: &[Value]) -> Vec<&[Value]> {
    let mut chunks = Vec::new();
    while !rules.is_empty() {
        let mut bytes = 0;
        let fit = rules.iter().take(MOST_RULES).take_while(|rule| {
            bytes += rule.to_string().len();
            bytes <= MOST_BYTES
        });
        let (chunk, rest) = rules.split_at(fit.count().max(1));
        chunks.push(chunk);
        rules = rest;
    }
    chunks
}

/// Leaves HTTP/2 to what has no rule, from the first rule on that leads to a server. Those before it answer
/// by themselves, so they need no version; one behind it would take calls that it takes.
fn leave_http2(rules: &mut [Value]) {
    for rule in rules.iter_mut().skip_while(|rule| rule["route"].is_null()) {
        let matches = rule["match"].as_array_mut().into_iter().flatten();
        let calls = matches.filter(|one| one["gateways"] == json!([names::FALLBACK]));
        for call in calls.filter_map(Value::as_object_mut) {
            let without = child(call, "withoutHeaders");
            without.insert(names::PROTOCOL_HEADER.into(), json!({"exact": "HTTP/2"}));
        }
    }
}

/// One port of one Service.
struct Target<'a> {
    mesh: &'a Mesh,
    host: &'a Name,
    facts: &'a ServiceFacts,
    port: &'a Port,
    carry: Carry,
    /// Whether it is [`BY_NAME`].
    by_name: bool,
    /// Whether the gateway serves what has no rule.
    passes_on: bool,
}

impl Target<'_> {
    fn addresses(&self) -> impl Iterator<Item = String> {
        self.facts
            .addresses
            .iter()
            .map(|address| envoy_address(*address, self.port.number))
    }

    /// To the Service itself. An HTTP port also has a tunnel rule, for a connection that the caller's proxy
    /// could not tell from others in time. HTTP to a port that is declared as something else has no rule,
    /// where the gateway serves what has none: Istio's proxies would pass on its bytes, whatever the
    /// version.
    fn plain(&self) -> Value {
        let mut matches = Vec::new();
        for address in self.addresses() {
            if self.port.protocol != Protocol::Other || !self.passes_on {
                matches.push(Self::call(&Map::new(), &address, None));
            }
            matches.push(json!({"gateways": [names::FALLBACK_TUNNEL], "authority": {"exact": address}}));
        }
        self.to_itself(&matches)
    }

    fn to_itself(&self, matches: &[Value]) -> Value {
        json!({
            "match": matches,
            "route": [{"destination": {"host": &**self.host, "port": {"number": self.port.number}}}],
        })
    }

    /// The users' rules for this port, as each caller's proxy chooses among VirtualServices: first those for
    /// namespaces that choose otherwise than all, then those for all.
    fn carried(&self, not_carried: &mut BTreeSet<NotCarried>) -> Vec<Value> {
        let mut carried = Vec::new();
        let mut named = self.mesh.rules.naming(self.host);
        if self.by_name {
            named.retain(|naming| naming.rules.hold_by_name(self.host));
        }
        let of_all = self.chosen(&named, None);
        let mut apart: Vec<(Vec<Naming<'_>>, Vec<Option<&Name>>)> = Vec::new();
        for caller in callers_apart(&named) {
            let chosen = self.chosen(&named, Some(caller));
            if chosen == of_all {
                continue;
            }
            match apart.iter_mut().find(|(same, _)| *same == chosen) {
                Some((_, callers)) => callers.push(Some(caller)),
                None => apart.push((chosen, vec![Some(caller)])),
            }
        }
        for (chosen, callers) in &apart {
            let answered = self.carry_all(chosen, callers, &mut carried, not_carried);
            let callers = callers.iter().map(|caller| caller.map(|name| &**name));
            let others: Vec<_> = callers.filter(|caller| !answered.contains(caller)).collect();
            if !others.is_empty() && !of_all.is_empty() {
                carried.push(self.to_itself(&self.matches(&Map::new(), &others)));
            }
        }
        self.carry_all(&of_all, &[None], &mut carried, not_carried);
        carried
    }

    /// Whether HTTP/2 is left to what has no rule: istiod makes gateways call a port without a declared
    /// protocol by HTTP/1.1 (`setUpstreamProtocol`), where a caller's proxy keeps the version. What has no
    /// rule keeps it too.
    fn leaves_http2(&self) -> bool {
        self.port.protocol == Protocol::Detected && self.passes_on
    }

    /// The VirtualServices that proxies of a namespace follow, or those of every one (`None`): of those that
    /// they look at, each that has a rule for the port and some of these callers, up to the first for all.
    fn chosen<'a>(&self, named: &[Naming<'a>], caller: Option<&Name>) -> Vec<Naming<'a>> {
        let mut chosen = Vec::new();
        for naming in first_for(named, caller) {
            let callers = [caller];
            let asked = self.asked(naming.rules, &callers);
            if !asked.is_empty() {
                chosen.push(naming);
            }
            if asked.contains(&caller.map(|name| &**name)) {
                break;
            }
        }
        chosen
    }

    /// Carries over the rules that callers follow. Answers for which of them that settles every call.
    fn carry_all<'a>(
        &self,
        chosen: &[Naming<'a>],
        callers: &[Option<&'a Name>],
        carried: &mut Vec<Value>,
        not_carried: &mut BTreeSet<NotCarried>,
    ) -> BTreeSet<Option<&'a str>> {
        let mut answered = BTreeSet::new();
        for &Naming { key, rules, .. } in chosen {
            let mut complete = true;
            for (at, rule) in rules.http.iter().enumerate() {
                let made_of = rules.made_of.get(at);
                let refused = (self.carry == Carry::VirtualServices)
                    .then_some("Istio refuses the routes to its namespace with some rule of Gateway API, this one or another");
                let unfit = made_of.and_then(|of| of.unfit.or(refused)).map_or(Ok(()), Err);
                match unfit.and_then(|()| self.carry(key, rules, rule, callers)) {
                    Ok(rule) => carried.extend(rule),
                    Err(because) => {
                        complete = false;
                        let author = made_of.map_or_else(
                            || Author::VirtualService(key.clone()),
                            |of| Author::Route(of.route.clone()),
                        );
                        not_carried.insert(NotCarried { author, because });
                    }
                }
            }
            if complete {
                let asked = self.asked(rules, callers);
                carried.push(self.nothing_matched(&asked));
                answered.extend(asked);
            }
        }
        answered
    }

    /// The callers, of those who see the rules, that have one on this port. For the others it is as if there
    /// were none.
    fn asked<'a>(
        &self,
        rules: &'a VirtualServiceFacts,
        callers: &[Option<&'a Name>],
    ) -> Vec<Option<&'a str>> {
        let mut asked: BTreeSet<Option<&str>> = BTreeSet::new();
        for rule in &rules.http {
            match matches_of(rule) {
                [] => asked.extend(callers.iter().map(|caller| caller.map(|name| &**name))),
                matches => {
                    let here = matches.iter().filter_map(Value::as_object);
                    let here = here.filter(|one| self.is_here(one));
                    asked.extend(here.flat_map(|one| callers_of(one, callers)));
                }
            }
        }
        if asked.contains(&None) {
            return vec![None];
        }
        asked.into_iter().collect()
    }

    /// Istio answers 404 where a host has rules and none matches.
    fn nothing_matched(&self, callers: &[Option<&str>]) -> Value {
        json!({"match": self.matches(&Map::new(), callers), "directResponse": {"status": 404}})
    }

    /// Whether a match is about sidecars and this port.
    fn is_here(&self, one: &Map<String, Value>) -> bool {
        let of_mesh = gateways_of(one).is_empty() || gateways_of(one).iter().any(|name| name == "mesh");
        // 0 is none, as in every field of Istio's.
        let mut port = one.get("port").into_iter().filter(|port| **port != 0);
        of_mesh && port.all(|port| *port == self.port.number)
    }

    fn carry(
        &self,
        key: &ConfigKey,
        rules: &VirtualServiceFacts,
        rule: &Map<String, Value>,
        callers: &[Option<&Name>],
    ) -> Result<Option<Value>, &'static str> {
        debug_assert!(rules.mesh, "rules of a gateway do not apply to sidecars");
        if rule.get("delegate").is_some_and(|delegate| !delegate.is_null()) {
            return Err("its delegate delegates in turn, which Istio does not follow");
        }
        if delegate::is_refused(rule) {
            return Err("with its delegate it makes a rule that Istio refuses in one VirtualService");
        }
        if values(rule).any(|value| OF_ITS_OWN_PROXY.iter().any(|command| value.contains(command))) {
            return Err("it sets a header to what Envoy knows of the proxy that follows it");
        }
        let mut matches = Vec::new();
        match matches_of(rule) {
            [] => matches = self.matches(&Map::new(), &callers_of(&Map::new(), callers)),
            list => {
                for one in list.iter().filter_map(Value::as_object) {
                    let labels = one.get("sourceLabels").and_then(Value::as_object);
                    if asks_who_calls(one) && labels.is_some_and(|labels| !labels.is_empty()) {
                        return Err("it matches sourceLabels, which the gateway does not know");
                    }
                    if self.is_here(one) {
                        matches.extend(self.matches(one, &callers_of(one, callers)));
                    }
                }
            }
        }
        if matches.is_empty() {
            return Ok(None);
        }
        let mut carried = rule.clone();
        carried.insert("match".into(), Value::Array(matches));
        for list in ["route", "mirrors"] {
            for route in carried
                .get_mut(list)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                if let Some(destination) = route.get_mut("destination") {
                    self.aim(destination, &key.namespace);
                }
            }
        }
        if let Some(mirror) = carried.get_mut("mirror") {
            self.aim(mirror, &key.namespace);
        }
        if let Some(redirect) = carried.get_mut("redirect").and_then(Value::as_object_mut) {
            self.keep_port(redirect);
            as_without_tls(redirect);
        }
        Ok(Some(Value::Object(carried)))
    }

    /// One user's match, and-ed with each address and each calling namespace.
    fn matches(&self, one: &Map<String, Value>, callers: &[Option<&str>]) -> Vec<Value> {
        let mut matches = Vec::new();
        for address in self.addresses() {
            for caller in callers {
                let mut all = Self::call(one, &address, *caller);
                if self.by_name && all["authority"].is_null() {
                    all["authority"] = json!({"exact": &**self.host});
                }
                matches.push(all);
            }
        }
        matches
    }

    /// A match, and-ed with an address and a calling namespace.
    fn call(one: &Map<String, Value>, address: &str, caller: Option<&str>) -> Value {
        let mut all = one.clone();
        for key in ["gateways", "port", "sourceNamespace", "sourceLabels"] {
            all.remove(key);
        }
        all.insert("gateways".into(), json!([names::FALLBACK]));
        let headers = child(&mut all, "headers");
        headers.insert(names::ORIGINAL_DST_HEADER.into(), json!({"exact": address}));
        if let Some(caller) = caller {
            headers.insert(
                names::SOURCE_HEADER.into(),
                json!({"prefix": format!("{caller}/")}),
            );
        }
        Value::Object(all)
    }

    /// The port of the request, in a redirect to it, is the one that was called, and not the gateway's
    /// (Istio: `ApplyRedirect`).
    fn keep_port(&self, redirect: &mut Map<String, Value>) {
        if redirect
            .get("derivePort")
            .is_none_or(|port| port != "FROM_REQUEST_PORT")
        {
            return;
        }
        let is_https = redirect.get("scheme").is_some_and(|scheme| scheme == "https");
        if self.port.number == if is_https { 443 } else { 80 } {
            redirect.insert("derivePort".into(), "FROM_PROTOCOL_DEFAULT".into());
        } else {
            redirect.remove("derivePort");
            redirect.insert("port".into(), self.port.number.into());
        }
    }

    /// Makes a destination mean at the gateway what it means at the caller's proxy: a short name is
    /// of the rule's namespace, and a missing port is the one that was called, whatever ports the destination
    /// has (istiod: `buildSidecarOutboundVirtualHosts` knows Services by that port alone).
    fn aim(&self, destination: &mut Value, namespace: &str) {
        let Some(destination) = destination.as_object_mut() else {
            return;
        };
        let Some(host) = destination.get("host").and_then(Value::as_str) else {
            return;
        };
        let host = qualify(host, namespace);
        if !destination.contains_key("port") {
            destination.insert("port".into(), json!({"number": self.port.number}));
        }
        destination.insert("host".into(), Value::from(&*host));
    }
}

/// Makes a redirect without a scheme mean at the gateway, which takes requests over TLS, what it means where
/// they come in plain text: to `http`, and without its port 80 (istiod: `ApplyRedirect`).
fn as_without_tls(redirect: &mut Map<String, Value>) {
    let scheme = redirect.get("scheme").and_then(Value::as_str);
    if scheme.is_some_and(|scheme| !scheme.is_empty()) {
        return;
    }
    match redirect.get("port").and_then(Value::as_u64) {
        Some(80) => {
            redirect.remove("port");
        }
        Some(443) => {
            redirect.insert("scheme".into(), "http".into());
        }
        _ => {}
    }
}
