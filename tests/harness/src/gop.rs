//! The `gop` binary as a process of its own.
//!
//! Invariant: whatever ends the test, the process and its group end with it. Its log is kept in a
//! file and printed when the value is dropped, which the test runner shows for a failed test.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use uuid::Uuid;

use crate::failure;
use crate::guard::{self, Guarded, Swept};
use crate::rabbit::tail;
use crate::tools::{GOP_ENV, profile_folder};
use crate::{Result, poll_for};

/// How long a start may take; it takes far less unless the machine is busy.
const READY_WITHIN: Duration = Duration::from_secs(60);
const LOG_LINES: usize = 30;

/// The built `gop` program: the one that the environment names, or that of this build profile.
///
/// # Panics
/// It is not there; the message says how to build it.
pub fn gop() -> PathBuf {
    let path =
        std::env::var_os(GOP_ENV).map_or_else(|| profile_folder().join("gop"), PathBuf::from);
    assert!(path.is_file(), "{} is missing: run `cargo build --package gop`", path.display());
    path
}

/// A running `gop`. Dropping it kills it.
#[derive(Debug)]
pub struct GopProcess {
    args: Vec<OsString>,
    process: Guarded,
    stdout: PathBuf,
    stderr: PathBuf,
    ready_line: String,
    /// The games below the temporary folder of a `gop dev` that did not end by itself.
    games: Option<Swept>,
    /// Whether its log is shown when it is dropped.
    shown: bool,
}

/// What a `gop` that has ended left behind.
#[derive(Debug, Clone)]
pub struct GopOutput {
    /// Its exit status.
    pub status: ExitStatus,
    /// Everything that it printed on stdout.
    pub stdout: String,
    /// Everything that it printed on stderr.
    pub stderr: String,
}

impl GopProcess {
    /// Starts `gop` with `args` and waits for its line beginning with `ready`.
    ///
    /// # Panics
    /// It ends, or is not ready within a minute; the message holds its log.
    pub async fn spawn<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        Self::spawn_with(args, &[]).await
    }

    /// As [`Self::spawn`], with environment variables added to those of the test.
    ///
    /// # Panics
    /// It ends, or is not ready within a minute; the message holds its log.
    pub async fn spawn_with<S: AsRef<OsStr>>(
        args: impl IntoIterator<Item = S>,
        env: &[(&str, &str)],
    ) -> Self {
        Self::try_spawn(args, env).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Self::spawn_with`], for a start that may fail.
    ///
    /// # Errors
    /// It ends, or is not ready within a minute; the text holds its log.
    pub async fn try_spawn<S: AsRef<OsStr>>(
        args: impl IntoIterator<Item = S>,
        env: &[(&str, &str)],
    ) -> Result<Self> {
        Self::try_spawn_program(&gop(), args, env).await
    }

    /// As [`Self::try_spawn`], for another build of `gop`.
    ///
    /// # Errors
    /// It ends, or is not ready within a minute; the text holds its log.
    pub async fn try_spawn_program<S: AsRef<OsStr>>(
        program: &Path,
        args: impl IntoIterator<Item = S>,
        env: &[(&str, &str)],
    ) -> Result<Self> {
        Self::try_spawn_program_within(READY_WITHIN, program, args, env).await
    }

    /// As [`Self::try_spawn_program`], for a start that takes longer.
    ///
    /// # Errors
    /// It ends, or is not ready within that time; the text holds its log.
    pub async fn try_spawn_program_within<S: AsRef<OsStr>>(
        within: Duration,
        program: &Path,
        args: impl IntoIterator<Item = S>,
        env: &[(&str, &str)],
    ) -> Result<Self> {
        Self::launch(program, args, env)?.ready_within(within).await
    }

    /// Keeps its log to itself: for programs that have no test runner above them.
    #[must_use]
    pub fn unshown(self) -> Self {
        let mut gop = self;
        gop.shown = false;
        gop
    }

    /// As [`Self::spawn`], for a start that takes longer.
    ///
    /// # Panics
    /// It ends, or is not ready within that time; the message holds its log.
    pub async fn spawn_within<S: AsRef<OsStr>>(
        within: Duration,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        let started = Self::try_spawn_program_within(within, &gop(), args, &[]).await;
        started.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn ready_within(self, within: Duration) -> Result<Self> {
        let mut gop = self;
        let deadline = tokio::time::Instant::now() + within;
        loop {
            // Asked before the line is looked for: a line printed just before the end counts.
            let ended = gop.process.try_wait()?;
            let text = gop.stdout_text();
            let line = text.split_inclusive('\n').find(|line| line.starts_with("ready"));
            // Half a line may lack the address.
            if let Some(line) = line.filter(|line| line.ends_with('\n')) {
                gop.ready_line = line.trim_end().to_owned();
                gop.games = temporary(&gop.ready_line).map(Swept::folder);
                return Ok(gop);
            }
            let args = gop.args.join(OsStr::new(" "));
            if let Some(status) = ended {
                let log = gop.log();
                return Err(format!("gop {} ended with {status}\n{log}", args.display()).into());
            }
            if tokio::time::Instant::now() >= deadline {
                let log = gop.log();
                let args = args.display();
                return Err(format!("gop {args} not ready within {within:?}\n{log}").into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn launch<S: AsRef<OsStr>>(
        program: &Path,
        args: impl IntoIterator<Item = S>,
        env: &[(&str, &str)],
    ) -> Result<Self> {
        let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        failure::watch();
        let name = format!("gop-{}", Uuid::new_v4().simple());
        let stdout = guard::scratch().join(format!("{name}.stdout"));
        let stderr = guard::scratch().join(format!("{name}.stderr"));
        let process = Guarded::spawn(
            Command::new(program)
                .args(&args)
                .envs(env.iter().copied())
                .stdin(Stdio::null())
                .stdout(File::create(&stdout)?)
                .stderr(File::create(&stderr)?),
        )?;
        Ok(Self {
            args,
            process,
            stdout,
            stderr,
            ready_line: String::new(),
            games: None,
            shown: true,
        })
    }

    /// The line on stdout that began with `ready`, without its newline.
    pub fn ready_line(&self) -> &str {
        &self.ready_line
    }

    /// Its pid, which is also the number of its process group.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Everything that it has printed on stdout so far.
    pub fn stdout_text(&self) -> String {
        read(&self.stdout)
    }

    /// Everything that it has printed on stderr, its log, so far.
    pub fn stderr_text(&self) -> String {
        read(&self.stderr)
    }

    /// Waits until its log holds `text`; panics after `within`.
    pub async fn wait_for_log(&self, text: &str, within: Duration) {
        poll_for(within, &format!("{text:?} in the log of gop"), async || {
            self.stderr_text().contains(text).then_some(())
        })
        .await;
    }

    /// The end of its log, for a message.
    pub fn log(&self) -> String {
        tail(&self.stderr, LOG_LINES)
    }

    /// Kills it with SIGKILL, with its whole process group, and waits for its end.
    pub fn kill9(&mut self) {
        self.process.kill();
    }

    /// Asks it to end with SIGTERM, as a service manager does; see [`Self::wait`].
    pub fn term(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends it a signal; not to its children.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        // Guarded holds the child unwaited until it is seen to end, so the pid is still its own.
        if let Some(pid) = pid {
            let _ended = rustix::process::kill_process(pid, signal);
        }
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// The system refuses to say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap_or_else(|error| panic!("looking at gop: {error}"))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It runs longer than `within`; the message holds its log.
    pub async fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => return status,
                Ok(None) => {}
                Err(error) => panic!("waiting for gop: {error}"),
            }
            let args = self.args.join(OsStr::new(" "));
            assert!(
                tokio::time::Instant::now() < deadline,
                "gop {} still runs after {within:?}\n{}",
                args.display(),
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The folder of a `gop dev` that nobody has given it.
fn temporary(ready_line: &str) -> Option<&str> {
    let folder = ready_line.split(' ').find_map(|word| word.strip_prefix("data_dir="));
    folder.filter(|folder| folder.contains("/gop-dev-"))
}

impl Drop for GopProcess {
    fn drop(&mut self) {
        self.process.kill();
        if let Some(games) = &self.games {
            games.kill();
        }
        if !self.shown {
            return;
        }
        // Captured by the test runner, which shows it when the test has failed. Of many logs a
        // reader may see only a part, so each says why it is there.
        let args = self.args.join(OsStr::new(" "));
        if let Some(why) = failure::first() {
            eprintln!("--- the test had failed: {why}");
        }
        eprintln!("--- log of gop {}\n{}", args.display(), self.log());
    }
}

/// Runs `gop` with `args` to its end: a command of a person, or a start that must fail.
///
/// # Panics
/// It cannot be started, or runs longer than `within`.
pub async fn gop_output<S: AsRef<OsStr>>(
    args: impl IntoIterator<Item = S>,
    within: Duration,
) -> GopOutput {
    let mut gop = GopProcess::launch(&gop(), args, &[]).unwrap_or_else(|error| panic!("{error}"));
    let status = gop.wait(within).await;
    GopOutput { status, stdout: gop.stdout_text(), stderr: gop.stderr_text() }
}

fn read(file: &PathBuf) -> String {
    let bytes = std::fs::read(file).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
