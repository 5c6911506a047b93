//! How long keys and values may be.

/// The limits that follow from the page size.
///
/// | page size | longest key | largest inline value |
/// |----------:|------------:|---------------------:|
/// |     4 KiB |       1 KiB |                1 KiB |
/// |    16 KiB |       4 KiB |                4 KiB |
/// |    64 KiB |      16 KiB |               16 KiB |
///
/// A value also goes to pages of its own when key and value together are longer than 7/16 of a page, so that every
/// leaf holds at least two entries and every branch at least three separators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Keys of 0 to so many bytes: a quarter of a page.
    pub key_bytes_max: usize,
    /// Values of 0 to so many bytes: 1 GiB at every page size.
    pub value_bytes_max: u64,
    /// Values up to this long stay in the leaf, a quarter of a page.
    pub inline_bytes_max: usize,
    /// Key and value that stay in the leaf are together at most so long: 7/16 of a page.
    pub inline_entry_bytes_max: usize,
}

impl Limits {
    /// The largest value at every page size, in bytes.
    pub const VALUE_BYTES_MAX: u64 = 1 << 30;

    /// The limits at a page size.
    #[inline]
    pub const fn new(page_bytes: usize) -> Self {
        Self {
            key_bytes_max: page_bytes / 4,
            value_bytes_max: Self::VALUE_BYTES_MAX,
            inline_bytes_max: page_bytes / 4,
            inline_entry_bytes_max: page_bytes / 16 * 7,
        }
    }

    /// Whether a value of so many bytes stays in the leaf beside its key.
    #[inline]
    pub const fn is_inline(&self, key_bytes: usize, value_bytes: u64) -> bool {
        value_bytes <= self.inline_bytes_max as u64
            && key_bytes as u64 + value_bytes <= self.inline_entry_bytes_max as u64
    }
}
