//! Numbers out of bytes that may be too few: every access says `None` instead of panicking, so that a decoder of a
//! damaged file is a chain of question marks.

/// Little-endian numbers and slices at byte offsets.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn slice(self, at: usize, len: usize) -> Option<&'a [u8]> {
        self.0.get(at..at.checked_add(len)?)
    }

    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.slice(at, N)?.try_into().ok()
    }

    pub(crate) fn u8(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    /// Of a length, an offset or a count, which are used as such.
    pub(crate) fn u16(self, at: usize) -> Option<usize> {
        self.array(at).map(u16::from_le_bytes).map(usize::from)
    }

    pub(crate) fn u32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// A u32 that is a length, an offset or a count.
    pub(crate) fn len32(self, at: usize) -> Option<usize> {
        self.u32(at).and_then(|number| usize::try_from(number).ok())
    }

    pub(crate) fn u48(self, at: usize) -> Option<u64> {
        let [a, b, c, d, e, f] = self.array(at)?;
        Some(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    pub(crate) fn u64(self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// Pairs of u64, `count` of them from `at` on.
    pub(crate) fn pairs(self, at: usize, count: usize) -> Option<Vec<(u64, u64)>> {
        let table = self.slice(at, count.checked_mul(16)?)?;
        table.chunks_exact(16).map(|pair| Some((Bytes(pair).u64(0)?, Bytes(pair).u64(8)?))).collect()
    }
}
