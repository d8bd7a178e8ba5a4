//! Opt-in, learning and scopes.

use anyhow::{Result, ensure};
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Call, PodSpec, Protocol};

use crate::scene::Scene;

crate::scenarios![
    a1_a_label_makes_a_fence_per_service,
    a3_a_first_call_works_and_the_next_goes_direct,
    a4_a_shop_ends_with_exactly_what_it_calls,
    a5_what_is_allowed_is_direct_from_the_first_call,
    a5n_a_namespace_and_services_by_label_are_direct_from_the_first_call,
    jobs_are_fenced_by_their_labels_and_learn,
    policy_a_caller_that_is_let_in_by_name_is_never_refused,
    a10_a_new_http_port_number_works_at_once,
    the_port_of_the_second_listener_is_a_port_like_any_other,
];

async fn a1_a_label_makes_a_fence_per_service(scene: Scene) -> Result<()> {
    scene
        .add([
            scene.app("shop/web").http(8080),
            scene.app("shop/cart").http(8080),
        ])
        .await?;
    scene
        .yaml(
            "
apiVersion: v1
kind: Service
metadata: {name: manual, namespace: $P-shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: $P-shop}
spec: {type: ExternalName, externalName: www.example.com}
",
        )
        .await?;
    scene.enforce("shop", &["web", "cart"]).await?;
    let fences = scene
        .kubectl(&["-n", "$P-shop", "get", "sf", "-o", "name"])
        .await?;
    let fences: Vec<_> = fences.lines().collect();
    ensure!(
        fences
            == [
                "servicefence.servicefence.io/cart",
                "servicefence.servicefence.io/web"
            ],
        "the fences are {fences:?}"
    );
    let sidecars = scene
        .kubectl(&["-n", "$P-shop", "get", "sidecars", "-o", "name"])
        .await?;
    ensure!(sidecars.lines().count() == 2, "the Sidecars are {sidecars}");
    Ok(())
}

async fn a3_a_first_call_works_and_the_next_goes_direct(scene: Scene) -> Result<()> {
    scene
        .add([
            scene.app("shop/web").http(8080),
            scene.app("books/reviews").http(8080),
        ])
        .await?;
    scene.enforce("shop", &["web"]).await?;
    ensure!(
        scene.scope("shop/web").await?.is_empty(),
        "the scope is not empty before any call"
    );
    let call = Call::get("http://reviews.a3-books:8080/");
    let first = scene.first_call("shop/web", "books/reviews", &call).await?;
    for ours in ["x-servicefence-original-dst", "x-servicefence-source"] {
        ensure!(first.received(ours).is_empty(), "the destination sees {ours}");
    }
    scene.learned("shop/web", "books/reviews").await?;
    scene.until_direct("shop/web", "books/reviews", &call).await?;
    Ok(())
}

async fn a4_a_shop_ends_with_exactly_what_it_calls(scene: Scene) -> Result<()> {
    let apps = ["productpage", "details", "reviews", "ratings", "unused"];
    scene
        .add(apps.map(|app| scene.app(&format!("shop/{app}")).http(9080)))
        .await?;
    scene.enforce("shop", &apps).await?;
    for (from, to) in [
        ("productpage", "details"),
        ("productpage", "reviews"),
        ("reviews", "ratings"),
    ] {
        let call = Call::get(&format!("http://{to}:9080/"));
        scene
            .first_call(&format!("shop/{from}"), &format!("shop/{to}"), &call)
            .await?;
    }
    for (from, to) in [
        ("productpage", "details"),
        ("productpage", "reviews"),
        ("reviews", "ratings"),
    ] {
        let call = Call::get(&format!("http://{to}:9080/"));
        scene
            .until_direct(&format!("shop/{from}"), &format!("shop/{to}"), &call)
            .await?;
    }
    let host = |name: &str| format!("a4-shop/{}", scene.host(&format!("shop/{name}")));
    let is = |name: &'static str| async { scene.scope(name).await };
    ensure!(is("shop/productpage").await? == [host("details"), host("reviews")]);
    ensure!(is("shop/reviews").await? == [host("ratings")]);
    for quiet in ["shop/details", "shop/ratings", "shop/unused"] {
        ensure!(is(quiet).await?.is_empty(), "{quiet} has hosts in scope");
    }
    Ok(())
}

async fn a5_what_is_allowed_is_direct_from_the_first_call(scene: Scene) -> Result<()> {
    scene
        .add([
            scene.app("shop/web").http(8080),
            scene.app("shop/cart").http(8080),
            scene.app("books/reviews").http(8080),
            scene.app("books/ratings").http(8080),
        ])
        .await?;
    scene
        .yaml(
            "
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: web, namespace: $P-shop}
spec:
  mode: Enforce
  allow:
  - host: cart
  - {host: reviews.$P-books, reason: nightly report}
  - host: ratings.$P-books.svc.cluster.local
",
        )
        .await?;
    scene
        .mesh
        .wait_condition("a5-shop", "web", "Enforced", "True")
        .await?;
    scene.mesh.wait_at_rest("a5-shop").await?;
    let hosts = ["books/ratings", "books/reviews", "shop/cart"].map(|name| scene.import(name));
    let scope = scene.scope("shop/web").await?;
    ensure!(scope == hosts, "{scope:?}");
    for (to, host) in [
        ("shop/cart", "cart"),
        ("books/reviews", "reviews.a5-books"),
        ("books/ratings", "ratings.a5-books.svc"),
    ] {
        let call = Call::get(&format!("http://{host}:8080/"));
        let (reply, taken) = scene.call("shop/web", &call).await?;
        ensure!(
            reply.is_from(&scene.pod(to)) && !taken.fallback(),
            "{to}: {reply}, by {taken}"
        );
    }
    Ok(())
}

async fn a5n_a_namespace_and_services_by_label_are_direct_from_the_first_call(scene: Scene) -> Result<()> {
    scene
        .add([
            scene.app("shop/web").http(8080),
            scene.app("books/reviews").http(8080),
            scene.app("money/ledger").http(8080),
        ])
        .await?;
    for (service, labels) in [
        ("ledger", &["tier=core"][..]),
        ("other", &["tier=core", "old=yes"]),
        ("audit", &["tier=edge", "team=money"]),
        ("half", &["tier=edge"]),
    ] {
        if service != "ledger" {
            let name = format!("money/{service}");
            scene.service(&name, "ledger", Protocol::Http, 8080).await?;
        }
        let args = [&["-n", "$P-money", "label", "service", service], labels].concat();
        scene.kubectl(&args).await?;
    }
    // All labels of one selector, and any of the entries.
    scene
        .fence(
            "shop/web",
            "allow: [{namespace: a5n-books}, {serviceSelector: {matchLabels: {tier: core}, \
             matchExpressions: [{key: old, operator: DoesNotExist}]}}, \
             {serviceSelector: {matchLabels: {tier: edge, team: money}}}]",
        )
        .await?;
    let scope = scene.scope("shop/web").await?;
    let hosts = ["books/reviews", "money/audit", "money/ledger"];
    ensure!(scope == hosts.map(|name| scene.import(name)), "{scope:?}");
    for (from, url) in [
        ("books/reviews", "http://reviews.a5n-books:8080/"),
        ("money/ledger", "http://ledger.a5n-money:8080/"),
        ("money/ledger", "http://audit.a5n-money:8080/"),
    ] {
        let (reply, taken) = scene.call("shop/web", &Call::get(url)).await?;
        ensure!(
            reply.is_from(&scene.pod(from)) && !taken.fallback(),
            "{url}: {reply}, by {taken}"
        );
    }
    // A Service that gets the label joins, and the API says why each is in or out.
    let asked = scene
        .mesh
        .explain("a5n-shop/web", &scene.host("money/other"))
        .await?;
    ensure!(asked["inScope"] == false, "{asked}");
    scene
        .kubectl(&["-n", "$P-money", "label", "service", "other", "old-"])
        .await?;
    until("the other Service to join", SOON, async || {
        let scope = scene.scope("shop/web").await?;
        ensure!(scope.contains(&scene.import("money/other")), "{scope:?}");
        Ok(())
    })
    .await?;
    let asked = scene.mesh.explain("a5n-shop/web", "other.a5n-money").await?;
    ensure!(
        asked["because"][0]["detail"] == "spec.allow[1]: Services with tier=core,!old"
            && asked["sidecar"] == "a5n-shop/servicefence-web",
        "{asked}"
    );
    let asked = scene.mesh.explain("a5n-shop/nobody", "other").await;
    let said = asked.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(said.contains("there is no such ServiceFence"), "{said}");
    Ok(())
}

async fn jobs_are_fenced_by_their_labels_and_learn(scene: Scene) -> Result<()> {
    scene.add([scene.app("books/reviews").http(8080)]).await?;
    let job = PodSpec::new(&scene.pod("batch/nightly")).label("job", "nightly");
    scene.mesh.add_pod(job).await?;
    scene
        .fence("batch/nightly", "workload: {selector: {job: nightly}}")
        .await?;
    let call = Call::get("http://reviews.jobs-books:8080/");
    until("a first call by the gateway", SOON, async || {
        scene.first_call("batch/nightly", "books/reviews", &call).await
    })
    .await?;
    scene.learned("batch/nightly", "books/reviews").await?;
    scene
        .until_direct("batch/nightly", "books/reviews", &call)
        .await?;
    scene.mesh.remove_pod(&scene.pod("batch/nightly")).await
}

async fn policy_a_caller_that_is_let_in_by_name_is_never_refused(scene: Scene) -> Result<()> {
    scene
        .add([
            scene.app("shop/web").http(8080).service_account("web"),
            scene.app("shop/cart").http(8080).service_account("cart"),
            scene.app("vault/keys").http(8080),
        ])
        .await?;
    scene
        .yaml(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: $P-vault}
spec:
  selector: {matchLabels: {app: keys}}
  rules: [{from: [{source: {principals: [cluster.local/ns/$P-shop/sa/web]}}]}]
",
        )
        .await?;
    let call = Call::get("http://keys.policy-vault:8080/");
    until("the policy to be in force", SOON, async || {
        let (reply, _) = scene.call("shop/cart", &call).await?;
        ensure!(reply.status == Some(403), "{reply}");
        Ok(())
    })
    .await?;
    scene.enforce("shop", &["web", "cart"]).await?;
    let keys = format!("policy-vault/{}", scene.host("vault/keys"));
    ensure!(scene.scope("shop/web").await? == [keys]);
    ensure!(scene.scope("shop/cart").await?.is_empty());
    let (reply, taken) = scene.call("shop/web", &call).await?;
    ensure!(
        reply.is_from(&scene.pod("vault/keys")) && !taken.fallback(),
        "{reply}, by {taken}"
    );
    // By the gateway too, who is not let in stays out.
    let (reply, taken) = scene.call("shop/cart", &call).await?;
    ensure!(
        reply.status == Some(403) && taken.fallback(),
        "{reply}, by {taken}"
    );
    let asked = scene.mesh.explain("policy-shop/web", "keys.policy-vault").await?;
    ensure!(asked["because"][0]["source"] == "Policy", "{asked}");
    Ok(())
}

async fn a10_a_new_http_port_number_works_at_once(scene: Scene) -> Result<()> {
    scene.add([scene.app("shop/web").http(8080)]).await?;
    scene.enforce("shop", &["web"]).await?;
    scene.add([scene.app("books/odd").http(17_017)]).await?;
    let call = Call::get("http://odd.a10-books:17017/");
    scene.first_call("shop/web", "books/odd", &call).await?;
    scene.until_direct("shop/web", "books/odd", &call).await?;
    until("the placeholder to have port 17017", SOON, async || {
        let ports = scene
            .kubectl(&[
                "-n",
                "servicefence-system",
                "get",
                "svc",
                "servicefence-ports",
                "-o",
                "jsonpath={.spec.ports[*].port}",
            ])
            .await?;
        ensure!(ports.split(' ').any(|port| port == "17017"), "it has {ports}");
        Ok(())
    })
    .await
}

/// While a host joins, the Sidecar has a listener of this number on the loopback address.
async fn the_port_of_the_second_listener_is_a_port_like_any_other(scene: Scene) -> Result<()> {
    const PORT: u16 = 65_534;
    let far = |name: &str| scene.app(&format!("second-far/{name}"));
    let near = scene.app("second/web").http(PORT);
    scene
        .add([near, far("api").http(PORT), far("other").http(8080)])
        .await?;
    scene.enforce("second", &["web"]).await?;
    let to = |name: &str, port: u16| {
        let host = scene.host(&format!("second-far/{name}"));
        Call::get(&format!("http://{host}:{port}/"))
    };
    let (api, other) = (to("api", PORT), to("other", 8080));
    scene.first_call("second/web", "second-far/api", &api).await?;
    scene.until_direct("second/web", "second-far/api", &api).await?;
    scene.first_call("second/web", "second-far/other", &other).await?;
    let joined = scene.until_direct("second/web", "second-far/other", &other);
    let meanwhile = async {
        loop {
            let (reply, _) = scene.call("second/web", &api).await?;
            ensure!(reply.is_from(&scene.pod("second-far/api")), "{reply}");
        }
    };
    tokio::select! {
        joined = joined => joined.map(drop)?,
        failed = meanwhile => failed?,
    }
    // And its own server is called by others.
    let own = Call::get(&format!("http://{}:{PORT}/", scene.host("second/web")));
    let (reply, _) = scene.call("second-far/api", &own).await?;
    ensure!(reply.is_from(&scene.pod("second/web")), "{reply}");
    Ok(())
}
