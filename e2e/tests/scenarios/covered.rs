//! ServiceEntries with names of Services.

use anyhow::{Result, ensure};
use servicefence_e2e::Call;

use crate::scene::Scene;

crate::scenarios![
    c6_a_wildcard_over_services_takes_no_call_to_one,
    c6_an_entry_with_the_name_of_a_service_takes_no_call_to_it,
    by_name_each_address_of_an_entry_leads_to_it,
];

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

async fn c6_an_entry_with_the_name_of_a_service_takes_no_call_to_it(scene: Scene) -> Result<()> {
    let (web, reviews, other) = ("named/web", "named-books/reviews", "named-evil/other");
    scene
        .add([web, reviews, other].map(|name| scene.app(name).http(8080)))
        .await?;
    let elsewhere = scene.mesh.pod(&scene.pod(other))?.ip;
    let host = scene.host(reviews);
    scene
        .yaml(&format!(
            "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: reviews, namespace: $P-named-evil}}, \
             spec: {{hosts: [{host}], location: MESH_INTERNAL, resolution: STATIC, endpoints: [{{address: {elsewhere}}}], \
             ports: [{{name: http, number: 8080, protocol: HTTP}}]}}}}"
        ))
        .await?;
    let call = Call::get(&format!("http://{host}:8080/"));
    let (unscoped, _) = scene.call(web, &call).await?;
    ensure!(
        unscoped.is_from(&scene.pod(reviews)),
        "without a fence: {unscoped}"
    );
    scene.enforce("named", &["web"]).await?;
    let (first, taken) = scene.call(web, &call).await?;
    ensure!(first.is_from(&scene.pod(reviews)), "{first}, by {taken}");
    Ok(())
}

async fn by_name_each_address_of_an_entry_leads_to_it(scene: Scene) -> Result<()> {
    let (web, db) = ("many/web", "many-data/db");
    scene.add([scene.app(web).http(8080)]).await?;
    scene.mesh.add_pod(scene.app(db).plain().tcp(9000)).await?;
    let there = scene.mesh.pod(&scene.pod(db))?.ip;
    scene
        .yaml(&format!(
            "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: db, namespace: $P-many-data}}, \
             spec: {{hosts: [db.many.example], addresses: [240.99.0.1, 240.99.0.2], location: MESH_INTERNAL, \
             resolution: STATIC, endpoints: [{{address: {there}}}], \
             ports: [{{name: tcp, number: 19000, targetPort: 9000, protocol: TCP}}]}}}}"
        ))
        .await?;
    let calls = [1, 2].map(|last| Call::get(&format!("tcp://240.99.0.{last}:19000/")));
    for call in &calls {
        scene.until_answered(web, db, call).await?;
    }
    scene.enforce("many", &["web"]).await?;
    for call in &calls {
        let (first, taken) = scene.call(web, call).await?;
        ensure!(first.is_from(&scene.pod(db)), "{first}, by {taken}");
    }
    Ok(())
}
