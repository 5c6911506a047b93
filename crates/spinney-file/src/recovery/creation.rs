//! A new file: the log's blocks, then both superblocks.
#![expect(clippy::cast_possible_truncation, reason = "lengths of buffers in memory fit a usize")]

use crate::{
    disk::Disk,
    error::{FileError, IoOp},
    log::RingLayout,
    options::{Create, FileOptions},
    superblock::{self, SLOT_AT, SLOT_BYTES, Superblock},
};
use spinney_alloc::{Extent, Geometry, Seq, Stamp};

/// Length of a new file, at least: the log, and room for the first commits of two owners, so that a small file stays as it is.
const BYTES_MIN: u64 = 240 << 10;
/// A creation that was cut short is never longer than this.
const UNFINISHED_BYTES_MAX: u64 = 64 << 20;
/// What a disk writes whole or, in a power cut, not.
const SECTOR_BYTES: usize = 512;

/// Whether the file is empty or holds what a creation that was cut short leaves: zeros, and in a file as long as a new one what was
/// written of the first superblock, which goes to the second slot. Of that only the first sector is not zero, and a power cut may
/// leave other bytes in one sector.
pub(super) fn is_unfinished(probe: &Disk, len: u64) -> Result<bool, FileError> {
    if len > UNFINISHED_BYTES_MAX {
        return Ok(false);
    }
    probe.forget(0, len)?;
    let mut written = Vec::new();
    let mut bytes = vec![0; 1 << 16];
    for at in (0..len).step_by(bytes.len()) {
        let count = (len - at).min(bytes.len() as u64) as usize;
        probe.read(at, &mut bytes[..count])?;
        let sectors = (at..).step_by(SECTOR_BYTES).zip(bytes[..count].chunks(SECTOR_BYTES));
        let not_zero = sectors.filter(|(_, sector)| sector.iter().any(|&byte| byte != 0));
        written.extend(not_zero.map(|(at, sector)| (at, superblock::has_magic(sector))));
        if written.len() > 2 {
            return Ok(false);
        }
    }
    let slot = SLOT_AT[1]..SLOT_AT[1] + SLOT_BYTES as u64;
    let is_long_enough = len >= BYTES_MIN / 2 && len.is_multiple_of(SLOT_BYTES as u64);
    Ok(match written[..] {
        [] => true,
        [(at, _)] => is_long_enough && slot.contains(&at),
        [(first, is_ours), (other, _)] => is_long_enough && first == slot.start && is_ours && slot.contains(&other),
        _ => false,
    })
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
