//! The scale run in small: all Sidecars are stored, a restart writes nothing, and nothing is written at rest.
//! How long it takes is for `make scale`.

use std::time::Duration;

use anyhow::Result;
use servicefence_e2e::install::{Build, controller};
use servicefence_e2e::scale::{self, Size};
use servicefence_e2e::tools::can_run;
use servicefence_e2e::{Mesh, MeshOptions};

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_are_stored_once_and_never_again() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let program = controller(Build::Debug).await?;
    let mesh = Mesh::up(MeshOptions {
        api_server_only: true,
        ..MeshOptions::default()
    })
    .await?;
    let options = scale::Options {
        size: Size {
            namespaces: 6,
            services: 10,
            pods: 2,
            fenced: 3,
            hosts: 5,
        },
        rest: Duration::from_secs(5),
        churn: Duration::from_secs(3),
        program,
        args: Vec::new(),
    };
    let report = scale::run(&mesh, &options, |_| {})
        .await
        .inspect_err(|_| eprintln!("{}", mesh.dump()))?;
    println!("{report}");
    report.check()
}
