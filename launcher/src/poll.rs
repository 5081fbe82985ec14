//! Waiting for descriptors.

use std::{
    io,
    time::{Duration, Instant},
};

use rustix::{event::PollFd, io::Errno, time::Timespec};

/// Waits until one is ready; false when the time is over. A signal does not end it.
pub(crate) fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<bool> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
            .map(Timespec::try_from)
            .transpose()
            .map_err(io::Error::other)?;
        match rustix::event::poll(fds, left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
