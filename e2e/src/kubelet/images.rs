//! Which program stands for which image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Which program stands for which image.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Images(BTreeMap<String, PathBuf>);

impl Images {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The containers of this image, whatever its tag, run this program.
    #[must_use]
    pub fn with(mut self, image: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        self.0.insert(image.into(), program.into());
        self
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Image and program of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.0
            .iter()
            .map(|(image, program)| (image.as_str(), program.as_path()))
    }

    pub(crate) fn program(&self, image: &str) -> Option<&Path> {
        let name = without_tag(image);
        let found = self
            .0
            .iter()
            .find(|(known, _)| *known == image || without_tag(known) == name);
        found.map(|(_, program)| program.as_path())
    }
}

/// An image without tag and digest; a colon before the last slash belongs to a registry's port.
pub(crate) fn without_tag(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    }
}

/// A kubelet that was started, as the next process must start it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Kubelet {
    pub(crate) namespace: Option<String>,
    pub(crate) images: Images,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_whatever_its_tag() {
        let images = Images::new().with("ghcr.io/acme/thing", "/bin/thing");
        for image in [
            "ghcr.io/acme/thing",
            "ghcr.io/acme/thing:1.2",
            "ghcr.io/acme/thing:1.2@sha256:ab",
        ] {
            assert_eq!(images.program(image), Some(Path::new("/bin/thing")), "{image}");
        }
        assert_eq!(images.program("ghcr.io/acme/thing2:1.2"), None);
    }

    #[test]
    fn the_port_of_a_registry_is_no_tag() {
        assert_eq!(without_tag("localhost:5000/thing"), "localhost:5000/thing");
    }
}
