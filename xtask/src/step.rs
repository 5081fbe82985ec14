//! Running one command after another, each announced and timed.
//!
//! Invariant: a command has ended and was waited for before its step returns, also when the task
//! is interrupted: it is asked to end, so that it can end its own children, and only then killed.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::Error;

/// How long an interrupted command may take to end its children and itself.
const GRACE: Duration = Duration::from_secs(20);

static INTERRUPTED: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::channel(false).0);

/// A command in the workspace's folder.
pub(crate) fn command<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(workspace()).kill_on_drop(true);
    command
}

/// The cargo that runs this task.
pub(crate) fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = command(cargo, args);
    // `cargo run` adds its own: build scripts that watch them would run again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_"))
            || name == "CARGO_MANIFEST_DIR"
            || name == "CARGO_MANIFEST_PATH"
        {
            command.env_remove(name);
        }
    }
    command
}

/// The top folder of the repository.
pub(crate) fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// How a step's work failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not be done.
    Failed {
        /// How.
        what: String,
        /// The exit code of the command that failed, if it gave one.
        code: Option<i32>,
    },
    /// Somebody asked for the end.
    Interrupted,
}

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed { what: error.to_string(), code: None }
    }
}

/// Does one step: prints its name, does the work, prints how long it took.
pub(crate) async fn step<T>(
    name: &'static str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Error> {
    eprintln!("\n==> {name}");
    let began = Instant::now();
    let done = work.await;
    let seconds = began.elapsed().as_secs_f64();
    match done {
        Ok(value) => {
            eprintln!("<== {name}: {seconds:.1} s");
            Ok(value)
        }
        Err(Failure::Failed { what, code }) => Err(Error::Step { step: name, seconds, what, code }),
        Err(Failure::Interrupted) => Err(Error::Interrupted),
    }
}

/// Runs `command` to its end; anything but success is a failure with its exit code.
pub(crate) async fn run(mut command: Command) -> Result<(), Failure> {
    let mut child = command.spawn().map_err(|error| {
        let program = command.as_std().get_program().to_string_lossy();
        format!("cannot start {program}: {error}")
    })?;
    let status = tokio::select! {
        status = child.wait() => status?,
        () = interrupted() => {
            end(&mut child).await;
            return Err(Failure::Interrupted);
        }
    };
    if status.success() {
        return Ok(());
    }
    Err(Failure::Failed { what: status.to_string(), code: status.code() })
}

/// Does `work` unless the task is interrupted first.
pub(crate) async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        () = interrupted() => Err(Failure::Interrupted),
    }
}

async fn end(child: &mut Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ended_by_itself = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        let _ended_by_itself = child.kill().await;
    }
}

/// Returns once Ctrl-C or SIGTERM has come; see [`watch_for_signals`].
async fn interrupted() {
    // The sender is static: the wait cannot fail.
    let mut came = INTERRUPTED.subscribe();
    let _ok = came.wait_for(|came| *came).await;
}

/// Turns Ctrl-C and SIGTERM into the end of the step that runs, for as long as this is polled.
pub(crate) async fn watch_for_signals() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    INTERRUPTED.send_replace(true);
}
