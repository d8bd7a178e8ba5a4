//! Which pods a fence is about: those that are not ready, those of two Services, those of a Service that
//! selects others now, and those that have no fence of their own.

use anyhow::{Context as _, Result, ensure};
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{Call, PodSpec, Protocol, ServiceSpec};

use crate::scene::Scene;

crate::scenarios![
    a9_a_caller_that_runs_and_is_not_ready_is_learned,
    a9_a_pod_behind_two_services_has_one_sidecar,
    a9_a_service_that_selects_other_pods_takes_its_sidecar_along,
    c7_a_gateway_in_a_fenced_namespace_is_not_fenced_and_says_so,
    rest_pods_without_a_fence_share_the_default_of_their_namespace,
    gone_a_fence_that_goes_away_gives_the_whole_mesh_back,
];

/// The Services `<topic>-books/reviews` and `<topic>-books/ratings`, both of the pod `reviews`.
async fn books(scene: &Scene, topic: &str) -> Result<()> {
    let reviews = format!("{topic}-books/reviews");
    scene.add([scene.app(&reviews).http(8080)]).await?;
    let ratings = format!("{topic}-books/ratings");
    scene.service(&ratings, "reviews", Protocol::Http, 8080).await
}

fn call(scene: &Scene, topic: &str, service: &str) -> Call {
    let host = scene.host(&format!("{topic}-books/{service}"));
    Call::get(&format!("http://{host}:8080/"))
}

/// Calls, with whatever answer, until one goes by the gateway: from then on the caller is scoped.
async fn until_first_call(scene: &Scene, topic: &str, from: &str, service: &str) -> Result<()> {
    let to = format!("{topic}-books/reviews");
    let call = call(scene, topic, service);
    until(
        format!("a call from {from} to {service} by the gateway"),
        SOON,
        async || scene.first_call(from, &to, &call).await.map(drop),
    )
    .await
}

/// Calls until one goes direct, and every one on the way works.
async fn until_direct(scene: &Scene, topic: &str, from: &str, service: &str) -> Result<()> {
    let (server, host) = (
        scene.pod(&format!("{topic}-books/reviews")),
        scene.host(&format!("{topic}-books/{service}")),
    );
    let call = call(scene, topic, service);
    until(
        format!("a direct call from {from} to {service}"),
        SOON,
        async || {
            let (reply, taken) = scene.call(from, &call).await?;
            ensure!(reply.is_from(&server), "{reply}, by {taken}");
            ensure!(taken.uses(&host) && !taken.fallback(), "by {taken}");
            Ok(())
        },
    )
    .await
}

/// The Sidecars of a namespace, by name.
async fn sidecars(scene: &Scene, namespace: &str) -> Result<Vec<String>> {
    let namespace = scene.ns(namespace);
    let names = scene
        .kubectl(&["-n", &namespace, "get", "sidecars", "-o", "name"])
        .await?;
    let names = names.lines().filter_map(|name| name.rsplit('/').next());
    Ok(names.map(str::to_owned).collect())
}

/// Its readiness probe fails, or its start takes long: it calls others all the same.
async fn a9_a_caller_that_runs_and_is_not_ready_is_learned(scene: Scene) -> Result<()> {
    books(&scene, "young").await?;
    scene.add([scene.app("young/web").http(8080).not_ready()]).await?;
    scene.enforce("young", &["web"]).await?;
    let reviews = call(&scene, "young", "reviews");
    scene
        .first_call("young/web", "young-books/reviews", &reviews)
        .await?;
    scene.learned("young/web", "young-books/reviews").await?;
    scene
        .until_direct("young/web", "young-books/reviews", &reviews)
        .await?;
    let path = r#"jsonpath={.status.phase} {.status.conditions[?(@.type=="Ready")].status}"#;
    let is = scene
        .kubectl(&["-n", "$P-young", "get", "pod", "web", "-o", path])
        .await?;
    ensure!(is == "Running False", "the caller is {is}");
    Ok(())
}

/// `web` and `canary` select the same pod by different labels, `alias` by the same as `web`.
async fn a9_a_pod_behind_two_services_has_one_sidecar(scene: Scene) -> Result<()> {
    books(&scene, "two").await?;
    scene
        .add([scene.app("two/web").http(8080).label("track", "canary")])
        .await?;
    scene.service("two/alias", "web", Protocol::Http, 8080).await?;
    scene.enforce("two", &[]).await?;
    let first = until("the fence of the pod", SOON, async || {
        let names = scene
            .kubectl(&["-n", "$P-two", "get", "sf", "-o", "name"])
            .await?;
        let name = names.trim().rsplit('/').next().unwrap_or_default().to_owned();
        ensure!(names.lines().count() == 1, "there are {names:?}");
        Ok(name)
    })
    .await?;
    let namespace = scene.ns("two");
    scene
        .mesh
        .wait_condition(&namespace, &first, "Enforced", "True")
        .await?;
    scene.mesh.wait_at_rest(&namespace).await?;

    scene
        .yaml(
            "{apiVersion: v1, kind: Service, metadata: {name: canary, namespace: $P-two}, \
             spec: {selector: {track: canary}, ports: [{name: http, port: 8080}]}}",
        )
        .await?;
    for kind in ["Ready", "Enforced"] {
        let reason = scene
            .mesh
            .wait_condition(&namespace, "canary", kind, "False")
            .await?;
        ensure!(
            reason == "OverlappingFence",
            "{kind} is False because of {reason}"
        );
    }
    let said = scene.mesh.fence(&namespace, "canary").await?["status"]["conditions"][0]["message"].clone();
    ensure!(
        said.as_str().is_some_and(|said| said.contains(&first)),
        "it does not name {first}: {said}"
    );
    let only = vec![format!("servicefence-{first}")];
    ensure!(
        sidecars(&scene, "two").await? == only,
        "{:?}",
        sidecars(&scene, "two").await?
    );

    // What the pod calls is learned by the fence that has it.
    let reviews = call(&scene, "two", "reviews");
    scene.first_call("two/web", "two-books/reviews", &reviews).await?;
    let fence = format!("two/{first}");
    scene.learned(&fence, "two-books/reviews").await?;
    scene
        .until_direct("two/web", "two-books/reviews", &reviews)
        .await?;
    let learned = scene.learned_hosts("two/canary").await?;
    ensure!(learned.is_empty(), "canary learned {learned:?}");

    // Without the Services of the first fence the other one has the pod.
    scene
        .kubectl(&["-n", "$P-two", "delete", "service", "web", "alias"])
        .await?;
    scene
        .mesh
        .wait_condition(&namespace, "canary", "Enforced", "True")
        .await?;
    until("one Sidecar", SOON, async || {
        let all = sidecars(&scene, "two").await?;
        ensure!(all == ["servicefence-canary"], "there are {all:?}");
        Ok(())
    })
    .await?;
    until_first_call(&scene, "two", "two/web", "ratings").await?;
    scene.learned("two/canary", "two-books/ratings").await
}

/// From the pod `blue` to the pod `green`. One gets the scope, the other has the whole mesh back.
async fn a9_a_service_that_selects_other_pods_takes_its_sidecar_along(scene: Scene) -> Result<()> {
    books(&scene, "moved").await?;
    for pod in ["moved/blue", "moved/green"] {
        scene.mesh.add_pod(scene.app(pod).http(8080)).await?;
    }
    scene.service("moved/web", "blue", Protocol::Http, 8080).await?;
    scene.enforce("moved", &["web"]).await?;
    let selector = async || {
        let path = "jsonpath={.spec.workloadSelector.labels}";
        let args = ["-n", "$P-moved", "get", "sidecar", "servicefence-web", "-o", path];
        scene.kubectl(&args).await
    };
    ensure!(selector().await? == r#"{"app":"blue"}"#, "{}", selector().await?);
    until_first_call(&scene, "moved", "moved/blue", "reviews").await?;
    scene.learned("moved/web", "moved-books/reviews").await?;

    scene.service("moved/web", "green", Protocol::Http, 8080).await?;
    until("the Sidecar to follow", SOON, async || {
        let is = selector().await?;
        ensure!(is == r#"{"app":"green"}"#, "it selects {is}");
        Ok(())
    })
    .await?;
    let all = sidecars(&scene, "moved").await?;
    ensure!(all == ["servicefence-web"], "there are {all:?}");
    // What was learned stays with the Service, and the new pods teach it from now on.
    until_first_call(&scene, "moved", "moved/green", "ratings").await?;
    scene.learned("moved/web", "moved-books/ratings").await?;
    for service in ["reviews", "ratings"] {
        until_direct(&scene, "moved", "moved/green", service).await?;
    }
    // `blue` has no scope, so a Service without calls so far is called directly.
    scene
        .service("moved-books/fresh", "reviews", Protocol::Http, 8080)
        .await?;
    until_direct(&scene, "moved", "moved/blue", "fresh").await?;
    let learned = scene.learned_hosts("moved/web").await?;
    let called = ["reviews", "ratings"].map(|name| scene.host(&format!("moved-books/{name}")));
    ensure!(learned == called.into(), "web learned {learned:?}");
    Ok(())
}

/// A Sidecar without a selector: for every pod of the namespace that no other fence has.
async fn rest_pods_without_a_fence_share_the_default_of_their_namespace(scene: Scene) -> Result<()> {
    books(&scene, "shop").await?;
    scene.add([scene.app("shop/web").http(8080)]).await?;
    let job = PodSpec::new(&scene.pod("shop/nightly"));
    scene.mesh.add_pod(job).await?;
    scene.fence("shop/web", "").await?;
    scene
        .fence("shop/rest", "workload: {namespaceDefault: true}")
        .await?;
    let path = "jsonpath={.spec.workloadSelector}";
    let selector = scene
        .kubectl(&["-n", "$P-shop", "get", "sidecar", "servicefence-rest", "-o", path])
        .await?;
    ensure!(selector.is_empty(), "it selects {selector}");
    until_first_call(&scene, "shop", "shop/nightly", "reviews").await?;
    scene.learned("shop/rest", "shop-books/reviews").await?;
    until_direct(&scene, "shop", "shop/nightly", "reviews").await?;
    // `web` has a scope of its own, which knows nothing of it.
    let scope = scene.scope("shop/web").await.context("the Sidecar of web")?;
    ensure!(scope.is_empty(), "web has {scope:?} in scope");
    scene
        .first_call("shop/web", "shop-books/reviews", &call(&scene, "shop", "ratings"))
        .await?;
    scene.learned("shop/web", "shop-books/ratings").await?;
    let learned = scene.learned_hosts("shop/rest").await?;
    ensure!(
        learned == [scene.host("shop-books/reviews")].into(),
        "the default learned {learned:?}"
    );
    scene.mesh.remove_pod(&scene.pod("shop/nightly")).await
}

async fn c7_a_gateway_in_a_fenced_namespace_is_not_fenced_and_says_so(scene: Scene) -> Result<()> {
    scene.add([scene.app("edge/web").http(8080)]).await?;
    scene.mesh.add_pod(scene.app("edge/ingress").router()).await?;
    let service = ServiceSpec::new(&scene.pod("edge/ingress")).port(Protocol::Http, 80);
    scene.mesh.add_service(&service).await?;
    scene.enforce("edge", &["web"]).await?;
    let (mesh, namespace) = (&scene.mesh, scene.ns("edge"));
    for (kind, status) in [("Enforced", "False"), ("Ready", "True")] {
        let reason = mesh.wait_condition(&namespace, "ingress", kind, status).await?;
        ensure!(reason == "NoSidecars", "{kind}: {reason}");
    }
    let fence = mesh.fence(&namespace, "ingress").await?;
    ensure!(fence["status"]["savings"].is_null(), "{fence}");
    ensure!(
        scene.scope("edge/ingress").await.is_err(),
        "a gateway has a Sidecar"
    );
    Ok(())
}

async fn gone_a_fence_that_goes_away_gives_the_whole_mesh_back(scene: Scene) -> Result<()> {
    let [web, reviews, ratings] = ["shop/web", "books/reviews", "books/ratings"];
    let apps = [web, reviews, ratings].map(|app| scene.app(app).http(8080));
    scene.add(apps).await?;
    scene.enforce("shop", &["web"]).await?;
    let call = Call::get("http://reviews.gone-books:8080/");
    scene.first_call(web, reviews, &call).await?;
    scene.until_direct(web, reviews, &call).await?;

    let label = ["label", "namespace", "$P-shop", "servicefence.io/mode-"];
    scene.kubectl(&label).await?;
    until("what was written to go", LONG, async || {
        let get = ["-n", "$P-shop", "get", "sidecars,envoyfilters", "-o", "name"];
        let left = scene.kubectl(&get).await?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    })
    .await?;
    // It knows what it has never called.
    let call = Call::get("http://ratings.gone-books:8080/");
    scene.until_direct(web, ratings, &call).await?;
    Ok(())
}
