//! What istiod makes of routes otherwise than one would expect.

use super::*;

/// One that istiod cannot find or read costs an HTTPRoute the copy, and a GRPCRoute all of its rules.
#[test]
fn a_copy_to_nowhere_costs_a_grpc_route_its_rules() {
    for to in [
        json!({"name": "shadow.books", "port": 8080}),
        json!({"group": "example.com", "kind": "Bucket", "name": "b", "port": 8080}),
    ] {
        let rules = json!([filter(
            "RequestMirror",
            "requestMirror",
            json!({"backendRef": to})
        )]);
        let of_http = http(&rules);
        assert_eq!(
            of_http[0]["route"][0]["destination"]["host"], "v2.books.svc.cluster.local",
            "{to}"
        );
        assert!(of_http[0]["mirrors"].is_null(), "{to}");
        assert_eq!(made::<GrpcMatch>(&rules), [Value::Null; 0], "{to}");
    }
}

/// Unlike that of a rewrite.
#[test]
fn the_slash_at_the_end_of_a_redirects_new_prefix_stays() {
    for (to, below) in [
        ("/new", json!("/new/")),
        ("/new/", json!("/new//")),
        ("/", json!("//")),
    ] {
        let path = json!({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": to}});
        let mut rule = filter("RequestRedirect", "requestRedirect", path);
        rule["matches"] = json!([{"path": {"value": "/old"}}]);
        let made = http(&json!([rule]));
        assert_eq!(made[0]["redirect"]["uri"], to);
        assert_eq!(made[1]["redirect"]["prefixRewrite"], below, "{to}");
    }
    let path = json!({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": ""}});
    let redirect = &one(&filter("RequestRedirect", "requestRedirect", path))["redirect"];
    assert!(redirect["prefixRewrite"].is_null(), "an empty one is none");
}

/// istiod sorts by `<route>~…`, and `-` comes before `~`.
#[test]
fn of_routes_of_one_second_the_longer_name_may_come_first() {
    let mut routes = Routes::default();
    let mut last = Vec::new();
    for name in ["reviews", "reviews-canary"] {
        let parent = json!({"group": "", "kind": "Service", "name": "reviews"});
        let spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": [backend(name)]}]});
        let spec: RouteSpec<HttpMatch> = serde_json::from_value(spec).unwrap();
        let config = ConfigKey::new("books", name);
        let facts = RouteFacts::of(&spec, &config, Timestamp::UNIX_EPOCH);
        let kind = RouteKind::Http;
        last = routes.set(&RouteKey { config, kind }, facts);
    }
    let (_, facts) = last.remove(0);
    let first = &facts.unwrap().http[0]["route"][0]["destination"]["host"];
    assert_eq!(*first, "reviews-canary.books.svc.cluster.local");
}
