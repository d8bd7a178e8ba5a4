//! What proxies call by themselves, for EnvoyFilters.

use anyhow::{Result, ensure};
use servicefence_e2e::Call;
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::until;

use crate::scene::Scene;

crate::scenarios![c4_what_an_envoy_filter_asks_is_in_scope];

/// The proxy of `asked/web` asks a server about each request that it gets.
async fn ask(scene: &Scene, server: &str) -> Result<()> {
    let host = scene.host(server);
    scene
        .yaml(&format!(
            "
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: ask, namespace: $P-asked}}
spec:
  workloadSelector: {{labels: {{app: web}}}}
  configPatches:
  - applyTo: HTTP_FILTER
    match: {{context: SIDECAR_INBOUND, listener: {{filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager}}}}}}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.ext_authz
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
          http_service:
            server_uri: {{uri: 'http://authz:8080', cluster: 'outbound|8080||{host}', timeout: 5s}}
"
        ))
        .await
}

async fn c4_what_an_envoy_filter_asks_is_in_scope(scene: Scene) -> Result<()> {
    let apps = ["asked/web", "asked-infra/authz", "asking/client", "asking/later"];
    scene.add(apps.map(|name| scene.app(name).http(8080))).await?;
    let call = Call::get(&format!("http://{}:8080/", scene.host("asked/web")));
    let answers = async |status: u16| {
        until(format!("answer {status} of asked/web"), SOON, async || {
            let (reply, _) = scene.call("asking/client", &call).await?;
            ensure!(reply.status == Some(status), "{reply}");
            Ok(())
        })
        .await
    };
    ask(&scene, "asked-infra/nothing").await?;
    answers(403).await?;
    ask(&scene, "asked-infra/authz").await?;
    answers(200).await?;
    // The controller must have heard of the change too before it writes a first Sidecar.
    let namespace = scene.ns("asked");
    let label = ["label", "namespace", &namespace, "servicefence.io/mode=observe"];
    scene.kubectl(&label).await?;
    until("the server is to be in scope", SOON, async || {
        let (web, host) = (scene.pod("asked/web"), scene.host("asked-infra/authz"));
        let said = scene.mesh.explain(&web, &host).await?;
        ensure!(said["inScope"] == true, "{said}");
        Ok(())
    })
    .await?;
    scene.enforce("asked", &["web"]).await?;
    let scope = scene.scope("asked/web").await?;
    ensure!(scope == [scene.import("asked-infra/authz")], "{scope:?}");
    // By connections that are new: one from before Istio's own change goes on with the filter as it was then.
    for _ in 0..20 {
        let (reply, taken) = scene.call("asking/later", &call).await?;
        ensure!(reply.status == Some(200), "{reply}, by {taken}");
    }
    // One that comes when the workload is scoped already.
    ask(&scene, "asked-infra/nothing").await?;
    answers(403).await?;
    ask(&scene, "asked-infra/authz").await?;
    answers(200).await
}
