//! What comes into the mesh while the controller is stopped: no rules are made for it, and calls to it
//! succeed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use servicefence_e2e::install::{SOON, SYSTEM};
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{Call, Mesh, Mtls, PodSpec, Protocol, ServiceSpec};

use crate::{shop, shutdown};

crate::steps![
    what_comes_while_the_controller_is_stopped_is_reached,
    what_rules_brought_in_part_comes_into_scope_without_a_failed_call,
];

/// A caller like `shop/web`, and not fenced.
const FREE: &str = "free/web";

/// Of each new pod: known and new ports, and who speaks first. `NEW` is what is new: a pod, one without a
/// proxy, a namespace.
const CALLS: [(&str, &str); 13] = [
    ("books/NEW", "http://NEW.books:8080/"),
    ("books/NEW", "http://NEW.books.svc.cluster.local:18090/"),
    ("books/NEW", "h2://NEW.books:18090/"),
    ("books/NEW", "grpc://NEW.books:18091/"),
    ("books/NEW", "tcp://NEW.books:18092"),
    ("books/NEW", "tcp-server-first://NEW.books:18093"),
    ("books/NEW-bare", "http://NEW-bare.books:8080/"),
    ("books/NEW-bare", "tcp://NEW-bare.books:18094"),
    ("books/NEW-bare", "tcp-server-first://NEW-bare.books:18095"),
    ("NEW/attic", "http://attic.NEW:8080/"),
    ("NEW/attic", "http://attic.NEW.svc.cluster.local:8080/"),
    ("NEW/attic", "http://attic.NEW:18096/"),
    ("NEW/attic", "tcp://attic.NEW:18097"),
];

async fn what_comes_while_the_controller_is_stopped_is_reached(mesh: Mesh) -> Result<()> {
    mesh.add_app(PodSpec::new(FREE).http(8080)).await?;
    let rules = async || {
        let args = ["-n", SYSTEM, "get", "virtualservices", "-o", "yaml"];
        mesh.kubectl(&args).await
    };
    stop(&mesh).await?;
    what_comes_is_reached(&mesh).await?;
    is_reached_when_refused_at_first(&mesh).await?;
    let without = rules().await?;
    ensure!(!without.contains("arrived"), "who wrote rules? {without}");
    shutdown::scale(&mesh, "--replicas=1").await?;
    mesh.controller_pod().await?;
    until("rules for what has come", LONG, async || {
        rules()
            .await?
            .contains("attic.arrived")
            .then_some(())
            .context("there are none")
    })
    .await
}

/// istiod tells proxies of the ports of a destination that rules name, and later of no others by itself.
async fn what_rules_brought_in_part_comes_into_scope_without_a_failed_call(mesh: Mesh) -> Result<()> {
    const OTHER_PORT: &str = "http://parts.books:18098/";
    mesh.add_app(PodSpec::new("books/parts").http(8080).http(18_098))
        .await?;
    stop(&mesh).await?;
    mesh.apply_yaml(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: parts, namespace: books}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {prefix: /parts}}]
    route: [{destination: {host: parts, port: {number: 8080}}}]
  - route: [{destination: {host: reviews}}]
",
    )
    .await?;
    mesh.wait_cluster(shop::WEB, "|8080||parts.books", true).await?;
    let other = Call::get(OTHER_PORT);
    let reply = mesh.call(shop::WEB, &other).await;
    ensure!(reply.is_from("books/parts"), "{reply}");
    shutdown::scale(&mesh, "--replicas=1").await?;
    until("a direct call to the other port", LONG, async || {
        let proxy = mesh.proxy(shop::WEB)?;
        let (reply, taken) = proxy.watch(mesh.call(shop::WEB, &other)).await?;
        // Tried no more: the reason stays in sight.
        assert!(reply.is_from("books/parts"), "{reply}, by {taken}");
        ensure!(!taken.fallback(), "by {taken}");
        Ok(())
    })
    .await
}

/// Stops the controller.
pub(crate) async fn stop(mesh: &Mesh) -> Result<()> {
    shutdown::scale(mesh, "--replicas=0").await?;
    until("no controller", LONG, async || {
        ensure!(shutdown::controllers(mesh).await? == 0, "it is there");
        Ok(())
    })
    .await
}

/// Pods and Services come, and `shop/web` reaches each as the unscoped `free/web` does: where servers take
/// mutual TLS only, and where they take plain text too.
pub(crate) async fn what_comes_is_reached(mesh: &Mesh) -> Result<()> {
    is_reached(mesh, "arrived").await?;
    mesh.apply(&Mtls::Permissive.object()).await?;
    is_reached(mesh, "eased").await?;
    mesh.apply(&Mtls::Strict.object()).await
}

async fn is_reached(mesh: &Mesh, new: &str) -> Result<()> {
    let pod = PodSpec::new(&format!("books/{new}")).http(8080).http(18_090);
    mesh.add_app(pod.grpc(18_091).tcp(18_092).tcp_server_first(18_093))
        .await?;
    let bare = PodSpec::new(&format!("books/{new}-bare")).plain().http(8080);
    mesh.add_app(bare.tcp(18_094).tcp_server_first(18_095)).await?;
    let attic = PodSpec::new(&format!("{new}/attic")).http(8080).http(18_096);
    mesh.add_app(attic.tcp(18_097)).await?;
    let by_name = CALLS.map(|(pod, url)| (pod.replace("NEW", new), Call::get(&url.replace("NEW", new))));
    // Who balances by itself dials pods.
    let attic = format!("{new}/attic");
    let at_pod = format!("http://{}:8080/", mesh.pod(&attic)?.ip);
    let at_pod = Call::get(&at_pod).host(&format!("attic.{new}:8080"));
    for (pod, call) in by_name.into_iter().chain([(attic, at_pod)]) {
        alike(mesh, FREE, &call, &pod).await?;
    }
    Ok(())
}

/// The nodes of the gateway hear of a Service after the caller's proxy: until then its address refuses
/// connections there.
async fn is_reached_when_refused_at_first(mesh: &Mesh) -> Result<()> {
    // That it was never called means that the gateway has no connection to it.
    let later = ServiceSpec::new("arrived/later").selects("attic");
    let later = later.port(Protocol::Http, 8080).port(Protocol::Tcp, 18_097);
    mesh.add_service(&later).await?;
    mesh.wait_endpoint("arrived/later").await?;
    let service = shop::object(mesh, "arrived", "service", "later").await?;
    let address = service["spec"]["clusterIP"].as_str().context("no address")?;
    let gateways: Vec<_> = mesh.gateway_pods().collect();
    let to_address = ["OUTPUT", "-d", address, "-p", "tcp", "-j"];
    let rules = [
        [&["-t", "nat"], &to_address[..], &["ACCEPT"]],
        [
            &["-t", "filter"],
            &to_address[..],
            &["REJECT", "--reject-with", "tcp-reset"],
        ],
    ];
    let each = |change: &str| {
        gateways.iter().try_for_each(|gateway| {
            rules.iter().try_for_each(|[table, to, verdict]| {
                let args = [table, &[change][..], to, verdict].concat();
                gateway.netns().run("iptables", &args, "").map(drop)
            })
        })
    };
    each("-I")?;
    let known = async {
        let refused = until("a refused connection", SOON, async || {
            let counts = gateways.iter().map(|gateway| {
                let args = ["-t", "filter", "-nvxL", "OUTPUT"];
                gateway.netns().run("iptables", &args, "")
            });
            let counts = counts.collect::<Result<String>>()?;
            let refuses = |line: &str| line.contains("REJECT") && !line.trim_start().starts_with("0 ");
            ensure!(counts.lines().any(refuses), "{counts}");
            Ok(())
        });
        let refused = refused.await;
        each("-D").and(refused)
    };
    let http = Call::get("http://later.arrived:8080/");
    let tcp = Call::get("tcp://later.arrived:18097");
    let calls = async { tokio::join!(mesh.call(shop::WEB, &http), mesh.call(shop::WEB, &tcp)) };
    let ((http, tcp), known) = tokio::join!(calls, known);
    known?;
    ensure!(
        http.is_from("arrived/attic") && tcp.is_from("arrived/attic"),
        "{http}, {tcp}"
    );
    Ok(())
}

/// An unscoped caller reaches this pod by a call, and so does `shop/web` after it.
pub(crate) async fn alike(mesh: &Mesh, unscoped: &str, call: &Call, pod: &str) -> Result<()> {
    // Short, since a connect to an address that leads nowhere yet is not tried again for a second, and then
    // longer.
    let short = call.clone().timeout(Duration::from_millis(500));
    until(format!("{call:?} without a scope"), SOON, async || {
        let reply = mesh.call(unscoped, &short).await;
        ensure!(reply.is_from(pod), "{reply}");
        Ok(())
    })
    .await?;
    let reply = mesh.call(shop::WEB, call).await;
    ensure!(reply.is_from(pod), "{call:?} by a fenced caller: {reply}");
    Ok(())
}
