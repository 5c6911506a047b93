//! Everywhere else: what the standard library offers. Slower, with the same meaning.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, IoSlice, IoSliceMut},
};

/// Nothing has to be remembered here.
#[derive(Debug, Default)]
pub(super) struct Abilities;

/// The check of the kind before opening has to do.
pub(super) fn never_wait_for_a_peer(_options: &mut OpenOptions) {}

#[cfg(unix)]
pub(super) fn read_at(file: &File, at: u64, into: &mut [u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, into, at)
}

#[cfg(windows)]
pub(super) fn read_at(file: &File, at: u64, into: &mut [u8]) -> io::Result<usize> {
    match std::os::windows::fs::FileExt::seek_read(file, into, at) {
        // Windows reports the end of the file as an error (ERROR_HANDLE_EOF).
        Err(error) if error.raw_os_error() == Some(38) => Ok(0),
        outcome => outcome,
    }
}

#[cfg(unix)]
fn write_at(file: &File, at: u64, bytes: &[u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, bytes, at)
}

#[cfg(windows)]
fn write_at(file: &File, at: u64, bytes: &[u8]) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, bytes, at)
}

pub(super) fn read_vectored_at(file: &File, at: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let mut total = 0;
    for buffer in into.iter_mut().filter(|buffer| !buffer.is_empty()) {
        match read_at(file, at + total as u64, buffer) {
            Ok(bytes) if bytes == buffer.len() => total += bytes,
            Ok(bytes) => return Ok(total + bytes),
            // What was read before the error is still a short read.
            Err(_) if total > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

pub(super) fn write_vectored_at(file: &File, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut total = 0;
    for buffer in run.iter().filter(|buffer| !buffer.is_empty()) {
        match write_at(file, at + total as u64, buffer) {
            Ok(bytes) if bytes == buffer.len() => total += bytes,
            Ok(bytes) => return Ok(total + bytes),
            Err(_) if total > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

pub(super) fn write_sync(file: &File, _abilities: &Abilities, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
    let written = write_vectored_at(file, at, run)?;
    sync_data(file)?;
    Ok(written)
}

pub(super) fn sync_data(file: &File) -> io::Result<()> {
    file.sync_data()
}

/// `false`: the caller writes zeros instead.
pub(super) fn allocate(_file: &File, _at: u64, _bytes: u64) -> io::Result<bool> {
    Ok(false)
}

/// Nobody knows.
pub(super) fn room(_file: &File) -> Option<u64> {
    None
}

pub(super) fn punch(_file: &File, _at: u64, _bytes: u64) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

pub(super) fn drop_cache(_file: &File, _at: u64, _bytes: u64) -> io::Result<()> {
    Ok(())
}

pub(super) fn begin_writeback(_file: &File, _at: u64, _bytes: u64) {}
