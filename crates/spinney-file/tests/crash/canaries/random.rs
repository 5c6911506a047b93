//! Broken engines that random runs notice.

use super::{quietly, words};
use crate::support::Run;
use spinney_file::{EnumerationLimits, Sabotage};
use std::panic::catch_unwind;

/// Runs the harness over an engine with one rule broken; `Some` with what noticed it, and after how many images.
fn caught(sabotage: Sabotage) -> Option<(u64, String)> {
    let mut images = 0;
    for seed in 0..30 {
        let attempt = catch_unwind(|| -> Result<u64, String> {
            let run = Run::record(seed, 40, Some(sabotage)).map_err(|e| format!("the run itself: {e}"))?;
            let mut count = 0;
            for image in
                run.recording.images(&EnumerationLimits { images_max: 3000, ..EnumerationLimits::PULL_REQUEST }, seed)
            {
                count += 1;
                run.check(&image, count % 20 == 0).map_err(|e| format!("{count} images: {e}"))?;
            }
            Ok(count)
        });
        match attempt {
            Ok(Ok(count)) => images += count,
            Ok(Err(what)) => return Some((images, what)),
            Err(panic) => return Some((images, words(&*panic))),
        }
    }
    None
}

#[test]
fn the_harness_notices_each_broken_rule() {
    let broken = [
        Sabotage::SpillKeepsStamp,
        Sabotage::ImageSkipsAPage,
        Sabotage::ImageClaimsSync,
        Sabotage::GroupCoversItselfOnly,
        Sabotage::ForgetsSnapshots,
        Sabotage::ReusesAtOnce,
        Sabotage::MapInBothHomes,
        Sabotage::OwnersInOneHome,
        Sabotage::SuperblockInOneSlot,
        Sabotage::SuperblockFirst,
        Sabotage::TrustsImages,
        Sabotage::NoRecoveredRecord,
        Sabotage::ForgetsClaims,
        Sabotage::FirstImage,
        Sabotage::ReusesNumbers,
    ];
    let found: Vec<_> = quietly(|| broken.into_iter().map(|rule| (rule, caught(rule))).collect());
    for (rule, found) in &found {
        match found {
            Some((images, what)) => println!("{rule:?}: after {images} images: {}", what.lines().next().unwrap_or("")),
            None => println!("{rule:?}: NOT NOTICED"),
        }
    }
    assert!(found.iter().all(|(_, found)| found.is_some()), "a broken rule went unnoticed");
}
