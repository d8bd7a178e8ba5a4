//! Differences that are known, so that a run shows what is not. Each is counted, and the first of a run is
//! told.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::answer::Answer;

/// Why an answer may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Known {
    /// The unscoped caller fails on the way, the fenced one is answered: the gateway reaches by mutual TLS
    /// what the caller's proxy sends on in plain text, such as a Service that is not exported to it. Or
    /// istiod left the caller's proxy with plain text for a headless Service: it chooses that where it builds
    /// a cluster before there are endpoints, and does not look again when they come (`cdsNeedsPush`).
    Reached,
    /// Both fail, and the gateway says another reason than the caller's proxy.
    Reason,
    /// The call dials one Service or pod and names another one as Host, or nothing that the caller's proxy
    /// knows. Istio goes by the name, the gateway by the address.
    Forged,
    /// The gateway speaks another version of HTTP to the server than the caller's proxy does: it knows the
    /// Service, and its DestinationRule, where that one passes through, or does not where that one does.
    Translated,
    /// HTTP on a port number that is not HTTP everywhere in the mesh is passed on as bytes, by the fenced
    /// caller to the address of a pod, by the unscoped one to a Service that it does not see: its proxy adds
    /// no headers then, and the destination's own one adds others. A pod that takes mutual TLS only ends it.
    AsBytes,
    /// An address without a rule was tried twice by the gateway, once over mutual TLS and once in plain text,
    /// and the destination sees it in `x-envoy-attempt-count`.
    Attempts,
    /// The unscoped caller passes the call through on a connection from before a change, to a Service that it
    /// does not see and that has no endpoints any more. The gateway makes a new one, and fails.
    Kept,
}

impl Known {
    /// What is known of the difference of two answers, if anything is.
    pub(super) fn of(judge: &Answer, fenced: &Answer, way: Way) -> Option<Self> {
        if judge.failed() && fenced.outcome != "time-out" {
            if fenced.failed() {
                return Some(Self::Reason);
            }
            if way.past_rules || way.to_pod || way.forged || way.detected || way.headless {
                return Some(Self::Reached);
            }
        }
        // What is dialled may fail where what is named does not.
        let elsewhere =
            judge.server != fenced.server || !judge.arrived() || told_port(judge) != told_port(fenced);
        if way.past_rules && way.changed && fenced.failed() && fenced.outcome == "503" {
            return Some(Self::Kept);
        }
        if way.passed_through && way.to_pod && fenced.outcome == "broken off" {
            return Some(Self::AsBytes);
        }
        let hangs = ["time-out", "broken off"].contains(&fenced.outcome.as_str());
        if way.forged && elsewhere && !hangs {
            return Some(Self::Forged);
        }
        let mut left_out = vec!["x-envoy-attempt-count"];
        if alike(judge, fenced, &left_out) {
            return Some(Self::Attempts);
        }
        if way.http2 || way.past_rules {
            left_out.extend(["host", "protocol"]);
            if alike(judge, fenced, &left_out) {
                return Some(Self::Translated);
            }
        }
        left_out.extend(["x-forwarded-proto", "server"]);
        (way.passed_through && alike(judge, fenced, &left_out)).then_some(Self::AsBytes)
    }
}

/// How a call was made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    /// It names another Service than it dials.
    pub(super) forged: bool,
    /// For one of the callers it went past all rules to what was dialled.
    pub(super) passed_through: bool,
    /// The unscoped caller passed it through, past all rules.
    pub(super) past_rules: bool,
    /// The fenced caller told by its first bytes that it is HTTP. HTTP/2 goes on from the gateway by its
    /// address then, over mutual TLS where that is taken.
    pub(super) detected: bool,
    /// Something has changed since the first calls.
    pub(super) changed: bool,
    /// The client speaks HTTP/2.
    pub(super) http2: bool,
    /// It dials the address of a pod.
    pub(super) to_pod: bool,
    /// It is to a headless Service, and the fenced caller called it directly.
    pub(super) headless: bool,
}

/// Whether two answers are equal, but for these headers, of the answer and of what the server was told.
fn alike(one: &Answer, other: &Answer, left_out: &[&str]) -> bool {
    let rest = |answer: &Answer| {
        let mut answer = answer.clone();
        answer
            .headers
            .retain(|name, _| !left_out.contains(&name.as_str()));
        answer.body = without(&answer.body, left_out);
        answer
    };
    rest(one) == rest(other)
}

/// The port on which a server was called.
fn told_port(answer: &Answer) -> Option<u64> {
    let told: Value = serde_json::from_str(&answer.body).ok()?;
    told["port"].as_u64()
}

/// What a server was told, without some headers, or without the version of HTTP.
fn without(body: &str, names: &[&str]) -> String {
    let Ok(mut told) = serde_json::from_str::<Value>(body) else {
        return body.to_owned();
    };
    if let Some(headers) = told["headers"].as_object_mut() {
        headers.retain(|name, _| !names.contains(&name.as_str()));
    }
    if names.contains(&"protocol") {
        told["protocol"].take();
    }
    told.to_string()
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}",
            match self {
                Self::Reached => "reached only when fenced",
                Self::Reason => "failed for another reason",
                Self::Forged => "sent to what was dialled",
                Self::Translated => "served in another version of HTTP",
                Self::AsBytes => "passed on as bytes, without the headers of a proxy",
                Self::Attempts => "tried twice by the gateway",
                Self::Kept => "answered on a connection from before a change",
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(outcome: &str, server: Option<&str>, body: &str) -> Answer {
        Answer {
            outcome: outcome.to_owned(),
            server: server.map(str::to_owned),
            body: body.to_owned(),
            ..Answer::default()
        }
    }

    #[test]
    fn a_failure_may_have_another_reason_and_a_success_may_not() {
        let (one, other) = (
            answer("503", None, "no healthy upstream"),
            answer("503", None, "reset"),
        );
        let forged = Way {
            forged: true,
            ..Way::default()
        };
        let good = answer("200", Some("books/a"), "{}");
        assert_eq!(Known::of(&one, &other, Way::default()), Some(Known::Reason));
        let past_rules = Way {
            past_rules: true,
            ..Way::default()
        };
        assert_eq!(Known::of(&one, &good, past_rules), Some(Known::Reached));
        assert_eq!(Known::of(&one, &good, Way::default()), None);
        let headless = Way {
            headless: true,
            ..Way::default()
        };
        assert_eq!(Known::of(&one, &good, headless), Some(Known::Reached));
        assert_eq!(Known::of(&good, &one, headless), None);
        assert_eq!(Known::of(&good, &one, Way::default()), None);
        assert_eq!(
            Known::of(&one, &answer("time-out", None, ""), Way::default()),
            None
        );
        let kept = Way {
            past_rules: true,
            changed: true,
            ..Way::default()
        };
        assert_eq!(Known::of(&good, &one, kept), Some(Known::Kept));
        assert_eq!(Known::of(&good, &answer("refused", None, ""), kept), None);
        let other = answer("200", Some("books/b"), "{}");
        assert_eq!(Known::of(&good, &other, Way::default()), None);
        assert_eq!(Known::of(&good, &other, forged), Some(Known::Forged));
        let on = |port: u16| answer("200", Some("books/a"), &format!(r#"{{"port":{port}}}"#));
        assert_eq!(Known::of(&on(80), &on(90), forged), Some(Known::Forged));
        assert_eq!(Known::of(&on(80), &on(90), Way::default()), None);
        let by_a_rule = answer("301", None, "");
        assert_eq!(Known::of(&good, &by_a_rule, forged), Some(Known::Forged));
        assert_eq!(Known::of(&good, &one, forged), Some(Known::Forged));
        assert_eq!(Known::of(&good, &answer("time-out", None, ""), forged), None);
    }

    #[test]
    fn of_the_headers_only_the_count_of_attempts_may_differ() {
        let body = |count: &str, x: &str| {
            format!(r#"{{"headers":{{"x-envoy-attempt-count":["{count}"],"x":["{x}"]}}}}"#)
        };
        let passed_through = Way {
            passed_through: true,
            ..Way::default()
        };
        let of = |count, x| answer("200", Some("books/a"), &body(count, x));
        assert_eq!(
            Known::of(&of("1", "a"), &of("2", "a"), Way::default()),
            Some(Known::Attempts)
        );
        assert_eq!(Known::of(&of("1", "a"), &of("2", "b"), Way::default()), None);
        assert_eq!(Known::of(&of("1", "a"), &of("2", "b"), passed_through), None);
    }
}
