//! What the prose of a page names: links, files, commands, metrics, examples, Events.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::files::files_below;
use crate::page::{Page, root};

/// The parts between two backticks outside of code blocks.
fn code_spans(page: &Page) -> impl Iterator<Item = &str> {
    let outside = page.text.split("\n```").step_by(2);
    outside.flat_map(|text| text.split('`').skip(1).step_by(2))
}

/// The code blocks, each with its language in the first line.
fn blocks(page: &Page) -> impl Iterator<Item = &str> {
    page.text.split("\n```").skip(1).step_by(2)
}

/// The YAML documents of a page, with the page's path.
pub fn examples(page: &Page) -> Vec<(String, String)> {
    let yaml = blocks(page).filter_map(|block| block.strip_prefix("yaml\n"));
    yaml.flat_map(|block| block.split("\n---\n"))
        .map(|text| (page.path.clone(), text.to_owned()))
        .collect()
}

/// The paths of `written` that are not in `known`.
pub fn lost(written: &Value, known: &Value) -> Vec<String> {
    match (written, known) {
        (Value::Object(written), Value::Object(known)) => written
            .iter()
            .flat_map(|(key, value)| match known.get(key) {
                Some(known) => lost(value, known)
                    .into_iter()
                    .map(|rest| format!("{key}.{rest}"))
                    .collect(),
                None => vec![key.clone()],
            })
            .collect(),
        (Value::Array(written), Value::Array(known)) => written
            .iter()
            .zip(known)
            .flat_map(|(one, known)| lost(one, known))
            .collect(),
        _ => Vec::new(),
    }
}

/// Where a page's links to files of the repository lead: the file and the heading.
fn links(page: &Page) -> Vec<(String, String, Option<String>)> {
    let targets = page
        .text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    targets
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .map(|target| {
            let (file, heading) = match target.split_once('#') {
                Some((file, heading)) => (file, Some(heading.to_owned())),
                None => (target, None),
            };
            let file = if file.is_empty() {
                page.path.clone()
            } else {
                join(&page.path, file)
            };
            (target.to_owned(), file, heading)
        })
        .collect()
}

/// The path of `file` as linked from `page`.
fn join(page: &str, file: &str) -> String {
    let mut path = PathBuf::new();
    let folder = Path::new(page).parent().unwrap_or_else(|| Path::new(""));
    for part in folder.join(file).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            part => path.push(part),
        }
    }
    path.to_string_lossy().into_owned()
}

/// The pages that a page links to.
pub fn linked_pages(page: &Page) -> Vec<String> {
    let pages = links(page).into_iter().map(|(_, file, _)| file);
    let is_page = |file: &str| {
        Path::new(file)
            .extension()
            .is_some_and(|extension| extension == "md")
    };
    pages
        .filter(|file| is_page(file) && root().join(file).exists())
        .collect()
}

/// Links to a file or a heading that does not exist.
pub fn broken_links(page: &Page) -> Vec<String> {
    let is_broken = |file: &str, heading: Option<&str>| {
        if !root().join(file).exists() {
            return true;
        }
        heading.is_some_and(|heading| !headings(&Page::read(file)).contains(heading))
    };
    links(page)
        .into_iter()
        .filter(|(_, file, heading)| is_broken(file, heading.as_deref()))
        .map(|(target, ..)| format!("{}: {target}", page.path))
        .collect()
}

/// The names by which links reach a page's headings, as GitHub makes them.
fn headings(page: &Page) -> BTreeSet<String> {
    let outside = page.text.split("\n```").step_by(2).flat_map(str::lines);
    outside
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// Files and folders of the repository that a page names in backticks and that do not exist.
pub fn missing_files(page: &Page) -> Vec<String> {
    let folders = [
        "src/", "crd/", "charts/", "e2e/", "docs/", "tests/", "benches/", ".ci/",
    ];
    code_spans(page)
        .filter(|name| folders.iter().any(|folder| name.starts_with(folder)))
        .filter(|name| !name.contains(|c: char| c.is_whitespace() || "<>{}*…".contains(c)))
        .filter(|name| !root().join(name).exists())
        .map(|name| format!("{}: {name}", page.path))
        .collect()
}

/// The targets of a Makefile.
pub fn targets_of(makefile: &str) -> BTreeSet<String> {
    let rules = makefile.lines().filter_map(|line| line.split_once(':'));
    rules
        .map(|(target, _)| target)
        .filter(|target| is_target(target))
        .map(ToOwned::to_owned)
        .collect()
}

/// The targets that a page tells people to make.
pub fn named_targets(page: &Page) -> Vec<String> {
    let lines = blocks(page).flat_map(str::lines);
    let commands = code_spans(page).chain(lines).flat_map(|text| text.split("&&"));
    commands
        .filter_map(made_by)
        .filter(|target| is_target(target))
        .collect()
}

/// The target of a command like `KEEP=1 make demo`.
fn made_by(command: &str) -> Option<String> {
    let mut words = command.split_whitespace().skip_while(|word| word.contains('='));
    words.next().filter(|program| *program == "make")?;
    words.next().map(ToOwned::to_owned)
}

fn is_target(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '-')
}

/// The metrics of ours that a page names, each with the page's path.
pub fn named_metrics(page: &Page) -> Vec<(String, String)> {
    let crates = ["servicefence_crd", "servicefence_e2e"];
    let rest = page
        .text
        .match_indices("servicefence_")
        .map(|(at, _)| &page.text[at..]);
    rest.map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
    .filter(|name| !crates.contains(name))
    .map(|name| {
        let series = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        (page.path.clone(), series.unwrap_or(name).to_owned())
    })
    .collect()
}

/// The reasons and types of the Events that a source file publishes by name.
pub fn events_of(code: &str) -> BTreeSet<(String, String)> {
    let published = code.split("EventType::").skip(1);
    let events: BTreeSet<_> = published
        .filter_map(|rest| {
            let (kind, rest) = rest.split_once(',')?;
            let reason = rest.trim_start().strip_prefix('"')?.split('"').next()?;
            Some((reason.to_owned(), kind.to_owned()))
        })
        .collect();
    assert!(
        events.len() > 2,
        "the Events of the code were not found: {events:?}"
    );
    events
}

/// Asserts that no cell of a table is empty.
pub fn assert_filled(rows: &[Vec<String>]) {
    assert!(!rows.is_empty(), "the table is empty");
    for row in rows {
        assert!(row.iter().all(|cell| cell.len() > 1), "a cell is empty: {row:?}");
    }
}

/// Words that a plain sentence does without: it has a named subject, a verb, and at most one relative clause.
const HARD_WORDS: [&str; 3] = ["nobody", "of which", "whose"];

/// Where a text has hard words, as `path:line: word`.
fn hard_words(path: &str, text: &str, is_read: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = text.lines().enumerate().filter(|(_, line)| is_read(line));
    lines
        .flat_map(|(at, line)| {
            let words = line.to_lowercase().replace(|c: char| !c.is_alphabetic(), " ");
            let words = format!(" {words} ");
            let found = HARD_WORDS
                .iter()
                .filter(move |word| words.contains(&format!(" {word} ")));
            found.map(move |word| format!("{path}:{}: {word}", at + 1))
        })
        .collect()
}

/// The comments and names of tests in `text`, and all of it where that is what users read.
fn hard_words_of_code(path: &str, text: &str) -> Vec<String> {
    let speaks_to_users = path.starts_with("src/") || path.starts_with("crd/");
    let is_test = path.contains("/tests");
    hard_words(path, text, |line| {
        let line = line.trim_start();
        let is_said = speaks_to_users && !is_test && line.contains('"');
        is_said || line.starts_with("//") || line.contains("fn ")
    })
}

/// Hard words in pages, in what the chart says, and in code.
pub fn hard_words_anywhere(pages: &[Page]) -> Vec<String> {
    let mut found: Vec<_> = pages
        .iter()
        .filter(|page| page.path != "CHANGELOG.md")
        .flat_map(|page| hard_words(&page.path, &page.text, |_| true))
        .collect();
    for folder in ["benches", "charts", "crd", "e2e", "src", "tests"] {
        for file in files_below(&root().join(folder)) {
            let (Ok(path), Ok(text)) = (file.strip_prefix(root()), std::fs::read_to_string(&file)) else {
                continue;
            };
            let path = path.to_string_lossy();
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("rs") => found.extend(hard_words_of_code(&path, &text)),
                Some("json" | "tpl" | "yaml") => found.extend(hard_words(&path, &text, |_| true)),
                _ => {}
            }
        }
    }
    found
}
