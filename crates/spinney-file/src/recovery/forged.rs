//! Logs that somebody forged: correct by their checksums, and wrong.

use super::*;
use crate::{
    file::PagedFile,
    log::{LogPart, RingLayout, RunClaim},
    options::{Durability, Tuning},
    page::{PageHeader, PagePtr, checksum},
    slots::Wait,
    storage::SimDisk,
    superblock::{get_u64, put_u32, put_u64},
};
use proptest::prelude::*;
use spinney_alloc::{Extent, Owner};

/// A file that was not closed, and where its log ends.
struct Forger {
    bytes: Vec<u8>,
    superblock: Superblock,
    layout: RingLayout,
    head: u64,
    chain: u64,
    epoch: u64,
    last: Seq,
    stamp: Stamp,
}

fn options(log_blocks: u64) -> FileOptions {
    let tuning = Tuning { log_bytes: log_blocks * BLOCK_BYTES, ..Tuning::default() };
    FileOptions { background: false, tuning, ..FileOptions::default() }
}

fn commit_page(file: &PagedFile, owner: Owner) -> Result<Seq, FileError> {
    let mut txn = file.begin(&[owner], Wait::Never)?;
    let part = txn.part(owner).expect("just begun");
    let old = PagePtr::decode(part.root()[..16].try_into().expect("16 bytes"));
    let ptr = part.allocate()?;
    part.page_mut(ptr)[PageHeader::KIND] = 16;
    let mut root = [0; 64];
    root[..16].copy_from_slice(&ptr.encode());
    part.set_root(root);
    if let Some(old) = old {
        part.free(old);
    }
    txn.commit(Durability::Immediate)
}

impl Forger {
    fn new(log_blocks: u64) -> Self {
        let disk = SimDisk::new();
        let file = PagedFile::open(Arc::new(disk.clone()), options(log_blocks)).unwrap();
        for _ in 0..3 {
            commit_page(&file, Owner(1)).unwrap();
        }
        file.checkpoint().unwrap();
        for owner in [1, 1, 2] {
            commit_page(&file, Owner(owner)).unwrap();
        }
        let bytes = disk.contents();
        let probe = Disk::new(Arc::new(SimDisk::with_contents(&bytes)), 4096);
        let Found::Newest(superblock, Other::Whole) = newest_superblock(&probe, bytes.len() as u64, false).unwrap()
        else {
            panic!("a file");
        };
        let scan = Scan::run(&probe, &options(log_blocks), &superblock, false).unwrap();
        Self {
            bytes,
            layout: scan.layout.clone(),
            head: scan.head,
            chain: scan.chain,
            epoch: scan.epoch,
            last: scan.last_seq(),
            stamp: Stamp(file.engine().next_stamp.load(std::sync::atomic::Ordering::Relaxed)),
            superblock,
        }
    }

    /// Puts a group at the end of the log; `edit` may change the header before it is sealed.
    fn append(&mut self, records: &[Vec<u8>], edit: impl Fn(&mut GroupHeader)) {
        let mut group = vec![0; GROUP_HEADER_BYTES];
        records.iter().for_each(|r| group.extend_from_slice(r));
        let end = group.len();
        let blocks = (end as u64).div_ceil(BLOCK_BYTES);
        group.resize((blocks * BLOCK_BYTES) as usize, 0);
        let mut header = GroupHeader {
            file_id: self.superblock.file_id,
            epoch: self.epoch,
            previous: self.chain,
            first: Seq(self.last.0 + 1),
            last: Seq(self.last.0 + records.len() as u64),
            durable: self.last,
            records: u32::try_from(records.len()).unwrap(),
        };
        edit(&mut header);
        self.chain = header.seal(&mut group, end);
        let mut from = 0;
        for (at, len) in self.layout.pieces(self.head, blocks) {
            let at = at as usize;
            self.bytes[at..at + len as usize].copy_from_slice(&group[from..from + len as usize]);
            from += len as usize;
        }
        self.head = self.layout.after(self.head, blocks);
        self.last = header.last;
    }

    fn part(&self, claims: &[Extent], releases: &[Extent]) -> ImagePart {
        ImagePart {
            owner: Owner(3),
            stamp: self.stamp,
            root: [0; 64],
            claims: claims.iter().map(|&extent| RunClaim { extent, digest: 0 }).collect(),
            releases: releases.to_vec(),
        }
    }

    fn open(&self) -> (SimDisk, Result<PagedFile, FileError>) {
        let disk = SimDisk::with_contents(&self.bytes);
        let file = PagedFile::open(Arc::new(disk.clone()), options(16));
        (disk, file)
    }

    /// Opens and uses the file: errors, never a panic.
    fn use_it(&self) -> bool {
        let Ok(file) = self.open().1 else { return false };
        for _ in 0..2 {
            drop(file.reclaim(1 << 30));
            drop(commit_page(&file, Owner(9)));
            drop(file.checkpoint());
            drop(commit_page(&file, Owner(9)));
        }
        drop(file.close());
        true
    }
}

#[test]
fn heads_of_groups_in_every_block_cost_one_reading_of_the_log() {
    for log_blocks in [64, 1024] {
        let mut forger = Forger::new(log_blocks);
        for block in 0..log_blocks {
            let at = forger.layout.pieces(forger.layout.after(forger.head, block), 1)[0].0 as usize;
            if get_u64(&forger.bytes, at) != 0 {
                continue;
            }
            let header = GroupHeader {
                file_id: forger.superblock.file_id,
                epoch: forger.epoch,
                previous: 0,
                first: Seq(1 << 40),
                last: Seq(1 << 40),
                durable: Seq(1 << 40),
                records: 1,
            };
            let head = &mut forger.bytes[at..at + GROUP_HEADER_BYTES];
            header.seal(head, GROUP_HEADER_BYTES);
            put_u32(head, 12, (log_blocks / 2 * BLOCK_BYTES) as u32);
            put_u64(head, 0, 1);
        }
        let (disk, opened) = forger.open();
        assert!(matches!(opened, Err(FileError::Damaged { .. })), "{opened:?}");
        let read = disk.counts().bytes_read;
        assert!(read <= 3 * log_blocks * BLOCK_BYTES + (1 << 16), "{read} bytes for {log_blocks} blocks");
    }
}

#[test]
fn claims_of_the_whole_file_cost_one_reading_of_it() {
    let mut forger = Forger::new(64);
    let pages = forger.bytes.len() as u64 / 4096;
    let all = Extent::new(1, pages - 1).unwrap();
    // The digest of what is there, so that each claim is read to its end.
    let probe = Disk::new(Arc::new(SimDisk::with_contents(&forger.bytes)), 4096);
    let mut digest = crate::page::RunDigest::new();
    let mut page = vec![0; 4096];
    // (The log changes as the record is written: what is claimed lies behind it.)
    let behind = Extent::new(forger.layout.extents()[0].end(), all.end() - forger.layout.extents()[0].end()).unwrap();
    for at in behind.start.get()..behind.end() {
        probe.read(at * 4096, &mut page).unwrap();
        digest.push_raw(&page);
    }
    let digest = digest.finish();
    let mut part = forger.part(&[], &[]);
    part.claims = vec![RunClaim { extent: behind, digest }; 2000];
    let record = Record::Commit { synced: false, parts: vec![LogPart::Image(part)] }.encode();
    forger.append(&[record], |_| ());
    let (disk, opened) = forger.open();
    assert!(matches!(opened, Err(FileError::Damaged { .. })), "{opened:?}");
    let read = disk.counts().bytes_read;
    assert!(read < 4 * forger.bytes.len() as u64, "{read} bytes of {}", forger.bytes.len());
}

#[test]
fn a_release_of_free_pages_at_the_end_of_the_file_does_no_harm() {
    let mut forger = Forger::new(16);
    let pages = forger.bytes.len() as u64 / 4096;
    let part = forger.part(&[], &[Extent::new(pages - 1, 1).unwrap()]);
    forger.append(&[Record::Commit { synced: true, parts: vec![LogPart::Image(part)] }.encode()], |_| ());
    assert!(forger.use_it(), "it opens");
}

#[test]
fn a_release_of_the_log_does_not_give_it_away() {
    let mut forger = Forger::new(16);
    let log = forger.layout.extents()[0];
    let part = forger.part(&[], &[log]);
    forger.append(&[Record::Commit { synced: true, parts: vec![LogPart::Image(part)] }.encode()], |_| ());
    let (_, file) = forger.open();
    let Ok(file) = file else { return };
    let free = file.stats().pages.free;
    file.checkpoint().unwrap();
    assert!(file.stats().pages.free < free + log.pages, "{:?}", file.stats().pages);
}

#[test]
fn reserved_bytes_of_a_group_are_damage_and_no_end_of_the_log() {
    for reserved in [0, 1, 1 << 31] {
        let mut forger = Forger::new(16);
        let at = forger.layout.pieces(forger.head, 1)[0].0 as usize;
        let record = Record::Anchor.encode();
        let end = at + GROUP_HEADER_BYTES + record.len();
        forger.append(&[record], |_| ());
        put_u32(&mut forger.bytes, at + 76, reserved);
        let sum = checksum(&forger.bytes[at + 8..end]);
        put_u64(&mut forger.bytes, at, sum);
        let opened = forger.open().1;
        match reserved {
            0 => drop(opened.unwrap()),
            _ => assert!(matches!(opened, Err(FileError::Damaged { .. })), "{reserved:#x} {opened:?}"),
        }
    }
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..8_u64, Just(1 << 32), Just(1 << 61), Just(1 << 62), Just(u64::MAX - 1), Just(u64::MAX), any::<u64>()]
}

fn extents() -> impl Strategy<Value = Vec<Extent>> {
    let extent = prop_oneof![
        3 => (1..80_u64, 1..6_u64),
        1 => (40..70_u64, 1..60_u64),
        1 => (number(), 1..u64::from(u32::MAX)),
    ];
    prop::collection::vec(extent.prop_filter_map("an extent", |(start, pages)| Extent::new(start, pages)), 0..6)
}

proptest! {
    #[test]
    fn no_forged_record_makes_it_panic(
        parts in prop::collection::vec((0..6_u32, extents(), extents(), any::<bool>()), 0..4),
        log in prop::option::of(extents()),
        limits in prop::option::of((number(), number(), number())),
        order in any::<bool>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        header in prop::option::of((0..6_usize, number())),
    ) {
        let mut forger = Forger::new(16);
        let mut records: Vec<Vec<u8>> = parts
            .into_iter()
            .map(|(owner, claims, releases, old)| {
                let mut part = forger.part(&claims, &releases);
                part.owner = Owner(owner);
                if old {
                    part.stamp = Stamp(1);
                }
                Record::Commit { synced: true, parts: vec![LogPart::Image(part)] }.encode()
            })
            .collect();
        if let Some(more) = log {
            let log = forger.layout.extents().iter().copied().chain(more).collect();
            records.push(Record::Checkpoint { log }.encode());
        }
        if let Some((up_to, seq_limit, stamp_limit)) = limits {
            let record =
                Record::Recovered { up_to: Seq(up_to), seq_limit: Seq(seq_limit), stamp_limit: Stamp(stamp_limit) };
            records.push(record.encode());
        }
        if order {
            records.reverse();
        }
        if records.is_empty() {
            return Ok(());
        }
        for (at, byte) in flips {
            let count = records.len();
            let record = &mut records[at.index(count)];
            let at = at.index(record.len());
            record[at] = byte;
        }
        forger.append(&records, |h| {
            if let Some((field, number)) = header {
                match field {
                    0 => h.epoch = number,
                    1 => h.durable = Seq(number),
                    2 => h.records = number as u32,
                    3 => h.last = Seq(number),
                    // A group that skips numbers, as that of a recovery does.
                    _ => {
                        h.first = Seq(number);
                        h.last = Seq(number.wrapping_add(u64::from(h.records) - 1));
                    }
                }
            }
        });
        forger.use_it();
    }
}
