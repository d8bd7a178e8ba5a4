//! Names of the things that a fence is about.
//!
//! Flows in: text of objects, settings and log entries. Flows out: keys, hosts and ranges of addresses.
//! Invariant: what cannot be a name is none; text is read here once, and nothing above reads it again. Names
//! are shared pointers: one host name stands in thousands of scopes.

pub mod ours;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use serde_json::Value;

/// A name that is stored once and shared.
pub type Name = Arc<str>;

static CLUSTER_DOMAIN: OnceLock<Name> = OnceLock::new();

/// The cluster's DNS domain unless it is set, as in istiod's `--domain`.
pub const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";

/// The cluster's DNS domain: the end of every Service's host (Istio: `ServiceHostname`).
///
/// It is one for the whole process and never changes. A cluster has one domain for its life, all of istiod's
/// names end in it, and a host is made of a Service in so many places that passing it along would put it into
/// every signature. Being written before the first read and never after, it cannot make two answers differ.
pub fn cluster_domain() -> &'static str {
    CLUSTER_DOMAIN.get_or_init(|| DEFAULT_CLUSTER_DOMAIN.into())
}

/// Sets the cluster's domain, at start-up.
///
/// # Errors
///
/// The domain that is in use already, where that is another one.
pub fn set_cluster_domain(domain: &str) -> Result<(), &'static str> {
    let _ = CLUSTER_DOMAIN.set(domain.into());
    let used = cluster_domain();
    if used == domain { Ok(()) } else { Err(used) }
}

/// The key of an object that is in a namespace. Keys are in order of namespaces.
pub trait Key: Ord + Clone {
    /// What no object of a namespace comes before.
    fn first_of(namespace: &str) -> Self;

    /// The object's namespace.
    fn namespace(&self) -> &Name;
}

macro_rules! object_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            /// The object's namespace.
            pub namespace: Name,
            /// The object's name.
            pub name: Name,
        }

        impl $name {
            /// A key of two names.
            pub fn new(namespace: impl Into<Name>, name: impl Into<Name>) -> Self {
                Self { namespace: namespace.into(), name: name.into() }
            }
        }

        impl Key for $name {
            fn first_of(namespace: &str) -> Self {
                Self::new(namespace, "")
            }

            fn namespace(&self) -> &Name {
                &self.namespace
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.name)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

object_key!(
    /// A ServiceFence.
    FenceKey
);
object_key!(
    /// A Kubernetes Service.
    ServiceKey
);
object_key!(
    /// A Pod.
    PodKey
);
object_key!(
    /// An Istio object: a VirtualService, ServiceEntry or Sidecar.
    ConfigKey
);
object_key!(
    /// What a Sidecar imports: a host as seen from the namespace that declares it, `namespace/host`.
    ///
    /// `name` is the fully qualified host. For the rules of a VirtualService the namespace is the
    /// VirtualService's own, not the service's (Istio: `pilot/pkg/model/sidecar.go`).
    ScopeHost
);

impl ServiceKey {
    /// The fully qualified host of the Service.
    pub fn host(&self) -> Name {
        format!("{}.{}.svc.{}", self.name, self.namespace, cluster_domain()).into()
    }

    /// The Service that a fully qualified in-mesh host names; `None` for any other host.
    pub fn of_host(host: &str) -> Option<Self> {
        let (name, namespace) = host
            .strip_suffix(cluster_domain())?
            .strip_suffix(".svc.")?
            .split_once('.')?;
        (!name.is_empty() && !namespace.is_empty() && !namespace.contains('.'))
            .then(|| Self::new(namespace, name))
    }

    /// The Service that a name without the cluster's domain stands for: `reviews.books`, `reviews.books.svc`.
    pub fn of_short_name(name: &str) -> Option<Self> {
        let (name, namespace) = name.strip_suffix(".svc").unwrap_or(name).split_once('.')?;
        (!namespace.contains('.')).then(|| Self::new(namespace, name))
    }

    /// The Service's host, as imported from its own namespace.
    pub fn scope_host(&self) -> ScopeHost {
        ScopeHost {
            namespace: self.namespace.clone(),
            name: self.host(),
        }
    }
}

impl ScopeHost {
    /// All that there is.
    pub fn everything() -> Self {
        Self::new("*", "*")
    }

    /// Whether it is all that there is.
    pub fn is_everything(&self) -> bool {
        *self == Self::everything()
    }

    /// Reads `namespace/host`; `None` where it is something else.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, host) = text.split_once('/')?;
        (!namespace.is_empty() && !host.is_empty()).then(|| Self::new(namespace, host))
    }
}

/// Host of an Istio object, made fully qualified: Istio adds the object's own namespace to a name
/// without dots and takes every other name as it is (`ResolveShortnameToFQDN`).
pub fn qualify(host: &str, namespace: &str) -> Name {
    if host.contains('.') || host.contains('*') {
        host.into()
    } else {
        format!("{host}.{namespace}.svc.{}", cluster_domain()).into()
    }
}

/// Whether a name, which may be a wildcard, stands for a host (Istio: `host.Name.SubsetOf`).
pub fn covers(name: &str, host: &str) -> bool {
    name.strip_prefix('*')
        .map_or(name == host, |suffix| host.ends_with(suffix))
}

/// A range of IP addresses in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// First address.
    pub address: IpAddr,
    /// Number of leading bits that all addresses of the range share.
    pub prefix: u8,
}

impl std::str::FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is not a CIDR range, for example 10.96.0.0/16");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if prefix > if address.is_ipv4() { 32 } else { 128 } {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Digest of a JSON value, equal for equal values. It lives in memory only: it says whether an
/// object that we wrote still is what we would write, without keeping the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The digest of `value`; the order of an object's keys does not matter.
    pub fn of(value: &Value) -> Self {
        use std::hash::{DefaultHasher, Hash, Hasher};
        fn feed(value: &Value, into: &mut DefaultHasher) {
            match value {
                Value::Null => 0u8.hash(into),
                Value::Bool(b) => (1u8, b).hash(into),
                // 1 and 1.0 are one number to the API server.
                Value::Number(n) => match n.as_f64() {
                    Some(f) => (2u8, f.to_bits()).hash(into),
                    None => (3u8, n.to_string()).hash(into),
                },
                Value::String(s) => (4u8, s).hash(into),
                Value::Array(items) => {
                    (5u8, items.len()).hash(into);
                    for item in items {
                        feed(item, into);
                    }
                }
                Value::Object(map) => {
                    (6u8, map.len()).hash(into);
                    let mut keys: Vec<_> = map.keys().collect();
                    keys.sort_unstable();
                    for key in keys {
                        key.hash(into);
                        feed(&map[key], into);
                    }
                }
            }
        }
        let mut hasher = DefaultHasher::new();
        feed(value, &mut hasher);
        Self(hasher.finish())
    }
}

/// An address as Envoy prints it in `%DOWNSTREAM_LOCAL_ADDRESS%`.
pub fn envoy_address(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip, port).to_string()
}

/// Whether a host is a name of DNS, also one with a wildcard, as Istio takes it for a Sidecar: no address
/// (`ValidateWildcardDomain`).
pub fn is_dns_name(host: &str) -> bool {
    let is_inside = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(is_inside)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let rest = ["*.", "*-", "*"]
        .into_iter()
        .find_map(|wildcard| host.strip_prefix(wildcard));
    let last = host.rsplit('.').next().unwrap_or(host);
    host.len() <= 255
        && rest.unwrap_or(host).split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_and_its_host_name_each_other() {
        let key = ServiceKey::new("books", "reviews");
        assert_eq!(&*key.host(), "reviews.books.svc.cluster.local");
        assert_eq!(ServiceKey::of_host("reviews.books.svc.cluster.local"), Some(key));
        for other in [
            "api.example.com",
            "a.b.c.svc.cluster.local",
            ".books.svc.cluster.local",
            "svc.cluster.local",
        ] {
            assert_eq!(ServiceKey::of_host(other), None, "{other}");
        }
    }

    #[test]
    fn a_cluster_domain_that_is_in_use_stays() {
        assert_eq!(cluster_domain(), DEFAULT_CLUSTER_DOMAIN);
        assert_eq!(set_cluster_domain("mesh.example"), Err(DEFAULT_CLUSTER_DOMAIN));
        assert_eq!(set_cluster_domain(DEFAULT_CLUSTER_DOMAIN), Ok(()));
    }

    #[test]
    fn only_names_without_dots_are_qualified() {
        assert_eq!(&*qualify("reviews", "books"), "reviews.books.svc.cluster.local");
        assert_eq!(&*qualify("reviews.books", "shop"), "reviews.books");
        assert_eq!(&*qualify("*", "shop"), "*");
    }

    #[test]
    fn a_fingerprint_ignores_the_order_of_keys_and_nothing_else() {
        let of = |text: &str| Fingerprint::of(&serde_json::from_str(text).unwrap());
        assert_eq!(of(r#"{"a":1,"b":[true]}"#), of(r#"{"b":[true],"a":1.0}"#));
        assert_ne!(of(r#"{"a":["x","y"]}"#), of(r#"{"a":["y","x"]}"#));
        assert_ne!(of(r#"{"a":"1"}"#), of(r#"{"a":1}"#));
        assert_ne!(of(r#"[["a"],"b"]"#), of(r#"[["a","b"]]"#));
    }

    #[test]
    fn cidr_ranges_are_checked() {
        assert_eq!(
            "10.96.0.0/16".parse::<Cidr>().unwrap().to_string(),
            "10.96.0.0/16"
        );
        assert_eq!("fd00::/108".parse::<Cidr>().unwrap().prefix, 108);
        for wrong in ["10.96.0.0", "10.96.0.0/33", "x/8", "10.96.0.0/-1"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }
}
