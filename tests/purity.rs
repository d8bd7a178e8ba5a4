//! Holds the rules of the house that the compiler does not know: `src/fence` decides and does
//! nothing else, and no file grows past what a reader can hold.
//!
//! `fence` may use the standard library without IO, clocks, threads and chance, `servicefence_crd`,
//! and a few crates of plain data. So the same code serves the controller, tests and tools, and the
//! same inputs give the same bytes.

#[path = "purity/source.rs"]
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use source::{Source, modules};

/// Crates of plain data.
const PURE: [&str; 9] = [
    "jiff",
    "k8s_openapi",
    "litemap",
    "regex",
    "regex_syntax",
    "serde",
    "serde_json",
    "servicefence_crd",
    "thiserror",
];

/// What of the standard library reaches outside, by the paths' beginnings.
const IMPURE: [&str; 8] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::os",
    "std::process",
    "std::thread",
    "std::net::To",
    "std::hash::RandomState",
];

/// Names that are impure wherever they stand: sockets, clocks, chance, output, and what waits.
const NAMES: [&str; 13] = [
    "Instant",
    "RandomState",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixListener",
    "UnixStream",
    "async",
    "await",
    "dbg",
    "eprintln",
    "println",
];

const MOST_LINES: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The crates that the controller depends on, as paths name them.
fn dependencies() -> Vec<String> {
    let manifest = read(&root().join("Cargo.toml"));
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let names = section
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next());
    let names: Vec<_> = names
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(|name| name.replace('-', "_"))
        .collect();
    assert!(
        names.iter().any(|name| name == "tokio"),
        "the dependencies were not found: {names:?}"
    );
    names
}

/// What a module of `fence` must not name, with `depth` modules between it and the crate.
fn impurities(source: &Source, depth: usize, dependencies: &[String]) -> Vec<String> {
    let is_impure = |path: &&String| {
        let segments: Vec<_> = path.split("::").collect();
        let supers = segments.iter().take_while(|segment| **segment == "super").count();
        let last = segments.last().copied().unwrap_or_default();
        let foreign = dependencies.iter().any(|name| name == segments[0]) && !PURE.contains(&segments[0]);
        // Alone it is a visibility.
        let outside = segments[0] == "crate" && segments.get(1).is_some_and(|module| *module != "fence");
        foreign
            || outside
            || supers > depth
            || IMPURE.iter().any(|start| path.starts_with(start))
            || segments.iter().any(|segment| NAMES.contains(segment))
            // `Timestamp::now`, `TimeZone::system`: the clock and its settings by other names.
            || (segments.len() > 1 && ["now", "system", "try_system"].contains(&last))
    };
    source.paths().iter().filter(is_impure).cloned().collect()
}

#[test]
fn what_decides_does_nothing_else() {
    let dependencies = dependencies();
    let modules = modules(root(), Path::new("src/fence.rs"));
    assert!(
        modules.len() > 15,
        "the modules of fence were not found: {modules:?}"
    );
    let mut found = Vec::new();
    for (path, depth) in &modules {
        let source = Source::without_tests(&read(&root().join(path)));
        for name in impurities(&source, *depth, &dependencies) {
            found.push(format!("{}: {name}", path.display()));
        }
    }
    assert!(found.is_empty(), "fence names what it must not: {found:#?}");
}

#[test]
fn the_rules_of_purity_catch_what_they_forbid() {
    let dependencies = dependencies();
    let impure = [
        "use tokio::time::sleep;",
        "use std::{collections::BTreeMap, fs};",
        "use crate::{fence::name::Name, writer::Writer};",
        "use crate::metrics::Metrics;",
        "fn f() { let at = jiff::Timestamp::now(); }",
        "fn f() { let at = at.unwrap_or_else(Timestamp::now); }",
        "fn f() { std::time::Instant::now(); }",
        "use std::time::SystemTime;",
        "fn f(client: kube::Client) {}",
        "fn f() { println!(\"x\"); }",
        "async fn f() {}",
        "use super::super::state::State;",
        "fn f() -> &'static str { \"http://x\" } use std::env;",
        "fn f(c: char) -> bool { c == '\"' || tracing::enabled!(x) }",
        "fn f() -> &'static str { r#\"a \" b\"# } use prometheus::Counter;",
    ];
    for text in impure {
        let found = impurities(&Source::without_tests(text), 1, &dependencies);
        assert!(!found.is_empty(), "nothing was found in: {text}");
    }
    let pure = [
        "// tokio::spawn\n/* kube::Client /* nested */ crate::state */ use super::name::Name;",
        "const TEXT: &str = \"tokio::spawn, crate::state\";",
        "use std::net::{IpAddr, SocketAddr}; use std::collections::BTreeMap;",
        "fn f<'a>(now: Timestamp, x: &'a str) -> Host { plan(now) }",
        "fn f<'a>(x: &'a str) -> impl Sized + use<'a> { if x.is_empty() { 1 } else { 2 } }",
        "use crate::fence::{engine::Engine, name::Name};",
        "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use proptest::prelude::*;\n}\n",
    ];
    for text in pure {
        let found = impurities(&Source::without_tests(text), 1, &dependencies);
        assert!(found.is_empty(), "{found:?} was found in: {text}");
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
