//! The owner table as the newest checkpoint left it: where each family's trees begin. Commits since then are in the
//! log. Layouts: `spinney-file/src/owners.rs`, and for the roots `spinney-btree/src/root.rs`.

use crate::dump::{
    bytes::Bytes,
    image::{HEADER_BYTES, Image},
    superblock::{Superblock, saved},
};
use std::fmt::Write;

/// A root descriptor and a stamp.
const ENTRY_BYTES: usize = 72;
/// Owners whose roots are never divided between pages.
const OWNERS_PER_LEAF: usize = 8;
const TWIN_BYTES: usize = 16;

/// Every directory, every table page and every owner that ever committed.
pub(super) fn show(image: &mut Image, superblock: &Superblock, out: &mut String) {
    let _ = writeln!(out, "\nowners");
    let pages_per_directory = ((image.page_bytes - HEADER_BYTES) / TWIN_BYTES) as u64;
    for (directory, &entry) in (0..).zip(&superblock.owners) {
        let _ = writeln!(out, "  directory {directory} at {}, {}", entry.0, saved(entry.1));
        let Some(page) = twin(image, entry, out) else { continue };
        for (table, line) in (directory * pages_per_directory..).zip(page[HEADER_BYTES..].chunks_exact(TWIN_BYTES)) {
            let (Some(home @ 1..), Some(entry)) = (Bytes(line).u64(0), Bytes(line).u64(8)) else { continue };
            let _ = writeln!(out, "  table page {table} at {home}, {}", saved(entry));
            if let Some(page) = twin(image, (home, entry), out) {
                show_roots(&page, table * owners_per_page(image.page_bytes) as u64, out);
            }
        }
    }
}

/// The current one of two homes.
fn twin(image: &mut Image, (home, entry): (u64, u64), out: &mut String) -> Option<Vec<u8>> {
    if entry == 0 {
        return None;
    }
    let page = image.page_of_stamp(home.saturating_add(entry & 1), entry >> 1);
    page.inspect_err(|why| _ = writeln!(out, "    {why}")).ok()
}

fn owners_per_page(page_bytes: usize) -> usize {
    (page_bytes - HEADER_BYTES) / (ENTRY_BYTES * OWNERS_PER_LEAF) * OWNERS_PER_LEAF
}

/// The roots of a table page whose first owner is `first`.
fn show_roots(page: &[u8], first: u64, out: &mut String) {
    let entries = page[HEADER_BYTES..].chunks_exact(ENTRY_BYTES).take(owners_per_page(page.len()));
    for (owner, entry) in (first..).zip(entries) {
        if let Some(stamp @ 1..) = Bytes(entry).u64(64) {
            let what = if owner == 0 { " (names)" } else { "" };
            let _ = writeln!(out, "    owner {owner}{what}: {}, stamp {stamp}", describe(&entry[..64]));
        }
    }
}

/// A root descriptor: the default table, and the directory of the others.
pub(super) fn describe(root: &[u8]) -> String {
    let half = |at: usize| {
        let bytes = Bytes(root);
        let (page, stamp, entries) = (bytes.u64(at)?, bytes.u64(at + 8)?, bytes.u64(at + 16)?);
        let (height, has_extents) = (bytes.u8(at + 24)?, bytes.u8(at + 25)? & 1 != 0);
        let extents = if has_extents { ", extents below" } else { "" };
        Some(match page {
            0 => "empty".to_owned(),
            _ => format!("{entries} entries, {height} levels below page {page} stamp {stamp}{extents}"),
        })
    };
    match (half(0), half(32)) {
        (Some(default), Some(tables)) if tables == "empty" => default,
        (Some(default), Some(tables)) => format!("{default}; tables: {tables}"),
        _ => "damaged".to_owned(),
    }
}

/// A page of kind 3. Which owners it is for only its directory says.
pub(super) fn show_table_page(page: &[u8], out: &mut String) {
    let _ = writeln!(out, "owner table; owners are counted from the first of this page");
    show_roots(page, 0, out);
}

/// A page of kind 4.
pub(super) fn show_directory_page(page: &[u8], out: &mut String) {
    let _ = writeln!(out, "owner directory");
    for (table, line) in page[HEADER_BYTES..].chunks_exact(TWIN_BYTES).enumerate() {
        if let (Some(home @ 1..), Some(entry)) = (Bytes(line).u64(0), Bytes(line).u64(8)) {
            let _ = writeln!(out, "  table page {table} at {home}, {}", saved(entry));
        }
    }
}
