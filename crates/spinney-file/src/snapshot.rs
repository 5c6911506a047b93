//! An immutable view of all or some owners at one seq.

use crate::{Descriptor, error::FileError, file::PagedFile, options::Sabotage, readers::Place};
use spinney_alloc::{Owner, Seq};
use std::sync::Arc;

/// A view that never changes, and keeps what it can reach from being reused. Cheap to clone: clones share one registration. Taking one
/// takes no lock and waits for nobody.
#[derive(Clone)]
pub struct Snapshot {
    held: Arc<Held>,
}

struct Held {
    file: PagedFile,
    place: Place,
}

impl Drop for Held {
    fn drop(&mut self) {
        let engine = self.file.engine();
        if engine.readers.leave(&self.place) {
            engine.signal.snapshot_ended();
        }
    }
}

impl Snapshot {
    pub(crate) fn new(file: PagedFile, covers: Option<Box<[Owner]>>) -> Self {
        let place = {
            let engine = file.engine();
            let load = || {
                let version = engine.pipeline.visible();
                engine.options.interlude();
                version
            };
            if engine.options.broken(Sabotage::RegistersLate) {
                let version = load();
                engine.readers.register(covers, || version)
            } else {
                engine.readers.register(covers, load)
            }
        };
        Self { held: Arc::new(Held { file, place }) }
    }

    /// The commit it shows: this one and all before it, none after.
    pub fn seq(&self) -> Seq {
        self.held.place.held.version.seq
    }

    /// Whether `owner` may be read here.
    pub fn covers(&self, owner: Owner) -> bool {
        self.held.place.held.covers(owner)
    }

    /// The owner's descriptor; `None` when it was never committed, or is not covered.
    ///
    /// # Errors
    /// Those of reading the owner table, on the first use of an owner since opening.
    pub fn root(&self, owner: Owner) -> Result<Option<Descriptor>, FileError> {
        if !self.covers(owner) {
            return Ok(None);
        }
        let root = self.held.file.engine().root_in(&self.held.place.held.version, owner)?;
        Ok(root.exists().then_some(root.root))
    }

    /// Where its pages are read.
    pub fn file(&self) -> &PagedFile {
        &self.held.file
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("seq", &self.seq()).finish_non_exhaustive()
    }
}
