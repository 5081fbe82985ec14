//! The agent's start of a launcher.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Once,
};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::{TOKEN, id::ProcessId, pump, run_dir::RunDir};

/// Starts a launcher for the spec that was written. It outlives us; as long as we live it is ours
/// to [`reap`].
///
/// # Errors
/// When it cannot be started: nothing runs then.
pub fn spawn(launcher: &[OsString], dir: &RunDir, token: &str) -> io::Result<ProcessId> {
    start(launcher, &[absolute(dir)?.as_os_str(), token.as_ref()])
}

/// Starts one that reads what a game says whose launcher was lost: into the log, and past the
/// search for the ready line. It ends with the game, or at once when there is no such game or
/// another one reads. It is ours to [`reap`].
///
/// # Errors
/// When it cannot be started.
pub fn spawn_pump(launcher: &[OsString], dir: &RunDir) -> io::Result<ProcessId> {
    start(launcher, &[pump::FLAG.as_ref(), absolute(dir)?.as_os_str()])
}

fn absolute(dir: &RunDir) -> io::Result<PathBuf> {
    std::path::absolute(dir.path())
}

fn start(launcher: &[OsString], ours: &[&OsStr]) -> io::Result<ProcessId> {
    // What whoever started this process left open for it is nothing to a game.
    static ONCE: Once = Once::new();
    ONCE.call_once(|| close_fds::set_fds_cloexec_threadsafe(3, &[]));
    let (program, args) = launcher
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no launcher is named"))?;
    let child = Command::new(program)
        .args(args)
        .args(ours)
        .env_remove(TOKEN)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    // Not reaped yet, so nobody else has its pid.
    ProcessId::of(child.id())?.ok_or_else(|| io::Error::other("the launcher was reaped elsewhere"))
}

/// Reaps a child of this process, if it has ended; nothing for any other process.
pub fn reap(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // ECHILD: not ours, or reaped.
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}
