//! A sound file, changed with its checksums made to fit.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| spinney_fuzz_cases::Target::MutateFile.run(input));
