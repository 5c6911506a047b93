//! Free space goes back to the file system.

use crate::{
    engine::Engine,
    error::{FileError, IoOp},
};

/// Shorter free runs stay as they are: punching them would only make the file system's own map longer.
const PUNCH_PAGES_MIN: u64 = 16;

impl Engine {
    /// Cuts the free end off and punches free runs, at most `bytes` in all; returns how many went back.
    pub(crate) fn reclaim(&self, bytes: u64) -> Result<u64, FileError> {
        let page_bytes = self.disk.page_bytes as u64;
        let mut pages = bytes / page_bytes;
        let cut = self.cut_tail(pages)?;
        pages -= cut.min(pages);
        let mut punched = 0;
        if pages > 0 {
            let runs = self.space.with(&self.disk, |map| map.reserve_for_punch(pages, PUNCH_PAGES_MIN))?;
            let mut failed = None;
            for run in &runs {
                match self.disk.storage.punch(self.disk.offset(run.start), run.pages * page_bytes) {
                    Ok(()) => punched += run.pages,
                    Err(error) => failed = Some(FileError::io(IoOp::Shrink, self.disk.offset(run.start), error)),
                }
            }
            self.space.give_back(runs);
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok((cut + punched) * page_bytes)
    }

    /// The superblock may say that the file is longer than it then is: what lies beyond is free, and opening extends it again.
    fn cut_tail(&self, pages: u64) -> Result<u64, FileError> {
        self.space.while_not_growing(|| {
            let Some(tail) = self.space.with_no_growth(&self.disk, |map| map.reserve_tail(pages))? else {
                return Ok(0);
            };
            let at = self.disk.offset(tail.start);
            match self.disk.storage.set_len(at) {
                Ok(()) => {
                    self.space.map(|map| map.shrink(tail.start.get()));
                    Ok(tail.pages)
                }
                Err(error) => {
                    self.space.give_back([tail]);
                    Err(FileError::io(IoOp::Shrink, at, error))
                }
            }
        })
    }
}
