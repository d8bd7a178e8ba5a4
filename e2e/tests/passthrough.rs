//! Fallback Passthrough on a real mesh: no gateway, no EnvoyFilter; what a call out of scope meets, and that
//! it is learned.

use anyhow::{Context as _, Result, ensure};
use servicefence_e2e::install::{Build, SYSTEM};
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{Call, Mesh, MeshOptions, PodSpec, tools};

const REVIEWS: &str = "reviews.books.svc.cluster.local";
const STREAM: &str = "stream.books.svc.cluster.local";
const SECRETS: &str = "secrets.vault.svc.cluster.local";

#[tokio::test(flavor = "multi_thread")]
async fn calls_out_of_scope_are_passed_through_and_learned() -> Result<()> {
    if !tools::can_run() {
        return Ok(());
    }
    let providers = format!(
        "extensionProviders:\n- name: servicefence\n  envoyHttpAls: {{service: \
         servicefence-observe.{SYSTEM}.svc.cluster.local, port: 18091}}\n"
    );
    let mesh = Mesh::up(MeshOptions::default().mesh_config(providers)).await?;
    let result = run(&mesh).await;
    if result.is_err() {
        eprintln!("{}", mesh.dump());
    }
    result
}

async fn run(mesh: &Mesh) -> Result<()> {
    for pod in [
        PodSpec::new("books/reviews").http(8080),
        PodSpec::new("books/stream").tcp(9001),
        PodSpec::new("vault/secrets").http(8080),
        PodSpec::new("shop/web").http(8080),
    ] {
        mesh.add_app(pod).await?;
    }
    mesh.apply_yaml(
        "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: books}, \
          spec: {mtls: {mode: PERMISSIVE}}}",
    )
    .await?;
    mesh.install(
        Build::Debug,
        &["fallback.enabled=false", "defaultFallback=passthrough"],
    )
    .await?;
    mesh.apply_yaml(
        "{apiVersion: servicefence.io/v1alpha1, kind: ServiceFence, metadata: {name: web, namespace: shop}, \
          spec: {mode: Enforce, learning: {nonHttp: Learn}}}",
    )
    .await?;
    mesh.wait_condition("shop", "web", "Ready", "True").await?;
    mesh.wait_at_rest("shop").await?;
    what_can_fail_is_said(mesh).await?;
    nothing_leads_to_a_gateway(mesh).await?;
    for (url, host) in [
        (format!("http://{REVIEWS}:8080/"), REVIEWS),
        (format!("tcp://{STREAM}:9001"), STREAM),
    ] {
        a_first_call_is_passed_through_and_the_next_is_direct(mesh, &url, host).await?;
    }
    where_mutual_tls_is_required_the_first_call_fails_and_the_next_is_direct(mesh).await?;
    opted_out_nothing_is_left(mesh).await
}

async fn what_can_fail_is_said(mesh: &Mesh) -> Result<()> {
    let fence = mesh.fence("shop", "web").await?;
    let message = fence["status"]["conditions"][0]["message"]
        .as_str()
        .context("no message")?;
    ensure!(
        message.ends_with(
            "calls to the rest are passed through without mutual TLS: until their hosts are learned, they fail where it \
             is required (all namespaces but books)"
        ),
        "{message}"
    );
    ensure!(
        fence["status"]["fallback"] == "Passthrough",
        "{}",
        fence["status"]
    );
    eprintln!(
        "{}",
        mesh.kubectl(&["-n", "shop", "get", "sf", "-o", "wide"]).await?
    );
    Ok(())
}

async fn nothing_leads_to_a_gateway(mesh: &Mesh) -> Result<()> {
    let ours = mesh
        .kubectl(&[
            "get",
            "envoyfilters,virtualservices,gateways.networking.istio.io",
            "-A",
            "-o",
            "name",
        ])
        .await?;
    ensure!(ours.trim().is_empty(), "there is {ours}");
    Ok(())
}

async fn a_first_call_is_passed_through_and_the_next_is_direct(
    mesh: &Mesh,
    url: &str,
    host: &str,
) -> Result<()> {
    let proxy = mesh.proxy("shop/web")?;
    let call = Call::get(url);
    let (reply, taken) = proxy.watch(mesh.call("shop/web", &call)).await?;
    ensure!(reply.is_ok() && taken.passthrough(), "{url}: {reply}, by {taken}");
    mesh.wait_learned("shop", "web", host).await?;
    until(format!("a direct call to {host}"), LONG, async || {
        let (reply, taken) = proxy.watch(mesh.call("shop/web", &call)).await?;
        ensure!(reply.is_ok() && taken.uses(host), "{reply}, by {taken}");
        Ok(())
    })
    .await
}

async fn where_mutual_tls_is_required_the_first_call_fails_and_the_next_is_direct(mesh: &Mesh) -> Result<()> {
    let call = Call::get(&format!("http://{SECRETS}:8080/"));
    let reply = mesh.call("shop/web", &call).await;
    ensure!(!reply.is_ok(), "a STRICT destination took plain text: {reply}");
    mesh.wait_learned("shop", "web", SECRETS).await?;
    mesh.eventually("shop/web", &call, |reply| reply.is_from("vault/secrets"))
        .await?;
    Ok(())
}

async fn opted_out_nothing_is_left(mesh: &Mesh) -> Result<()> {
    mesh.kubectl(&[
        "-n",
        "shop",
        "patch",
        "sf",
        "web",
        "--type",
        "merge",
        "-p",
        r#"{"spec":{"mode":"Off"}}"#,
    ])
    .await?;
    until("nothing of ours in the namespace", LONG, async || {
        let left = mesh
            .kubectl(&[
                "-n",
                "shop",
                "get",
                "sidecars,virtualservices,telemetries",
                "-o",
                "name",
            ])
            .await?;
        ensure!(left.trim().is_empty(), "there is {left}");
        Ok(())
    })
    .await
}
