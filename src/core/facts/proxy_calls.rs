//! What configuration makes proxies call by themselves, whatever their applications do.

use std::collections::BTreeSet;
use std::fmt;

use http::Uri;
use serde_json::Value;
use servicefence_crd::istio::RequestAuthenticationSpec;

use crate::facts::labels::{Labels, selected};
use crate::facts::metadata::label_list;
use crate::name::{ConfigKey, Key, Name, ServiceKey};

/// The kinds of objects that make proxies call hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProxyCallsKind {
    /// A RequestAuthentication with keys elsewhere.
    RequestAuthentication,
    /// An EnvoyFilter that names clusters: external authorization, rate limits, Lua and the like.
    EnvoyFilter,
    /// A WasmPlugin with clusters in its configuration.
    WasmPlugin,
    /// A TrafficExtension with clusters in its code or configuration.
    TrafficExtension,
}

impl ProxyCallsKind {
    /// The kind, as objects have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestAuthentication => "RequestAuthentication",
            Self::EnvoyFilter => "EnvoyFilter",
            Self::WasmPlugin => "WasmPlugin",
            Self::TrafficExtension => "TrafficExtension",
        }
    }
}

/// An object that may make proxies call hosts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyCallsKey {
    /// Its namespace and name.
    pub config: ConfigKey,
    /// Its kind.
    pub kind: ProxyCallsKind,
}

impl fmt::Display for ProxyCallsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.config)
    }
}

impl Key for ProxyCallsKey {
    fn first_of(namespace: &str) -> Self {
        Self {
            config: ConfigKey::first_of(namespace),
            kind: ProxyCallsKind::RequestAuthentication,
        }
    }

    fn namespace(&self) -> &Name {
        &self.config.namespace
    }
}

/// What an object makes proxies call by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyCallsFacts {
    /// The pods that it is for; empty: all of its namespace, of the mesh in Istio's root namespace.
    pub(crate) selector: Labels,
    /// The hosts.
    pub(crate) hosts: BTreeSet<Name>,
    /// The port numbers of listeners that it changes: those of a Service that is not HTTP are its own, and
    /// proxies have none for what is out of scope.
    pub(crate) listeners: BTreeSet<u16>,
}

impl ProxyCallsFacts {
    /// Reads a RequestAuthentication; `None` where it has no keys elsewhere, or where it is for a gateway or
    /// waypoint (Istio: `ShouldAttachPolicy`). What is not an address of the web is not looked up (Istio:
    /// `ParseJwksURI`), and a host is as it stands (`LookupCluster`), so a short name is no Service.
    pub fn of_keys(spec: &RequestAuthenticationSpec) -> Option<Self> {
        if spec.target_ref.is_some() || !spec.target_refs.is_empty() {
            return None;
        }
        let uris = spec.jwt_rules.iter();
        let uris = uris.filter_map(|rule| rule.jwks_uri.parse::<Uri>().ok());
        let uris: Vec<_> = uris
            .filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
            .collect();
        let hosts = uris.iter().filter_map(Uri::host).map(Name::from);
        let selector = selected(spec.selector.as_ref());
        Self::calling(selector, hosts.collect(), BTreeSet::new())
    }

    /// Reads the spec of an EnvoyFilter, and its annotation `envoyfilter.istio.io/referenced-services`.
    /// `None` where no patch for sidecars names a cluster.
    pub fn of_envoy_filter(spec: &Value, references: Option<&str>) -> Option<Self> {
        if is_targeted(spec) {
            return None;
        }
        let (mut hosts, mut listeners) = (BTreeSet::new(), BTreeSet::new());
        for patch in spec["configPatches"].as_array().into_iter().flatten() {
            let context = patch["match"]["context"].as_str();
            if !matches!(context, Some("GATEWAY" | "WAYPOINT")) {
                add_clusters(&patch["patch"]["value"], &mut hosts);
            }
            if matches!(context, None | Some("ANY" | "SIDECAR_OUTBOUND")) {
                add_patched(&patch["match"], &mut hosts);
                let number = patch["match"]["listener"]["portNumber"].as_u64();
                listeners.extend(number.and_then(|number| u16::try_from(number).ok()));
            }
        }
        let references = references.into_iter().flat_map(|list| list.split(','));
        let references = references.map(|one| one.rsplit('/').next().unwrap_or(one).trim());
        hosts.extend(references.filter(|host| !host.is_empty()).map(Name::from));
        Self::calling(labels(&spec["workloadSelector"]["labels"]), hosts, listeners)
    }

    /// Reads the spec of a WasmPlugin or TrafficExtension; `None` where it names no cluster.
    pub fn of_extension(spec: &Value) -> Option<Self> {
        if is_targeted(spec) {
            return None;
        }
        let mut hosts = BTreeSet::new();
        add_clusters(spec, &mut hosts);
        Self::calling(labels(&spec["selector"]["matchLabels"]), hosts, BTreeSet::new())
    }

    fn calling(selector: Labels, hosts: BTreeSet<Name>, listeners: BTreeSet<u16>) -> Option<Self> {
        let is_any = !hosts.is_empty() || !listeners.is_empty();
        is_any.then_some(Self {
            selector,
            hosts,
            listeners,
        })
    }
}

/// Whether an object is for gateways, waypoints and what these serve, and so for no sidecar.
fn is_targeted(spec: &Value) -> bool {
    let targets = spec["targetRefs"].as_array();
    targets.is_some_and(|targets| !targets.is_empty())
}

fn labels(selector: &Value) -> Labels {
    label_list(serde_json::from_value(selector.clone()).unwrap_or_default())
}

/// Adds the hosts with a cluster or virtual host that a patch changes: proxies have neither for what is out
/// of scope.
fn add_patched(of: &Value, hosts: &mut BTreeSet<Name>) {
    add_clusters(&of["cluster"]["name"], hosts);
    let of_vhost = |field: &str| {
        let name = of["routeConfiguration"]["vhost"][field].as_str()?;
        Some(name.rsplit_once(':').map_or(name, |(host, _)| host))
    };
    let (name, domain) = (of_vhost("name"), of_vhost("domainName"));
    let named = of["cluster"]["service"]
        .as_str()
        .into_iter()
        .chain(name)
        .chain(domain);
    hosts.extend(named.filter(|host| host.contains('.')).map(Name::from));
    // A domain may be a short one of a Service.
    let short = domain.and_then(ServiceKey::of_short_name);
    hosts.extend(short.map(|service| service.host()));
}

/// Adds the hosts of all clusters that a value names, code within text included.
fn add_clusters(value: &Value, hosts: &mut BTreeSet<Name>) {
    match value {
        Value::String(text) => hosts.extend(clusters(text).map(Name::from)),
        Value::Array(all) => all.iter().for_each(|one| add_clusters(one, hosts)),
        Value::Object(all) => all.values().for_each(|one| add_clusters(one, hosts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The hosts of clusters in a text: `outbound|port|subset|host` (Istio: `BuildSubsetKey`).
fn clusters(text: &str) -> impl Iterator<Item = &str> {
    text.split("outbound|").skip(1).filter_map(|rest| {
        let (port, rest) = rest.split_once('|')?;
        let (_subset, rest) = rest.split_once('|')?;
        let is_of_host = |at: char| at.is_ascii_alphanumeric() || at == '.' || at == '-';
        let end = rest.find(|at| !is_of_host(at)).unwrap_or(rest.len());
        let host = rest[..end].trim_end_matches(['.', '-']);
        (port.parse::<u16>().is_ok() && !host.is_empty()).then_some(host)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn clusters_are_found_wherever_a_text_names_them() {
        let lua =
            "h:httpCall(\"outbound|8080||authz.infra.svc.cluster.local\", {}) -- see outbound|9000|v1|b.c.";
        let found: Vec<_> = clusters(lua).collect();
        assert_eq!(found, ["authz.infra.svc.cluster.local", "b.c"]);
        for none in [
            "outbound|",
            "outbound|x||a.b",
            "outbound|80|a.b",
            "outbound|80||",
            "inbound|80||",
            "outbound|80||.",
        ] {
            assert_eq!(clusters(none).next(), None, "{none}");
        }
    }

    fn filter(context: &str, value: &Value) -> Value {
        json!({"configPatches": [{
            "applyTo": "HTTP_FILTER", "match": {"context": context}, "patch": {"operation": "INSERT_BEFORE", "value": value},
        }]})
    }

    fn hosts(facts: Option<ProxyCallsFacts>) -> Vec<String> {
        let hosts = facts.map(|facts| facts.hosts).unwrap_or_default();
        hosts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn patches_for_gateways_do_not_count() {
        let value = json!({"typed_config": {"grpc_service": {"envoy_grpc": {"cluster_name": "outbound|9000||authz.infra"}}}});
        for (context, counts) in [
            ("ANY", true),
            ("SIDECAR_INBOUND", true),
            ("GATEWAY", false),
            ("WAYPOINT", false),
        ] {
            let found = hosts(ProxyCallsFacts::of_envoy_filter(&filter(context, &value), None));
            assert_eq!(
                found,
                if counts { vec!["authz.infra"] } else { vec![] },
                "{context}"
            );
        }
        let mut targeted = filter("ANY", &value);
        targeted["targetRefs"] = json!([{"kind": "Gateway", "name": "edge"}]);
        assert_eq!(ProxyCallsFacts::of_envoy_filter(&targeted, None), None);
    }

    #[test]
    fn what_patches_of_outbound_calls_change_counts() {
        let reviews = "reviews.books.svc.cluster.local";
        for (context, of, counts) in [
            ("SIDECAR_OUTBOUND", json!({"cluster": {"service": reviews}}), true),
            (
                "ANY",
                json!({"cluster": {"name": format!("outbound|80||{reviews}")}}),
                true,
            ),
            (
                "SIDECAR_OUTBOUND",
                json!({"routeConfiguration": {"vhost": {"name": format!("{reviews}:80")}}}),
                true,
            ),
            (
                "SIDECAR_OUTBOUND",
                json!({"routeConfiguration": {"vhost": {"domainName": reviews}}}),
                true,
            ),
            (
                "SIDECAR_OUTBOUND",
                json!({"routeConfiguration": {"vhost": {"name": "allow_any"}}}),
                false,
            ),
            ("SIDECAR_INBOUND", json!({"cluster": {"service": reviews}}), false),
        ] {
            let mut spec = filter(context, &json!({}));
            for (name, value) in of.as_object().unwrap() {
                spec["configPatches"][0]["match"][name] = value.clone();
            }
            let found = hosts(ProxyCallsFacts::of_envoy_filter(&spec, None));
            assert_eq!(
                found,
                if counts { vec![reviews] } else { vec![] },
                "{context} {of}"
            );
        }
    }

    #[test]
    fn a_domain_may_be_a_short_name_of_a_service() {
        for (of, found) in [
            (
                json!({"routeConfiguration": {"vhost": {"domainName": "reviews.books:8080"}}}),
                vec!["reviews.books", "reviews.books.svc.cluster.local"],
            ),
            (
                json!({"routeConfiguration": {"vhost": {"name": "github.com:443"}}}),
                vec!["github.com"],
            ),
            (json!({"cluster": {"service": "github.com"}}), vec!["github.com"]),
        ] {
            let mut spec = filter("SIDECAR_OUTBOUND", &json!({}));
            spec["configPatches"][0]["match"] = of;
            assert_eq!(hosts(ProxyCallsFacts::of_envoy_filter(&spec, None)), found);
        }
    }

    #[test]
    fn what_the_annotation_of_an_envoy_filter_names_counts() {
        let spec = filter("ANY", &json!({}));
        let facts = ProxyCallsFacts::of_envoy_filter(
            &spec,
            Some("infra/authz.infra.svc.cluster.local, api.example.com,"),
        );
        assert_eq!(hosts(facts), ["api.example.com", "authz.infra.svc.cluster.local"]);
    }
}
