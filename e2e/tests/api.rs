//! The ServiceFence API as a real API server serves it: what it accepts, what it refuses with which sentence,
//! and what kubectl shows of it. And the APIs beside it: `docs/compatibility.md` has every field of them.

#[path = "api/fields.rs"]
mod fields;
#[path = "api/refused.rs"]
mod refused;
#[path = "api/shown.rs"]
mod shown;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use servicefence_e2e::objects::documents;
use servicefence_e2e::tools::{self, repository};
use servicefence_e2e::wait::{SHORT, until};
use servicefence_e2e::{Mesh, MeshOptions};
use tokio::runtime::Runtime;

/// Where the API server keeps ServiceFences of the namespace `default`.
const FENCES: &str = "/apis/servicefence.io/v1alpha1/namespaces/default/servicefences";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let names = shown::NAMES
        .iter()
        .chain([&fields::NAME])
        .map(|name| (*name).to_owned())
        .chain(refused::ROWS.iter().map(refused::Row::test_name));
    if arguments.list {
        let trials = names.map(|name| Trial::test(name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    if !tools::can_run() {
        return ExitCode::SUCCESS;
    }
    let set_up = Runtime::new().map_err(anyhow::Error::from).and_then(|runtime| {
        let mesh = runtime.block_on(set_up())?;
        Ok((runtime, mesh))
    });
    let (runtime, mesh) = match set_up {
        Ok(all) => all,
        Err(error) => {
            eprintln!("the API server of these tests cannot be set up: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let handle = runtime.handle();
    let trials = names.map(|name| {
        let (mesh, handle, this) = (mesh.clone(), handle.clone(), name.clone());
        Trial::test(name, move || {
            handle
                .block_on(run(&mesh, &this))
                .map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

async fn run(mesh: &Mesh, name: &str) -> Result<()> {
    if name == fields::NAME {
        return fields::are_in_the_page(mesh).await;
    }
    match refused::ROWS.iter().find(|row| row.test_name() == name) {
        Some(row) => refused::is_refused(mesh, row).await,
        None => shown::run(mesh, name).await,
    }
}

/// A mesh for its API server, and the CRD as it is in the repository.
async fn set_up() -> Result<Mesh> {
    let mesh = Mesh::up(MeshOptions::default()).await?;
    let file = repository().join("crd/servicefence.yaml");
    mesh.kubectl(&["apply", "--server-side", "-f", &file.to_string_lossy()])
        .await?;
    until("the ServiceFence API is served", SHORT, async || {
        mesh.client()
            .request::<Value>(http::Request::get(FENCES).body(Vec::new())?)
            .await?;
        Ok(())
    })
    .await?;
    Ok(mesh)
}

/// What the API server says to a fence with this spec, given as YAML. Nothing is stored.
#[allow(clippy::expect_used, reason = "the specs are constants of these tests")]
async fn try_spec(mesh: &Mesh, spec: &str) -> Result<Value, kube::Error> {
    let spec = documents(&format!("spec: {spec}"))
        .expect("the table is YAML")
        .pop()
        .expect("one document");
    let fence = json!({"apiVersion": "servicefence.io/v1alpha1", "kind": "ServiceFence",
        "metadata": {"name": "try"}, "spec": spec["spec"]});
    // As kubectl asks: a field that the API does not have is an error, not dropped.
    let path = format!("{FENCES}?dryRun=All&fieldValidation=Strict");
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(fence.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    mesh.client().request(request).await
}

/// Hands a manifest to kubectl, as users do.
async fn kubectl_apply(mesh: &Mesh, name: &str, manifest: &str) -> Result<String> {
    let folder = mesh.kubeconfig().with_file_name("manifests");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{name}.yaml"));
    std::fs::write(&file, manifest)?;
    mesh.kubectl(&["apply", "--validate=strict", "-f", &file.to_string_lossy()])
        .await
}

/// Fails unless a text says something.
fn says(text: &str, wanted: &str) -> Result<()> {
    ensure!(text.contains(wanted), "it does not say `{wanted}`:\n{text}");
    Ok(())
}
