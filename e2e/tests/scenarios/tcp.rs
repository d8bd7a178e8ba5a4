//! Services that are not HTTP: TCP where the client or the server speaks first, and TLS of the application's
//! own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::{Hopeless, until};
use servicefence_e2e::{Call, PodSpec, Protocol, TcpSession};

use crate::scene::Scene;

crate::scenarios![
    a12_with_auto_an_open_connection_survives_the_first_sidecar,
    a12_with_learn_an_open_connection_is_closed_45_s_after_the_first_sidecar,
    a12_with_learn_first_connections_work_under_strict,
    a12_with_learn_first_connections_work_under_permissive,
    a12_with_learn_first_connections_reach_pods_without_sidecar,
    a12_with_auto_the_first_connection_is_direct,
];

/// What is not HTTP, each with its scheme and its port in a server of [`server`]. The ports are
/// no Service's HTTP ports: an HTTP port in scope would take such a Service into scope with it.
const KINDS: [(&str, Protocol, &str, u16); 3] = [
    ("client-first", Protocol::Tcp, "tcp", 19_001),
    (
        "server-first",
        Protocol::TcpServerFirst,
        "tcp-server-first",
        19_002,
    ),
    ("tls", Protocol::Tls, "tls", 19_443),
];

const LEARN: &str = "learning: {nonHttp: Learn}";

/// How long Envoy lets the connections of a listener live that is gone.
const DRAIN: Duration = Duration::from_secs(45);

/// A pod that serves all of [`KINDS`], without a Service.
fn server(scene: &Scene, name: &str) -> PodSpec {
    KINDS.iter().fold(scene.app(name), |pod, (_, protocol, _, port)| {
        pod.serve(*protocol, *port)
    })
}

/// A Service for each of [`KINDS`].
async fn services(scene: &Scene, namespace: &str) -> Result<()> {
    for (name, protocol, _, port) in KINDS {
        let name = format!("{namespace}/{name}");
        scene.service(&name, "server", protocol, port).await?;
    }
    Ok(())
}

/// A caller `<topic>/web` and the Services of `<topic>-data`.
async fn parts(scene: &Scene, topic: &str, data: PodSpec) -> Result<()> {
    let web = scene.mesh.add_app(scene.app(&format!("{topic}/web")).http(8080));
    let data = async { scene.mesh.add_pod(data).await.map(drop) };
    tokio::try_join!(web, data)?;
    services(scene, &format!("{topic}-data")).await
}

/// For each kind: the first connection goes through the gateway, is learned before a byte was sent,
/// lives on in its tunnel, and later ones go direct.
async fn first_connections(scene: &Scene, topic: &str) -> Result<()> {
    let (from, data) = (format!("{topic}/web"), format!("{topic}-data"));
    let server = scene.pod(&format!("{data}/server"));
    for (name, protocol, scheme, port) in KINDS {
        let to = format!("{data}/{name}");
        let url = format!("{scheme}://{}:{port}/", scene.host(&to));
        let caller = scene.pod(&from);
        let proxy = scene.mesh.proxy(&caller)?;
        let through_the_gateway = async |taken: &servicefence_e2e::Taken| {
            ensure!(
                taken.uses("outbound|15081") && !taken.uses(&scene.host(&to)) && !taken.passthrough(),
                "the first connection to {to} went by {taken}"
            );
            let sent = scene.at_gateway(&to).await?;
            ensure!(
                sent.connections == 1,
                "the gateway made {} to {to}",
                sent.connections
            );
            Ok(())
        };
        if protocol == Protocol::Tls {
            let (reply, taken) = scene.call(&from, &Call::get(&url)).await?;
            ensure!(reply.is_from(&server), "{to}: {reply}");
            through_the_gateway(&taken).await?;
            scene.learned(&from, &to).await?;
        } else {
            let (session, taken) = proxy
                .watch(async {
                    let session = scene.mesh.tcp_session(&caller, &url).await?;
                    // Who opens a connection and waits is learned too: nothing has been sent yet.
                    scene.learned(&from, &to).await?;
                    anyhow::Ok(session)
                })
                .await?;
            through_the_gateway(&taken).await?;
            let mut session = session?;
            until_direct(scene, &from, &to, &url, &server).await?;
            session
                .exchange(b"still in the tunnel\n")
                .await
                .context("the first connection")?;
            ensure!(session.served_by.as_deref() == Some(&*server), "{session:?}");
        }
        until_direct(scene, &from, &to, &url, &server).await?;
    }
    Ok(())
}

/// Connects until a connection goes direct. Every one on the way must work.
async fn until_direct(scene: &Scene, from: &str, to: &str, url: &str, server: &str) -> Result<()> {
    until(format!("a direct connection to {to}"), SOON, async || {
        let (reply, taken) = scene.call(from, &Call::get(url)).await?;
        if !reply.is_from(server) {
            return Err(Hopeless(anyhow!("{reply}, by {taken}")).into());
        }
        ensure!(
            taken.uses(&scene.host(to)) && !taken.fallback() && !taken.passthrough(),
            "it went by {taken}"
        );
        Ok(())
    })
    .await
}

async fn a12_with_learn_first_connections_work_under_strict(scene: Scene) -> Result<()> {
    parts(&scene, "strict", server(&scene, "strict-data/server")).await?;
    scene.fence("strict/web", LEARN).await?;
    ensure!(scene.learned_hosts("strict/web").await?.is_empty());
    for (name, ..) in KINDS {
        let host = format!(
            "{}/{}",
            scene.ns("strict-data"),
            scene.host(&format!("strict-data/{name}"))
        );
        ensure!(
            !scene.scope("strict/web").await?.contains(&host),
            "{host} is in scope"
        );
    }
    first_connections(&scene, "strict").await
}

async fn a12_with_learn_first_connections_work_under_permissive(scene: Scene) -> Result<()> {
    parts(&scene, "soft", server(&scene, "soft-data/server")).await?;
    scene
        .yaml(
            "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
              metadata: {name: default, namespace: $P-soft-data}, spec: {mtls: {mode: PERMISSIVE}}}",
        )
        .await?;
    scene.fence("soft/web", LEARN).await?;
    first_connections(&scene, "soft").await
}

async fn a12_with_learn_first_connections_reach_pods_without_sidecar(scene: Scene) -> Result<()> {
    parts(&scene, "plain", server(&scene, "plain-data/server").plain()).await?;
    scene.fence("plain/web", LEARN).await?;
    first_connections(&scene, "plain").await
}

/// Such hosts are in scope from the first Sidecar on, so there is nothing to learn.
async fn a12_with_auto_the_first_connection_is_direct(scene: Scene) -> Result<()> {
    parts(&scene, "auto", server(&scene, "auto-data/server")).await?;
    scene.enforce("auto", &["web"]).await?;
    for (name, _, scheme, port) in KINDS {
        let to = format!("auto-data/{name}");
        let host = scene.host(&to);
        let in_scope = format!("{}/{host}", scene.ns("auto-data"));
        ensure!(
            scene.scope("auto/web").await?.contains(&in_scope),
            "{in_scope} is not in scope"
        );
        let (reply, taken) = scene
            .call("auto/web", &Call::get(&format!("{scheme}://{host}:{port}/")))
            .await?;
        ensure!(reply.is_from(&scene.pod("auto-data/server")), "{to}: {reply}");
        ensure!(taken.uses(&host) && !taken.fallback(), "{to}: by {taken}");
        ensure!(
            scene.at_gateway(&to).await?.connections == 0,
            "the gateway was used for {to}"
        );
    }
    ensure!(
        scene.learned_hosts("auto/web").await?.is_empty(),
        "something was learned"
    );
    Ok(())
}

/// A connection that is open before the caller has its first Sidecar.
async fn open_before(scene: &Scene, topic: &str) -> Result<TcpSession> {
    parts(scene, topic, server(scene, &format!("{topic}-data/server"))).await?;
    let (name, _, scheme, port) = KINDS[0];
    let url = format!(
        "{scheme}://{}:{port}",
        scene.host(&format!("{topic}-data/{name}"))
    );
    let from = scene.pod(&format!("{topic}/web"));
    let (session, taken) = scene
        .mesh
        .proxy(&from)?
        .watch(async {
            let mut session = scene.mesh.tcp_session(&from, &url).await?;
            session.exchange(b"before\n").await?;
            anyhow::Ok(session)
        })
        .await?;
    ensure!(
        taken.uses(&scene.host(&format!("{topic}-data/{name}"))),
        "it went by {taken}"
    );
    session
}

async fn a12_with_auto_an_open_connection_survives_the_first_sidecar(scene: Scene) -> Result<()> {
    let mut session = open_before(&scene, "long").await?;
    scene.enforce("long", &["web"]).await?;
    let enforced = Instant::now();
    while enforced.elapsed() < DRAIN + Duration::from_secs(10) {
        session
            .exchange(b"after\n")
            .await
            .with_context(|| format!("{:?} after enforcement", enforced.elapsed()))?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// What the documentation says of `Learn`: open connections of a host that leaves are closed once.
async fn a12_with_learn_an_open_connection_is_closed_45_s_after_the_first_sidecar(
    scene: Scene,
) -> Result<()> {
    let mut session = open_before(&scene, "once").await?;
    let before = Instant::now();
    scene.fence("once/web", LEARN).await?;
    let enforced = Instant::now();
    session
        .exchange(b"after\n")
        .await
        .context("at the first Sidecar")?;
    ensure!(
        session.ends_within(DRAIN + Duration::from_secs(20)).await,
        "it is still open {:?} after enforcement",
        enforced.elapsed()
    );
    // The Sidecar was written some time between the two.
    ensure!(
        before.elapsed() > DRAIN,
        "it was closed {:?} after the fence was written, before the end of the drain",
        before.elapsed()
    );
    // The next one works at once.
    let (name, _, scheme, port) = KINDS[0];
    let url = format!("{scheme}://{}:{port}", scene.host(&format!("once-data/{name}")));
    let (reply, taken) = scene.call("once/web", &Call::get(&url)).await?;
    ensure!(
        reply.is_from(&scene.pod("once-data/server")) && taken.uses("outbound|15081"),
        "{reply}, by {taken}"
    );
    Ok(())
}
