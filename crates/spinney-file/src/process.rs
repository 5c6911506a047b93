//! Which process this is, asked in every transaction and so without a system call: the number is kept in a page of memory that the
//! kernel wipes in a child that is forked (`MADV_WIPEONFORK`, Linux 4.14 and later).
//!
//! A child inherits the descriptor of an open file and with it the lock; it has a copy of the parent's cache and maps, and none of its
//! threads. Whatever it wrote would be written over the parent's. So a file belongs to the process that opened it.

/// The number of this process, never 0.
pub(crate) fn id() -> u32 {
    #[cfg(target_os = "linux")]
    if let Some(kept) = kept::page() {
        // Relaxed: a number that only this process writes, always the same one.
        let id = kept.load(std::sync::atomic::Ordering::Relaxed);
        if id != 0 {
            return id;
        }
        let id = std::process::id();
        kept.store(id, std::sync::atomic::Ordering::Relaxed);
        return id;
    }
    std::process::id()
}

#[cfg(target_os = "linux")]
mod kept {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
    use std::{
        ptr,
        sync::{OnceLock, atomic::AtomicU32},
    };

    /// Enough for an integer, and what the kernel maps at least.
    const BYTES: usize = 4096;

    /// `None` where the kernel cannot wipe.
    pub(super) fn page() -> Option<&'static AtomicU32> {
        static PAGE: OnceLock<Option<&'static AtomicU32>> = OnceLock::new();
        *PAGE.get_or_init(|| {
            // SAFETY: a new private mapping at an address the kernel chooses touches no memory that is in use.
            let mapped = unsafe {
                mmap_anonymous(ptr::null_mut(), BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
            };
            let mapped = mapped.ok()?;
            // SAFETY: the range is the mapping just made, all of it, and nobody has a reference into it yet. What the advice does -
            // zeros in a child - is a valid value of what is kept there.
            unsafe { madvise(mapped, BYTES, Advice::LinuxWipeOnFork) }.ok()?;
            // SAFETY: the mapping is never unmapped, is zeroed, writable, aligned to a page, and only ever accessed as this atomic.
            Some(unsafe { &*mapped.cast::<AtomicU32>() })
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_the_number_the_system_says() {
        assert_eq!(super::id(), std::process::id());
        assert_eq!(super::id(), std::process::id(), "the second time it is kept");
        #[cfg(target_os = "linux")]
        assert!(super::kept::page().is_some(), "a kernel older than 4.14, or a mapping that was refused");
    }
}
