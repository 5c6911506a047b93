//! Rules of the house that no compiler knows. Each is a function from text to complaints, so that each can be
//! shown to fail.

mod docs; // what the pages under docs/ must say, and where their links must lead
mod source; // what every source file must open with, and what it must not hold

use crate::workspace::{self, LAYERS, UNSAFE_ALLOWED_ALSO_IN, UNSAFE_ALLOWED_IN};
use anyhow::{Context, bail};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folders that hold our Rust files.
const SOURCE_FOLDERS: [&str; 3] = ["crates", "benches", "xtask"];

/// Looks at the whole workspace and lists everything that is wrong, not only the first.
pub(crate) fn run() -> anyhow::Result<()> {
    let root = workspace::root();
    let mut complaints = Vec::new();

    let mut source_count = 0;
    for folder in SOURCE_FOLDERS {
        for path in files_below(&root.join(folder), "rs")? {
            let name = shown(&path, &root);
            let text = read(&path)?;
            let may_be_unsafe = path.starts_with(root.join("crates").join(UNSAFE_ALLOWED_IN))
                || path == root.join(UNSAFE_ALLOWED_ALSO_IN);
            complaints.extend(source::opens_with_header(&name, &text));
            if !may_be_unsafe {
                complaints.extend(source::has_no_unsafe(&name, &text)?);
            }
            source_count += 1;
        }
    }
    for layer in LAYERS {
        let path = root.join("crates").join(layer).join("src/lib.rs");
        let (name, text) = (shown(&path, &root), read(&path)?);
        complaints.extend(source::re_exports_are_lists(&name, &text)?);
        if layer != UNSAFE_ALLOWED_IN {
            complaints.extend(source::forbids_unsafe(&name, &text)?);
        }
    }

    complaints.extend(docs::states_invariants(&read(&root.join("docs/architecture.md"))?));
    let mut pages = files_below(&root.join("docs"), "md")?;
    for folder in SOURCE_FOLDERS {
        pages.extend(files_below(&root.join(folder), "md")?);
    }
    pages.extend(["README.md", "CHANGELOG.md"].map(|name| root.join(name)));
    for page in &pages {
        complaints.extend(docs::links_lead_somewhere(&shown(page, &root), page, &read(page)?));
    }

    if !complaints.is_empty() {
        bail!("not tidy:\n  {}", complaints.join("\n  "));
    }
    eprintln!("xtask: tidy: {source_count} source files and {} pages", pages.len());
    Ok(())
}

/// All files with this extension, in the order of their paths.
fn files_below(folder: &Path, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
            if path.is_dir() {
                // What cargo-fuzz builds beside its targets is not ours.
                if path.file_name().is_none_or(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn shown(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_workspace_is_tidy() {
        super::run().expect("every rule holds");
    }
}
