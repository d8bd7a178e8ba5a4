//! What a run is given: objects, calls and changes, as values that can be printed, cut and compared.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::pool::HOME;
use crate::call::Call;

/// A mesh, what is called in it, and how it changes.
///
/// Texts may stand for addresses that are known at run time: `{pod books/a}`, `{service books/s0}`,
/// `{external}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct World {
    /// The seed that it was made of.
    pub seed: u64,
    /// What the caller's fence says, beside what the stage needs.
    pub fence: Value,
    /// Objects beside those of the pool.
    pub objects: Vec<Value>,
    /// Made once the objects are there, and again after each change.
    pub calls: Vec<FuzzCall>,
    /// Made one after the other.
    pub changes: Vec<Change>,
}

/// A call of a world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FuzzCall {
    /// As [`Call`] takes it.
    pub url: String,
    /// Another Host than the URL's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// A header that rules match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<(String, String)>,
    /// After how many changes it is made for the first time. What is called before is direct from then on, so
    /// a change that the gateway has not followed shows by a later first call only.
    #[serde(default, skip_serializing_if = "at_first")]
    pub after: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde wants")]
fn at_first(after: &usize) -> bool {
    *after == 0
}

/// A change of a world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// An object is created or edited.
    Apply(Value),
    /// An object goes.
    Delete(Value),
    /// An object goes and comes again at once.
    Replace(Value),
    /// A pod of the pool changes its label `version`.
    Relabel {
        /// `namespace/name`.
        pod: String,
        /// The new value.
        version: String,
    },
}

impl FuzzCall {
    pub(super) fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            host: None,
            header: None,
            after: 0,
        }
    }

    /// The name that it dials, without what follows its first part.
    pub(super) fn called(&self) -> String {
        label(dialled(&self.url))
    }

    /// As the mesh makes it.
    pub(super) fn call(&self, filled_in: impl Fn(&str) -> String) -> Call {
        let mut call = Call::get(&filled_in(&self.url));
        if let Some(host) = &self.host {
            call = call.host(&filled_in(host));
        }
        if let Some((name, value)) = &self.header {
            call = call.header(name, value);
        }
        call
    }
}

impl fmt::Display for FuzzCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)?;
        if let Some(host) = &self.host {
            write!(f, " as {host}")?;
        }
        if let Some((name, value)) = &self.header {
            write!(f, " with {name}: {value}")?;
        }
        if self.after > 0 {
            write!(f, " after {} changes", self.after)?;
        }
        Ok(())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply(object) => write!(f, "apply {}", name(object)),
            Self::Delete(object) => write!(f, "delete {}", name(object)),
            Self::Replace(object) => write!(f, "delete and create {}", name(object)),
            Self::Relabel { pod, version } => write!(f, "{pod} becomes version {version}"),
        }
    }
}

/// One line for each object, call and change.
impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, fence {}", self.seed, self.fence)?;
        for object in &self.objects {
            writeln!(f, "  {}", line(object))?;
        }
        for call in &self.calls {
            writeln!(f, "  call {call}")?;
        }
        for change in &self.changes {
            match change {
                Change::Apply(object) => writeln!(f, "  then apply {}", line(object))?,
                other => writeln!(f, "  then {other}")?,
            }
        }
        Ok(())
    }
}

/// An object with all that it says.
fn line(object: &Value) -> String {
    let mut rest = object.clone();
    if let Value::Object(fields) = &mut rest {
        fields.retain(|field, _| !["apiVersion", "kind"].contains(&field.as_str()));
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.retain(|field, _| !["name", "namespace"].contains(&field.as_str()));
        }
        fields.retain(|_, value| *value != json!({}));
    }
    format!("{} {rest}", name(object))
}

/// `Kind namespace/name` of an object.
pub(super) fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    format!(
        "{} {}/{}",
        text(&object["kind"]),
        text(&metadata["namespace"]),
        text(&metadata["name"])
    )
}

/// The first label of a name, in small letters.
fn label(text: &str) -> String {
    text.split(['.', ':', '}', '/'])
        .next()
        .unwrap_or_default()
        .to_lowercase()
}

/// What a URL dials, without its scheme, and without the namespace of `{service books/s0}`.
fn dialled(url: &str) -> &str {
    let after = url.split_once("://").map_or(url, |(_, after)| after);
    match after.strip_prefix('{').and_then(|object| object.split_once('/')) {
        Some((_, name)) => name,
        None => after,
    }
}

impl World {
    /// Whether a call names another Service than it dials, or a Service with rules by a name that is not its
    /// own. An `ExternalName` is a name of another one.
    pub(super) fn is_forged(&self, call: &FuzzCall) -> bool {
        let Some(host) = &call.host else { return false };
        let named = self.meant(label(host));
        let is_service = named
            .strip_prefix('s')
            .is_some_and(|number| number.parse::<usize>().is_ok());
        let meant = self.meant(call.called());
        if is_service && named != meant {
            return true;
        }
        let is_address = host.starts_with('{');
        let is_known = is_service && (host.contains('.') || self.namespace_of(&label(host)) == Some(HOME));
        !is_address && !is_known && self.has_rules(&meant)
    }

    /// Whether a call is to a headless Service, by its name or that of one that stands for it.
    pub(super) fn is_headless(&self, call: &FuzzCall) -> bool {
        let meant = self.meant(call.called());
        self.service(&meant)
            .is_some_and(|service| service["spec"]["clusterIP"] == "None")
    }

    fn namespace_of(&self, service: &str) -> Option<&str> {
        self.service(service)?["metadata"]["namespace"].as_str()
    }

    /// Whether some rule may be for a Service: in doubt it is.
    fn has_rules(&self, service: &str) -> bool {
        let changed = self.changes.iter().filter_map(|change| match change {
            Change::Apply(object) | Change::Replace(object) => Some(object),
            Change::Delete(_) | Change::Relabel { .. } => None,
        });
        self.objects.iter().chain(changed).any(|object| {
            let kind = object["kind"].as_str().unwrap_or_default();
            let text = object.to_string();
            (kind == "VirtualService" || kind.ends_with("Route"))
                && (text.contains(&format!("\"{service}\""))
                    || text.contains(&format!("\"{service}."))
                    || text.contains("\"*"))
        })
    }

    /// Whether a call names a Service that is gone after so many changes. istiod may take it for a name of
    /// another one until that changes.
    pub(super) fn names_one_that_is_gone(&self, call: &FuzzCall, changes: usize) -> bool {
        let Some(named) = call.host.as_deref().map(label) else {
            return false;
        };
        let is_it = |object: &Value| object["kind"] == "Service" && object["metadata"]["name"] == *named;
        let changes = self.changes.iter().take(changes).rev();
        let mut last = changes.filter_map(|change| match change {
            Change::Delete(object) if is_it(object) => Some(true),
            Change::Apply(object) | Change::Replace(object) if is_it(object) => Some(false),
            _ => None,
        });
        last.next().unwrap_or_default()
    }

    fn service(&self, name: &str) -> Option<&Value> {
        let mut services = self.objects.iter().filter(|object| object["kind"] == "Service");
        services.find(|service| service["metadata"]["name"] == name)
    }

    /// The name of the Service that one stands for, as `ExternalName`s do, in the end.
    fn meant(&self, name: String) -> String {
        let mut meant = name;
        // They may stand for each other in a circle.
        for _ in 0..self.objects.len() {
            let target = self
                .service(&meant)
                .and_then(|service| service["spec"]["externalName"].as_str());
            match target {
                Some(target) => meant = label(target),
                None => break,
            }
        }
        meant
    }

    /// As YAML.
    pub fn yaml(&self) -> anyhow::Result<String> {
        Ok(serde_saphyr::to_string(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_is_readable() {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s1", "namespace": "lab"}, "spec": {"clusterIP": "None"}});
        let world = World {
            seed: 7,
            fence: json!({}),
            objects: vec![service.clone()],
            calls: vec![FuzzCall::new("http://s1.lab/")],
            changes: vec![Change::Delete(service)],
        };
        assert_eq!(
            world.to_string(),
            "seed 7, fence {}\n  Service lab/s1 {\"spec\":{\"clusterIP\":\"None\"}}\n  call http://s1.lab/\n  then delete Service lab/s1\n"
        );
    }

    #[test]
    fn a_call_is_forged_that_names_another_service() {
        let service = |name: &str, external: Option<&str>| json!({"kind": "Service", "metadata": {"name": name}, "spec": {"externalName": external}});
        let world = World {
            objects: vec![
                service("s0", None),
                service("s1", None),
                service("s8", Some("s9.lab.svc.cluster.local")),
                service("s9", Some("s0.books.svc.cluster.local")),
            ],
            ..World::default()
        };
        let call = |url: &str, host: &str| FuzzCall {
            host: Some(host.to_owned()),
            ..FuzzCall::new(url)
        };
        let forged = |url: &str, host: &str| world.is_forged(&call(url, host));
        assert!(forged("http://s0.books:80/", "s1.books:80"));
        assert!(forged("http://{service books/s0}:80/", "s1"));
        assert!(forged("http://{pod books/a}:80/", "s1.books"));
        assert!(!forged("http://{service books/s0}:80/", "S0.books:80"));
        assert!(!forged("http://s0.books:80/", "s8.books:80"));
        assert!(forged("http://s1.books:80/", "s8.books:80"));
        assert!(!forged("http://s1.lab:80/", "nowhere.books"));
        let rule = json!({"kind": "VirtualService", "metadata": {"name": "vs0"}, "spec": {"hosts": ["s1.books.svc.cluster.local"]}});
        let mut with_rules = world.clone();
        with_rules.objects.push(rule);
        assert!(with_rules.is_forged(&call("http://s1.books:80/", "nowhere.books")));
        assert!(
            with_rules.is_forged(&call("http://s1.books:80/", "s1")),
            "of another namespace"
        );
        assert!(!with_rules.is_forged(&call("http://s1.books:80/", "s1.books")));
        assert!(!with_rules.is_forged(&call("http://s0.books:80/", "nowhere.books")));
        assert!(!world.is_forged(&FuzzCall::new("http://s0.books:80/")));
    }

    #[test]
    fn a_service_that_is_deleted_is_gone_until_it_comes_again() {
        let service = json!({"kind": "Service", "metadata": {"name": "s1"}});
        let world = World {
            changes: vec![Change::Delete(service.clone()), Change::Apply(service)],
            ..World::default()
        };
        let gone_after = |changes| {
            let call = FuzzCall {
                host: Some("s1.books:80".to_owned()),
                ..FuzzCall::new("http://s0.books:80/")
            };
            world.names_one_that_is_gone(&call, changes)
        };
        assert_eq!([0, 1, 2].map(gone_after), [false, true, false]);
    }
}
