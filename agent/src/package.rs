//! The package command of an upgrade: the operator's, without a shell, with a limit and a log.
//!
//! Invariant: its output goes to a file and not through this process, and nothing but its limit
//! kills it: half an installation is worse than one that outlives its agent. Its agent and the id
//! of its message are in its environment: they name it when the agent died before it could record
//! it.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use goperation::{Error, MessageId, Reason, Result};
use tokio::{process::Command, task::spawn_blocking, time::timeout};
use tracing::warn;

use crate::{
    config::{Config, Package},
    endpoint::{AGENT, Group, MESSAGE_ID, RunRecord, base_environment},
};

/// Stands for the package in the command.
const FILE: &str = "{file}";
/// Bytes of the log that an answer carries.
const TAIL: u64 = 4096;
/// Logs that are kept.
const LOGS: usize = 10;

/// A package command that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    words: Vec<String>,
    limit: Duration,
    dir: PathBuf,
    log: PathBuf,
}

/// A package command that runs. Dropped, it is left to run.
#[derive(Debug)]
pub struct Running {
    group: Group,
    limit: Duration,
    log: PathBuf,
}

/// How the package command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Whether its exit code was 0.
    pub ok: bool,
    /// Its end, for a person: `exit code 1`, `signal 9`, `timed out after 10m and was killed`.
    pub exit: String,
    /// Where all of its output is.
    pub log: PathBuf,
    /// The end of its output.
    pub tail: String,
}

impl Plan {
    /// The package command for a file, or without one when the command names none.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when file and command do not fit.
    pub fn new(config: &Config, file: &str) -> Result<Self> {
        let Package { command, timeout: limit, .. } = &config.package;
        Ok(Self {
            words: substitute(command, file)?,
            limit: *limit,
            dir: config.data_dir.clone(),
            log: config.data_dir.join(log_name(goperation::now_millis())),
        })
    }

    /// How long it may run.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Where all of its output will be.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Starts it for that message.
    ///
    /// # Errors
    /// `METHOD_FAILED` when it cannot be started: nothing runs then.
    pub async fn start(self, id: &MessageId) -> Result<Running> {
        let Self { words, limit, dir, log } = self;
        let (program, arguments) = words
            .split_first()
            .ok_or_else(|| Error::new(Reason::MethodFailed, "package.command names no program"))?;
        let cannot = |error: io::Error| {
            let message = format!("the package command {program} could not be started: {error}");
            Error::new(Reason::MethodFailed, message)
        };
        let path = log.clone();
        let (output, errors) = blocking(move || open_log(&path)).await.map_err(cannot)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&dir)
            .env_clear()
            .envs(base_environment())
            .env(AGENT, &dir)
            .env(MESSAGE_ID, id.as_str())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        let mut group = Group::spawn(command).await.map_err(cannot)?;
        group.spare();
        Ok(Running { group, limit, log })
    }
}

impl Running {
    /// What names it after a crash of this process; none when /proc cannot be read.
    #[must_use]
    pub fn record(&self) -> Option<&RunRecord> {
        self.group.record()
    }

    /// Waits for its end, or kills it with its whole group when its time is over.
    pub async fn end(mut self) -> Ran {
        let timed_out = timeout(self.limit, self.group.ended()).await.is_err();
        if timed_out {
            self.group.kill();
        }
        let status = self.group.reap().await;
        let log = self.log.clone();
        let tail = blocking(move || read_tail(&log)).await.unwrap_or_else(|error| {
            warn!(%error, log = %self.log.display(), "the log of the upgrade cannot be read");
            String::new()
        });
        let (ok, exit) = describe(timed_out.then_some(self.limit), &status);
        Ran { ok, exit, log: self.log, tail }
    }
}

/// The words of the command, each with the file in its place.
fn substitute(command: &[String], file: &str) -> Result<Vec<String>> {
    let wanted = command.iter().any(|word| word.contains(FILE));
    match (wanted, file.is_empty()) {
        (true, true) => Err(Error::invalid("args.file", "is needed by the package command")),
        (false, false) => {
            Err(Error::invalid("args.file", "must be empty: the package command takes no file"))
        }
        // It would be taken as an option.
        _ if file.starts_with('-') || file.contains('\0') => {
            Err(Error::invalid("args.file", "must be a path or URL, and not begin with a dash"))
        }
        _ => Ok(command.iter().map(|word| word.replace(FILE, file)).collect()),
    }
}

fn describe(timed_out: Option<Duration>, status: &io::Result<ExitStatus>) -> (bool, String) {
    if let Some(limit) = timed_out {
        let limit = humantime::format_duration(limit);
        return (false, format!("timed out after {limit} and was killed"));
    }
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => (code == 0, format!("exit code {code}")),
            (None, Some(signal)) => (false, format!("signal {signal}")),
            (None, None) => (false, status.to_string()),
        },
        Err(error) => (false, format!("unknown exit code: {error}")),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

fn log_name(time: u64) -> String {
    format!("upgrade.{time}.log")
}

/// The log, twice: for stdout and stderr.
fn open_log(log: &Path) -> io::Result<(File, File)> {
    if let Some(dir) = log.parent() {
        prune(dir)?;
    }
    let output = File::options().create(true).append(true).open(log)?;
    let errors = output.try_clone()?;
    Ok((output, errors))
}

/// Removes the oldest logs, so that one more can come.
fn prune(dir: &Path) -> io::Result<()> {
    let mut logs: Vec<(u64, PathBuf)> = fs::read_dir(dir)?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let time = name.to_str()?.strip_prefix("upgrade.")?.strip_suffix(".log")?;
            Some((time.parse().ok()?, entry.path()))
        })
        .collect();
    logs.sort_unstable();
    let over = (logs.len() + 1).saturating_sub(LOGS);
    logs.iter().take(over).try_for_each(|(_, log)| fs::remove_file(log))
}

fn read_tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
