//! A new file: the log's blocks, then both superblocks.
#![expect(clippy::cast_possible_truncation, reason = "lengths of buffers in memory fit a usize")]

use crate::{
    disk::Disk,
    error::{FileError, IoOp},
    log::RingLayout,
    options::{Create, FileOptions},
    superblock::{SLOT_AT, SLOT_BYTES, Superblock},
};
use spinney_alloc::{Extent, Geometry, Seq, Stamp};

/// Length of a new file, at least: the log, and room for the first commits of two owners, so that a small file stays as it is.
const BYTES_MIN: u64 = 240 << 10;
/// A creation that was cut short is never longer than this.
const UNFINISHED_BYTES_MAX: u64 = 64 << 20;

/// Whether the file is empty, or holds nothing but zeros and a torn second superblock: the first that creation writes.
pub(super) fn is_unfinished(probe: &Disk, len: u64) -> Result<bool, FileError> {
    if len > UNFINISHED_BYTES_MAX {
        return Ok(false);
    }
    let mut bytes = vec![0; 1 << 16];
    let mut at = 0;
    while at < len {
        let count = (len - at).min(bytes.len() as u64) as usize;
        probe.read(at, &mut bytes[..count])?;
        let second = SLOT_AT[1]..SLOT_AT[1] + SLOT_BYTES as u64;
        let foreign = (at..).zip(&bytes[..count]).any(|(at, &byte)| byte != 0 && !second.contains(&at));
        if foreign {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}

/// Creates a file and returns its superblock. Superblock 0 goes to the second slot first: while only it is there, nothing
/// was ever committed; with the first slot written (number 1, otherwise the same), one of them is valid at any moment.
pub(super) fn create(probe: &Disk, len: u64, options: &FileOptions) -> Result<Superblock, FileError> {
    if options.read_only || options.create == Create::Never {
        return Err(FileError::NotADatabase);
    }
    let geometry = Geometry::new(options.page_bytes).ok_or(FileError::Option("the page size is not supported"))?;
    let page_bytes = options.page_bytes as u64;
    let log = Extent::new(geometry.min_file_pages(), options.tuning.log_bytes.div_ceil(page_bytes))
        .ok_or(FileError::Option("the log is too large"))?;
    let narrow = u32::try_from(options.page_bytes).expect("checked with the options");
    let layout = RingLayout::new(vec![log], narrow).ok_or(FileError::Option("the log is too large"))?;
    let file_pages = log.end().max(BYTES_MIN / page_bytes);
    let bytes = file_pages * page_bytes;
    if bytes > options.max_file_bytes {
        return Err(FileError::Full { bytes_wanted: bytes });
    }
    // An earlier attempt may have left a torn superblock, and blocks that are zero.
    if len > 0 {
        probe.storage.set_len(0).map_err(|e| FileError::io(IoOp::Shrink, 0, e))?;
    }
    probe.allocate(0, bytes)?;
    let mut file_id = [0; 16];
    getrandom::fill(&mut file_id).map_err(|e| FileError::io(IoOp::Open, 0, std::io::Error::other(e.to_string())))?;
    let first = Superblock {
        page_bytes: narrow,
        file_id,
        number: 0,
        epoch: 0,
        seq: Seq(0),
        seq_limit: Seq(1),
        stamp_limit: Stamp(1),
        log_start: 0,
        log_chain: u64::from_le_bytes(file_id[..8].try_into().expect("8 bytes")),
        file_pages,
        used_end: log.end(),
        log: layout,
        map: Vec::new(),
        owners: Vec::new(),
    };
    probe.sync()?;
    probe.write_sync(SLOT_AT[first.slot()], &first.encode())?;
    let second = Superblock { number: 1, ..first };
    probe.write_sync(SLOT_AT[second.slot()], &second.encode())?;
    Ok(second)
}
