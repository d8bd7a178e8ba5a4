//! What a fence's owner asks for: `allow` and `deny`.
//!
//! Flows in: the spec, parsed once. Flows out: the hosts of the mesh that it names, and whether a
//! Service that comes or goes is one of them. Everything becomes exact hosts: one wildcard in a
//! Sidecar would cost istiod its index (`servicesForExactHosts`).

use std::fmt;

use jiff::Timestamp;
use servicefence_crd::{Allow, Selector, ServiceFenceSpec};

use crate::facts::{Labels, ServiceFacts};
use crate::mesh::Mesh;
use crate::name::{Name, ScopeHost, ServiceKey, cluster_domain};

/// A host as its owner writes it, in a fence of some namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// As written.
    pub text: Name,
    /// The Service that it may mean, and its host.
    service: Option<(ServiceKey, Name)>,
}

impl HostPattern {
    /// Reads `reviews`, `reviews.books`, `reviews.books.svc.cluster.local`, `api.example.com` or
    /// `*.example.com`.
    pub fn parse(text: &str, namespace: &str) -> Self {
        let bare = text
            .strip_suffix(cluster_domain())
            .and_then(|rest| rest.strip_suffix('.'))
            .unwrap_or(text);
        let bare = bare.strip_suffix(".svc").unwrap_or(bare);
        let service = match bare.split_once('.') {
            _ if text.starts_with('*') => None,
            None => Some(ServiceKey::new(namespace, bare)),
            Some((name, other)) if !other.contains('.') => Some(ServiceKey::new(other, name)),
            Some(_) => None,
        };
        Self {
            text: text.into(),
            service: service.map(|key| (key.clone(), key.host())),
        }
    }

    /// The names below a wildcard, as `.example.com`.
    fn suffix(&self) -> Option<&str> {
        self.text.strip_prefix('*')
    }

    /// Whether it names a fully qualified host.
    pub fn matches(&self, host: &str) -> bool {
        *host == *self.text
            || self.suffix().is_some_and(|suffix| host.ends_with(suffix))
            || self.service.as_ref().is_some_and(|(_, of)| *host == **of)
    }

    /// The hosts of the mesh that it names for a fence of `namespace`, and whether the mesh knows any. One
    /// Service by name is imported also while it does not exist, so that it is there when it is created.
    pub fn hosts(&self, mesh: &Mesh, namespace: &str) -> (Vec<ScopeHost>, bool) {
        let mut hosts: Vec<ScopeHost> = Vec::new();
        for (key, entry) in mesh.service_entries.seen_from(namespace) {
            let named = entry.hosts.iter().filter(|name| self.matches(name));
            hosts.extend(named.map(|name| ScopeHost::new(key.namespace.clone(), name.clone())));
        }
        if let Some((service, _)) = &self.service {
            let exists = mesh.services.get(service).is_some();
            // A ServiceEntry for the same name does not hide the Service.
            if exists || hosts.is_empty() {
                hosts.push(service.scope_host());
            }
            return (
                hosts,
                exists || mesh.service_entries.declares(namespace, &self.text),
            );
        }
        if self.suffix().is_some() {
            let below = mesh.services.iter().filter(|(key, _)| self.matches(&key.host()));
            hosts.extend(visible(below, namespace));
        }
        if hosts.is_empty() {
            for (key, rules) in mesh.rules.seen_from(namespace) {
                let named = rules.hosts.iter().filter(|name| self.matches(name));
                hosts.extend(named.map(|name| ScopeHost::new(key.namespace.clone(), name.clone())));
            }
        }
        let known = !hosts.is_empty();
        (hosts, known)
    }
}

/// What an entry of `allow` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A host, or all below a name.
    Host(HostPattern),
    /// All of a namespace.
    Namespace(Name),
    /// Services by label, perhaps in some namespaces only.
    Services(Selector, Option<Selector>),
}

/// An entry of `allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// What it names.
    pub what: What,
    /// When it ends.
    pub until: Option<Timestamp>,
    /// Why its author wrote it.
    pub reason: Option<String>,
}

impl Allowed {
    fn parse(entry: &Allow, namespace: &str) -> Option<Self> {
        let what = if let Some(host) = &entry.host {
            What::Host(HostPattern::parse(host, namespace))
        } else if let Some(name) = &entry.namespace {
            What::Namespace(name.as_str().into())
        } else {
            What::Services(entry.service_selector.clone()?, entry.namespace_selector.clone())
        };
        Some(Self {
            what,
            until: entry.until,
            reason: entry.reason.clone(),
        })
    }

    /// Whether it still holds.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Whether it names a Service.
    pub fn names(&self, mesh: &Mesh, key: &ServiceKey, labels: &Labels) -> bool {
        match &self.what {
            What::Host(host) => host.matches(&key.host()),
            What::Namespace(name) => *name == key.namespace,
            What::Services(services, namespaces) => {
                let of_namespace = |selector: &Selector| {
                    let facts = mesh.namespace(&key.namespace);
                    facts.is_some_and(|facts| selector.matches(|label| facts.labels.get(label)))
                };
                services.matches(|label| labels.get(label)) && namespaces.as_ref().is_none_or(of_namespace)
            }
        }
    }

    /// Whether the labels of a Namespace decide about it.
    pub fn looks_at_namespaces(&self) -> bool {
        matches!(self.what, What::Services(_, Some(_)))
    }

    /// The hosts that it names for a fence of `namespace`, and whether the mesh knows any.
    pub fn hosts(&self, mesh: &Mesh, namespace: &str) -> (Vec<ScopeHost>, bool) {
        let hosts = match &self.what {
            What::Host(host) => return host.hosts(mesh, namespace),
            What::Namespace(name) => {
                let services = mesh.services.in_namespace(name);
                let entries = mesh
                    .service_entries
                    .seen_from(namespace)
                    .filter(|(key, _)| key.namespace == *name);
                let declared = entries.flat_map(|(key, entry)| {
                    let of = |host: &Name| ScopeHost::new(key.namespace.clone(), host.clone());
                    entry.hosts.iter().map(of)
                });
                visible(services, namespace).chain(declared).collect()
            }
            What::Services(..) => {
                let named = mesh
                    .services
                    .iter()
                    .filter(|(key, facts)| self.names(mesh, key, &facts.labels));
                visible(named, namespace).collect::<Vec<_>>()
            }
        };
        let known = !hosts.is_empty();
        (hosts, known)
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Host(host) => f.write_str(&host.text),
            What::Namespace(name) => write!(f, "namespace {name}"),
            What::Services(services, None) => write!(f, "Services with {}", Shown(services)),
            What::Services(services, Some(namespaces)) => write!(
                f,
                "Services with {} in namespaces with {}",
                Shown(services),
                Shown(namespaces)
            ),
        }
    }
}

/// A selector as `kubectl -l` takes it.
struct Shown<'a>(&'a Selector);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use servicefence_crd::Operator;
        let equal = self
            .0
            .match_labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        let further = self.0.match_expressions.iter().map(|one| {
            let (key, values) = (&one.key, one.values.join(","));
            match one.operator {
                Operator::In => format!("{key} in ({values})"),
                Operator::NotIn => format!("{key} notin ({values})"),
                Operator::Exists => key.clone(),
                Operator::DoesNotExist => format!("!{key}"),
            }
        });
        f.write_str(&equal.chain(further).collect::<Vec<_>>().join(","))
    }
}

fn visible<'a>(
    services: impl Iterator<Item = (&'a ServiceKey, &'a ServiceFacts)>,
    namespace: &str,
) -> impl Iterator<Item = ScopeHost> {
    services
        .filter(move |(_, facts)| facts.visibility.to(namespace))
        .map(|(key, _)| key.scope_host())
}

/// The spec of a fence, read for decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerRules {
    /// What is always in scope.
    pub allow: Vec<Allowed>,
    /// What is never learned.
    pub deny: Vec<HostPattern>,
}

impl OwnerRules {
    /// Reads the spec of a fence in `namespace`.
    pub fn of(spec: &ServiceFenceSpec, namespace: &str) -> Self {
        Self {
            allow: spec
                .allow
                .iter()
                .filter_map(|entry| Allowed::parse(entry, namespace))
                .collect(),
            deny: spec
                .deny
                .iter()
                .map(|host| HostPattern::parse(host, namespace))
                .collect(),
        }
    }

    /// Whether a host must not be learned.
    pub fn denies(&self, host: &str) -> bool {
        self.deny.iter().any(|denied| denied.matches(host))
    }

    /// When the next entry of `allow` ends.
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        self.allow
            .iter()
            .filter_map(|entry| entry.until)
            .filter(|until| *until > now)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_what_its_author_means() {
        let matches = |text, host| HostPattern::parse(text, "shop").matches(host);
        let cart = "cart.shop.svc.cluster.local";
        for text in [
            "cart",
            "cart.shop",
            "cart.shop.svc",
            cart,
            "*.shop.svc.cluster.local",
            "*.local",
        ] {
            assert!(matches(text, cart), "{text}");
        }
        for text in [
            "car",
            "cart.books",
            "*.books.svc.cluster.local",
            "shop",
            "*.art.shop.svc.cluster.local",
        ] {
            assert!(!matches(text, cart), "{text}");
        }
        assert!(matches("api.example.com", "api.example.com"));
        assert!(matches("example.com", "example.com"));
        assert!(matches("*.example.com", "a.b.example.com"));
        assert!(matches("*.example.com", "*.example.com"));
        assert!(!matches("*.example.com", "example.com"));
        assert!(!matches("*.example.com", "badexample.com"));
    }
}
