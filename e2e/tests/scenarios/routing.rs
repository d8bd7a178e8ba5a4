//! The users' own VirtualServices: what they say holds on the first call as on every later one.
//!
//! Two servers, `c` and `d`. Services in front of `c` have rules that send their callers to `d`, change the
//! request, or answer themselves.

use anyhow::{Result, anyhow, ensure};
use futures_util::future::try_join_all;
use servicefence_e2e::install::{GATEWAY, SOON};
use servicefence_e2e::wait::{Hopeless, until};
use servicefence_e2e::{Call, Protocol, Reply, Taken, Via};

use crate::scene::Scene;

crate::scenarios![
    a6_weights_hold_on_first_calls_and_later,
    a6_rules_for_requests_hold_on_first_calls_and_later,
    a6_rules_of_the_callers_namespace_hold_for_its_callers_only,
];

/// A caller in `<topic>`, servers `c` and `d` in `<topic>-books`, and the named Services in front of `c`.
pub(crate) async fn books(scene: &Scene, topic: &str, services: &[&str]) -> Result<()> {
    let app = |name: &str| scene.app(&format!("{topic}{name}")).http(8080);
    scene.add([app("/web"), app("-books/c"), app("-books/d")]).await?;
    for name in services {
        let name = format!("{topic}-books/{name}");
        scene.service(&name, "c", Protocol::Http, 8080).await?;
    }
    Ok(())
}

/// A VirtualService for a host of `<topic>-books`, in that namespace or another one.
pub(crate) async fn rules(scene: &Scene, namespace: &str, host: &str, more: &str) -> Result<()> {
    let name = host.split('.').next().unwrap_or(host);
    scene
        .yaml(&format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, \
             metadata: {{name: {name}, namespace: $P-{namespace}}}, spec: {{hosts: [{host}], {more}}}}}"
        ))
        .await
}

fn gateway() -> Via {
    Via::Through(GATEWAY.to_owned())
}

/// 70 of 100 calls to `split` belong to `c`, the others to `d`.
async fn a6_weights_hold_on_first_calls_and_later(scene: Scene) -> Result<()> {
    const CALLS: usize = 240;
    books(&scene, "weights", &["split"]).await?;
    let http =
        "http: [{route: [{destination: {host: c}, weight: 70}, {destination: {host: d}, weight: 30}]}]";
    rules(&scene, "weights-books", "split", http).await?;
    scene.enforce("weights", &["web"]).await?;

    let from = scene.pod("weights/web");
    let url = format!("http://{}:8080/", scene.host("weights-books/split"));
    let (c, d) = (scene.pod("weights-books/c"), scene.pod("weights-books/d"));
    // At once from many connections: all before the first of them can have changed the scope.
    let calls = async |count: usize| {
        let clients = (0..12).map(async |_| {
            let mut client = scene.mesh.http_client(&from, &url).await?;
            let mut replies = Vec::new();
            for _ in 0..count / 12 {
                let reply = client.get("/").await;
                ensure!(reply.is_from(&c) || reply.is_from(&d), "{reply}");
                replies.push(reply);
            }
            Ok(replies)
        });
        anyhow::Ok(try_join_all(clients).await?.concat())
    };
    let share = |replies: &[Reply]| {
        let to_d = replies.iter().filter(|reply| reply.is_from(&d)).count();
        to_d * 100 / replies.len()
    };
    let mut first = calls(CALLS).await?;
    first.retain(|reply| reply.via == Some(gateway()));
    ensure!(
        first.len() >= 100,
        "only {} calls went through the gateway",
        first.len()
    );
    // Five standard deviations around 30 %, at the fewest calls.
    ensure!(
        (7..=53).contains(&share(&first)),
        "{} % of the first calls reached d",
        share(&first)
    );

    scene.learned("weights/web", "weights-books/split").await?;
    let call = Call::get(&url);
    until("direct calls", SOON, async || {
        let (reply, taken) = scene.call("weights/web", &call).await?;
        succeeds(&reply, &taken)?;
        ensure!(
            reply.via == Some(Via::Direct) && !taken.fallback(),
            "{reply}, by {taken}"
        );
        Ok(())
    })
    .await?;
    let proxy = scene.mesh.proxy(&from)?;
    let (later, taken) = proxy.watch(calls(CALLS)).await?;
    let later = later?;
    ensure!(
        later.iter().all(|reply| reply.via == Some(Via::Direct)),
        "not all were direct"
    );
    ensure!(
        taken.uses(&scene.host("weights-books/c")) && taken.uses(&scene.host("weights-books/d")),
        "they went by {taken}"
    );
    ensure!(
        (15..=45).contains(&share(&later)),
        "{} % of the later calls reached d",
        share(&later)
    );
    // The host that was called is what is learned; where its rules lead comes along by itself.
    let learned = scene.learned_hosts("weights/web").await?;
    ensure!(
        learned == [scene.host("weights-books/split")].into(),
        "learned: {learned:?}"
    );
    Ok(())
}

/// What is wanted of every call on the way, or waiting has no sense.
fn succeeds(reply: &Reply, taken: &Taken) -> Result<()> {
    if reply.is_ok() {
        return Ok(());
    }
    Err(Hopeless(anyhow!("{reply}, by {taken}")).into())
}

/// One rule, a call that it concerns, and what has to come of it.
struct Case {
    service: &'static str,
    http: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    holds: fn(&Scene, &Reply) -> Result<()>,
}

/// The rules that the root of [`CASES`] delegates to.
const DELEGATE: &str = "{apiVersion: networking.istio.io/v1, kind: VirtualService, \
                        metadata: {name: of-api, namespace: $P-rules-books}, spec: {http: [\
                        {match: [{uri: {prefix: /api/books}}], headers: {request: {set: {x-rule: delegate}}}, \
                        route: [{destination: {host: d}}]}, {route: [{destination: {host: c}}]}]}}";

const CASES: [Case; 8] = [
    Case {
        service: "delegating",
        http: "[{match: [{uri: {prefix: /api}}], delegate: {name: of-api}}, {route: [{destination: {host: c}}]}]",
        path: "/api/books/1",
        headers: &[],
        holds: |scene, reply| {
            ensure!(reply.is_from(&scene.pod("rules-books/d")));
            ensure!(
                reply.received("x-rule") == ["delegate"],
                "x-rule {:?}",
                reply.received("x-rule")
            );
            Ok(())
        },
    },
    Case {
        service: "header",
        http: "[{match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: d}}]}, \
                {route: [{destination: {host: c}}]}]",
        path: "/",
        headers: &[("end-user", "jason")],
        holds: |scene, reply| {
            ensure!(reply.is_from(&scene.pod("rules-books/d")));
            Ok(())
        },
    },
    Case {
        service: "default",
        http: "[{match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: d}}]}, \
                {route: [{destination: {host: c}}]}]",
        path: "/",
        headers: &[("end-user", "other")],
        holds: |scene, reply| {
            ensure!(reply.is_from(&scene.pod("rules-books/c")));
            Ok(())
        },
    },
    Case {
        service: "rewrite",
        http: "[{match: [{uri: {prefix: /old}}], rewrite: {uri: /new, authority: www.example.com}, \
                headers: {request: {set: {x-rule: held}}, response: {set: {x-answer: held}}}, \
                route: [{destination: {host: d}}]}]",
        path: "/old/page?a=b",
        headers: &[],
        holds: |scene, reply| {
            ensure!(reply.is_from(&scene.pod("rules-books/d")));
            let told = reply.json();
            ensure!(
                told["path"] == "/new/page" && told["query"] == "a=b",
                "path {}",
                told["path"]
            );
            ensure!(told["host"] == "www.example.com", "host {}", told["host"]);
            ensure!(
                reply.received("x-rule") == ["held"],
                "x-rule {:?}",
                reply.received("x-rule")
            );
            ensure!(
                reply.headers.get("x-answer").is_some_and(|value| value == "held"),
                "no x-answer"
            );
            Ok(())
        },
    },
    Case {
        service: "redirect",
        http: "[{redirect: {uri: /elsewhere, redirectCode: 307}}]",
        path: "/here",
        headers: &[],
        holds: |scene, reply| {
            let location = reply
                .headers
                .get("location")
                .map(|value| value.to_str().unwrap_or_default());
            let wanted = format!("http://{}:8080/elsewhere", scene.host("rules-books/redirect"));
            ensure!(
                reply.status == Some(307) && location == Some(&wanted),
                "to {location:?}"
            );
            Ok(())
        },
    },
    Case {
        service: "timeout",
        http: "[{timeout: 400ms, route: [{destination: {host: c}}]}]",
        path: "/slow?ms=3000",
        headers: &[],
        holds: |_, reply| {
            ensure!(reply.status == Some(504) && reply.elapsed.as_millis() < 2_500);
            Ok(())
        },
    },
    Case {
        service: "fault",
        http: "[{fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, route: [{destination: {host: c}}]}]",
        path: "/",
        headers: &[],
        holds: |_, reply| {
            ensure!(reply.status == Some(418));
            Ok(())
        },
    },
    Case {
        service: "nowhere",
        http: "[{match: [{uri: {prefix: /only}}], route: [{destination: {host: c}}]}]",
        path: "/other",
        headers: &[],
        holds: |_, reply| {
            ensure!(reply.status == Some(404) && reply.body.is_empty());
            Ok(())
        },
    },
];

async fn a6_rules_for_requests_hold_on_first_calls_and_later(scene: Scene) -> Result<()> {
    books(&scene, "rules", &CASES.map(|case| case.service)).await?;
    scene.yaml(DELEGATE).await?;
    for case in &CASES {
        let http = format!("http: {}", case.http);
        rules(&scene, "rules-books", case.service, &http).await?;
    }
    scene.enforce("rules", &["web"]).await?;
    for case in &CASES {
        let host = scene.host(&format!("rules-books/{}", case.service));
        let mut call = Call::get(&format!("http://{host}:8080{}", case.path));
        for (name, value) in case.headers {
            call = call.header(name, value);
        }
        let holds = |reply: &Reply, taken: &Taken| {
            (case.holds)(&scene, reply)
                .map_err(|error| anyhow!("{}: {error:#}: {reply}, by {taken}", case.service))
        };
        let (reply, taken) = scene.call("rules/web", &call).await?;
        ensure!(
            taken.fallback(),
            "{}: the first call went by {taken}: {reply}",
            case.service
        );
        if reply.served_by.is_some() {
            ensure!(
                reply.via == Some(gateway()),
                "{}: the server saw {:?}",
                case.service,
                reply.via
            );
        }
        holds(&reply, &taken)?;
        until(format!("a direct call to {}", case.service), SOON, async || {
            let (reply, taken) = scene.call("rules/web", &call).await?;
            holds(&reply, &taken).map_err(Hopeless)?;
            ensure!(!taken.fallback(), "by {taken}");
            if reply.served_by.is_some() {
                ensure!(reply.via == Some(Via::Direct), "the server saw {:?}", reply.via);
            }
            Ok(())
        })
        .await?;
    }
    // `d` by its own name needs no rule.
    let call = Call::get(&format!("http://{}:8080/", scene.host("rules-books/d")));
    scene.first_call("rules/web", "rules-books/d", &call).await?;
    scene.until_direct("rules/web", "rules-books/d", &call).await?;
    Ok(())
}

/// A rule that stands in a caller's namespace with `exportTo: ["."]` concerns the callers there and no
/// others.
async fn a6_rules_of_the_callers_namespace_hold_for_its_callers_only(scene: Scene) -> Result<()> {
    let other = async { scene.add([scene.app("private-other/web").http(8080)]).await };
    tokio::try_join!(books(&scene, "private", &["host"]), other)?;
    let (host, d) = (scene.host("private-books/host"), scene.host("private-books/d"));
    let http = format!("exportTo: [\".\"], http: [{{route: [{{destination: {{host: {d}}}}}]}}]");
    rules(&scene, "private", &host, &http).await?;
    tokio::try_join!(
        scene.enforce("private", &["web"]),
        scene.enforce("private-other", &["web"])
    )?;
    let call = Call::get(&format!("http://{host}:8080/"));
    for (from, to) in [
        ("private/web", "private-books/d"),
        ("private-other/web", "private-books/c"),
    ] {
        scene.first_call(from, to, &call).await?;
        until(format!("a direct call from {from}"), SOON, async || {
            let (reply, taken) = scene.call(from, &call).await?;
            if !reply.is_from(&scene.pod(to)) {
                return Err(Hopeless(anyhow!("{reply}, by {taken}")).into());
            }
            ensure!(
                !taken.fallback() && reply.via == Some(Via::Direct),
                "{reply}, by {taken}"
            );
            Ok(())
        })
        .await?;
    }
    let (books, private) = (scene.ns("private-books"), scene.ns("private"));
    let scope = scene.scope("private/web").await?;
    for namespace in [&books, &private] {
        let wanted = format!("{namespace}/{host}");
        ensure!(scope.contains(&wanted), "{wanted} is not in {scope:?}");
    }
    let scope = scene.scope("private-other/web").await?;
    ensure!(
        !scope.contains(&format!("{private}/{host}")),
        "it is not of {scope:?}"
    );
    Ok(())
}
