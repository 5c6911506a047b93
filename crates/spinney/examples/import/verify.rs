//! Is everything there: every file compared with the directory, byte by byte, and everything counted.

use crate::{
    Result,
    load::{Loaded, STREAMED_BYTES_MIN},
    print::number,
    tree::{Found, Kind},
};
use spinney::{Database, Family, Snapshot};
use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

/// Of a streamed file, so much at a time.
const PIECE_BYTES: usize = 1 << 20;

/// What was compared.
pub(crate) struct Verified {
    pub(crate) files: u64,
    /// Files that were written to, or removed, since they were imported.
    changed: u64,
}

impl Verified {
    pub(crate) fn changed(&self) -> String {
        if self.changed == 0 { String::new() } else { format!("{} changed meanwhile", number(self.changed)) }
    }
}

/// Compares every file, and the number of entries of every family.
pub(crate) fn verify(
    db: &Database,
    snapshot: &Snapshot,
    dir: &Path,
    kinds: &[Kind],
    loaded: &Loaded,
) -> Result<Verified> {
    let mut verified = Verified { files: 0, changed: 0 };
    for (kind, counts) in kinds.iter().zip(&loaded.by_kind) {
        let open = |name: &str| -> Result<Family> {
            db.open_family(name)?.ok_or_else(|| format!("family `{name}` is gone").into())
        };
        let (files, words) = (open(&kind.files_family())?, open(&kind.words_family())?);
        for (family, expected) in [(&files, counts.files), (&words, counts.word_entries)] {
            let found = snapshot.len(family)?;
            if found != expected {
                return Err(format!("family `{}` has {found} entries, not {expected}", family.name()).into());
            }
        }
        for found in &kind.files {
            match compare(snapshot, &files, dir, found)? {
                Compared::Same => verified.files += 1,
                // It was skipped when it was imported: the counts above agree.
                Compared::NotStored => {}
                Compared::Differs if has_changed(dir, found) => verified.changed += 1,
                Compared::Differs => return Err(format!("{} is stored differently", found.path.display()).into()),
            }
        }
    }
    Ok(verified)
}

enum Compared {
    Same,
    Differs,
    NotStored,
}

fn compare(snapshot: &Snapshot, files: &Family, dir: &Path, found: &Found) -> Result<Compared> {
    let path = dir.join(&found.path);
    let Some(stored_bytes) = snapshot.value_len(files, found.key())? else { return Ok(Compared::NotStored) };
    let verdict = |is_same| if is_same { Compared::Same } else { Compared::Differs };
    if stored_bytes < STREAMED_BYTES_MIN {
        let Ok(content) = fs::read(&path) else { return Ok(Compared::Differs) };
        let is_same = snapshot.get_with(files, found.key(), |value| value == content)?;
        return Ok(verdict(is_same == Some(true)));
    }
    let Ok(mut file) = File::open(&path) else { return Ok(Compared::Differs) };
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    loop {
        let stored = snapshot.read_at(files, found.key(), at, PIECE_BYTES)?.unwrap_or_default();
        if stored.is_empty() {
            return Ok(verdict(at == stored_bytes && file.read(&mut piece)? == 0));
        }
        let piece = &mut piece[..stored.len()];
        if file.read_exact(piece).is_err() || *piece != *stored {
            return Ok(Compared::Differs);
        }
        at += stored.len() as u64;
    }
}

/// Whether somebody has written to a file since it was found.
fn has_changed(dir: &Path, found: &Found) -> bool {
    fs::metadata(dir.join(&found.path))
        .map_or(true, |now| now.len() != found.bytes || now.modified().ok() != found.modified)
}
