//! `gop launch --pump`: reads what a game says whose launcher was lost.
//!
//! Invariant: one at a time, and it touches nothing but the log and the ready mark: the agent says
//! what becomes of the game. Without it the game lives until its output has no more room, and then
//! waits.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags},
    fs::OFlags,
};

use crate::{
    disk,
    id::ProcessId,
    lock::Lock,
    output::Output,
    poll::poll,
    quiet::quiet,
    run_dir::{Look, RunDir},
    signal::open_pidfd,
    spec::Spec,
};

/// How it is called.
pub(crate) const FLAG: &str = "--pump";

/// Reads until the game has ended.
///
/// # Errors
/// `WouldBlock` when another one does; `NotFound` when there is nothing to read.
pub(crate) fn run(dir: &Path) -> io::Result<()> {
    quiet()?;
    let dir = RunDir::new(dir);
    let lock = dir.path().join("pump");
    disk::create(&lock)?;
    let _lock = Lock::alone(&lock)?;
    let Look::Orphaned(process) = dir.look()? else { return Err(nothing()) };
    let spec = disk::read::<Spec>(&dir.spec())?.filter(|spec| spec.token == process.token);
    let spec = spec.ok_or_else(nothing)?;
    let Some(game) = open_pidfd(&process.game)? else { return Err(nothing()) };
    let mut output = Output::new(reader(&process.game)?, &dir, &spec)?;
    loop {
        let mut fds = vec![PollFd::new(&game, PollFlags::IN)];
        fds.extend(output.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        poll(&mut fds, None)?;
        if fds.first().is_some_and(|game| !game.revents().is_empty()) {
            break;
        }
        output.pump();
    }
    output.drain();
    Ok(())
}

/// The reading end of what a game writes to.
fn reader(game: &ProcessId) -> io::Result<File> {
    for number in [1, 2] {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(format!("/proc/{}/fd/{number}", game.pid));
        if let Ok(file) = opened
            && file.metadata()?.file_type().is_fifo()
            && game.is_alive()
        {
            return Ok(file);
        }
    }
    Err(nothing())
}

fn nothing() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no game without its launcher speaks here")
}
