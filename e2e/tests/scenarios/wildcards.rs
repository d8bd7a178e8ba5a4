//! Wildcards of ServiceEntries over Services.

use anyhow::{Result, ensure};
use servicefence_e2e::Call;

use crate::scene::Scene;

crate::scenarios![c6_a_wildcard_over_services_takes_no_call_to_one];

async fn c6_a_wildcard_over_services_takes_no_call_to_one(scene: Scene) -> Result<()> {
    let (web, reviews) = ("wild/web", "wild-books/reviews");
    scene
        .add([scene.app(web).http(8080), scene.app(reviews).http(8080)])
        .await?;
    scene
        .yaml(
            "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: wide, namespace: $P-wild}, \
             spec: {hosts: ['*.$P-wild-books.svc.cluster.local'], location: MESH_INTERNAL, resolution: NONE, \
             exportTo: [.], ports: [{name: http, number: 8080, protocol: HTTP}]}}",
        )
        .await?;
    let call = Call::get(&format!("http://{}:8080/", scene.host(reviews)));
    let (unscoped, _) = scene.call(web, &call).await?;
    ensure!(
        unscoped.is_from(&scene.pod(reviews)),
        "without a fence: {unscoped}"
    );
    scene.enforce("wild", &["web"]).await?;
    let (first, taken) = scene.call(web, &call).await?;
    ensure!(first.is_from(&scene.pod(reviews)), "{first}, by {taken}");
    scene.until_direct(web, reviews, &call).await?;
    Ok(())
}
