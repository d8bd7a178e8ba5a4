//! What istiod makes of routes, one golden case for each part of a rule.

mod oddities;

use jiff::Timestamp;
use serde_json::{Value, json};
use servicefence_crd::gateway_api::{GrpcMatch, HttpMatch, RouteSpec};

use crate::facts::RouteKind;
use crate::facts::route::translate::{self, Matched};
use crate::mesh::routes::*;

fn backend(name: &str) -> Value {
    json!({"name": name, "port": 8080})
}

/// The rules of the one VirtualService that a route with these rules makes.
fn made<M: Matched + serde::de::DeserializeOwned>(rules: &Value) -> Vec<Value> {
    let parent = json!({"group": "", "kind": "Service", "name": "reviews"});
    let spec: RouteSpec<M> = serde_json::from_value(json!({"parentRefs": [parent], "rules": rules})).unwrap();
    let key = ConfigKey::new("books", "reviews");
    let facts = RouteFacts::of(&spec, &key, Timestamp::UNIX_EPOCH);
    let route = RouteKey {
        config: key,
        kind: RouteKind::Http,
    };
    let made = Routes::default().set(&route, facts);
    let made = made.into_iter().filter_map(|(_, facts)| facts);
    made.flat_map(|facts| facts.http).map(Value::Object).collect()
}

fn http(rules: &Value) -> Vec<Value> {
    made::<HttpMatch>(rules)
}

/// The same for one rule that makes one rule.
fn one(rule: &Value) -> Value {
    let made = http(&json!([rule]));
    assert_eq!(made.len(), 1, "{made:?}");
    made[0].clone()
}

/// Why the one rule that is made of a rule cannot be carried.
fn why_not(rule: &Value) -> Option<&'static str> {
    fit::why_not(one(rule).as_object().unwrap())
}

#[allow(clippy::needless_pass_by_value, reason = "tests write json!(…) in place")]
fn filter(kind: &str, field: &str, value: Value) -> Value {
    json!({"filters": [{"type": kind, field: value}], "backendRefs": [backend("v2")]})
}

fn destination(host: &str) -> Value {
    json!({"host": host, "port": {"number": 8080}})
}

#[test]
fn a_rule_says_the_same_in_a_virtual_service() {
    let made = one(&json!({
        "matches": [{
            "path": {"type": "Exact", "value": "/api"},
            "headers": [{"name": "x-a", "value": "1"}, {"name": "x-b", "type": "RegularExpression", "value": "b.*"}],
            "queryParams": [{"name": "q", "value": "2"}],
            "method": "GET",
        }],
        "backendRefs": [backend("v2")],
        "timeouts": {"request": "1m30s"},
    }));
    assert_eq!(
        made,
        json!({
            "name": "books.reviews.0",
            "match": [{
                "uri": {"exact": "/api"},
                "headers": {"x-a": {"exact": "1"}, "x-b": {"regex": "b.*"}},
                "queryParams": {"q": {"exact": "2"}},
                "method": {"exact": "GET"},
            }],
            "route": [{"destination": destination("v2.books.svc.cluster.local")}],
            "timeout": "90s",
        })
    );
}

#[test]
fn a_prefix_ends_where_a_part_of_the_path_does() {
    let uris = |value: &str| {
        let matches = json!([{"path": {"type": "PathPrefix", "value": value}}]);
        one(&json!({"matches": matches, "backendRefs": [backend("v2")]}))["match"].clone()
    };
    let both = json!([{"uri": {"exact": "/api"}}, {"uri": {"prefix": "/api/"}}]);
    assert_eq!(uris("/api"), both);
    assert_eq!(uris("/api/"), both);
    assert_eq!(uris("/"), json!([{"uri": {"prefix": "/"}}]));
}

#[test]
fn a_new_prefix_is_put_before_what_is_below_the_old_one() {
    let rewritten = |filter: Value| {
        let matches = json!([{"path": {"value": "/api"}}]);
        http(&json!([{"matches": matches, "filters": [filter], "backendRefs": [backend("v2")]}]))
    };
    let path = |to: &str| json!({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": to}});
    for (to, itself, below) in [
        ("/new", "/new", "/new/"),
        ("/new/", "/new", "/new/"),
        ("/", "/", "/"),
    ] {
        let made = rewritten(json!({"type": "URLRewrite", "urlRewrite": path(to)}));
        let said: Vec<_> = made
            .iter()
            .map(|rule| json!([rule["match"], rule["rewrite"]["uri"]]))
            .collect();
        let expected = [
            json!([[{"uri": {"exact": "/api"}}], itself]),
            json!([[{"uri": {"prefix": "/api/"}}], below]),
        ];
        assert_eq!(said, expected, "{to}");
    }
    let made = rewritten(json!({"type": "RequestRedirect", "requestRedirect": path("/new")}));
    let said: Vec<_> = made
        .iter()
        .map(|rule| json!([rule["match"], rule["redirect"]]))
        .collect();
    let port = "FROM_REQUEST_PORT";
    assert_eq!(
        said,
        [
            json!([[{"uri": {"exact": "/api"}}], {"uri": "/new", "derivePort": port}]),
            json!([[{"uri": {"prefix": "/api/"}}], {"prefixRewrite": "/new/", "derivePort": port}]),
        ]
    );
}

#[test]
fn filters_are_what_a_virtual_service_calls_them() {
    let set =
        json!({"set": [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}], "remove": ["x-b"]});
    let mirror = |more: Value| {
        let mut policy = json!({"backendRef": backend("copy")});
        policy
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        policy
    };
    let copy = destination("copy.books.svc.cluster.local");
    let full = json!({"path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}, "hostname": "h.example"});
    let redirect = json!({"scheme": "https", "hostname": "h.example", "statusCode": 301});
    let origins = json!({"allowOrigins": ["*", "https://a.example", "https://*.b.example", "http://c*"],
        "allowMethods": ["GET"], "allowCredentials": true, "maxAge": 5});
    for (rule, field, expected) in [
        (
            filter("RequestHeaderModifier", "requestHeaderModifier", set.clone()),
            "headers",
            json!({"request": {"set": {"x-a": "1"}, "remove": ["x-b"]}}),
        ),
        (
            filter(
                "ResponseHeaderModifier",
                "responseHeaderModifier",
                json!({"add": [{"name": "a", "value": "b"}]}),
            ),
            "headers",
            json!({"response": {"add": {"a": "b"}}}),
        ),
        (
            filter("RequestMirror", "requestMirror", mirror(json!({}))),
            "mirrors",
            json!([{"destination": copy}]),
        ),
        (
            filter(
                "RequestMirror",
                "requestMirror",
                mirror(json!({"fraction": {"numerator": 1, "denominator": 8}})),
            ),
            "mirrors",
            json!([{"destination": copy, "percentage": {"value": 12.5}}]),
        ),
        (
            filter("URLRewrite", "urlRewrite", full),
            "rewrite",
            json!({"uriRegexRewrite": {"match": "/.*", "rewrite": "/x"}, "authority": "h.example"}),
        ),
        (
            filter("RequestRedirect", "requestRedirect", redirect),
            "redirect",
            json!({"scheme": "https", "authority": "h.example", "redirectCode": 301, "derivePort": "FROM_PROTOCOL_DEFAULT"}),
        ),
        (
            filter("CORS", "cors", origins),
            "corsPolicy",
            json!({
                "allowOrigins": [
                    {"regex": translate::ANY_ORIGIN}, {"exact": "https://a.example"},
                    {"regex": r"^https://.*\.b\.example$"}, {"prefix": "http://c"},
                ],
                "allowMethods": ["GET"], "allowCredentials": true, "maxAge": "5s", "unmatchedPreflights": "IGNORE",
            }),
        ),
    ] {
        assert_eq!(one(&rule)[field], expected, "{rule}");
        assert_eq!(why_not(&rule), None, "{rule}");
    }
}

#[test]
fn backends_share_by_weight_and_none_is_an_error() {
    let weighted = |name: &str, weight: u32| json!({"name": name, "port": 8080, "weight": weight});
    let route = |backends: Value| one(&json!({"backendRefs": backends}));
    let to = |name: &str| destination(&format!("{name}.books.svc.cluster.local"));
    assert_eq!(
        route(json!([weighted("v1", 9), weighted("v2", 0), backend("v3")]))["route"],
        json!([{"destination": to("v1"), "weight": 9}, {"destination": to("v3"), "weight": 1}])
    );
    assert_eq!(
        route(json!([weighted("v1", 9), weighted("v2", 0)]))["route"],
        json!([{"destination": to("v1")}])
    );
    for none in [json!([]), json!([weighted("v1", 0)])] {
        let made = route(none);
        assert_eq!(
            (&made["directResponse"], &made["route"]),
            (&json!({"status": 500}), &Value::Null)
        );
    }
    let elsewhere = json!([{"name": "v2", "namespace": "other", "port": 8080}]);
    assert_eq!(
        route(elsewhere)["route"][0]["destination"],
        destination("v2.other.svc.cluster.local")
    );
    let hostname = json!([{"group": "networking.istio.io", "kind": "Hostname", "name": "api.example.com", "port": 8080}]);
    assert_eq!(
        route(hostname)["route"][0]["destination"],
        destination("api.example.com")
    );
}

#[test]
fn timeouts_and_retries_follow_istios_defaults() {
    for (more, timeout, retries) in [
        (json!({"timeouts": {"request": "0s"}}), Value::Null, Value::Null),
        (
            json!({"timeouts": {"request": "10s", "backendRequest": "1500ms"}}),
            json!("1.500s"),
            Value::Null,
        ),
        (
            json!({"timeouts": {"request": "10s", "backendRequest": "2s"}, "retry": {"codes": [503], "backoff": "100ms"}}),
            json!("10s"),
            json!({"attempts": 2, "retryOn": "connect-failure,refused-stream,unavailable,cancelled,503",
                "perTryTimeout": "2s", "backoff": "0.100s"}),
        ),
        (
            json!({"retry": {"attempts": 0, "codes": [503]}}),
            Value::Null,
            json!({"attempts": 0}),
        ),
    ] {
        let mut rule = json!({"backendRefs": [backend("v2")]});
        rule.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let made = one(&rule);
        assert_eq!(
            (&made["timeout"], &made["retries"]),
            (&timeout, &retries),
            "{rule}"
        );
        assert_eq!(why_not(&rule), None, "{rule}");
    }
}

#[test]
fn methods_of_grpc_are_paths() {
    for (method, matches) in [
        (
            json!({"service": "a.B", "method": "C"}),
            json!([{"uri": {"exact": "/a.B/C"}}]),
        ),
        (
            json!({"service": "a.B"}),
            json!([{"uri": {"exact": "/a.B"}}, {"uri": {"prefix": "/a.B/"}}]),
        ),
        (json!({"method": "C"}), json!([{"uri": {"regex": "/[^/]+/C"}}])),
        (
            json!({"type": "RegularExpression", "service": "a.*", "method": "C|D"}),
            json!([{"uri": {"regex": "/a.*/C|D"}}]),
        ),
        (
            json!({"type": "RegularExpression", "service": "a.*"}),
            json!([{"uri": {"regex": "/a.*/.+"}}]),
        ),
    ] {
        let rule = json!({"matches": [{"method": method}], "backendRefs": [backend("v2")]});
        let made = made::<GrpcMatch>(&json!([rule]));
        assert_eq!(made.len(), 1, "{method}");
        assert_eq!(made[0]["match"], matches, "{method}");
    }
    let headers = json!([{"name": "x-a", "value": "1"}]);
    let made =
        made::<GrpcMatch>(&json!([{"matches": [{"headers": headers}], "backendRefs": [backend("v2")]}]));
    assert_eq!(made[0]["match"], json!([{"headers": {"x-a": {"exact": "1"}}}]));
}

#[test]
fn the_more_precise_match_is_asked_first() {
    let path = |how: &str, value: &str| json!({"path": {"type": how, "value": value}});
    let with = |mut matched: Value, field: &str, value: Value| {
        matched[field] = value;
        matched
    };
    let header = |name: &str| json!({"name": name, "value": "1"});
    let root = || path("PathPrefix", "/");
    let expected = [
        path("Exact", "/a"),
        path("PathPrefix", "/a/long/one"),
        with(path("PathPrefix", "/a"), "method", json!("GET")),
        with(
            path("PathPrefix", "/a"),
            "headers",
            json!([header("x-a"), header("x-b")]),
        ),
        with(path("PathPrefix", "/a"), "headers", json!([header("x-a")])),
        with(path("PathPrefix", "/a"), "queryParams", json!([header("q")])),
        path("PathPrefix", "/a"),
        root(),
        path("RegularExpression", "/very/long/.*"),
    ];
    let names = |order: &mut dyn Iterator<Item = usize>| -> Vec<Value> {
        let rules = order.map(
            |at| json!({"name": at.to_string(), "matches": [expected[at]], "backendRefs": [backend("v2")]}),
        );
        let made = http(&rules.collect());
        made.iter().map(|rule| rule["name"].clone()).collect()
    };
    let wanted: Vec<_> = (0..expected.len()).map(|at| json!(at.to_string())).collect();
    assert_eq!(names(&mut (0..expected.len()).rev()), wanted);
    assert_eq!(names(&mut (0..expected.len())), wanted);
    // Each match of a rule has a place of its own, and a rule without one is the last.
    let made = http(&json!([
        {"name": "all", "backendRefs": [backend("v1")]},
        {"name": "two", "matches": [root(), path("Exact", "/a")], "backendRefs": [backend("v2")]},
        {"name": "one", "matches": [path("PathPrefix", "/a")], "backendRefs": [backend("v3")]},
    ]));
    let names: Vec<_> = made.iter().map(|rule| rule["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["two", "one", "two", "all"]);
}

#[test]
fn a_route_that_istiod_cannot_read_has_no_rules() {
    for rule in [
        json!({"filters": [{"type": "ExtensionRef"}], "backendRefs": [backend("v2")]}),
        json!({"matches": [{"path": {"type": "Other"}}], "backendRefs": [backend("v2")]}),
        json!({"backendRefs": [{"name": "v2"}]}),
        json!({"backendRefs": [backend("v2.books")]}),
        filter(
            "RequestHeaderModifier",
            "requestHeaderModifier",
            json!({"set": [{"name": "a", "value": "b\n"}]}),
        ),
    ] {
        let good = json!({"backendRefs": [backend("v2")]});
        assert_eq!(http(&json!([good, rule])), [Value::Null; 0], "{rule}");
    }
}

#[test]
fn what_istio_would_refuse_is_not_written() {
    let set = |value: Value| json!({"set": [value]});
    let regex = |text: &str| json!({"matches": [{"path": {"type": "RegularExpression", "value": text}}], "backendRefs": [backend("v2")]});
    let twice = json!({"filters": [
        {"type": "URLRewrite", "urlRewrite": {"hostname": "a.example"}},
        {"type": "RequestHeaderModifier", "requestHeaderModifier": set(json!({"name": "Host", "value": "b.example"}))},
    ], "backendRefs": [backend("v2")]});
    let hostname = |name: &str| json!({"backendRefs": [{"group": "networking.istio.io", "kind": "Hostname", "name": name, "port": 80}]});
    let remove = |name: &str| {
        filter(
            "RequestHeaderModifier",
            "requestHeaderModifier",
            json!({"remove": [name]}),
        )
    };
    let no_path =
        json!({"path": {"type": "ReplaceFullPath", "replaceFullPath": ""}, "hostname": "a.example"});
    let long: Vec<_> = (0..9)
        .map(|at| json!({"name": format!("x-{at}"), "value": "a".repeat(4096)}))
        .collect();
    for (rule, because) in [
        (hostname("10.0.0.1"), "no DNS name"),
        (hostname("a.1"), "no DNS name"),
        (hostname("*.1"), "no DNS name"),
        (filter("URLRewrite", "urlRewrite", no_path), "with nothing"),
        (remove(""), "no header has"),
        (remove(":path"), "no header has"),
        (
            json!({"backendRefs": [backend("v2")], "retry": {"attempts": 3_000_000_000_u32}}),
            "more often",
        ),
        (
            filter(
                "RequestHeaderModifier",
                "requestHeaderModifier",
                json!({"set": long}),
            ),
            "too large",
        ),
        (
            json!({"backendRefs": [{"group": "x.example", "kind": "Pool", "name": "v2", "port": 80}]}),
            "neither a Service",
        ),
        (json!({"backendRefs": [backend("v_2")]}), "no DNS name"),
        (regex("("), "regular expression"),
        (regex("(?x)/a"), "regular expression"),
        (regex(&"a".repeat(1025)), "regular expression"),
        (twice, "host twice"),
        (
            filter(
                "RequestHeaderModifier",
                "requestHeaderModifier",
                json!({"remove": ["Host"]}),
            ),
            "header host",
        ),
        (
            filter(
                "ResponseHeaderModifier",
                "responseHeaderModifier",
                set(json!({"name": "host", "value": "a"})),
            ),
            "header host",
        ),
        (
            filter(
                "RequestHeaderModifier",
                "requestHeaderModifier",
                set(json!({"name": "a", "value": "100%"})),
            ),
            "with %",
        ),
        (
            json!({"backendRefs": [backend("v2")], "retry": {"codes": [499]}}),
            "a status",
        ),
    ] {
        let said = why_not(&rule);
        assert!(
            said.is_some_and(|said| said.contains(because)),
            "{rule}: {said:?}"
        );
    }
    let host = filter(
        "RequestHeaderModifier",
        "requestHeaderModifier",
        set(json!({"name": "host", "value": "a.example"})),
    );
    assert_eq!(why_not(&host), None, "to set the host is to rewrite it");
}
