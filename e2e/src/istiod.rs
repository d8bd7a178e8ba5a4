//! What istiod says of itself: its debug pages and its metrics.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::admin::{self, Page};
use crate::mesh::Mesh;

const DEBUG_PORT: u16 = 8080;
const MONITORING_PORT: u16 = 15014;

impl Mesh {
    /// A debug page of istiod, such as `/debug/syncz`.
    pub async fn istiod(&self, path: &str) -> Result<Page> {
        self.node_page(DEBUG_PORT, path).await
    }

    /// `/debug/syncz`: what each proxy was sent and acknowledged.
    pub async fn syncz(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.istiod("/debug/syncz").await?.body)?)
    }

    /// istiod's metrics as Prometheus reads them.
    pub async fn istiod_metrics(&self) -> Result<String> {
        Ok(self.node_page(MONITORING_PORT, "/metrics").await?.text())
    }

    /// The samples of one of istiod's metrics, by their labels as they stand in the text (`{type="cds"}`).
    pub async fn istiod_metric(&self, name: &str) -> Result<BTreeMap<String, f64>> {
        Ok(samples(&self.istiod_metrics().await?, name))
    }

    /// A page that a pod serves, asked from inside it: past its proxy, as a kubelet's probe comes.
    pub async fn pod_page(&self, pod: &str, port: u16, path: &str) -> Result<Page> {
        let record = self.core().pod(pod)?;
        let socket = self.core().sockets(&record.netns())?.tcp().await?;
        admin::get_over(socket, admin::loopback(port), path).await
    }

    async fn node_page(&self, port: u16, path: &str) -> Result<Page> {
        let socket = self.core().sockets(&self.core().node())?.tcp().await?;
        let page = admin::get_over(socket, admin::loopback(port), path).await?;
        ensure!(page.status == 200, "istiod answers {} to GET {path}", page.status);
        Ok(page)
    }
}

fn samples(text: &str, name: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter_map(|rest| {
            let (labels, value) = rest.rsplit_once(' ')?;
            Some((labels.to_owned(), value.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_metric_is_read() {
        let text = "# HELP pilot_xds_pushes x\npilot_xds_pushes{type=\"cds\"} 4\npilot_xds_pushes_total 9\npilot_xds 3\n";
        let found = samples(text, "pilot_xds_pushes");
        assert_eq!(found, BTreeMap::from([("{type=\"cds\"}".to_owned(), 4.0)]));
    }
}
