//! One start: the run folder is made ready, the launcher is spawned, and what came of it is seen.
//!
//! Invariant: whatever was spawned for another token never runs a game: the launcher compares its
//! token with the spec's under the folder's lock.

use std::{ffi::OsString, io, sync::Arc, time::Duration};

use goperation::{Error, Reason};
use goperation_launcher::{Look, ProcessId, RunDir, Spec};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::watch::end_launcher;

/// How long a launcher may take until the game is there.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked at: at first, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// A launcher that lost a race for the lock is spawned once more, so often.
const TRIES: usize = 5;

/// What came of a launch.
pub(super) enum Launched {
    /// The game was started, and what is known of it.
    Look(Look),
    /// Nothing of it is on its way.
    Failed(Error),
    /// It was given up: this launcher may start the game still, or one that nobody knows.
    Loose(Error, Option<ProcessId>),
}

/// What came of a launcher.
enum Seen {
    Look(Look),
    /// It has ended and left nothing.
    Nothing,
    /// It is not waited for any more.
    GivenUp(Error),
}

/// Spawns a launcher for the spec, and waits until its game is there or has ended again. Told to
/// give up it answers at once.
pub(super) async fn launch(
    launcher: Arc<[OsString]>,
    dir: RunDir,
    spec: Spec,
    give_up: CancellationToken,
) -> Launched {
    if launcher.is_empty() {
        return Launched::Failed(failed("this agent was started without a launcher of processes"));
    }
    let token = spec.token.clone();
    let deadline = Instant::now() + PATIENCE;
    let mut tries = 0;
    while tries < TRIES {
        if give_up.is_cancelled() {
            return Launched::Failed(given_up());
        }
        let (dir_of, spec_of, launcher) = (dir.clone(), spec.clone(), Arc::clone(&launcher));
        let written = blocking(move || dir_of.write_spec(&spec_of)).await;
        if let Err(error) = written {
            if error.kind() != io::ErrorKind::WouldBlock {
                return Launched::Failed(failed(format!("its run folder: {error}")));
            }
            if let Some(refused) = held(&dir, &token).await {
                return Launched::Failed(refused);
            }
            if Instant::now() >= deadline {
                let why = "the lock of its run folder is held, nobody says by whom";
                return Launched::Failed(failed(why));
            }
            // A launcher of a former start that was only looking: it goes by itself.
            pause(LOOK.1, &give_up).await;
            continue;
        }
        let (dir_of, token_of) = (dir.clone(), token.clone());
        let spawn = move || goperation_launcher::spawn(&launcher, &dir_of, &token_of);
        let id = match blocking(spawn).await {
            Ok(id) => id,
            Err(error) => {
                let why = format!("its launcher cannot be started: {error}");
                return Launched::Loose(failed(why), None);
            }
        };
        match follow(&dir, &token, &id, &give_up).await {
            Seen::Look(look) => return Launched::Look(look),
            Seen::GivenUp(error) => return Launched::Loose(error, Some(id)),
            Seen::Nothing => debug!(token, tries, "the launcher ended without effect"),
        }
        tries += 1;
    }
    Launched::Failed(failed("its launcher ended each time before it had started anything"))
}

/// Waits for what a launcher does. A folder that cannot be read is read again: the game may run.
async fn follow(
    dir: &RunDir,
    token: &str,
    launcher: &ProcessId,
    give_up: &CancellationToken,
) -> Seen {
    let deadline = Instant::now() + PATIENCE;
    let mut step = LOOK.0;
    loop {
        // Asked before the look: what it has left is there then.
        let id = launcher.clone();
        let gone = blocking(move || Ok(!id.is_alive())).await.unwrap_or(false);
        let trouble = match look(dir).await {
            Ok(look) if token_of(&look) == Some(token) => {
                if gone {
                    goperation_launcher::reap(launcher.pid);
                } else if matches!(look, Look::Ended(_)) {
                    // It has nothing more to do.
                    end_launcher(launcher, PATIENCE).await;
                }
                return Seen::Look(look);
            }
            Ok(look) if gone && !matches!(look, Look::Starting) => {
                goperation_launcher::reap(launcher.pid);
                return Seen::Nothing;
            }
            Ok(_) => String::new(),
            Err(error) => format!(": its run folder cannot be read: {error}"),
        };
        if give_up.is_cancelled() {
            return Seen::GivenUp(given_up());
        }
        if Instant::now() >= deadline {
            let why = format!("its launcher did not start it within {PATIENCE:?}{trouble}");
            return Seen::GivenUp(failed(why));
        }
        pause(step, give_up).await;
        step = (step * 2).min(LOOK.1);
    }
}

/// Waits, unless it is given up.
async fn pause(time: Duration, give_up: &CancellationToken) {
    let _ = give_up.run_until_cancelled(sleep(time)).await;
}

fn given_up() -> Error {
    failed("its start was given up")
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

/// That what runs is of no start on record.
pub(super) fn still_runs(pid: u32) -> Error {
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
