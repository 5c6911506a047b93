//! A sound file whose log goes on with small commits, compared with what they say.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| spinney_fuzz_cases::Target::Effects.run(input));
