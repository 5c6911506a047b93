//! Buffers of one page, cut from large blocks and used again: a general allocator answers millions of pages that come and go on
//! different threads with locks and system calls, and spreads them over more of the address space than the processor can remember.

use crate::huge;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// The first block. Each further one is as large as all before it, up to [`BLOCK_BYTES_MAX`].
const BLOCK_BYTES_MIN: usize = 64 << 10;
/// Large enough that most of it are whole huge pages, wherever it begins; at most an eighth of the memory budget.
const BLOCK_BYTES_MAX: u64 = 8 << 20;

/// The buffers of one file. What was once cut stays until the file is closed, so there is as much memory as pages were once in use at
/// the same time, which is what the memory budget bounds. Giving some back would not be less: a block goes with its last page.
#[derive(Debug)]
pub(crate) struct Buffers {
    page_bytes: usize,
    block_bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<BytesMut>,
    /// What is left of the newest block, and the bytes of all.
    block: BytesMut,
    cut_bytes: usize,
}

/// A page that nobody else sees yet. Its buffer comes back by itself.
#[derive(Debug)]
pub(crate) struct Page {
    bytes: BytesMut,
    home: Arc<Buffers>,
}

impl Page {
    /// From here on it is shared and never changes.
    pub(crate) fn share(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Deref for Page {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Page {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.bytes));
    }
}

impl Buffers {
    pub(crate) fn new(page_bytes: usize, budget_bytes: u64) -> Arc<Self> {
        let most = usize::try_from((budget_bytes / 8).min(BLOCK_BYTES_MAX)).expect("a few MiB");
        let block_bytes_max = (most / page_bytes * page_bytes).max(BLOCK_BYTES_MIN);
        Arc::new(Self { page_bytes, block_bytes_max, state: Mutex::default() })
    }

    /// A page of zeros.
    pub(crate) fn zeroed(self: &Arc<Self>) -> Page {
        let mut page = self.any();
        page.fill(0);
        page
    }

    /// A page like another.
    pub(crate) fn copy_of(self: &Arc<Self>, of: &[u8]) -> Page {
        let mut page = self.any();
        page.copy_from_slice(of);
        page
    }

    /// A page with bytes of some page before it: to be overwritten, all of it.
    pub(crate) fn any(self: &Arc<Self>) -> Page {
        let bytes = self.state.lock().take(self.page_bytes, self.block_bytes_max);
        Page { bytes, home: Arc::clone(self) }
    }

    fn give_back(&self, page: BytesMut) {
        self.state.lock().waiting.push(page);
    }
}

impl State {
    fn take(&mut self, page_bytes: usize, block_bytes_max: usize) -> BytesMut {
        if let Some(page) = self.waiting.pop() {
            return page;
        }
        if self.block.len() < page_bytes {
            let bytes = self.cut_bytes.clamp(BLOCK_BYTES_MIN, block_bytes_max);
            self.block = BytesMut::zeroed(bytes);
            self.cut_bytes += bytes;
            if bytes as u64 == BLOCK_BYTES_MAX {
                huge::advise(&mut self.block);
            }
        }
        self.block.split_to(page_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_reader_is_gone() {
        let buffers = Buffers::new(4096, 64 << 20);
        let mut page = buffers.zeroed();
        page.fill(7);
        let shared = page.share();
        let reader = shared.slice(10..20);
        drop(shared);
        assert!(buffers.state.lock().waiting.is_empty(), "somebody still reads it");
        assert_eq!(&reader[..], [7; 10]);
        drop(reader);
        assert_eq!(buffers.state.lock().waiting.len(), 1);
        assert!(buffers.zeroed().iter().all(|&byte| byte == 0));
        assert_eq!(&buffers.copy_of(&[3; 4096])[..], [3; 4096]);
    }

    #[test]
    fn pages_are_all_different_and_are_used_again() {
        let buffers = Buffers::new(4096, 64 << 20);
        for _ in 0..3 {
            let mut pages: Vec<_> = (0..6000).map(|_| buffers.zeroed()).collect();
            (0..).zip(&mut pages).for_each(|(n, page): (u32, _)| page[..4].copy_from_slice(&n.to_le_bytes()));
            assert!((0..).zip(&pages).all(|(n, page): (u32, _)| page[..4] == n.to_le_bytes()));
            drop(pages);
            let state = buffers.state.lock();
            assert_eq!(state.waiting.len(), 6000);
            assert!(state.cut_bytes < 2 * 6000 * 4096, "{}", state.cut_bytes);
        }
    }
}
