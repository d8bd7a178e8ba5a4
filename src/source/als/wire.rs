//! The few fields of an access-log message that the intake needs, read in place.
//!
//! In: the bytes of one `envoy.service.accesslog.v3.StreamAccessLogsMessage`. Out: [`Part`]s and [`Entry`]s
//! that borrow from them. Invariants: nothing is copied or allocated, no input makes the reader panic, and a
//! field that is not needed costs one skip whatever is inside.
//!
//! Why not generated messages: a whole entry of `envoy-types` costs microseconds and about 2 KB of heap, and
//! a derived message of just these fields still allocates for each name and each header. The tests prove
//! field by field that both read the same.
//!
//! Two rules of protobuf are kept (a message that occurs twice is merged, unknown fields are skipped), one is
//! stricter: a header or an identity that is given twice with different values is [`Text::Conflicting`],
//! where protobuf would take the last. Envoy writes each of them once, so two values mean that somebody
//! forges.

use std::io::Write as _;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// The request header in which the caller's proxy says which pod it serves, as `namespace/pod`.
pub const SOURCE_HEADER: &str = "x-servicefence-source";
/// The request header in which the caller's proxy says where the connection was going, as `ip:port`.
pub const DESTINATION_HEADER: &str = "x-servicefence-original-dst";

/// `envoy.config.core.v3.RequestMethod.CONNECT`
const METHOD_CONNECT: u64 = 6;

/// The bytes are not a protobuf message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A field key, a number or a group is broken.
    #[error("not a protobuf message: {0}")]
    Field(#[from] prost::DecodeError),
    /// A field claims to be longer than the message.
    #[error("not a protobuf message: a field is longer than what is left of the message")]
    Truncated,
}

/// One entry of a `StreamAccessLogsMessage`, not yet read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// One HTTP entry. [`Entry::read`] reads it.
    Http(&'a [u8]),
    /// One TCP entry.
    Tcp(&'a [u8]),
}

/// A text that may be absent, and that a hostile sender may give more than once.
///
/// It is not checked to be UTF-8: a known call is found by its bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Text<'a> {
    /// Not there.
    #[default]
    Absent,
    /// There, with this value.
    Given(&'a [u8]),
    /// There several times, with different values.
    Conflicting,
}

/// What one HTTP entry says about a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The value of [`SOURCE_HEADER`].
    pub source: Text<'a>,
    /// The URI name of the caller's certificate.
    pub peer: Text<'a>,
    /// The value of [`DESTINATION_HEADER`].
    pub original_destination: Text<'a>,
    /// The authority of the request; empty when there is none.
    pub authority: &'a [u8],
    /// The request opened a tunnel.
    pub connect: bool,
}

impl<'a> Text<'a> {
    fn add(&mut self, value: &'a [u8]) {
        *self = match *self {
            Self::Absent => Self::Given(value),
            Self::Given(first) if first == value => Self::Given(first),
            Self::Given(_) | Self::Conflicting => Self::Conflicting,
        };
    }
}

impl<'a> Entry<'a> {
    /// Reads one HTTP entry (`envoy.data.accesslog.v3.HTTPAccessLogEntry`).
    pub fn read(entry: &'a [u8]) -> Result<Self, Malformed> {
        let mut read = Self::default();
        for field in Fields(entry) {
            match field? {
                (1, Value::Bytes(common)) => read.common_properties(common)?,
                (3, Value::Bytes(request)) => read.request(request)?,
                _ => {}
            }
        }
        Ok(read)
    }

    /// Where the call was going: what the caller's proxy says, and for a tunnel the address that it asks for.
    ///
    /// The header goes first. The proxy overwrites it, while an application may send a CONNECT with any
    /// authority.
    pub fn destination(&self) -> Text<'a> {
        match self.original_destination {
            Text::Absent if self.connect && !self.authority.is_empty() => Text::Given(self.authority),
            header => header,
        }
    }

    fn common_properties(&mut self, common: &'a [u8]) -> Result<(), Malformed> {
        for field in Fields(common) {
            if let (4, Value::Bytes(tls)) = field? {
                self.tls_properties(tls)?;
            }
        }
        Ok(())
    }

    fn tls_properties(&mut self, tls: &'a [u8]) -> Result<(), Malformed> {
        for field in Fields(tls) {
            let (5, Value::Bytes(certificate)) = field? else {
                continue;
            };
            for field in Fields(certificate) {
                let (1, Value::Bytes(name)) = field? else { continue };
                for field in Fields(name) {
                    if let (1, Value::Bytes(uri)) = field? {
                        self.peer.add(uri);
                    }
                }
            }
        }
        Ok(())
    }

    fn request(&mut self, request: &'a [u8]) -> Result<(), Malformed> {
        for field in Fields(request) {
            match field? {
                (1, Value::Varint(method)) => self.connect = method == METHOD_CONNECT,
                (3, Value::Bytes(authority)) => self.authority = authority,
                (13, Value::Bytes(header)) => self.header(header)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn header(&mut self, header: &'a [u8]) -> Result<(), Malformed> {
        let (mut name, mut value): (&[u8], &[u8]) = (&[], &[]);
        for field in Fields(header) {
            match field? {
                (1, Value::Bytes(bytes)) => name = bytes,
                (2, Value::Bytes(bytes)) => value = bytes,
                _ => {}
            }
        }
        // Envoy writes header names in lower case.
        if name == SOURCE_HEADER.as_bytes() {
            self.source.add(value);
        } else if name == DESTINATION_HEADER.as_bytes() {
            self.original_destination.add(value);
        }
        Ok(())
    }
}

/// A mapped IPv6 address, spelled out.
const LONGEST_ADDRESS: usize = "0000:0000:0000:0000:0000:ffff:255.255.255.255".len();

/// Writes the address that the caller dialled, as `ip:port`: `common_properties.downstream_local_address` of
/// an entry that a sidecar wrote about its own pod. False: the entry has none.
pub fn write_local_address(entry: &[u8], text: &mut Vec<u8>) -> Result<bool, Malformed> {
    let (mut address, mut port): (&[u8], u64) = (&[], 0);
    for common in Fields(entry) {
        let (1, Value::Bytes(common)) = common? else {
            continue;
        };
        for local in Fields(common) {
            let (3, Value::Bytes(local)) = local? else {
                continue;
            };
            for socket in Fields(local) {
                let (1, Value::Bytes(socket)) = socket? else {
                    continue;
                };
                for field in Fields(socket) {
                    match field? {
                        (2, Value::Bytes(bytes)) => address = bytes,
                        (3, Value::Varint(number)) => port = number,
                        _ => {}
                    }
                }
            }
        }
    }
    text.clear();
    if address.is_empty() || address.len() > LONGEST_ADDRESS {
        return Ok(false);
    }
    let is_ipv6 = address.contains(&b':');
    text.extend_from_slice(if is_ipv6 { b"[" } else { b"" });
    text.extend_from_slice(address);
    text.extend_from_slice(if is_ipv6 { b"]:" } else { b":" });
    // Writing into a vector cannot fail.
    let _ = write!(text, "{port}");
    Ok(true)
}

/// Calls `each` for every entry of a message. Entries that stand before the first malformed byte are still
/// seen.
pub fn parts<'a>(message: &'a [u8], mut each: impl FnMut(Part<'a>)) -> Result<(), Malformed> {
    for field in Fields(message) {
        let (entries, part): (_, fn(&'a [u8]) -> Part<'a>) = match field? {
            (2, Value::Bytes(entries)) => (entries, Part::Http),
            (3, Value::Bytes(entries)) => (entries, Part::Tcp),
            _ => continue,
        };
        for field in Fields(entries) {
            if let (1, Value::Bytes(entry)) = field? {
                each(part(entry));
            }
        }
    }
    Ok(())
}

/// The node id inside a message's identifier, if the message has one.
pub fn node_id(message: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let mut id = None;
    for field in Fields(message) {
        let (1, Value::Bytes(identifier)) = field? else {
            continue;
        };
        for field in Fields(identifier) {
            let (1, Value::Bytes(node)) = field? else { continue };
            for field in Fields(node) {
                if let (1, Value::Bytes(text)) = field? {
                    id = Some(text);
                }
            }
        }
    }
    Ok(id)
}

/// The fields of one message, in the order in which they were sent. It ends at the first error.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Fixed-width numbers and groups: none of them is needed here.
    Skipped,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    #[inline]
    fn field(&mut self) -> Result<(u32, Value<'a>), Malformed> {
        let (tag, wire_type) = decode_key(&mut self.0)?;
        let value = match wire_type {
            WireType::Varint => Value::Varint(decode_varint(&mut self.0)?),
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut self.0)?).unwrap_or(usize::MAX);
                let Some((bytes, rest)) = self.0.split_at_checked(length) else {
                    return Err(Malformed::Truncated);
                };
                self.0 = rest;
                Value::Bytes(bytes)
            }
            other => {
                skip_field(other, tag, &mut self.0, DecodeContext::default())?;
                Value::Skipped
            }
        };
        Ok((tag, value))
    }
}

#[cfg(test)]
mod tests;
