//! RequestAuthentications: where the keys of tokens are.

use std::collections::BTreeSet;

use http::Uri;
use servicefence_crd::istio::RequestAuthenticationSpec;

use crate::facts::labels::{Labels, selected};
use crate::name::Name;

/// A RequestAuthentication with keys elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksFacts {
    /// The pods that it is for; empty: all of its namespace, of the mesh in Istio's root namespace.
    pub(crate) selector: Labels,
    /// The hosts with the keys.
    pub(crate) servers: BTreeSet<Name>,
}

impl JwksFacts {
    /// Reads one; `None` where it has no keys elsewhere, or where it is for a gateway or waypoint (Istio:
    /// `ShouldAttachPolicy`). What is not an address of the web is not looked up (Istio: `ParseJwksURI`), and
    /// a host is as it stands (`LookupCluster`), so a short name is no Service.
    pub fn of(spec: &RequestAuthenticationSpec) -> Option<Self> {
        if spec.target_ref.is_some() || !spec.target_refs.is_empty() {
            return None;
        }
        let uris = spec.jwt_rules.iter();
        let uris = uris.filter_map(|rule| rule.jwks_uri.parse::<Uri>().ok());
        let uris: Vec<_> = uris
            .filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
            .collect();
        let hosts = uris.iter().filter_map(Uri::host);
        let servers: BTreeSet<_> = hosts.into_iter().map(Name::from).collect();
        (!servers.is_empty()).then(|| Self {
            selector: selected(spec.selector.as_ref()),
            servers,
        })
    }
}
