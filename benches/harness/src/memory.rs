//! Memory that the machine has: a virtual one is given much of what it is promised only when it is first used, at twenty times the
//! price of memory that was used before. Whoever is measured first after a start would pay for all.

use std::fs;

/// Left alone, for everybody else.
const SPARED_BYTES: usize = 2 << 30;

/// As much at a time.
const STEP_BYTES: usize = 64 << 20;

/// Uses every page of what is free, once. Takes a second per GiB, and seven where it was needed; does nothing where
/// `/proc/meminfo` is missing.
pub fn touch_memory() {
    let mut left = available().saturating_sub(SPARED_BYTES);
    let mut held = Vec::new();
    while left >= STEP_BYTES {
        // Not zero: zeros would be promised again.
        held.push(vec![1u8; STEP_BYTES]);
        left -= STEP_BYTES;
    }
    std::hint::black_box(&held);
}

fn available() -> usize {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    kib.unwrap_or(0) << 10
}
