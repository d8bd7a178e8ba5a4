//! Connections that were opened long ago, and are still in use.

use super::*;

const BYTES: [&str; 2] = ["istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"];

/// What a cycle asks about connections.
async fn about_connections() -> String {
    let server = Server::start(calls).await;
    reading(settings(&server.url)).reader.cycle().await.unwrap();
    let asked = server.asked();
    assert_eq!(asked.len(), 3, "bytes cost no query of their own");
    asked[2].query.clone()
}

#[tokio::test]
async fn a_host_to_which_only_bytes_flow_is_called() {
    let server = Server::start(|asked| {
        if asked.query.starts_with("count by") && BYTES.iter().all(|counter| asked.query.contains(counter)) {
            vector(&json!([of_web(&json!({}))]))
        } else if is_probe(asked) || is_about_moments(asked) {
            calls(asked)
        } else {
            vector(&json!([]))
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

#[tokio::test]
async fn bytes_alone_do_not_show_that_there_are_metrics_of_calls() {
    let server = Server::start(calls).await;
    let mut reading = reading(settings(&server.url));
    reading.look_back().await;
    let asked = server.asked();
    for asked in asked
        .iter()
        .filter(|asked| is_probe(asked) || is_about_moments(asked))
    {
        assert!(!asked.query.contains("bytes"), "{}", asked.query);
    }
}
