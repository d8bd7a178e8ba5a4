//! What a run is given: objects, calls and changes, as values that can be printed, cut and compared.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
        }
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

impl World {
    /// Whether a call names another Service of this world than it dials. An `ExternalName` is a name of
    /// another one.
    pub(super) fn is_forged(&self, call: &FuzzCall) -> bool {
        let Some(host) = &call.host else { return false };
        let dialled = call.url.split("://").nth(1).unwrap_or_default();
        let dialled = dialled.trim_start_matches('{').trim_start_matches("service ");
        let dialled = dialled
            .split_once('/')
            .filter(|_| call.url.contains('{'))
            .map_or(dialled, |(_, name)| name);
        let first = |text: &str| {
            text.split(['.', ':', '}', '/'])
                .next()
                .unwrap_or_default()
                .to_lowercase()
        };
        let named = first(host);
        let stands_for = self.objects.iter().any(|object| {
            object["metadata"]["name"] == named.as_str() && object["spec"]["type"] == "ExternalName"
        });
        named != first(dialled) && !stands_for
    }

    /// As YAML.
    pub fn yaml(&self) -> anyhow::Result<String> {
        Ok(serde_saphyr::to_string(self)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_is_forged_that_names_another_service() {
        let alias = json!({"metadata": {"name": "s9"}, "spec": {"type": "ExternalName"}});
        let world = World {
            objects: vec![alias],
            ..World::default()
        };
        let forged = |url: &str, host: &str| {
            let mut call = FuzzCall::new(url);
            call.host = Some(host.to_owned());
            world.is_forged(&call)
        };
        assert!(forged("http://s0.books:80/", "s1.books:80"));
        assert!(forged("http://{service books/s0}:80/", "s1"));
        assert!(forged("http://{pod books/a}:80/", "s1.books"));
        assert!(!forged("http://{service books/s0}:80/", "S0.books:80"));
        assert!(!forged("http://s0.books:80/", "s9.books:80"));
        assert!(!world.is_forged(&FuzzCall::new("http://s0.books:80/")));
    }
}
