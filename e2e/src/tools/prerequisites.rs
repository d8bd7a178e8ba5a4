//! What the machine must have: root, Go and Python for the programs, and three Debian packages for the
//! network.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Program and the Debian package that brings it.
const FROM_DEBIAN: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("iptables-restore", "iptables"),
    ("setpriv", "util-linux"),
    ("nsenter", "util-linux"),
    ("sysctl", "procps"),
];

/// What only the person at the machine can give: each entry says what to do. Empty = the mesh can start.
pub fn missing() -> Vec<String> {
    let mut wants = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        wants.push("run it as root (it makes network namespaces)".to_owned());
    }
    // Only who builds the programs needs these two.
    if !super::is_filled().unwrap_or_default() {
        if !in_path("go") {
            wants.push("install Go 1.26 (go.dev/dl)".to_owned());
        }
        if !succeeds(&["python3", "-m", "pip", "--version"]) {
            wants.push("install Python 3 with pip (Debian: python3-pip)".to_owned());
        }
    }
    if !Path::new("/etc/debian_version").exists() {
        for (program, package) in FROM_DEBIAN {
            if !in_path(program) {
                wants.push(format!("install {package} ({program} is not there)"));
            }
        }
    }
    wants
}

/// Every pilot-agent watches a handful of files, all as one user: the kernel's usual limit of 128 watchers a
/// user is used up by some thirty pods. Raised until the machine restarts, as other local clusters ask one to
/// do by hand.
pub fn raise_limits() -> Result<()> {
    for (name, wanted) in [("max_user_instances", 8192), ("max_user_watches", 524_288)] {
        let path = Path::new("/proc/sys/fs/inotify").join(name);
        let now: u64 = fs::read_to_string(&path)?.trim().parse()?;
        if now < wanted {
            fs::write(&path, wanted.to_string())
                .with_context(|| format!("cannot raise {}", path.display()))?;
        }
    }
    Ok(())
}

/// Installs what is missing and can be installed; one clear sentence about the rest.
pub fn install_missing() -> Result<()> {
    let wants = missing();
    if !wants.is_empty() {
        bail!("the mesh cannot start here: {}", wants.join("; "));
    }
    let mut packages: Vec<&str> = FROM_DEBIAN
        .iter()
        .filter(|(program, _)| !in_path(program))
        .map(|(_, package)| *package)
        .collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    eprintln!("installing {}…", packages.join(", "));
    let mut install = vec![
        "apt-get",
        "install",
        "--yes",
        "--quiet",
        "--no-install-recommends",
    ];
    install.extend(&packages);
    // An image without package lists needs one update before anything can be installed.
    let update = ["apt-get", "update", "--quiet"];
    let installed = succeeds(&install) || (succeeds(&update) && succeeds(&install));
    if !installed {
        bail!(
            "cannot install {}: run `{}` by hand to see why",
            packages.join(", "),
            install.join(" ")
        );
    }
    Ok(())
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

fn succeeds(command: &[&str]) -> bool {
    Command::new(command[0])
        .args(&command[1..])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// For tests: whether a mesh can run here. If not, says so in one line, and in CI that is a failure.
///
/// # Panics
/// In CI (`CI` is set), when something is missing: there a test that does not run must not look like one that
/// passed.
pub fn can_run() -> bool {
    let wants = missing();
    if wants.is_empty() {
        return true;
    }
    let wants = wants.join("; ");
    assert!(
        std::env::var_os("CI").is_none(),
        "the mesh's tests cannot run here: {wants}"
    );
    eprintln!("skipped, the mesh's tests need a little more: {wants}");
    false
}
