//! The rules of the simulated disk, against a naive account of which values each byte may have.

use super::*;
use crate::Storage;
use proptest::{collection::vec, prelude::*};
use std::{
    collections::BTreeSet,
    io::{self, ErrorKind, IoSliceMut},
    thread,
};

const IO: FaultKind = FaultKind::Io;

fn fill(disk: &SimDisk, at: u64, bytes: usize, byte: u8) -> io::Result<usize> {
    disk.write_vectored_at(at, &[IoSlice::new(&vec![byte; bytes])])
}

fn fill_sync(disk: &SimDisk, at: u64, bytes: usize, byte: u8) -> io::Result<usize> {
    disk.write_sync(at, &[IoSlice::new(&vec![byte; bytes])])
}

fn once(calls: CallSet, after: u64, kind: FaultKind) -> Fault {
    Fault { calls, after, sticky: false, kind }
}

#[test]
fn writes_are_seen_at_once_and_lost_unless_synced() {
    let disk = SimDisk::new();
    fill(&disk, 0, 4096, 1).unwrap();
    disk.sync_data().unwrap();
    fill(&disk, 2048, 4096, 2).unwrap();
    assert_eq!(disk.contents(), [vec![1; 2048], vec![2; 4096]].concat());
    assert_eq!(disk.durable_contents(), vec![1; 4096]);
    assert_eq!(disk.fork().power_cut(PowerCut::KeepAll).contents(), disk.contents());
    let after = disk.power_cut(PowerCut::LoseAll);
    assert_eq!(after.contents(), vec![1; 4096]);
    assert!(disk.read_at(0, &mut [0]).is_err(), "handles from before the cut are dead");
    assert!(disk.clone().sync_data().is_err());
}

#[test]
fn a_sync_covers_what_was_issued_before_it_began() {
    let mut state = DiskState::at_rest(BlockMap::new());
    let effects = state.effects_of_write(0, &[IoSlice::new(&[1; 4096])], 4096);
    state.issue(1, effects);
    let before = 2; // the sync begins
    let effects = state.effects_of_write(4096, &[IoSlice::new(&[2; 4096])], 4096);
    state.issue(2, effects);
    state.synced(before);
    assert_eq!((state.durable.len(), state.live.len()), (4096, 8192));
    assert_eq!(state.pending.len(), 2, "the later write and its length");
}

#[test]
fn a_durable_write_covers_its_own_range_and_the_length_it_needs() {
    let disk = SimDisk::with_contents(&[9; 4096]);
    fill(&disk, 0, 4096, 1).unwrap();
    fill(&disk, 8192, 4096, 2).unwrap();
    fill_sync(&disk, 4096, 4096, 3).unwrap();
    let after = disk.fork().power_cut(PowerCut::LoseAll).contents();
    assert_eq!(after.len(), 12288, "the pending length came along: sizes reach the disk in order");
    assert_eq!((after[0], after[4096], after[8192]), (9, 3, 0));

    fill_sync(&disk, 100, 8, 4).unwrap();
    let after = disk.fork().power_cut(PowerCut::LoseAll).contents();
    assert_eq!((after[99], after[100], after[107], after[108]), (9, 4, 4, 9), "its bytes, not its page");
    assert_eq!(disk.power_cut(PowerCut::KeepAll).contents()[99..109], [1, 4, 4, 4, 4, 4, 4, 4, 4, 1]);
}

#[test]
fn a_failed_sync_forgets_and_the_next_one_proves_nothing() {
    let mut durable_pages = BTreeSet::new();
    for seed in 0..40 {
        let disk = SimDisk::with_contents(&[0; 8192]);
        disk.set_seed(seed);
        disk.inject(once(CallSet::SYNC, 0, IO));
        fill(&disk, 0, 8192, 1).unwrap();
        assert_eq!(disk.sync_data().unwrap_err().raw_os_error(), Some(5));
        disk.sync_data().unwrap();
        assert_eq!(disk.contents(), vec![1; 8192], "reads go on to see it");
        let durable = disk.durable_contents();
        durable_pages.insert((durable[0], durable[4096]));
        disk.drop_cache(4096, 4096).unwrap();
        assert_eq!(disk.contents(), [&[1; 4096], &durable[4096..]].concat(), "unless they ask the disk");
        disk.drop_cache(0, 8192).unwrap();
        assert_eq!(disk.contents(), durable);
    }
    assert_eq!(durable_pages.len(), 4, "any part may be durable");
}

#[test]
fn after_a_failed_sync_a_new_write_and_sync_are_durable_again() {
    for seed in 0..20 {
        let disk = SimDisk::new();
        disk.set_seed(seed);
        disk.inject(once(CallSet::SYNC, 0, IO));
        fill(&disk, 0, 8192, 1).unwrap();
        disk.sync_data().unwrap_err();
        fill(&disk, 4096, 4096, 2).unwrap();
        disk.sync_data().unwrap();
        assert_eq!(disk.power_cut(PowerCut::LoseAll).contents()[4096..], [2; 4096], "seed {seed}");
    }
}

#[test]
fn a_length_that_a_failed_sync_forgot_comes_back_with_the_next_write() {
    for seed in 0..20 {
        let disk = SimDisk::new();
        disk.set_seed(seed);
        disk.inject(once(CallSet::SYNC, 0, IO));
        fill(&disk, 0, 8192, 1).unwrap();
        disk.sync_data().unwrap_err();
        let durable = disk.state().durable;
        let visible = BlockMap::from_bytes(&disk.durable_contents());
        assert_eq!(durable.fingerprint(), visible.fingerprint(), "nothing is hidden beyond the length, seed {seed}");
        fill(&disk, 0, 10, 2).unwrap();
        assert_eq!(disk.contents(), [vec![2; 10], vec![1; 8182]].concat(), "seed {seed}");
        disk.sync_data().unwrap();
        assert_eq!(disk.durable_contents().len(), 8192, "seed {seed}");
    }
}

#[test]
fn what_a_durable_write_overwrote_is_no_longer_pending() {
    let disk = SimDisk::with_contents(&[0; 8192]);
    fill(&disk, 100, 50, 1).unwrap();
    fill_sync(&disk, 0, 4096, 2).unwrap();
    assert!(disk.state().pending.is_empty());
}

#[test]
fn a_failed_durable_write_leaves_any_part_and_no_trace_of_the_rest() {
    let mut left = BTreeSet::new();
    for seed in 0..40 {
        let disk = SimDisk::with_contents(&[0; 8192]);
        disk.set_seed(seed);
        disk.inject(once(CallSet::WRITE_SYNC, 0, IO));
        fill_sync(&disk, 0, 8192, 1).unwrap_err();
        disk.sync_data().unwrap();
        let durable = disk.durable_contents();
        left.insert((durable[0], durable[4096]));
    }
    assert_eq!(left.len(), 4);
}

#[test]
fn a_killed_process_leaves_writes_visible_and_pending() {
    let disk = SimDisk::new();
    fill(&disk, 0, 4096, 1).unwrap();
    let after = disk.kill();
    assert!(disk.len().is_err());
    assert_eq!(after.contents(), vec![1; 4096]);
    assert_eq!(after.power_cut(PowerCut::LoseAll).contents(), Vec::<u8>::new());
}

#[test]
fn faults_strike_the_call_they_were_armed_for() {
    for (kind, expected) in [
        (FaultKind::NoSpace, ErrorKind::StorageFull),
        (FaultKind::Interrupted, ErrorKind::Interrupted),
        (FaultKind::WouldBlock, ErrorKind::WouldBlock),
    ] {
        let disk = SimDisk::new();
        disk.inject(once(CallSet::WRITES, 1, kind));
        fill(&disk, 0, 10, 1).unwrap();
        assert_eq!(fill_sync(&disk, 10, 10, 2).unwrap_err().kind(), expected);
        fill(&disk, 10, 10, 3).unwrap();
        assert_eq!(disk.contents(), [vec![1; 10], vec![3; 10]].concat(), "nothing of it was written");
        assert_eq!(disk.faults_fired(), 1);
    }
    let disk = SimDisk::with_contents(&[7; 100]);
    disk.inject(Fault { calls: CallSet::ALL, after: 2, sticky: true, kind: IO });
    disk.len().unwrap();
    disk.read_at(0, &mut [0]).unwrap();
    let outcomes = [
        disk.len().map(drop),
        disk.read_at(0, &mut [0]).map(drop),
        disk.sync_data(),
        disk.allocate(0, 9999),
        disk.punch(0, 9),
        disk.set_len(3),
        disk.lock().map(drop),
        disk.drop_cache(0, 100),
        fill(&disk, 0, 0, 0).map(drop),
    ];
    assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
    disk.lift_faults();
    assert_eq!(disk.contents(), vec![7; 100]);
    disk.sync_data().unwrap();
}

#[test]
fn short_transfers_say_so() {
    for bytes in [0, 1, 511, 512, 4095] {
        let disk = SimDisk::new();
        disk.inject(once(CallSet::WRITES, 0, FaultKind::Short(bytes)));
        assert_eq!(fill(&disk, 0, 4096, 1).unwrap(), bytes);
        assert_eq!(disk.contents(), vec![1; bytes]);
        fill(&disk, 0, 4096, 1).unwrap();
        disk.inject(once(CallSet::READ, 0, FaultKind::Short(bytes)));
        let (mut left, mut right) = ([0; 600], [0; 4000]);
        let mut into = [IoSliceMut::new(&mut left), IoSliceMut::new(&mut right)];
        assert_eq!(disk.read_vectored_at(0, &mut into).unwrap(), bytes);
        assert_eq!(left.iter().chain(&right).filter(|byte| **byte == 1).count(), bytes);
    }
}

#[test]
fn a_failed_write_may_have_written_a_first_part() {
    let mut lengths = BTreeSet::new();
    for seed in 0..50 {
        let disk = SimDisk::new();
        disk.set_seed(seed);
        disk.inject(once(CallSet::WRITE, 0, IO));
        fill(&disk, 0, 3, 1).unwrap_err();
        lengths.insert(disk.contents().len());
    }
    assert_eq!(lengths, BTreeSet::from([0, 1, 2, 3]));
}

#[test]
fn a_full_disk_takes_what_fits() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(3 * 4096));
    disk.allocate(0, 8192).unwrap();
    assert_eq!(disk.bytes_used(), 8192);
    assert_eq!(fill(&disk, 4096, 12288, 1).unwrap(), 8192, "one block was there, one was free");
    assert_eq!(fill(&disk, 12288, 4096, 1).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(fill_sync(&disk, 12288, 1, 1).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(disk.allocate(12288, 1).unwrap_err().kind(), ErrorKind::StorageFull);
    fill(&disk, 0, 12288, 2).unwrap();
    disk.set_len(1 << 40).unwrap(); // a hole takes no space
    disk.punch(4096, 4096).unwrap();
    assert_eq!(disk.bytes_used(), 8192);
    fill(&disk, 12288, 4096, 3).unwrap();
    assert_eq!(fill(&disk, 4096, 4096, 3).unwrap_err().kind(), ErrorKind::StorageFull);
}

#[test]
fn reads_can_lie_for_a_while() {
    let disk = SimDisk::with_contents(&[0; 8192]);
    let read = |at| {
        let mut byte = [0xEE];
        disk.read_at(at, &mut byte).unwrap();
        byte[0]
    };
    disk.flip_on_read(5, 0x10, false);
    assert_eq!((read(4), read(5), read(5)), (0, 0x10, 0));
    disk.flip_on_read(6, 0x01, true);
    assert_eq!((read(6), read(6)), (1, 1));

    disk.overlay(100, &[1, 2, 3, 4]);
    assert_eq!((read(99), read(100), read(103), read(104)), (0, 1, 4, 0));
    fill(&disk, 101, 2, 9).unwrap();
    assert_eq!((read(100), read(101), read(102), read(103)), (1, 9, 9, 4));

    disk.punch(100, 1).unwrap();
    assert_eq!((read(100), read(103)), (0, 4));

    disk.inject(once(CallSet::WRITE, 0, FaultKind::Lost));
    fill(&disk, 200, 4, 5).unwrap();
    disk.inject(once(CallSet::WRITE, 0, FaultKind::Misdirected { by: 4096 }));
    fill(&disk, 300, 4, 6).unwrap();
    assert_eq!((read(200), read(300), read(4396)), (0, 0, 6));
    disk.lift_faults();
    assert_eq!((read(200), read(300), read(4396), read(6)), (5, 6, 0, 0), "the file itself was never wrong");
}

#[test]
fn the_observer_hears_of_a_write_before_it_happens() {
    let disk = SimDisk::with_contents(&[1; 100]);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (notes, watched) = (Arc::clone(&heard), disk.clone());
    disk.observe(move |at: u64, bytes: u64| notes.lock().push((at, bytes, watched.contents()[0])));
    fill(&disk, 0, 10, 2).unwrap();
    fill_sync(&disk, 50, 7, 3).unwrap();
    disk.punch(0, 5).unwrap();
    assert_eq!(*heard.lock(), [(0, 10, 1), (50, 7, 2), (0, 5, 2)]);
}

#[test]
fn calls_are_counted() {
    let disk = SimDisk::new();
    fill(&disk, 0, 10, 1).unwrap();
    fill_sync(&disk, 10, 5, 1).unwrap();
    disk.read_at(0, &mut [0; 100]).unwrap();
    disk.sync_data().unwrap();
    disk.len().unwrap();
    let expected = CallCounts {
        read_at: 1,
        write_vectored_at: 1,
        write_sync: 1,
        sync_data: 1,
        len: 1,
        bytes_read: 15,
        bytes_written: 15,
        ..CallCounts::default()
    };
    assert_eq!(disk.counts(), expected);
}

#[test]
fn one_handle_holds_the_lock() {
    let first = SimDisk::new();
    let second = first.clone();
    assert!(first.lock().unwrap() && first.lock().unwrap());
    assert!(!second.lock().unwrap());
    assert!(first.fork().lock().unwrap(), "another disk");
    drop(first);
    assert!(second.lock().unwrap());
}

#[test]
fn threads_may_meet_inside_a_sync() {
    let disk = SimDisk::new();
    disk.set_overlap(true);
    disk.record();
    thread::scope(|scope| {
        for writer in 0..4u8 {
            let disk = disk.clone();
            scope.spawn(move || {
                for round in 0..50u64 {
                    let at = (u64::from(writer) * 50 + round) * 4096;
                    fill(&disk, at, 4096, writer + 1).unwrap();
                    disk.sync_data().unwrap();
                    let mut byte = [0];
                    assert_eq!(disk.fork().power_cut(PowerCut::LoseAll).read_at(at, &mut byte).unwrap(), 1);
                    assert_eq!(byte[0], writer + 1, "what was written before the sync is durable after it");
                }
            });
        }
    });
    assert_eq!(disk.recording().step_count(), 4 * 50 * 3);
}

/// Which values each byte may have after a power cut, and which lengths the file.
#[derive(Clone, Debug, Default)]
struct Account {
    live: Vec<u8>,
    legal: Vec<BTreeSet<u8>>,
    lengths: BTreeSet<usize>,
}

const ACCOUNT_BYTES: usize = 16384;

impl Account {
    fn new() -> Self {
        Self { live: Vec::new(), legal: vec![BTreeSet::from([0]); ACCOUNT_BYTES], lengths: BTreeSet::from([0]) }
    }

    fn set_len(&mut self, bytes: usize) {
        for gone in bytes..self.live.len() {
            self.legal[gone].insert(0);
        }
        self.live.resize(bytes, 0);
        self.lengths.insert(bytes);
    }

    fn write(&mut self, at: usize, bytes: usize, byte: u8) {
        if self.live.len() < at + bytes {
            self.set_len(at + bytes);
        }
        self.live[at..at + bytes].fill(byte);
        for legal in &mut self.legal[at..at + bytes] {
            legal.insert(byte);
        }
    }

    fn sync(&mut self) {
        self.settle(0, ACCOUNT_BYTES);
        self.lengths = BTreeSet::from([self.live.len()]);
    }

    fn settle(&mut self, at: usize, bytes: usize) {
        for (index, legal) in self.legal.iter_mut().enumerate().skip(at).take(bytes) {
            *legal = BTreeSet::from([self.live.get(index).copied().unwrap_or(0)]);
        }
    }

    fn check(&self, image: &[u8]) -> Result<(), String> {
        if !self.lengths.contains(&image.len()) {
            return Err(format!("length {} of {:?}", image.len(), self.lengths));
        }
        let wrong = image.iter().zip(&self.legal).position(|(byte, legal)| !legal.contains(byte));
        wrong.map_or(Ok(()), |at| Err(format!("byte {at} is {} of {:?}", image[at], self.legal[at])))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn power_cuts_leave_nothing_that_was_never_written(
        ops in vec((0u8..12, 0usize..12_000, 0usize..4300, any::<bool>()), 1..24),
        seed in any::<u64>(),
    ) {
        let disk = SimDisk::new();
        disk.record();
        let mut account = Account::new();
        for (number, (what, at, bytes, aligned)) in (1u8..).zip(ops) {
            let (at, bytes) = if aligned { (at / 4096 * 4096, bytes.div_ceil(4096) * 4096) } else { (at, bytes) };
            match what {
                0..=3 => {
                    prop_assert_eq!(fill(&disk, at as u64, bytes, number).unwrap(), bytes);
                    if bytes > 0 { account.write(at, bytes, number) }
                }
                4 | 5 => {
                    fill_sync(&disk, at as u64, bytes, number).unwrap();
                    if bytes > 0 {
                        account.write(at, bytes, number);
                        account.settle(at, bytes);
                        // A length that is certain rules out what was before it; the account does not follow that.
                    }
                }
                6 | 7 => { disk.sync_data().unwrap(); account.sync(); }
                8 => { disk.set_len(at as u64).unwrap(); account.set_len(at); }
                9 => {
                    disk.punch(at as u64, bytes as u64).unwrap();
                    let end = (at + bytes).min(account.live.len());
                    if at < end {
                        account.write(at, end - at, 0);
                    }
                }
                10 => {
                    disk.allocate(at as u64, bytes as u64).unwrap();
                    if at + bytes > account.live.len() { account.set_len(at + bytes) }
                }
                _ => disk.drop_cache(at as u64, bytes as u64).unwrap(),
            }
            prop_assert!(disk.contents() == account.live, "reads see every write");
            prop_assert!(disk.fork().power_cut(PowerCut::KeepAll).contents() == account.live);
            let cuts = [PowerCut::LoseAll, PowerCut::Random(seed), PowerCut::Random(!seed)];
            for cut in cuts {
                let image = disk.fork().power_cut(cut).contents();
                prop_assert_eq!(account.check(&image), Ok(()), "{:?}", cut);
            }
        }
        let limits = crate::EnumerationLimits::QUICK;
        let recording = disk.recording();
        for image in recording.cut(recording.step_count()).unwrap().images(&limits, seed) {
            if !image.is_kill() && !image.describe().contains("garbage") {
                prop_assert_eq!(account.check(&image.disk().contents()), Ok(()), "{}", image);
            }
            let again = recording.image(&image.describe()).unwrap();
            prop_assert!(again.disk().contents() == image.disk().contents(), "{}", image);
        }
    }
}
