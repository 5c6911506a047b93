//! A history of an allocator, compared with a naive model.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| spinney_fuzz_cases::Target::Allocator.run(input));
