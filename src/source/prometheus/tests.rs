//! Against an HTTP server that answers as Prometheus and its relatives do.

mod bytes;
mod gaps;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use prometheus::Registry;
use serde_json::{Value, json};
use servicefence_crd::names;
use tokio::sync::mpsc;

use super::{PrometheusMetrics, QueryError, Reader, Settings};
use crate::fence::name::{FenceKey, ServiceKey};
use crate::fence::simulate::Simulation;
use crate::fence::{Engine, Settings as EngineSettings};
use crate::source::seen::Seen;
use crate::state::State;

/// What was asked.
#[derive(Clone, Debug)]
struct Asked {
    query: String,
    time: Option<f64>,
    headers: HeaderMap,
}

type Answer = dyn Fn(&Asked) -> (u16, String) + Send + Sync;

/// A server, and what it was asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    async fn start(answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer): (_, Arc<Answer>) = (asked.clone(), Arc::new(answer));
        let serve = move |headers: HeaderMap, body: Bytes| async move {
            let form: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
            let field = |name: &str| {
                form.iter()
                    .find(|(key, _)| key == name)
                    .map(|(_, value)| value.clone())
            };
            let asked = Asked {
                query: field("query").unwrap(),
                time: field("time").map(|time| time.parse().unwrap()),
                headers,
            };
            let (status, body) = answer(&asked);
            log.lock().push(asked);
            (StatusCode::from_u16(status).unwrap(), body)
        };
        let app = Router::new().route("/select/0/prometheus/api/v1/query", post(serve));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/select/0/prometheus", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock())
    }
}

fn settings(url: &str) -> Settings {
    Settings {
        url: url.to_owned(),
        interval: SignedDuration::from_mins(1),
        backfill: SignedDuration::from_hours(48),
        timeout: SignedDuration::from_secs(5),
        matchers: Vec::new(),
        namespace_label: "namespace".to_owned(),
        headers: Vec::new(),
        token_file: None,
        username: None,
        password_file: None,
        ca_file: None,
        cert_file: None,
        key_file: None,
    }
}

/// A shop with a fence `web` that waits for its past.
fn engine() -> Engine {
    let settings = EngineSettings {
        reads_history: true,
        ..EngineSettings::default()
    };
    let mut mesh = Simulation::new(settings, Timestamp::from_second(1_800_000_000).unwrap());
    let service = |namespace: &str, name: &str, ip: &str| {
        json!({
            "kind": "Service", "metadata": {"namespace": namespace, "name": name},
            "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 8080}], "selector": {"app": name}},
        })
    };
    let objects = [
        json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {names::MODE_LABEL: "enforce"}}}),
        service("shop", "web", "10.96.0.1"),
        service("books", "reviews", "10.96.0.2"),
        json!({"kind": "Pod", "metadata": {"namespace": "shop", "name": "web-1", "labels": {"app": "web"}}, "spec": {}}),
    ];
    for object in objects {
        mesh.object(object).unwrap();
    }
    mesh.settle(SignedDuration::ZERO).unwrap();
    assert_eq!(mesh.engine.history_wanted(), BTreeSet::from([web()]));
    mesh.engine
}

fn web() -> FenceKey {
    FenceKey::new("shop", "web")
}

struct Reading {
    reader: Reader,
    state: Arc<State>,
    seen: mpsc::Receiver<Seen>,
    registry: Registry,
}

fn reading(settings: Settings) -> Reading {
    let state = State::new(engine());
    let (state, registry) = (Arc::new(state), Registry::new());
    let (observations, seen) = mpsc::channel(64);
    let metrics = PrometheusMetrics::new(&registry).unwrap();
    let reader = Reader::new(settings, state.clone(), observations, metrics);
    Reading {
        reader,
        state,
        seen,
        registry,
    }
}

impl Reading {
    fn wanted(&self) -> usize {
        self.state.engine().history_wanted().len()
    }

    /// Hosts that were seen since the last look.
    fn hosts(&mut self) -> Vec<String> {
        let seen = std::iter::from_fn(|| self.seen.try_recv().ok());
        seen.map(|seen| {
            ServiceKey::of_host(&seen.observation.host.name)
                .unwrap()
                .to_string()
        })
        .collect()
    }

    fn trouble(&self) -> String {
        self.reader
            .past
            .as_ref()
            .and_then(|past| past.trouble.clone())
            .unwrap_or_default()
    }

    fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metrics = family.get_metric().iter();
        metrics
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }

    /// Reads for as long as there is more to read.
    async fn look_back(&mut self) {
        while self.reader.look_back().await {}
    }

    async fn look_back_again(&mut self) {
        self.reader.next_past = tokio::time::Instant::now();
        self.look_back().await;
    }
}

fn vector(result: &Value) -> (u16, String) {
    let answer = json!({"status": "success", "data": {"resultType": "vector", "result": result}});
    (200, answer.to_string())
}

/// The answer to whether there is any metric, at the server's own time.
fn anything() -> (u16, String) {
    let now = Timestamp::now().as_millisecond() as f64 / 1000.0;
    vector(&json!([{"metric": {}, "value": [now, "7"]}]))
}

fn is_probe(asked: &Asked) -> bool {
    asked.query.starts_with("count({")
}

/// Whether it is asked if there are metrics all through a period.
fn is_about_moments(asked: &Asked) -> bool {
    asked.query.starts_with("label_replace(count_over_time(")
}

/// Whether it is asked how far there are bytes of connections.
fn is_about_bytes(asked: &Asked) -> bool {
    asked.query.contains(" unless (count by ")
}

/// As many moments as there are in the period that is asked about, less some: of calls and of bytes.
fn moments(asked: &Asked, missing: [i64; 2]) -> (u16, String) {
    let (_, rest) = asked.query.rsplit_once('[').unwrap();
    let (window, _) = rest.split_once("s:600s]").unwrap();
    let number = |of: &str, missing: i64| {
        let found = window.parse::<i64>().unwrap() / 600 - missing;
        json!({"metric": {"of": of}, "value": [1.0, found.to_string()]})
    };
    vector(&json!([number("calls", missing[0]), number("bytes", missing[1])]))
}

fn of_web(more: &Value) -> Value {
    let mut metric = json!({
        "source_workload_namespace": "shop", "source_workload": "web", "source_app": "web", "namespace": "shop",
        "destination_service": "reviews.books.svc.cluster.local",
    });
    for (key, value) in more.as_object().unwrap() {
        metric[key] = value.clone();
    }
    json!({"metric": metric, "value": [1.0, "1"]})
}

/// That there are bytes of connections of a namespace.
fn bytes_of(namespace: &str) -> Value {
    let metric = json!({"source_workload_namespace": namespace, "namespace": namespace, "of": "bytes"});
    json!({"metric": metric, "value": [1.0, "1"]})
}

fn calls(asked: &Asked) -> (u16, String) {
    if is_probe(asked) {
        anything()
    } else if is_about_moments(asked) {
        moments(asked, [0, 0])
    } else if is_about_bytes(asked) {
        vector(&json!([bytes_of("shop")]))
    } else if asked.query.contains("istio_requests_total") {
        vector(&json!([of_web(&json!({}))]))
    } else {
        vector(&json!([]))
    }
}

#[tokio::test]
async fn the_past_is_read_day_by_day_and_then_the_fence_waits_for_its_storage_only() {
    let server = Server::start(calls).await;
    let mut reading = reading(settings(&server.url));
    reading.look_back().await;
    assert_eq!(
        (reading.wanted(), reading.hosts()),
        (0, vec!["books/reviews".to_owned()])
    );
    let asked = server.asked();
    assert_eq!(asked.len(), 2 * 5);
    let now = Timestamp::now().as_second() as f64;
    let about_calls = asked
        .iter()
        .filter(|asked| !is_probe(asked) && !is_about_moments(asked));
    for (asked, day) in about_calls.zip([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]) {
        assert!(
            (asked.time.unwrap() - (now - day * 86_400.0)).abs() < 60.0,
            "{asked:?}"
        );
        assert!(
            asked.query.contains("[86700s]") && asked.query.contains("source_workload_namespace=~\"shop\"")
        );
    }
}

#[tokio::test]
async fn a_cycle_is_four_queries_for_the_whole_mesh_and_goes_back_to_the_last_good_one() {
    let server = Server::start(calls).await;
    let mut reading = reading(settings(&server.url));
    reading.reader.cycle().await.unwrap();
    assert_eq!(reading.hosts(), ["books/reviews"]);
    let asked = server.asked();
    assert_eq!(asked.len(), 4);
    assert!(asked[1].query.contains("[300s]"), "{}", asked[1].query);
    let hour = SignedDuration::from_hours(1);
    reading.reader.read_until = Timestamp::now() - hour;
    reading.reader.cycle().await.unwrap();
    assert!(server.asked()[1].query.contains("[3900s]"));
    assert!(reading.metric("servicefence_prometheus_last_success_timestamp_seconds") > 0.0);
}

#[tokio::test]
async fn warnings_are_learned_from_and_complete_nothing() {
    let warn = |asked: &Asked| {
        let (status, body) = calls(asked);
        let mut body: Value = serde_json::from_str(&body).unwrap();
        if !is_probe(asked) {
            body["warnings"] = json!(["store eu is down"]);
        }
        (status, body.to_string())
    };
    let server = Server::start(warn).await;
    let mut reading = reading(settings(&server.url));
    let begun = reading.reader.read_until;
    let error = reading.reader.cycle().await.unwrap_err();
    assert!(
        matches!(error, QueryError::Partial(ref warning) if warning == "store eu is down"),
        "{error}"
    );
    assert_eq!((reading.hosts().len(), reading.reader.read_until), (1, begun));
    reading.look_back().await;
    assert_eq!(reading.wanted(), 1);
    assert!(reading.trouble().contains("it warned: store eu is down"));
    reading.look_back_again().await;
    assert_eq!(reading.wanted(), 1, "the same piece is asked for again");
}

#[tokio::test]
async fn what_is_no_answer_completes_nothing_and_is_said() {
    let cases: [(u16, &str, &str, &str); 7] = [
        (502, "<html>Bad Gateway</html>", "HTTP status 502", "refused"),
        (401, "no", "HTTP status 401", "refused"),
        (200, "<html>Log in</html>", "cannot be read", "unreadable"),
        (200, r#"{"status":"success"}"#, "not a vector", "unreadable"),
        (
            200,
            r#"{"status":"success","data":{"resultType":"scalar","result":[]}}"#,
            "not a vector",
            "unreadable",
        ),
        (
            400,
            r#"{"status":"error","errorType":"bad_data","error":"no such label"}"#,
            "(bad_data): no such label",
            "refused",
        ),
        (
            200,
            r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#,
            "has no istio_requests_total",
            "empty",
        ),
    ];
    for (status, body, said, category) in cases {
        let server = Server::start(move |_| (status, body.to_owned())).await;
        let mut reading = reading(settings(&server.url));
        let begun = reading.reader.read_until;
        let error = reading.reader.cycle().await.unwrap_err();
        assert_eq!(error.category(), category, "{error}");
        reading.look_back().await;
        assert!(reading.trouble().contains(said), "{said}: {}", reading.trouble());
        assert_eq!(
            (reading.wanted(), reading.hosts().len(), reading.reader.read_until),
            (1, 0, begun)
        );
    }
    let mut reading = reading(settings("http://127.0.0.1:9"));
    reading.look_back().await;
    assert!(
        reading.trouble().contains("cannot be reached"),
        "{}",
        reading.trouble()
    );
    assert_eq!(reading.wanted(), 1);
}

#[tokio::test]
async fn a_server_to_which_a_day_is_too_much_is_asked_for_less() {
    let server = Server::start(|asked| {
        if asked.query.contains("[86700s]") || asked.query.contains("[43500s]") {
            let error = json!({"status": "error", "errorType": "execution", "error": "too many samples"});
            (422, error.to_string())
        } else {
            calls(asked)
        }
    })
    .await;
    let mut reading = reading(settings(&server.url));
    reading.look_back().await;
    assert_eq!((reading.wanted(), reading.hosts().len()), (0, 1));
    assert_eq!(server.asked().len(), 2 + 2 + 4 * 10);
}

#[tokio::test]
async fn an_outage_in_the_middle_costs_what_was_asked_then_and_no_more() {
    let down = Arc::new(Mutex::new(false));
    let is_down = down.clone();
    let server = Server::start(move |asked| {
        let now = Timestamp::now().as_second() as f64;
        let is_yesterday = asked.time.is_some_and(|time| now - time > 80_000.0);
        if is_yesterday && std::mem::replace(&mut *is_down.lock(), true) {
            calls(asked)
        } else if is_yesterday {
            (
                503,
                r#"{"status":"error","errorType":"unavailable","error":"starting"}"#.to_owned(),
            )
        } else {
            calls(asked)
        }
    })
    .await;
    let mut reading = reading(settings(&server.url));
    reading.look_back().await;
    assert_eq!(reading.wanted(), 1);
    let progress = reading.reader.past.as_ref().unwrap().progress();
    assert_eq!(progress.read, SignedDuration::from_hours(24));
    server.asked();
    reading.look_back_again().await;
    assert_eq!((reading.wanted(), server.asked().len()), (0, 1 + 4));
}

#[tokio::test]
async fn a_wrong_clock_is_said_and_queries_go_by_the_servers() {
    let behind = |asked: &Asked| {
        if is_probe(asked) {
            let then = Timestamp::now().as_second() as f64 - 600.0;
            vector(&json!([{"metric": {}, "value": [then, "7"]}]))
        } else {
            calls(asked)
        }
    };
    let server = Server::start(behind).await;
    let mut reading = reading(settings(&server.url));
    let error = reading.reader.cycle().await.unwrap_err().to_string();
    assert!(error.contains("10m off ours"), "{error}");
    let time = server.asked()[1].time.unwrap();
    assert!((Timestamp::now().as_second() as f64 - 600.0 - time).abs() < 30.0);
    assert!(reading.metric("servicefence_prometheus_clock_skew_seconds") < -590.0);
    assert_eq!(reading.hosts(), ["books/reviews"]);
    reading.look_back().await;
    assert_eq!(reading.wanted(), 1, "and no past is complete by it");
}

#[tokio::test]
async fn a_series_from_another_namespace_than_it_claims_teaches_nothing() {
    let server = Server::start(|asked| {
        if is_probe(asked) {
            anything()
        } else {
            vector(&json!([of_web(&json!({"namespace": "evil"}))]))
        }
    })
    .await;
    let mut reading = reading(settings(&server.url));
    reading.reader.cycle().await.unwrap();
    assert!(reading.hosts().is_empty());
    assert_eq!(
        reading.metric("servicefence_prometheus_foreign_series_total") as i64,
        2
    );
}

#[tokio::test]
async fn credentials_headers_and_matchers_are_sent() {
    let folder = std::env::temp_dir().join(format!("servicefence-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let secret = folder.join("secret");
    std::fs::write(&secret, "s3cret\n").unwrap();
    let server = Server::start(calls).await;
    let header = |asked: &Asked, name: &str| asked.headers.get(name).unwrap().to_str().unwrap().to_owned();

    let mut with_token = settings(&server.url);
    with_token.token_file = Some(secret.clone());
    with_token.headers = vec!["X-Scope-OrgID=team".parse().unwrap()];
    with_token.matchers = vec![r#"cluster="east""#.parse().unwrap()];
    reading(with_token).reader.cycle().await.unwrap();
    for asked in server.asked() {
        assert_eq!(header(&asked, "authorization"), "Bearer s3cret");
        assert_eq!(header(&asked, "x-scope-orgid"), "team");
        let matched = asked.query.matches(r#"cluster="east"}"#).count();
        let selectors = match () {
            () if is_probe(&asked) => 1,
            () if is_about_bytes(&asked) => 5,
            () if asked.query.contains("istio_tcp_") => 3 * 3,
            () => 3,
        };
        assert_eq!(matched, selectors, "{}", asked.query);
    }

    let mut with_password = settings(&server.url);
    with_password.username = Some("reader".to_owned());
    with_password.password_file = Some(secret);
    reading(with_password.clone()).reader.cycle().await.unwrap();
    assert_eq!(
        header(&server.asked()[0], "authorization"),
        "Basic cmVhZGVyOnMzY3JldA=="
    );

    with_password.password_file = Some(folder.join("nowhere"));
    let error = reading(with_password).reader.cycle().await.unwrap_err();
    assert!(error.to_string().contains("nowhere: No such file"), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}
