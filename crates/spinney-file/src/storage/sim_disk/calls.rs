//! What each call does: count it, let it go wrong if it shall, change the state step by step.

use super::{
    CallCounts, Inner, SimDisk,
    blocks::{BLOCK_BYTES, Block},
    faults::{CallSet, FaultKind, written_before_failing},
    log::{Call, Step},
    state::{DiskState, Effect, Issue},
};
use crate::Storage;
use parking_lot::MutexGuard;
use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    sync::{Arc, atomic::Ordering},
    thread,
};

impl Storage for SimDisk {
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let (mut inner, fault) = self.enter(CallSet::READ, |counts| &mut counts.read_at)?;
        inner.read(at, &mut [IoSliceMut::new(into)], fault)
    }

    fn read_vectored_at(&self, at: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let (mut inner, fault) = self.enter(CallSet::READ, |counts| &mut counts.read_vectored_at)?;
        inner.read(at, into, fault)
    }

    fn write_vectored_at(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(at, run, false)
    }

    fn write_sync(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(at, run, true)
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut inner, fault) = self.enter(CallSet::SYNC, |counts| &mut counts.sync_data)?;
        let before = inner.next_issue;
        inner.step(Step::SyncBegan);
        inner = self.pause(inner)?;
        match fault.and_then(FaultKind::error) {
            None => inner.step(Step::Synced { before }),
            Some(error) => {
                let seed = inner.random.next();
                inner.step(Step::SyncFailed { before, seed });
                return Err(error);
            }
        }
        Ok(())
    }

    fn allocate(&self, at: u64, bytes: u64) -> io::Result<()> {
        let (mut inner, fault) = self.enter(CallSet::ALLOCATE, |counts| &mut counts.allocate)?;
        if let Some(error) = fault.and_then(FaultKind::error) {
            return Err(error);
        }
        let end = at.checked_add(bytes).filter(|end| i64::try_from(*end).is_ok()).ok_or(ErrorKind::FileTooLarge)?;
        let holes: Vec<u64> = (at / BLOCK_BYTES as u64..end.div_ceil(BLOCK_BYTES as u64))
            .filter(|block| inner.state.live.get(*block).is_none())
            .collect();
        if holes.len() as u64 > inner.blocks_free() {
            return Err(ErrorKind::StorageFull.into());
        }
        let effects = inner.state.lengthened_to(end);
        inner.change(Call::Allocate { at, bytes }, effects.into_iter().collect());
        let zeros = Block::new([0; BLOCK_BYTES]);
        for block in holes {
            inner.state.live.set(block, Some(Arc::clone(&zeros)));
        }
        Ok(())
    }

    fn punch(&self, at: u64, bytes: u64) -> io::Result<()> {
        self.tell_observer(at, bytes);
        let (mut inner, fault) = self.enter(CallSet::PUNCH, |counts| &mut counts.punch)?;
        if let Some(error) = fault.and_then(FaultKind::error) {
            return Err(error);
        }
        let effects = inner.state.effects_of_punch(at, bytes);
        inner.faults.uncover(at..at.saturating_add(bytes));
        inner.change(Call::Punch { at, bytes }, effects);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let (inner, fault) = self.enter(CallSet::LEN, |counts| &mut counts.len)?;
        fault.and_then(FaultKind::error).map_or(Ok(inner.state.live.len()), Err)
    }

    fn room(&self) -> Option<u64> {
        let inner = self.inner();
        inner.capacity_blocks.map(|_| inner.blocks_free() * BLOCK_BYTES as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let (mut inner, fault) = self.enter(CallSet::SET_LEN, |counts| &mut counts.set_len)?;
        if let Some(error) = fault.and_then(FaultKind::error) {
            return Err(error);
        }
        inner.faults.uncover(bytes..u64::MAX);
        inner.change(Call::SetLen { bytes }, vec![Effect::Length(bytes)]);
        Ok(())
    }

    fn lock(&self) -> io::Result<bool> {
        let (_inner, fault) = self.enter(CallSet::LOCK, |counts| &mut counts.lock)?;
        if let Some(error) = fault.and_then(FaultKind::error) {
            return Err(error);
        }
        if self.holds_lock.load(Ordering::Acquire) {
            return Ok(true);
        }
        // Pairs with the release in `drop`.
        let taken = !self.shared.locked.swap(true, Ordering::Acquire);
        if taken {
            self.holds_lock.store(true, Ordering::Release);
        }
        Ok(taken)
    }

    fn drop_cache(&self, at: u64, bytes: u64) -> io::Result<()> {
        let (mut inner, fault) = self.enter(CallSet::DROP_CACHE, |counts| &mut counts.drop_cache)?;
        if let Some(error) = fault.and_then(FaultKind::error) {
            return Err(error);
        }
        inner.step(Step::CacheDropped { at, bytes });
        Ok(())
    }
}

impl SimDisk {
    /// Counts a call; an error or a fault if it is to go wrong.
    fn enter(
        &self,
        call: CallSet,
        count: impl FnOnce(&mut CallCounts) -> &mut u64,
    ) -> io::Result<(MutexGuard<'_, Inner>, Option<FaultKind>)> {
        self.shared.stalls.pass(call);
        let mut inner = self.inner();
        inner.check_power()?;
        *count(&mut inner.counts) += 1;
        let fault = inner.faults.meet(call);
        Ok((inner, fault))
    }

    /// Lets others in, if they shall be let in.
    fn pause<'g>(&'g self, inner: MutexGuard<'g, Inner>) -> io::Result<MutexGuard<'g, Inner>> {
        if !self.shared.overlap.load(Ordering::Relaxed) {
            return Ok(inner);
        }
        drop(inner);
        thread::yield_now();
        let inner = self.inner();
        inner.check_power()?;
        Ok(inner)
    }

    fn tell_observer(&self, at: u64, bytes: u64) {
        let observer = self.shared.observer.read().clone();
        if let Some(observer) = observer {
            observer.about_to_write(at, bytes);
        }
    }

    fn write(&self, at: u64, run: &[IoSlice<'_>], durable: bool) -> io::Result<usize> {
        let wanted = run.iter().map(|buffer| buffer.len()).sum::<usize>();
        at.checked_add(wanted as u64).filter(|end| i64::try_from(*end).is_ok()).ok_or(ErrorKind::FileTooLarge)?;
        self.tell_observer(at, wanted as u64);
        let (mut inner, fault) = if durable {
            self.enter(CallSet::WRITE_SYNC, |counts| &mut counts.write_sync)?
        } else {
            self.enter(CallSet::WRITE, |counts| &mut counts.write_vectored_at)?
        };
        let error = fault.and_then(FaultKind::error);
        let mut bytes = match (fault, &error) {
            // A durable write fails after it handed all its bytes over; only then does the device say no.
            (Some(FaultKind::Io), _) if durable => wanted,
            (Some(kind), Some(_)) => written_before_failing(kind, wanted, &mut inner.random),
            (Some(FaultKind::Short(bytes)), _) => bytes.min(wanted),
            _ => wanted,
        };
        if bytes > 0 {
            bytes = inner.bytes_that_fit(at, bytes);
            if bytes == 0 {
                return Err(error.unwrap_or_else(|| ErrorKind::StorageFull.into()));
            }
            let end = at + bytes as u64;
            inner.falsify(fault, at, run, bytes);
            let effects = inner.state.effects_of_write(at, run, bytes);
            let call =
                if durable { Call::WriteSync { at, bytes: end - at } } else { Call::Write { at, bytes: end - at } };
            let issue = inner.change(call, effects);
            if durable {
                inner = self.pause(inner)?;
                let seed = inner.random.next();
                inner.step(match error {
                    None => Step::WriteSynced { issue },
                    Some(_) => Step::WriteSyncFailed { issue, seed },
                });
            }
        }
        inner.counts.bytes_written += bytes as u64;
        error.map_or(Ok(bytes), Err)
    }
}

impl Inner {
    fn check_power(&self) -> io::Result<()> {
        if self.powered {
            return Ok(());
        }
        Err(io::Error::new(ErrorKind::BrokenPipe, "the power of this simulated disk was cut"))
    }

    /// Does one step, and keeps a record of it.
    fn step(&mut self, step: Step) {
        step.redo(&mut self.state);
        if let Some(log) = &mut self.log {
            log.steps.push(step);
        }
    }

    fn change(&mut self, call: Call, effects: Vec<Effect>) -> Issue {
        let issue = self.next_issue;
        self.next_issue += 1;
        self.step(Step::Changed { call, issue, effects });
        issue
    }

    fn read(&mut self, at: u64, into: &mut [IoSliceMut<'_>], fault: Option<FaultKind>) -> io::Result<usize> {
        if let Some(error) = fault.and_then(FaultKind::error) {
            return Err(error);
        }
        let mut left = match fault {
            Some(FaultKind::Short(bytes)) => bytes,
            _ => usize::MAX,
        };
        let mut total = 0;
        for buffer in into {
            let wanted = left.min(buffer.len());
            let here = at.saturating_add(total as u64);
            let read = self.state.live.read(here, &mut buffer[..wanted]);
            self.faults.distort(here, &mut buffer[..read]);
            total += read;
            left -= read;
            if read < buffer.len() {
                break;
            }
        }
        self.counts.bytes_read += total as u64;
        Ok(total)
    }

    fn blocks_free(&self) -> u64 {
        self.capacity_blocks.map_or(u64::MAX, |blocks| blocks.saturating_sub(self.state.live.allocated_count()))
    }

    /// How much of a write there is room for.
    fn bytes_that_fit(&self, at: u64, bytes: usize) -> usize {
        let mut free = self.blocks_free();
        if free == u64::MAX {
            return bytes;
        }
        let end = at + bytes as u64;
        for block in at / BLOCK_BYTES as u64..end.div_ceil(BLOCK_BYTES as u64) {
            if self.state.live.get(block).is_some() {
                continue;
            }
            if free == 0 {
                let fitting = (block * BLOCK_BYTES as u64).saturating_sub(at);
                return usize::try_from(fitting).expect("less than the run");
            }
            free -= 1;
        }
        bytes
    }

    /// Prepares what reads will see of a write that the device loses or misplaces, and of one that it does not.
    fn falsify(&mut self, fault: Option<FaultKind>, at: u64, run: &[IoSlice<'_>], bytes: usize) {
        let old = |state: &DiskState, at| {
            let mut old = vec![0; bytes];
            let _ = state.live.read(at, &mut old); // beyond the end: zeros
            old
        };
        match fault {
            Some(FaultKind::Lost) => self.faults.overlay(at, old(&self.state, at)),
            Some(FaultKind::Misdirected { by }) => {
                let new: Vec<u8> = run.iter().flat_map(|buffer| buffer.iter().copied()).take(bytes).collect();
                self.faults.overlay(at, old(&self.state, at));
                self.faults.overlay(at.saturating_add_signed(by), new);
            }
            _ => self.faults.uncover(at..at + bytes as u64),
        }
    }
}
