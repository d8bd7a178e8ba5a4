//! How a request came to its server, told from the certificate chain that the server's proxy writes down.

use std::fmt;

use serde_json::Value;

/// What the server saw of the way.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Via {
    /// mTLS with the caller's own identity.
    Direct,
    /// mTLS with somebody else's identity, such as a gateway's.
    Through(String),
    /// No mTLS.
    Plaintext,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => write!(f, "direct mTLS"),
            Self::Through(principal) => write!(f, "through {principal}"),
            Self::Plaintext => write!(f, "plaintext"),
        }
    }
}

impl Via {
    /// From the echo server's JSON.
    pub(super) fn of_echo(told: &Value, caller: &str) -> Option<Self> {
        let headers = told["headers"].as_object()?;
        let chain = headers
            .get("x-forwarded-client-cert")
            .and_then(|values| values[0].as_str());
        Some(Self::of_chain(chain, caller))
    }

    /// From the header `x-forwarded-client-cert`. Its last element is of the connection that reached the
    /// server.
    pub(super) fn of_chain(chain: Option<&str>, caller: &str) -> Self {
        let last = chain.and_then(|chain| chain.rsplit(',').next());
        let uri = last.and_then(|element| element.split(';').find_map(|pair| pair.strip_prefix("URI=")));
        match uri.map(|uri| uri.trim_matches('"')) {
            None => Self::Plaintext,
            Some(uri) if uri == caller => Self::Direct,
            Some(uri) => Self::Through(uri.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
    const GATEWAY: &str = "spiffe://cluster.local/ns/system/sa/gateway";

    #[test]
    fn the_callers_own_identity_is_direct() {
        let chain = format!("By=spiffe://cluster.local/ns/b/sa/r;Hash=1;Subject=\"\";URI={WEB}");
        assert_eq!(Via::of_chain(Some(&chain), WEB), Via::Direct);
    }

    #[test]
    fn the_last_element_counts() {
        let chain = format!("By=x;Hash=1;URI={WEB},By=y;Hash=2;URI={GATEWAY}");
        assert_eq!(Via::of_chain(Some(&chain), WEB), Via::Through(GATEWAY.to_owned()));
    }

    #[test]
    fn no_certificate_is_plaintext() {
        assert_eq!(Via::of_chain(None, WEB), Via::Plaintext);
    }
}
