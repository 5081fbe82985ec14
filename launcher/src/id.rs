//! What names a process.
//!
//! Invariant: two processes never have the same name, not even after the pid was reused.

use std::{io, sync::OnceLock};

use procfs::{
    ProcError,
    process::{Process, Stat},
};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

/// A process, by what no other one has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid, which is reused after its end.
    pub pid: u32,
    /// When it was started, in clock ticks since the boot.
    pub start_time: u64,
    /// The boot in which it was started.
    pub boot_id: String,
}

impl ProcessId {
    /// The process that has a pid now, if there is one. One that ended and was not reaped counts.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn of(pid: u32) -> io::Result<Option<Self>> {
        stat(pid)?.map(|stat| Self::from_stat(&stat)).transpose()
    }

    /// Whether it runs. One that ended and was not reaped does not. When /proc cannot be read, it
    /// counts as alive: nothing is started twice for that.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        match stat(self.pid) {
            Ok(Some(stat)) => self.is(&stat) && lives(&stat),
            Ok(None) => false,
            Err(_) => true,
        }
    }

    /// The name of a process that was read from /proc.
    pub(crate) fn from_stat(stat: &Stat) -> io::Result<Self> {
        Ok(Self {
            pid: u32::try_from(stat.pid).map_err(io::Error::other)?,
            start_time: stat.starttime,
            boot_id: boot_id()?.to_owned(),
        })
    }

    /// Whether /proc speaks of this process.
    pub(crate) fn is(&self, stat: &Stat) -> bool {
        u32::try_from(stat.pid) == Ok(self.pid)
            && stat.starttime == self.start_time
            && boot_id().is_ok_and(|boot_id| boot_id == self.boot_id)
    }

    /// Its pid as the kernel takes it.
    pub(crate) fn raw(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }
}

/// What /proc says of a pid; none when nobody has it.
pub(crate) fn stat(pid: u32) -> io::Result<Option<Stat>> {
    let Ok(pid) = i32::try_from(pid) else { return Ok(None) };
    found(Process::new(pid).and_then(|process| process.stat()))
}

/// An entry of /proc may vanish at any time: that is no error.
pub(crate) fn found<T>(result: Result<T, ProcError>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(ProcError::NotFound(_)) => Ok(None),
        Err(ProcError::Io(e, _))
            if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(e) => Err(io::Error::other(e)),
    }
}

/// Whether it has not ended. The first thread of a process may end before the others: it looks
/// like a zombie, but still counts threads.
pub(crate) fn lives(stat: &Stat) -> bool {
    !matches!(stat.state, 'Z' | 'X' | 'x') || stat.num_threads > 1
}

/// The name of this boot.
pub(crate) fn boot_id() -> io::Result<&'static str> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(boot_id) = BOOT.get() {
        return Ok(boot_id);
    }
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(BOOT.get_or_init(|| read.trim().to_owned()))
}
