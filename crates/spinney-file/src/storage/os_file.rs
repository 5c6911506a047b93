//! A file of the operating system: the only code that makes system calls.

#[cfg(target_os = "linux")]
#[path = "os_file/linux.rs"]
mod sys; // vectored calls, RWF_DSYNC, fallocate
#[cfg(not(target_os = "linux"))]
#[path = "os_file/portable.rs"]
mod sys; // the same by means of the standard library

use crate::{FileError, IoOp, Storage, process};
use std::{
    fs::{self, File, FileType, Metadata, OpenOptions, TryLockError},
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    path::{Path, PathBuf},
};

/// A regular file, open for reading and writing or for reading only.
///
/// | call | Linux | elsewhere |
/// |---|---|---|
/// | vectored reads and writes | `preadv`, `pwritev` | one call per buffer: shorter, never wrong |
/// | [`write_sync`](Storage::write_sync) | `pwritev2(RWF_DSYNC)`; where that is unknown, a write and `fdatasync` | a write and a full sync |
/// | [`sync_data`](Storage::sync_data) | `fdatasync` | `File::sync_data` (`F_FULLFSYNC` on macOS) |
/// | [`begin_writeback`](Storage::begin_writeback) | `posix_fadvise(DONTNEED)` | nothing |
/// | [`allocate`](Storage::allocate) | `fallocate`; where that is unknown, zeros are written | zeros are written |
/// | [`punch`](Storage::punch) | `fallocate(PUNCH_HOLE)` | [`ErrorKind::Unsupported`] |
/// | [`drop_cache`](Storage::drop_cache) | `posix_fadvise(DONTNEED)` | nothing |
///
/// The lock is `flock` (`LockFileEx` on Windows): it belongs to the open file, so a second opening in the same process
/// meets it too, and closing some other handle does not drop it. A process that is forked shares it, and may not write.
#[derive(Debug)]
pub struct OsFile {
    file: File,
    path: PathBuf,
    writable: bool,
    sys: sys::Abilities,
    opened_by: u32,
}

impl OsFile {
    /// Opens an existing file for reading and writing. A symbolic link is followed.
    ///
    /// # Errors
    /// [`FileError::Io`]: [`ErrorKind::NotFound`] when there is none, [`ErrorKind::InvalidInput`] when it is a directory,
    /// a pipe or a device.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FileError> {
        Self::open_existing(path.as_ref(), true).map_err(opening)
    }

    /// Opens an existing file; every call that would change it fails with [`ErrorKind::PermissionDenied`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self, FileError> {
        Self::open_existing(path.as_ref(), false).map_err(opening)
    }

    /// Creates a file that only its owner may read and write, and makes its name durable. Nothing that exists is touched,
    /// and no symbolic link followed.
    ///
    /// # Errors
    /// [`FileError::Io`]: [`ErrorKind::AlreadyExists`] when the name is taken.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, FileError> {
        Self::create_new(path.as_ref()).map_err(opening)
    }

    /// Opens the file, or creates it when it is missing; `true` says that it was created.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`create`](Self::create); a symbolic link that leads nowhere is an error.
    pub fn open_or_create(path: impl AsRef<Path>) -> Result<(Self, bool), FileError> {
        let path = path.as_ref();
        match Self::open_existing(path, true) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => return opened.map(|file| (file, false)).map_err(opening),
        }
        match Self::create_new(path) {
            // Somebody else was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::open(path).map(|file| (file, false)),
            created => created.map(|file| (file, true)).map_err(opening),
        }
    }

    /// Where the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file was opened for writing too.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    fn open_existing(path: &Path, writable: bool) -> io::Result<Self> {
        // Asked before opening, because opening a device can have effects; and again after it, because a name can change hands.
        refuse_irregular(path, &fs::metadata(path)?)?;
        let mut options = OpenOptions::new();
        options.read(true).write(writable);
        sys::never_wait_for_a_peer(&mut options);
        let file = options.open(path)?;
        refuse_irregular(path, &file.metadata()?)?;
        Ok(Self::over(file, path, writable))
    }

    fn create_new(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path)?;
        sync_parent(path)?;
        Ok(Self::over(file, path, true))
    }

    fn over(file: File, path: &Path, writable: bool) -> Self {
        Self { file, path: path.to_path_buf(), writable, sys: sys::Abilities::default(), opened_by: process::id() }
    }

    fn changeable(&self) -> io::Result<()> {
        // Asked of every write: a transaction may have been begun before its process was forked.
        if process::id() != self.opened_by {
            return Err(io::Error::new(ErrorKind::PermissionDenied, FileError::Forked));
        }
        if self.writable {
            return Ok(());
        }
        Err(io::Error::new(ErrorKind::PermissionDenied, "the file is open for reading only"))
    }
}

impl Drop for OsFile {
    /// Closing alone does not free the lock while a copy of the descriptor lives on, and each program that this process starts has one
    /// between `fork` and `exec`: whoever closed the file could not open it again at once.
    fn drop(&mut self) {
        // A forked child's copy is the same lock, and the parent's.
        if process::id() == self.opened_by {
            // Nobody could do anything about it; closing frees it a little later.
            let _ = self.file.unlock();
        }
    }
}

impl Storage for OsFile {
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        sys::read_at(&self.file, at, into)
    }

    fn read_vectored_at(&self, at: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        sys::read_vectored_at(&self.file, at, into)
    }

    fn write_vectored_at(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
        self.changeable()?;
        sys::write_vectored_at(&self.file, at, run)
    }

    fn write_sync(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
        self.changeable()?;
        sys::write_sync(&self.file, &self.sys, at, run)
    }

    fn sync_data(&self) -> io::Result<()> {
        sys::sync_data(&self.file)
    }

    fn begin_writeback(&self, at: u64, bytes: u64) {
        sys::begin_writeback(&self.file, at, bytes);
    }

    fn allocate(&self, at: u64, bytes: u64) -> io::Result<()> {
        self.changeable()?;
        if bytes == 0 {
            return Ok(());
        }
        if sys::allocate(&self.file, at, bytes)? {
            return Ok(());
        }
        let end = at.checked_add(bytes).ok_or(ErrorKind::FileTooLarge)?;
        write_zeros_up_to(&self.file, end)
    }

    fn punch(&self, at: u64, bytes: u64) -> io::Result<()> {
        self.changeable()?;
        if bytes == 0 {
            return Ok(());
        }
        sys::punch(&self.file, at, bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }

    fn room(&self) -> Option<u64> {
        sys::room(&self.file)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.changeable()?;
        self.file.set_len(bytes)
    }

    fn lock(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn drop_cache(&self, at: u64, bytes: u64) -> io::Result<()> {
        sys::drop_cache(&self.file, at, bytes)
    }
}

fn opening(error: io::Error) -> FileError {
    FileError::io(IoOp::Open, 0, error)
}

fn refuse_irregular(path: &Path, metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let what = describe_kind(kind);
    Err(io::Error::new(ErrorKind::InvalidInput, format!("{} is {what}, not a regular file", path.display())))
}

fn describe_kind(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_block_device() || kind.is_char_device() {
            return "a device";
        }
        if kind.is_socket() {
            return "a socket";
        }
    }
    if kind.is_dir() { "a directory" } else { "something else" }
}

/// Makes a new name durable: it is an entry of its directory, not a part of the file.
fn sync_parent(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        File::open(parent)?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = path; // there a directory cannot be opened as a file, and its entries are journalled
    Ok(())
}

/// Lengthens the file to `end` by writing zeros over what lies behind its present end, so that the blocks are there.
/// Holes before its end stay as they are: what others write there meanwhile must not be overwritten.
fn write_zeros_up_to(file: &File, end: u64) -> io::Result<()> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let mut here = file.metadata()?.len();
    while here < end {
        let bytes = usize::try_from(end - here).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        match sys::write_vectored_at(file, here, &[IoSlice::new(&ZEROS[..bytes])]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => here += written as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn read_all(file: &OsFile) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        assert_eq!(file.read_at(0, &mut all).unwrap(), all.len());
        all
    }

    fn kind_of(error: &FileError) -> ErrorKind {
        match error {
            FileError::Io { op: IoOp::Open, source, .. } => source.kind(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn bytes_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = OsFile::create(&path).unwrap();
        assert_eq!(file.write_vectored_at(2, &[IoSlice::new(b"ab"), IoSlice::new(b"cde")]).unwrap(), 5);
        assert_eq!(file.write_sync(7, &[IoSlice::new(b"fg")]).unwrap(), 2);
        file.sync_data().unwrap();
        assert_eq!(read_all(&file), b"\0\0abcdefg");
        let (mut left, mut right) = ([0; 3], [9; 8]);
        let mut into = [IoSliceMut::new(&mut left), IoSliceMut::new(&mut right)];
        assert_eq!(file.read_vectored_at(4, &mut into).unwrap(), 5);
        assert_eq!((&left, &right[..2]), (b"cde", &b"fg"[..]));
        assert_eq!(file.read_at(9, &mut left).unwrap(), 0);
        file.drop_cache(0, 9).unwrap();
        assert_eq!(read_all(&OsFile::open(&path).unwrap()), b"\0\0abcdefg");
        file.set_len(4).unwrap();
        assert_eq!(read_all(&file), b"\0\0ab");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn more_buffers_than_one_call_takes_are_a_short_write() {
        let folder = tempfile::tempdir().unwrap();
        let file = OsFile::create(folder.path().join("file")).unwrap();
        let run = [IoSlice::new(b"x"); 1500];
        assert_eq!(file.write_vectored_at(0, &run).unwrap(), 1024);
        assert_eq!(file.write_sync(0, &run).unwrap(), 1024);
        let mut bytes = vec![0; 1500];
        let mut into: Vec<IoSliceMut<'_>> = bytes.chunks_mut(1).map(IoSliceMut::new).collect();
        assert_eq!(file.read_vectored_at(0, &mut into).unwrap(), 1024);
    }

    #[test]
    fn allocation_extends_and_keeps_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = OsFile::create(folder.path().join("file")).unwrap();
        file.write_vectored_at(0, &[IoSlice::new(b"abc")]).unwrap();
        file.allocate(1, 9999).unwrap();
        file.allocate(0, 5).unwrap();
        file.allocate(0, 0).unwrap();
        let all = read_all(&file);
        assert_eq!(all.len(), 10_000);
        assert_eq!((&all[..3], all[3..].iter().all(|byte| *byte == 0)), (&b"abc"[..], true));
        write_zeros_up_to(&file.file, 200_000).unwrap();
        assert_eq!((file.len().unwrap(), &read_all(&file)[..3]), (200_000, &b"abc"[..]));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_punched_range_reads_as_zero() {
        let folder = tempfile::tempdir().unwrap();
        let file = OsFile::create(folder.path().join("file")).unwrap();
        file.write_vectored_at(0, &[IoSlice::new(&[7; 12288])]).unwrap();
        match file.punch(4096, 4096) {
            Err(error) if error.kind() == ErrorKind::Unsupported => return, // a file system without holes
            done => done.unwrap(),
        }
        let all = read_all(&file);
        assert_eq!((all.len(), all[4095], all[4096], all[8191], all[8192]), (12288, 7, 0, 0, 7));
    }

    #[test]
    fn a_missing_dsync_is_remembered_and_worked_around() {
        let folder = tempfile::tempdir().unwrap();
        let file = OsFile::create(folder.path().join("file")).unwrap();
        #[cfg(target_os = "linux")]
        file.sys.pretend_dsync_is_missing();
        assert_eq!(file.write_sync(0, &[IoSlice::new(b"abc")]).unwrap(), 3);
        assert_eq!(read_all(&file), b"abc");
    }

    #[test]
    fn a_new_file_is_private_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let (file, created) = OsFile::open_or_create(&path).unwrap();
        assert!(created);
        file.write_vectored_at(0, &[IoSlice::new(b"abc")]).unwrap();
        let error = OsFile::create(&path).unwrap_err();
        assert_eq!(kind_of(&error), ErrorKind::AlreadyExists);
        let (again, created) = OsFile::open_or_create(&path).unwrap();
        assert!(!created);
        assert_eq!(read_all(&again), b"abc");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
        }
    }

    #[test]
    #[cfg(unix)]
    fn no_link_is_followed_to_create_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert_eq!(kind_of(&OsFile::create(&link).unwrap_err()), ErrorKind::AlreadyExists);
        assert!(OsFile::open_or_create(&link).is_err());
        assert!(!target.exists());
        OsFile::create(&target).unwrap();
        OsFile::open(&link).expect("an existing file may be reached through a link");
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = OsFile::open(folder.path()).unwrap_err();
        assert_eq!(kind_of(&error), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("is a directory, not a regular file"), "{error}");
        assert_eq!(kind_of(&OsFile::open(folder.path().join("none")).unwrap_err()), ErrorKind::NotFound);
        #[cfg(target_os = "linux")]
        {
            let pipe = folder.path().join("pipe");
            rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
            for refused in [OsFile::open(&pipe), OsFile::open_read_only(&pipe)] {
                assert!(refused.unwrap_err().to_string().contains("is a pipe"));
            }
            assert!(OsFile::open_read_only("/dev/null").unwrap_err().to_string().contains("is a device"));
        }
    }

    #[test]
    fn the_lock_is_met_by_a_second_opening_in_the_same_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let first = OsFile::create(&path).unwrap();
        assert!(first.lock().unwrap());
        assert!(first.lock().unwrap());
        let second = OsFile::open(&path).unwrap();
        assert!(!second.lock().unwrap());
        let hard_link = folder.path().join("other name");
        fs::hard_link(&path, &hard_link).unwrap();
        assert!(!OsFile::open(&hard_link).unwrap().lock().unwrap());
        drop(first);
        assert!(second.lock().unwrap());
    }

    #[test]
    fn a_read_only_file_changes_in_no_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"abc").unwrap();
        let file = OsFile::open_read_only(&path).unwrap();
        let run = [IoSlice::new(b"x")];
        let outcomes = [
            file.write_vectored_at(0, &run).map(drop),
            file.write_sync(0, &run).map(drop),
            file.allocate(0, 100),
            file.punch(0, 1),
            file.set_len(0),
        ];
        for outcome in outcomes {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::PermissionDenied);
        }
        assert_eq!(read_all(&file), b"abc");
    }
}
