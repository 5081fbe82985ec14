//! The small parent of each game: it keeps the game's log, its exit status and its proof of life.
//!
//! The agent's side is [`RunDir`], [`spawn`], [`signal`], [`tree`] and [`kill_all`]; the launcher
//! itself is [`run`], in a process of its own. What the two know of each other is in the run
//! folder.
//!
//! Invariant: a process is named by its pid, its start time and its boot, never by a pid alone;
//! at most one game of a run folder lives, because each holds the folder's lock.

mod disk;
mod ending;
mod game;
mod id;
mod launch;
mod lock;
mod log;
mod output;
mod poll;
mod pump;
mod quiet;
mod ready;
mod run_dir;
mod signal;
mod spawn;
mod spec;
mod stage;
mod tree;

pub use rustix::process::Signal;

pub use crate::{
    id::ProcessId,
    launch::run,
    ready::check_ready_line,
    run_dir::{Exit, Look, Process, RunDir},
    signal::{open_pidfd, signal},
    spawn::{reap, spawn, spawn_pump},
    spec::{Limit, LogSpec, Resource, Spec, User},
    tree::{find_by_token, find_tokens, kill_all, tree},
};

/// The variable that names a run in the environment of the game and of all that it starts.
pub const TOKEN: &str = "GOP_TOKEN";

/// The launcher's exit code when the run folder's lock is held: it had no effect.
pub const BUSY: u8 = 75;

/// The launcher's exit code when its token is not the run folder's, or was used: it had no effect.
pub const REFUSED: u8 = 76;
