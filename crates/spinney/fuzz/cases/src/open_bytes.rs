//! Any bytes, opened and read as a database.
//!
//! The first byte says how; the rest is a packed file. Checksums are as they come.

use crate::{
    input::Input,
    packed::unpack,
    visit::{Visit, visit},
};

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let how = input.byte();
    let file = unpack(input.bytes(usize::MAX));
    let len = if how & 2 == 0 { 0 } else { file.len() as u64 + (1 << (how >> 2)) };
    visit(&file, Visit { read_only: how & 1 != 0, len });
}
