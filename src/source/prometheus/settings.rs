//! What the operator decides about the server.

use std::path::PathBuf;
use std::str::FromStr;

use axum::http::{HeaderName, HeaderValue};
use jiff::SignedDuration;

/// Which server is read and how. The flags say what each of it means.
#[allow(missing_docs, reason = "the flags say it")]
#[derive(Clone, Debug)]
pub struct Settings {
    pub url: String,
    pub interval: SignedDuration,
    pub backfill: SignedDuration,
    pub timeout: SignedDuration,
    pub matchers: Vec<Matcher>,
    pub namespace_label: String,
    pub headers: Vec<Header>,
    pub token_file: Option<PathBuf>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

/// A label matcher of PromQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher(String);

impl Matcher {
    /// As it is written in a query.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Matcher {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a label matcher: write cluster=\"east\", with one of = != =~ !~");
        let at = text.find(['=', '!']).ok_or_else(wrong)?;
        let (name, rest) = text.split_at(at);
        let value = ["=~", "!~", "!=", "="]
            .into_iter()
            .find_map(|operator| rest.strip_prefix(operator))
            .and_then(|value| value.strip_prefix('"')?.strip_suffix('"'))
            .ok_or_else(wrong)?;
        let mut escaped = false;
        let closes = value.chars().any(|char| {
            let ends = (char == '"' && !escaped) || char == '\n';
            escaped = char == '\\' && !escaped;
            ends
        });
        if is_label_name(name) && !closes && !escaped {
            Ok(Self(text.to_owned()))
        } else {
            Err(wrong())
        }
    }
}

/// A header of every query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
}

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (name, value) = text.split_once('=')?;
            let mut value: HeaderValue = value.parse().ok()?;
            value.set_sensitive(true);
            Some(Self {
                name: name.parse().ok()?,
                value,
            })
        };
        parse().ok_or_else(|| "a header is written as name=value, for example X-Scope-OrgID=team".to_owned())
    }
}

/// Whether `text` can name a label:
/// <https://prometheus.io/docs/concepts/data_model/#metric-names-and-labels>.
pub fn is_label_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    let begins = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    begins && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matchers_are_refused_that_would_change_the_query() {
        for good in [r#"cluster="east""#, r#"a=~"x|y""#, r#"_b!~"\"q\"""#, r#"c!="""#] {
            assert_eq!(good.parse::<Matcher>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "cluster",
            "cluster=east",
            r#"cluster="a"} or up{x="b""#,
            r#"1a="b""#,
            r#"a="b\""#,
            r#"a=="b""#,
            r#"a-b="c""#,
        ] {
            let error = bad.parse::<Matcher>().unwrap_err();
            assert!(
                error.contains("is not a label matcher: write cluster="),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn a_header_that_is_refused_is_not_repeated() {
        let header: Header = "X-Scope-OrgID=a=b".parse().unwrap();
        assert_eq!(
            (header.name.as_str(), header.value.to_str().unwrap()),
            ("x-scope-orgid", "a=b")
        );
        assert!(!format!("{header:?}").contains("a=b"));
        for bad in ["", "secret", "a b=secret", "a=\nsecret"] {
            assert!(!bad.parse::<Header>().unwrap_err().contains("secret"));
        }
    }
}
