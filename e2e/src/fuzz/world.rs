//! What a run is given: objects, calls and changes, as values that can be printed, cut and compared.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::call::Call;

/// A mesh, what is called in it, and how it changes.
///
/// Texts may stand for addresses that are known at run time: `{pod books/a}`, `{service books/s0}`, `{external}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct World {
    /// The seed that it was made of.
    pub seed: u64,
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
    /// As YAML.
    pub fn yaml(&self) -> anyhow::Result<String> {
        Ok(serde_saphyr::to_string(self)?)
    }
}
