//! The reader against Envoy's full message types: what they encode, it reads; what is broken is an error.

use envoy_types::pb::envoy::config::core::v3::RequestMethod;
use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::CertificateProperties;
use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::SubjectAltName;
use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::subject_alt_name::San;
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, HttpAccessLogEntry, HttpRequestProperties, TcpAccessLogEntry, TlsProperties,
};
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    LogEntries, TcpAccessLogEntries,
};
use proptest::prelude::*;
use prost::Message;

use super::super::sample;
use super::*;

/// What the reader must say, computed from the full message.
fn expected(entry: &HttpAccessLogEntry) -> Entry<'_> {
    let request = entry.request.as_ref();
    let header = |name| match request.and_then(|request| request.request_headers.get(name)) {
        Some(value) => Text::Given(value.as_bytes()),
        None => Text::Absent,
    };
    let certificate = (entry.common_properties.as_ref())
        .and_then(|common| common.tls_properties.as_ref())
        .and_then(|tls| tls.peer_certificate_properties.as_ref());
    let mut uris: Vec<_> = certificate
        .iter()
        .flat_map(|certificate| &certificate.subject_alt_name)
        .filter_map(|name| match &name.san {
            Some(San::Uri(uri)) => Some(uri.as_bytes()),
            _ => None,
        })
        .collect();
    uris.dedup();
    Entry {
        source: header(SOURCE_HEADER),
        original_destination: header(DESTINATION_HEADER),
        peer: match uris[..] {
            [] => Text::Absent,
            [uri] => Text::Given(uri),
            _ => Text::Conflicting,
        },
        authority: request.map_or(&[], |request| request.authority.as_bytes()),
        connect: request.is_some_and(|request| request.request_method() == RequestMethod::Connect),
    }
}

fn collect(message: &[u8]) -> Result<Vec<Part<'_>>, Malformed> {
    let mut seen = Vec::new();
    parts(message, |part| seen.push(part))?;
    Ok(seen)
}

#[test]
fn a_message_of_a_gateway_is_read_as_it_was_written() {
    let entries = vec![
        sample::http_miss("shop/web-1", "web", "10.96.0.20:8080"),
        sample::tunnel_miss("shop/web-2", "web", "10.96.0.22:9000"),
    ];
    let bytes = sample::message(Some(sample::identifier(sample::NODE)), entries.clone()).encode_to_vec();
    assert!(
        bytes.len() > 61_000,
        "the identifier is as large as Istio's: {}",
        bytes.len()
    );

    assert_eq!(node_id(&bytes).unwrap(), Some(sample::NODE.as_bytes()));
    let encoded: Vec<_> = entries.iter().map(Message::encode_to_vec).collect();
    assert_eq!(
        collect(&bytes).unwrap(),
        [Part::Http(&encoded[0]), Part::Http(&encoded[1])]
    );

    let http = Entry::read(&encoded[0]).unwrap();
    assert_eq!(http, expected(&entries[0]));
    assert_eq!(http.source, Text::Given(b"shop/web-1"));
    assert_eq!(http.peer, Text::Given(b"spiffe://cluster.local/ns/shop/sa/web"));
    assert_eq!(http.destination(), Text::Given(b"10.96.0.20:8080"));

    let tunnel = Entry::read(&encoded[1]).unwrap();
    assert_eq!(tunnel, expected(&entries[1]));
    assert_eq!(tunnel.destination(), Text::Given(b"10.96.0.22:9000"));
}

#[test]
fn an_entry_has_the_size_that_the_benches_claim() {
    let size = sample::http_miss("shop/web-7d4b9-x2x1z", "web", "10.96.0.20:8080").encoded_len();
    assert!((900..1200).contains(&size), "{size}");
}

#[test]
fn tcp_entries_are_told_apart() {
    let log_entry = vec![
        TcpAccessLogEntry {
            common_properties: None,
            connection_properties: None
        };
        3
    ];
    let message = StreamAccessLogsMessage {
        identifier: None,
        log_entries: Some(LogEntries::TcpLogs(TcpAccessLogEntries { log_entry })),
    };
    assert_eq!(collect(&message.encode_to_vec()).unwrap(), [Part::Tcp(&[]); 3]);
}

#[test]
fn an_application_cannot_choose_the_destination_by_sending_a_connect_of_its_own() {
    let mut entry = sample::http_miss("shop/web", "web", "10.96.0.20:8080");
    let request = entry.request.as_mut().unwrap();
    request.request_method = RequestMethod::Connect.into();
    request.authority = "10.96.0.99:443".to_owned();
    let bytes = entry.encode_to_vec();
    assert_eq!(
        Entry::read(&bytes).unwrap().destination(),
        Text::Given(b"10.96.0.20:8080")
    );
}

#[test]
fn the_authority_of_an_ordinary_request_is_no_destination() {
    let mut entry = sample::http_miss("shop/web", "web", "10.96.0.20:8080");
    entry
        .request
        .as_mut()
        .unwrap()
        .request_headers
        .remove(DESTINATION_HEADER);
    let bytes = entry.encode_to_vec();
    assert_eq!(Entry::read(&bytes).unwrap().destination(), Text::Absent);
}

#[test]
fn absent_fields_are_absent_and_not_an_error() {
    assert_eq!(Entry::read(&[]).unwrap(), Entry::default());
    assert_eq!(collect(&[]).unwrap(), []);
    assert_eq!(node_id(&[]).unwrap(), None);
    let no_tls = HttpAccessLogEntry {
        common_properties: Some(AccessLogCommon::default()),
        request: Some(HttpRequestProperties::default()),
        ..HttpAccessLogEntry::default()
    };
    assert_eq!(Entry::read(&no_tls.encode_to_vec()).unwrap(), Entry::default());
}

#[test]
fn a_header_given_twice_counts_only_if_both_say_the_same() {
    let entry = |values: &[&str]| {
        // Encoded one by one: a map in memory cannot hold a key twice. Repeated sub-messages are merged.
        let part = |value: &str| HttpAccessLogEntry {
            request: Some(HttpRequestProperties {
                request_headers: [(SOURCE_HEADER.to_owned(), value.to_owned())].into(),
                ..HttpRequestProperties::default()
            }),
            ..HttpAccessLogEntry::default()
        };
        values
            .iter()
            .flat_map(|value| part(value).encode_to_vec())
            .collect::<Vec<u8>>()
    };
    assert_eq!(
        Entry::read(&entry(&["shop/web"; 2])).unwrap().source,
        Text::Given(b"shop/web")
    );
    assert_eq!(
        Entry::read(&entry(&["shop/web", "shop/api", "shop/web"]))
            .unwrap()
            .source,
        Text::Conflicting
    );
}

#[test]
fn ten_thousand_headers_are_read_through() {
    let mut entry = sample::http_miss("shop/web", "web", "10.96.0.20:8080");
    let headers = &mut entry.request.as_mut().unwrap().request_headers;
    headers.extend((0..10_000).map(|n| (format!("x-header-{n}"), "v".repeat(20))));
    let bytes = entry.encode_to_vec();
    assert_eq!(Entry::read(&bytes).unwrap(), expected(&entry));
}

#[test]
fn every_cut_of_a_message_is_read_without_panic_and_a_cut_entry_is_an_error() {
    let entry = sample::http_miss("shop/web", "web", "10.96.0.20:8080").encode_to_vec();
    let message = sample::message(
        None,
        vec![sample::http_miss("shop/web", "web", "10.96.0.20:8080")],
    )
    .encode_to_vec();
    for cut in 1..message.len() {
        assert!(parts(&message[..cut], |_| ()).is_err(), "cut at {cut}");
    }
    // An entry may be cut between two of its fields. It is then a shorter entry, not a broken one.
    let whole_fields = (0..entry.len())
        .filter(|cut| Entry::read(&entry[..*cut]).is_ok())
        .count();
    assert!(whole_fields <= 4, "{whole_fields}");
}

#[test]
fn fields_that_are_unknown_or_of_another_type_are_skipped() {
    let entry = sample::http_miss("shop/web", "web", "10.96.0.20:8080");
    let known = entry.encode_to_vec();
    let unknown: &[&[u8]] = &[
        &[0xf8, 0x07, 0x96, 0x01],                               // field 127, a number
        &[0xfa, 0x07, 0x02, 0xff, 0xff],                         // field 127, bytes
        &[0xf9, 0x07, 1, 2, 3, 4, 5, 6, 7, 8],                   // field 127, 64 bit
        &[0xfd, 0x07, 1, 2, 3, 4],                               // field 127, 32 bit
        &[0xfb, 0x07, 0x08, 0x01, 0x0a, 0x01, 0x00, 0xfc, 0x07], // field 127, a group
        &[0x08, 0x01],                                           // common_properties as a number
    ];
    for extra in unknown {
        for bytes in [[extra, &known[..]].concat(), [&known[..], extra].concat()] {
            assert_eq!(Entry::read(&bytes).unwrap(), expected(&entry), "{extra:?}");
        }
    }
}

#[test]
fn broken_fields_are_errors() {
    let deep_group = [0x0b; 10_000];
    let broken: &[&[u8]] = &[
        &[0x00],                                                             // field 0
        &[0x0a],                                                             // no length
        &[0x0a, 0x05, 0x00],                                                 // too short
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], // a length of 2^64 - 1
        &[
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
        ], // a number without end
        &[0x0e],                                                             // no such wire type
        &[0x0c],                                                             // a group ends that never began
        &deep_group,                                                         // groups in groups
    ];
    for bytes in broken {
        assert!(Entry::read(bytes).is_err(), "{bytes:?}");
        assert!(parts(bytes, |_| ()).is_err(), "{bytes:?}");
        assert!(node_id(bytes).is_err(), "{bytes:?}");
    }
}

prop_compose! {
    fn a_name()(kind in 0..3, text in "(spiffe://[a-z]{1,5})|.{0,8}") -> SubjectAltName {
        SubjectAltName { san: match kind { 0 => None, 1 => Some(San::Uri(text)), _ => Some(San::Dns(text)) } }
    }
}

prop_compose! {
    fn a_request()(
        method in 0..12, authority in ".{0,12}", path in ".{0,40}", request_headers in proptest::collection::hash_map(
            prop_oneof![Just(SOURCE_HEADER.to_owned()), Just(DESTINATION_HEADER.to_owned()), ".{0,9}"], ".{0,20}", 0..6,
        ), bytes in any::<u64>(),
    ) -> HttpRequestProperties {
        HttpRequestProperties {
            request_method: method, authority, path, request_headers, request_headers_bytes: bytes, ..HttpRequestProperties::default()
        }
    }
}

prop_compose! {
    fn an_entry()(
        names in proptest::option::of(proptest::collection::vec(a_name(), 0..4)),
        others in proptest::collection::vec(a_name(), 0..2),
        request in proptest::option::of(a_request()),
        sample_rate in any::<f64>(), route_name in ".{0,20}", has_tls in any::<bool>(), has_common in any::<bool>(),
    ) -> HttpAccessLogEntry {
        let certificate = |subject_alt_name| CertificateProperties { subject_alt_name, ..CertificateProperties::default() };
        let tls = TlsProperties {
            local_certificate_properties: Some(certificate(others)),
            peer_certificate_properties: names.map(certificate),
            ..TlsProperties::default()
        };
        let common = AccessLogCommon { sample_rate, route_name, tls_properties: has_tls.then_some(tls), ..AccessLogCommon::default() };
        HttpAccessLogEntry { common_properties: has_common.then_some(common), request, ..HttpAccessLogEntry::default() }
    }
}

proptest! {
    #[test]
    fn any_entry_that_envoy_can_write_is_read_alike(entries in proptest::collection::vec(an_entry(), 0..5), node in ".{0,30}") {
        let bytes = sample::message(Some(sample::identifier(&node)), entries.clone()).encode_to_vec();
        let read = node_id(&bytes).unwrap();
        prop_assert_eq!(read.unwrap_or_default(), node.as_bytes());
        let parts = collect(&bytes).unwrap();
        prop_assert_eq!(parts.len(), entries.len());
        for (part, entry) in parts.iter().zip(&entries) {
            let Part::Http(bytes) = part else { panic!("{part:?}") };
            prop_assert_eq!(Entry::read(bytes).unwrap(), expected(entry));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = node_id(&bytes);
        let _ = parts(&bytes, |part| if let Part::Http(entry) = part { let _ = Entry::read(entry); });
        let _ = Entry::read(&bytes).map(|entry| entry.destination() == Text::Absent);
    }

    /// Nearly valid bytes reach deeper than arbitrary ones.
    #[test]
    fn damaged_messages_never_panic(entry in an_entry(), damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = sample::message(None, vec![entry]).encode_to_vec();
        for (index, value) in damage {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        let _ = parts(&bytes, |part| if let Part::Http(entry) = part { let _ = Entry::read(entry); });
    }
}
