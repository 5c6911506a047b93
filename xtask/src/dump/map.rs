//! The map of free pages as the newest checkpoint left it; the layout is in `spinney-alloc/src/map_page.rs`, the places
//! in `geometry.rs`.

use crate::dump::{
    bytes::Bytes,
    image::{HEADER_BYTES, Image, map_geometry},
    superblock::{Superblock, saved},
};
use std::fmt::Write;

/// The first home of a region's map page.
fn region_home(image: &Image, region: u64) -> u64 {
    let header_pages = (8192 / image.page_bytes as u64).max(1);
    if region == 0 { header_pages } else { region.saturating_mul(map_geometry(image.page_bytes).1) }
}

/// Every directory and every region that was ever saved.
pub(super) fn show(image: &mut Image, superblock: &Superblock, out: &mut String) {
    let _ = writeln!(out, "\nmap");
    let (regions_per_directory, region_pages) = map_geometry(image.page_bytes);
    for (directory, &(entry, free)) in (0..).zip(&superblock.map) {
        let _ = writeln!(out, "  directory {directory}: {free} free pages, {}", saved(entry));
        if entry == 0 {
            continue;
        }
        let home = region_home(image, directory * regions_per_directory) + 2 + (entry & 1);
        match image.page_of_stamp(home, entry >> 1) {
            Err(why) => drop(writeln!(out, "    {why}")),
            Ok(page) => {
                for (region, line) in (directory * regions_per_directory..).zip(page[HEADER_BYTES..].chunks_exact(16)) {
                    if line.iter().any(|&byte| byte != 0) {
                        show_region(image, region, region_pages, line, out);
                    }
                }
            }
        }
    }
}

fn show_region(image: &mut Image, region: u64, region_pages: u64, line: &[u8], out: &mut String) {
    let line = Bytes(line);
    let (Some(entry), Some(free), Some(longest)) = (line.u64(0), line.u32(8), line.u32(12)) else { return };
    let _ = write!(out, "    region {region}, pages from {}: ", region * region_pages);
    let _ = write!(out, "{free} free, {longest} of them side by side; {}", saved(entry));
    // Free pages beyond the end of the file are counted too: they are free once the file has grown.
    let home = region_home(image, region).saturating_add(entry & 1);
    let _ = match image.page_of_stamp(home, entry >> 1) {
        Err(why) => writeln!(out, "; {why}"),
        Ok(page) if free_in(&page) != u64::from(free) => {
            writeln!(out, "; damaged: its page has {} free", free_in(&page))
        }
        Ok(_) => writeln!(out),
    };
}

fn free_in(page: &[u8]) -> u64 {
    page[HEADER_BYTES..].iter().map(|byte| u64::from(byte.count_zeros())).sum()
}

/// A page of kind 1: the runs of pages in use.
pub(super) fn show_region_page(page: &[u8], out: &mut String) {
    let in_use = |at: usize| page[HEADER_BYTES + at / 8] & 1 << (at % 8) != 0;
    let pages = (page.len() - HEADER_BYTES) * 8;
    let _ = writeln!(out, "map region: {} of {pages} pages free", free_in(page));
    let mut at = 0;
    let mut shown = 0;
    while at < pages && shown < RUNS_MAX {
        let end = (at..pages).find(|&page| in_use(page) != in_use(at)).unwrap_or(pages);
        if in_use(at) {
            let _ = writeln!(out, "  in use {at}..{end}");
            shown += 1;
        }
        at = end;
    }
    if at < pages {
        let _ = writeln!(out, "  ... and after {at}");
    }
}

/// Lines for one region.
const RUNS_MAX: usize = 200;

/// A page of kind 2.
pub(super) fn show_directory_page(page: &[u8], out: &mut String) {
    let _ = writeln!(out, "map directory");
    for (region, line) in page[HEADER_BYTES..].chunks_exact(16).enumerate() {
        let line = Bytes(line);
        if let (Some(entry @ 1..), Some(free), Some(longest)) = (line.u64(0), line.u32(8), line.u32(12)) {
            let _ = writeln!(out, "  region {region}: {free} free, {longest} of them side by side; {}", saved(entry));
        }
    }
}
