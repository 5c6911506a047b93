//! Limits: many owners, bad input, costs that must not grow, space that must not either.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod support;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney_file::{
    Create, Durability, FileError, FileOptions, IoStats, Owner, PagedFile, PowerCut, SimDisk, Tuning, Wait,
};
use std::{fs, path::Path, sync::Arc};
use support::{OWNERS, Run, State, Tree, check_accounting, commit, commit_of, commit_page, small, state_in, state_of};

fn open(disk: &SimDisk, options: FileOptions) -> Result<PagedFile, FileError> {
    PagedFile::open(Arc::new(disk.clone()), options)
}

/// As users have it, but for the thread.
fn ordinary() -> FileOptions {
    FileOptions { background: false, ..FileOptions::default() }
}

fn since(before: &IoStats, now: &IoStats) -> (u64, u64) {
    (now.reads - before.reads, now.writes - before.writes)
}

// ---- owners ----

/// What a commit, a snapshot, a checkpoint and an opening cost with this many owners: (reads, writes) each.
fn costs_with_owners(count: u32) -> [(u64, u64); 4] {
    let disk = SimDisk::new();
    let file = open(&disk, ordinary()).unwrap();
    let owners: Vec<Owner> = (1..=count).map(Owner).collect();
    for batch in owners.chunks(100) {
        let mut txn = file.begin(batch, Wait::Never).unwrap();
        for &owner in batch {
            let part = txn.part(owner).unwrap();
            Tree::of(part).unwrap().store(part, u64::from(owner.0)).unwrap();
        }
        txn.commit(Durability::Buffered).unwrap();
    }
    file.close().unwrap();
    drop(file);

    let file = open(&disk, ordinary()).unwrap();
    let opening = since(&IoStats::default(), &file.stats().io);
    let middle = Owner(count / 2);
    let before = file.stats().io;
    let snapshot = file.snapshot();
    let (state, _) = state_in(&snapshot, &[middle]).unwrap();
    assert_eq!(state[&middle].commit, u64::from(middle.0));
    let reading = since(&before, &file.stats().io);
    let before = file.stats().io;
    commit_page(&file, middle, 1 << 40).unwrap();
    let committing = since(&before, &file.stats().io);
    let before = file.stats().io;
    file.checkpoint().unwrap();
    let checkpointing = since(&before, &file.stats().io);
    drop(snapshot);
    let (state, pages) = state_in(&file.snapshot(), &owners).unwrap();
    assert!(owners.iter().all(|o| state[o].commit == u64::from(o.0) || *o == middle));
    check_accounting(&file, pages).unwrap();
    [opening, reading, committing, checkpointing]
}

#[test]
fn ten_thousand_owners_cost_what_ten_do() {
    let few = costs_with_owners(10);
    let many = costs_with_owners(10_000);
    println!(
        "opening, reading, committing, checkpointing (reads, writes): {few:?} with 10 owners, {many:?} with 10 000"
    );
    let [opening, reading, committing, checkpointing] = many;
    // Two superblocks, the log; a directory and a table page, the owner's page; and the map pages it comes from.
    assert!(opening.0 <= few[0].0 + 8 && opening.1 <= 2, "opening: {opening:?}");
    assert!(reading.0 <= 4 && reading.1 == 0, "reading: {reading:?}");
    assert!(committing.0 <= 6 && committing.1 <= 3, "committing: {committing:?}");
    assert!(checkpointing.0 <= 6 && checkpointing.1 <= 12, "checkpointing: {checkpointing:?}");
}

#[test]
fn owner_numbers_have_a_limit_that_is_an_error() {
    // 88 directories of 254 table pages with 7 x 8 owners each.
    const OWNERS_MAX: u32 = 88 * 254 * 7 * 8;
    let disk = SimDisk::new();
    let file = open(&disk, ordinary()).unwrap();
    for beyond in [OWNERS_MAX, OWNERS_MAX + 1, u32::MAX] {
        let refused = file.begin(&[Owner(1), Owner(beyond)], Wait::Never);
        assert!(matches!(refused, Err(FileError::Option(_))), "{beyond}: {refused:?}");
    }
    let far = [Owner(0), Owner(1), Owner(OWNERS_MAX / 2), Owner(OWNERS_MAX - 1)];
    for (number, &owner) in (1..).zip(&far) {
        commit_page(&file, owner, number).unwrap_or_else(|e| panic!("{owner:?}: {e}"));
    }
    let (state, _) = state_in(&file.snapshot(), &far).unwrap();
    let crashed = disk.fork().power_cut(PowerCut::LoseAll);
    file.close().unwrap();
    for disk in [disk.fork(), crashed] {
        let file = open(&disk, ordinary()).unwrap();
        assert_eq!(state_in(&file.snapshot(), &far).unwrap().0, state);
        assert_eq!(file.snapshot().root(Owner(u32::MAX)).unwrap(), None, "a number that cannot be is nobody's");
        commit_page(&file, far[3], 9).unwrap();
        file.checkpoint().unwrap();
        let (_, pages) = state_in(&file.snapshot(), &far).unwrap();
        check_accounting(&file, pages).unwrap();
    }
}

// ---- bad input ----

/// A closed file with some content.
fn sample() -> (SimDisk, State) {
    let disk = SimDisk::new();
    let file = open(&disk, small(None)).unwrap();
    for number in 1..=30 {
        commit_page(&file, OWNERS[number as usize % 3], number).unwrap();
    }
    file.close().unwrap();
    let state = state_of(&file).unwrap().0;
    (disk, state)
}

/// Opens and reads everything: the right state, or an error that says what is wrong with the file.
fn right_or_refused(disk: &SimDisk, state: &State, what: &str) -> bool {
    match open(disk, small(None)).and_then(|file| state_of(&file)) {
        Ok((found, _)) => {
            assert_eq!(&found, state, "{what}");
            true
        }
        Err(error) => {
            let names_it = matches!(
                error,
                FileError::Truncated { .. }
                    | FileError::Damaged { .. }
                    | FileError::Corrupt { .. }
                    | FileError::NotADatabase
            );
            assert!(names_it, "{what}: {error}");
            false
        }
    }
}

#[test]
fn a_truncated_file_is_whole_or_refused() {
    let (disk, state) = sample();
    let bytes = disk.contents();
    let mut whole = 0;
    // Cut to nothing it is an empty file, which becomes a new one.
    for len in (4096..=bytes.len()).step_by(4096).chain((1..16).map(|i| i * 512 + 1)) {
        let cut = SimDisk::with_contents(&bytes[..len]);
        let opened = right_or_refused(&cut, &state, &format!("cut to {len} of {}", bytes.len()));
        whole += u32::from(opened);
        if !opened {
            assert_eq!(cut.contents(), bytes[..len], "a file that is refused is not touched");
        }
    }
    assert!(whole >= 1, "all of it is there");
    let longer = SimDisk::with_contents(&[&bytes[..], &[0xA5; 9000]].concat());
    assert!(right_or_refused(&longer, &state, "with something appended"));
}

#[test]
fn every_flipped_bit_of_a_superblock_is_noticed_or_made_up_for() {
    let (disk, state) = sample();
    let bytes = disk.contents();
    let (mut opened, mut refused) = (0, 0);
    let mut rng = SmallRng::seed_from_u64(1);
    for at in 0..8192 {
        let damaged = disk.fork();
        damaged.corrupt(at, &[bytes[at as usize] ^ 1 << rng.random_range(0..8)]);
        if right_or_refused(&damaged, &state, &format!("byte {at}")) {
            opened += 1;
        } else {
            refused += 1;
        }
    }
    println!("{opened} opened, {refused} refused");
    assert!(opened >= 4096, "the older superblock is not needed");
    for at in (0..4096).step_by(37) {
        let damaged = disk.fork();
        for at in [at, at + 4096] {
            damaged.corrupt(at, &[bytes[at as usize] ^ 0x10]);
        }
        let error = open(&damaged, small(None)).unwrap_err();
        assert!(matches!(error, FileError::NotADatabase), "byte {at} of both: {error}");
        assert_eq!(damaged.counts().bytes_written, 0, "it is not touched");
    }
}

#[test]
fn a_newer_format_is_refused_and_not_touched() {
    let (disk, _) = sample();
    let bytes = disk.contents();
    // The version, and the two words of features.
    for field in [16, 24, 28] {
        let newer = disk.fork();
        for slot in [0, 4096] {
            let mut superblock = bytes[slot..slot + 4096].to_vec();
            superblock[field] += 1;
            let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &superblock[8..]);
            superblock[..8].copy_from_slice(&sum.to_le_bytes());
            newer.corrupt(slot as u64, &superblock);
        }
        let before = newer.contents();
        let error = open(&newer, small(None)).unwrap_err();
        assert!(matches!(error, FileError::Version { found: 2, supported: 1 }), "{error}");
        assert_eq!(newer.contents(), before);
    }
}

#[test]
fn what_is_no_file_of_ours_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("notes.txt");
    for len in [1, 100, 5000, 300_000] {
        let words = "All work and no play makes Jack a dull boy.\n".repeat(len / 44 + 1);
        fs::write(&text, &words[..len]).unwrap();
        for create in [Create::IfMissing, Create::Never] {
            let refused = PagedFile::open_path(&text, FileOptions { create, ..ordinary() });
            assert!(matches!(refused, Err(FileError::NotADatabase)), "{len}: {refused:?}");
        }
        assert_eq!(fs::read(&text).unwrap(), words.as_bytes()[..len]);
    }
    let taken = PagedFile::open_path(&text, FileOptions { create: Create::Always, ..ordinary() });
    assert!(matches!(taken, Err(FileError::Io { .. })), "{taken:?}");

    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    for options in [FileOptions { create: Create::Never, ..ordinary() }, FileOptions { read_only: true, ..ordinary() }]
    {
        let refused = PagedFile::open_path(&empty, options);
        assert!(matches!(refused, Err(FileError::NotADatabase)), "{refused:?}");
        assert_eq!(fs::metadata(&empty).unwrap().len(), 0);
    }
    PagedFile::open_path(&empty, ordinary()).unwrap().close().unwrap();

    for (path, create) in [(dir.path().to_path_buf(), Create::IfMissing), (dir.path().join("none"), Create::Never)] {
        let refused = PagedFile::open_path(&path, FileOptions { create, ..ordinary() });
        assert!(matches!(refused, Err(FileError::Io { .. })), "{path:?}: {refused:?}");
    }
    assert!(!dir.path().join("none").exists());
}

#[test]
fn a_file_of_zeros_with_something_in_it_is_not_an_unfinished_one() {
    let zeros = vec![0; 1 << 20];
    // More than one sector, where the second superblock goes; or one, in a file that creation has not made as long yet.
    let foreign: [(usize, &[u8], usize); 5] = [
        (4096, &[7; 513], 1 << 20),
        (5000, &[7; 4096 + 4096 - 5000], 1 << 20),
        (4200, &[7; 1], 9000),
        (4200, &[7; 1], (1 << 20) - 1),
        (8192, &[7; 1], 1 << 20),
    ];
    for (at, junk, len) in foreign {
        let mut bytes = zeros[..len].to_vec();
        bytes[at..at + junk.len()].copy_from_slice(junk);
        let disk = SimDisk::with_contents(&bytes);
        let refused = open(&disk, ordinary());
        assert!(matches!(refused, Err(FileError::NotADatabase)), "{} bytes at {at}: {refused:?}", junk.len());
        assert!(disk.contents() == bytes, "it is not touched");
    }
    open(&SimDisk::with_contents(&zeros), ordinary()).unwrap();
}

#[test]
fn a_file_of_ours_is_created_anew_wherever_its_creation_was_cut_off() {
    let disk = SimDisk::new();
    disk.record();
    drop(open(&disk, ordinary()).unwrap());
    let recording = spinney_file::Recording::from(&disk);
    let limits = spinney_file::EnumerationLimits { images_per_cut_max: 200, ..Default::default() };
    let mut images = 0;
    for image in recording.images(&limits, 1) {
        let file = open(&image.disk(), ordinary()).unwrap_or_else(|e| panic!("{e}: {}", image.describe()));
        commit_page(&file, OWNERS[1], 1).unwrap();
        images += 1;
    }
    assert!(images > 15, "{images} images");
    // A write that stopped anywhere.
    let first = disk.contents()[4096..8192].to_vec();
    for len in 0..=300 {
        let mut bytes = vec![0; disk.contents().len()];
        bytes[4096..4096 + len].copy_from_slice(&first[..len]);
        open(&SimDisk::with_contents(&bytes), ordinary()).unwrap_or_else(|e| panic!("{len} bytes: {e}"));
    }
}

#[test]
fn a_file_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.spinney");
    let file = PagedFile::open_path(&path, ordinary()).unwrap();
    commit_page(&file, OWNERS[1], 1).unwrap();
    let hard = dir.path().join("hard");
    fs::hard_link(&path, &hard).unwrap();
    let mut names = vec![path.clone(), hard];
    #[cfg(unix)]
    {
        let soft = dir.path().join("soft");
        std::os::unix::fs::symlink(&path, &soft).unwrap();
        names.push(soft);
    }
    for name in &names {
        for read_only in [false, true] {
            let second = PagedFile::open_path(name, FileOptions { read_only, ..ordinary() });
            assert!(matches!(second, Err(FileError::AlreadyOpen)), "{name:?}: {second:?}");
        }
    }
    commit_page(&file, OWNERS[1], 2).unwrap();
    drop(file);
    for name in &names {
        let file = PagedFile::open_path(name, ordinary()).unwrap();
        assert_eq!(commit_of(&state_of(&file).unwrap().0), 2);
    }
}

#[test]
fn read_only_recovers_in_memory_and_writes_nothing() {
    let mut needed = 0;
    for seed in 0..20 {
        let run = Run::record(seed, 30, None).unwrap();
        let last = run.recording.cuts().nth(run.recording.step_count() * 3 / 4).unwrap();
        let limits = spinney_file::EnumerationLimits { images_per_cut_max: 4, ..Default::default() };
        for image in last.images(&limits, seed) {
            let disk = image.disk();
            let before = disk.contents();
            let file = open(&disk, FileOptions { read_only: true, ..small(None) }).unwrap();
            let (state, _) = state_of(&file).unwrap();
            assert!(matches!(file.begin(&OWNERS, Wait::Never), Err(FileError::ReadOnly)));
            assert!(matches!(file.checkpoint(), Err(FileError::ReadOnly)));
            assert!(matches!(file.reclaim(1), Err(FileError::ReadOnly)));
            file.close().unwrap();
            drop(file);
            let counts = disk.counts();
            assert_eq!(
                (counts.bytes_written, counts.allocate, counts.punch, counts.set_len, counts.sync_data),
                (0, 0, 0, 0, 0)
            );
            assert!(disk.contents() == before, "not a byte changes");
            let file = open(&disk, small(None)).unwrap();
            assert_eq!(state_of(&file).unwrap().0, state, "what recovery for writing finds");
            needed += u32::from(commit_of(&state) > 0);
        }
    }
    assert!(needed > 20, "{needed} files held something");
}

#[test]
fn a_file_that_may_not_be_written_is_an_error_or_opened_for_reading() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.spinney");
    let file = PagedFile::open_path(&path, ordinary()).unwrap();
    commit_page(&file, OWNERS[1], 1).unwrap();
    drop(file);
    let mut rights = fs::metadata(&path).unwrap().permissions();
    rights.set_readonly(true);
    fs::set_permissions(&path, rights).unwrap();
    if fs::OpenOptions::new().write(true).open(&path).is_ok() {
        println!("skipped: this user may write everything");
    } else {
        let refused = PagedFile::open_path(&path, ordinary());
        assert!(matches!(refused, Err(FileError::Io { .. })), "{refused:?}");
    }
    let file = PagedFile::open_path(&path, FileOptions { read_only: true, ..ordinary() }).unwrap();
    assert_eq!(commit_of(&state_of(&file).unwrap().0), 1);
}

// ---- costs ----

/// Bytes that opening reads.
fn opening_bytes(disk: &SimDisk) -> u64 {
    let file = open(disk, ordinary()).unwrap();
    let stats = file.stats();
    stats.io.read_bytes - stats.log.blocks * 4096
}

#[test]
fn opening_costs_the_log_and_not_the_data() {
    let mut sizes = Vec::new();
    let (mut clean, mut crashed) = (Vec::new(), Vec::new());
    for rounds in [1, 40] {
        let disk = SimDisk::new();
        let file = open(&disk, ordinary()).unwrap();
        for number in 1..=rounds {
            let grow = |tree: &mut Tree, part: &mut spinney_file::Part| tree.add_extent(part, number, 256);
            commit(&file, Owner(number as u32), number, Durability::Immediate, grow).unwrap();
        }
        file.checkpoint().unwrap();
        for number in 1..=4 {
            commit_page(&file, OWNERS[1], number).unwrap();
        }
        crashed.push(opening_bytes(&disk.fork().power_cut(PowerCut::LoseAll)));
        file.close().unwrap();
        drop(file);
        sizes.push(disk.contents().len());
        clean.push(opening_bytes(&disk.fork()));
    }
    println!("files of {sizes:?} bytes: opening reads {clean:?} clean, {crashed:?} crashed, and the log");
    assert!(sizes[1] > 20 * sizes[0]);
    // Beyond the log: superblocks, a group or two once more; crashed also what four commits claim, and the map pages that says.
    assert!(clean[1] <= clean[0] + 2 * 4096 && clean[1] <= 8 * 4096, "{clean:?}");
    assert!(crashed[1] <= crashed[0] + 8 * 4096 && crashed[1] <= 64 * 4096, "{crashed:?}");
}

#[test]
fn a_new_file_is_small() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.spinney");
    let file = PagedFile::open_path(&path, ordinary()).unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 256 << 10);
    commit_page(&file, OWNERS[1], 1).unwrap();
    file.close().unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 256 << 10);
    assert_private(&path);
}

#[cfg(unix)]
fn assert_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[cfg(not(unix))]
fn assert_private(_: &Path) {}

#[test]
fn a_file_stays_as_large_as_what_it_holds() {
    let disk = SimDisk::new();
    let tuning = Tuning { checkpoint_after_freed_bytes: 64 * 4096, ..Tuning::default() };
    let file = open(&disk, FileOptions { tuning, ..ordinary() }).unwrap();
    // This one commits once and never again: it must not pin the log.
    commit_page(&file, OWNERS[2], 1).unwrap();
    let mut number = 0;
    for _ in 0..20 {
        number += 1;
        commit_page(&file, OWNERS[1], number).unwrap();
    }
    let mut lengths = Vec::new();
    let mut rng = SmallRng::seed_from_u64(3);
    for _ in 0..8 {
        for _ in 0..300 {
            number += 1;
            let durability = if rng.random_ratio(1, 8) { Durability::Immediate } else { Durability::Eventual };
            let overwrite = |tree: &mut Tree, part: &mut spinney_file::Part| {
                (0..4).try_for_each(|_| tree.replace_page(part, rng.random_range(0..20), number))
            };
            commit(&file, OWNERS[1], number, durability, overwrite).unwrap();
        }
        lengths.push(file.stats().pages.file_pages);
    }
    println!("{lengths:?} pages, log of {} blocks", file.stats().log.blocks);
    assert_eq!(lengths[2], lengths[7], "flat after the first rounds: {lengths:?}");
    assert!(lengths[7] < 2048, "{lengths:?}");
    let log = file.stats().log;
    assert!(log.used_blocks <= log.blocks / 2 + 4, "{log:?}");
    file.checkpoint().unwrap();
    let (state, pages) = state_of(&file).unwrap();
    assert_eq!((state[&OWNERS[2]].commit, state[&OWNERS[1]].commit), (1, number));
    check_accounting(&file, pages).unwrap();
    // And it gets small again.
    commit(&file, OWNERS[1], number + 1, Durability::Immediate, |tree, part| {
        (0..20).for_each(|_| tree.remove_page(part, 0));
        Ok(())
    })
    .unwrap();
    file.checkpoint().unwrap();
    let used = disk.bytes_used();
    while file.reclaim(1 << 20).unwrap() > 0 && disk.bytes_used() > used / 4 {}
    assert!(disk.bytes_used() < used, "{} of {used}", disk.bytes_used());
    let (state, pages) = state_of(&file).unwrap();
    assert_eq!(commit_of(&state), number + 1);
    check_accounting(&file, pages).unwrap();
}

/// Each opening leaves a record in the log; however often that happens, the log does not run over its own tail.
#[test]
fn a_file_may_be_opened_for_ever_without_a_commit() {
    for crash in [false, true] {
        let mut disk = SimDisk::new();
        let file = open(&disk, small(None)).unwrap();
        for number in 1..=5 {
            commit_page(&file, OWNERS[1], number).unwrap();
        }
        drop(file);
        for round in 0..100 {
            let file = open(&disk, small(None)).unwrap_or_else(|e| panic!("{round}: {e}"));
            let (state, pages) = state_of(&file).unwrap();
            assert_eq!(commit_of(&state), 5);
            check_accounting(&file, pages).unwrap();
            if crash {
                disk = disk.power_cut(PowerCut::LoseAll);
            } else {
                file.close().unwrap();
            }
        }
        let file = open(&disk, small(None)).unwrap();
        commit_page(&file, OWNERS[1], 6).unwrap();
        assert_eq!(commit_of(&state_of(&file).unwrap().0), 6);
    }
}

/// Statistics are of the file, not of how long it has been open.
#[test]
fn statistics_are_the_same_before_and_after_reopening() {
    let disk = SimDisk::new();
    let file = open(&disk, small(None)).unwrap();
    for number in 1..=20 {
        commit_page(&file, OWNERS[number as usize % 3], number).unwrap();
    }
    let running = file.stats().pages;
    assert_eq!(running.lent, 0, "no transaction is open");
    let crashed = open(&disk.fork().power_cut(PowerCut::LoseAll), small(None)).unwrap();
    let recovered = crashed.stats().pages;
    assert_eq!((running.used, running.awaiting_checkpoint), (recovered.used, recovered.awaiting_checkpoint));
    file.close().unwrap();
    let closed = file.stats().pages;
    drop(file);
    let file = open(&disk, small(None)).unwrap();
    assert_eq!(file.stats().pages, closed);
    let (_, pages) = state_of(&file).unwrap();
    check_accounting(&file, pages).unwrap();
}
