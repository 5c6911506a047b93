//! Files that somebody forged, with checksums that fit: cycles, impossible depths, shared subtrees, values longer than their file,
//! fields at their limits, bits of a newer version. An error or an answer; never a panic, never more memory or work than the file
//! is worth.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may")]

use crc_fast::{CrcAlgorithm::Crc64Nvme, checksum};
use spinney::{Error, Options};
use spinney_fuzz_cases::{Base, Disk, Meter, Visit, reseal, visit};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE_BYTES: usize = 4096;
const WRITE: Visit = Visit { read_only: false, len: 0 };

/// Memory is measured: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn base(name: &str) -> &'static [u8] {
    let place = Base::names().position(|found| found == name).unwrap();
    &Base::of(place as u8).file
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, value: u64, width: usize) {
    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

/// Where pages of a kind begin, the sound ones.
fn pages_of(file: &[u8], kinds: impl Fn(u8) -> bool) -> Vec<usize> {
    let is_sound = |&at: &usize| {
        let page = &file[at..at + PAGE_BYTES];
        checksum(Crc64Nvme, &page[8..]) == get_u64(page, 0) && kinds(page[28])
    };
    (2 * PAGE_BYTES..file.len()).step_by(PAGE_BYTES).filter(is_sound).collect()
}

/// Where the newest descriptor of an owner lies: two roots of 32 bytes.
fn descriptor(file: &[u8], owner: usize) -> usize {
    let table = pages_of(file, |kind| kind == 3).into_iter().max_by_key(|&at| get_u64(file, at + 16)).unwrap();
    table + 32 + 72 * owner
}

/// A page in the free space of a file, written as a page of the owner and stamp that `like` has.
fn forge(file: &mut [u8], like: usize, number: usize, fill: impl FnOnce(&mut [u8])) -> (u64, u64) {
    let (stamp, owner) = (get_u64(file, like + 16), get_u64(file, like + 24) & u64::from(u32::MAX));
    let page = &mut file[number * PAGE_BYTES..(number + 1) * PAGE_BYTES];
    assert!(page.iter().all(|&byte| byte == 0), "page {number} is in use");
    put(page, 8, number as u64, 8);
    put(page, 16, stamp, 8);
    put(page, 24, owner, 4);
    fill(page);
    let sum = checksum(Crc64Nvme, &page[8..]);
    put(page, 0, sum, 8);
    (number as u64, stamp)
}

/// Pages that nobody uses, from the file's end.
fn free_pages(file: &[u8]) -> impl Iterator<Item = usize> + use<> {
    let pages = file.chunks(PAGE_BYTES).enumerate().rev();
    let free: Vec<usize> =
        pages.filter(|(_, page)| page.iter().all(|&byte| byte == 0)).map(|(number, _)| number).collect();
    free.into_iter()
}

/// A branch with so many children, all of them the same page.
fn branch(page: &mut [u8], level: u8, children: usize, child: (u64, u64), entries: u64) {
    let slots = children - 1;
    let mut record = [0; 20];
    record[..6].copy_from_slice(&child.0.to_le_bytes()[..6]);
    record[6..14].copy_from_slice(&child.1.to_le_bytes());
    record[14..].copy_from_slice(&entries.to_le_bytes()[..6]);
    (page[28], page[29]) = (17, level);
    put(page, 36, slots as u64, 2);
    let heap = PAGE_BYTES - 22 * slots;
    put(page, 40, heap as u64, 4);
    page[56..76].copy_from_slice(&record);
    for slot in 0..slots {
        let cell = heap + 22 * slot;
        put(page, 76 + 4 * slot, slot as u64 + 1, 4);
        put(page, 76 + 4 * slots + 2 * slot, cell as u64, 2);
        put(page, cell, 4, 2);
        page[cell + 2..cell + 22].copy_from_slice(&record);
    }
}

/// A leaf with no entries, or with one that has a key of four zeros and no value.
fn leaf(page: &mut [u8], is_empty: bool) {
    page[28] = 16;
    let heap = if is_empty { PAGE_BYTES } else { PAGE_BYTES - 4 };
    put(page, 40, heap as u64, 4);
    if !is_empty {
        put(page, 36, 1, 2);
        put(page, 60, heap as u64, 2);
        put(page, heap, 4, 2);
    }
}

/// A tree whose branches have a hundred children that are all the same page, at every level: 100^23 ways down.
#[test]
fn a_tree_of_shared_children_ends() {
    let _turn = alone();
    for is_empty in [true, false] {
        let before = base("deep");
        let mut file = before.to_vec();
        let root = descriptor(&file, 1);
        let like = get_u64(&file, root) as usize * PAGE_BYTES;
        let mut free = free_pages(&file);
        let mut child = forge(&mut file, like, free.next().unwrap(), |page| leaf(page, is_empty));
        for level in 1..24 {
            child = forge(&mut file, like, free.next().unwrap(), |page| branch(page, level, 100, child, 1));
        }
        put(&mut file, root, child.0, 8);
        put(&mut file, root + 16, 1 << 40, 8);
        file[root + 24] = 24;
        reseal(before, &mut file);
        assert!(visit(&file, WRITE), "it opens");

        // Freed bit by bit, it leads to pages that are free already, or somebody else's by then.
        let disk = Disk::new(&file, 0);
        let db = Options::new().background(false).open_storage(Arc::new(disk.clone())).unwrap();
        assert!(matches!(
            db.snapshot().range(&db.family("deep").unwrap(), ..).next_back(),
            Some(Err(Error::Corrupt { .. })) | Some(Ok(_))
        ));
        assert!(matches!(db.family("deep").unwrap().stats(), Err(Error::Corrupt { .. })));
        disk.allow(100_000, 1 << 30);
        drop(db.drop_family("deep"));
        drop(db.maintain(2000));
        drop(db.check());
        disk.assert_bounded();
    }
}

#[test]
fn a_value_longer_than_its_file_is_not_read() {
    const VALUE_BYTES: u64 = 200 << 20;
    const CHUNKS: usize = (VALUE_BYTES >> 16) as usize;
    const PER_LIST: usize = (PAGE_BYTES - 56) / 24;
    let _turn = alone();
    let before = base("closed");
    let mut file = before.to_vec();
    // The head of `big`, and the leaf that points to it.
    let head = pages_of(&file, |kind| kind == 18).into_iter().find(|&at| get_u64(&file, at + 40) == 9000).unwrap();
    let stamp = get_u64(&file, head + 16);
    let record: Vec<u8> = [(head / PAGE_BYTES) as u64, stamp, 9000].into_iter().flat_map(u64::to_le_bytes).collect();
    let pointer = file.windows(24).position(|window| window == record).unwrap();
    put(&mut file, pointer + 16, VALUE_BYTES, 8);
    // Every chunk is the first one of `bigger`.
    let bigger = pages_of(&file, |kind| kind == 18).into_iter().find(|&at| get_u64(&file, at + 40) == 70_000).unwrap();
    let chunk = file[bigger + 56..bigger + 80].to_vec();
    let mut free = free_pages(&file);
    let lists: Vec<(u64, u64)> = (0..CHUNKS.div_ceil(PER_LIST))
        .map(|list| {
            forge(&mut file, head, free.next().unwrap(), |page| {
                page[28] = 19;
                put(page, 40, VALUE_BYTES, 8);
                let count = PER_LIST.min(CHUNKS - list * PER_LIST);
                put(page, 52, count as u64, 4);
                for i in 0..count {
                    page[56 + 24 * i..80 + 24 * i].copy_from_slice(&chunk);
                }
            })
        })
        .collect();
    let page = &mut file[head..head + PAGE_BYTES];
    page[56..].fill(0);
    page[29] = 1;
    put(page, 40, VALUE_BYTES, 8);
    put(page, 48, 0, 4);
    put(page, 52, lists.len() as u64, 4);
    for (i, (number, stamp)) in lists.iter().enumerate() {
        put(page, 56 + 16 * i, *number, 8);
        put(page, 64 + 16 * i, *stamp, 8);
    }
    page[56 + 16 * lists.len()..][..3].copy_from_slice(b"big");
    reseal(before, &mut file);

    assert!(visit(&file, WRITE), "it opens");
    let meter = Meter::new();
    let db = Options::new().memory_budget(1 << 20).background(false);
    let db = db.open_storage(Arc::new(Disk::new(&file, 0))).unwrap();
    let large = db.open_family("large").unwrap().unwrap();
    assert_eq!(db.snapshot().value_len(&large, "big").unwrap(), Some(VALUE_BYTES), "the forgery is believed so far");
    let read = db.snapshot().get(&large, "big");
    assert!(matches!(&read, Err(Error::Corrupt { why, .. }) if why.contains("over each other")), "{read:?}");
    meter.assert_bounded(1 << 20, 2 * file.len() as u64);
}

#[test]
fn pointers_that_lead_back_are_refused() {
    let _turn = alone();
    for (name, owners) in [("deep", 2), ("closed", 4)] {
        let before = base(name);
        let roots: Vec<usize> = (0..owners).map(|owner| get_u64(before, descriptor(before, owner)) as usize).collect();
        let branches = pages_of(before, |kind| kind == 17);
        assert!(!branches.is_empty());
        for (turn, &at) in branches.iter().enumerate() {
            // To itself, to a root, to a neighbour, to a page of another owner.
            let others =
                [at, roots[turn % owners] * PAGE_BYTES, branches[(turn + 1) % branches.len()], roots[0] * PAGE_BYTES];
            for to in others.into_iter().filter(|&to| to > 0) {
                let mut file = before.to_vec();
                let slots = usize::from(file[at + 36]) | usize::from(file[at + 37]) << 8;
                let pointer = [&file[to + 8..to + 14], &file[to + 16..to + 24]].concat();
                // The first child always, and one of the others.
                file[at + 56..at + 70].copy_from_slice(&pointer);
                let prefix = usize::from(file[at + 38]) | usize::from(file[at + 39]) << 8;
                let offset = at + 76 + prefix + 4 * slots + 2 * (turn % slots);
                let cell = usize::from(file[offset]) | usize::from(file[offset + 1]) << 8;
                file[at + cell + 2..at + cell + 16].copy_from_slice(&pointer);
                reseal(before, &mut file);
                visit(&file, WRITE);
            }
        }
    }
}

#[test]
fn roots_of_every_height_and_with_every_byte_changed_are_survived() {
    let _turn = alone();
    let before = base("deep");
    let root = descriptor(before, 1);
    let mut opened = 0;
    for height in 0..=255 {
        let mut file = before.to_vec();
        file[root + 24] = height;
        reseal(before, &mut file);
        opened += u32::from(visit(&file, Visit { read_only: height % 2 == 0, len: 0 }));
    }
    assert_eq!(opened, 256, "one family's root is no reason not to open the others");
    for owner in 0..2 {
        for at in 0..72 {
            for change in [1, 0x80, 0xFF] {
                let mut file = before.to_vec();
                file[descriptor(before, owner) + at] ^= change;
                reseal(before, &mut file);
                visit(&file, WRITE);
            }
        }
    }
}

#[test]
fn superblock_fields_at_their_limits_are_survived() {
    let _turn = alone();
    let limits =
        [0, 1, 2, u64::from(u32::MAX), 1 << 32, 1 << 47, 1 << 48, 1 << 51, 1 << 52, 1 << 62, 1 << 63, u64::MAX];
    for name in ["closed", "crashed"] {
        let before = base(name);
        let words = (8..132)
            .step_by(4)
            .chain((256..304).step_by(8))
            .chain((640..672).step_by(8))
            .chain((2688..2720).step_by(8));
        for at in words {
            let around = get_u64(before, at);
            let nearby = [around.wrapping_sub(1), around.wrapping_add(1), around << 1];
            for value in limits.into_iter().chain(nearby) {
                let width = if at < 32 || (120..132).contains(&at) { 4 } else { 8 };
                let mut file = before.to_vec();
                for slot in [0, 4096] {
                    put(&mut file, slot + at, value, width);
                }
                reseal(before, &mut file);
                visit(&file, Visit { read_only: value % 2 == 0, len: 0 });
            }
        }
    }
}

/// A file as long as files can be, of which the superblock knows, and one of which it does not.
#[test]
fn eight_exbibytes_of_nothing_cost_nothing() {
    let _turn = alone();
    let before = base("crashed");
    assert!(visit(before, Visit { read_only: false, len: i64::MAX as u64 }), "what is behind the end is nothing");
    for file_pages in [i64::MAX as u64 / 4096, 1 << 40, 128 * 254 * 32512, 1 << 30] {
        for read_only in [false, true] {
            let mut file = before.to_vec();
            for slot in [0, 4096] {
                put(&mut file, slot + 104, file_pages, 8);
            }
            reseal(before, &mut file);
            visit(&file, Visit { read_only, len: i64::MAX as u64 });
        }
    }
    assert!(!visit(&[], Visit { read_only: false, len: i64::MAX as u64 }), "nothing but holes");
}

#[test]
fn what_a_newer_version_may_mean_is_refused_before_a_byte_is_written() {
    let _turn = alone();
    let before = base("crashed");
    let reserved = (132 * 8..256 * 8).map(|bit| (bit / 8, 1 << (bit % 8)));
    let features = (24 * 8..32 * 8).map(|bit| (bit / 8, 1 << (bit % 8)));
    let versions = (1..32).map(|bit| (16 + bit / 8, 1 << (bit % 8)));
    for (at, mask) in reserved.chain(features).chain(versions) {
        for slots in [&[0][..], &[4096], &[0, 4096]] {
            let mut file = before.to_vec();
            slots.iter().for_each(|slot| file[slot + at] ^= mask);
            reseal(before, &mut file);
            for read_only in [false, true] {
                let disk = Disk::new(&file, 0);
                let opened = Options::new().background(false).read_only(read_only).open_storage(Arc::new(disk.clone()));
                assert!(
                    matches!(opened, Err(Error::NewerVersion { supported: 1, .. })),
                    "byte {at}, {mask:#x}: {opened:?}"
                );
                assert_eq!(disk.writes(), 0, "byte {at}, {mask:#x}: something was written");
            }
        }
    }
}

/// The same in the log: an error, and nothing that the log may mean is dropped.
#[test]
fn records_with_bits_of_a_newer_version_are_refused() {
    let _turn = alone();
    let before = base("crashed");
    let mut refused = 0;
    for block in (0..before.len()).step_by(PAGE_BYTES).filter(|&at| before[at + 8..at + 12] == *b"SPNL") {
        for bit in 1..8 {
            let mut file = before.to_vec();
            // Of the group's first record, which is a commit's, or of its first part.
            for at in [85, 93, 94, 95] {
                file[block + at] ^= 1 << bit;
                reseal(before, &mut file);
                let disk = Disk::new(&file, 0);
                match Options::new().background(false).open_storage(Arc::new(disk.clone())) {
                    Ok(_) => {}
                    Err(Error::Damaged { .. }) => {
                        refused += 1;
                        assert_eq!(disk.writes(), 0);
                    }
                    Err(error) => panic!("{error:?}"),
                }
                file[block + at] ^= 1 << bit;
            }
        }
    }
    assert!(refused > 100, "{refused} refused");
}
