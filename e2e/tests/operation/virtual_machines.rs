//! A virtual machine with the labels of a workload: the workload's Sidecar would apply to its proxy too.

use anyhow::{Result, ensure};
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Mesh, PodSpec};

crate::steps![a_workload_that_a_virtual_machine_belongs_to_is_left_alone];

/// As `istioctl experimental workload group create` makes it.
const GROUP: &str = "
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: old, namespace: machines}
spec:
  metadata: {labels: {app: web}}
  template: {serviceAccount: default}
";

async fn a_workload_that_a_virtual_machine_belongs_to_is_left_alone(mesh: Mesh) -> Result<()> {
    mesh.add_app(PodSpec::new("machines/web").http(8080)).await?;
    mesh.enforce("machines", &["web"]).await?;
    mesh.apply_yaml(GROUP).await?;
    let reason = mesh
        .wait_condition("machines", "web", "Enforced", "False")
        .await?;
    // Its Sidecar goes in two steps, and then it is said why.
    until("the reason to be said", SOON, async || {
        let fence = mesh.fence("machines", "web").await?.to_string();
        ensure!(fence.contains("VirtualMachines"), "{reason}, then {fence}");
        ensure!(fence.contains("WorkloadGroup machines/old"), "{fence}");
        Ok(())
    })
    .await?;
    mesh.kubectl(&["-n", "machines", "delete", "workloadgroup", "old"])
        .await?;
    mesh.wait_condition("machines", "web", "Enforced", "True").await?;
    mesh.kubectl(&["delete", "namespace", "machines"]).await?;
    Ok(())
}
