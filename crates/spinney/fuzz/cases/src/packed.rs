//! A file as a list of what is not zero: databases are mostly free space, and a corpus is to be small.
//!
//! | at | size | meaning                                                     |
//! |---:|-----:|-------------------------------------------------------------|
//! |  0 |    2 | zeros before the bytes, in units of 8 bytes                 |
//! |  2 |    2 | bytes that follow, which are then in the file               |
//! |  4 |      | those bytes                                                 |
//!
//! and so on. Any bytes are a packed file.

use crate::input::Input;

/// No file is unpacked beyond this.
const BYTES_MAX: usize = 4 << 20;
const UNIT: usize = 8;

/// The file that `packed` describes, at most 4 MiB of it.
pub fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut input = Input::new(packed);
    let mut file = Vec::new();
    while !input.is_empty() && file.len() < BYTES_MAX {
        let zeros = usize::from(input.u16()) * UNIT;
        let count = usize::from(input.u16());
        file.resize(file.len() + zeros, 0);
        file.extend_from_slice(input.bytes(count));
    }
    file.truncate(BYTES_MAX);
    file
}

/// What [`unpack`] makes `file` of. Zeros at the file's end are kept.
pub fn pack(file: &[u8]) -> Vec<u8> {
    /// Fewer zeros in a row cost less as bytes.
    const ZERO_UNITS_MIN: usize = 2;
    let is_zero = |at: usize| file[at..(at + UNIT).min(file.len())].iter().all(|&byte| byte == 0);
    let mut packed = Vec::new();
    let mut at = 0;
    while at < file.len() {
        let zeros_at = at;
        while at + UNIT <= file.len() && is_zero(at) && (at - zeros_at) / UNIT < usize::from(u16::MAX) {
            at += UNIT;
        }
        let bytes_at = at;
        let is_gap =
            |at: usize| (0..ZERO_UNITS_MIN).all(|i| at + UNIT * (i + 1) <= file.len() && is_zero(at + UNIT * i));
        while at < file.len() && at - bytes_at < usize::from(u16::MAX) - UNIT && !is_gap(at) {
            at = (at + UNIT).min(file.len());
        }
        for count in [(bytes_at - zeros_at) / UNIT, at - bytes_at] {
            packed.extend(u16::try_from(count).expect("bounded above").to_le_bytes());
        }
        packed.extend_from_slice(&file[bytes_at..at]);
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_survives_packing() {
        let mut file = vec![0; 700_000];
        (100_000..270_000).for_each(|at| file[at] = (at % 251) as u8);
        file[5] = 1;
        file[600_001] = 7;
        for len in [0, 1, 7, 8, 100, 100_001, 300_001, 700_000] {
            let packed = pack(&file[..len]);
            assert!(unpack(&packed) == file[..len], "{len} bytes");
            assert!(packed.len() <= len.min(172_000) + 64);
        }
    }
}
