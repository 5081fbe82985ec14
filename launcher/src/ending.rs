//! What is left when a game has ended.
//!
//! Invariant: a launcher that has told the end has no descendants, except what the kernel cannot
//! kill.

use std::{
    io,
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use procfs::process::Process;
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    process::{
        Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process_group, wait, waitid,
    },
};

use crate::{
    game::Game,
    id::ProcessId,
    poll::poll,
    tree::{below, kill, kill_cgroup},
};

/// How long it may take until the last one is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long until one looks again, when no child has ended meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// How a game ended.
#[derive(Debug, Default)]
pub(crate) struct End {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// Nobody is left.
    pub(crate) clean: bool,
}

/// Kills all that a game that has ended leaves behind, and reaps everything.
pub(crate) fn end(game: &Game, cgroup: Option<&Path>, children: &UnixStream) -> End {
    let deadline = Instant::now() + PATIENCE;
    // Its number is its own until it is reaped. It fails when nobody is left.
    let _ = kill_process_group(game.pid, Signal::KILL);
    let status = game.reap().ok().flatten();
    let mut end = End {
        code: status.as_ref().and_then(|status| status.exit_status()),
        signal: status.as_ref().and_then(|status| status.terminating_signal()),
        clean: false,
    };
    while Instant::now() < deadline {
        if let Some(cgroup) = cgroup {
            // It helps; the tree is what counts.
            let _ = kill_cgroup(cgroup);
        }
        // No child at all: nobody below us, because all that lose their parent are ours.
        if reap_all() {
            end.clean = true;
            break;
        }
        // What fails now is tried again.
        let _ = kill_below(deadline);
        wait_for_child(children, PAUSE);
    }
    end
}

fn kill_below(deadline: Instant) -> io::Result<()> {
    let us = u32::try_from(getpid().as_raw_nonzero().get()).map_err(io::Error::other)?;
    let Some(us) = ProcessId::of(us)? else { return Ok(()) };
    kill(&below(&us)?, deadline)
}

/// Reaps all that have ended; true when there is no child.
fn reap_all() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

/// Reaps the orphans that came to us and have ended, but not the game.
pub(crate) fn reap_orphans(game: Pid) {
    let Ok(children) = Process::myself().and_then(|us| us.task_main_thread()?.children()) else {
        return;
    };
    for child in children.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        if child != game {
            let _ = waitid(WaitId::Pid(child), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
}

fn wait_for_child(children: &UnixStream, pause: Duration) {
    let _ = poll(&mut [PollFd::new(children, PollFlags::IN)], Some(pause));
    forget(children);
}

/// Forgets that children have ended, before one asks which.
pub(crate) fn forget(mut children: &UnixStream) {
    let mut buffer = [0; 64];
    while matches!(io::Read::read(&mut children, &mut buffer), Ok(read) if read == buffer.len()) {}
}
