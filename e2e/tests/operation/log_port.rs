//! Who may talk to the log port: the fallback gateway and no one else, since what is logged there widens
//! scopes.

use anyhow::{Result, bail, ensure};
use servicefence_e2e::install::SYSTEM;
use servicefence_e2e::wait::{SHORT, until};
use servicefence_e2e::{Call, Mesh, PodSpec, Reply};

crate::steps![only_the_gateway_reaches_the_log_port];

const PORT: u16 = 18090;

/// Opens a log stream with an empty first message. The controller itself would answer INVALID_ARGUMENT.
fn log_call(authority: &str) -> Call {
    let url = format!("h2://{authority}/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs");
    Call::post(&url, vec![0; 5])
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

fn grpc_status(reply: &Reply) -> Option<&str> {
    let status = reply
        .headers
        .get("grpc-status")
        .or(reply.trailers.get("grpc-status"));
    status.and_then(|status| status.to_str().ok())
}

/// By an AuthorizationPolicy: the proxies at both ends have talked, and the answer is no.
fn denied(reply: &Reply) -> Result<()> {
    let status = grpc_status(reply);
    ensure!(
        reply.status == Some(403) || status == Some("7"),
        "not denied: {reply}, grpc-status {status:?}"
    );
    Ok(())
}

/// Not even that: no mTLS, no connection.
fn cut_off(reply: &Reply) -> Result<()> {
    match (reply.status, grpc_status(reply)) {
        (None, None) if reply.error.is_some() => Ok(()),
        // What a sidecar says when its upstream connection is reset.
        (Some(502..=504), _) | (_, Some("14")) => Ok(()),
        (status, grpc) => bail!("it got through: {status:?}, grpc-status {grpc:?}, {reply}"),
    }
}

async fn streams_refused(mesh: &Mesh) -> Result<Vec<String>> {
    let metrics = mesh.controller_metrics().await?;
    let refused = metrics.lines().filter(|line| {
        line.starts_with("servicefence_access_log_streams_refused_total")
            || line.starts_with("servicefence_access_log_rejected_total")
    });
    Ok(refused.map(str::to_owned).collect())
}

async fn only_the_gateway_reaches_the_log_port(mesh: Mesh) -> Result<()> {
    let controller = mesh.controller_pod().await?;
    let ip = mesh.pod(&controller)?.ip;
    let (to_pod, to_service) = (format!("{ip}:{PORT}"), format!("servicefence.{SYSTEM}:{PORT}"));
    let before = streams_refused(&mesh).await?;

    // A neighbour in the system namespace, with a proxy that knows the Service and speaks mTLS to it.
    let insider = format!("{SYSTEM}/insider");
    mesh.add_pod(PodSpec::new(&insider)).await?;
    until("the neighbour to be denied", SHORT, async || {
        denied(&mesh.call(&insider, &log_call(&to_service)).await)
    })
    .await?;

    // A pod elsewhere, under the gateway's account name, that brings its own way to speak mTLS to the
    // controller's pod.
    let intruder = "intruder/forger";
    mesh.add_pod(PodSpec::new(intruder).service_account("servicefence-fallback"))
        .await?;
    mesh.apply_yaml(&format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: way, namespace: intruder}}
spec:
  hosts: [way.example.com]
  addresses: [10.2.200.1]
  exportTo: ['.']
  ports: [{{number: {PORT}, name: grpc, protocol: GRPC}}]
  resolution: STATIC
  endpoints: [{{address: {ip}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: way, namespace: intruder}}
spec:
  host: way.example.com
  exportTo: ['.']
  trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL}}}}
"
    ))
    .await?;
    let way = log_call(&format!("10.2.200.1:{PORT}")).host(&format!("way.example.com:{PORT}"));
    until("the intruder to be denied", SHORT, async || {
        denied(&mesh.call(intruder, &way).await)
    })
    .await?;
    for authority in [&to_pod, &to_service] {
        cut_off(&mesh.call(intruder, &log_call(authority)).await)?;
    }

    // A fenced caller: the gateway serves its misses with the identity that the log port trusts.
    let fenced = crate::shop::WEB;
    for call in [
        log_call(&to_service),
        log_call(&to_pod).host(&to_service),
        log_call(&to_service).host(&format!("books.shop:{PORT}")),
    ] {
        let reply = mesh.call(fenced, &call).await;
        denied(&reply).or_else(|_| cut_off(&reply))?;
    }
    cut_off(&mesh.call(fenced, &log_call(&to_pod)).await)?;

    // Without any proxy, and so in plaintext, by both addresses.
    mesh.add_pod(PodSpec::new("intruder/plain").plain()).await?;
    for authority in [&to_pod, &to_service] {
        cut_off(&mesh.call("intruder/plain", &log_call(authority)).await)?;
    }

    let after = streams_refused(&mesh).await?;
    ensure!(before == after, "something arrived: {before:?}, then {after:?}");
    // The gateway's own streams go on meanwhile.
    crate::shop::first_call(&mesh, "logs").await
}
