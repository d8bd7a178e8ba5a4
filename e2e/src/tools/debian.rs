//! A program of a Debian package, unpacked beside the others: nothing is installed on the machine for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::build::{locked, run};

/// The folder with the programs of a package, `usr/bin` in it.
pub(super) fn unpacked(cache: &Path, package: &str) -> Result<PathBuf> {
    let folder = cache.join(package);
    let programs = folder.join("usr/bin");
    if programs.exists() {
        return Ok(programs);
    }
    if !Path::new("/etc/debian_version").exists() {
        bail!(
            "unpack {package} so that its programs are in {}",
            programs.display()
        );
    }
    let _lock = locked(cache)?;
    if programs.exists() {
        return Ok(programs);
    }
    eprintln!("fetching {package}…");
    let half = folder.with_extension("half");
    if half.exists() {
        fs::remove_dir_all(&half)?;
    }
    fs::create_dir_all(&half)?;
    let download = || {
        run(Command::new("apt-get")
            .args(["download", "--quiet", package])
            .current_dir(&half))
    };
    // An image without package lists needs one update before anything can be fetched.
    if download().is_err() {
        run(Command::new("apt-get").args(["update", "--quiet"]))?;
        download()?;
    }
    let archive = fs::read_dir(&half)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get fetched no package {package}"))?;
    run(Command::new("dpkg").arg("--extract").arg(&archive).arg(&half))?;
    fs::remove_file(&archive)?;
    fs::rename(&half, &folder)?;
    Ok(programs)
}
