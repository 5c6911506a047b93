//! The leader: writes the queue as groups, and syncs it (rules 7 to 9).
#![expect(clippy::cast_possible_truncation, reason = "lengths of buffers in memory fit a usize")]

use super::{CutPosition, Group, LogWriter, Pipeline, SPARE_BYTES_MAX, head_after};
use crate::{
    disk::Disk,
    error::FileError,
    log::{BLOCK_BYTES, GroupHeader},
    options::{FileOptions, Sabotage},
};
use spinney_alloc::Seq;
use std::sync::atomic::Ordering;

impl Pipeline {
    /// Writes what is queued, as one group or several, and syncs it if asked or if an Immediate commit is in it.
    pub(super) fn lead(&self, disk: &Disk, options: &FileOptions, durable: bool) -> Result<(), FileError> {
        let mut log = self.log.lock();
        let (groups, target, immediate) = {
            let mut append = self.append.lock();
            let immediate = append.pending.iter().any(|p| p.immediate);
            append.room.take_queue();
            (std::mem::take(&mut append.groups), self.appended(), immediate)
        };
        let durable = durable || immediate;
        let unsynced: u64 = groups.iter().map(|group| group.unsynced_bytes).sum();
        log.unsynced_bytes += unsynced;
        // `write_sync` covers its own range only: whatever else must be durable needs a sync of the whole file.
        let mut whole = log.plain || log.unsynced_bytes > 0;
        if options.broken(Sabotage::GroupCoversItselfOnly) {
            whole = false;
        }
        let covers_itself = !whole && !options.broken(Sabotage::SmallGroupsUnsynced);
        let mut first = target.0 + 1 - groups.iter().map(|group| u64::from(group.records)).sum::<u64>();
        for group in groups {
            let records = u64::from(group.records);
            self.write_group(disk, &mut log, Seq(first), group, durable && covers_itself)?;
            first += records;
        }
        self.written.fetch_max(target.0, Ordering::AcqRel);
        let mut covered = target;
        if durable {
            if whole {
                let mut synced = disk.sync();
                if options.broken(Sabotage::RetriesSync) && synced.is_err() {
                    synced = disk.sync();
                }
                synced?;
            }
            if !options.broken(Sabotage::RetriesSync) {
                disk.settled()?;
            }
            self.unsynced_bytes.fetch_sub(log.unsynced_bytes, Ordering::Relaxed);
            log.plain = false;
            log.unsynced_bytes = 0;
            if options.broken(Sabotage::DurableReadLate) {
                covered = self.appended();
            }
        } else {
            log.plain = true;
            covered = self.durable();
        }
        drop(log);
        // Visible first: whoever returns because its commit is durable finds it in the next snapshot, and a checkpoint that is
        // durable frees only what no new snapshot can reach.
        self.advance_visible(&mut self.append.lock(), covered);
        self.durable.fetch_max(covered.0, Ordering::AcqRel);
        Ok(())
    }

    /// Writes one group at the head and moves the head behind it.
    fn write_group(
        &self,
        disk: &Disk,
        log: &mut LogWriter,
        first: Seq,
        group: Group,
        synced: bool,
    ) -> Result<(), FileError> {
        let Group { mut buffer, records, cut, .. } = group;
        let end = buffer.len();
        let blocks = (end as u64).div_ceil(BLOCK_BYTES);
        buffer.resize((blocks * BLOCK_BYTES) as usize, 0);
        let header = GroupHeader {
            file_id: self.file_id,
            epoch: log.epoch,
            previous: log.chain,
            first,
            last: Seq(first.0 + u64::from(records) - 1),
            durable: self.durable(),
            records,
        };
        let chain = header.seal(&mut buffer, end);
        let mut from = 0;
        for (at, bytes) in log.layout.pieces(log.head, blocks) {
            let piece = &buffer[from..from + bytes as usize];
            if synced {
                disk.write_sync(at, piece)?
            } else {
                disk.write(at, piece)?
            }
            from += bytes as usize;
        }
        log.chain = chain;
        let layout = cut.clone().unwrap_or_else(|| log.layout.clone());
        log.head = head_after(&log.layout, &layout, log.head, blocks);
        log.layout = layout;
        if cut.is_some() {
            log.cut = Some(CutPosition { seq: header.last, block: log.head, chain });
        }
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(u64::from(records), Ordering::Relaxed);
        self.log_bytes.fetch_add(blocks * BLOCK_BYTES, Ordering::Relaxed);
        let mut append = self.append.lock();
        if append.spare.capacity() == 0 && buffer.capacity() <= SPARE_BYTES_MAX {
            append.spare = buffer;
        }
        let room = &mut append.room;
        room.writing -= blocks;
        // Not one more than before: a log that grew while it was wrapped has its new blocks between tail and head, and they are
        // of no use until the tail has moved.
        room.used = log.layout.distance(log.tail, log.head);
        room.blocks = log.layout.blocks();
        assert!(room.promised() < room.blocks, "rule 5: the log never overtakes its own tail");
        Ok(())
    }

    /// Where the log goes on after the checkpoint `seq`, once its group is written.
    pub(crate) fn cut_position(&self, seq: Seq) -> CutPosition {
        let cut = self.log.lock().cut.expect("what a checkpoint covers was written");
        assert_eq!(cut.seq, seq, "one checkpoint at a time");
        cut
    }

    /// The superblock of the checkpoint that ended at `cut` is durable and the older one is marked: blocks before it are free, and groups
    /// from now on carry the next epoch.
    pub(crate) fn free_before(&self, cut: CutPosition) {
        let mut log = self.log.lock();
        log.epoch += 1;
        log.tail = cut.block;
        self.append.lock().room.used = log.layout.distance(log.tail, log.head);
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.log.lock().epoch
    }
}
