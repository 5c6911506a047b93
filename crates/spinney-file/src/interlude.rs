//! Test builds only: what somebody else does in the middle of an operation, at a moment where a broken engine would notice.
//!
//! It runs on the thread of the operation, so nothing depends on which thread is faster. Both engines come to the moment: the
//! healthy one with the rule kept.

use parking_lot::Mutex;
use std::{fmt, sync::Arc};

type Deed = Box<dyn FnOnce() + Send>;

/// Set by a test and run once, at the next moment that an operation offers: when a transaction begins and has no slot yet; before its
/// append; when an aborted one has returned its pages; when a snapshot has loaded its version; when a checkpoint has its seq.
#[derive(Clone, Default)]
pub struct Interlude(Arc<Mutex<Option<Deed>>>);

impl Interlude {
    /// What happens at the next moment.
    pub fn set(&self, deed: impl FnOnce() + Send + 'static) {
        *self.0.lock() = Some(Box::new(deed));
    }

    /// Whether it has not run yet.
    pub fn is_set(&self) -> bool {
        self.0.lock().is_some()
    }

    pub(crate) fn run(&self) {
        // Taken first: what it does comes to such moments itself.
        let deed = self.0.lock().take();
        if let Some(deed) = deed {
            deed();
        }
    }
}

impl fmt::Debug for Interlude {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Interlude").field(&self.is_set()).finish()
    }
}
