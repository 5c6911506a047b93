//! Bytes that neither a file system nor a disk can make smaller.

use rand::{RngCore, SeedableRng, rngs::SmallRng};

/// Random bytes, made before anything is timed, that values are cut from. The same in every run.
pub struct Pool {
    bytes: Vec<u8>,
}

impl Pool {
    /// So many bytes.
    pub fn new(bytes: usize) -> Self {
        let mut pool = vec![0; bytes];
        SmallRng::seed_from_u64(1).fill_bytes(&mut pool);
        Self { bytes: pool }
    }

    /// A value of `bytes` bytes, fewer than the pool has. It follows from `number` alone, so that what was stored can be compared
    /// without being kept; close numbers have values that are far apart.
    pub fn cut(&self, number: u64, bytes: usize) -> &[u8] {
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let start = usize::try_from(mixed >> 32).unwrap_or(0) % (self.bytes.len() - bytes);
        &self.bytes[start..start + bytes]
    }
}
