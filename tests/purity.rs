//! Holds the rules of the house that the compiler does not know: the core knows plain data only, its layers
//! stand in order, and no file grows past what a reader can hold. What of the standard library the core must
//! not use, `src/core/clippy.toml` says.

#[path = "docs/files.rs"]
mod files;
#[path = "purity/source.rs"]
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use files::files_below;
use source::Source;

/// The layers of the core, from the ground up: a file names only its own layer and those before it.
const LAYERS: [&str; 14] = [
    "name",
    "time",
    "settings",
    "facts",
    "mesh",
    "workloads",
    "evidence",
    "scope",
    "render",
    "learn",
    "plan",
    "engine",
    "observe",
    "simulate",
];

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

/// The width of comments, as the formatter has it for code.
const WIDTH: usize = 110;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    files_below(folder).into_iter().filter(is_rust).collect()
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

/// What a file of the core names that stands above it or outside of its layer, by its path below `src/core`.
fn misplaced(file: &Path, source: &Source) -> Vec<String> {
    let parts: Vec<_> = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    let floor = LAYERS.iter().position(|layer| *layer == parts[0]);
    let is_misplaced = |path: &&String| {
        let segments: Vec<_> = path.split("::").collect();
        match segments[..] {
            ["crate", layer, ..] => LAYERS
                .iter()
                .position(|is| *is == layer)
                .is_none_or(|at| Some(at) > floor),
            // `super` of a layer's own file is the core.
            ["super", ..] => {
                segments.iter().take_while(|segment| **segment == "super").count() >= parts.len()
            }
            _ => false,
        }
    };
    source.paths().iter().filter(is_misplaced).cloned().collect()
}

#[test]
fn no_file_names_what_stands_above_it() {
    let core = root().join("src/core");
    let files = rust_files(&core);
    let files = files.iter().filter_map(|path| path.strip_prefix(&core).ok());
    let is_code = |path: &&Path| {
        *path != Path::new("lib.rs") && !path.iter().any(|part| part == "tests" || part == "tests.rs")
    };
    let files: Vec<_> = files.filter(is_code).collect();
    for layer in LAYERS {
        assert!(
            files
                .iter()
                .any(|file| file.starts_with(layer) || **file == Path::new(layer).with_extension("rs")),
            "there is no {layer}"
        );
    }
    let found: Vec<_> = files
        .iter()
        .flat_map(|file| {
            let names = misplaced(file, &Source::without_tests(&read(&core.join(file))));
            names
                .into_iter()
                .map(|name| format!("src/core/{} names {name}", file.display()))
        })
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn an_arrow_up_is_seen() {
    let misplaced = |file: &str, text: &str| misplaced(Path::new(file), &Source::without_tests(text));
    for text in [
        "use crate::plan::target::Target;",
        "use crate::{name::Name, engine::Engine};",
        "use crate::Engine;",
        "fn f() -> crate::learn::Period { crate::learn::Period::at(now) }",
        "use super::super::plan::Target;",
    ] {
        assert_eq!(
            misplaced("scope/why.rs", text).len(),
            1 + usize::from(text.contains("Period {")),
            "{text}"
        );
    }
    for text in [
        "use crate::scope::rules::Why;",
        "use crate::{facts::Labels, name::{Name, ServiceKey}};",
        "use super::hosts::Scope;",
        "// crate::plan\nfn f() -> &'static str { \"crate::plan\" }",
        "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use crate::simulate::world::World;\n}\n",
    ] {
        assert!(misplaced("scope/why.rs", text).is_empty(), "{text}");
    }
    assert_eq!(misplaced("scope.rs", "use super::plan::Target;").len(), 1);
}

#[test]
fn files_are_short_comments_narrow_and_modules_named() {
    let folders = ["benches", "crd", "e2e", "src", "tests"].into_iter();
    let files: Vec<_> = folders
        .flat_map(|folder| rust_files(&root().join(folder)))
        .collect();
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
    let wide = files.iter().flat_map(|path| {
        let text = read(path);
        // A link or a drawing cannot be broken.
        let is_whole = |line: &str| line.contains("://") || line.contains('─');
        let is_comment = |line: &str| line.trim_start().starts_with("//");
        let is_wide = |line: &str| is_comment(line) && !is_whole(line) && line.chars().count() > WIDTH;
        let lines = text.lines().enumerate().filter(|(_, line)| is_wide(line));
        let wide =
            lines.map(|(at, _)| format!("{}:{} is a comment wider than {WIDTH}", path.display(), at + 1));
        wide.collect::<Vec<_>>()
    });
    let found: Vec<_> = long.chain(unnamed).chain(wide).collect();
    assert!(found.is_empty(), "{found:#?}");
}
