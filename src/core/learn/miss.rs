//! One call to a destination outside the caller's scope.
//!
//! In: three strings of an access-log entry; a hostile pod may have written each of them. Out: a [`Miss`]
//! with parts that are well formed, or a [`Reject`] that says which part is not. Invariant: the namespace of
//! a `Miss` is one that the caller's certificate proves.
//!
//! The destination is an address, never a name. So nothing that a caller writes into its Host header can add
//! a host to a scope: only an address that a Service really has can.

use std::net::SocketAddr;

/// The longest name that Kubernetes takes for a pod or a service account (DNS-1123 subdomain).
const MAX_SUBDOMAIN: usize = 253;
/// The longest name that Kubernetes takes for a namespace (DNS-1123 label).
const MAX_LABEL: usize = 63;
/// The longest trust domain that SPIFFE allows.
const MAX_TRUST_DOMAIN: usize = 255;

/// One call to a destination outside the caller's scope, parsed at the edge.
///
/// It borrows from the log entry that it came from: a miss that is already known costs no allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Miss<'a> {
    /// The caller's namespace, the same in the source header and in the caller's certificate.
    pub namespace: &'a str,
    /// The caller's pod.
    pub pod: &'a str,
    /// Where the connection was going: the address of a Service, or of a pod behind a headless one.
    pub destination: SocketAddr,
}

/// Why a log entry is not a [`Miss`].
///
/// No variant repeats what the entry said. Whoever logs a reject has to escape and cut that text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// The entry names no caller.
    #[error("the entry has no source header; is the EnvoyFilter `servicefence` in the caller's namespace?")]
    MissingSource,
    /// The source header is not `namespace/pod`.
    #[error("the source header is not `namespace/pod`: {0}")]
    MalformedSource(&'static str),
    /// The caller showed no certificate with a SPIFFE identity.
    #[error(
        "the caller showed no client certificate with a URI name; did it reach the gateway without mTLS?"
    )]
    MissingPeer,
    /// The caller's identity is not one that Istio issues.
    #[error("the caller's identity is not `spiffe://<trust domain>/ns/<namespace>/sa/<account>`: {0}")]
    MalformedPeer(&'static str),
    /// The source header names another namespace than the certificate does.
    #[error("the source header names another namespace than the caller's certificate")]
    NamespaceMismatch,
    /// The entry does not say where the call was going.
    #[error("the entry has no original destination")]
    MissingDestination,
    /// The destination is not an address with a port.
    #[error("the original destination is not `ip:port`")]
    MalformedDestination,
}

impl Reject {
    /// Every value that [`Reject::category`] can return, in the order in which the parts are looked at.
    pub const CATEGORIES: [&'static str; 7] = [
        "missing_source",
        "malformed_source",
        "missing_peer",
        "malformed_peer",
        "namespace_mismatch",
        "missing_destination",
        "malformed_destination",
    ];

    /// A bounded name for the kind of this reject: metric label and log field.
    pub fn category(&self) -> &'static str {
        match self {
            Self::MissingSource => "missing_source",
            Self::MalformedSource(_) => "malformed_source",
            Self::MissingPeer => "missing_peer",
            Self::MalformedPeer(_) => "malformed_peer",
            Self::NamespaceMismatch => "namespace_mismatch",
            Self::MissingDestination => "missing_destination",
            Self::MalformedDestination => "malformed_destination",
        }
    }
}

impl<'a> Miss<'a> {
    /// The longest source header that [`Miss::parse`] can accept, in bytes.
    pub const MAX_SOURCE: usize = MAX_LABEL + "/".len() + MAX_SUBDOMAIN;
    /// The longest peer identity that [`Miss::parse`] can accept, in bytes.
    pub const MAX_PEER: usize =
        "spiffe://".len() + MAX_TRUST_DOMAIN + "/ns/".len() + MAX_LABEL + "/sa/".len() + MAX_SUBDOMAIN;
    /// The longest destination that [`Miss::parse`] can accept, in bytes: a mapped IPv6 address, spelled out.
    pub const MAX_DESTINATION: usize = "[0000:0000:0000:0000:0000:ffff:255.255.255.255]:65535".len();

    /// Reads a miss from the source header, the URI name of the caller's certificate and the original
    /// destination.
    pub fn parse(source: &'a str, peer: Option<&str>, destination: &str) -> Result<Self, Reject> {
        let (namespace, pod) = parse_source(source)?;
        let proven = match peer {
            None | Some("") => return Err(Reject::MissingPeer),
            Some(peer) => parse_peer(peer)?,
        };
        if proven != namespace {
            return Err(Reject::NamespaceMismatch);
        }
        Ok(Self {
            namespace,
            pod,
            destination: parse_destination(destination)?,
        })
    }
}

fn parse_source(source: &str) -> Result<(&str, &str), Reject> {
    if source.is_empty() {
        return Err(Reject::MissingSource);
    }
    let (namespace, pod) = source
        .split_once('/')
        .ok_or(Reject::MalformedSource("there is no slash"))?;
    if !is_label(namespace) {
        return Err(Reject::MalformedSource(
            "the part before the slash is not a namespace name",
        ));
    }
    if !is_subdomain(pod) {
        return Err(Reject::MalformedSource(
            "the part after the slash is not a pod name",
        ));
    }
    Ok((namespace, pod))
}

/// The namespace that a SPIFFE identity of Istio stands for.
pub fn parse_peer(peer: &str) -> Result<&str, Reject> {
    let rest = peer
        .strip_prefix("spiffe://")
        .ok_or(Reject::MalformedPeer("it is not a SPIFFE URI"))?;
    let mut segments = rest.split('/');
    if !segments.next().is_some_and(is_trust_domain) {
        return Err(Reject::MalformedPeer("the trust domain is not a name"));
    }
    let path = (
        segments.next(),
        segments.next(),
        segments.next(),
        segments.next(),
        segments.next(),
    );
    let (Some("ns"), Some(namespace), Some("sa"), Some(account), None) = path else {
        return Err(Reject::MalformedPeer(
            "the path is not `/ns/<namespace>/sa/<account>`",
        ));
    };
    if !is_label(namespace) {
        return Err(Reject::MalformedPeer("the namespace is not a namespace name"));
    }
    if !is_subdomain(account) {
        return Err(Reject::MalformedPeer("the account is not a service account name"));
    }
    Ok(namespace)
}

fn parse_destination(destination: &str) -> Result<SocketAddr, Reject> {
    if destination.is_empty() {
        return Err(Reject::MissingDestination);
    }
    let address: SocketAddr = destination.parse().map_err(|_| Reject::MalformedDestination)?;
    // A zone names an interface of one host. No Service address has one.
    let has_zone = matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
    if address.port() == 0 || has_zone {
        return Err(Reject::MalformedDestination);
    }
    // A dual-stack listener may report an IPv4 peer as `::ffff:10.0.0.1`.
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// A DNS-1123 label: what Kubernetes takes as the name of a namespace.
pub fn is_label(name: &str) -> bool {
    name.len() <= MAX_LABEL && is_alphanumeric_with_dashes(name)
}

/// A DNS-1123 subdomain: what Kubernetes takes as the name of a pod. Its labels have no limit of their own
/// there.
pub fn is_subdomain(name: &str) -> bool {
    name.len() <= MAX_SUBDOMAIN && name.split('.').all(is_alphanumeric_with_dashes)
}

fn is_alphanumeric_with_dashes(label: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.as_bytes().iter().all(inner)
}

/// SPIFFE wants lower case, Istio does not insist: its trust domain is whatever MeshConfig says.
fn is_trust_domain(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= MAX_TRUST_DOMAIN && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: Option<&str> = Some("spiffe://cluster.local/ns/shop/sa/web");

    fn parse<'a>(source: &'a str, peer: Option<&str>, destination: &str) -> Result<Miss<'a>, &'static str> {
        Miss::parse(source, peer, destination).map_err(|reject| reject.category())
    }

    #[test]
    fn a_well_formed_entry_is_a_miss() {
        let miss = parse("shop/web-7d4b9-x2x1z", PEER, "10.96.0.20:8080").unwrap();
        assert_eq!((miss.namespace, miss.pod), ("shop", "web-7d4b9-x2x1z"));
        assert_eq!(miss.destination, "10.96.0.20:8080".parse().unwrap());
    }

    #[test]
    fn ipv6_stands_in_brackets_and_a_mapped_address_is_the_ipv4_address() {
        let destination = |text| parse("shop/web", PEER, text).map(|miss| miss.destination.to_string());
        assert_eq!(destination("[fd00::20]:8080").unwrap(), "[fd00::20]:8080");
        assert_eq!(
            destination("[::ffff:10.96.0.20]:8080").unwrap(),
            "10.96.0.20:8080"
        );
    }

    #[test]
    fn a_source_that_kubernetes_would_not_name_so_is_rejected() {
        assert_eq!(parse("", PEER, "10.0.0.1:80"), Err("missing_source"));
        let long_label = format!("{}/web", "a".repeat(64));
        let long_pod = format!("shop/{}", "a".repeat(254));
        let hostile = [
            "shop/web\n",
            "shop/web\0",
            "shop /web",
            "shop/wéb",
            &long_label,
            &long_pod,
        ];
        let wrong = "shop / shop/ /web -/- Shop/web shop/Web shop/web/x sh.op/web shop/web. shop/.web shop/-web shop/web- \
            shop/a..b shop/web,shop/web";
        for source in wrong.split(' ').chain(hostile) {
            assert_eq!(
                parse(source, PEER, "10.0.0.1:80"),
                Err("malformed_source"),
                "{source:?}"
            );
        }
    }

    #[test]
    fn the_longest_names_that_kubernetes_takes_are_taken() {
        let namespace = "a".repeat(MAX_LABEL);
        let subdomain = "b".repeat(MAX_SUBDOMAIN);
        let source = format!("{namespace}/{subdomain}");
        let peer = format!(
            "spiffe://{}/ns/{namespace}/sa/{subdomain}",
            "t".repeat(MAX_TRUST_DOMAIN)
        );
        assert_eq!((source.len(), peer.len()), (Miss::MAX_SOURCE, Miss::MAX_PEER));
        parse(
            &source,
            Some(&peer),
            "[0000:0000:0000:0000:0000:ffff:255.255.255.255]:65535",
        )
        .unwrap();
    }

    #[test]
    fn a_caller_without_an_identity_of_istio_is_rejected() {
        for peer in [None, Some("")] {
            assert_eq!(
                parse("shop/web", peer, "10.0.0.1:80"),
                Err("missing_peer"),
                "{peer:?}"
            );
        }
        let long = format!("spiffe://{}/ns/shop/sa/web", "t".repeat(256));
        let wrong = "spiffe:// https://td/ns/shop/sa/web SPIFFE://td/ns/shop/sa/web spiffe:///ns/shop/sa/web \
            spiffe://td/ns/shop spiffe://td/ns/shop/sa/ spiffe://td/ns//sa/web spiffe://td/sa/web/ns/shop \
            spiffe://td/ns/shop/sa/web/ spiffe://td/ns/shop/sa/web/x spiffe://u@td/ns/shop/sa/web \
            spiffe://td/ns/shop/sa/web,spiffe://td/ns/shop/sa/web spiffe://td/ns/../sa/web spiffe://td/ns/shop/sa/w%65b";
        for peer in wrong.split(' ').chain([long.as_str()]) {
            assert_eq!(
                parse("shop/web", Some(peer), "10.0.0.1:80"),
                Err("malformed_peer"),
                "{peer:?}"
            );
        }
    }

    #[test]
    fn no_caller_speaks_for_another_namespace() {
        let other = Some("spiffe://cluster.local/ns/books/sa/web");
        assert_eq!(parse("shop/web", other, "10.0.0.1:80"), Err("namespace_mismatch"));
    }

    #[test]
    fn a_destination_that_is_not_an_address_and_a_port_is_rejected() {
        assert_eq!(parse("shop/web", PEER, ""), Err("missing_destination"));
        let wrong = "- 10.0.0.1 10.0.0.1: 10.0.0.1:0 10.0.0.1:65536 10.0.0.256:80 010.0.0.1:80 10.0.0.1:80,10.0.0.2:80 \
            fd00::20:80 [fd00::20] [fd00::20%1]:80 reviews.books:80 reviews.books.svc.cluster.local:80";
        for destination in wrong.split(' ').chain(["10.0.0.1:80 "]) {
            assert_eq!(
                parse("shop/web", PEER, destination),
                Err("malformed_destination"),
                "{destination:?}"
            );
        }
    }

    #[test]
    fn every_category_is_listed() {
        let all = [
            Reject::MissingSource,
            Reject::MalformedSource(""),
            Reject::MissingPeer,
            Reject::MalformedPeer(""),
            Reject::NamespaceMismatch,
            Reject::MissingDestination,
            Reject::MalformedDestination,
        ];
        assert_eq!(all.map(|reject| reject.category()), Reject::CATEGORIES);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(source in ".*", peer in proptest::option::of(".*"), destination in ".*") {
            let _ = Miss::parse(&source, peer.as_deref(), &destination);
        }

        #[test]
        fn whatever_is_accepted_is_what_the_certificate_proves(
            source in "[a-z.A-Z/-]{0,12}", namespace in "[a-z.-]{0,4}", account in "[a-z./-]{0,4}", destination in "[0-9.:\\[\\]]{0,14}|10\\.0\\.0\\.1:80",
        ) {
            let peer = format!("spiffe://td/ns/{namespace}/sa/{account}");
            if let Ok(miss) = Miss::parse(&source, Some(&peer), &destination) {
                prop_assert_eq!(miss.namespace, namespace.as_str());
                let again = format!("{}/{}", miss.namespace, miss.pod);
                prop_assert_eq!(again.as_str(), source.as_str());
                prop_assert!(is_label(miss.namespace) && is_subdomain(miss.pod) && miss.destination.port() != 0);
            }
        }
    }
}
