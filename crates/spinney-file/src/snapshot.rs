//! An immutable view of all or some owners at one seq.

use crate::{
    Descriptor,
    cache::Pin,
    error::FileError,
    file::PagedFile,
    options::Sabotage,
    page::PagePtr,
    pages::Pages,
    readers::Place,
    version::{FAN_OUT, Version},
};
use bytes::Bytes;
use spinney_alloc::{Owner, PageNo, Seq};
use std::{any::Any, sync::Arc};

const FAN_OUT_U32: u32 = 8;
const _: () = assert!(FAN_OUT == FAN_OUT_U32 as usize);

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

    /// A snapshot of the version that the newest checkpoint is of, for whoever keeps the next one from beginning: until then nothing
    /// that this version reaches is granted to anybody.
    pub(crate) fn of_checkpoint(file: PagedFile, version: Arc<Version>) -> Self {
        let place = file.engine().readers.register(None, || version);
        Self { held: Arc::new(Held { file, place }) }
    }

    /// Every owner that was ever committed and is covered, in order. Reads the owner table; what of it cannot be read is told to
    /// `found`, and owners that only it knows are missing.
    pub fn owners(&self, found: &mut dyn FnMut(FileError)) -> Vec<Owner> {
        let (engine, version) = (self.held.file.engine(), &self.held.place.held.version);
        let mut leaves = engine.owners.saved_leaves(&engine.disk, found);
        leaves.extend(version.changed_leaves());
        leaves.sort_unstable();
        leaves.dedup();
        let mut owners = Vec::new();
        for leaf in leaves {
            let roots = version.changed_leaf(leaf).map_or_else(|| engine.owners.at_opening(&engine.disk, leaf), Ok);
            match roots {
                Ok(roots) => {
                    let all = (0..).zip(roots).map(|(place, root)| (Owner(leaf * FAN_OUT_U32 + place), root.exists()));
                    let known = all.filter(|&(owner, exists)| exists || version.above(owner).is_some());
                    owners.extend(known.map(|(owner, _)| owner).filter(|&owner| self.covers(owner)));
                }
                Err(error) => found(error),
            }
        }
        owners
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

/// What it shows, pages and what stands above them. (Pages of owners that it does not cover may be used again meanwhile.)
impl Pages for Snapshot {
    fn page<'a>(&'a self, pin: &'a Pin, owner: Owner, ptr: PagePtr) -> Result<&'a [u8], FileError> {
        self.held.file.page(pin, owner, ptr)
    }

    fn page_bytes_shared(&self, owner: Owner, ptr: PagePtr) -> Result<Bytes, FileError> {
        self.held.file.page_bytes_shared(owner, ptr)
    }

    fn read_raw(&self, at: PageNo, offset: u64, len: usize) -> Result<Bytes, FileError> {
        self.held.file.read_raw(at, offset, len)
    }

    fn page_bytes(&self) -> usize {
        self.held.file.page_bytes()
    }

    fn above(&self, owner: Owner) -> Option<&(dyn Any + Send + Sync)> {
        self.held.place.held.version.above(owner).filter(|_| self.covers(owner)).map(|above| &**above)
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("seq", &self.seq()).finish_non_exhaustive()
    }
}
