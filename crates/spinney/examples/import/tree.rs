//! The directory: its files by extension.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::SystemTime,
};
use walkdir::{DirEntry, WalkDir};

/// Folders that hold nothing a person wrote.
const SKIPPED: [&str; 2] = ["target", ".git"];
/// Longer extensions are none.
const EXTENSION_BYTES_MAX: usize = 32;

/// The files of one extension.
pub(crate) struct Kind {
    /// The extension in lower case, or `(none)`.
    pub(crate) name: String,
    pub(crate) files: Vec<Found>,
}

impl Kind {
    /// Where the files are stored.
    pub(crate) fn files_family(&self) -> String {
        self.name.clone()
    }

    /// Where their words are.
    pub(crate) fn words_family(&self) -> String {
        format!("words of {}", self.name)
    }
}

/// A file as it was found.
pub(crate) struct Found {
    /// Below the directory.
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) modified: Option<SystemTime>,
}

impl Found {
    /// What it is stored under.
    pub(crate) fn key(&self) -> &[u8] {
        self.path.as_os_str().as_encoded_bytes()
    }
}

/// All regular files below `dir` but `database`, each kind in the order of paths. What cannot be looked at is left out.
pub(crate) fn walk(dir: &Path, database: &Path) -> Vec<Kind> {
    let is_wanted =
        |entry: &DirEntry| !(entry.file_type().is_dir() && SKIPPED.iter().any(|name| entry.file_name() == *name));
    let mut kinds: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    // The directory itself was asked for, whatever its name.
    let entries = WalkDir::new(dir).sort_by_file_name().into_iter();
    for entry in entries.filter_entry(|entry| entry.depth() == 0 || is_wanted(entry)).flatten() {
        let (Ok(metadata), Ok(path)) = (entry.metadata(), entry.path().strip_prefix(dir)) else { continue };
        if metadata.is_file() && entry.path() != database {
            let found = Found { path: path.to_owned(), bytes: metadata.len(), modified: metadata.modified().ok() };
            kinds.entry(extension(path)).or_default().push(found);
        }
    }
    kinds.into_iter().map(|(name, files)| Kind { name, files }).collect()
}

fn extension(path: &Path) -> String {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension
        .filter(|extension| extension.len() <= EXTENSION_BYTES_MAX)
        .map_or_else(|| "(none)".to_owned(), str::to_lowercase)
}
