//! The superblock slots; the byte table is in `spinney-file/src/superblock.rs`.

use crate::dump::{
    bytes::Bytes,
    image::{Image, is_whole},
};
use std::fmt::Write;

/// Bytes of a slot; the two are at byte 0 and behind it, whatever the page size.
pub(crate) const SLOT_BYTES: usize = 4096;
const MAGIC: &[u8] = b"SPINNEY\n";

/// A valid slot.
#[derive(Clone)]
pub(crate) struct Superblock {
    pub(crate) version: u32,
    pub(crate) page_bytes: usize,
    pub(crate) epoch: u64,
    pub(crate) file_id: Vec<u8>,
    pub(crate) number: u64,
    pub(crate) seq: u64,
    seq_limit: u64,
    stamp_limit: u64,
    pub(crate) log_start: u64,
    pub(crate) log_chain: u64,
    pub(crate) file_pages: u64,
    used_end: u64,
    /// First page and pages of each.
    pub(crate) log: Vec<(u64, u64)>,
    /// Saved and free pages of each directory page of the map.
    pub(crate) map: Vec<(u64, u64)>,
    /// First home and saved of each directory page of the owner table.
    pub(crate) owners: Vec<(u64, u64)>,
}

impl Superblock {
    /// The valid slot with the higher number.
    pub(crate) fn newest(image: &mut Image) -> Option<Self> {
        let slots = [0, 1].map(|slot| read(image, slot).and_then(|bytes| Self::decode(&bytes)));
        slots.into_iter().flatten().max_by_key(|superblock| superblock.number)
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let bytes = Bytes(slot);
        if !is_whole(slot) || bytes.slice(8, 8)? != MAGIC {
            return None;
        }
        let page_bytes = bytes.len32(20).filter(|bytes| bytes.is_power_of_two() && (4096..=65536).contains(bytes))?;
        Some(Self {
            version: bytes.u32(16)?,
            page_bytes,
            epoch: bytes.u64(32)?,
            file_id: bytes.slice(40, 16)?.to_vec(),
            number: bytes.u64(56)?,
            seq: bytes.u64(64)?,
            seq_limit: bytes.u64(72)?,
            stamp_limit: bytes.u64(80)?,
            log_start: bytes.u64(88)?,
            log_chain: bytes.u64(96)?,
            file_pages: bytes.u64(104)?,
            used_end: bytes.u64(112)?,
            log: bytes.pairs(256, bytes.len32(120).filter(|&count| count <= 24)?)?,
            map: bytes.pairs(640, bytes.len32(124).filter(|&count| count <= 128)?)?,
            owners: bytes.pairs(2688, bytes.len32(128).filter(|&count| count <= 88)?)?,
        })
    }
}

fn read(image: &mut Image, slot: u64) -> Option<Vec<u8>> {
    image.read(slot * SLOT_BYTES as u64, SLOT_BYTES)
}

/// Both slots; returns the newest.
pub(crate) fn show(image: &mut Image, out: &mut String) -> Option<Superblock> {
    let newest = Superblock::newest(image);
    for slot in 0..2 {
        show_slot(image, slot, newest.as_ref().map(|newest| newest.number), out);
    }
    newest
}

/// One slot.
pub(crate) fn show_slot(image: &mut Image, slot: u64, newest: Option<u64>, out: &mut String) {
    let bytes = read(image, slot);
    let decoded = bytes.as_deref().and_then(Superblock::decode);
    let what = match (&decoded, &bytes) {
        (Some(found), _) if newest == Some(found.number) => "the newest",
        (Some(_), _) => "older",
        (None, None) => "beyond the end of the file",
        (None, Some(bytes)) if bytes.iter().all(|&byte| byte == 0) => "blank",
        (None, Some(_)) => "damaged",
    };
    let _ = writeln!(out, "superblock {slot}: {what}");
    let Some(found) = decoded else { return };
    let id: String = found.file_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let _ = writeln!(out, "  checkpoint {}, seq {}, epoch {}", found.number, found.seq, found.epoch);
    let _ = writeln!(out, "  version {}, pages of {} bytes, file {id}", found.version, found.page_bytes);
    let _ = writeln!(out, "  {} pages, in use up to {}", found.file_pages, found.used_end);
    let _ = writeln!(out, "  numbers below seq {} and stamp {}", found.seq_limit, found.stamp_limit);
    let _ = writeln!(out, "  log from block {}, chained from {:016x}", found.log_start, found.log_chain);
    for (what, list) in [("log", &found.log), ("map", &found.map), ("owners", &found.owners)] {
        let words: Vec<_> = list
            .iter()
            .map(|&(first, second)| match what {
                "log" => format!("{second} pages from {first}"),
                "map" => format!("directory {}, {second} free pages", saved(first)),
                _ => format!("directory at {first}, {}", saved(second)),
            })
            .collect();
        let _ = writeln!(out, "  {what}: {}", if words.is_empty() { "none".to_owned() } else { words.join("; ") });
    }
}

/// Checkpoint number and side, as every structure with two homes has them in one number.
pub(crate) fn saved(saved: u64) -> String {
    if saved == 0 {
        "never saved".to_owned()
    } else {
        format!("saved by checkpoint {} on side {}", saved >> 1, saved & 1)
    }
}
