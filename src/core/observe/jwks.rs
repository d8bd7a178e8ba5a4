//! Where RequestAuthentications have their keys.

use http::Uri;
use servicefence_crd::istio::RequestAuthenticationSpec;

use crate::jwks::JwksFacts;

/// What a RequestAuthentication says about keys elsewhere. What is not an address of the web is not looked up (Istio:
/// `ParseJwksURI`).
pub(super) fn facts(spec: &RequestAuthenticationSpec) -> Option<JwksFacts> {
    let uris = spec
        .jwt_rules
        .iter()
        .filter_map(|rule| rule.jwks_uri.parse::<Uri>().ok());
    let uris: Vec<_> = uris
        .filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
        .collect();
    JwksFacts::of(spec, uris.iter().filter_map(Uri::host))
}
