//! A file as its bytes say, whatever is damaged: for salvage. Knows no recovery and needs neither superblock nor map; every
//! page says in its header whose it is and when it was written.

use crate::{
    Descriptor,
    cache::Pin,
    disk::Disk,
    error::{FileError, IoOp},
    options::FileOptions,
    owners::{ENTRY_BYTES, KIND_OWNER_TABLE},
    page::{PageCheck, PageHeader, PagePtr, checksum},
    pages::Pages,
    recovery::newest_of_any,
    storage::Storage,
    superblock::get_u64,
    version::FAN_OUT,
};
use bytes::Bytes;
use spinney_alloc::{Owner, PageNo, Stamp};
use std::sync::Arc;

/// Page sizes there are.
const PAGE_BYTES: [usize; 5] = [4096, 8192, 16384, 32768, 65536];
/// Bytes read at once when the whole file is looked through. A multiple of every page size.
const SCAN_BYTES: usize = 1 << 20;
/// So much of the file is looked through to find out its page size.
const PROBE_BYTES: u64 = 64 << 20;

/// A damaged file, open for reading. Nothing is written, nothing is cached.
#[derive(Debug)]
pub struct Wreck {
    disk: Disk,
    page_check: PageCheck,
    pages: u64,
    has_superblock: bool,
}

impl Wreck {
    /// Opens what `storage` holds. The page size is that of a superblock, or else the one with which most pages verify: then up to
    /// 64 MiB are read, five times.
    ///
    /// # Errors
    /// [`FileError::NotADatabase`] when there is no superblock and no page verifies; [`FileError::AlreadyOpen`];
    /// [`FileError::Version`]; those of reading.
    pub fn open(storage: Arc<dyn Storage>, page_check: PageCheck) -> Result<Self, FileError> {
        let failed = |error| FileError::io(IoOp::Open, 0, error);
        if !storage.lock().map_err(failed)? {
            return Err(FileError::AlreadyOpen);
        }
        let bytes = storage.len().map_err(failed)?;
        let probe = Disk::new(Arc::clone(&storage), PAGE_BYTES[0]);
        let superblock = newest_of_any(&probe, bytes)?;
        let page_bytes = match &superblock {
            Some(superblock) => superblock.page_bytes as usize,
            None => {
                let whole = PAGE_BYTES.map(|page_bytes| (whole_pages(&storage, page_bytes, bytes), page_bytes));
                // Of two that fit equally well (an empty database) the smaller.
                let best = whole.into_iter().rev().max_by_key(|&(pages, _)| pages);
                best.filter(|&(pages, _)| pages > 0).ok_or(FileError::NotADatabase)?.1
            }
        };
        let pages = bytes / page_bytes as u64;
        let disk = Disk::new(storage, page_bytes);
        Ok(Self { disk, page_check, pages, has_superblock: superblock.is_some() })
    }

    /// Pages that the file has room for.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether there is a superblock that reads.
    pub fn has_superblock(&self) -> bool {
        self.has_superblock
    }

    /// Tells of every page of the file that is whole and in its place, in order of place: where and when it was written, whose it is, and
    /// its bytes. One reading of the file in large pieces; pieces that cannot be read are read page by page, and pages that cannot are
    /// passed over.
    pub fn scan(&self, visit: &mut dyn FnMut(PagePtr, Owner, &[u8])) {
        let page_bytes = self.disk.page_bytes;
        let mut buffer = vec![0; SCAN_BYTES];
        let per_piece = (SCAN_BYTES / page_bytes) as u64;
        for first in (0..self.pages).step_by(SCAN_BYTES / page_bytes) {
            #[expect(clippy::cast_possible_truncation, reason = "at most SCAN_BYTES")]
            let piece = &mut buffer[..per_piece.min(self.pages - first) as usize * page_bytes];
            let is_read = self.disk.read(first * page_bytes as u64, piece).is_ok();
            for (number, page) in (first..).zip(piece.chunks_exact_mut(page_bytes)) {
                if !is_read && self.disk.read(number * page_bytes as u64, page).is_err() {
                    continue;
                }
                if let Some(ptr) = identity(page, number).filter(|_| (self.page_check)(page).is_ok()) {
                    visit(ptr, PageHeader::owner(page), page);
                }
            }
        }
    }

    /// The descriptors that a page holds, if it is one of an owner table: each with its place, which is the owner's number but for that of
    /// the page's first owner, and with the stamp of the transaction that made it. Which owner is the first only the directory says.
    pub fn descriptors(page: &[u8]) -> Vec<(u32, Descriptor, Stamp)> {
        if PageHeader::kind(page) != KIND_OWNER_TABLE {
            return Vec::new();
        }
        let per_page = (page.len() - PageHeader::BYTES) / (ENTRY_BYTES * FAN_OUT) * FAN_OUT;
        let entries = (0..).zip(page[PageHeader::BYTES..].chunks_exact(ENTRY_BYTES).take(per_page));
        let entries =
            entries.map(|(place, entry)| (place, entry[..64].try_into().expect("64 bytes"), Stamp(get_u64(entry, 64))));
        entries.filter(|(_, _, stamp)| stamp.0 != 0).collect()
    }

    /// The roots that images in the log name, the newest of each owner, with their stamps, as far as the log can be followed. Needs a
    /// superblock.
    pub fn logged_roots(&self, options: &FileOptions) -> Vec<(Owner, Descriptor, Stamp)> {
        crate::recovery::roots_in_log(&self.disk, options, self.pages * self.disk.page_bytes as u64)
    }

    /// Whose page it is, if the page behind `ptr` is whole.
    pub fn owner_of(&self, ptr: PagePtr) -> Option<Owner> {
        let page = self.disk.read_page(ptr, None).ok()?;
        Some(PageHeader::owner(&page))
    }
}

/// What a page says it is, if it is whole and is in its place.
fn identity(page: &[u8], number: u64) -> Option<PagePtr> {
    let page_no = PageHeader::page_no(page).filter(|page_no| page_no.get() == number)?;
    let is_whole = PageHeader::checksum(page) == checksum(&page[PageHeader::CHECKSUM.end..]);
    (is_whole && PageHeader::stamp(page).0 != 0).then(|| PagePtr { page: page_no, stamp: PageHeader::stamp(page) })
}

/// How many pages verify if they are of this size.
fn whole_pages(storage: &Arc<dyn Storage>, page_bytes: usize, bytes: u64) -> u64 {
    let disk = Disk::new(Arc::clone(storage), page_bytes);
    let mut page = vec![0; page_bytes];
    let numbers = 0..bytes.min(PROBE_BYTES) / page_bytes as u64;
    let is_whole =
        |number: &u64| disk.read(number * page_bytes as u64, &mut page).is_ok() && identity(&page, *number).is_some();
    numbers.filter(is_whole).count() as u64
}

impl Pages for Wreck {
    fn page<'a>(&'a self, _: &'a Pin, owner: Owner, ptr: PagePtr) -> Result<&'a [u8], FileError> {
        let (page, at) = (ptr.page, self.disk.offset(ptr.page));
        Err(FileError::Corrupt { page, owner: Some(owner), at, why: "pages of a wreck are not kept in memory" })
    }

    fn page_bytes_shared(&self, owner: Owner, ptr: PagePtr) -> Result<Bytes, FileError> {
        let page = self.disk.read_page(ptr, Some(owner))?;
        let corrupt =
            |why| FileError::Corrupt { page: ptr.page, owner: Some(owner), at: self.disk.offset(ptr.page), why };
        (self.page_check)(&page).map_err(corrupt)?;
        Ok(page.into())
    }

    fn read_raw(&self, at: PageNo, offset: u64, len: usize) -> Result<Bytes, FileError> {
        self.disk.read_raw(at, offset, len)
    }

    fn page_bytes(&self) -> usize {
        self.disk.page_bytes
    }
}
