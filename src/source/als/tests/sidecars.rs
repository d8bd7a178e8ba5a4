//! Sidecars that report the calls of their own pod.

use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address, socket_address};

use super::*;

const WEB: &str = "sidecar~10.244.2.31~web-1.shop~shop.svc.cluster.local";
const SHOP: &str = "By=spiffe://td/ns/s/sa/s;Hash=ab;Subject=\"\";URI=spiffe://td/ns/shop/sa/web";

/// An entry as the sidecar writes it: whatever else it says, the dialled address counts.
fn dialled(ip: &str, port: u32) -> HttpAccessLogEntry {
    let mut entry = sample::http_miss("books/forged", "forged", "10.96.0.99:1");
    let socket = SocketAddress {
        address: ip.to_owned(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    entry
        .common_properties
        .get_or_insert_default()
        .downstream_local_address = Some(Address {
        address: Some(address::Address::SocketAddress(socket)),
    });
    entry
}

async fn sidecar(
    intake: &Harness,
    node: &str,
    certificate: &str,
    entries: Vec<HttpAccessLogEntry>,
) -> Sender {
    let sender = Sender::with_certificate(intake.connect().await, certificate);
    let first = sample::message(Some(sample::identifier(node)), entries);
    sender.send(first).await;
    sender
}

#[tokio::test]
async fn a_sidecar_reports_the_addresses_that_its_own_pod_dials() {
    let intake = Harness::with(Settings::of_sidecars()).await;
    let entries = vec![
        dialled("10.96.0.20", 8080),
        dialled("10.96.0.20", 8080),
        dialled("fd00::7", 443),
    ];
    let stream = sidecar(&intake, WEB, SHOP, entries).await;
    stream.entries(vec![dialled("10.96.0.20", 8080)]).await;
    stream.finish().await.unwrap();
    assert_eq!(
        intake.seen(),
        ["shop/web-1 10.96.0.20:8080", "shop/web-1 [fd00::7]:443"]
    );
    assert_eq!((intake.entries("new"), intake.entries("known")), (2, 2));
}

#[tokio::test]
async fn an_entry_without_an_address_costs_no_other() {
    let intake = Harness::with(Settings::of_sidecars()).await;
    let mut bare = dialled("10.96.0.20", 8080);
    bare.common_properties = None;
    let nonsense = dialled(&"9".repeat(5000), 1);
    let entries = vec![
        bare,
        nonsense,
        dialled("not an address", 80),
        dialled("10.96.0.20", 70_000),
        dialled("10.96.0.20", 8080),
    ];
    let stream = sidecar(&intake, WEB, SHOP, entries).await;
    stream.finish().await.unwrap();
    assert_eq!(intake.seen(), ["shop/web-1 10.96.0.20:8080"]);
    assert_eq!((intake.entries("new"), intake.entries("rejected")), (1, 4));
}

#[tokio::test]
async fn a_sender_reports_for_the_namespace_of_its_certificate_only() {
    let evil = SHOP.replace("/shop/", "/evil/");
    let forged = format!(
        "URI=spiffe://td/ns/shop/sa/web,{}",
        SHOP.replace("/shop/", "/evil/")
    );
    for (node, certificate, refused) in [
        (WEB, "", "missing_peer"),
        (WEB, "By=x;Hash=ab", "missing_peer"),
        (WEB, forged.as_str(), "missing_peer"),
        (WEB, evil.as_str(), "peer_mismatch"),
        (sample::NODE, SHOP, "not_sidecar"),
        ("sidecar~x", SHOP, "malformed_identifier"),
    ] {
        let intake = Harness::with(Settings::of_sidecars()).await;
        let stream = sidecar(&intake, node, certificate, vec![dialled("10.96.0.20", 8080)]).await;
        stream.answer().await.unwrap_err();
        assert_eq!(
            intake.metric("streams_refused_total", refused),
            1,
            "{certificate}"
        );
        assert!(intake.seen().is_empty());
    }
}
