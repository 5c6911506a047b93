//! A sound file with a log of somebody else's making: groups that are whole, follow each other, and say what they like.
//!
//! | bytes | meaning                                                                                     |
//! |------:|---------------------------------------------------------------------------------------------|
//! |     1 | which base                                                                                  |
//! |     1 | bit 0: open for reading only; 1: replace the log, else go on behind it; 2: leave sums alone |
//! |       | groups, and in each                                                                         |
//! |     1 | how its header lies; how many records: three bits                                           |
//! |       | records: a kind, then what it has                                                           |

use crate::{
    bases::Base,
    format::{GROUP_HEADER_BYTES, LogEnd, get_u64, put_u64, seal_group},
    input::Input,
    visit::{Visit, visit},
};

const GROUPS_MAX: usize = 12;

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let base = Base::of(input.byte());
    let how = input.byte();
    let mut file = base.file.clone();
    let layout = &base.layout;
    let newest = layout.slots[0];
    // Where the next group goes, what it chains from, its epoch, and the seq before it.
    let end = if how & 2 != 0 { LogEnd::start(layout, &file) } else { LogEnd::of(layout, &file) };
    let LogEnd { mut place, mut chain, mut epoch, mut seq } = end;
    for _ in 0..GROUPS_MAX {
        if input.is_empty() {
            break;
        }
        let mut group = vec![0; GROUP_HEADER_BYTES];
        let lie = input.byte();
        let records = u64::from(lie >> 5);
        for _ in 0..records {
            record(base, &mut input, &mut group);
        }
        if group.len().div_ceil(4096) >= layout.blocks.len() {
            break;
        }
        let bytes = u32::try_from(group.len() - GROUP_HEADER_BYTES).unwrap_or(0);
        group[8..12].copy_from_slice(b"SPNL");
        group[12..16].copy_from_slice(&bytes.to_le_bytes());
        group[16..32].copy_from_slice(&file[newest + 40..newest + 56]);
        let fields = [
            (32, epoch),
            (40, chain),
            (48, seq.wrapping_add(1)),
            (56, seq.wrapping_add(records)),
            (64, seq),
            (72, records),
        ];
        fields.into_iter().for_each(|(at, value)| put_u64(&mut group, at, value));
        // One field of the header is not what it should be.
        match lie & 0x1F {
            at @ 1..7 => put_u64(&mut group, 32 + 8 * (usize::from(at) - 1), input.u64()),
            at @ 7..12 => {
                let at = 32 + 8 * (usize::from(at) - 7);
                let value = get_u64(&group, at).wrapping_add(u64::from(input.byte()));
                put_u64(&mut group, at, value);
            }
            _ => {}
        }
        if how & 4 == 0 {
            seal_group(layout.page_bytes, &file, &mut group);
        }
        chain = get_u64(&group, 0);
        epoch = epoch.max(get_u64(&group, 32));
        seq = get_u64(&group, 56);
        place = layout.put_group(&mut file, place % layout.blocks.len(), &group);
    }
    visit(&file, Visit { read_only: how & 1 != 0, len: 0 });
}

/// One record, its length as it is.
fn record(base: &Base, input: &mut Input<'_>, group: &mut Vec<u8>) {
    const COMMIT: u8 = 1;
    const CHECKPOINT: u8 = 2;
    const RECOVERED: u8 = 3;
    let start = group.len();
    group.extend([0; 8]);
    match input.below(16) {
        // Raw: kind, flags, count and body as they come.
        0 | 1 => {
            group.truncate(start + 4);
            let count = usize::from(input.u16()) % 2048;
            group.extend_from_slice(input.bytes(count));
            group.resize(group.len().max(start + 8), 0);
        }
        2 => {
            let count = input.below(4);
            (group[start + 4], group[start + 6]) = (CHECKPOINT, count as u8);
            for _ in 0..count {
                let own = base.layout.slots[0] + 256;
                let (page, pages) = match input.byte() & 3 {
                    0 => (get_u64(&base.file, own), get_u64(&base.file, own + 8)),
                    1 => (input.u64(), input.u64()),
                    _ => (page(base, input), u64::from(input.u16())),
                };
                group.extend([page, pages].into_iter().flat_map(u64::to_le_bytes));
            }
        }
        3 => {
            group[start + 4] = RECOVERED;
            for _ in 0..3 {
                let number = if input.byte() & 1 == 0 { u64::from(input.u16()) << 20 } else { input.u64() };
                group.extend(number.to_le_bytes());
            }
        }
        4 => group[start + 4] = input.byte(),
        kind => {
            let parts = 1 + input.below(3);
            (group[start + 4], group[start + 5], group[start + 6]) = (COMMIT, u8::from(kind > 10), parts as u8);
            for _ in 0..parts {
                part(base, input, group);
            }
        }
    }
    let len = u32::try_from(group.len() - start).unwrap_or(0);
    group[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// One family's share of a commit.
fn part(base: &Base, input: &mut Input<'_>, group: &mut Vec<u8>) {
    const IMAGE: u8 = 1;
    const OPS: u8 = 2;
    let owner = if input.byte() < 250 { u32::from(input.byte() % 8) } else { input.u32() };
    group.extend(owner.to_le_bytes());
    if input.byte() & 1 == 0 {
        group.extend([OPS, 0, 0, 0]);
        let count = usize::from(input.u16()) % 1024;
        let effects = input.bytes(count);
        group.extend(u32::try_from(effects.len()).unwrap_or(0).to_le_bytes());
        group.extend_from_slice(effects);
        return;
    }
    group.extend([IMAGE, 0, 0, 0]);
    let stamp = if input.byte() < 250 { u64::from(input.u16()) } else { input.u64() };
    group.extend(stamp.to_le_bytes());
    for _ in 0..2 {
        root(base, input, group);
    }
    let (claims, releases) = (input.below(8), input.below(8));
    for count in [claims, releases] {
        group.extend((count as u32).to_le_bytes());
    }
    for i in 0..claims + releases {
        group.extend(page(base, input).to_le_bytes());
        let pages = if input.byte() < 240 { u32::from(input.byte() % 8) } else { input.u32() };
        group.extend(pages.to_le_bytes());
        if i < claims {
            group.extend(u64::from(input.byte()).to_le_bytes());
        }
    }
}

/// One of the two roots of a family: of a page of the file, with its stamp, or of anything.
fn root(base: &Base, input: &mut Input<'_>, group: &mut Vec<u8>) {
    let how = input.byte();
    if how & 3 == 0 {
        return group.extend([0; 32]);
    }
    if how & 3 == 1 {
        let mut bytes = [0; 32];
        let given = input.bytes(32);
        bytes[..given.len()].copy_from_slice(given);
        return group.extend(bytes);
    }
    let page = base.layout.pages[input.below(base.layout.pages.len())];
    let at = page * base.layout.page_bytes;
    group.extend((page as u64).to_le_bytes());
    group.extend_from_slice(&base.file[at + 16..at + 24]);
    group.extend(u64::from(input.u16()).to_le_bytes());
    let height = if how & 4 == 0 { base.file[at + 29].wrapping_add(1) } else { input.byte() };
    group.extend([height, how >> 3 & 1, 0, 0, 0, 0, 0, 0]);
}

fn page(base: &Base, input: &mut Input<'_>) -> u64 {
    if input.byte() < 240 {
        u64::from(input.u16()) % (base.file.len() / base.layout.page_bytes + 4) as u64
    } else {
        input.u64()
    }
}
