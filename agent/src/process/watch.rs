//! Waiting for the end of a process that is not our child, or no longer.
//!
//! Invariant: what is waited for is named by pid, start time and boot, so another process that got
//! the pid is never waited for.

use std::{io, os::fd::OwnedFd, time::Duration};

use goperation_launcher::{Process, ProcessId, Signal, open_pidfd, signal};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{sleep, timeout},
};
use tracing::warn;

use super::launch::blocking;

/// How often a process is looked at that cannot be watched.
const LOOK: Duration = Duration::from_millis(200);

/// How long a launcher may take to end after its game was killed.
const SETTLE: Duration = Duration::from_secs(10);

/// A process that runs, and the way to learn of its end.
#[derive(Debug)]
pub(super) struct Live {
    /// The game and its launcher.
    pub(super) process: Process,
    /// Whether its launcher is gone: the game itself is watched then.
    pub(super) orphaned: bool,
    watch: Watch,
}

#[derive(Debug)]
enum Watch {
    Gone,
    Fd(AsyncFd<OwnedFd>),
    /// No descriptor could be had.
    Poll(ProcessId),
}

impl Live {
    /// Begins to watch.
    pub(super) fn watch(process: Process, orphaned: bool) -> Self {
        let id = if orphaned { &process.game } else { &process.launcher };
        let watch = match open_pidfd(id).and_then(register) {
            Ok(Some(fd)) => Watch::Fd(fd),
            Ok(None) => Watch::Gone,
            Err(error) => {
                warn!(pid = id.pid, %error, "a process cannot be watched, it is looked at");
                Watch::Poll(id.clone())
            }
        };
        Self { process, orphaned, watch }
    }

    /// Waits until what is watched has ended.
    pub(super) async fn ended(&self) {
        match &self.watch {
            Watch::Gone => {}
            Watch::Fd(fd) => {
                if fd.ready(Interest::READABLE).await.is_err() {
                    gone(match self.orphaned {
                        true => &self.process.game,
                        false => &self.process.launcher,
                    })
                    .await;
                }
            }
            Watch::Poll(id) => gone(id).await,
        }
    }
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe, for descriptors that change; an owned one does not"
)]
fn register(fd: Option<OwnedFd>) -> io::Result<Option<AsyncFd<OwnedFd>>> {
    fd.map(|fd| AsyncFd::with_interest(fd, Interest::READABLE)).transpose()
}

/// Waits until a process is gone that cannot be watched, or need not be.
pub(super) async fn gone(id: &ProcessId) {
    while id.is_alive() {
        sleep(LOOK).await;
    }
}

/// Waits until the launcher of what was killed has said so and has ended; one that does not is
/// killed too.
pub(super) async fn launcher_ended(process: &Process) {
    let live = Live::watch(process.clone(), false);
    if timeout(SETTLE, live.ended()).await.is_err() {
        let launcher = process.launcher.clone();
        let _ = blocking(move || signal(&launcher, Signal::KILL)).await;
        let _ = timeout(SETTLE, live.ended()).await;
    }
    goperation_launcher::reap(process.launcher.pid);
}
