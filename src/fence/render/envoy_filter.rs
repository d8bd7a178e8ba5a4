//! The callers' EnvoyFilter: where a miss goes. One static object per namespace.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};
use servicefence_crd::names;

use super::{Kind, Object};
use crate::fence::name::{Cidr, Name, ServiceKey, cluster_domain};

/// Name of the object in each namespace.
pub const ENVOY_FILTER: &str = "servicefence";

/// Longest list of names in the pattern: RE2 refuses programs of more than 32,768 instructions in Istio's proxies, and a
/// character costs one or two. Namespaces come first, and headless Services get what they leave: any label in the place of
/// a namespace takes external hosts along.
const LONGEST_NAMES: usize = 12_000;

/// One label of a host, whichever.
const ANY_LABEL: &str = "[^.:]+";

/// Istio's virtual host and route for what it does not know, where the mesh lets it pass.
const ALLOW_ANY: &str = "allow_any";

/// The same where the mesh is `REGISTRY_ONLY`: 502.
const BLOCK_ALL: &str = "block_all";

/// What the Host header of a miss may name.
#[derive(Clone, Copy)]
pub struct Authorities<'a> {
    /// Namespaces with Services that may be out of scope.
    pub namespaces: &'a BTreeSet<&'a Name>,
    /// Headless Services that may be: each of their pods may have a name of its own, `<pod>.<service>`.
    pub headless: &'a BTreeSet<&'a Name>,
    /// Ranges of Service addresses.
    pub cidrs: &'a BTreeSet<Cidr>,
}

/// The EnvoyFilter of a namespace.
pub fn envoy_filter(namespace: &Name, spec: &Value) -> Object {
    Object::new(Kind::EnvoyFilter, namespace, ENVOY_FILTER, spec)
}

/// The spec, the same in every namespace.
///
/// Known hosts have a virtual host of their own and never reach `allow_any` (or `block_all` where
/// the mesh is `REGISTRY_ONLY`), so the inserted route sees misses only. It takes in-mesh names and
/// Service addresses; external names keep Istio's own behaviour. Connections that are not HTTP and
/// go to a Service address are tunnelled by HTTP/2 CONNECT, so that they too are authenticated and
/// arrive under STRICT mutual TLS.
///
/// A name alone does not say that the address is one of the mesh. Only the gateway knows, and so it
/// is told where it must refuse all others, as `block_all` would have.
pub fn envoy_filter_spec(system_namespace: &Name, authorities: &Authorities<'_>) -> Value {
    let pattern = authority_pattern(authorities);
    let mut patches = vec![
        http_miss(ALLOW_ANY, system_namespace, &pattern),
        http_miss(BLOCK_ALL, system_namespace, &pattern),
    ];
    if !authorities.cidrs.is_empty() {
        patches.push(tcp_miss(system_namespace, authorities.cidrs));
    }
    json!({"configPatches": patches})
}

fn cluster(system_namespace: &Name, port: u16) -> String {
    format!(
        "outbound|{port}||{}",
        ServiceKey::new(system_namespace.clone(), names::FALLBACK).host()
    )
}

fn source_header() -> Value {
    header(
        names::SOURCE_HEADER,
        "%ENVIRONMENT(POD_NAMESPACE)%/%ENVIRONMENT(POD_NAME)%",
    )
}

/// Whatever the application has sent under this name is overwritten.
fn header(key: &str, value: &str) -> Value {
    json!({
        "header": {"key": key, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    })
}

fn http_miss(catch_all: &str, system_namespace: &Name, authority_pattern: &str) -> Value {
    let mut add = vec![
        header(names::ORIGINAL_DST_HEADER, "%DOWNSTREAM_LOCAL_ADDRESS%"),
        source_header(),
    ];
    // Where it is not meant, the application's own must not make the gateway refuse the call.
    let mut remove = vec![names::REGISTRY_ONLY_HEADER];
    if catch_all == BLOCK_ALL {
        add.push(header(names::REGISTRY_ONLY_HEADER, "true"));
        remove.clear();
    }
    json!({
        "applyTo": "HTTP_ROUTE",
        "match": {
            "context": "SIDECAR_OUTBOUND",
            "routeConfiguration": {"vhost": {"name": catch_all, "route": {"name": catch_all}}},
        },
        "patch": {
            "operation": "INSERT_FIRST",
            "value": {
                "name": "servicefence",
                "match": {
                    "prefix": "/",
                    "headers": [{
                        "name": ":authority",
                        "string_match": {"safe_regex": {"regex": authority_pattern}},
                    }],
                },
                "route": {
                    "cluster": cluster(system_namespace, names::FALLBACK_PORT),
                    "timeout": "0s",
                    "retry_policy": other_gateway(),
                },
                "request_headers_to_add": add,
                "request_headers_to_remove": remove,
            },
        },
    })
}

/// A gateway that just went is no reason for a failure: the request has not been sent, so another
/// one gets it.
fn other_gateway() -> Value {
    json!({
        "retry_on": "connect-failure,refused-stream",
        "num_retries": 2,
        "retry_host_predicate": [{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            },
        }],
        "host_selection_retry_max_attempts": 5,
    })
}

fn tcp_miss(system_namespace: &Name, cidrs: &BTreeSet<Cidr>) -> Value {
    let ranges: Vec<_> = cidrs
        .iter()
        .map(|cidr| json!({"address_prefix": cidr.address.to_string(), "prefix_len": cidr.prefix}))
        .collect();
    json!({
        "applyTo": "FILTER_CHAIN",
        "match": {"context": "SIDECAR_OUTBOUND", "listener": {"name": "virtualOutbound"}},
        "patch": {
            "operation": "ADD",
            "value": {
                "name": "servicefence",
                "filter_chain_match": {"prefix_ranges": ranges},
                "filters": [{
                    "name": "envoy.filters.network.tcp_proxy",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                        "stat_prefix": "servicefence",
                        "cluster": cluster(system_namespace, names::TUNNEL_PORT),
                        "max_connect_attempts": 3,
                        "tunneling_config": {
                            "hostname": "%DOWNSTREAM_LOCAL_ADDRESS%",
                            "headers_to_add": [source_header()],
                        },
                    },
                }],
            },
        },
    })
}

/// Matches, in whole: `reviews`, `reviews.<namespace>`, `reviews.<any>.svc`, `….svc.cluster.local`, each with an optional
/// trailing dot and port and in any case, and addresses of Services. Behind the name of a pod, where `reviews` is headless,
/// all but the first of these, for `<pod>.<service>` may be an external host.
fn authority_pattern(authorities: &Authorities<'_>) -> String {
    let namespaces = listed(authorities.namespaces, LONGEST_NAMES);
    let left = LONGEST_NAMES - namespaces.as_ref().map_or(0, String::len);
    let headless = listed(authorities.headless, left);
    let any = || ANY_LABEL.to_owned();
    // Three labels of which only one is known, or none, may be an external host as well.
    let with_namespace = namespaces.is_some() && headless.is_some();
    let pod = if authorities.headless.is_empty() {
        String::new()
    } else {
        format!(r"(\.({}))?", headless.unwrap_or_else(any))
    };
    let namespaces = namespaces.unwrap_or_else(any);
    let domain = cluster_domain().replace('.', r"\.");
    let svc = format!(r"\.{ANY_LABEL}\.svc(\.{domain})?");
    let rest = if with_namespace {
        format!(r"{pod}(\.({namespaces})|{svc})")
    } else {
        format!(r"\.({namespaces})|{pod}{svc}")
    };
    let mut pattern = format!(r"{ANY_LABEL}({rest})?\.?");
    for addresses in authorities.cidrs.iter().filter_map(address_pattern) {
        pattern.push('|');
        pattern.push_str(&addresses);
    }
    format!("(?i)({pattern})(:[0-9]+)?")
}

/// Matches one of these names; `None` where there are none, or too many of them.
fn listed(names: &BTreeSet<&Name>, longest: usize) -> Option<String> {
    let names: Vec<&str> = names.iter().map(|name| &***name).collect();
    let names = names.join("|");
    (!names.is_empty() && names.len() <= longest).then_some(names)
}

/// Matches the addresses of a range as a Host header has them.
fn address_pattern(cidr: &Cidr) -> Option<String> {
    match cidr.address {
        IpAddr::V4(address) => Some(ipv4_pattern(address, cidr.prefix)),
        IpAddr::V6(address) => ipv6_pattern(address, cidr.prefix),
    }
}

/// An octet that is partly fixed lists its values.
fn ipv4_pattern(address: Ipv4Addr, prefix: u8) -> String {
    let octets = address
        .octets()
        .into_iter()
        .zip([0u8, 8, 16, 24])
        .map(|(octet, before)| match prefix.saturating_sub(before).min(8) {
            0 => "[0-9]+".to_owned(),
            8 => octet.to_string(),
            fixed => {
                let free = 0xff_u8 >> fixed;
                let values: Vec<_> = (octet & !free..=octet | free)
                    .map(|value| value.to_string())
                    .collect();
                format!("({})", values.join("|"))
            }
        });
    octets.collect::<Vec<_>>().join(r"\.")
}

/// What the groups that are fixed as a whole say, in the usual short form: zeros at their end are written out or stand in
/// a `::`, which may go on behind them. `None` for a range that this form does not tell.
fn ipv6_pattern(address: Ipv6Addr, prefix: u8) -> Option<String> {
    let groups = address.segments();
    let fixed = groups
        .get(..usize::from(prefix / 16))
        .filter(|fixed| fixed.len() < groups.len())?;
    let zeros = fixed.iter().rev().take_while(|group| **group == 0).count();
    let head = &fixed[..fixed.len() - zeros];
    if head.is_empty() || head.windows(2).any(|two| two == [0, 0]) {
        return None;
    }
    let head: Vec<_> = head.iter().map(|group| format!("{group:x}")).collect();
    let zeros = match zeros {
        0 => String::new(),
        zeros => format!("(:|(:0){{{zeros}}})"),
    };
    Some(format!(r"\[{}{zeros}:[0-9a-f:]*\]", head.join(":")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chart's part, which the headers are for.
    const GATEWAY: &str = include_str!("../../../charts/servicefence/templates/fallback/envoyfilter.yaml");

    /// The route in front of a catch-all.
    fn route(catch_all: &str) -> Value {
        let none = Authorities {
            namespaces: &BTreeSet::new(),
            headless: &BTreeSet::new(),
            cidrs: &BTreeSet::new(),
        };
        let spec = envoy_filter_spec(&"system".into(), &none);
        let patches = spec["configPatches"].as_array().unwrap();
        let of = |patch: &&Value| patch["match"]["routeConfiguration"]["vhost"]["name"] == catch_all;
        patches.iter().find(of).unwrap()["patch"]["value"].clone()
    }

    fn added(route: &Value) -> Vec<(&str, &str)> {
        let added = route["request_headers_to_add"].as_array().unwrap();
        added
            .iter()
            .map(|one| {
                assert_eq!(one["append_action"], "OVERWRITE_IF_EXISTS_OR_ADD", "{one}");
                let header = &one["header"];
                (header["key"].as_str().unwrap(), header["value"].as_str().unwrap())
            })
            .collect()
    }

    #[test]
    fn the_gateway_is_told_of_a_registry_only_mesh_whatever_the_application_sends() {
        let of_registry_only = ("x-servicefence-registry-only", "true");
        let block_all = route("block_all");
        assert!(added(&block_all).contains(&of_registry_only), "{block_all}");
        assert_eq!(block_all["request_headers_to_remove"], json!([]));
    }

    #[test]
    fn elsewhere_an_application_that_says_so_does_not_break_its_own_call() {
        let allow_any = route("allow_any");
        assert_eq!(
            added(&allow_any),
            [
                ("x-servicefence-original-dst", "%DOWNSTREAM_LOCAL_ADDRESS%"),
                (
                    "x-servicefence-source",
                    "%ENVIRONMENT(POD_NAMESPACE)%/%ENVIRONMENT(POD_NAME)%"
                ),
            ]
        );
        assert_eq!(
            allow_any["request_headers_to_remove"],
            json!(["x-servicefence-registry-only"])
        );
    }

    #[test]
    fn no_destination_sees_what_is_added() {
        for catch_all in ["allow_any", "block_all"] {
            for (name, _) in added(&route(catch_all)) {
                let removed = format!("\n            - {name}\n");
                assert!(GATEWAY.contains(&removed), "the gateway keeps {name}");
            }
        }
    }

    fn pattern(cidr: &str) -> String {
        address_pattern(&cidr.parse().unwrap()).unwrap_or_default()
    }

    #[test]
    fn ranges_become_patterns() {
        assert_eq!(pattern("10.96.0.0/16"), r"10\.96\.[0-9]+\.[0-9]+");
        assert_eq!(pattern("10.96.0.0/14"), r"10\.(96|97|98|99)\.[0-9]+\.[0-9]+");
        assert_eq!(pattern("10.0.0.0/8"), r"10\.[0-9]+\.[0-9]+\.[0-9]+");
        assert_eq!(
            pattern("10.96.0.128/25").split_once(r"0\.(").unwrap().0,
            r"10\.96\."
        );
    }

    #[test]
    fn ranges_of_ipv6_become_patterns() {
        let short = r"\[fd00:10:96(:|(:0){3}):[0-9a-f:]*\]";
        assert_eq!(pattern("fd00:10:96::/108"), short);
        assert_eq!(pattern("fd00:10:96::/96"), short);
        assert_eq!(
            pattern("fd00:10:96::/112"),
            r"\[fd00:10:96(:|(:0){4}):[0-9a-f:]*\]"
        );
        assert_eq!(pattern("FD00::/108"), r"\[fd00(:|(:0){5}):[0-9a-f:]*\]");
        assert_eq!(pattern("2001:db8:0:5::/64"), r"\[2001:db8:0:5:[0-9a-f:]*\]");
        assert_eq!(pattern("2001:db8:42:1::/52"), r"\[2001:db8:42:[0-9a-f:]*\]");
        for untold in ["::/64", "fd00:0:0:1::/64", "fd00::1/128", "fd00::/8"] {
            assert_eq!(pattern(untold), "", "{untold}");
        }
    }

    /// The pattern for names only.
    fn names_pattern(namespaces: &[Name], headless: &[Name]) -> String {
        authority_pattern(&Authorities {
            namespaces: &namespaces.iter().collect(),
            headless: &headless.iter().collect(),
            cidrs: &BTreeSet::new(),
        })
    }

    /// Of these hosts, those that are led to the gateway.
    fn taken<'a>(pattern: &str, hosts: &[&'a str]) -> Vec<&'a str> {
        // Envoy matches in whole.
        let pattern = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
        let hosts = hosts.iter().copied();
        hosts.filter(|host| pattern.is_match(host)).collect()
    }

    fn many(prefix: &str) -> Vec<Name> {
        (0..2000).map(|n| format!("{prefix}-{n}").into()).collect()
    }

    const OF_PODS: [&str; 5] = [
        "peers-0.peers.data",
        "peers-0.peers.data:8080",
        "peers-0.PEERS.data.svc",
        "peers-0.peers.data.svc.cluster.local",
        "peers-0.peers.data.svc.cluster.local.",
    ];

    const EXTERNAL: [&str; 8] = [
        "example.com",
        "example.com.",
        "example.com:80",
        "peers-0.peers",
        "www.example.com",
        "www.com.example",
        "www.peers.example.com",
        "api.peers.com",
    ];

    #[test]
    fn very_many_names_become_any_name() {
        for headless in [vec![], many("headless"), vec!["peers".into()]] {
            let pattern = names_pattern(&many("namespace"), &headless);
            assert!(pattern.len() < 200, "{pattern}");
        }
        let pattern = names_pattern(&["data".into()], &many("headless"));
        assert!(pattern.len() < 200, "{pattern}");
        assert!(pattern.contains("data"), "{pattern}");
    }

    #[test]
    fn many_headless_services_do_not_make_any_name_one_of_a_namespace() {
        let namespaces = &many("namespace")[..500];
        for headless in [&many("headless")[..300], &many("headless")] {
            let pattern = names_pattern(namespaces, headless);
            assert!(pattern.len() < LONGEST_NAMES + 200, "{pattern}");
            assert_eq!(taken(&pattern, &EXTERNAL), [""; 0]);
            assert_eq!(taken(&pattern, &["reviews.namespace-7"]).len(), 1);
        }
    }

    #[test]
    fn the_pods_of_headless_services_are_named_too() {
        let pattern = |headless: &[Name]| names_pattern(&["data".into()], headless);
        assert_eq!(taken(&pattern(&[]), &OF_PODS), [""; 0]);
        assert_eq!(taken(&pattern(&["peers".into()]), &OF_PODS), OF_PODS);
        for pattern in [pattern(&[]), pattern(&["peers".into()])] {
            let services = [
                "reviews",
                "reviews:80",
                "reviews.data",
                "reviews.any.svc",
                "reviews.any.svc.cluster.local",
            ];
            assert_eq!(taken(&pattern, &services), services);
        }
    }

    #[test]
    fn a_headless_service_does_not_take_external_hosts_that_end_like_its_name() {
        let headless = ["com", "example", "peers"].map(Name::from);
        let pattern = names_pattern(&["data".into()], &headless);
        assert_eq!(taken(&pattern, &EXTERNAL), [""; 0]);
        assert_eq!(taken(&pattern, &OF_PODS), OF_PODS);
        assert_eq!(taken(&pattern, &["com-0.com.data"]).len(), 1);
    }

    #[test]
    fn where_names_are_too_many_the_pods_of_headless_services_need_svc_in_theirs() {
        let of_pods = &OF_PODS[2..];
        let [data, peers] = ["data", "peers"].map(Name::from);
        let any_namespace = names_pattern(&many("namespace"), std::slice::from_ref(&peers));
        assert_eq!(taken(&any_namespace, &OF_PODS), of_pods);
        let any_headless = names_pattern(&[data], &many("headless"));
        assert_eq!(taken(&any_headless, &OF_PODS), of_pods);
        assert_eq!(taken(&any_headless, &EXTERNAL), [""; 0]);
        for pattern in [any_namespace, any_headless] {
            assert_eq!(taken(&pattern, &EXTERNAL[4..]), [""; 0]);
        }
    }
}
