//! How many pages an owner's transactions take: the next one's arena is as large from the start, so that its pages lie side by side.

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use spinney_alloc::Owner;

/// Owners that are remembered. Beyond, all are forgotten: the next transactions begin with small arenas.
const OWNERS_MAX: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Appetites {
    pages: Mutex<FxHashMap<Owner, u64>>,
}

impl Appetites {
    /// What the last transaction of `owner` took, in pages; 0 when nothing is known.
    pub(crate) fn of(&self, owner: Owner) -> u64 {
        self.pages.lock().get(&owner).copied().unwrap_or(0)
    }

    /// A transaction of `owner` took so many pages.
    pub(crate) fn note(&self, owner: Owner, taken: u64) {
        let mut pages = self.pages.lock();
        if pages.len() >= OWNERS_MAX && !pages.contains_key(&owner) {
            pages.clear();
        }
        pages.insert(owner, taken);
    }
}
