//! The file, its pages and their checksums.

use crate::dump::bytes::Bytes;
use crc_fast::{CrcAlgorithm::Crc64Nvme, checksum};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// Bytes of the header of every page.
pub(crate) const HEADER_BYTES: usize = 32;
/// Whose pages are nobody's: the file's own.
pub(crate) const NO_OWNER: u32 = u32::MAX;

/// An open file.
pub(crate) struct Image {
    file: File,
    pub(crate) file_bytes: u64,
    /// As the superblock says, once it is known.
    pub(crate) page_bytes: usize,
}

impl Image {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let file_bytes = file.metadata()?.len();
        Ok(Self { file, file_bytes, page_bytes: 4096 })
    }

    /// `len` bytes from byte `at`; `None` where the file does not have them, or they cannot be read.
    pub(crate) fn read(&mut self, at: u64, len: usize) -> Option<Vec<u8>> {
        if at.checked_add(len as u64)? > self.file_bytes {
            return None;
        }
        let mut bytes = vec![0; len];
        self.file.seek(SeekFrom::Start(at)).ok()?;
        self.file.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    pub(crate) fn page(&mut self, number: u64) -> Option<Vec<u8>> {
        self.read(number.checked_mul(self.page_bytes as u64)?, self.page_bytes)
    }

    /// The page behind a pointer, or what is wrong with it.
    pub(crate) fn page_of_stamp(&mut self, number: u64, stamp: u64) -> Result<Vec<u8>, String> {
        let page = self.page(number).ok_or_else(|| format!("page {number} lies beyond the end of the file"))?;
        let header = Header::of(&page).ok_or("a page without a header")?;
        if !header.is_whole {
            return Err(format!("page {number} is damaged: its checksum does not match"));
        }
        if (header.page, header.stamp) != (number, stamp) {
            let found = format!("page {} of stamp {}", header.page, header.stamp);
            return Err(format!("page {number} of stamp {stamp} is damaged: it is {found}, whole"));
        }
        Ok(page)
    }

    pub(crate) fn pages(&self) -> u64 {
        self.file_bytes / self.page_bytes as u64
    }
}

/// The header of a page, as `PageHeader` in `spinney-file` has it.
pub(crate) struct Header {
    pub(crate) page: u64,
    pub(crate) stamp: u64,
    pub(crate) owner: u32,
    pub(crate) kind: u8,
    pub(crate) level: u8,
    pub(crate) flags: usize,
    /// Whether the checksum matches.
    pub(crate) is_whole: bool,
}

impl Header {
    pub(crate) fn of(page: &[u8]) -> Option<Self> {
        let bytes = Bytes(page);
        Some(Self {
            page: bytes.u64(8)?,
            stamp: bytes.u64(16)?,
            owner: bytes.u32(24)?,
            kind: bytes.u8(28)?,
            level: bytes.u8(29)?,
            flags: bytes.u16(30)?,
            is_whole: is_whole(page),
        })
    }
}

/// Whether the first eight bytes are the checksum of all others.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    Bytes(bytes).u64(0).is_some_and(|sum| sum == checksum(Crc64Nvme, &bytes[8..]))
}

/// Makes the checksum match, so that a test gets behind it.
#[cfg(test)]
pub(crate) fn seal(bytes: &mut [u8]) {
    let sum = checksum(Crc64Nvme, &bytes[8..]);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
}

/// How many regions of the map a page of summaries describes, and how many pages each region has.
pub(crate) fn map_geometry(page_bytes: usize) -> (u64, u64) {
    let payload = (page_bytes - HEADER_BYTES) as u64;
    (payload / 16, payload * 8)
}
