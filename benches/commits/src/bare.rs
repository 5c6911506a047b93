//! The yardstick: a synced overwrite of one block, by the call that the log is written with.

use crate::measure::Speed;
use anyhow::ensure;
use rustix::{
    fs::fdatasync,
    io::{Errno, ReadWriteFlags, pwritev, pwritev2},
};
use spinney_bench_harness::{Pool, race};
use std::{
    fs::{File, OpenOptions},
    io::IoSlice,
    path::Path,
    time::Instant,
};

const BLOCK_BYTES: usize = 4096;
/// Each file's, written in turn, as a ring.
const BLOCKS: u32 = 1024;

/// Files that have all their blocks, one for each thread.
pub(crate) struct Bare {
    files: Vec<File>,
    blocks: Pool,
    has_synced_writes: bool,
}

impl Bare {
    /// Makes the files and writes each once.
    pub(crate) fn create(folder: &Path, threads: u32) -> anyhow::Result<Self> {
        let mut bare = Self { files: Vec::new(), blocks: Pool::new(1 << 20), has_synced_writes: true };
        for number in 0..threads {
            let path = folder.join(format!("bare {number}"));
            let file = OpenOptions::new().write(true).create_new(true).open(path)?;
            for block in 0..BLOCKS {
                pwritev(&file, &[IoSlice::new(bare.block(block))], offset(block))?;
            }
            file.sync_all()?;
            bare.files.push(file);
        }
        let first = [IoSlice::new(bare.block(0))];
        bare.has_synced_writes = match pwritev2(&bare.files[0], &first, 0, ReadWriteFlags::DSYNC) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => false,
            written => written.map(|_| true)?,
        };
        Ok(bare)
    }

    /// What each overwrite is, in words.
    pub(crate) fn call(&self) -> &'static str {
        if self.has_synced_writes { "`pwritev2(RWF_DSYNC)`" } else { "`pwritev` and `fdatasync`" }
    }

    /// Lets each of so many threads overwrite its own file.
    pub(crate) fn run(&self, threads: u32, overwrites: u32) -> anyhow::Result<Speed> {
        let (elapsed, latencies) = race(threads, |thread| {
            let mut latencies = Vec::with_capacity(overwrites as usize);
            for block in (0..BLOCKS).cycle().take(overwrites as usize) {
                let begun = Instant::now();
                self.overwrite(&self.files[thread as usize], block)?;
                latencies.push(begun.elapsed());
            }
            Ok(latencies)
        })?;
        Ok(Speed { elapsed, commits: u64::from(threads) * u64::from(overwrites), latencies: latencies.concat() })
    }

    fn overwrite(&self, file: &File, block: u32) -> anyhow::Result<()> {
        let bytes = [IoSlice::new(self.block(block))];
        let written = if self.has_synced_writes {
            pwritev2(file, &bytes, offset(block), ReadWriteFlags::DSYNC)?
        } else {
            let written = pwritev(file, &bytes, offset(block))?;
            fdatasync(file)?;
            written
        };
        ensure!(written == BLOCK_BYTES, "a short write: {written} bytes");
        Ok(())
    }

    fn block(&self, block: u32) -> &[u8] {
        self.blocks.cut(u64::from(block), BLOCK_BYTES)
    }
}

fn offset(block: u32) -> u64 {
    u64::from(block) * BLOCK_BYTES as u64
}
