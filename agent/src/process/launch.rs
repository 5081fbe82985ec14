//! One start: the run folder is made ready, the launcher is spawned, and what came of it is seen.
//!
//! Invariant: whatever was spawned for another token never runs a game: the launcher compares its
//! token with the spec's under the folder's lock.

use std::{ffi::OsString, io, sync::Arc, time::Duration};

use goperation::{Error, Reason, Result};
use goperation_launcher::{Look, ProcessId, RunDir, Spec};
use rustix::process::Signal;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tracing::debug;

/// How long a launcher may take until the game is there.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked at: at first, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// A launcher that lost a race for the lock is spawned once more, so often.
const TRIES: usize = 5;

/// What came of it.
enum Seen {
    Look(Look),
    /// The launcher has ended and left nothing.
    Nothing,
}

/// Spawns a launcher for the spec, and waits until its game is there or has ended again.
///
/// # Errors
/// `STATE_REFUSED` when a former process runs still, `METHOD_FAILED` when the launcher does not do
/// its work.
pub(super) async fn launch(launcher: Arc<[OsString]>, dir: &RunDir, spec: Spec) -> Result<Look> {
    if launcher.is_empty() {
        return Err(failed("this agent was started without a launcher of processes"));
    }
    let token = spec.token.clone();
    let deadline = Instant::now() + PATIENCE;
    let mut tries = 0;
    while tries < TRIES {
        let (dir_of, spec_of, launcher) = (dir.clone(), spec.clone(), Arc::clone(&launcher));
        let spawned = blocking(move || {
            dir_of.write_spec(&spec_of)?;
            goperation_launcher::spawn(&launcher, &dir_of, &spec_of.token)
        })
        .await;
        let id = match spawned {
            Ok(id) => Some(id),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Some(refused) = held(dir, &token).await {
                    return Err(refused);
                }
                if Instant::now() >= deadline {
                    return Err(failed("the lock of its run folder is held, nobody says by whom"));
                }
                // A launcher of a former start that was only looking: it goes by itself.
                sleep(LOOK.1).await;
                continue;
            }
            Err(error) => return Err(failed(format!("its launcher cannot be started: {error}"))),
        };
        match follow(dir, &token, id).await? {
            Seen::Look(look) => return Ok(look),
            Seen::Nothing => debug!(token, tries, "the launcher ended without effect"),
        }
        tries += 1;
    }
    Err(failed("its launcher ended each time before it had started anything"))
}

/// Waits for what a former agent has started with that token.
///
/// # Errors
/// As [`launch`].
pub(super) async fn await_started(dir: &RunDir, token: &str) -> Result<Look> {
    match follow(dir, token, None).await? {
        Seen::Look(look) => Ok(look),
        Seen::Nothing => Ok(Look::Nothing),
    }
}

async fn follow(dir: &RunDir, token: &str, launcher: Option<ProcessId>) -> Result<Seen> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = LOOK.0;
    loop {
        // Asked before the look: what it has left is there then.
        let id = launcher.clone();
        let gone = blocking(move || Ok(id.is_none_or(|id| !id.is_alive()))).await.unwrap_or(false);
        let look = look(dir).await.map_err(|e| failed(format!("its run folder: {e}")))?;
        if token_of(&look).is_some_and(|seen| seen == token) {
            reap(launcher.as_ref().filter(|_| gone));
            return Ok(Seen::Look(look));
        }
        if gone && !matches!(look, Look::Starting) {
            reap(launcher.as_ref());
            return Ok(Seen::Nothing);
        }
        if Instant::now() >= deadline {
            if let Some(id) = launcher {
                let _ = blocking(move || goperation_launcher::signal(&id, Signal::KILL)).await;
            }
            return Err(failed(format!("its launcher did not start it within {PATIENCE:?}")));
        }
        sleep(pause).await;
        pause = (pause * 2).min(LOOK.1);
    }
}

fn reap(launcher: Option<&ProcessId>) {
    if let Some(id) = launcher {
        goperation_launcher::reap(id.pid);
    }
}

/// Who holds the folder, when it is a process that runs.
async fn held(dir: &RunDir, token: &str) -> Option<Error> {
    match look(dir).await {
        Ok(Look::Running(process) | Look::Orphaned(process)) if process.token != token => {
            Some(still_runs(process.game.pid))
        }
        _ => None,
    }
}

fn still_runs(pid: u32) -> Error {
    let message = format!("pid {pid}, which this agent did not start, runs in its place: kill it");
    Error::new(Reason::StateRefused, message).with("pid", pid)
}

/// The token of what was seen.
pub(super) fn token_of(look: &Look) -> Option<&str> {
    match look {
        Look::Nothing | Look::Starting => None,
        Look::Running(process) | Look::Orphaned(process) | Look::Vanished(process) => {
            Some(&process.token)
        }
        Look::Ended(exit) => Some(&exit.token),
    }
}

/// Looks into the run folder.
pub(super) async fn look(dir: &RunDir) -> io::Result<Look> {
    let dir = dir.clone();
    blocking(move || dir.look()).await
}

/// Runs what blocks apart from the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

/// That a start failed.
pub(super) fn failed(why: impl Into<String>) -> Error {
    Error::new(Reason::MethodFailed, why)
}
