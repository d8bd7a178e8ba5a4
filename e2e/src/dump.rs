//! What to look at when a test failed: the last words of every process, istiod's view of the proxies, each
//! proxy's configuration. Needs no runtime, since it is also made while a test unwinds.

use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use crate::addresses::node_namespace;
use crate::mesh::Mesh;
use crate::netns::Netns;
use crate::pod::PodRecord;
use crate::process::last_lines;
use crate::{admin, state};

impl Mesh {
    /// Everything worth reading after a failure.
    pub fn dump(&self) -> String {
        of(self.id())
    }
}

/// The dump of a mesh, as far as it still answers.
pub fn of(id: &str) -> String {
    let folder = state::folder(id);
    let mut text = format!("=== mesh {id}: what its processes said last ===\n");
    let mut logs: Vec<_> = fs::read_dir(folder.join("logs"))
        .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
        .unwrap_or_default();
    logs.sort();
    for log in logs {
        let name = log.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let _ = writeln!(text, "--- {name}\n{}", last_lines(&log, 12));
    }
    let syncz = page(&node_namespace(id), 8080, "/debug/syncz");
    let syncz = syncz.map_or_else(|error| error, |page| in_short(&page));
    let _ = writeln!(text, "--- istiod /debug/syncz\n{syncz}");
    for pod in PodRecord::all(&folder).into_iter().filter(|pod| pod.proxied) {
        let line = keep_config_dump(id, &pod).unwrap_or_else(|error| error);
        let _ = writeln!(text, "--- proxy of {}: {line}", pod.full_name());
    }
    text
}

/// One line a proxy: what it has not acknowledged.
fn in_short(syncz: &str) -> String {
    let proxies: Vec<Value> = serde_json::from_str(syncz).unwrap_or_default();
    let lines = proxies.iter().map(|proxy| {
        let behind: Vec<&str> = ["cluster", "listener", "route", "endpoint"]
            .into_iter()
            .filter(|kind| proxy[format!("{kind}_sent")] != proxy[format!("{kind}_acked")])
            .collect();
        let behind = if behind.is_empty() {
            "in sync".to_owned()
        } else {
            format!("not acked: {}", behind.join(", "))
        };
        format!("{} {behind}", proxy["proxy"].as_str().unwrap_or_default())
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The configuration is too long to print; it goes beside the mesh's folder, which the clean-up removes.
fn keep_config_dump(id: &str, pod: &PodRecord) -> Result<String, String> {
    let config = page(&pod.netns(), 15000, "/config_dump?include_eds")?;
    let folder = crate::tools::repository().join(".cache/dumps");
    let path = folder.join(format!("{id}-{}.json", pod.log_name()));
    let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, config));
    written
        .map(|()| format!("configuration in {}", path.display()))
        .map_err(|error| error.to_string())
}

fn page(netns: &Netns, port: u16, path: &str) -> Result<String, String> {
    let page = netns.enter(|| admin::get(port, path)).and_then(|page| page);
    page.map(|page| page.text()).map_err(|error| format!("{error:#}"))
}
