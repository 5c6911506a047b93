//! Any bytes, opened and read as a database.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| spinney_fuzz_cases::Target::OpenBytes.run(input));
