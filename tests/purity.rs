//! Holds the rules of the house that the compiler does not know: the core knows plain data only, and no file grows past
//! what a reader can hold. What of the standard library the core must not use, `src/core/clippy.toml` says.

use std::fs;
use std::path::{Path, PathBuf};

/// The crates that the core may depend on: plain data, and how to read it.
const PURE: [&str; 12] = [
    "servicefence-crd",
    "http",
    "jiff",
    "k8s-openapi",
    "kube",
    "litemap",
    "regex",
    "regex-syntax",
    "serde",
    "serde-saphyr",
    "serde_json",
    "thiserror",
];

const MOST_LINES: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of a manifest's dependencies.
fn dependencies(manifest: &str) -> Vec<&str> {
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    section.lines().filter(|line| !line.is_empty()).collect()
}

#[test]
fn what_decides_knows_plain_data_only() {
    let manifest = read(&root().join("src/core/Cargo.toml"));
    let lines = dependencies(&manifest);
    let names: Vec<_> = lines
        .iter()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .collect();
    assert_eq!(names, PURE, "the core depends on other crates");
    // By its features kube has a client and a runtime; without any it is types.
    for manifest in ["src/core/Cargo.toml", "crd/Cargo.toml"] {
        let manifest = read(&root().join(manifest));
        let kube = dependencies(&manifest)
            .into_iter()
            .find(|line| line.starts_with("kube"));
        let types = [
            "kube.workspace = true",
            r#"kube = { workspace = true, features = ["derive"] }"#,
        ];
        assert!(kube.is_some_and(|line| types.contains(&line)), "{kube:?}");
    }
}

#[test]
fn files_are_short_and_modules_are_named() {
    let mut files = Vec::new();
    for folder in ["benches", "crd", "e2e", "src", "tests"] {
        collect(&root().join(folder), &mut files);
    }
    assert!(files.len() > 50, "the files were not found");
    let long = files.iter().filter_map(|path| {
        let lines = read(path).lines().count();
        (lines > MOST_LINES).then(|| {
            format!(
                "{} has {lines} lines, and {MOST_LINES} are the most",
                path.display()
            )
        })
    });
    let unnamed = files.iter().filter(|path| path.ends_with("mod.rs"));
    let unnamed = unnamed.map(|path| format!("{}: use `foo.rs` beside `foo/`", path.display()));
    let found: Vec<_> = long.chain(unnamed).collect();
    assert!(found.is_empty(), "{found:#?}");
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}
