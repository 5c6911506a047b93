//! Pages somebody forged, with valid checksums: refused when loaded, or answered somehow, but never a panic and never an
//! endless loop.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may")]

mod common;

use common::*;
use spinney_btree::{
    Bounds, CheckOptions, Durability, FamilyRoot, FamilyTxn, PagePtr, TableId, Tree, TreeError, Wait, check, dump_page,
    page_check,
};
use std::{
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Xorshift: every failure prints its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn key(i: usize) -> Vec<u8> {
    let mut key = format!("{:05}/{}", i % 1000, "x".repeat(i * 7 % 120)).into_bytes();
    key.truncate(5 + i % 90);
    key
}

/// A family of three levels with large values, a second table and graves, all in one open transaction; and its pages.
fn family(bed: &mut Bed) -> Vec<PagePtr> {
    bed.with(|mut family| {
        let mut tree = family.table(TableId::DEFAULT).unwrap();
        for i in 0..700 {
            tree.insert(&key(i * 7919), &value(i as u8, i * 37 % 300)).unwrap();
        }
        tree.insert(b"00500/big", &value(1, 70_000)).unwrap();
        tree.insert(b"00700/big", &value(2, 3000)).unwrap();
        tree.remove_range(&(Bound::Included(b"00100".to_vec()), Bound::Excluded(b"00250".to_vec()))).unwrap();
        family.create_table(TableId(9)).unwrap();
        family.table(TableId(9)).unwrap().insert(b"a", b"b").unwrap();
        family.create_table(TableId(8)).unwrap();
        family.table(TableId(8)).unwrap().insert(b"a", &value(3, 12_000)).unwrap();
        family.drop_table(TableId(8)).unwrap();
    });
    let (txn, family) = bed.txn.as_mut().unwrap();
    let part = txn.part(OWNER).unwrap();
    family.store(part).unwrap();
    let root = FamilyRoot::decode(OWNER, part.root()).unwrap();
    let mut pages = Vec::new();
    let report = check(part, OWNER, &root, CheckOptions::default(), &mut |extent, stamp| {
        // Raw pages have no structure to forge; here their extents have several.
        if extent.pages == 1 {
            pages.push(PagePtr { page: extent.start, stamp });
        }
    });
    assert!(report.unwrap().is_sound());
    pages
}

/// Changes a few bytes where it hurts.
fn forge(page: &mut [u8], others: &[PagePtr], random: &mut Random) {
    let count = u16::from_le_bytes([page[36], page[37]]) as usize;
    for _ in 0..=random.below(2) {
        let prefix = u16::from_le_bytes([page[38], page[39]]) as usize;
        let heads_at = prefix % 1024 + if page[28] == 17 { 76 } else { 56 };
        let offset_at = heads_at + 4 * count + 2 * random.below(count.max(1));
        let cell = u16::from_le_bytes([page[offset_at % 4090], page[offset_at % 4090 + 1]]) as usize;
        let at = match random.below(8) {
            0 => 28 + random.below(28),
            1 => 56 + random.below(20),
            2 => offset_at,
            3 => heads_at + random.below(4 * count.max(1)),
            4..=6 => cell + random.below(30),
            _ => 28 + random.below(page.len() - 28),
        };
        let at = at.min(page.len() - 1);
        match random.below(5) {
            0 => page[at] ^= 1 << random.below(8),
            1 => page[at] = [0, 1, 0x7F, 0x80, 0xFF][random.below(5)],
            2 => page[at] = random.next() as u8,
            3 => page[at] = page[at].wrapping_add(1),
            // Another page's pointer where one may be.
            _ => {
                let other = others[random.below(others.len())];
                let bytes = [&other.page.get().to_le_bytes()[..6], &other.stamp.0.to_le_bytes()].concat();
                let at = at.min(page.len() - bytes.len());
                page[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
    }
}

/// What a page looks like once it is written.
fn sealed(page: &[u8], ptr: PagePtr) -> Vec<u8> {
    let mut page = page.to_vec();
    page[8..16].copy_from_slice(&ptr.page.get().to_le_bytes());
    page[16..24].copy_from_slice(&ptr.stamp.0.to_le_bytes());
    page
}

fn read_everything(bed: &Bed) -> Result<(), TreeError> {
    let snapshot = bed.file.snapshot();
    let root = bed.root(&snapshot);
    let mut outcome = Ok(());
    for (id, root) in root.all_tables(&bed.file, OWNER)? {
        let tree = Tree::new(&bed.file, OWNER, id, root);
        for i in (0..1000).step_by(7) {
            let _ = tree.get(&key(i))?;
            let _ = tree.count(&(Bound::Included(key(i)), Bound::Unbounded))?;
        }
        for reverse in [false, true] {
            let mut range = tree.range(all());
            let mut steps = 0;
            while let Some(entry) = if reverse { range.next_back() } else { range.next() } {
                steps += 1;
                assert!(steps < 100_000, "an endless range");
                if let Err(error) = entry.and_then(|(_, value)| value.read().map(|_| ())) {
                    outcome = Err(error);
                    break;
                }
            }
        }
    }
    let report = check(&bed.file, OWNER, &root, CheckOptions { large_values: true }, &mut |_, _| {})?;
    outcome.and(report.problems.into_iter().next().map_or(Ok(()), |finding| Err(finding.error)))
}

fn write_everything(bed: &mut Bed, random: &mut Random) -> Result<(), TreeError> {
    let mut txn = bed.file.begin(&[OWNER], Wait::Forever)?;
    let part = txn.part(OWNER).unwrap();
    let mut state = FamilyTxn::new(part)?;
    for _ in 0..60 {
        let mut family = state.family(part);
        let mut tree = family.table(TableId::DEFAULT)?;
        match random.below(6) {
            0..3 => tree.insert(&key(random.below(9000)), &value(5, random.below(400))).map(drop)?,
            3 | 4 => tree.remove(&key(random.below(5000))).map(drop)?,
            _ => {
                let bounds: Bounds =
                    (Bound::Included(key(random.below(1000))), Bound::Excluded(key(random.below(1000))));
                tree.remove_range(&bounds)?;
            }
        };
    }
    state.family(part).collect(50)?;
    state.store(part)?;
    txn.commit(Durability::Immediate)?;
    Ok(())
}

#[test]
fn forged_pages_are_refused_or_harmless() {
    let rounds = std::env::var("SPINNEY_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400u64);
    let (mut refused, mut wrong, mut harmless) = (0, 0, 0);
    for seed in 1..=rounds {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut bed = Bed::in_pages(4096, 64 << 20);
        let pages = family(&mut bed);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let (mut txn, _) = bed.txn.take().unwrap();
            let part = txn.part(OWNER).unwrap();
            let victim = pages[random.below(pages.len())];
            let page = part.page_mut(victim);
            assert!(!dump_page(&sealed(page, victim)).starts_with("not"));
            for _ in 0..200 {
                let mut forged = page.to_vec();
                forge(&mut forged, &pages, &mut random);
                let image = sealed(&forged, victim);
                let _ = dump_page(&image);
                if page_check(&image).is_ok() && forged[28..] != page[28..] {
                    page[28..].copy_from_slice(&forged[28..]);
                    break;
                }
                refused += 1;
            }
            txn.commit(Durability::Immediate).unwrap();
            let read = read_everything(&bed);
            let written = write_everything(&mut bed, &mut random);
            if read.is_err() || written.is_err() {
                wrong += 1;
            } else {
                harmless += 1;
            }
        }));
        assert!(outcome.is_ok(), "seed {seed} panics");
    }
    println!("refused {refused}, wrong and noticed {wrong}, harmless {harmless}");
    assert!(refused > rounds && wrong > rounds / 10, "the test does not forge what it should");
}

/// Bytes without any sense, of every kind.
#[test]
fn noise_is_refused() {
    let mut random = Random(77);
    for round in 0..20_000 {
        let mut page = vec![0; [4096, 16384, 65536][round % 3]];
        for _ in 0..random.below(60) {
            let at = if random.below(2) == 0 { random.below(90) } else { random.below(page.len()) };
            page[at] = random.next() as u8;
        }
        page[28] = 16 + random.below(4) as u8;
        if page_check(&page).is_ok() {
            let _ = dump_page(&page);
        }
    }
}
