//! Opt-in, learning and scopes.

use anyhow::{Result, ensure};
use servicefence_e2e::Call;
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::until;

use crate::scene::Scene;

crate::scenarios![
    a1_a_label_makes_a_fence_per_service,
    a3_a_first_call_works_and_the_next_goes_direct,
    a4_a_shop_ends_with_exactly_what_it_calls,
    a5_what_is_allowed_is_direct_from_the_first_call,
    a10_a_new_http_port_number_works_at_once,
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
