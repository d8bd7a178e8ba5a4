use serde_json::json;

use crate::mesh::rules::delegate::*;

fn rules(text: Value) -> Vec<Rule> {
    serde_json::from_value(text).unwrap()
}

/// The rules of a root in `shop`; all its delegates in `books` have these.
fn merged(root: Value, delegate: Value) -> Value {
    let (root, delegate) = (rules(root), rules(delegate));
    json!(effective(&root, "shop", |_| Some(&delegate)))
}

/// What a root's match and a delegate's make together.
#[allow(clippy::needless_pass_by_value, reason = "tests write json!(…) in place")]
fn matches(root: Value, delegate: Value) -> Option<Value> {
    let merged = merged(
        json!([{"delegate": {"name": "d", "namespace": "books"}, "match": root}]),
        json!([{"match": delegate, "redirect": {"uri": "/"}}]),
    );
    merged.get(0).map(|rule| rule["match"].clone())
}

#[test]
fn a_rule_is_replaced_by_those_of_its_delegate_and_others_stay_as_they_are() {
    let root = rules(json!([
        {"route": [{"destination": {"host": "own"}}]},
        {"delegate": {"name": "here"}, "timeout": "3s"},
        {"delegate": {"name": "there", "namespace": "books"}},
        {"delegate": {"name": "missing"}},
        {"delegate": null, "redirect": {"uri": "/"}},
    ]));
    let (here, there) = (
        rules(json!([{"route": [{"destination": {"host": "a"}}]}, {"redirect": {"uri": "/b"}}])),
        rules(json!([{"route": [{"destination": {"host": "c"}}]}])),
    );
    let effective = effective(&root, "shop", |key| match key.to_string().as_str() {
        "shop/here" => Some(&here),
        "books/there" => Some(&there),
        _ => None,
    });
    assert_eq!(
        json!(effective),
        json!([
            {"route": [{"destination": {"host": "own"}}]},
            {"route": [{"destination": {"host": "a.shop.svc.cluster.local"}}], "timeout": "3s"},
            {"redirect": {"uri": "/b"}, "timeout": "3s"},
            {"route": [{"destination": {"host": "c.books.svc.cluster.local"}}]},
            {"delegate": null, "redirect": {"uri": "/"}},
        ])
    );
    let named: Vec<_> = named_by(&root, "shop").iter().map(ToString::to_string).collect();
    assert_eq!(named, ["books/there", "shop/here", "shop/missing"]);
}

#[test]
fn a_delegates_rule_has_the_roots_fields_where_it_has_none_and_hosts_are_of_who_wrote_them() {
    let root = json!([{
        "name": "root", "delegate": {"name": "d", "namespace": "books"},
        "rewrite": {"uri": "/r"}, "timeout": "1s", "retries": {"attempts": 1}, "fault": {"abort": {"httpStatus": 500}},
        "mirror": {"host": "shadow"}, "mirrorPercent": 1, "mirrorPercentage": {"value": 2}, "corsPolicy": {},
        "headers": {"request": {"remove": ["x"]}},
    }]);
    let mut all = root[0].clone();
    all.as_object_mut().unwrap().remove("delegate");
    all["mirror"]["host"] = "shadow.shop.svc.cluster.local".into();
    all["route"] = json!([{"destination": {"host": "v2.books.svc.cluster.local"}}]);
    let route = json!([{"destination": {"host": "v2"}}]);
    assert_eq!(
        merged(root.clone(), json!([{"route": route, "mirrors": []}]))[0]["timeout"],
        "1s"
    );
    assert_eq!(merged(root.clone(), json!([{"route": route}])), json!([all]));

    let own = json!({
        "name": "own", "route": [], "rewrite": {}, "timeout": "0s", "retries": {}, "fault": {}, "mirror": {"host": "m"},
        "mirror_percent": 5, "mirrorPercentage": {}, "corsPolicy": {"maxAge": "1s"}, "headers": {},
    });
    let mut expected = own.clone();
    expected["name"] = "root-own".into();
    expected["mirror"]["host"] = "m.books.svc.cluster.local".into();
    assert_eq!(merged(root, json!([own])), json!([expected]));

    let root = json!([{"delegate": {"name": "d", "namespace": "books"}, "mirrors": [{"destination": {"host": "m"}}]}]);
    let merged = merged(root, json!([{"route": route}]));
    assert_eq!(
        merged[0]["mirrors"][0]["destination"]["host"],
        "m.shop.svc.cluster.local"
    );
}

#[test]
fn of_several_answers_the_one_that_istio_gives_is_left() {
    let delegate = json!({"name": "d", "namespace": "books"});
    let root = json!([{"delegate": delegate, "directResponse": {"status": 503}, "rewrite": {"uri": "/r"}}]);
    assert_eq!(
        merged(
            root.clone(),
            json!([{"route": [{"destination": {"host": "v2"}}]}])
        ),
        json!([{"directResponse": {"status": 503}}])
    );
    assert_eq!(
        merged(root, json!([{"redirect": {"uri": "/"}}])),
        json!([{"redirect": {"uri": "/"}}])
    );
}

#[test]
fn without_matches_on_one_side_the_others_are_used() {
    let one = json!([{"uri": {"prefix": "/a"}}]);
    for (root, delegate, expected) in [
        (one.clone(), json!([]), one.clone()),
        (json!([]), one.clone(), one.clone()),
        (json!(null), json!(null), json!(null)),
    ] {
        assert_eq!(matches(root, delegate), Some(expected));
    }
}

#[test]
fn every_match_of_a_delegate_fits_one_of_the_root_or_the_rule_is_dropped() {
    let root = json!([{"uri": {"prefix": "/a"}}, {"uri": {"prefix": "/a/b"}}, {"uri": {"prefix": "/c"}, "port": 80}]);
    assert_eq!(
        matches(
            root.clone(),
            json!([{"uri": {"prefix": "/a/b/c"}}, {"uri": {"exact": "/c"}}])
        ),
        Some(json!([
            {"uri": {"prefix": "/a/b/c"}},
            {"uri": {"prefix": "/a/b/c"}},
            {"uri": {"exact": "/c"}, "port": 80},
        ]))
    );
    assert_eq!(
        matches(
            root,
            json!([{"uri": {"prefix": "/a/b"}}, {"uri": {"prefix": "/d"}}])
        ),
        None
    );
    assert_eq!(matches(json!([1]), json!([2])), None, "malformed");
}

#[test]
fn a_merged_match_has_what_either_says_and_the_delegates_word_counts() {
    assert_eq!(
        matches(
            json!([{
                "name": "r", "uri": {"prefix": "/"}, "method": {"exact": "GET"}, "port": 80, "sourceNamespace": "x",
                "headers": {"a": {"prefix": "1"}, "b": {"exact": "2"}}, "queryParams": {"q": {"exact": "1"}},
                "withoutHeaders": {"w": {}}, "sourceLabels": {"app": "web"}, "gateways": ["mesh", "edge"], "statPrefix": "r",
            }]),
            json!([{
                "name": "d", "uri": {"exact": "/a"}, "sourceNamespace": "x", "headers": {"a": {"exact": "12"}, "c": {"regex": "3"}},
                "sourceLabels": {"version": "v1"}, "gateways": ["mesh"], "statPrefix": "",
            }]),
        ),
        Some(json!([{
            "name": "r-d", "uri": {"exact": "/a"}, "method": {"exact": "GET"}, "port": 80, "sourceNamespace": "x",
            "headers": {"a": {"exact": "12"}, "b": {"exact": "2"}, "c": {"regex": "3"}}, "queryParams": {"q": {"exact": "1"}},
            "withoutHeaders": {"w": {}}, "sourceLabels": {"app": "web", "version": "v1"}, "gateways": ["mesh"], "statPrefix": "r",
        }]))
    );
}

#[test]
fn strings_fit_as_istio_has_it() {
    let (exact, prefix, regex) = (
        |text: &str| json!({"exact": text}),
        |text: &str| json!({"prefix": text}),
        |text: &str| json!({"regex": text}),
    );
    for (root, delegate, fits) in [
        (exact("/a"), exact("/a"), true),
        (exact("/a"), exact("/ab"), false),
        (exact("/a"), prefix("/a"), false),
        (prefix("/a"), prefix("/ab"), true),
        (prefix("/ab"), prefix("/a"), false),
        (prefix("/a"), exact("/ab"), true),
        (prefix("/ab"), exact("/a"), false),
        (regex("/a"), regex("/a"), false),
        (regex("/a"), exact("/a"), false),
        (prefix("/a"), regex("/a"), false),
        (regex("/a"), json!(null), true),
        (json!(null), regex("/a"), true),
        (json!({}), json!({}), false),
    ] {
        for field in ["uri", "scheme", "method", "authority"] {
            let merged = matches(json!([{field: root}]), json!([{field: delegate}]));
            assert_eq!(merged.is_some(), fits, "{field}: {root} {delegate}");
        }
        for field in ["headers", "withoutHeaders", "queryParams"] {
            let merged = matches(json!([{field: {"x": root}}]), json!([{field: {"x": delegate}}]));
            assert_eq!(merged.is_some(), fits, "{field}: {root} {delegate}");
        }
    }
}

#[test]
fn everything_else_fits_as_istio_has_it() {
    for (root, delegate, fits) in [
        (
            json!({"headers": {"a": {"exact": "1"}}}),
            json!({"headers": {"b": {"regex": "2"}}}),
            true,
        ),
        (
            json!({"ignoreUriCase": true}),
            json!({"ignoreUriCase": true}),
            true,
        ),
        (json!({"ignoreUriCase": true}), json!({}), false),
        (json!({}), json!({"ignoreUriCase": true}), false),
        (json!({"ignoreUriCase": false}), json!({}), true),
        (json!({"port": 80}), json!({}), true),
        (json!({"port": 80}), json!({"port": 0}), true),
        (json!({"port": 80}), json!({"port": 81}), false),
        (
            json!({"sourceNamespace": "a"}),
            json!({"sourceNamespace": "a"}),
            true,
        ),
        (json!({"sourceNamespace": "a"}), json!({}), false),
        (json!({}), json!({"sourceNamespace": "a"}), true),
        (
            json!({"sourceLabels": {"a": "1"}}),
            json!({"sourceLabels": {"b": "2"}}),
            true,
        ),
        (
            json!({"sourceLabels": {"a": "1"}}),
            json!({"sourceLabels": {"a": "2"}}),
            false,
        ),
        (
            json!({"gateways": ["mesh", "edge"]}),
            json!({"gateways": ["mesh"]}),
            true,
        ),
        (
            json!({"gateways": ["mesh"]}),
            json!({"gateways": ["mesh", "mesh"]}),
            false,
        ),
        // Each names the one of its own namespace, but where it says another.
        (
            json!({"gateways": ["edge"]}),
            json!({"gateways": ["edge"]}),
            false,
        ),
        (
            json!({"gateways": ["books/edge"]}),
            json!({"gateways": ["./edge"]}),
            true,
        ),
        (
            json!({"gateways": ["./edge"]}),
            json!({"gateways": ["edge.shop.svc.cluster.local"]}),
            true,
        ),
    ] {
        let merged = matches(json!([root]), json!([delegate]));
        assert_eq!(merged.is_some(), fits, "{root} {delegate}");
    }
}

#[test]
fn what_istio_would_not_store_is_found() {
    for (rule, refused) in [
        (json!({"redirect": {"uri": "/"}, "fault": {}}), true),
        (json!({"directResponse": {"status": 503}, "fault": {}}), true),
        (json!({"route": [{}], "fault": {}}), false),
        (json!({"mirror": {"host": "a"}, "mirrors": [{}]}), true),
        (json!({"mirror": {"host": "a"}, "mirrors": []}), false),
        (
            json!({"rewrite": {"authority": "a"}, "headers": {"request": {"set": {"Host": "b"}}}}),
            true,
        ),
        (
            json!({"rewrite": {"uri": "/a"}, "headers": {"request": {"set": {"Host": "b"}}}}),
            false,
        ),
        (
            json!({"redirect": {"prefixRewrite": "/b"}, "match": [{"uri": {"exact": "/a"}}]}),
            true,
        ),
        (
            json!({"redirect": {"prefixRewrite": "/b"}, "match": [{"uri": {"prefix": "/a"}}, {}]}),
            false,
        ),
        (
            json!({"match": 1, "rewrite": 2, "headers": 3, "redirect": 4, "mirror": 5}),
            false,
        ),
    ] {
        assert_eq!(is_refused(rule.as_object().unwrap()), refused, "{rule}");
    }
}
