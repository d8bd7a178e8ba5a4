//! Connections that were opened long ago, and are still in use.

use super::*;
use crate::fence::Change;

const BYTES: [&str; 2] = ["istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"];

/// What a cycle asks about connections.
async fn about_connections() -> String {
    let server = Server::start(calls).await;
    reading(settings(&server.url)).reader.cycle().await.unwrap();
    let asked = server.asked();
    assert_eq!(asked.len(), 4, "{asked:?}");
    asked[2].query.clone()
}

#[tokio::test]
async fn a_host_to_which_only_bytes_flow_is_called() {
    let server = Server::start(|asked| {
        if !is_probe(asked)
            && !is_about_moments(asked)
            && !is_about_bytes(asked)
            && BYTES.iter().all(|counter| asked.query.contains(counter))
        {
            vector(&json!([of_web(&json!({}))]))
        } else if asked.query.contains("istio_requests_total") && !is_probe(asked) && !is_about_moments(asked)
        {
            vector(&json!([]))
        } else {
            calls(asked)
        }
    })
    .await;
    let mut reading = reading(settings(&server.url));
    reading.reader.cycle().await.unwrap();
    assert_eq!(reading.hosts(), ["books/reviews"]);
}

#[tokio::test]
async fn bytes_are_asked_for_as_new_connections_are() {
    let query = about_connections().await;
    let of = |counter: &str, query: &str| {
        let begin = query.find(&format!("increase({counter}{{")).unwrap();
        let one = &query[begin..];
        let end = one.find(" or increase(").unwrap_or(one.len() - 1);
        one[..end].replace(counter, "")
    };
    let opened = of("istio_tcp_connections_opened_total", &query);
    for counter in BYTES {
        assert_eq!(of(counter, &query), opened, "{query}");
    }
    for part in ["> 0 or (max_over_time(", "unless {", "offset 300s)"] {
        assert!(opened.contains(part), "{part}: {opened}");
    }
}

/// A server that answers some questions otherwise.
async fn reading_of(other: impl Fn(&Asked) -> Option<(u16, String)> + Send + Sync + 'static) -> Reading {
    let server = Server::start(move |asked: &Asked| other(asked).unwrap_or_else(|| calls(asked))).await;
    reading(settings(&server.url))
}

/// Since how many hours before now the connections of `shop/web` are known.
fn hours_of_connections(reading: &Reading) -> i64 {
    let engine = reading.state.engine();
    let since = engine.past(&web()).unwrap().connections_known_since;
    Timestamp::now().duration_since(since).as_hours()
}

fn is_of_yesterday(asked: &Asked) -> bool {
    asked
        .time
        .is_some_and(|time| time < Timestamp::now().as_second() as f64 - 80_000.0)
}

#[tokio::test]
async fn bytes_alone_do_not_show_that_there_are_metrics_of_calls() {
    let mut reading = reading_of(|asked| is_about_moments(asked).then(|| moments(asked, [1, 0]))).await;
    reading.look_back().await;
    let engine = reading.state.engine();
    let known_since = engine.past(&web()).unwrap().known_since;
    assert_eq!(Timestamp::now().duration_since(known_since).as_hours(), 0);
}

#[tokio::test]
async fn connections_are_known_as_far_back_as_bytes_of_both_directions_are_counted() {
    let mut all = reading_of(|_| None).await;
    all.look_back().await;
    assert_eq!(hours_of_connections(&all), 48);
    let mut none = reading_of(|asked| is_about_moments(asked).then(|| moments(asked, [0, 2]))).await;
    none.look_back().await;
    assert_eq!(hours_of_connections(&none), 0);
    let lately = |asked: &Asked| {
        let missing = if is_of_yesterday(asked) { [0, 2] } else { [0, 0] };
        is_about_moments(asked).then(|| moments(asked, missing))
    };
    let mut lately = reading_of(lately).await;
    lately.look_back().await;
    assert_eq!(hours_of_connections(&lately), 24);
    let engine = lately.state.engine();
    let known_since = engine.past(&web()).unwrap().known_since;
    assert_eq!(Timestamp::now().duration_since(known_since).as_hours(), 48);
}

#[tokio::test]
async fn a_workload_with_bytes_left_out_is_known_since_then() {
    let left_out = |name: &'static str| {
        move |asked: &Asked| {
            let more = json!({"source_workload": name, "source_app": name, "source_canonical_service": name});
            (is_about_bytes(asked) && is_of_yesterday(asked))
                .then(|| vector(&json!([of_web(&more), bytes_of("shop")])))
        }
    };
    let mut reading = reading_of(left_out("web")).await;
    reading.look_back().await;
    assert_eq!(hours_of_connections(&reading), 24);
    let mut of_another = reading_of(left_out("batch")).await;
    of_another.look_back().await;
    assert_eq!(hours_of_connections(&of_another), 48);
}

#[tokio::test]
async fn a_cycle_that_misses_bytes_begins_anew() {
    let left_out =
        |asked: &Asked| is_about_bytes(asked).then(|| vector(&json!([of_web(&json!({})), bytes_of("shop")])));
    // All that tells of connections in this namespace is dropped.
    let dropped = |asked: &Asked| is_about_bytes(asked).then(|| vector(&json!([bytes_of("books")])));
    for (mut reading, is_known) in [
        (reading_of(left_out).await, false),
        (reading_of(dropped).await, false),
        (reading_of(|_| None).await, true),
    ] {
        let past = crate::fence::CallHistory {
            unstored: std::collections::BTreeMap::new(),
            known_since: Timestamp::UNIX_EPOCH,
            connections_known_since: Timestamp::UNIX_EPOCH,
            told: Timestamp::now(),
            told_by: std::collections::BTreeMap::new(),
        };
        reading.state.apply(Change::HistoryRead([(web(), past)].into()));
        reading.reader.cycle().await.unwrap();
        assert_eq!(hours_of_connections(&reading) > 0, is_known);
        let engine = reading.state.engine();
        let past = engine.past(&web()).unwrap();
        assert_eq!(past.known_since, Timestamp::UNIX_EPOCH);
        assert!(past.told_by.contains_key("web"));
    }
}

#[tokio::test]
async fn a_part_with_connections_left_out_completes_nothing() {
    let partly = |asked: &Asked| {
        let answer = json!({"status": "success", "warnings": ["eu is down"], "data": {"resultType": "vector", "result": []}});
        is_about_bytes(asked).then(|| (200, answer.to_string()))
    };
    let mut reading = reading_of(partly).await;
    let error = reading.reader.cycle().await.unwrap_err();
    assert!(matches!(error, QueryError::Partial(_)), "{error}");
    reading.look_back().await;
    assert_eq!(reading.wanted(), 1);
}
