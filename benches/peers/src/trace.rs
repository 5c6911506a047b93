//! Syncs, counted from a trace of system calls: in a run of its own, for tracing takes time.

use crate::meter::MARKS;
use std::{
    collections::{HashMap, HashSet},
    process::Command,
};

/// What is traced: what makes bytes durable, and what tells whether a plain write does.
pub(crate) const CALLS: &str = "openat,close,fsync,fdatasync,msync,sync_file_range,syncfs,sync,pwritev2,pwrite64,pwritev,write,writev,io_uring_setup";

/// Whether there is a tracer.
pub(crate) fn is_there() -> bool {
    Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success())
}

/// Syncs in the timed part of a process: syncing calls that succeeded, and writes that are durable when they return, as their flag or
/// that of their file says. `sync_file_range` is none: it promises nothing. `None` when the marks are missing.
pub(crate) fn syncs(log: &str) -> Option<u64> {
    let mut synced_files = HashSet::new();
    // A call that another thread interrupted in the log has its arguments in the first half and its result in the second.
    let mut unfinished = HashMap::new();
    let (mut is_timed, mut is_over, mut syncs) = (false, false, 0);
    for line in log.lines() {
        let Some((thread, rest)) = line.trim_start().split_once(char::is_whitespace) else { continue };
        let rest = rest.trim_start();
        let whole;
        let call = if let Some(first) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread.to_owned(), first.to_owned());
            continue;
        } else if let Some((_, second)) = rest.strip_prefix("<... ").and_then(|rest| rest.split_once("resumed>")) {
            let Some(first) = unfinished.remove(thread) else { continue };
            whole = first + second;
            whole.as_str()
        } else {
            rest
        };
        if call.contains(MARKS[0]) {
            is_timed = true;
        } else if call.contains(MARKS[1]) {
            is_timed = false;
            is_over = true;
        } else if let Some(call) = Call::parse(call) {
            call.note(&mut synced_files);
            if is_timed && call.is_sync(&synced_files) {
                syncs += 1;
            }
        }
    }
    is_over.then_some(syncs)
}

/// A call that succeeded.
struct Call<'a> {
    name: &'a str,
    arguments: &'a str,
    result: i64,
}

impl<'a> Call<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (name, rest) = text.split_once('(')?;
        let (arguments, result) = rest.rsplit_once(" = ")?;
        let result = result.split_whitespace().next()?.parse().ok()?;
        (result >= 0).then_some(Self { name, arguments, result })
    }

    fn file(&self) -> Option<i64> {
        self.arguments.split([',', ')']).next()?.trim().parse().ok()
    }

    /// Which files are opened so that every write to them is durable.
    fn note(&self, synced_files: &mut HashSet<i64>) {
        match (self.name, self.file()) {
            ("openat", _) if ["O_DSYNC", "O_SYNC"].iter().any(|flag| self.arguments.contains(flag)) => {
                synced_files.insert(self.result);
            }
            ("openat", _) => {
                synced_files.remove(&self.result);
            }
            ("close", Some(file)) => {
                synced_files.remove(&file);
            }
            _ => {}
        }
    }

    fn is_sync(&self, synced_files: &HashSet<i64>) -> bool {
        match self.name {
            "fsync" | "fdatasync" | "sync" | "syncfs" => true,
            "msync" => self.arguments.contains("MS_SYNC"),
            "pwritev2" if self.arguments.contains("RWF_DSYNC") || self.arguments.contains("RWF_SYNC") => true,
            "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" => {
                self.file().is_some_and(|file| synced_files.contains(&file))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(calls: &str) -> Option<u64> {
        let mark = |path| format!("1 openat(AT_FDCWD, \"{path}\", O_RDONLY|O_CLOEXEC) = -1 ENOENT (No such file)\n");
        syncs(&format!("1 fdatasync(3) = 0\n{}{calls}{}1 fsync(3) = 0\n", mark(MARKS[0]), mark(MARKS[1])))
    }

    #[test]
    fn what_is_durable_when_it_returns_is_a_sync() {
        assert_eq!(timed(""), Some(0));
        assert_eq!(timed("1 fdatasync(3)     = 0\n2 fsync(4) = 0\n1 sync_file_range(3, 0, 9, 2) = 0\n"), Some(2));
        assert_eq!(timed("7 pwritev2(3, [{iov_base=\"\"..., iov_len=4096}], 1, 0, RWF_DSYNC) = 4096\n"), Some(1));
        assert_eq!(timed("7 pwritev2(3, [{iov_base=\"\"..., iov_len=4096}], 1, 0, 0) = 4096\n"), Some(0));
    }

    #[test]
    fn a_file_may_be_opened_to_be_synced_by_every_write() {
        let open = "1 openat(AT_FDCWD, \"data.mdb\", O_WRONLY|O_DSYNC|O_CLOEXEC) = 9\n";
        assert_eq!(timed(&format!("{open}1 pwrite64(9, \"\"..., 112, 0) = 112\n")), Some(1));
        assert_eq!(timed(&format!("{open}1 close(9) = 0\n1 pwrite64(9, \"\"..., 112, 0) = 112\n")), Some(0));
    }

    #[test]
    fn an_interrupted_call_is_one() {
        let log = "1 fdatasync(3 <unfinished ...>\n2 fdatasync(4 <unfinished ...>\n1 <... fdatasync resumed>) = 0\n\
                   2 <... fdatasync resumed>) = -1 EIO (Input/output error)\n";
        assert_eq!(timed(log), Some(1));
    }

    #[test]
    fn without_marks_there_is_no_number() {
        assert_eq!(syncs("1 fsync(3) = 0\n"), None);
    }
}
