//! Who sees an object (`exportTo`).

use std::collections::BTreeSet;

use crate::name::Name;

/// Who sees a Service, ServiceEntry or VirtualService (`exportTo`).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Visibility {
    /// Every namespace.
    #[default]
    All,
    /// These only.
    Only(BTreeSet<Name>),
}

impl Visibility {
    /// Reads Istio's `exportTo` of an object in `namespace`: `*` is every namespace, `.` the object's own,
    /// `~` none, whatever else is there (Istio: `initServiceRegistry`, `initVirtualServices`). `None` where
    /// it says nothing.
    pub fn parse<'a>(export_to: impl IntoIterator<Item = &'a str>, namespace: &str) -> Option<Self> {
        let entries: BTreeSet<&str> = export_to.into_iter().map(str::trim).collect();
        if entries.is_empty() {
            return None;
        }
        if entries.contains("*") {
            return Some(Self::All);
        }
        if entries.contains("~") {
            return Some(Self::Only(BTreeSet::new()));
        }
        let named = entries.into_iter().filter(|entry| !entry.is_empty());
        let named = named.map(|entry| if entry == "." { namespace } else { entry });
        Some(Self::Only(named.map(Name::from).collect()))
    }

    /// Whether proxies of `namespace` see the object.
    pub fn to(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(namespace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_to_is_read_as_istio_does() {
        let only = |names: &[&str]| Some(Visibility::Only(names.iter().copied().map(Name::from).collect()));
        assert_eq!(Visibility::parse([], "a"), None);
        assert_eq!(Visibility::parse([".", " b"], "a"), only(&["a", "b"]));
        assert_eq!(Visibility::parse(["~"], "a"), only(&[]));
        assert_eq!(Visibility::parse([".", "~"], "a"), only(&[]), "none is none");
        assert_eq!(Visibility::parse(["~", "*"], "a"), Some(Visibility::All));
    }
}
