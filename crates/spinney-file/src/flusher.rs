//! Dirty pages leave for the disk together: sorted, neighbours joined, one vectored write for each run.
//!
//! ```text
//!   p9 p3 p4 p8 p5   --sort-->   p3 p4 p5 | p8 p9   --two writes, nothing copied-->   disk
//! ```
//! 260 pages of 4 KiB took 2.16 ms in one write each and 0.42 ms in one write together, and scattered ones gain
//! nothing from being sorted: what counts is that pages of one commit were allocated side by side. Hence the mean
//! run length is counted.
//!
//! A flush holds no lock and shares nothing with other flushes but counters.

use crate::{
    Extent, FileError, PageNo,
    counters::{FlushCounters, Histogram},
    page::{PageHeader, RunDigest},
};
use bytes::Bytes;
use std::io::IoSlice;

/// Buffers per write: Linux's `IOV_MAX`. A longer run takes several writes.
const BUFFERS_PER_WRITE_MAX: usize = 1024;

/// How one flush writes, and who counts it.
pub(crate) struct Flusher<'a, W> {
    /// Page size, in bytes.
    pub(crate) page_bytes: usize,
    /// Whether neighbours share a write. Off, each page is a write of its own, which only a benchmark wants.
    pub(crate) merge: bool,
    /// Counts of this purpose: images or checkpoints.
    pub(crate) counters: &'a FlushCounters,
    /// How long each write took.
    pub(crate) latency: &'a Histogram,
    /// Writes all of the buffers, one after another, from a byte of the file on, and returns how many system calls
    /// that took. At most 1024 buffers at a time.
    pub(crate) write: W,
}

/// Adjacent pages that have been written, and what proves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WrittenRun {
    pub(crate) extent: Extent,
    /// [`RunDigest`] of its pages.
    pub(crate) digest: u64,
}

/// What one flush has written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlushReport {
    /// Pages written.
    pub(crate) pages: u64,
    /// Bytes written.
    pub(crate) bytes: u64,
    /// System calls that took.
    pub(crate) calls: u64,
    /// The runs in order, each as long as can be: no two touch. The same with merging on and off.
    pub(crate) runs: Vec<WrittenRun>,
}

/// A page, or the adjacent pages of a large value, in one buffer.
struct Item<'a> {
    extent: Extent,
    bytes: &'a [u8],
    is_sealed: bool,
}

impl<W: FnMut(u64, &[IoSlice<'_>]) -> Result<u64, FileError>> Flusher<'_, W> {
    /// Writes sealed pages and raw runs (large values: whole pages without headers, by their first page). Both are
    /// written once: no page may occur twice.
    ///
    /// # Errors
    /// The first that `write` returns. Any part of the pages may have been written then.
    pub(crate) fn flush(
        &mut self,
        sealed: &[(PageNo, Bytes)],
        raw: &[(PageNo, Bytes)],
    ) -> Result<FlushReport, FileError> {
        let items = self.items(sealed, raw);
        let mut report = FlushReport::default();
        for run in items.chunk_by(|left, right| left.extent.end() == right.extent.start.get()) {
            let mut digest = RunDigest::new();
            for item in run {
                for page in item.bytes.chunks_exact(self.page_bytes) {
                    if item.is_sealed { digest.push_sealed(page) } else { digest.push_raw(page) }
                }
            }
            if self.merge {
                self.write_run(run, &mut report)?;
            } else {
                run.chunks(1).try_for_each(|page| self.write_run(page, &mut report))?;
            }
            let pages = run.iter().map(|item| item.extent.pages).sum();
            report
                .runs
                .push(WrittenRun { extent: Extent { start: run[0].extent.start, pages }, digest: digest.finish() });
        }
        Ok(report)
    }

    /// Everything to write, in order of page number, so that neighbours meet.
    fn items<'p>(&self, sealed: &'p [(PageNo, Bytes)], raw: &'p [(PageNo, Bytes)]) -> Vec<Item<'p>> {
        let mut items = Vec::with_capacity(sealed.len() + raw.len());
        for (page, bytes) in sealed {
            assert_eq!(bytes.len(), self.page_bytes, "page {page}");
            assert_eq!(PageHeader::page_no(bytes), Some(*page), "page {page} was not sealed as such");
            items.push(Item { extent: Extent::page(*page), bytes, is_sealed: true });
        }
        for (start, bytes) in raw {
            let pages = (bytes.len() / self.page_bytes) as u64;
            assert!(
                pages > 0 && bytes.len().is_multiple_of(self.page_bytes),
                "value at page {start} is not whole pages"
            );
            items.push(Item { extent: Extent { start: *start, pages }, bytes, is_sealed: false });
        }
        items.sort_unstable_by_key(|item| item.extent.start);
        for pair in items.windows(2) {
            assert!(pair[0].extent.end() <= pair[1].extent.start.get(), "page {} twice", pair[1].extent.start);
        }
        items
    }

    /// Writes adjacent items, as many buffers at a time as a call takes.
    fn write_run(&mut self, run: &[Item<'_>], report: &mut FlushReport) -> Result<(), FileError> {
        let (mut run_pages, mut run_bytes, mut run_calls) = (0, 0, 0);
        for part in run.chunks(BUFFERS_PER_WRITE_MAX) {
            let buffers: Vec<IoSlice<'_>> = part.iter().map(|item| IoSlice::new(item.bytes)).collect();
            let at = part[0].extent.start.get() * self.page_bytes as u64;
            run_calls += self.latency.time(|| (self.write)(at, &buffers))?;
            run_pages += part.iter().map(|item| item.extent.pages).sum::<u64>();
            run_bytes += part.iter().map(|item| item.bytes.len() as u64).sum::<u64>();
        }
        self.counters.count_run(run_pages, run_bytes, run_calls);
        report.pages += run_pages;
        report.bytes += run_bytes;
        report.calls += run_calls;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Owner, Stamp, counters::FlushStats, page};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const PAGE_BYTES: usize = 64;

    fn sealed(number: u64) -> (PageNo, Bytes) {
        let mut page = vec![3; PAGE_BYTES];
        let number = PageNo::new(number).unwrap();
        page::seal(&mut page, number, Stamp(1), Owner(0));
        (number, page.into())
    }

    fn raw(start: u64, pages: usize) -> (PageNo, Bytes) {
        let bytes: Vec<u8> = (0..pages * PAGE_BYTES).map(|i| u8::try_from(i % 251).unwrap()).collect();
        (PageNo::new(start).unwrap(), bytes.into())
    }

    /// Flushes to bytes in memory. Returns them with the report, the counts, and each write's pages.
    fn flush(
        merge: bool,
        sealed: &[(PageNo, Bytes)],
        raw: &[(PageNo, Bytes)],
    ) -> (Vec<u8>, FlushReport, FlushStats, Vec<(usize, usize)>) {
        let (counters, latency) = (FlushCounters::default(), Histogram::default());
        let (mut disk, mut writes) = (Vec::new(), Vec::new());
        let write = |at: u64, buffers: &[IoSlice<'_>]| {
            assert!(buffers.len() <= BUFFERS_PER_WRITE_MAX);
            let mut here = usize::try_from(at).unwrap();
            let start = here;
            for buffer in buffers {
                let end = here + buffer.len();
                disk.resize(disk.len().max(end), 0);
                disk[here..end].copy_from_slice(buffer);
                here = end;
            }
            writes.push((start / PAGE_BYTES, (here - start) / PAGE_BYTES));
            Ok(2) // as if each were short once
        };
        let mut flusher = Flusher { page_bytes: PAGE_BYTES, merge, counters: &counters, latency: &latency, write };
        let report = flusher.flush(sealed, raw).unwrap();
        assert_eq!(latency.snapshot().count(), writes.len() as u64);
        (disk, report, counters.snapshot(), writes)
    }

    proptest! {
        #[test]
        fn a_flush_is_each_page_written_once(
            pages in prop::collection::btree_map(1..60_u64, prop::option::weighted(0.2, 1..5_usize), 0..40),
            order in any::<prop::sample::Index>(), merge: bool,
        ) {
            let (mut pages_sealed, mut pages_raw, mut model) = (Vec::new(), Vec::new(), BTreeMap::new());
            let mut free_from = 0;
            for (&at, kind) in &pages {
                if at >= free_from {
                    let (number, bytes) = kind.map_or_else(|| sealed(at), |pages| raw(at, pages));
                    for (i, page) in bytes.chunks(PAGE_BYTES).enumerate() {
                        model.insert(at + i as u64, page.to_vec());
                    }
                    free_from = at + (bytes.len() / PAGE_BYTES) as u64;
                    if kind.is_some() { &mut pages_raw } else { &mut pages_sealed }.push((number, bytes));
                }
            }
            if !pages_sealed.is_empty() {
                let middle = order.index(pages_sealed.len());
                pages_sealed.rotate_left(middle);
            }
            let (disk, report, counted, writes) = flush(merge, &pages_sealed, &pages_raw);

            for at in 0..disk.len() / PAGE_BYTES {
                let expected = model.get(&(at as u64)).cloned().unwrap_or_else(|| vec![0; PAGE_BYTES]);
                prop_assert_eq!(&disk[at * PAGE_BYTES..][..PAGE_BYTES], &expected[..], "page {}", at);
            }
            prop_assert_eq!(report.pages, model.len() as u64);
            prop_assert_eq!(report.bytes, (model.len() * PAGE_BYTES) as u64);
            prop_assert_eq!(report.calls, 2 * writes.len() as u64);
            prop_assert_eq!((counted.pages, counted.bytes, counted.calls), (report.pages, report.bytes, report.calls));
            prop_assert_eq!(counted.runs, writes.len() as u64);
            prop_assert_eq!(writes.len(), if merge { report.runs.len() } else { pages_sealed.len() + pages_raw.len() });

            // Runs are as long as can be, and what recovery computes from the disk alone is their digest.
            let in_runs: Vec<u64> = report.runs.iter().flat_map(|run| run.extent.start.get()..run.extent.end()).collect();
            prop_assert!(in_runs.iter().eq(model.keys()));
            prop_assert!(report.runs.windows(2).all(|pair| pair[0].extent.end() < pair[1].extent.start.get()));
            for run in &report.runs {
                let mut digest = RunDigest::new();
                for at in run.extent.start.get()..run.extent.end() {
                    digest.push_raw(&disk[usize::try_from(at).unwrap() * PAGE_BYTES..][..PAGE_BYTES]);
                }
                prop_assert_eq!(digest.finish(), run.digest);
            }
        }
    }

    #[test]
    fn a_run_longer_than_a_call_takes_several() {
        let pages: Vec<_> = (10..10 + 2500).map(sealed).collect();
        let (_, report, counted, writes) = flush(true, &pages, &[]);
        assert_eq!(writes, [(10, 1024), (1034, 1024), (2058, 452)]);
        assert_eq!((report.runs.len(), counted.runs, counted.mean_run_pages()), (1, 1, 2500.0));
    }

    #[test]
    fn a_failed_write_ends_the_flush() {
        let (counters, latency) = (FlushCounters::default(), Histogram::default());
        let mut left = 1;
        let write = |_: u64, _: &[IoSlice<'_>]| {
            left -= 1;
            if left < 0 { Err(FileError::Full { bytes_wanted: 64 }) } else { Ok(1) }
        };
        let mut flusher =
            Flusher { page_bytes: PAGE_BYTES, merge: true, counters: &counters, latency: &latency, write };
        let outcome = flusher.flush(&[sealed(1), sealed(3), sealed(5)], &[]);
        assert!(matches!(outcome, Err(FileError::Full { .. })));
        assert_eq!((left, counters.snapshot().runs), (-1, 1), "it went on after the error");
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn a_page_cannot_be_in_two_buffers() {
        flush(true, &[sealed(5)], &[raw(3, 3)]);
    }

    #[test]
    #[should_panic(expected = "not sealed as such")]
    fn a_page_goes_where_its_header_says() {
        flush(true, &[(PageNo::new(4).unwrap(), sealed(5).1)], &[]);
    }
}
