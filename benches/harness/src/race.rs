//! Threads that start at one moment.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

/// Starts all writers at one moment and waits for the last: how long that took, and what each returned.
///
/// # Errors
/// Those of the writers.
///
/// # Panics
/// When a writer does.
pub fn race<T: Send>(
    writers: u32,
    write: impl Fn(u32) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<(Duration, Vec<T>)> {
    let start = Barrier::new(writers as usize + 1);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..writers)
            .map(|writer| {
                let (start, write) = (&start, &write);
                scope.spawn(move || {
                    start.wait();
                    write(writer)
                })
            })
            .collect();
        start.wait();
        let begun = Instant::now();
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join().expect("a writer panicked")).collect();
        Ok((begun.elapsed(), results.into_iter().collect::<anyhow::Result<_>>()?))
    })
}
