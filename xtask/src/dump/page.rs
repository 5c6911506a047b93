//! Any page, by its number.

use crate::dump::{
    image::{Header, Image, NO_OWNER},
    log, map, node, owners,
    superblock::{self, SLOT_BYTES, Superblock},
};
use anyhow::{Context, ensure};
use std::fmt::Write;

/// Of a page that is no kind of page, so much is shown.
const RAW_BYTES: usize = 256;

/// What the page is, as far as it says so itself, and what it holds.
pub(super) fn show(
    image: &mut Image,
    superblock: Option<&Superblock>,
    number: u64,
    out: &mut String,
) -> anyhow::Result<()> {
    ensure!(number < image.pages(), "the file has {} pages of {} bytes", image.pages(), image.page_bytes);
    let slots = (2 * SLOT_BYTES / image.page_bytes).max(1) as u64;
    if number < slots {
        let newest = superblock.map(|superblock| superblock.number);
        let each = (2 / slots).max(1);
        (number * each..(number + 1) * each).for_each(|slot| superblock::show_slot(image, slot, newest, out));
        return Ok(());
    }
    let page = image.page(number).with_context(|| format!("cannot read page {number}"))?;
    let log = superblock.map(|superblock| superblock.log.as_slice()).unwrap_or_default();
    if log.iter().any(|&(start, pages)| (start..start.saturating_add(pages)).contains(&number)) {
        log::show_page(&page, out);
        return Ok(());
    }
    let header = Header::of(&page).context("a page is longer than its header")?;
    if !header.is_whole || header.page != number {
        raw(&page, number, &header, out);
        return Ok(());
    }
    let owner = if header.owner == NO_OWNER { "the file".to_owned() } else { format!("owner {}", header.owner) };
    let _ = write!(out, "page {number}, stamp {}, of {owner}, kind {}", header.stamp, header.kind);
    let _ = writeln!(out, ", level {}, flags {:#x}", header.level, header.flags);
    let mut is_sound = Some(());
    match header.kind {
        1 => map::show_region_page(&page, out),
        2 => map::show_directory_page(&page, out),
        3 => owners::show_table_page(&page, out),
        4 => owners::show_directory_page(&page, out),
        16 | 17 => is_sound = node::show(&page, header.kind == 16, out),
        18 | 19 => is_sound = node::show_large(&page, header.kind == 18, header.level, out),
        _ => bytes(&page, out),
    }
    if is_sound.is_none() {
        let _ = writeln!(out, "damaged: something in it points outside of it");
    }
    Ok(())
}

/// A page that does not verify: part of a large value, free, or damaged. Only a pointer to it could tell.
fn raw(page: &[u8], number: u64, header: &Header, out: &mut String) {
    if page.iter().all(|&byte| byte == 0) {
        let _ = writeln!(out, "page {number}: only zero bytes");
        return;
    }
    let why = match header.is_whole {
        true => format!("it is page {} of stamp {}, whole", header.page, header.stamp),
        false => "no checksum matches".to_owned(),
    };
    let _ = writeln!(out, "page {number}: {why}; part of a large value, free, or rotten");
    bytes(page, out);
}

/// The first bytes as numbers and letters.
fn bytes(page: &[u8], out: &mut String) {
    for (line, bytes) in page.chunks(16).take(RAW_BYTES / 16).enumerate() {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x} ")).collect();
        let letter = |&byte: &u8| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' };
        let _ = writeln!(out, "  {:5} {hex} {}", line * 16, bytes.iter().map(letter).collect::<String>());
    }
}
