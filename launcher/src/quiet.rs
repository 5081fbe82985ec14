//! What a launcher does to itself before it begins.
//!
//! Invariant: from then on only SIGKILL ends it, and nothing that it starts inherits that: handled
//! signals are back to their defaults after an exec, ignored ones would not be.

use std::{
    io,
    os::unix::net::UnixStream,
    sync::{Arc, atomic::AtomicBool},
};

use rustix::{
    fs::Mode,
    io::Errno,
    process::{getpid, set_child_subreaper, setsid, umask},
};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGXFSZ,
};

/// What would end it otherwise. SIGPIPE is ignored from the start, and not inherited.
const SIGNALS: [i32; 9] =
    [SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGXFSZ];

/// Leaves the session, the folder and the descriptors of whoever started us, adopts all orphans
/// below us, and handles signals. Answers a pipe that is readable when a child may have ended.
pub(crate) fn quiet() -> io::Result<UnixStream> {
    close_fds::set_fds_cloexec(3, &[]);
    match setsid() {
        // Started by hand, as the leader of a group.
        Ok(_) | Err(Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    std::env::set_current_dir("/")?;
    umask(Mode::from_raw_mode(0o027));
    set_child_subreaper(Some(getpid()))?;
    for signal in SIGNALS {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    let (children, handler) = UnixStream::pair()?;
    children.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(SIGCHLD, handler)?;
    Ok(children)
}
