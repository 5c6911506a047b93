//! A tiny log that is right, and the ways to get it wrong. Every wrong one must be caught: else the enumerator proves nothing.
//!
//! | block | holds |
//! |---:|---|
//! | 0 | the number of records, at its beginning and again at its end |
//! | n | record n: every byte is n |

use super::*;
use std::io;

/// What the log does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// Acknowledges without any sync.
    ForgetsToSync,
    /// Syncs, then writes what it acknowledges.
    SyncsBeforeWriting,
    /// Writes record and count, then syncs both: the count may arrive alone.
    ReliesOnOrder,
    /// Believes that a durable write of the count takes the record along.
    ReliesOnNeighbours,
    /// Believes that a page arrives whole.
    ReliesOnWholePages,
    /// Believes that the file is as long as its last write.
    ReliesOnLength,
    /// Tries a failed sync again and believes the second answer.
    RetriesSyncs,
    /// Recovery shows what it reads without making it durable.
    ServesUnsynced,
}

const RECORDS: u8 = 4;

fn page(byte: u8) -> [u8; 4096] {
    [byte; 4096]
}

fn count_page(count: u8) -> [u8; 4096] {
    let mut page = page(0);
    (page[0], page[4095]) = (count, count);
    page
}

fn append(disk: &SimDisk, number: u8, flaw: Flaw) -> io::Result<()> {
    let (record, count) = (page(number), count_page(number));
    let (record, count) = ([IoSlice::new(&record)], [IoSlice::new(&count)]);
    let at = u64::from(number) * 4096;
    if flaw == Flaw::SyncsBeforeWriting {
        disk.sync_data()?;
    }
    disk.write_vectored_at(at, &record)?;
    match flaw {
        Flaw::ForgetsToSync | Flaw::SyncsBeforeWriting => disk.write_vectored_at(0, &count).map(drop),
        Flaw::ReliesOnOrder => {
            disk.write_vectored_at(0, &count)?;
            disk.sync_data()
        }
        Flaw::ReliesOnNeighbours | Flaw::ReliesOnLength => disk.write_sync(0, &count).map(drop),
        _ => {
            if disk.sync_data().is_err() {
                if flaw != Flaw::RetriesSyncs {
                    return Err(io::ErrorKind::Other.into());
                }
                disk.sync_data()?;
            }
            disk.write_sync(0, &count).map(drop)
        }
    }
}

/// How many records there are.
fn recover(disk: &SimDisk, flaw: Flaw) -> Result<u8, String> {
    if flaw != Flaw::ServesUnsynced {
        disk.sync_data().map_err(|error| error.to_string())?;
        disk.drop_cache(0, u64::MAX).map_err(|error| error.to_string())?;
    }
    let bytes = disk.contents();
    let Some(count) = bytes.first().copied() else { return Ok(0) };
    if flaw == Flaw::ReliesOnWholePages && bytes[4095] != count {
        return Err(format!("the count is {count} and {}", bytes[4095]));
    }
    if flaw == Flaw::ReliesOnLength {
        let fits = bytes.len() > usize::from(count) * 4096;
        return if fits { Ok(count) } else { Err(format!("{} bytes for {count} records", bytes.len())) };
    }
    let records = bytes[4096.min(bytes.len())..].chunks(4096).take(usize::from(count));
    let whole = records.zip(1..).filter(|(record, number)| *record == page(*number)).count();
    if whole == usize::from(count) { Ok(count) } else { Err(format!("{whole} of {count} records")) }
}

/// Marks: 2n = record n begins, 2n+1 = record n is acknowledged.
fn run(flaw: Flaw, fault: Option<Fault>) -> Recording {
    let disk = SimDisk::with_contents(&count_page(0));
    disk.record();
    if let Some(fault) = fault {
        disk.inject(fault);
    }
    for number in 1..=RECORDS {
        disk.mark(u64::from(number) * 2);
        if append(&disk, number, flaw).is_err() {
            break; // and nothing more: only recovery may go on
        }
        disk.mark(u64::from(number) * 2 + 1);
    }
    disk.recording()
}

fn verdict(recording: &Recording, flaw: Flaw, limits: &EnumerationLimits) -> Result<u64, String> {
    let mut images = 0;
    for image in recording.images(limits, 1) {
        images += 1;
        let begun = image.marks().filter(|mark| mark % 2 == 0).count();
        let acknowledged = image.marks().filter(|mark| mark % 2 == 1).count();
        let disk = image.disk();
        let count = recover(&disk, flaw).map_err(|error| format!("{image}: {error}"))?;
        if usize::from(count) < acknowledged || usize::from(count) > begun {
            return Err(format!("{image}: {count} records, {acknowledged} acknowledged, {begun} begun"));
        }
        let again = recover(&disk.power_cut(PowerCut::LoseAll), flaw).map_err(|error| format!("{image}: {error}"))?;
        if again != count {
            return Err(format!("{image}: {count} records were shown, {again} are there after a power cut"));
        }
    }
    Ok(images)
}

/// No garbage: the count of this log is one byte without a checksum, and its sector is assumed to be written or not.
fn limits() -> EnumerationLimits {
    EnumerationLimits { garbage_sectors: 0, ..EnumerationLimits::PULL_REQUEST }
}

fn caught(flaw: Flaw) -> String {
    verdict(&run(flaw, None), flaw, &limits()).expect_err("a wrong log passed")
}

#[test]
fn the_right_log_passes() {
    let images = verdict(&run(Flaw::None, None), Flaw::None, &limits()).unwrap();
    assert!(images > 40, "only {images} images");
    let by_sector = EnumerationLimits { unit: CrashUnit::Sector, ..limits() };
    assert!(verdict(&run(Flaw::None, None), Flaw::None, &by_sector).unwrap() > 500);
}

#[test]
fn the_right_log_survives_every_failing_call() {
    for kind in [FaultKind::Io, FaultKind::NoSpace, FaultKind::Interrupted] {
        for sticky in [false, true] {
            for after in 0.. {
                let fault = Fault { calls: CallSet::CHANGES, after, sticky, kind };
                verdict(&run(Flaw::None, Some(fault)), Flaw::None, &limits())
                    .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
                if after > u64::from(RECORDS) * 3 {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_log_that_forgets_to_sync_is_caught() {
    caught(Flaw::ForgetsToSync);
}

#[test]
fn a_log_that_syncs_before_writing_is_caught() {
    caught(Flaw::SyncsBeforeWriting);
}

#[test]
fn a_log_that_relies_on_the_order_of_two_writes_is_caught() {
    let error = caught(Flaw::ReliesOnOrder);
    assert!(error.contains("of 1 records"), "{error}");
}

#[test]
fn a_log_that_relies_on_durable_writes_of_others_is_caught() {
    caught(Flaw::ReliesOnNeighbours);
}

#[test]
fn a_log_that_relies_on_whole_pages_is_caught() {
    let error = caught(Flaw::ReliesOnWholePages);
    assert!(error.contains("the count is"), "{error}");
    let untorn = EnumerationLimits { torn_masks: None, random_tears: 0, kills: 0, ..limits() };
    verdict(&run(Flaw::ReliesOnWholePages, None), Flaw::ReliesOnWholePages, &untorn).expect("only tears show it");
}

#[test]
fn a_log_that_relies_on_the_length_is_caught() {
    let error = caught(Flaw::ReliesOnLength);
    assert!(error.contains("bytes for"), "{error}");
}

#[test]
fn a_log_that_tries_a_sync_again_is_caught() {
    verdict(&run(Flaw::RetriesSyncs, None), Flaw::RetriesSyncs, &limits()).expect("no sync failed");
    let errors = (0..8).filter(|after| {
        let fault = Fault { calls: CallSet::SYNC, after: *after, sticky: false, kind: FaultKind::Io };
        verdict(&run(Flaw::RetriesSyncs, Some(fault)), Flaw::RetriesSyncs, &limits()).is_err()
    });
    assert!(errors.count() > 0, "a wrong log passed");
}

#[test]
fn a_recovery_that_serves_before_it_syncs_is_caught() {
    let error = caught(Flaw::ServesUnsynced);
    assert!(error.contains("were shown"), "{error}");
}
