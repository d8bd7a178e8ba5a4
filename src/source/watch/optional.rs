//! Kinds that need not be served: routes of Gateway API, and Istio's extensions of proxies, which not every
//! version of it has. `gateway.rs` asks the same about ServiceCIDRs.
//!
//! Flows in: what the API server serves, asked again and again, and the objects while it does. Flows out:
//! changes. Invariants: readiness waits for the objects that there are and never for a kind that is not
//! served; a kind that is no longer served has no objects.

use std::time::Duration;

use kube::api::{Api, ApiResource};
use kube::runtime::watcher;
use tokio::time::sleep;

use super::{Context, Watch, pages};
use crate::fence::observe::{Custom, Watched, resource};
use crate::readiness::Readiness;
use crate::supervisor::Supervisor;

/// How often it is asked whether a kind is served: one small request.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(30);

/// The same while the API server does not say, and readiness may wait for it.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) fn start(context: &Context, tasks: &mut Supervisor, readiness: &Readiness) {
    for watched in [
        Watched::HttpRoutes,
        Watched::GrpcRoutes,
        Watched::WasmPlugins,
        Watched::TrafficExtensions,
    ] {
        let synced = readiness.wait_for(watched.as_str());
        let watch = Watch::new(watched, context.clone(), Some(synced));
        tasks.critical(watched.as_str(), while_served(watch, ASK_EVERY));
    }
}

/// Watches a kind for as long as it is served, and again when it is once more.
async fn while_served(mut watch: Watch, ask_every: Duration) {
    let (client, watched) = (watch.context.client.clone(), watch.watched);
    let resource = resource(watched);
    loop {
        while !is_served(&client, &resource).await {
            watch.synced.take();
            sleep(ask_every).await;
        }
        tracing::info!(watch = watched.as_str(), "this kind is served");
        let objects: Api<Custom> = Api::all_with(client.clone(), &resource);
        let gone = async {
            while is_served(&client, &resource).await {
                sleep(ask_every).await;
            }
        };
        tokio::select! {
            () = watch.run(watcher::watcher(objects, pages())) => return,
            () = gone => {}
        }
        tracing::info!(watch = watched.as_str(), "this kind is no longer served");
        watch.forget_all();
    }
}

/// Whether the API server serves a kind. It is asked until it says so or not.
pub(super) async fn is_served(client: &kube::Client, resource: &ApiResource) -> bool {
    loop {
        match client.list_api_group_resources(&resource.api_version).await {
            Ok(served) => return served.resources.iter().any(|one| one.name == resource.plural),
            Err(kube::Error::Api(status)) if status.code == 404 => return false,
            Err(error) => {
                tracing::warn!(watch = resource.plural, %error, "the API server does not say what it serves and is asked again");
                sleep(RETRY_AFTER).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::extract::{Query, State as Shared};
    use axum::http::StatusCode;
    use axum::routing::get;
    use axum::{Json, Router};
    use serde::Deserialize;
    use serde_json::{Value, json};
    use tokio::time::timeout;

    use super::super::client_of;
    use super::*;
    const SOON: Duration = Duration::from_millis(10);
    const HOST: &str = "reviews.books.svc.cluster.local";

    type Installed = Shared<Arc<AtomicBool>>;

    #[derive(Deserialize)]
    struct Asked {
        watch: Option<bool>,
    }

    async fn kinds(Shared(installed): Installed) -> Result<Json<Value>, (StatusCode, &'static str)> {
        if !installed.load(Ordering::Relaxed) {
            return Err((StatusCode::NOT_FOUND, "404 page not found"));
        }
        let kind = json!({"name": "httproutes", "singularName": "", "namespaced": true, "kind": "HTTPRoute", "verbs": []});
        Ok(Json(
            json!({"groupVersion": "gateway.networking.k8s.io/v1", "resources": [kind]}),
        ))
    }

    async fn routes(Query(asked): Query<Asked>) -> Json<Value> {
        if asked.watch == Some(true) {
            std::future::pending::<()>().await;
        }
        let parent = json!({"group": "", "kind": "Service", "name": "reviews"});
        let rule = json!({"backendRefs": [{"name": "v2", "port": 8080}]});
        let version = "gateway.networking.k8s.io/v1";
        let route = json!({
            "apiVersion": version, "kind": "HTTPRoute", "metadata": {"namespace": "books", "name": "reviews"},
            "spec": {"parentRefs": [parent], "rules": [rule]},
        });
        let list = json!({"apiVersion": version, "kind": "HTTPRouteList", "metadata": {"resourceVersion": "1"}, "items": [route]});
        Json(list)
    }

    /// An API server that knows only this, and a client of it.
    async fn api_server(installed: Arc<AtomicBool>) -> kube::Client {
        let all = Router::new()
            .route("/apis/gateway.networking.k8s.io/v1", get(kinds))
            .route("/apis/gateway.networking.k8s.io/v1/httproutes", get(routes))
            .with_state(installed);
        client_of(all).await
    }

    #[tokio::test]
    async fn readiness_does_not_wait_for_what_is_not_installed_and_routes_come_and_go_with_it() {
        let installed = Arc::new(AtomicBool::new(false));
        let client = api_server(installed.clone()).await;
        let context = Context::of_tests(client);
        let state = context.state.clone();
        let readiness = Readiness::default();
        let synced = readiness.wait_for("httproutes");
        let watch = Watch::new(Watched::HttpRoutes, context.clone(), Some(synced));
        let watching = tokio::spawn(while_served(watch, SOON));
        timeout(Duration::from_secs(5), readiness.ready()).await.unwrap();

        let has_rules = || state.engine().mesh().rules.of_host(HOST).next().is_some();
        for is_installed in [true, false, true] {
            installed.store(is_installed, Ordering::Relaxed);
            let seen = async {
                while has_rules() != is_installed {
                    sleep(SOON).await;
                }
            };
            timeout(Duration::from_secs(5), seen).await.unwrap();
        }
        watching.abort();
        let errors = context.metrics.watch_errors.with_label_values(&["httproutes"]);
        assert_eq!(errors.get(), 0);
    }
}
