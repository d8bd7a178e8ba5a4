//! The mesh of these tests: `shop/web` is fenced, with an allowed host and a learned one.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use servicefence_e2e::install::{Build, SOON};
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{Call, Mesh, MeshOptions, PodSpec, Protocol, ServiceSpec};

crate::steps![kubectl_shows_a_working_fence];

/// The calling pod; its fence is `shop/web`.
pub(crate) const WEB: &str = "shop/web";

/// The pod behind every Service of the namespace `books`.
pub(crate) const BOOKS: &str = "books/reviews";

/// Services of `books` that no one has called yet; each step that needs a first call has its own.
pub(crate) const UNCALLED: [&str; 8] = [
    "warm", "repair", "fences", "istio", "logs", "shutdown", "late", "leave",
];

/// A mesh with the chart.
pub(crate) async fn install(options: MeshOptions, values: &[&str]) -> Result<Mesh> {
    let mesh = Mesh::up(options).await?;
    if let Err(error) = mesh.install(Build::Debug, values).await {
        eprintln!("{}", mesh.dump());
        return Err(error);
    }
    Ok(mesh)
}

/// The mesh, with what all steps start from.
pub(crate) async fn open() -> Result<Mesh> {
    let mesh = install(MeshOptions::default(), &[]).await?;
    if let Err(error) = fill(&mesh).await {
        eprintln!("{}", mesh.dump());
        return Err(error);
    }
    Ok(mesh)
}

async fn fill(mesh: &Mesh) -> Result<()> {
    mesh.add_app(PodSpec::new(BOOKS).http(8080)).await?;
    for service in ["allowed"].iter().chain(&UNCALLED) {
        let service = ServiceSpec::new(&format!("books/{service}")).selects("reviews");
        mesh.add_service(&service.port(Protocol::Http, 8080)).await?;
    }
    mesh.add_app(PodSpec::new(WEB).http(8080)).await?;
    mesh.add_app(PodSpec::new("shop/cart").http(8080)).await?;
    mesh.apply_yaml(
        "
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: web, namespace: shop}
spec:
  allow:
  - {host: allowed.books, reason: nightly report}
",
    )
    .await?;
    mesh.enforce("shop", &["web", "cart"]).await?;
    first_call(mesh, "reviews").await?;
    mesh.wait_at_rest("shop").await
}

pub(crate) fn host(service: &str) -> String {
    format!("{service}.books.svc.cluster.local")
}

pub(crate) fn call(service: &str) -> Call {
    Call::get(&format!("http://{service}.books:8080/"))
}

/// The first call to a Service of `books`: it works, by the gateway, and is learned.
pub(crate) async fn first_call(mesh: &Mesh, service: &str) -> Result<()> {
    miss(mesh, service).await?;
    mesh.wait_learned("shop", "web", &host(service)).await
}

/// `web` of another namespace calls `reviews` until that is the first host that its fence has learned, and is
/// in its scope.
pub(crate) async fn learn_reviews(mesh: &Mesh, namespace: &str) -> Result<()> {
    // Until the proxy has its first Sidecar calls are no misses.
    until("a call to be learned", LONG, async || {
        let reply = mesh.call(&format!("{namespace}/web"), &call("reviews")).await;
        ensure!(reply.is_from(BOOKS), "{reply}");
        let fence = mesh.fence(namespace, "web").await?;
        ensure!(
            fence["status"]["learned"][0]["host"] == host("reviews"),
            "{fence}"
        );
        Ok(())
    })
    .await?;
    mesh.wait_learned(namespace, "web", &host("reviews")).await?;
    mesh.wait_at_rest(namespace).await
}

/// The hosts of `books` in the scope of the fence; all the others are not HTTP and so in every scope.
pub(crate) async fn scope(mesh: &Mesh) -> Result<Vec<String>> {
    let mut scope = mesh.scope("shop", "web").await?;
    scope.retain(|host| host.starts_with("books/"));
    Ok(scope)
}

/// A call that works, by the gateway.
pub(crate) async fn miss(mesh: &Mesh, service: &str) -> Result<()> {
    // istiod tells the gateway of a new Service a moment after the API server knows it.
    until(format!("a first call to {service}"), SOON, async || {
        let proxy = mesh.proxy(WEB)?;
        let (reply, taken) = proxy.watch(mesh.call(WEB, &call(service))).await?;
        ensure!(reply.is_from(BOOKS), "{reply}, by {taken}");
        ensure!(taken.fallback(), "it went by {taken}");
        Ok(())
    })
    .await
}

/// An object as the API server has it; none when it is not there.
pub(crate) async fn get(mesh: &Mesh, namespace: &str, kind: &str, name: &str) -> Result<Option<Value>> {
    let args = [
        "-n",
        namespace,
        "get",
        kind,
        name,
        "--ignore-not-found",
        "-o",
        "json",
    ];
    let text = mesh.kubectl(&args).await?;
    Ok(if text.trim().is_empty() {
        None
    } else {
        Some(serde_json::from_str(&text)?)
    })
}

/// An object that must be there.
pub(crate) async fn object(mesh: &Mesh, namespace: &str, kind: &str, name: &str) -> Result<Value> {
    get(mesh, namespace, kind, name)
        .await?
        .with_context(|| format!("there is no {kind} {namespace}/{name}"))
}

/// The Events of the controller with a reason, newest count included.
pub(crate) async fn events(mesh: &Mesh, namespace: &str, reason: &str) -> Result<Vec<Value>> {
    let selector = format!("reason={reason}");
    let args = [
        "-n",
        namespace,
        "get",
        "events",
        "--field-selector",
        &selector,
        "-o",
        "json",
    ];
    let list: Value = serde_json::from_str(&mesh.kubectl(&args).await?)?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    Ok(items
        .into_iter()
        .filter(|event| event["reportingComponent"] == "servicefence")
        .collect())
}

/// Waits for a Warning of the controller on an object, and gives its text.
pub(crate) async fn warning(mesh: &Mesh, namespace: &str, reason: &str, on: (&str, &str)) -> Result<String> {
    let (kind, name) = on;
    until(format!("an Event {reason} on {kind} {name}"), SOON, async || {
        let events = events(mesh, namespace, reason).await?;
        let found = events
            .iter()
            .find(|event| event["involvedObject"]["kind"] == kind && event["involvedObject"]["name"] == name);
        let event = found.with_context(|| format!("there are {events:?}"))?;
        ensure!(event["type"] == "Warning", "its type is {}", event["type"]);
        Ok(event["message"].as_str().unwrap_or_default().to_owned())
    })
    .await
}

async fn kubectl_shows_a_working_fence(mesh: Mesh) -> Result<()> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let table = mesh.kubectl(&["-n", "shop", "get", "sf", "web"]).await?;
    let row = words(table.lines().nth(1).context("no row")?);
    // allowed and reviews, and two that are not HTTP: kubernetes and istiod.
    ensure!(row[..5] == ["web", "Enforce", "True", "True", "4"], "{table}");
    ensure!(row[5].parse::<u32>()? > 10, "{table}");
    let wide = mesh.kubectl(&["get", "sf", "-A", "-o", "wide"]).await?;
    let said = "the proxies of Service web know 4 of ";
    ensure!(wide.contains(said), "{wide}");
    let description = mesh.kubectl(&["-n", "shop", "describe", "sf", "web"]).await?;
    for wanted in [
        "reviews.books.svc.cluster.local",
        "AccessLog",
        "Scoped",
        "Learned",
        said,
    ] {
        ensure!(description.contains(wanted), "no {wanted} in\n{description}");
    }
    if std::env::var_os("SHOW").is_some() {
        eprintln!("{wide}\n{description}");
        eprintln!("{}", mesh.kubectl(&["get", "events", "-A"]).await?);
        eprintln!(
            "{}",
            mesh.kubectl(&[
                "-n",
                "shop",
                "get",
                "sf,sidecars,envoyfilters,virtualservices",
                "-o",
                "yaml"
            ])
            .await?
        );
        eprintln!(
            "{}",
            mesh.kubectl(&[
                "-n",
                "servicefence-system",
                "get",
                "virtualservices,services",
                "-o",
                "yaml"
            ])
            .await?
        );
    }
    Ok(())
}
