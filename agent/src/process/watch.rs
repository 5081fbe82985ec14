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
    Poll,
}

impl Live {
    /// Begins to watch.
    pub(super) fn watch(process: Process, orphaned: bool) -> Self {
        let watch = Watch::of(if orphaned { &process.game } else { &process.launcher });
        Self { process, orphaned, watch }
    }

    /// Waits until what is watched has ended.
    pub(super) async fn ended(&self) {
        let id = if self.orphaned { &self.process.game } else { &self.process.launcher };
        self.watch.ended(id).await;
    }
}

impl Watch {
    fn of(id: &ProcessId) -> Self {
        match open_pidfd(id).and_then(register) {
            Ok(Some(fd)) => Self::Fd(fd),
            Ok(None) => Self::Gone,
            Err(error) => {
                warn!(pid = id.pid, %error, "a process cannot be watched, it is looked at");
                Self::Poll
            }
        }
    }

    async fn ended(&self, id: &ProcessId) {
        match self {
            Self::Gone => {}
            Self::Fd(fd) => {
                if fd.ready(Interest::READABLE).await.is_err() {
                    gone(id).await;
                }
            }
            Self::Poll => gone(id).await,
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

/// Waits until a launcher that has nothing more to do has ended, and kills one that has not by
/// then. Says whether it is gone.
pub(super) async fn end_launcher(id: &ProcessId, grace: Duration) -> bool {
    let watch = Watch::of(id);
    let mut ended = timeout(grace, watch.ended(id)).await.is_ok();
    if !ended {
        let launcher = id.clone();
        let _ = blocking(move || signal(&launcher, Signal::KILL)).await;
        ended = timeout(SETTLE, watch.ended(id)).await.is_ok();
    }
    goperation_launcher::reap(id.pid);
    ended
}

/// Waits until the launcher of what was killed has said so and has ended; one that does not is
/// killed too.
pub(super) async fn launcher_ended(process: &Process) {
    end_launcher(&process.launcher, SETTLE).await;
}
