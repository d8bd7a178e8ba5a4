//! `docs/compatibility.md` has every field of the APIs that decide about calls, as the pinned Istio, Gateway
//! API and Kubernetes have them. A newer one shows here what is new.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use servicefence_e2e::Mesh;
use servicefence_e2e::compatibility::{Counts, Fields, complaints, rows};
use servicefence_e2e::objects::documents;
use servicefence_e2e::schema::fields;
use servicefence_e2e::tools::{self, Tools, repository};

pub(crate) const NAME: &str = "every_field_is_in_the_page_about_compatibility";

/// The kinds of Gateway API that may be about a Service, by their plural.
const ROUTES: [&str; 5] = [
    "httproutes",
    "grpcroutes",
    "tcproutes",
    "tlsroutes",
    "backendtlspolicies",
];

/// The kinds of Kubernetes: where their schema is served, and its name there.
const KUBERNETES: [(&str, &str); 2] = [
    ("/openapi/v3/api/v1", "io.k8s.api.core.v1.Service"),
    (
        "/openapi/v3/apis/discovery.k8s.io/v1",
        "io.k8s.api.discovery.v1.EndpointSlice",
    ),
];

pub(crate) async fn are_in_the_page(mesh: &Mesh) -> Result<()> {
    let mut fields = tokio::task::spawn_blocking(of_istio_and_gateway_api).await??;
    for (path, name) in KUBERNETES {
        let document: Value = mesh
            .client()
            .request(http::Request::get(path).body(Vec::new())?)
            .await?;
        let kind = name.rsplit('.').next().unwrap_or(name);
        fields.insert(
            kind.to_owned(),
            decisive(kind, &document["components"]["schemas"][name], &document)?,
        );
    }
    let page = fs::read_to_string(repository().join("docs/compatibility.md"))?;
    let rows = rows(&page);
    let tests = tests()?;
    let mut said = complaints(&rows, &fields, |test| tests.contains(test));
    let counts = format!("<!-- answers -->{}<!-- /answers -->", Counts::of(&rows));
    if !page.contains(&counts) {
        said.push(format!(
            "docs/compatibility.md does not count its rows as they are. Write: {counts}"
        ));
    }
    ensure!(said.is_empty(), "{}", said.join("\n"));
    Ok(())
}

fn of_istio_and_gateway_api() -> Result<Fields> {
    let mut all = tools::istio_api()?;
    let mut crds = documents(&fs::read_to_string(Tools::ready()?.istio_crds())?)?;
    for plural in ROUTES {
        crds.extend(documents(&tools::gateway_api_crd(plural)?)?);
    }
    for crd in crds {
        let kind = crd["spec"]["names"]["kind"]
            .as_str()
            .context("a CRD names its kind")?;
        let versions = crd["spec"]["versions"].as_array();
        let stored = versions
            .into_iter()
            .flatten()
            .find(|version| version["storage"] == true);
        let schema = &stored.context("a CRD has a stored version")?["schema"]["openAPIV3Schema"];
        all.insert(kind.to_owned(), decisive(kind, schema, &Value::Null)?);
    }
    Ok(all)
}

/// The fields of a kind, without those that every object has. A status follows from the rest, but for the
/// addresses that somebody gives to a Service or ServiceEntry.
fn decisive(kind: &str, schema: &Value, document: &Value) -> Result<BTreeSet<String>> {
    let mut all = fields(schema, document);
    ensure!(all.len() > 5, "the schema of {kind} is not where it was: {all:?}");
    let given = ["Service", "ServiceEntry"].contains(&kind);
    all.retain(|field| match field.split(['.', '[']).next() {
        Some("apiVersion" | "kind" | "metadata") => false,
        Some("status") => given,
        _ => true,
    });
    Ok(all)
}

/// The names of all functions in the repository.
fn tests() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut folders = ["crd", "e2e", "src", "tests"]
        .map(|folder| repository().join(folder))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path)?;
                let functions = text
                    .split("fn ")
                    .skip(1)
                    .filter_map(|rest| rest.split(['(', '<']).next());
                names.extend(functions.map(ToOwned::to_owned));
            }
        }
    }
    Ok(names)
}
