//! What a dead agent left running: found again by what was recorded, and killed.
//!
//! Invariant: a process is killed only when boot, pid and start time, or agent and message id in
//! its environment, say that this agent started it. A pid alone is reused, and of a request or a
//! broadcast every agent of the host has a message with the same id.

use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsStr,
    fs,
    path::Path,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use goperation::MessageId;
use procfs::process::{Process, Stat, all_processes};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tracing::warn;

/// Variable in which every program finds the id of its message.
pub(crate) const MESSAGE_ID: &str = "GOP_MESSAGE_ID";
/// Variable in which it finds who started it: the data folder, of which every agent has its own.
pub(crate) const AGENT: &str = "GOP_AGENT";
/// How long a killed group is waited for.
const GONE: Duration = Duration::from_secs(5);

/// Names a process for as long as the machine remembers: pids are reused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Pid, and number of its process group.
    pub pid: u32,
    /// When it started, in clock ticks since the boot.
    pub start_time: u64,
    /// The boot in which it ran.
    pub boot_id: String,
}

/// The id of this boot.
pub(crate) fn boot_id() -> Option<String> {
    static ID: OnceLock<Option<String>> = OnceLock::new();
    ID.get_or_init(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().to_owned())
    })
    .clone()
}

/// Whether the recorded process is there still, dead and not reaped included. It reads /proc: it
/// blocks for a moment.
#[must_use]
pub fn group_alive(run: &RunRecord) -> bool {
    leader(run).is_some()
}

/// Whether the recorded process runs: one that is dead and not reaped does not. It blocks as
/// [`group_alive`] does.
pub(crate) fn leader_runs(run: &RunRecord) -> bool {
    leader(run).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// The process that the agent with that data folder started for a message and whose record was
/// never written: the leader of a group that has both in its environment, and runs. It blocks as
/// [`group_alive`] does.
pub(crate) fn leader_for(agent: &Path, message_id: &str) -> Option<RunRecord> {
    let leads = |stat: &Stat| stat.pid == stat.pgrp && !matches!(stat.state, 'Z' | 'X');
    let stat = started_for(agent, |id| id == message_id).find(leads)?;
    Some(RunRecord {
        pid: u32::try_from(stat.pid).ok()?,
        start_time: stat.starttime,
        boot_id: boot_id()?,
    })
}

/// Kills the recorded process with its whole group and waits until they are gone. Nothing is
/// killed when the process has ended, whoever has its pid now. Says whether something was killed.
pub async fn kill_orphan(run: &RunRecord) -> bool {
    let run = run.clone();
    let kill = move || leader(&run).is_some_and(|leader| kill_group(leader.pgrp));
    spawn_blocking(kill).await.unwrap_or(false)
}

/// Kills every process group that the agent with that data folder started for these messages, even
/// one whose record was never written or whose leader has ended, and waits until they are gone.
/// Programs that made a session of their own are meant to outlive the method and are left. It looks
/// through all processes once, however many messages there are. Gives the number of groups killed.
pub async fn kill_orphans_of(agent: &Path, messages: &[MessageId]) -> usize {
    if messages.is_empty() {
        return 0;
    }
    let agent = agent.to_owned();
    let ids: HashSet<String> = messages.iter().map(ToString::to_string).collect();
    let kill = move || {
        let is_one = |id: &OsStr| id.to_str().is_some_and(|id| ids.contains(id));
        let groups: BTreeSet<i32> = started_for(&agent, is_one).map(|stat| stat.pgrp).collect();
        groups.into_iter().filter(|&group| kill_group(group)).count()
    };
    spawn_blocking(kill).await.unwrap_or(0)
}

fn leader(run: &RunRecord) -> Option<Stat> {
    if boot_id().as_ref() != Some(&run.boot_id) {
        return None;
    }
    let stat =
        Process::new(i32::try_from(run.pid).ok()?).and_then(|process| process.stat()).ok()?;
    (stat.starttime == run.start_time && stat.pgrp == stat.pid).then_some(stat)
}

/// The processes of groups that an agent started for messages of which `is_one` holds.
fn started_for(agent: &Path, is_one: impl Fn(&OsStr) -> bool) -> impl Iterator<Item = Stat> {
    let own = Process::myself().and_then(|process| process.stat()).map_or(0, |stat| stat.pgrp);
    processes().filter_map(move |process| {
        let environment = process.environ().ok()?;
        let value = |name: &str| environment.get(OsStr::new(name));
        if value(AGENT)? != agent.as_os_str() || !is_one(value(MESSAGE_ID)?) {
            return None;
        }
        let stat = process.stat().ok()?;
        (stat.pgrp != own && stat.pgrp != stat.session).then_some(stat)
    })
}

fn processes() -> impl Iterator<Item = Process> {
    all_processes().into_iter().flatten().filter_map(Result::ok)
}

/// Kills a group and waits until nobody of it runs.
fn kill_group(group: i32) -> bool {
    let Some(pid) = Pid::from_raw(group) else { return false };
    if kill_process_group(pid, Signal::KILL).is_err() {
        return false;
    }
    let until = Instant::now() + GONE;
    while processes().any(|process| {
        process.stat().is_ok_and(|stat| stat.pgrp == group && !matches!(stat.state, 'Z' | 'X'))
    }) {
        if Instant::now() > until {
            warn!(group, "killed, but some of it are still there");
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}
