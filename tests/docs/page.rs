//! Files of the repository, pages of its documentation, and the parts of a page between markers.

use std::fs;
use std::path::{Path, PathBuf};

/// The top folder of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Asserts that a file is as the code makes it, or makes it so where `UPDATE` is set.
pub fn generated(path: &str, wanted: &str) {
    let is = fs::read_to_string(root().join(path)).unwrap_or_default();
    if is == wanted {
        return;
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(root().join(path), wanted).unwrap_or_else(|error| panic!("{path}: {error}"));
        return;
    }
    let differs = is
        .lines()
        .zip(wanted.lines())
        .position(|(is, wanted)| is != wanted);
    let line = differs.unwrap_or_else(|| is.lines().count().min(wanted.lines().count()));
    panic!(
        "{path} is out of date from line {} on: run `make generate` and commit what it writes\n  is:     {}\n  wanted: {}",
        line + 1,
        is.lines().nth(line).unwrap_or("(the end)"),
        wanted.lines().nth(line).unwrap_or("(the end)"),
    );
}

/// A page of the documentation.
pub struct Page {
    /// Where it is, from the top folder.
    pub path: String,
    /// Its Markdown.
    pub text: String,
}

impl Page {
    /// Reads a page.
    pub fn read(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: read(path),
        }
    }

    /// Puts a text between the markers `<!-- name -->` and `<!-- /name -->`.
    pub fn put(&mut self, name: &str, text: &str) {
        let (begin, end) = self.part(name);
        self.text
            .replace_range(begin..end, &format!("\n{}\n", text.trim_end()));
    }

    /// The cells of the table between two markers, without its head.
    pub fn rows(&self, name: &str) -> Vec<Vec<String>> {
        let (begin, end) = self.part(name);
        let rows = self.text[begin..end]
            .lines()
            .filter(|line| line.starts_with('|'))
            .skip(2);
        rows.map(|row| {
            row.trim_matches('|')
                .split(" | ")
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect()
    }

    fn part(&self, name: &str) -> (usize, usize) {
        let find = |marker: String| {
            let at = self.text.find(&marker);
            let at = at.unwrap_or_else(|| panic!("{} has no marker {marker}", self.path));
            (at, at + marker.len())
        };
        let (_, begin) = find(format!("<!-- {name} -->"));
        let (end, _) = find(format!("<!-- /{name} -->"));
        (begin, end)
    }
}

/// Every Markdown page of the repository.
pub fn pages() -> Vec<Page> {
    let mut paths = Vec::new();
    collect(root(), &mut paths);
    paths.sort();
    let relative = paths.iter().filter_map(|path| path.strip_prefix(root()).ok());
    relative.map(|path| Page::read(&path.to_string_lossy())).collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() && !hidden && path != root().join("target") {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            into.push(path);
        }
    }
}
