//! A history of operations, compared with a map of maps.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| spinney_fuzz_cases::Target::Operations.run(input));
