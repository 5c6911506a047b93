//! A sound file, changed here and there with a knowledge of what lies where, and with its checksums made to fit again: what
//! stands behind them is tested, not they.

use crate::{
    bases::Base,
    format::{get_u64, reseal_as},
    input::Input,
    visit::{Visit, visit},
};

/// More changes tell nothing that fewer would not.
const CHANGES_MAX: usize = 24;

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let base = Base::of(input.byte());
    let how = input.byte();
    let mut file = base.file.clone();
    for _ in 0..CHANGES_MAX {
        if input.is_empty() {
            break;
        }
        change(base, &mut file, &mut input);
    }
    if how & 2 == 0 {
        reseal_as(&base.layout, &mut file);
    }
    let len = if how & 4 == 0 { 0 } else { 1 << (how >> 3) };
    visit(&file, Visit { read_only: how & 1 != 0, len });
}

/// Numbers that are often limits, or next to them.
fn number(input: &mut Input<'_>) -> u64 {
    match input.below(16) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => 1 << 62,
        4 => (1 << 48) - 1,
        5 => 1 << 47,
        6 => u64::from(u32::MAX),
        7 => i64::MAX as u64,
        8 => u64::MAX >> 12,
        9 => 1 << (input.byte() % 64),
        10 => (1 << (input.byte() % 64)) - 1,
        11..14 => u64::from(input.byte()),
        14 => u64::from(input.u16()),
        _ => input.u64(),
    }
}

/// Puts the low `width` bytes of a number, or the number added to what was there, into the file.
fn put(file: &mut [u8], at: usize, width: usize, value: u64, is_sum: bool) {
    let Some(place) = file.get_mut(at..at + width) else { return };
    let mut old = [0; 8];
    old[..width].copy_from_slice(place);
    let value = if is_sum { u64::from_le_bytes(old).wrapping_add(value) } else { value };
    place.copy_from_slice(&value.to_le_bytes()[..width]);
}

fn width(input: &mut Input<'_>) -> usize {
    [1, 2, 4, 6, 8][input.below(5)]
}

fn change(base: &Base, file: &mut Vec<u8>, input: &mut Input<'_>) {
    let layout = &base.layout;
    let page_bytes = layout.page_bytes;
    let page = |input: &mut Input<'_>| layout.pages[input.below(layout.pages.len())] * page_bytes;
    match input.below(14) {
        // A field of a page's header or of what follows it: kind, level, counts, first records.
        0..3 => {
            let at = page(input) + 24 + input.below(64);
            put(file, at, width(input), number(input), input.byte() & 1 != 0);
        }
        // Anywhere in a page.
        3 | 4 => {
            let at = page(input) + usize::from(input.u16()) % page_bytes;
            put(file, at, width(input), number(input), input.byte() & 1 != 0);
        }
        // Another page's number and stamp, as branches and as all others write them, where a pointer was or anywhere.
        5 | 6 => {
            let (to, from) = (page(input), page(input));
            let mut at = to + usize::from(input.u16()) % page_bytes;
            if input.byte() & 1 != 0 {
                at = pointer_in(base, file, to, usize::from(input.byte())).unwrap_or(at);
            }
            let pointer = [&file_bytes(file, from + 8, 8)[..], &file_bytes(file, from + 16, 8)].concat();
            let width = if input.byte() & 1 != 0 { 6 } else { 8 };
            let pointer = [&pointer[..width], &pointer[8..]].concat();
            if let Some(place) = file.get_mut(at..at + pointer.len()) {
                place.copy_from_slice(&pointer);
            }
        }
        // A page in another's place; with its own number it is a misdirected write, with the other's a forgery.
        7 => {
            let (to, from) = (page(input), page(input));
            let number = file_bytes(file, to + 8, 8);
            let stamp = file_bytes(file, to + 16, 8);
            let bytes = file_bytes(file, from, page_bytes);
            let how = input.byte();
            if let Some(place) = file.get_mut(to..to + page_bytes) {
                place.copy_from_slice(&bytes);
                if how & 1 != 0 {
                    place[8..16].copy_from_slice(&number);
                }
                if how & 2 != 0 {
                    place[16..24].copy_from_slice(&stamp);
                }
            }
        }
        // A field of a superblock: the fixed ones, or lines of its tables.
        8 | 9 => {
            let slot = layout.slots[input.below(layout.slots.len())];
            let at = match input.below(4) {
                0 => 16 + 4 * input.below(30),
                1 => 256 + 8 * input.below(8),
                2 => 640 + 8 * input.below(8),
                _ => 2688 + 8 * input.below(8),
            };
            put(file, slot + at, [4, 8][input.below(2)], number(input), input.byte() & 1 != 0);
        }
        // A field of the log's groups and records.
        10 | 11 => {
            if let Some(&block) = layout.groups.get(input.below(layout.groups.len().max(1))) {
                let at = layout.blocks[block] + usize::from(input.u16()) % 1024;
                put(file, at, width(input), number(input), input.byte() & 1 != 0);
            }
        }
        // Other bytes anywhere.
        12 => {
            let at = input.u32() as usize % file.len().max(1);
            let count = input.below(32);
            let bytes = input.bytes(count);
            if let Some(place) = file.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        }
        // Another length.
        _ => {
            let len = input.u32() as usize % (2 << 20);
            file.resize(len, input.byte());
        }
    }
}

fn file_bytes(file: &[u8], at: usize, count: usize) -> Vec<u8> {
    file.get(at..at + count).map_or_else(|| vec![0; count], <[u8]>::to_vec)
}

/// Where in the page the `n`th run of bytes begins that may be a pointer to a sealed page: number, then stamp.
fn pointer_in(base: &Base, file: &[u8], page: usize, n: usize) -> Option<usize> {
    let bytes = file.get(page..page + base.layout.page_bytes)?;
    let is_pointer = |&at: &usize| {
        let short = get_u64(bytes, at) & ((1 << 47) - 1);
        let number = [get_u64(bytes, at), short]
            .into_iter()
            .find(|&n| usize::try_from(n).is_ok_and(|n| base.layout.pages.binary_search(&n).is_ok()));
        number.is_some_and(|number| {
            let stamp = get_u64(&base.file, number as usize * base.layout.page_bytes + 16);
            [6, 8].into_iter().any(|width| get_u64(bytes, at + width) == stamp)
        })
    };
    let found: Vec<usize> = (32..bytes.len() - 16).filter(is_pointer).collect();
    (!found.is_empty()).then(|| page + found[n % found.len()])
}
