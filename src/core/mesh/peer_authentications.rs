//! Which destinations take mutual TLS only.
//!
//! A call that Istio or the gateway passes through goes out as it is: such a destination refuses it. Flows
//! in: PeerAuthentications. Flows out: whether a Service may refuse plain text, and where in the mesh that is
//! so, in words. In doubt the answer is that it may.
//!
//! <https://istio.io/latest/docs/reference/config/security/peer_authentication/>

use std::collections::BTreeMap;

use crate::facts::{MutualTls, PeerAuthenticationFacts, ServiceFacts};
use crate::name::{ConfigKey, Name, ServiceKey};

/// How many namespaces or objects a sentence names.
const MOST_NAMED: usize = 5;

/// All PeerAuthentications.
#[derive(Debug)]
pub struct PeerAuthentications {
    root: Name,
    all: BTreeMap<ConfigKey, PeerAuthenticationFacts>,
}

impl PeerAuthentications {
    /// A mesh with this root namespace and no PeerAuthentication.
    pub fn new(root: Name) -> Self {
        Self {
            root,
            all: BTreeMap::new(),
        }
    }

    /// Adds, replaces or removes one; returns whether that changes anything.
    pub fn set(&mut self, key: ConfigKey, facts: Option<PeerAuthenticationFacts>) -> bool {
        match facts {
            Some(facts) => self.all.insert(key, facts.clone()) != Some(facts),
            None => self.all.remove(&key).is_some(),
        }
    }

    /// Whether pods of a Service may refuse what is not mutual TLS.
    pub fn may_refuse(&self, key: &ServiceKey, facts: &ServiceFacts) -> bool {
        if facts.may_have_pods_of_any_namespace() {
            return self.all.values().any(PeerAuthenticationFacts::can_be_strict);
        }
        let of_some = self.in_namespace(&key.namespace).any(|(_, one)| {
            let fits =
                |(label, value): (&String, &String)| facts.selector.get(label).is_none_or(|is| is == value);
            one.is_for_some() && one.can_be_strict() && one.selector.iter().all(fits)
        });
        of_some || self.of_namespace(&key.namespace) == MutualTls::Strict
    }

    /// Where mutual TLS is required, in words; `None`: nowhere.
    pub fn said(&self) -> Option<String> {
        let namespaces = || {
            let mut names: Vec<&Name> = self.all.keys().map(|key| &key.namespace).collect();
            names.dedup();
            names.into_iter().filter(|name| **name != self.root)
        };
        let of = |mode| namespaces().filter(move |name| self.of_namespace(name) == mode);
        let mut said = Vec::new();
        if self.of_mesh() == MutualTls::Strict {
            let but: Vec<_> = of(MutualTls::Lax).map(|name| &**name).collect();
            said.push(match but.as_slice() {
                [] => "all namespaces".to_owned(),
                names => format!("all namespaces but {}", some_of(names)),
            });
        } else {
            let names: Vec<_> = of(MutualTls::Strict).map(|name| &**name).collect();
            if !names.is_empty() {
                said.push(format!("namespaces {}", some_of(&names)));
            }
        }
        let pods: Vec<String> = self
            .all
            .iter()
            .filter(|(key, one)| {
                one.is_for_some()
                    && one.can_be_strict()
                    && self.of_namespace(&key.namespace) == MutualTls::Lax
            })
            .map(|(key, _)| key.to_string())
            .collect();
        if !pods.is_empty() {
            let names: Vec<_> = pods.iter().map(String::as_str).collect();
            said.push(format!("the pods of PeerAuthentication {}", some_of(&names)));
        }
        (!said.is_empty()).then(|| said.join(", "))
    }

    fn in_namespace<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a PeerAuthenticationFacts)> {
        self.all
            .range(ConfigKey::new(namespace, "")..)
            .take_while(move |(key, _)| &*key.namespace == namespace)
    }

    /// What the one for all pods of a namespace says.
    fn said_for_all(&self, namespace: &str) -> Option<MutualTls> {
        self.in_namespace(namespace)
            .filter(|(_, one)| !one.is_for_some())
            .min_by_key(|(key, one)| (one.created, *key))
            .and_then(|(_, one)| one.mode)
    }

    fn of_mesh(&self) -> MutualTls {
        self.said_for_all(&self.root).unwrap_or(MutualTls::Lax)
    }

    fn of_namespace(&self, namespace: &str) -> MutualTls {
        self.said_for_all(namespace).unwrap_or_else(|| self.of_mesh())
    }
}

fn some_of(names: &[&str]) -> String {
    match names.get(MOST_NAMED..) {
        Some([_, ..]) => format!(
            "{} and {} more",
            names[..MOST_NAMED].join(", "),
            names.len() - MOST_NAMED
        ),
        _ => names.join(", "),
    }
}
