//! Calls that go wrong, and reads that lie. Faults lie over the file and never in it, so they can be lifted.

use super::random::Random;
use std::{
    io::{self, ErrorKind},
    ops::{BitOr, Range},
};

/// Kinds of calls, as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSet(u16);

impl CallSet {
    /// [`read_at`](crate::Storage::read_at) and [`read_vectored_at`](crate::Storage::read_vectored_at).
    pub const READ: Self = Self(1);
    /// [`write_vectored_at`](crate::Storage::write_vectored_at).
    pub const WRITE: Self = Self(1 << 1);
    /// [`write_sync`](crate::Storage::write_sync).
    pub const WRITE_SYNC: Self = Self(1 << 2);
    /// [`sync_data`](crate::Storage::sync_data).
    pub const SYNC: Self = Self(1 << 3);
    /// [`allocate`](crate::Storage::allocate).
    pub const ALLOCATE: Self = Self(1 << 4);
    /// [`punch`](crate::Storage::punch).
    pub const PUNCH: Self = Self(1 << 5);
    /// [`set_len`](crate::Storage::set_len).
    pub const SET_LEN: Self = Self(1 << 6);
    /// [`len`](crate::Storage::len).
    pub const LEN: Self = Self(1 << 7);
    /// [`lock`](crate::Storage::lock).
    pub const LOCK: Self = Self(1 << 8);
    /// [`drop_cache`](crate::Storage::drop_cache).
    pub const DROP_CACHE: Self = Self(1 << 9);
    /// Both kinds of writes.
    pub const WRITES: Self = Self(Self::WRITE.0 | Self::WRITE_SYNC.0);
    /// Whatever changes the file or makes a change durable.
    pub const CHANGES: Self = Self(Self::WRITES.0 | Self::SYNC.0 | Self::ALLOCATE.0 | Self::PUNCH.0 | Self::SET_LEN.0);
    /// Every call.
    pub const ALL: Self = Self((1 << 10) - 1);

    /// The kinds of both; as `|`, but for constants.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the two have a kind in common.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for CallSet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.and(other)
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// `EIO`. Of a failed write any first part may have been written. Of what a failed sync or durable write covered, a random
    /// part is durable and the rest forgotten, while reads go on to see it: the next sync succeeds and proves nothing.
    ///
    /// Source: Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
    Io,
    /// `ENOSPC`: nothing is written. A sync fails as with [`Io`](Self::Io).
    NoSpace,
    /// `EINTR`: nothing is done, try again. A sync fails as with [`Io`](Self::Io).
    Interrupted,
    /// `EAGAIN`: nothing is done, try again. A sync fails as with [`Io`](Self::Io).
    WouldBlock,
    /// A read or write moves at most so many bytes and says so; 0 is a write of nothing. Other calls are spared.
    Short(usize),
    /// A write says that it is done, but reads go on to see the old bytes. Other calls are spared.
    Lost,
    /// A write says that it is done, but its bytes are seen this many bytes further on. Other calls are spared.
    Misdirected {
        /// How far off, in bytes.
        by: i64,
    },
}

impl FaultKind {
    pub(crate) fn error(self) -> Option<io::Error> {
        // By number, as the operating system would say it.
        match self {
            Self::Io => Some(io::Error::from_raw_os_error(5)),
            Self::NoSpace => Some(ErrorKind::StorageFull.into()),
            Self::Interrupted => Some(ErrorKind::Interrupted.into()),
            Self::WouldBlock => Some(ErrorKind::WouldBlock.into()),
            Self::Short(_) | Self::Lost | Self::Misdirected { .. } => None,
        }
    }
}

/// When something goes wrong, and what. Calls are counted from the moment it is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The calls that count and that can go wrong.
    pub calls: CallSet,
    /// How many of them go well before.
    pub after: u64,
    /// Whether all later ones go wrong too, or this one only.
    pub sticky: bool,
    /// What goes wrong.
    pub kind: FaultKind,
}

#[derive(Debug)]
struct Armed {
    fault: Fault,
    calls_seen: u64,
}

/// What reads see instead of the file's bytes.
#[derive(Debug)]
struct Overlay {
    at: u64,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Flip {
    at: u64,
    mask: u8,
    sticky: bool,
}

/// All that is wrong with one disk.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    armed: Vec<Armed>,
    overlays: Vec<Overlay>,
    flips: Vec<Flip>,
    /// How often something went wrong.
    pub(crate) fired: u64,
}

impl Faults {
    pub(crate) fn arm(&mut self, fault: Fault) {
        self.armed.push(Armed { fault, calls_seen: 0 });
    }

    pub(crate) fn lift(&mut self) {
        *self = Self { fired: self.fired, ..Self::default() };
    }

    pub(crate) fn flip(&mut self, at: u64, mask: u8, sticky: bool) {
        self.flips.push(Flip { at, mask, sticky });
    }

    /// Counts a call and says whether, and how, it goes wrong.
    pub(crate) fn meet(&mut self, call: CallSet) -> Option<FaultKind> {
        let mut met = None;
        for armed in self.armed.iter_mut().filter(|armed| armed.fault.calls.meets(call)) {
            let seen = armed.calls_seen;
            armed.calls_seen += 1;
            let due = if armed.fault.sticky { seen >= armed.fault.after } else { seen == armed.fault.after };
            let moves_bytes = call.meets(CallSet::WRITES | CallSet::READ);
            let possible = match armed.fault.kind {
                FaultKind::Short(_) => moves_bytes,
                FaultKind::Lost | FaultKind::Misdirected { .. } => call.meets(CallSet::WRITES),
                _ => true,
            };
            if due && possible {
                met = met.or(Some(armed.fault.kind));
            }
        }
        self.fired += u64::from(met.is_some());
        met
    }

    pub(crate) fn overlay(&mut self, at: u64, bytes: Vec<u8>) {
        self.uncover(at..at.saturating_add(bytes.len() as u64));
        self.overlays.push(Overlay { at, bytes });
    }

    /// A range was written anew, and properly this time.
    pub(crate) fn uncover(&mut self, range: Range<u64>) {
        let mut left = Vec::with_capacity(self.overlays.len());
        for overlay in self.overlays.drain(..) {
            let end = overlay.at + overlay.bytes.len() as u64;
            if end <= range.start || range.end <= overlay.at {
                left.push(overlay);
                continue;
            }
            if overlay.at < range.start {
                let kept = index(range.start - overlay.at);
                left.push(Overlay { at: overlay.at, bytes: overlay.bytes[..kept].to_vec() });
            }
            if range.end < end {
                let gone = index(range.end - overlay.at);
                left.push(Overlay { at: range.end, bytes: overlay.bytes[gone..].to_vec() });
            }
        }
        self.overlays = left;
    }

    /// Falsifies what was read.
    pub(crate) fn distort(&mut self, at: u64, read: &mut [u8]) {
        let end = at + read.len() as u64;
        for overlay in &self.overlays {
            let start = overlay.at.max(at);
            let until = (overlay.at + overlay.bytes.len() as u64).min(end);
            if start < until {
                let source = &overlay.bytes[index(start - overlay.at)..index(until - overlay.at)];
                read[index(start - at)..index(until - at)].copy_from_slice(source);
                self.fired += 1;
            }
        }
        let fired = &mut self.fired;
        self.flips.retain(|flip| {
            if flip.at < at || end <= flip.at {
                return true;
            }
            read[index(flip.at - at)] ^= flip.mask;
            *fired += 1;
            flip.sticky
        });
    }
}

/// How much of a write that failed had been written before.
pub(crate) fn written_before_failing(kind: FaultKind, bytes: usize, random: &mut Random) -> usize {
    match kind {
        FaultKind::Io => random.index(bytes + 1),
        _ => 0,
    }
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("within a buffer")
}
