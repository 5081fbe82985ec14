//! The folder in which an entity's launcher and the agent meet.
//!
//! Invariant: what is in it is changed under its lock only. A token runs at most once: the
//! launcher takes the lock, then compares its token with the spec's, and refuses one for which a
//! process was recorded.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{disk, id::ProcessId, lock::Lock, spec::Spec};

/// How long a launcher that has told how the game ended may take to end itself.
const ENDING: Duration = Duration::from_secs(5);

/// A game that was started. Kept by the launcher before the game's first instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The run.
    pub token: String,
    /// The launcher.
    pub launcher: ProcessId,
    /// The game: the leader of its session and of its group.
    pub game: ProcessId,
    /// When it was started, in ms since 1970.
    pub started: u64,
}

/// How a game ended. Kept by the launcher after the last of the game's processes is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The run.
    pub token: String,
    /// The exit code, when it ended by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Why it never ran, or why it is not known how it ended.
    pub error: Option<String>,
    /// When, in ms since 1970.
    pub time: u64,
}

/// What is found in a run folder, about the token of its spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing runs and nothing ran. A launcher that was spawned may still come, unless the spec
    /// is written anew or [`RunDir::revoke`]d.
    Nothing,
    /// The lock is held, and there is no process for the spec's token yet.
    Starting,
    /// The launcher lives; the game too, or it has just ended and the launcher clears up.
    Running(Process),
    /// The game, or something that it started, lives; its launcher does not.
    Orphaned(Process),
    /// It ended, and this is how. The launcher may take another moment to end.
    Ended(Exit),
    /// A process was recorded, nobody lives and nobody said how it ended.
    Vanished(Process),
}

/// A run folder: `lock`, `spec.json`, `process.json`, `ready`, `exit.json`, `log/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// The folder at a path; it need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log that is written; former ones have `.1` (the newest), `.2`, … after it.
    #[must_use]
    pub fn log(&self, endpoint: &str) -> PathBuf {
        self.path.join("log").join(format!("{endpoint}.log"))
    }

    /// Makes the folder if need be, removes what the former run left, except its logs, and writes
    /// the spec, under the lock. From then on no launcher with another token runs anything.
    ///
    /// # Errors
    /// `WouldBlock` when something runs; when it cannot be written.
    pub fn write_spec(&self, spec: &Spec) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        fs::OpenOptions::new().append(true).create(true).open(self.lock())?;
        let _lock = self.take()?;
        self.clear()?;
        disk::write(&self.spec(), spec)
    }

    /// Removes the spec and what the run left, except its logs, under the lock: a launcher that
    /// was spawned and has not begun will not run anything.
    ///
    /// # Errors
    /// `WouldBlock` when something runs; when it cannot be removed.
    pub fn revoke(&self) -> io::Result<()> {
        match self.take() {
            Ok(_lock) => self.clear(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// What runs or ran here.
    ///
    /// # Errors
    /// When the folder or /proc cannot be read.
    pub fn look(&self) -> io::Result<Look> {
        loop {
            let token = self.token()?;
            let look = match &token {
                Some(token) => self.look_for(token)?,
                None if self.is_held()? => Some(Look::Starting),
                None => Some(Look::Nothing),
            };
            // Another spec was written meanwhile, or a run began: what was read does not fit.
            if let Some(look) = look
                && self.token()? == token
            {
                return Ok(look);
            }
        }
    }

    /// What is known of a run; none when it went on while it was looked at.
    fn look_for(&self, token: &str) -> io::Result<Option<Look>> {
        // The order counts: a free lock that is seen after a process was recorded is the end of
        // the run, and what is told of its end is told by then.
        let process = self.recorded(token)?;
        let held = self.is_held()?;
        if let Some(exit) = self.exit(token)? {
            return Ok(Some(Look::Ended(exit)));
        }
        Ok(match process {
            Some(process) if held => {
                if process.launcher.is_alive() {
                    Some(Look::Running(process))
                } else if let Some(exit) = self.exit(token)? {
                    Some(Look::Ended(exit))
                } else {
                    // Without its launcher it lives as long as anybody has inherited the lock.
                    self.is_held()?.then_some(Look::Orphaned(process))
                }
            }
            // One that closed what it inherited.
            Some(process) if process.game.is_alive() => Some(Look::Orphaned(process)),
            Some(process) => Some(Look::Vanished(process)),
            None if held => Some(Look::Starting),
            None => self.recorded(token)?.is_none().then_some(Look::Nothing),
        })
    }

    fn is_held(&self) -> io::Result<bool> {
        match Lock::is_held(&self.lock()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            held => held,
        }
    }

    /// Whether the ready line of a run was seen.
    #[must_use]
    pub fn is_ready(&self, token: &str) -> bool {
        fs::read(self.ready()).is_ok_and(|content| content == token.as_bytes())
    }

    /// Removes the folder with its logs.
    ///
    /// # Errors
    /// `WouldBlock` when something runs; when it cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        let _lock = match self.take() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            lock => Some(lock?),
        };
        disk::remove(&self.spec())?;
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Takes the lock; a launcher that has told the end is waited for.
    fn take(&self) -> io::Result<Lock> {
        let deadline = Instant::now() + ENDING;
        loop {
            match Lock::alone(&self.lock()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let ending = match self.token()? {
                        Some(token) => self.exit(&token)?.is_some(),
                        None => false,
                    };
                    if !ending || Instant::now() > deadline {
                        return Err(e);
                    }
                    thread::sleep(Duration::from_millis(2));
                }
                lock => return lock,
            }
        }
    }

    /// The spec goes first: without it no launcher begins, whatever else is left.
    fn clear(&self) -> io::Result<()> {
        disk::remove(&self.spec())?;
        for path in [self.process(), self.exit_path(), self.ready()] {
            disk::remove(&path)?;
            disk::remove(&disk::next(&path))?;
        }
        Ok(())
    }

    fn token(&self) -> io::Result<Option<String>> {
        #[derive(Deserialize)]
        struct Token {
            token: String,
        }
        Ok(disk::read::<Token>(&self.spec())?.map(|spec| spec.token))
    }

    /// The process of a run, if it was recorded.
    pub(crate) fn recorded(&self, token: &str) -> io::Result<Option<Process>> {
        Ok(disk::read::<Process>(&self.process())?.filter(|process| process.token == token))
    }

    /// The end of a run, if it was told.
    pub(crate) fn exit(&self, token: &str) -> io::Result<Option<Exit>> {
        Ok(disk::read::<Exit>(&self.exit_path())?.filter(|exit| exit.token == token))
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    pub(crate) fn spec(&self) -> PathBuf {
        self.path.join("spec.json")
    }

    pub(crate) fn process(&self) -> PathBuf {
        self.path.join("process.json")
    }

    pub(crate) fn ready(&self) -> PathBuf {
        self.path.join("ready")
    }

    pub(crate) fn exit_path(&self) -> PathBuf {
        self.path.join("exit.json")
    }
}
