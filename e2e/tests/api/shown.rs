//! What the API server accepts, and what kubectl shows of it.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use servicefence_e2e::Mesh;
use servicefence_e2e::wait::{SHORT, until};

use crate::{kubectl_apply, says, try_spec};

pub(crate) const NAMES: &[&str] = &[
    "the_crd_is_established_and_structural",
    "explain_shows_the_documentation",
    "an_empty_spec_is_a_fence",
    "every_field_at_once_is_a_fence",
    "every_form_of_a_host_is_accepted",
    "the_largest_fence_is_accepted",
    "kubectl_refuses_a_field_that_is_not_there",
    "kubectl_shows_the_columns",
];

pub(crate) async fn run(mesh: &Mesh, name: &str) -> Result<()> {
    match name {
        "the_crd_is_established_and_structural" => crd(mesh).await,
        "explain_shows_the_documentation" => explain(mesh).await,
        "an_empty_spec_is_a_fence" => try_spec(mesh, "{}").await.map(drop).map_err(Into::into),
        "every_field_at_once_is_a_fence" => full(mesh).await,
        "every_form_of_a_host_is_accepted" => hosts(mesh).await,
        "the_largest_fence_is_accepted" => largest(mesh).await,
        "kubectl_refuses_a_field_that_is_not_there" => strict(mesh).await,
        "kubectl_shows_the_columns" => columns(mesh).await,
        _ => unreachable!("no test is called {name}"),
    }
}

async fn crd(mesh: &Mesh) -> Result<()> {
    until("the CRD is established", SHORT, async || {
        let crd = mesh
            .kubectl(&["get", "crd", "servicefences.servicefence.io", "-o", "json"])
            .await?;
        let crd: Value = serde_json::from_str(&crd)?;
        let conditions = crd["status"]["conditions"].as_array().context("no conditions")?;
        let is = |kind: &str| {
            let found = conditions.iter().find(|condition| condition["type"] == kind);
            found.map(|condition| condition["status"].as_str().unwrap_or_default().to_owned())
        };
        ensure!(is("Established").as_deref() == Some("True"), "{conditions:?}");
        ensure!(is("NamesAccepted").as_deref() == Some("True"), "{conditions:?}");
        // This one appears only when something is wrong.
        ensure!(is("NonStructuralSchema").is_none(), "{conditions:?}");
        Ok(())
    })
    .await
}

async fn explain(mesh: &Mesh) -> Result<()> {
    for (path, wanted) in [
        ("servicefence", "Keeps the Istio sidecars of one workload small"),
        ("servicefence.spec", "An empty spec is a complete fence"),
        ("servicefence.spec.allow", "Hosts that are always in scope"),
        ("servicefence.spec.allow.host", "A Service as `name`"),
        (
            "servicefence.spec.mode",
            "label `servicefence.io/mode` of the Service",
        ),
        ("servicefence.spec.learning.nonHttp", "Default: `Auto`"),
        ("servicefence.status.learned", "This list is the durable memory"),
    ] {
        // The API server publishes the schema of a new CRD a moment after it serves it.
        until(format!("the documentation of {path}"), SHORT, async || {
            says(&mesh.kubectl(&["explain", path]).await?, wanted)
        })
        .await?;
    }
    // Every field has its sentence: `kubectl explain` is where users look first.
    let all = mesh
        .kubectl(&["get", "crd", "servicefences.servicefence.io", "-o", "json"])
        .await?;
    let crd: Value = serde_json::from_str(&all)?;
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut silent = Vec::new();
    undocumented("spec", &schema["properties"]["spec"], &mut silent);
    undocumented("status", &schema["properties"]["status"], &mut silent);
    ensure!(silent.is_empty(), "without documentation: {silent:?}");
    Ok(())
}

fn undocumented(path: &str, schema: &Value, silent: &mut Vec<String>) {
    if schema["description"].as_str().is_none_or(str::is_empty) {
        silent.push(path.to_owned());
    }
    let inner = schema["properties"]
        .as_object()
        .or_else(|| schema["items"]["properties"].as_object());
    for (name, field) in inner.into_iter().flatten() {
        undocumented(&format!("{path}.{name}"), field, silent);
    }
}

async fn full(mesh: &Mesh) -> Result<()> {
    let manifest = "
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: full, namespace: default}
spec:
  mode: Enforce
  workload: {service: web}
  allow:
  - {host: reviews.books, reason: nightly report}
  - {host: api.example.com}
  - {namespace: payments, until: '2027-01-31T00:00:00Z'}
  - serviceSelector: {matchLabels: {tier: core}, matchExpressions: [{key: old, operator: DoesNotExist}]}
    namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [money]}]}
  deny: [legacy.old, '*.example.org']
  learning: {nonHttp: Learn, expireAfter: 48h, sources: [AccessLog, Prometheus]}
";
    kubectl_apply(mesh, "full", manifest).await?;
    let stored = mesh.kubectl(&["get", "sf", "full", "-o", "json"]).await?;
    let stored: Value = serde_json::from_str(&stored)?;
    let spec = json!({
        "mode": "Enforce", "workload": {"service": "web"},
        "allow": [
            {"host": "reviews.books", "reason": "nightly report"}, {"host": "api.example.com"},
            {"namespace": "payments", "until": "2027-01-31T00:00:00Z"},
            {
                "serviceSelector": {
                    "matchLabels": {"tier": "core"}, "matchExpressions": [{"key": "old", "operator": "DoesNotExist"}],
                },
                "namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["money"]}]},
            },
        ],
        "deny": ["legacy.old", "*.example.org"],
        "learning": {"nonHttp": "Learn", "expireAfter": "48h", "sources": ["AccessLog", "Prometheus"]},
    });
    ensure!(stored["spec"] == spec, "stored as {}", stored["spec"]);
    Ok(())
}

async fn hosts(mesh: &Mesh) -> Result<()> {
    for host in [
        "reviews",
        "reviews.books",
        "reviews.books.svc",
        "reviews.books.svc.cluster.local",
        "api.example.com",
        "1.example.com",
        "_dns.example.com",
        "a-b.c--d.example",
        "'*.example.com'",
        "'*.books.svc.cluster.local'",
    ] {
        try_spec(mesh, &format!("{{allow: [{{host: {host}}}], deny: [{host}]}}"))
            .await
            .with_context(|| format!("{host} is refused"))?;
    }
    Ok(())
}

/// 512 entries as long as they may be: the cost of the rules stays within what the API server grants at run
/// time too.
async fn largest(mesh: &Mesh) -> Result<()> {
    let label = "h".repeat(62);
    let host = format!("{label}.{label}.{label}.{label}.x");
    ensure!(host.len() == 253, "{} characters", host.len());
    let entry = format!("{{host: {host}, reason: {}}},", "r".repeat(256));
    let denied = format!("{host},").repeat(512);
    try_spec(
        mesh,
        &format!("{{allow: [{}], deny: [{denied}]}}", entry.repeat(512)),
    )
    .await?;
    let values = format!("{label},").repeat(32);
    let expression = format!("{{key: tier, operator: In, values: [{values}]}},").repeat(16);
    let selector = format!("{{matchExpressions: [{expression}]}}");
    let entry = format!("{{serviceSelector: {selector}, namespaceSelector: {selector}}},");
    // As many as etcd stores in one object.
    try_spec(mesh, &format!("{{allow: [{}]}}", entry.repeat(16))).await?;
    Ok(())
}

async fn strict(mesh: &Mesh) -> Result<()> {
    let manifest = "
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: strict, namespace: default}
spec: {allowed: [{host: reviews}]}
";
    let refused = kubectl_apply(mesh, "strict", manifest).await;
    let error = format!("{:#}", refused.err().context("it is accepted")?);
    says(&error, r#"unknown field "spec.allowed""#)
}

async fn columns(mesh: &Mesh) -> Result<()> {
    let manifest = "
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: shown, namespace: default}
spec: {}
";
    kubectl_apply(mesh, "shown", manifest).await?;
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |kind: &str, message: &str| json!({"type": kind, "status": "True", "reason": "Scoped", "message": message, "lastTransitionTime": now});
    let status = json!({"status": {
        "mode": "Enforce",
        "scope": {"hosts": 12, "meshHosts": 1840, "sidecar": "servicefence-shown", "writtenAt": now},
        "savings": {"clusters": 1828, "endpoints": 9140, "estimatedBytesPerProxy": 76_800_000, "percent": 98,
            "proxies": 4, "calculatedAt": now},
        "conditions": [condition("Ready", "all is well"), condition("Enforced", "")],
    }});
    let patch = status.to_string();
    mesh.kubectl(&[
        "patch",
        "sf",
        "shown",
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ])
    .await?;
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let table = mesh.kubectl(&["get", "sf", "shown"]).await?;
    let mut lines = table.lines();
    let header = words(lines.next().context("no header")?);
    ensure!(
        header
            == [
                "NAME", "MODE", "READY", "ENFORCED", "HOSTS", "MESH", "SAVED%", "REASON", "AGE"
            ],
        "the header is {header:?}"
    );
    let row = words(lines.next().context("no row")?);
    ensure!(
        row[..7] == ["shown", "Enforce", "True", "True", "12", "1840", "98"],
        "the row is {row:?}"
    );
    let wide = mesh
        .kubectl(&["get", "servicefences", "-A", "-o", "wide"])
        .await?;
    says(&wide, "REASON")?;
    says(&wide, "PROXIES")?;
    says(&wide, "all is well")?;
    // The category, by which `kubectl get mesh` lists them.
    says(
        &mesh.kubectl(&["get", "mesh", "-o", "name"]).await?,
        "servicefence.servicefence.io/shown",
    )
}
