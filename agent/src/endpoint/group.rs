//! A child process as the leader of a process group of its own.
//!
//! Invariant: the leader is not reaped before the group is done with, so the group's number cannot
//! belong to anyone else while it may be killed. A group that is dropped is killed, unless it is to
//! outlive this process; the runtime reaps what is left.

use std::{ffi::OsString, io, process::ExitStatus, sync::Once, time::Duration};

use procfs::process::Process;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::{
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    signal::unix::{self, SignalKind},
    task::spawn_blocking,
    time::timeout,
};

use super::orphan::{RunRecord, boot_id};

/// How long a killed leader is waited for: one that hangs in the kernel is left to the runtime.
const REAP: Duration = Duration::from_secs(5);

/// A group.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    leader: Pid,
    /// SIGCHLD: some child has ended.
    children: unix::Signal,
    record: Option<RunRecord>,
    reaped: bool,
    spared: bool,
}

impl Group {
    /// Starts a program as the leader of a new group.
    ///
    /// # Errors
    /// When it cannot be started: nothing runs then.
    pub(crate) async fn spawn(mut command: Command) -> io::Result<Self> {
        // Fork and exec may wait for a slow disk. A group that nobody takes is dropped: killed.
        spawn_blocking(move || {
            keep_descriptors();
            // Before the start, so that no end is missed.
            let children = unix::signal(SignalKind::child())?;
            let child = command.process_group(0).spawn()?;
            let leader = child
                .id()
                .and_then(|id| i32::try_from(id).ok())
                .and_then(Pid::from_raw)
                .ok_or_else(|| io::Error::other("the child has no pid"))?;
            Ok(Self {
                child,
                leader,
                children,
                record: record(leader),
                reaped: false,
                spared: false,
            })
        })
        .await
        .map_err(io::Error::other)?
    }

    /// What names the group after a crash of this process; none when /proc cannot be read.
    pub(crate) fn record(&self) -> Option<&RunRecord> {
        self.record.as_ref()
    }

    /// The ends of its pipes; each is there once, and only when it was asked for.
    pub(crate) fn pipes(
        &mut self,
    ) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take())
    }

    /// Waits until the leader has ended. Others of the group may go on.
    pub(crate) async fn ended(&mut self) {
        while self.runs() {
            // None: the runtime is going away, and the group with it.
            if self.children.recv().await.is_none() {
                return;
            }
        }
    }

    /// Whether the leader has not ended; it is not reaped by asking.
    fn runs(&self) -> bool {
        let ask = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(self.leader), ask), Ok(None))
    }

    /// Kills every process of the group.
    pub(crate) fn kill(&self) {
        if !self.reaped {
            kill(self.leader);
        }
    }

    /// From now on only [`Group::kill`] kills it: dropped, it is left to go on.
    pub(crate) fn spare(&mut self) {
        self.spared = true;
    }

    /// Reaps a leader that has ended or was killed. From then on the group is left alone.
    ///
    /// # Errors
    /// When it does not end in time, or was reaped elsewhere.
    pub(crate) async fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = timeout(REAP, self.child.wait()).await??;
        self.reaped = true;
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.spared {
            self.kill();
        }
    }
}

/// Keeps from all children what whoever started this process left open for it; what this process
/// opens itself is kept from them when it is opened.
fn keep_descriptors() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| close_fds::set_fds_cloexec_threadsafe(3, &[]));
}

fn kill(leader: Pid) {
    // It fails only when nobody is left.
    let _ = kill_process_group(leader, Signal::KILL);
}

fn record(leader: Pid) -> Option<RunRecord> {
    let pid = leader.as_raw_nonzero().get();
    let stat = Process::new(pid).and_then(|process| process.stat()).ok()?;
    Some(RunRecord {
        pid: u32::try_from(pid).ok()?,
        start_time: stat.starttime,
        boot_id: boot_id()?,
    })
}

/// PATH, LANG and HOME of this process: all that its children inherit.
pub(crate) fn base_environment() -> impl Iterator<Item = (&'static str, OsString)> {
    [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("LANG", "C.UTF-8"),
        ("HOME", "/"),
    ]
    .into_iter()
    .map(|(name, default)| (name, std::env::var_os(name).unwrap_or_else(|| default.into())))
}
