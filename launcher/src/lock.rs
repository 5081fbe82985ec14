//! The lock of a run folder.
//!
//! Invariant: the launcher holds it alone, its game by inheritance; who only looks shares it. A
//! lock is given back, not just closed: a fork may have copied the descriptor.

use std::{
    fs::File,
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
    process, thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

/// How long one waits for those who only look.
const LOOKERS: Duration = Duration::from_secs(10);

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes it alone. Those who only look are waited for; they are gone at once.
    ///
    /// # Errors
    /// `WouldBlock` when another one has it alone; `NotFound` when the folder is gone.
    pub(crate) fn alone(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let deadline = Instant::now() + LOOKERS;
        let mut wait = Duration::from_micros(u64::from(process::id() % 997));
        while !try_lock(&file, FlockOperation::NonBlockingLockExclusive)? {
            if !try_lock(&file, FlockOperation::NonBlockingLockShared)? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            flock(&file, FlockOperation::Unlock)?;
            if Instant::now() > deadline {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            thread::sleep(wait);
            wait = (wait * 2).clamp(Duration::from_micros(100), Duration::from_millis(20));
        }
        // A folder that was removed meanwhile has left us a lock that guards nothing.
        let (ours, there) = (file.metadata()?, path.metadata()?);
        if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { file })
    }

    /// Whether anybody has it alone. It is shared for a moment, so as not to be in the way.
    pub(crate) fn is_held(path: &Path) -> io::Result<bool> {
        let file = File::open(path)?;
        let free = try_lock(&file, FlockOperation::NonBlockingLockShared)?;
        drop(Self { file });
        Ok(!free)
    }

    /// Lets what is started from now on inherit it. Only for a process that starts one thing.
    pub(crate) fn inherit(&self) -> io::Result<()> {
        rustix::io::fcntl_setfd(self.file.as_fd(), rustix::io::FdFlags::empty())?;
        Ok(())
    }

    /// Closes our descriptor and leaves the lock to those who inherited it.
    pub(crate) fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // It fails for no descriptor that is open.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn try_lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    loop {
        match flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
