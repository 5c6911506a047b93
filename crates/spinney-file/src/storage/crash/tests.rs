//! The enumerator yields exactly the legal images, and a log that breaks one rule is caught by it.

mod canaries; // logs that are wrong in one way each

use super::*;
use crate::{CallSet, Fault, FaultKind, PowerCut, Storage};
use std::{collections::BTreeSet, io::IoSlice};

/// Whole pages, kept or lost; nothing else.
const PLAIN: EnumerationLimits = EnumerationLimits {
    torn_masks: None,
    random_tears: 0,
    garbage_sectors: 0,
    kills: 0,
    ..EnumerationLimits::PULL_REQUEST
};

fn fill(disk: &SimDisk, at: u64, bytes: usize, byte: u8) {
    assert_eq!(disk.write_vectored_at(at, &[IoSlice::new(&vec![byte; bytes])]).unwrap(), bytes);
}

/// The first byte of every page.
fn pages(disk: &SimDisk) -> Vec<u8> {
    disk.contents().chunks(4096).map(|page| page[0]).collect()
}

fn last_cut(recording: &Recording) -> Cut<'_> {
    recording.cut(recording.step_count()).unwrap()
}

fn last_images(disk: &SimDisk, limits: &EnumerationLimits) -> Vec<Vec<u8>> {
    let recording = disk.recording();
    last_cut(&recording).images(limits, 1).map(|image| pages(&image.disk())).collect()
}

#[test]
fn pending_pages_are_kept_in_every_combination() {
    let disk = SimDisk::with_contents(&[0; 3 * 4096]);
    disk.record();
    fill(&disk, 0, 3 * 4096, 1); // one call: a run is not atomic
    let images = last_images(&disk, &PLAIN);
    assert_eq!(images.len(), 8, "no duplicates: {images:?}");
    let expected: BTreeSet<Vec<u8>> = (0..8u8).map(|set| (0..3).map(|page| set >> page & 1).collect()).collect();
    assert_eq!(images.into_iter().collect::<BTreeSet<_>>(), expected);
    let recording = disk.recording();
    assert_eq!(last_cut(&recording).legal_count(CrashUnit::Page), Some(8));
    assert_eq!(last_cut(&recording).legal_count(CrashUnit::Sector), Some(1 << 24));
}

#[test]
fn any_of_several_writes_to_one_page_may_win() {
    let disk = SimDisk::with_contents(&[0; 2 * 4096]);
    disk.record();
    fill(&disk, 0, 4096, 1);
    fill(&disk, 4096, 4096, 2);
    fill(&disk, 0, 4096, 3);
    let images: BTreeSet<Vec<u8>> = last_images(&disk, &PLAIN).into_iter().collect();
    let expected = [[0, 0], [1, 0], [3, 0], [0, 2], [1, 2], [3, 2]].map(|image| image.to_vec());
    assert_eq!(images, BTreeSet::from(expected));
}

#[test]
fn the_file_has_any_length_it_passed_through() {
    let disk = SimDisk::with_contents(&[9; 4096]);
    disk.record();
    fill(&disk, 4096, 4096, 1);
    disk.set_len(0).unwrap();
    fill(&disk, 0, 8192, 2);
    let images: BTreeSet<Vec<u8>> = last_images(&disk, &PLAIN).into_iter().collect();
    let expected: [&[u8]; 11] = [
        &[], // cut to nothing
        &[9],
        &[2], // as before, with and without the last write
        &[9, 0],
        &[9, 1],
        &[9, 2],
        &[2, 0],
        &[2, 1],
        &[2, 2], // as lengthened by the first write
        &[0, 0],
        &[0, 2], // as lengthened by the last, which nothing from before the cut to nothing survives
    ];
    assert_eq!(images, expected.map(<[u8]>::to_vec).into());
}

#[test]
fn a_sync_divides_the_images() {
    let disk = SimDisk::with_contents(&[0; 2 * 4096]);
    disk.record();
    disk.mark(1);
    fill(&disk, 0, 4096, 1);
    disk.sync_data().unwrap();
    disk.mark(2);
    fill(&disk, 4096, 4096, 1);
    let recording = disk.recording();
    assert_eq!(recording.steps().collect::<Vec<_>>(), ["write 0+4096", "sync begins", "sync ends", "write 4096+4096"]);
    let of_cut = |cut: &Cut<'_>| cut.images(&PLAIN, 1).map(|image| pages(&image.disk())).collect::<BTreeSet<_>>();
    let images: Vec<_> = recording.cuts().map(|cut| of_cut(&cut)).collect();
    let (none, first, both) = (vec![0, 0], vec![1, 0], vec![1, 1]);
    assert_eq!(images[0], BTreeSet::from([none.clone()]));
    assert_eq!(images[1], BTreeSet::from([none.clone(), first.clone()]));
    assert_eq!(images[2], images[1], "a sync that has begun promises nothing");
    assert_eq!(images[3], BTreeSet::from([first.clone()]));
    assert_eq!(images[4], BTreeSet::from([first, both]));
    let marks: Vec<Vec<u64>> = recording.cuts().map(|cut| cut.marks().collect()).collect();
    assert_eq!(marks, [vec![1], vec![1], vec![1], vec![1, 2], vec![1, 2]]);
    let of_all = |marks| {
        let images = recording.images(&PLAIN, 1).filter(move |image| image.marks().count() == marks);
        images.map(|image| pages(&image.disk())).collect::<Vec<_>>()
    };
    assert_eq!(of_all(1), [[0, 0], [1, 0]], "once, although three cuts have them");
    assert_eq!(of_all(2), [[1, 0], [1, 1]], "and again where more was promised");
}

#[test]
fn pages_tear_between_sectors_only() {
    let disk = SimDisk::with_contents(&[0; 4096]);
    disk.record();
    fill(&disk, 0, 4096, 1);
    let recording = disk.recording();
    let limits = EnumerationLimits { unit: CrashUnit::Sector, ..PLAIN };
    let images: BTreeSet<Vec<u8>> = last_cut(&recording).images(&limits, 1).map(|i| i.disk().contents()).collect();
    assert_eq!(images.len(), 256);
    let limits = EnumerationLimits { torn_masks: Some(8), ..PLAIN };
    for image in last_cut(&recording).images(&limits, 1) {
        assert!(images.contains(&image.disk().contents()), "{image}");
    }
    assert!(last_cut(&recording).images(&limits, 1).count() > 6);
}

#[test]
fn one_sector_may_be_garbage() {
    let disk = SimDisk::with_contents(&[0; 8192]);
    disk.record();
    fill(&disk, 0, 8192, 1);
    let limits = EnumerationLimits { garbage_sectors: 20, ..PLAIN };
    let recording = disk.recording();
    let mut garbled_sectors = BTreeSet::new();
    for image in last_cut(&recording).images(&limits, 1) {
        let bytes = image.disk().contents();
        let garbled: Vec<usize> =
            (0..16).filter(|sector| bytes[sector * 512..][..512].iter().any(|byte| *byte > 1)).collect();
        assert!(garbled.len() <= 1, "{image}");
        garbled_sectors.extend(garbled);
    }
    assert!(garbled_sectors.len() > 5);
}

#[test]
fn a_killed_process_leaves_a_first_part_of_the_write_in_flight() {
    let disk = SimDisk::new();
    fill(&disk, 0, 4096, 1);
    disk.sync_data().unwrap();
    disk.record();
    fill(&disk, 4096, 4096, 2);
    fill(&disk, 2048, 8192, 3);
    let limits = EnumerationLimits { kills: 100, ..PLAIN };
    let recording = disk.recording();
    let kills: Vec<Image<'_>> = recording.cut(1).unwrap().images(&limits, 1).filter(Image::is_kill).collect();
    let mut lengths = Vec::new();
    for image in &kills {
        let killed = image.disk();
        let bytes = killed.contents();
        let threes = bytes.iter().filter(|byte| **byte == 3).count();
        assert!(bytes[2048..2048 + threes].iter().all(|byte| *byte == 3), "{image}");
        lengths.push((threes, bytes.len()));
        assert_eq!(killed.power_cut(PowerCut::LoseAll).contents(), vec![1; 4096], "nothing was synced: {image}");
        assert_eq!(recording.image(&image.describe()).unwrap().disk().contents(), bytes);
    }
    let expected = [0, 1024, 2048, 4096, 6144, 7168, 8192].map(|threes: usize| (threes, (2048 + threes).max(8192)));
    assert_eq!(lengths, expected);
}

#[test]
fn failed_syncs_and_durable_writes_are_part_of_the_record() {
    let disk = SimDisk::with_contents(&[0; 3 * 4096]);
    disk.record();
    disk.inject(Fault { calls: CallSet::SYNC, after: 0, sticky: false, kind: FaultKind::Io });
    fill(&disk, 0, 3 * 4096, 1);
    disk.sync_data().unwrap_err();
    disk.write_sync(0, &[IoSlice::new(&[2; 4096])]).unwrap();
    disk.sync_data().unwrap();
    let recording = disk.recording();
    let images: Vec<Vec<u8>> = last_cut(&recording).images(&PLAIN, 1).map(|image| disk_bytes(&image)).collect();
    assert_eq!(images, [disk.durable_contents()], "replayed to the same bytes");
}

fn disk_bytes(image: &Image<'_>) -> Vec<u8> {
    image.disk().contents()
}

/// A run with everything in it.
fn busy_recording() -> Recording {
    let disk = SimDisk::with_contents(&[9; 6 * 4096]);
    disk.record();
    for round in 1..=4u8 {
        disk.mark(u64::from(round));
        fill(&disk, u64::from(round) * 1000, 20_000, round);
        disk.write_sync(512 * u64::from(round), &[IoSlice::new(&[round + 100; 5000])]).unwrap();
        fill(&disk, 0, 100 * usize::from(round), round);
        disk.punch(9000, 5000).unwrap();
        if round % 2 == 0 {
            disk.sync_data().unwrap();
            disk.set_len(20_000).unwrap();
        }
    }
    disk.recording()
}

#[test]
fn the_count_is_exact_and_every_image_can_be_made_again() {
    let recording = busy_recording();
    let limits = EnumerationLimits::QUICK;
    for cut in recording.cuts() {
        let unlimited = EnumerationLimits { images_per_cut_max: u64::MAX, ..limits.clone() };
        let plan = cut.plan(&unlimited, 5);
        assert_eq!(cut.image_count(&unlimited).planned, plan.count());
        for number in 0..plan.count() {
            let image = cut.image(plan.choice(number));
            let again = recording.image(&image.describe()).unwrap_or_else(|error| panic!("{image}: {error}"));
            assert_eq!((again.describe(), again.identity()), (image.describe(), image.identity()));
        }
    }
    let count = recording.image_count(&limits);
    let made = recording.images(&limits, 5).count() as u64;
    assert!(made <= count.budgeted && made > count.budgeted / 4, "{made} of {count:?}");
    assert!(recording.image("keep=/0").is_err() && recording.image("cut=99999 keep=/0").is_err());
    assert!(recording.image("cut=0 keep=0-0:ff/1").is_err());
}

#[test]
fn the_same_seed_yields_the_same_images_and_budgets_hold() {
    let recording = busy_recording();
    let limits = EnumerationLimits { images_per_cut_max: 30, images_max: 200, ..EnumerationLimits::default() };
    let lines = |seed| recording.images(&limits, seed).map(|image| image.describe()).collect::<Vec<_>>();
    assert_eq!(lines(3), lines(3));
    assert_ne!(lines(3), lines(4));
    assert!(lines(3).len() <= 200, "{}", lines(3).len());
    assert!(recording.image_count(&limits).budgeted <= 200);
    let cuts: BTreeSet<usize> = recording.images(&limits, 3).map(|image| image.cut_index()).collect();
    // A cut that adds nothing to an earlier one with the same marks yields nothing.
    assert!(cuts.len() > recording.step_count() * 3 / 4, "{cuts:?} of {}", recording.step_count());
}

#[test]
fn shares_are_disjoint_and_together_whole() {
    let recording = busy_recording();
    let limits = EnumerationLimits::QUICK;
    let whole: BTreeSet<String> = recording.images(&limits, 3).map(|image| image.describe()).collect();
    let mut parts = BTreeSet::new();
    for part in 0..3 {
        for image in recording.images(&limits, 3).share(part, 3) {
            assert!(parts.insert(image.describe()));
        }
    }
    assert_eq!(parts, whole);
}

#[test]
fn no_bytes_come_twice_for_the_same_marks() {
    let recording = busy_recording();
    let mut seen = BTreeSet::new();
    for image in recording.images(&EnumerationLimits::QUICK, 3).filter(|image| !image.is_kill()) {
        assert!(seen.insert((image.marks().count(), image.disk().contents())), "{image}");
    }
}

#[test]
fn images_of_one_recording_may_be_recorded_again() {
    let disk = SimDisk::with_contents(&[0; 8192]);
    disk.record();
    fill(&disk, 0, 8192, 1);
    let recording = disk.recording();
    let mut depth_two = BTreeSet::new();
    for image in recording.images(&EnumerationLimits { kills: 3, ..PLAIN }, 1) {
        let disk = image.disk();
        disk.record();
        fill(&disk, 4096, 4096, 2);
        let inner = disk.recording();
        depth_two.extend(inner.images(&PLAIN, 1).map(|image| pages(&image.disk())));
    }
    assert_eq!(depth_two.len(), 6, "{depth_two:?}");
}

#[test]
fn the_start_of_a_record_may_have_writes_pending() {
    let disk = SimDisk::with_contents(&[0; 4096]);
    fill(&disk, 0, 4096, 1);
    disk.record();
    assert_eq!(last_images(&disk, &PLAIN).len(), 2);
}

/// Run with `--release -- --ignored --nocapture` to see what an image costs.
#[test]
#[ignore = "a measurement"]
fn images_per_second() {
    let disk = SimDisk::with_contents(&vec![7; 300 << 10]);
    disk.record();
    for round in 0..6u8 {
        disk.mark(u64::from(round));
        for page in 0..9u64 {
            fill(&disk, (page * 7 + u64::from(round)) * 4096, 4096, round);
        }
        disk.sync_data().unwrap();
        disk.write_sync(0, &[IoSlice::new(&[round; 4096])]).unwrap();
    }
    let recording = disk.recording();
    let begun = std::time::Instant::now();
    let (mut images, mut bytes) = (0u64, 0u64);
    let mut into = vec![0; 4096];
    for image in recording.images(&EnumerationLimits::PULL_REQUEST, 1) {
        let disk = image.disk();
        // A recovery: read half of the file, write some of it, sync twice.
        for page in 0..40 {
            bytes += disk.read_at(page * 4096, &mut into).unwrap() as u64;
        }
        for page in 0..4 {
            fill(&disk, page * 4096, 4096, 1);
        }
        disk.sync_data().unwrap();
        disk.write_sync(0, &[IoSlice::new(&into)]).unwrap();
        images += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let planned = recording.image_count(&EnumerationLimits::PULL_REQUEST).planned;
    println!("{images} images of {planned} planned, {:.0} a second, {bytes} bytes read", images as f64 / seconds);
    let begun = std::time::Instant::now();
    let made = recording.images(&EnumerationLimits::PULL_REQUEST, 1).count() as f64;
    println!("{:.0} a second without recovery", made / begun.elapsed().as_secs_f64());
}
