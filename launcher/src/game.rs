//! The game as its launcher has it: a child behind a gate.
//!
//! Invariant: the child does not become the game before its gate is opened, and ends when the gate
//! is closed unopened. It is not reaped before its group was killed.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::{Command, Stdio},
};

use rustix::{
    fs::{OFlags, fcntl_setfl},
    pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
    process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, waitid},
};

use crate::{TOKEN, id::ProcessId, lock::Lock, spec::Spec, stage};

/// How much output may wait: a launcher that does not get the processor delays no game.
const PIPE: usize = 256 << 10;

/// How much of a message of stage two is read.
const MESSAGE: u64 = 2048;

/// A game, or what will become one.
#[derive(Debug)]
pub(crate) struct Game {
    pub(crate) id: ProcessId,
    pub(crate) pid: Pid,
    /// The way to stage two; none when it has become the game, or has ended.
    pub(crate) gate: Option<UnixStream>,
}

impl Game {
    /// Starts stage two, with the lock; answers it, and the reading end of its output.
    pub(crate) fn start(lead: &[OsString], token: &str, lock: &Lock) -> io::Result<(Self, File)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setfl(&read, OFlags::NONBLOCK)?;
        // A user may have too many large pipes; a small one serves.
        let _ = fcntl_setpipe_size(&write, PIPE);
        let write = survivor(&write).unwrap_or(write);
        let (gate, far) = UnixStream::pair()?;
        lock.inherit()?;
        let child = {
            // It holds our ends of what the child gets, until it is dropped.
            let mut command = Command::new("/proc/self/exe");
            command
                .arg0("gop")
                .args(lead)
                .arg(stage::FLAG)
                .env_clear()
                .env(TOKEN, token)
                .stdin(OwnedFd::from(far))
                .stdout(write.try_clone()?)
                .stderr(Stdio::from(write));
            command.spawn()?
        };
        let id = ProcessId::of(child.id())?.ok_or_else(|| io::Error::other("it was reaped"))?;
        let pid = id.raw().ok_or_else(|| io::Error::other("it has no pid"))?;
        gate.set_nonblocking(false)?;
        Ok((Self { id, pid, gate: Some(gate) }, File::from(read)))
    }

    /// Opens the gate: the spec, whole, is what stage two waits for.
    pub(crate) fn open_gate(&mut self, spec: &Spec) -> io::Result<()> {
        let mut line = serde_json::to_vec(spec)?;
        line.push(b'\n');
        match &mut self.gate {
            Some(gate) => gate.write_all(&line),
            None => Ok(()),
        }
    }

    /// What stage two says, when there is something to read: why it could not become the game, or
    /// none when it has.
    pub(crate) fn message(&mut self) -> Option<String> {
        let mut message = Vec::new();
        // A reset is an end as well.
        let _ = self.gate.take()?.take(MESSAGE).read_to_end(&mut message);
        (!message.is_empty()).then(|| String::from_utf8_lossy(&message).into_owned())
    }

    /// Whether it has ended; it is not reaped by asking.
    pub(crate) fn has_ended(&self) -> bool {
        let ask = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(self.pid), ask), Ok(None) | Err(rustix::io::Errno::INTR))
    }

    /// Reaps it. It has ended.
    pub(crate) fn reap(&self) -> io::Result<Option<WaitIdStatus>> {
        Ok(waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?)
    }
}

/// The writing end, opened again for both: a game that outlives its launcher is itself a reader of
/// its output then, so that the next line does not kill it.
fn survivor(write: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", write.as_raw_fd());
    Ok(OpenOptions::new().read(true).write(true).open(path)?.into())
}
