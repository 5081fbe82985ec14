//! Who belongs to a game.
//!
//! Invariant: only what is ours is found: descendants of the launcher or of a process that has
//! the run's token in its environment, and the session of a game that lives.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use procfs::process::{Process as Entry, Stat, all_processes};
use rustix::{
    event::{PollFd, PollFlags},
    process::{Signal, pidfd_send_signal},
};

use crate::{
    TOKEN,
    id::{ProcessId, found, lives, stat},
    poll::poll,
    run_dir::Process,
    signal::open_pidfd,
};

/// How long processes that were killed may take to be gone.
const KILL: Duration = Duration::from_secs(10);

/// The game and all that it started, except what has ended.
///
/// # Errors
/// When /proc cannot be read.
pub fn tree(p: &Process) -> io::Result<Vec<ProcessId>> {
    let all = processes()?;
    if all.values().any(|stat| p.launcher.is(stat) && lives(stat)) {
        // It adopts all that lose their parent: nobody gets away from below it.
        return below_of(&all, &p.launcher);
    }
    let mut roots: Vec<i32> =
        find_by_token(&p.token)?.iter().filter_map(|id| i32::try_from(id.pid).ok()).collect();
    // Once the game is gone, its number may be that of another session.
    if let Some(game) = all.values().find(|stat| p.game.is(stat)) {
        roots.extend(all.values().filter(|s| s.session == game.pid).map(|s| s.pid));
    }
    named(&all, &descendants(&all, roots))
}

/// All that a process started, except what has ended.
pub(crate) fn below(id: &ProcessId) -> io::Result<Vec<ProcessId>> {
    below_of(&processes()?, id)
}

fn below_of(all: &HashMap<i32, Stat>, id: &ProcessId) -> io::Result<Vec<ProcessId>> {
    let roots = all.values().filter(|stat| id.is(stat)).map(|stat| stat.pid);
    let mut below = named(all, &descendants(all, roots))?;
    below.retain(|found| found != id);
    Ok(below)
}

fn named(all: &HashMap<i32, Stat>, pids: &HashSet<i32>) -> io::Result<Vec<ProcessId>> {
    all.values()
        .filter(|stat| pids.contains(&stat.pid) && lives(stat))
        .map(ProcessId::from_stat)
        .collect()
}

/// Kills a game and all that it started, until none is left. Its launcher, if it lives, tells the
/// end.
///
/// # Errors
/// `TimedOut` when some will not die; when one may not be killed.
pub fn kill_all(p: &Process, cgroup: Option<&Path>) -> io::Result<()> {
    let deadline = Instant::now() + KILL;
    loop {
        let mut victims = tree(p)?;
        if let Some(cgroup) = cgroup {
            victims.extend(kill_cgroup(cgroup)?);
        }
        if victims.is_empty() {
            return Ok(());
        }
        kill(&victims, deadline)?;
    }
}

/// All processes that have a token in their environment, as far as we may read it.
///
/// # Errors
/// When /proc cannot be read.
pub fn find_by_token(token: &str) -> io::Result<Vec<ProcessId>> {
    Ok(find_tokens()?.into_iter().filter(|(found, _)| found == token).map(|(_, id)| id).collect())
}

/// All processes that have any token in their environment, as far as we may read it.
///
/// # Errors
/// When /proc cannot be read.
pub fn find_tokens() -> io::Result<Vec<(String, ProcessId)>> {
    let mut tokens = Vec::new();
    for entry in all_processes().map_err(io::Error::other)? {
        // Gone, or not ours to read.
        let Ok(entry) = entry else { continue };
        let Some(token) = token(&entry) else { continue };
        let Ok(stat) = entry.stat() else { continue };
        if lives(&stat) {
            tokens.push((token, ProcessId::from_stat(&stat)?));
        }
    }
    Ok(tokens)
}

fn token(entry: &Entry) -> Option<String> {
    let environ = fs::read(format!("/proc/{}/environ", entry.pid())).ok()?;
    environ.split(|byte| *byte == 0).find_map(|variable| {
        let value = variable.strip_prefix(TOKEN.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    })
}

fn processes() -> io::Result<HashMap<i32, Stat>> {
    let mut all = HashMap::new();
    for entry in all_processes().map_err(io::Error::other)? {
        let Ok(entry) = entry else { continue };
        if let Some(stat) = found(entry.stat())? {
            all.insert(stat.pid, stat);
        }
    }
    Ok(all)
}

/// Some processes and all below them.
fn descendants(all: &HashMap<i32, Stat>, roots: impl IntoIterator<Item = i32>) -> HashSet<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for stat in all.values() {
        children.entry(stat.ppid).or_default().push(stat.pid);
    }
    let mut todo: Vec<i32> = roots.into_iter().collect();
    let mut found = HashSet::new();
    while let Some(pid) = todo.pop() {
        if found.insert(pid) {
            todo.extend(children.get(&pid).into_iter().flatten().copied());
        }
    }
    found
}

/// Kills processes and waits until they are gone. One that may not be killed saves no other.
pub(crate) fn kill(victims: &[ProcessId], deadline: Instant) -> io::Result<()> {
    let mut dying = Vec::new();
    let mut failed = None;
    for victim in victims {
        let Some(pidfd) = open_pidfd(victim)? else { continue };
        match pidfd_send_signal(&pidfd, Signal::KILL) {
            Ok(()) => dying.push(pidfd),
            Err(rustix::io::Errno::SRCH) => {}
            Err(e) => failed = Some(e),
        }
    }
    for pidfd in &dying {
        let left = deadline.saturating_duration_since(Instant::now());
        if !poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(left))? {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "some of the game's processes do not die",
            ));
        }
    }
    failed.map_or(Ok(()), |e| Err(e.into()))
}

/// Kills all that is in a cgroup by one write, where the kernel can; answers who is in it.
pub(crate) fn kill_cgroup(cgroup: &Path) -> io::Result<Vec<ProcessId>> {
    // Linux 5.14 has it; without it they are killed one by one.
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    let members = match fs::read_to_string(cgroup.join("cgroup.procs")) {
        Ok(members) => members,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut ids = Vec::new();
    for pid in members.lines().filter_map(|line| line.trim().parse().ok()) {
        if let Some(stat) = stat(pid)?
            && lives(&stat)
        {
            ids.push(ProcessId::from_stat(&stat)?);
        }
    }
    Ok(ids)
}
