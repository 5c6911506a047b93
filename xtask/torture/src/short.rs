//! System calls cut short: a tracer that lets the kernel do less than it was asked for, and say so, as it may at any time.
//!
//! On the way into the chosen `pread64`, `preadv`, `pwrite64`, `pwritev` or `pwritev2` the tracer changes the arguments: of several
//! buffers all but the first half are left out; a single one becomes a call for half of its bytes (a durable write of one buffer keeps
//! its flag, and has a shorter copy of its only buffer's description for the time of the call).

use anyhow::{Context, ensure};
use std::{ffi::OsString, path::Path};

/// How the traced process came to its end.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Calls on the file that more than one byte was asked of.
    pub(crate) cuttable: u64,
    /// Whether the chosen one was reached.
    pub(crate) cut: bool,
    /// `None` after a signal.
    pub(crate) exit_code: Option<i32>,
    /// What it wrote to standard output.
    pub(crate) output: String,
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) use elsewhere::{run, supported};
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) use here::{run, supported};

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod elsewhere {
    use super::*;

    pub(crate) fn supported() -> anyhow::Result<()> {
        anyhow::bail!("the tracer knows Linux on x86-64 only")
    }

    pub(crate) fn run(_words: &[OsString], _path: &Path, _cut: Option<u64>) -> anyhow::Result<Ended> {
        anyhow::bail!("the tracer knows Linux on x86-64 only")
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod here {
    use super::*;
    use nix::{
        libc::{SYS_pread64, SYS_preadv, SYS_pwrite64, SYS_pwritev, SYS_pwritev2, user_regs_struct},
        sys::{
            ptrace::{self, AddressType, Options},
            signal::Signal,
            wait::{WaitPidFlag, WaitStatus, waitpid},
        },
        unistd::Pid,
    };
    use std::{
        fs,
        io::{Read, Write},
        process::{Command, Stdio},
    };

    pub(crate) fn supported() -> anyhow::Result<()> {
        let mut child = Command::new("sleep").arg("60").spawn().context("there is no process to trace")?;
        let pid = pid_of(&child)?;
        let seized = ptrace::seize(pid, Options::empty());
        child.kill()?;
        child.wait()?;
        seized.context("this process may not trace others")
    }

    fn pid_of(child: &std::process::Child) -> anyhow::Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }

    /// Runs a program that waits for a line on standard input before it begins, and makes all of its calls in its first thread.
    ///
    /// # Errors
    /// Those of tracing.
    pub(crate) fn run(words: &[OsString], path: &Path, cut: Option<u64>) -> anyhow::Result<Ended> {
        let (program, arguments) = words.split_first().context("a command line")?;
        let mut command = Command::new(program);
        command.args(arguments).arg("--wait").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting the writer")?;
        let pid = pid_of(&child)?;
        let mut stdout = child.stdout.take().context("piped")?;
        let reader = std::thread::spawn(move || {
            let mut output = String::new();
            stdout.read_to_string(&mut output).map(|_| output)
        });
        ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL)?;
        ptrace::interrupt(pid)?;
        waitpid(pid, None)?;
        ptrace::syscall(pid, None)?;
        child.stdin.take().context("piped")?.write_all(b"\n")?;

        let mut ended = Ended::default();
        let (mut entering, mut undo) = (true, None);
        loop {
            match waitpid(pid, Some(WaitPidFlag::__WALL))? {
                WaitStatus::PtraceSyscall(_) => {
                    let mut registers = ptrace::getregs(pid)?;
                    // On the way out the kernel says -ENOSYS no more; but counting is surer than guessing.
                    if entering {
                        if is_on(pid, registers.rdi, path) && bytes_asked(pid, &registers)? > 1 {
                            ended.cuttable += 1;
                            if cut == Some(ended.cuttable) {
                                undo = Some(shorten(pid, &mut registers)?);
                                ended.cut = true;
                            }
                        }
                    } else if let Some((at, word, call)) = undo.take() {
                        restore(pid, registers, at, word, call)?;
                    }
                    entering = !entering;
                    ptrace::syscall(pid, None)?;
                }
                WaitStatus::Exited(_, code) => {
                    ended.exit_code = Some(code);
                    break;
                }
                WaitStatus::Signaled(..) => break,
                WaitStatus::Stopped(_, signal) => ptrace::syscall(pid, Some(signal))?,
                WaitStatus::PtraceEvent(_, signal, _) => {
                    // The stop that `interrupt` asked for, should it come twice.
                    let pass_on = (signal != Signal::SIGTRAP && signal != Signal::SIGSTOP).then_some(signal);
                    ptrace::syscall(pid, pass_on)?;
                }
                _ => ptrace::syscall(pid, None)?,
            }
        }
        ended.output = reader.join().map_err(|_| anyhow::anyhow!("reading the writer's words"))??;
        Ok(ended)
    }

    /// Whether a descriptor of the process is the file.
    fn is_on(pid: Pid, descriptor: u64, path: &Path) -> bool {
        fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).is_ok_and(|target| target == path)
    }

    fn read(pid: Pid, at: u64) -> anyhow::Result<u64> {
        Ok(ptrace::read(pid, at as AddressType)?.cast_unsigned())
    }

    fn is_vectored(call: u64) -> bool {
        [SYS_preadv, SYS_pwritev, SYS_pwritev2].map(i64::cast_unsigned).contains(&call)
    }

    /// Bytes that a call is to move; 0 when it is none that moves bytes.
    fn bytes_asked(pid: Pid, registers: &user_regs_struct) -> anyhow::Result<u64> {
        let call = registers.orig_rax;
        if [SYS_pread64, SYS_pwrite64].map(i64::cast_unsigned).contains(&call) {
            return Ok(registers.rdx);
        }
        if !is_vectored(call) {
            return Ok(0);
        }
        (0..registers.rdx).map(|buffer| read(pid, registers.rsi + 16 * buffer + 8)).sum()
    }

    /// Halves the call that is about to be made. What is returned undoes what would be seen afterwards.
    fn shorten(pid: Pid, registers: &mut user_regs_struct) -> anyhow::Result<(Option<u64>, u64, user_regs_struct)> {
        let before = *registers;
        let mut undo = (None, 0);
        if !is_vectored(registers.orig_rax) {
            registers.rdx /= 2;
        } else if registers.rdx > 1 {
            registers.rdx = registers.rdx.div_ceil(2).min(registers.rdx - 1);
        } else {
            // The description of the only buffer: its length is put back when the call is over.
            let at = registers.rsi + 8;
            let bytes = read(pid, at)?;
            ptrace::write(pid, at as AddressType, (bytes / 2).cast_signed())?;
            undo = (Some(at), bytes);
        }
        ptrace::setregs(pid, *registers)?;
        Ok((undo.0, undo.1, before))
    }

    fn restore(
        pid: Pid,
        mut registers: user_regs_struct,
        at: Option<u64>,
        bytes: u64,
        before: user_regs_struct,
    ) -> anyhow::Result<()> {
        if let Some(at) = at {
            ptrace::write(pid, at as AddressType, bytes.cast_signed())?;
        }
        ensure!(registers.rax.cast_signed() > 0, "a shortened call failed by itself: {}", registers.rax.cast_signed());
        registers.rdx = before.rdx; // a program may rely on its registers being left alone
        Ok(ptrace::setregs(pid, registers)?)
    }
}
