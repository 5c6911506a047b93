//! What a page is on disk: its header, what proves it whole, and what proves a run of pages whole.

use crate::{Owner, PageNo, Stamp};
use crc_fast::{CrcAlgorithm, Digest};
use std::{fmt, ops::Range};

/// Where a page is and which writing of it is meant. A page is the pointed-to one only if it
/// carries the same stamp: page numbers are reused, stamps never.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PagePtr {
    /// Which page.
    pub page: PageNo,
    /// Which writing of it.
    pub stamp: Stamp,
}

/// As stored in other pages, in the log and in root descriptors. Integers are little-endian.
///
/// | at | size | field | meaning                                      |
/// |---:|-----:|-------|----------------------------------------------|
/// |  0 |    8 | page  | the page's number, never 0                   |
/// |  8 |    8 | stamp | the stamp the page must carry, never 0       |
impl PagePtr {
    /// Length of an encoded pointer, in bytes.
    pub const ENCODED_BYTES: usize = 16;

    /// The bytes of the table above.
    #[inline]
    pub fn encode(self) -> [u8; Self::ENCODED_BYTES] {
        let mut bytes = [0; Self::ENCODED_BYTES];
        bytes[..8].copy_from_slice(&self.page.get().to_le_bytes());
        bytes[8..].copy_from_slice(&self.stamp.0.to_le_bytes());
        bytes
    }

    /// `None` for a number that no page and no stamp has.
    #[inline]
    pub fn decode(bytes: [u8; Self::ENCODED_BYTES]) -> Option<Self> {
        let page = PageNo::new(u64_at(&bytes, 0))?;
        let stamp = Stamp(u64_at(&bytes, 8));
        (stamp.0 != 0).then_some(Self { page, stamp })
    }
}

impl fmt::Debug for PagePtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{:?}", self.page, self.stamp)
    }
}

/// Start of every verified page. Integers are little-endian and never `usize`.
///
/// | at | size | field    | meaning                                                           |
/// |---:|-----:|----------|-------------------------------------------------------------------|
/// |  0 |    8 | checksum | CRC-64/NVME of every byte after it; first, so the rest is one range |
/// |  8 |    8 | page_no  | this page's own number: catches a misdirected write               |
/// | 16 |    8 | stamp    | which writer's turn wrote it; the pointer says the same           |
/// | 24 |    4 | owner    | whose page it is, for errors and for giving space back            |
/// | 28 |    1 | kind     | what the page holds; 0 is never valid                             |
/// | 29 |    1 | level    | the maker's: distance from the leaves                             |
/// | 30 |    2 | flags    | the maker's                                                       |
///
/// The file fills in the first four as it writes the page; kind, level and flags belong to whoever makes the page.
#[derive(Clone, Copy, Debug)]
pub struct PageHeader;

impl PageHeader {
    /// Length of the header, in bytes.
    pub const BYTES: usize = 32;
    /// Where the checksum stands.
    pub const CHECKSUM: Range<usize> = 0..8;
    /// Where the page's own number stands.
    pub const PAGE_NO: Range<usize> = 8..16;
    /// Where the stamp stands.
    pub const STAMP: Range<usize> = 16..24;
    /// Where the owner stands.
    pub const OWNER: Range<usize> = 24..28;
    /// Where the kind stands.
    pub const KIND: usize = 28;
    /// Where the level stands.
    pub const LEVEL: usize = 29;
    /// Where the flags stand.
    pub const FLAGS: Range<usize> = 30..32;

    /// The checksum that the page carries. `page` is at least [`Self::BYTES`] long, here and below.
    #[inline]
    pub fn checksum(page: &[u8]) -> u64 {
        u64_at(page, Self::CHECKSUM.start)
    }

    /// The number that the page carries, which on a damaged page may be none.
    #[inline]
    pub fn page_no(page: &[u8]) -> Option<PageNo> {
        PageNo::new(u64_at(page, Self::PAGE_NO.start))
    }

    /// The stamp that the page carries.
    #[inline]
    pub fn stamp(page: &[u8]) -> Stamp {
        Stamp(u64_at(page, Self::STAMP.start))
    }

    /// The owner that the page carries.
    #[inline]
    pub fn owner(page: &[u8]) -> Owner {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&page[Self::OWNER]);
        Owner(u32::from_le_bytes(bytes))
    }

    /// The kind that the page carries.
    #[inline]
    pub fn kind(page: &[u8]) -> u8 {
        page[Self::KIND]
    }

    /// The level that the page carries.
    #[inline]
    pub fn level(page: &[u8]) -> u8 {
        page[Self::LEVEL]
    }
}
const _: () = assert!(PageHeader::FLAGS.end == PageHeader::BYTES);

/// A check of a page's content by whoever knows what it means, made once, when it has been read
/// and proved whole. The error says what does not fit.
pub type PageCheck = fn(page: &[u8]) -> Result<(), &'static str>;

/// Fills in checksum, number, stamp and owner of a page that is otherwise complete. Nothing in it
/// may change afterwards.
pub(crate) fn seal(page: &mut [u8], page_no: PageNo, stamp: Stamp, owner: Owner) {
    label(page, PagePtr { page: page_no, stamp }, owner);
    let sum = checksum(&page[PageHeader::CHECKSUM.end..]);
    page[PageHeader::CHECKSUM].copy_from_slice(&sum.to_le_bytes());
}

/// Fills in all but the checksum: for a page that stays in memory for now. [`seal`] completes a copy of it when it is written.
pub(crate) fn label(page: &mut [u8], ptr: PagePtr, owner: Owner) {
    assert!(ptr.stamp.0 != 0, "page {} sealed without a stamp", ptr.page);
    page[PageHeader::PAGE_NO].copy_from_slice(&ptr.page.get().to_le_bytes());
    page[PageHeader::STAMP].copy_from_slice(&ptr.stamp.0.to_le_bytes());
    page[PageHeader::OWNER].copy_from_slice(&owner.0.to_le_bytes());
}

/// Whether the bytes read at `expected.page` are the page that `expected` means, whole.
///
/// # Errors
/// What does not fit. A checksum that fits with another number or stamp tells a write that went
/// astray, or never arrived, from a page that rotted.
pub(crate) fn verify(page: &[u8], expected: PagePtr, page_bytes: usize) -> Result<(), &'static str> {
    if page.len() != page_bytes || page.len() < PageHeader::BYTES {
        return Err("the page is cut short");
    }
    if PageHeader::checksum(page) != checksum(&page[PageHeader::CHECKSUM.end..]) {
        return Err(if page.iter().all(|&byte| byte == 0) {
            "the page is empty: its write was lost"
        } else {
            "the checksum does not match"
        });
    }
    if PageHeader::page_no(page) != Some(expected.page) {
        return Err("it is another page, whole: a write or a read was misdirected");
    }
    match PageHeader::stamp(page).cmp(&expected.stamp) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err("it is an older writing of the page: a write was lost"),
        std::cmp::Ordering::Greater => Err("it is a newer writing of the page: it was reused while still pointed to"),
    }
}

/// CRC-64/NVME: 64 bits of strength at the price of 32, with the processor's carry-less
/// multiplication (about 50 GB/s on a page of 4 KiB).
#[inline]
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

/// Proves a run of pages whole, and to be the ones that were written: a CRC-64/NVME over 16 bytes
/// for each page, its first eight and the checksum of the others.
///
/// A sealed page begins with just that checksum, so a writer digests it at the cost of 16 bytes
/// rather than of a page. Whoever has only the bytes (recovery) gets the same digest with
/// [`push_raw`](Self::push_raw), without knowing which pages are sealed.
#[derive(Clone, Debug)]
pub(crate) struct RunDigest {
    crc: Digest,
}

impl Default for RunDigest {
    fn default() -> Self {
        Self::new()
    }
}

impl RunDigest {
    /// The digest of no pages.
    pub(crate) fn new() -> Self {
        Self { crc: Digest::new(CrcAlgorithm::Crc64Nvme) }
    }

    /// Adds a page that [`seal`] has filled in, trusting its checksum.
    pub(crate) fn push_sealed(&mut self, page: &[u8]) {
        debug_assert_eq!(PageHeader::checksum(page), checksum(&page[8..]), "a page was changed after it was sealed");
        self.push(page, PageHeader::checksum(page));
    }

    /// Adds any page, reading all of it.
    pub(crate) fn push_raw(&mut self, page: &[u8]) {
        self.push(page, checksum(&page[8..]));
    }

    fn push(&mut self, page: &[u8], rest: u64) {
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&page[..8]);
        entry[8..].copy_from_slice(&rest.to_le_bytes());
        self.crc.update(&entry);
    }

    /// The digest of the pages so far.
    pub(crate) fn finish(&self) -> u64 {
        self.crc.finalize()
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE_BYTES: usize = 4096;

    fn ptr(page: u64, stamp: u64) -> PagePtr {
        PagePtr { page: PageNo::new(page).unwrap(), stamp: Stamp(stamp) }
    }

    fn sealed(at: PagePtr, fill: u8) -> Vec<u8> {
        let mut page = vec![fill; PAGE_BYTES];
        seal(&mut page, at.page, at.stamp, Owner(7));
        page
    }

    #[test]
    fn a_sealed_page_verifies_and_says_what_it_is() {
        let at = ptr(42, 9);
        let page = sealed(at, 0xA5);
        assert_eq!(verify(&page, at, PAGE_BYTES), Ok(()));
        assert_eq!(PageHeader::page_no(&page), Some(at.page));
        assert_eq!(PageHeader::stamp(&page), at.stamp);
        assert_eq!(PageHeader::owner(&page), Owner(7));
        assert_eq!((PageHeader::kind(&page), PageHeader::level(&page)), (0xA5, 0xA5));
    }

    #[test]
    fn each_mishap_has_its_own_reason() {
        let page = sealed(ptr(42, 9), 1);
        let mut reasons = vec![
            verify(&page, ptr(43, 9), PAGE_BYTES).unwrap_err(),
            verify(&page, ptr(42, 10), PAGE_BYTES).unwrap_err(),
            verify(&page, ptr(42, 8), PAGE_BYTES).unwrap_err(),
            verify(&page[..PAGE_BYTES - 1], ptr(42, 9), PAGE_BYTES).unwrap_err(),
            verify(&[0; PAGE_BYTES], ptr(42, 9), PAGE_BYTES).unwrap_err(),
            verify(&[1; PAGE_BYTES], ptr(42, 9), PAGE_BYTES).unwrap_err(),
        ];
        let all = reasons.len();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), all, "{reasons:?}");
    }

    #[test]
    fn the_checksum_is_the_published_one() {
        // The check value of CRC-64/NVME in the catalogue of parametrised CRC algorithms.
        assert_eq!(checksum(b"123456789"), 0xAE8B_1486_0A79_9888);
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(at in 0..PAGE_BYTES, bit in 0..8_u32, fill: u8) {
            let mut page = sealed(ptr(3, 5), fill);
            page[at] ^= 1 << bit;
            prop_assert!(verify(&page, ptr(3, 5), PAGE_BYTES).is_err());
        }

        #[test]
        fn pointers_survive_encoding(page in 1..=PageNo::MAX, stamp in 1..u64::MAX) {
            prop_assert_eq!(PagePtr::decode(ptr(page, stamp).encode()), Some(ptr(page, stamp)));
        }

        #[test]
        fn a_digest_needs_only_the_bytes(kinds in proptest::collection::vec(any::<(bool, u8)>(), 0..8)) {
            let (mut writer, mut reader) = (RunDigest::new(), RunDigest::new());
            let mut pages = Vec::new();
            for (i, &(is_sealed, fill)) in kinds.iter().enumerate() {
                let page = if is_sealed { sealed(ptr(1 + i as u64, 1), fill) } else { vec![fill; PAGE_BYTES] };
                if is_sealed { writer.push_sealed(&page) } else { writer.push_raw(&page) }
                reader.push_raw(&page);
                pages.push(page);
            }
            prop_assert_eq!(writer.finish(), reader.finish());

            // One older page in the run, itself whole, or the last one missing: another digest.
            for at in 0..pages.len() {
                let mut torn = RunDigest::new();
                for (i, page) in pages.iter().enumerate() {
                    torn.push_raw(&if i == at { sealed(ptr(1 + i as u64, 9), 3) } else { page.clone() });
                }
                prop_assert_ne!(writer.finish(), torn.finish());
            }
            if let Some((_, init)) = pages.split_last() {
                let mut short = RunDigest::new();
                init.iter().for_each(|page| short.push_raw(page));
                prop_assert_ne!(writer.finish(), short.finish());
            }
        }
    }

    #[test]
    fn pointers_to_nothing_do_not_decode() {
        assert_eq!(PagePtr::decode([0; 16]), None);
        assert_eq!(PagePtr::decode([0xFF; 16]), None);
        let mut no_stamp = ptr(1, 1).encode();
        no_stamp[8..].fill(0);
        assert_eq!(PagePtr::decode(no_stamp), None);
    }
}
