//! A sound file with somebody else's log, its checksums made to fit.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| spinney_fuzz_cases::Target::LogBytes.run(input));
