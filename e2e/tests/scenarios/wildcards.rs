//! VirtualServices for wildcards, and for names that no Service has.

use anyhow::{Result, ensure};
use servicefence_e2e::{Call, Protocol, Server};

use crate::routing::{books, rules};
use crate::scene::Scene;

crate::scenarios![
    c19_the_rules_of_an_exact_host_hold_and_not_those_of_a_wildcard,
    c20_rules_for_names_of_no_service_hold_in_a_scope,
];

async fn c19_the_rules_of_an_exact_host_hold_and_not_those_of_a_wildcard(scene: Scene) -> Result<()> {
    books(&scene, "starred", &["exact", "covered"]).await?;
    scene
        .yaml(
            "{apiVersion: networking.istio.io/v1, kind: VirtualService, \
             metadata: {name: a-wildcard, namespace: $P-starred-books}, \
             spec: {hosts: ['*.$P-starred-books.svc.cluster.local'], \
             http: [{match: [{uri: {prefix: /d}}], route: [{destination: {host: d}}]}]}}",
        )
        .await?;
    for exact in ["exact", "exact-80"] {
        let http = "http: [{route: [{destination: {host: c, port: {number: 8080}}}]}]";
        rules(&scene, "starred-books", exact, http).await?;
    }
    scene
        .yaml(
            "{apiVersion: v1, kind: Service, metadata: {name: exact-80, namespace: $P-starred-books}, \
             spec: {selector: {app: c}, ports: [{name: http, port: 80, targetPort: 8080}]}}",
        )
        .await?;
    let call = |service: &str| {
        let host = scene.host(&format!("starred-books/{service}"));
        let port = if service == "exact-80" { 80 } else { 8080 };
        Call::get(&format!("http://{host}:{port}/d"))
    };
    let (c, d) = ("starred-books/c", "starred-books/d");
    // Istio follows a wildcard's rules on port 80 for all names below it, unless the proxy knows a Service.
    let answers = [("exact", c), ("covered", d), ("exact-80", c)];
    for (service, answers) in answers {
        scene
            .until_answered("starred/web", answers, &call(service))
            .await?;
    }
    scene.enforce("starred", &["web"]).await?;
    for (service, answers) in &answers[..2] {
        scene.first_call("starred/web", answers, &call(service)).await?;
        scene.until_direct("starred/web", answers, &call(service)).await?;
    }
    let (first, taken) = scene.call("starred/web", &call("exact-80")).await?;
    ensure!(first.is_from(&scene.pod(c)), "{first}, by {taken}");
    Ok(())
}

/// Istio has a virtual host for such names on port 80 alone.
async fn c20_rules_for_names_of_no_service_hold_in_a_scope(scene: Scene) -> Result<()> {
    let (web, egress) = ("partner/web", "partner-infra/egress");
    scene
        .add([scene.app(web).http(8080), scene.app(egress).http(80)])
        .await?;
    let server = Server {
        protocol: Protocol::Http,
        port: 80,
    };
    let partner = "shop.partner.example.com";
    let outside = scene.mesh.add_external(partner, &[server]).await?.ip;
    let (to, nowhere) = (scene.host(egress), scene.host("partner-infra/nowhere"));
    for (name, host) in [("wildcard", "*.partner.example.com"), ("nowhere", &nowhere)] {
        scene
            .yaml(&format!(
                "{{apiVersion: networking.istio.io/v1, kind: VirtualService, \
                 metadata: {{name: {name}, namespace: $P-partner}}, \
                 spec: {{hosts: ['{host}'], exportTo: ['.'], http: [{{route: [{{destination: {{host: {to}}}}}]}}]}}}}"
            ))
            .await?;
    }
    let calls = [
        Call::get(&format!("http://{partner}/")),
        Call::get(&format!("http://{outside}/")).host(&nowhere),
    ];
    for call in &calls {
        scene.until_answered(web, egress, call).await?;
    }
    scene.enforce("partner", &["web"]).await?;
    for call in &calls {
        let (first, taken) = scene.call(web, call).await?;
        ensure!(first.is_from(&scene.pod(egress)), "{first}, by {taken}");
        ensure!(taken.uses(&to) && !taken.fallback(), "{first}, by {taken}");
    }
    Ok(())
}
