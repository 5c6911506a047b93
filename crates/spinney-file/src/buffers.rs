//! Buffers of one page, used again: small commits make and drop some pages each, and a general allocator answers that
//! with system calls.

use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;

/// As many wait to be used again; of others the memory is given back.
const WAITING_MAX: usize = 256;

/// The buffers of one file.
#[derive(Debug)]
pub(crate) struct Buffers {
    page_bytes: usize,
    waiting: Mutex<Vec<Box<[u8]>>>,
}

/// A page in a buffer that comes back when its last reader is gone.
struct Lent {
    page: Box<[u8]>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.page
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.page));
    }
}

impl Buffers {
    pub(crate) fn new(page_bytes: usize) -> Arc<Self> {
        Arc::new(Self { page_bytes, waiting: Mutex::default() })
    }

    /// A page of zeros.
    pub(crate) fn zeroed(&self) -> Box<[u8]> {
        match self.take() {
            Some(mut page) => {
                page.fill(0);
                page
            }
            None => vec![0; self.page_bytes].into(),
        }
    }

    /// A page like another.
    pub(crate) fn copy_of(&self, page: &[u8]) -> Box<[u8]> {
        match self.take() {
            Some(mut copy) => {
                copy.copy_from_slice(page);
                copy
            }
            None => page.into(),
        }
    }

    /// A page that never changes again, to be shared. Its buffer comes back by itself.
    pub(crate) fn share(self: &Arc<Self>, page: Box<[u8]>) -> Bytes {
        Bytes::from_owner(Lent { page, home: Arc::clone(self) })
    }

    /// A buffer that was not shared.
    pub(crate) fn give_back(&self, page: Box<[u8]>) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING_MAX && page.len() == self.page_bytes {
            waiting.push(page);
        }
    }

    fn take(&self) -> Option<Box<[u8]>> {
        self.waiting.lock().pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_clean_when_its_last_reader_is_gone() {
        let buffers = Buffers::new(64);
        let mut page = buffers.zeroed();
        page.fill(7);
        let shared = buffers.share(page);
        let reader = shared.slice(10..20);
        drop(shared);
        assert!(buffers.waiting.lock().is_empty(), "somebody still reads it");
        assert_eq!(&reader[..], [7; 10]);
        drop(reader);
        assert_eq!(buffers.waiting.lock().len(), 1);
        assert_eq!(&buffers.zeroed()[..], [0; 64]);
        assert_eq!(&buffers.copy_of(&[3; 64])[..], [3; 64]);
        (0..2 * WAITING_MAX)
            .map(|_| buffers.zeroed())
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|p| buffers.give_back(p));
        assert_eq!(buffers.waiting.lock().len(), WAITING_MAX);
    }
}
