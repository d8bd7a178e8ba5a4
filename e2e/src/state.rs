//! What a mesh leaves on disk, so that another process can attach to it or clean up after it.
//!
//! `<repository>/.cache/mesh/<id>/` holds logs, keys, the kubeconfig and `state.json`. A file
//! `/run/servicefence-mesh/<id>` claims the id for the whole machine and names that folder, so meshes of
//! several checkouts never meet.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::addresses::Families;
use crate::netns;
use crate::tools::repository;

const CLAIMS: &str = "/run/servicefence-mesh";

/// What `state.json` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The id of the mesh.
    pub id: String,
    /// The process that the mesh belongs to; none when it stays until it is taken down.
    pub owner: Option<Owner>,
    /// The address of the API server, as seen from the machine.
    pub server: String,
    /// The families of addresses that pods and Services have.
    pub families: Families,
}

/// A process, told from a later one with the same number by when it started.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Owner {
    pid: u32,
    started: u64,
}

impl Owner {
    /// This process.
    pub fn me() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            started: started(pid).unwrap_or_default(),
        }
    }

    /// Whether it still runs.
    pub fn alive(&self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// Field 22 of `/proc/<pid>/stat`; the name in field 2 may hold spaces, so count after its closing bracket.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The folder of all meshes of this checkout.
fn meshes() -> PathBuf {
    repository().join(".cache/mesh")
}

/// The folder of one mesh.
pub fn folder(id: &str) -> PathBuf {
    meshes().join(id)
}

fn claim_file(id: &str) -> PathBuf {
    Path::new(CLAIMS).join(id)
}

/// Takes an id (a new one unless it is given) and makes its folder.
pub fn claim(wanted: Option<&str>, owner: Option<Owner>) -> Result<State> {
    if let Some(id) = wanted {
        let fits = (1..=8).contains(&id.len());
        ensure!(
            fits && id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()),
            "a mesh id is one to eight lower-case letters and digits, not `{id}`"
        );
    }
    fs::create_dir_all(CLAIMS)?;
    loop {
        let id = wanted.map_or_else(new_id, str::to_owned);
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(claim_file(&id))
        {
            Ok(mut file) => {
                let folder = folder(&id);
                // The owner is written before the claim says where: a claim without owner is never taken for
                // stale.
                fs::create_dir_all(folder.join("logs"))?;
                let state = State {
                    id,
                    owner,
                    server: String::new(),
                    families: Families::default(),
                };
                save(&state)?;
                file.write_all(folder.to_string_lossy().as_bytes())?;
                return Ok(state);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if let Some(id) = wanted {
                    bail!("mesh {id} is already there: take it down with `mesh down --id {id}`");
                }
            }
            Err(error) => return Err(error).context("cannot claim a mesh id"),
        }
    }
}

fn new_id() -> String {
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let mut seed = nanos ^ (u128::from(std::process::id()) << 20);
    let mut id = String::new();
    for _ in 0..5 {
        id.push(char::from(
            b"abcdefghijkmnpqrstuvwxyz23456789"[usize::try_from(seed % 32).unwrap_or(0)],
        ));
        seed /= 32;
    }
    id
}

/// Writes `state.json`.
pub fn save(state: &State) -> Result<()> {
    write_whole(
        &folder(&state.id).join("state.json"),
        &serde_json::to_vec_pretty(state)?,
    )
}

/// Writes a file so that a reader sees the old or the new one, never a part.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let next = path.with_extension(format!("next-{}", std::process::id()));
    fs::write(&next, bytes).with_context(|| format!("cannot write {}", next.display()))?;
    fs::rename(&next, path)?;
    Ok(())
}

/// Reads `state.json` of a mesh.
pub fn load(id: &str) -> Result<State> {
    let Ok(text) = fs::read(folder(id).join("state.json")) else {
        bail!("there is no mesh {id}; `mesh status` lists those that are")
    };
    Ok(serde_json::from_slice(&text)?)
}

/// The meshes of this checkout.
pub fn list() -> Vec<State> {
    let Ok(entries) = fs::read_dir(meshes()) else {
        return Vec::new();
    };
    let mut found: Vec<State> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| load(entry.file_name().to_str()?).ok())
        .collect();
    found.sort_by(|one, other| one.id.cmp(&other.id));
    found
}

/// Whether anything of this mesh is there.
pub fn exists(id: &str) -> bool {
    claim_file(id).exists() || folder(id).exists()
}

/// Ends everything that a mesh runs and removes everything that it left.
pub fn destroy(id: &str) -> Result<()> {
    let claimed = fs::read_to_string(claim_file(id))
        .ok()
        .filter(|path| !path.is_empty());
    netns::delete_all(&netns::with_prefix(&format!("sf{id}-")))?;
    let folder = claimed.map_or_else(|| folder(id), PathBuf::from);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let claim = claim_file(id);
    if claim.exists() {
        fs::remove_file(claim)?;
    }
    Ok(())
}

/// Cleans up after meshes with a dead owner or without a folder, of every checkout. Says which.
pub fn clean_stale() -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(CLAIMS) else {
        return Ok(Vec::new());
    };
    // Two that clean up after the same mesh would miss what the other one has taken away.
    let one_at_a_time = fs::File::create(format!("{CLAIMS}.lock"))?;
    one_at_a_time.lock()?;
    let mut cleaned = Vec::new();
    for id in entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        if is_stale(&id) {
            destroy(&id).with_context(|| format!("cannot clean up after mesh {id}"))?;
            cleaned.push(id);
        }
    }
    Ok(cleaned)
}

fn is_stale(id: &str) -> bool {
    let Ok(path) = fs::read_to_string(claim_file(id)) else {
        return false;
    };
    if path.is_empty() {
        return false;
    }
    let Ok(text) = fs::read(Path::new(&path).join("state.json")) else {
        return true;
    };
    let state: Result<State, _> = serde_json::from_slice(&text);
    state.is_ok_and(|state| state.owner.is_some_and(|owner| !owner.alive()))
}
