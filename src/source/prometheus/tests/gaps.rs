//! What a server does not tell, and what is not concluded from it.

use super::*;

/// Since how many hours before now the calls of `shop/web` are known, where a day has so many moments too
/// few.
async fn known_hours(missing: impl Fn(&Asked) -> i64 + Send + Sync + 'static) -> i64 {
    let server = Server::start(move |asked: &Asked| {
        if is_about_moments(asked) {
            moments(asked, [missing(asked), 0])
        } else {
            calls(asked)
        }
    })
    .await;
    let mut reading = reading(settings(&server.url));
    reading.look_back().await;
    let engine = reading.state.engine();
    let known_since = engine.past(&web()).unwrap().known_since;
    Timestamp::now().duration_since(known_since).as_hours()
}

#[tokio::test]
async fn silence_means_something_only_where_there_are_metrics_all_the_time() {
    let yesterday = |asked: &Asked| asked.time.unwrap() < Timestamp::now().as_second() as f64 - 80_000.0;
    assert_eq!(known_hours(|_| 0).await, 48);
    assert_eq!(
        known_hours(move |asked| if yesterday(asked) { 2 } else { 0 }).await,
        24
    );
    assert_eq!(
        known_hours(move |asked| if yesterday(asked) { 0 } else { 2 }).await,
        0
    );
    // A retention of a day: an empty answer.
    assert_eq!(
        known_hours(move |asked| if yesterday(asked) { 144 } else { 0 }).await,
        24
    );
}

#[tokio::test]
async fn series_that_do_not_show_where_they_come_from_complete_nothing() {
    let server = Server::start(|asked| {
        if !is_probe(asked) && asked.query.contains("istio_requests_total") && !is_about_moments(asked) {
            vector(&json!([of_web(&json!({"namespace": ""}))]))
        } else {
            calls(asked)
        }
    })
    .await;
    let mut reading = reading(settings(&server.url));
    let error = reading.reader.cycle().await.unwrap_err();
    assert!(matches!(error, QueryError::NoNamespace(_)), "{error}");
    reading.look_back().await;
    assert_eq!((reading.wanted(), reading.hosts().len()), (1, 0));
    assert!(
        reading.trouble().contains("set prometheus.namespaceLabel"),
        "{}",
        reading.trouble()
    );
}

#[tokio::test]
async fn a_gap_in_the_reading_makes_the_past_unknown() {
    let server = Server::start(calls).await;
    let mut reading = reading(settings(&server.url));
    reading.look_back().await;
    reading.reader.cycle().await.unwrap();
    reading.reader.notice_gap();
    assert_eq!(reading.wanted(), 0);
    reading.reader.read_until = Timestamp::now() - SignedDuration::from_mins(12);
    reading.reader.notice_gap();
    assert_eq!(reading.wanted(), 1);
}
