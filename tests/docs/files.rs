//! The files of the repository, for every test that reads them all.

use std::fs;
use std::path::{Path, PathBuf};

/// All files of a folder and of those below it.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    add_files(folder, &mut files);
    files
}

fn add_files(folder: &Path, into: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() {
            add_files(&path, into);
        } else {
            into.push(path);
        }
    }
}
