//! Signals to a process that is named, not to whoever has its pid now.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::id::{ProcessId, lives, stat};

/// A descriptor of a process: readable when it has ended. None: it is gone, or another one has
/// its pid.
///
/// # Errors
/// When /proc cannot be read or no descriptor is left.
pub fn open_pidfd(id: &ProcessId) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = id.raw() else { return Ok(None) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        // EINVAL: the pid belongs to a thread by now.
        Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    // Who has the pid after the descriptor was opened and began when `id` did, is `id`, and had
    // the pid all the time.
    Ok(stat(id.pid)?.filter(|stat| id.is(stat) && lives(stat)).map(|_| pidfd))
}

/// Sends a signal. False: it is gone.
///
/// # Errors
/// When it may not be signalled.
pub fn signal(id: &ProcessId, sig: Signal) -> io::Result<bool> {
    let Some(pidfd) = open_pidfd(id)? else { return Ok(false) };
    match pidfd_send_signal(&pidfd, sig) {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(e) => Err(e.into()),
    }
}
