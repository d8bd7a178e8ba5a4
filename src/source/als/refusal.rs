//! Why a stream is ended, and what its sender is told.
//!
//! In: the node id of a stream's first message. Out: the node's name, or a [`Refusal`] with a sentence for
//! the person who reads Envoy's log. A single bad entry is no refusal: it is counted, and the stream goes on.

use tonic::Code;

use super::wire::Malformed;
use crate::fence::miss::{is_label, is_subdomain, parse_peer};
use crate::source::als::excerpt::Excerpt;

/// The longest node id that can be well formed: type, IPv6 address, pod, namespace and a DNS domain.
const MAX_NODE_ID: usize = 1024;

/// Why a stream is ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The first message does not say who sends the stream.
    #[error("the first message must carry an identifier with a node id")]
    MissingIdentifier,
    /// The node id is not one that Istio gives.
    #[error("the node id {0} is not `<type>~<ip>~<pod>.<namespace>~<namespace>.svc.<domain>`")]
    MalformedIdentifier(String),
    /// The sender is a proxy, but not a gateway.
    #[error("the node {0} is not a gateway (`router~…`); only the fallback gateway may report misses here")]
    NotGateway(String),
    /// The sender is a gateway of another namespace.
    #[error(
        "the gateway {node} is not in the namespace {expected}; only the fallback gateway may report misses here"
    )]
    ForeignNamespace {
        /// The node id, escaped and cut.
        node: String,
        /// The only namespace with gateways that may report.
        expected: String,
    },
    /// The sender is a proxy, but not a sidecar.
    #[error("the node {0} is not a sidecar (`sidecar~…`); only sidecars may report their own calls here")]
    NotSidecar(String),
    /// The sender showed no certificate.
    #[error("the sender has no identity: it must come by mutual TLS, through the sidecar of the controller")]
    MissingPeer,
    /// The sender's certificate is of another namespace than its node id.
    #[error("the node {0} is not in the namespace that the sender's certificate proves")]
    PeerMismatch(String),
    /// Nothing came after the stream was opened.
    #[error("no message came within {0} s of opening the stream")]
    Idle(u64),
    /// A message is not protobuf.
    #[error("{0}")]
    MalformedMessage(#[from] Malformed),
    /// gRPC itself could not read the stream: a message over the limit, a bad frame, compression.
    #[error("{message}")]
    Unreadable {
        /// What tonic answers.
        code: Code,
        /// What tonic says.
        message: String,
    },
}

impl Refusal {
    /// Every value that [`Refusal::category`] can return.
    pub const CATEGORIES: [&'static str; 10] = [
        "missing_identifier",
        "malformed_identifier",
        "not_gateway",
        "foreign_namespace",
        "not_sidecar",
        "missing_peer",
        "peer_mismatch",
        "idle",
        "malformed_message",
        "unreadable",
    ];

    /// A bounded name for the kind of this refusal: metric label and log field.
    pub fn category(&self) -> &'static str {
        match self {
            Self::MissingIdentifier => "missing_identifier",
            Self::MalformedIdentifier(_) => "malformed_identifier",
            Self::NotGateway(_) => "not_gateway",
            Self::ForeignNamespace { .. } => "foreign_namespace",
            Self::NotSidecar(_) => "not_sidecar",
            Self::MissingPeer => "missing_peer",
            Self::PeerMismatch(_) => "peer_mismatch",
            Self::Idle(_) => "idle",
            Self::MalformedMessage(_) => "malformed_message",
            Self::Unreadable { .. } => "unreadable",
        }
    }

    /// The gRPC status code that the sender gets.
    pub fn code(&self) -> Code {
        match self {
            Self::MissingIdentifier | Self::MalformedIdentifier(_) | Self::MalformedMessage(_) => {
                Code::InvalidArgument
            }
            Self::NotGateway(_)
            | Self::ForeignNamespace { .. }
            | Self::NotSidecar(_)
            | Self::PeerMismatch(_) => Code::PermissionDenied,
            Self::MissingPeer => Code::Unauthenticated,
            Self::Idle(_) => Code::DeadlineExceeded,
            Self::Unreadable { code, .. } => *code,
        }
    }
}

impl From<Refusal> for tonic::Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

/// A node id, taken apart.
struct Node<'a> {
    text: &'a str,
    kind: &'a str,
    pod: &'a str,
    namespace: &'a str,
}

/// Checks that a node id is that of a gateway in `system_namespace`, and returns it.
pub(super) fn check_gateway<'a>(id: &'a [u8], system_namespace: &str) -> Result<&'a str, Refusal> {
    let node = read_node(id)?;
    if node.kind != "router" {
        return Err(Refusal::NotGateway(Excerpt(id).to_string()));
    }
    if node.namespace != system_namespace {
        return Err(Refusal::ForeignNamespace {
            node: Excerpt(id).to_string(),
            expected: system_namespace.to_owned(),
        });
    }
    Ok(node.text)
}

/// Checks that a node id is that of a sidecar in the namespace that `peer` proves, and returns it and
/// `namespace/pod`.
pub(super) fn check_sidecar<'a>(id: &'a [u8], peer: Option<&str>) -> Result<(&'a str, String), Refusal> {
    let node = read_node(id)?;
    if node.kind != "sidecar" {
        return Err(Refusal::NotSidecar(Excerpt(id).to_string()));
    }
    let peer = peer.ok_or(Refusal::MissingPeer)?;
    let proven = parse_peer(peer).map_err(|_| Refusal::MissingPeer)?;
    if proven != node.namespace {
        return Err(Refusal::PeerMismatch(Excerpt(id).to_string()));
    }
    Ok((node.text, format!("{}/{}", node.namespace, node.pod)))
}

/// The URI of the certificate in an `x-forwarded-client-cert` that our own sidecar wrote. A sidecar that
/// reports its calls sends none of its own; with one there are several, and some of them are only what the
/// sender says.
/// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-client-cert>
pub(super) fn peer(header: &str) -> Option<&str> {
    let fields = header.split(';').filter_map(|field| field.split_once('='));
    let mut uris = fields
        .filter(|(name, _)| *name == "URI")
        .map(|(_, uri)| uri.trim_matches('"'));
    let uri = uris.next()?;
    (uris.next().is_none() && !header.contains(',')).then_some(uri)
}

/// Istio's form is
/// `router~10.0.0.7~servicefence-fallback-5c9f.servicefence-system~servicefence-system.svc.cluster.local`.
/// The domain behind `.svc.` is the mesh's own choice.
fn read_node(id: &[u8]) -> Result<Node<'_>, Refusal> {
    let malformed = || Refusal::MalformedIdentifier(Excerpt(id).to_string());
    if id.len() > MAX_NODE_ID {
        return Err(malformed());
    }
    let text = str::from_utf8(id).map_err(|_| malformed())?;
    let mut fields = text.split('~');
    let (Some(kind), Some(ip), Some(workload), Some(domain), None) = (
        fields.next(),
        fields.next(),
        fields.next(),
        fields.next(),
        fields.next(),
    ) else {
        return Err(malformed());
    };
    // A pod's name may have dots, a namespace's may not.
    let (pod, namespace) = workload.rsplit_once('.').ok_or_else(malformed)?;
    let domain_fits = domain
        .strip_prefix(namespace)
        .and_then(|rest| rest.strip_prefix(".svc."))
        .is_some_and(is_subdomain);
    if ip.parse::<std::net::IpAddr>().is_err() || !is_subdomain(pod) || !is_label(namespace) || !domain_fits {
        return Err(malformed());
    }
    Ok(Node {
        text,
        kind,
        pod,
        namespace,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn category(id: &[u8]) -> &'static str {
        check_gateway(id, "servicefence-system").map_or_else(|refusal| refusal.category(), |_| "accepted")
    }

    #[test]
    fn a_sidecar_may_report_for_the_namespace_that_its_certificate_proves() {
        let web = b"sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local";
        let said = |id: &[u8], peer| {
            check_sidecar(id, peer).map_or_else(|refusal| refusal.category().to_owned(), |(_, pod)| pod)
        };
        assert_eq!(said(web, Some("spiffe://td/ns/shop/sa/any")), "shop/web-1");
        assert_eq!(said(web, Some("spiffe://td/ns/books/sa/any")), "peer_mismatch");
        for peer in [
            None,
            Some(""),
            Some("spiffe://td/ns/"),
            Some("https://td/ns/shop/sa/any"),
        ] {
            assert_eq!(said(web, peer), "missing_peer", "{peer:?}");
        }
        let gateway = b"router~10.0.0.7~web-1.shop~shop.svc.cluster.local";
        assert_eq!(said(gateway, Some("spiffe://td/ns/shop/sa/any")), "not_sidecar");
    }

    #[test]
    fn only_the_certificate_that_our_own_sidecar_saw_counts() {
        let own = "By=spiffe://td/ns/s/sa/s;Hash=ab;Subject=\"\";URI=spiffe://td/ns/shop/sa/web";
        assert_eq!(peer(own), Some("spiffe://td/ns/shop/sa/web"));
        let forged = format!("By=x;URI=spiffe://td/ns/books/sa/x,{own};DNS=a.example");
        assert_eq!(peer(&forged), None);
        assert_eq!(peer("URI=spiffe://td/ns/a/sa/x;URI=spiffe://td/ns/b/sa/y"), None);
        assert_eq!(peer("By=x;Hash=ab"), None);
    }

    #[test]
    fn a_gateway_of_the_system_namespace_may_report() {
        for id in [
            "router~10.0.0.7~servicefence-fallback-5c9f.servicefence-system~servicefence-system.svc.cluster.local",
            "router~fd00::7~gateway.with.dots.servicefence-system~servicefence-system.svc.mesh.example",
        ] {
            assert_eq!(category(id.as_bytes()), "accepted", "{id}");
        }
    }

    #[test]
    fn other_proxies_and_other_namespaces_may_not() {
        let sidecar = "sidecar~10.0.0.7~web-1.servicefence-system~servicefence-system.svc.cluster.local";
        assert_eq!(category(sidecar.as_bytes()), "not_gateway");
        let foreign = "router~10.0.0.7~ingress.istio-system~istio-system.svc.cluster.local";
        assert_eq!(category(foreign.as_bytes()), "foreign_namespace");
    }

    #[test]
    fn a_node_id_of_another_form_is_malformed() {
        let long = format!(
            "router~10.0.0.7~gw.servicefence-system~servicefence-system.svc.{}",
            "a.".repeat(MAX_NODE_ID)
        );
        for id in [
            "",
            "router",
            "router~~~",
            "router~10.0.0.7~gw.servicefence-system",
            "router~10.0.0~gw.servicefence-system~servicefence-system.svc.cluster.local",
            "router~10.0.0.7~gw~servicefence-system.svc.cluster.local",
            "router~10.0.0.7~.servicefence-system~servicefence-system.svc.cluster.local",
            "router~10.0.0.7~gw.servicefence-system~other.svc.cluster.local",
            "router~10.0.0.7~gw.servicefence-system~servicefence-system.svc.",
            "router~10.0.0.7~gw.servicefence-system~servicefence-system.svc.cluster.local~x",
            &long,
        ] {
            assert_eq!(category(id.as_bytes()), "malformed_identifier", "{id}");
        }
        assert_eq!(
            category(b"router~10.0.0.7~\xff.servicefence-system~x"),
            "malformed_identifier"
        );
    }

    #[test]
    fn every_category_is_listed_and_every_sentence_stays_short() {
        let hostile = vec![0xff; 100_000];
        let all = [
            Refusal::MissingIdentifier,
            check_gateway(&hostile, "x").unwrap_err(),
            Refusal::NotGateway(String::new()),
            Refusal::ForeignNamespace {
                node: String::new(),
                expected: String::new(),
            },
            Refusal::NotSidecar(String::new()),
            Refusal::MissingPeer,
            Refusal::PeerMismatch(String::new()),
            Refusal::Idle(30),
            Refusal::MalformedMessage(Malformed::Truncated),
            Refusal::Unreadable {
                code: Code::Internal,
                message: String::new(),
            },
        ];
        assert_eq!(all.each_ref().map(Refusal::category), Refusal::CATEGORIES);
        assert!(all.iter().all(|refusal| refusal.to_string().len() < 500));
    }
}
