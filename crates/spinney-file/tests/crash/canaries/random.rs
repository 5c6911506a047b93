//! Broken engines that random runs notice.

use super::{quietly, words};
use crate::support::Run;
use spinney_file::{EnumerationLimits, FileError, Sabotage};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

/// Runs the harness over an engine with one rule broken; `Some` with what noticed it, and after how many images.
fn caught(sabotage: Sabotage) -> Option<(u64, String)> {
    let images = AtomicU64::new(0);
    let limits = EnumerationLimits { images_max: 3000, ..EnumerationLimits::PULL_REQUEST };
    let attempt = catch_unwind(AssertUnwindSafe(|| -> Result<(), FileError> {
        for seed in 0..30 {
            let run = Run::record(seed, 40, Some(sabotage))?;
            for image in run.recording.images(&limits, seed) {
                let number = images.fetch_add(1, Ordering::Relaxed);
                run.check(&image, number.is_multiple_of(20))?;
            }
        }
        Ok(())
    }));
    let what = match attempt {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(panic) => words(&*panic),
    };
    Some((images.into_inner(), what))
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
