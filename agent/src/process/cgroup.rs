//! Limits of all processes of an entity together: a cgroup v2 of its own, next to the agent's.
//!
//! The agent must have been given a part of the hierarchy (systemd: `Delegate=yes`). A cgroup
//! that hands out controllers may hold no process, so the agent itself goes one level down, into
//! [`LEAF`], when nobody has put it there (systemd: `DelegateSubgroup=gop-agent`): at its start,
//! before anything of an endpoint without limits could be started in the way.
//!
//! Invariant: nothing outside of the agent's own part is made, changed or removed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
    thread::sleep,
    time::{Duration, Instant},
};

use procfs::process::Process;

use crate::{
    config::process::{CgroupLimits, ProcessConfig},
    state::EntityKey,
};

/// Where the agent is, below the cgroup that it was given.
const LEAF: &str = "gop-agent";
/// How long a cgroup is waited for whose last process was just killed.
const EMPTY: Duration = Duration::from_secs(5);
/// Time between two looks at it.
const AGAIN: Duration = Duration::from_millis(10);
/// Processes that an error names.
const SHOWN: usize = 10;
/// Microseconds in which the processor time is counted.
const PERIOD: u64 = 100_000;

/// What the agent was given.
#[derive(Debug)]
struct Own {
    /// The cgroup in which those of the entities are made.
    base: PathBuf,
    /// Whether the agent itself is in [`LEAF`] below it.
    below: bool,
}

/// Whether entities can have a cgroup with these limits. It leaves nothing behind.
///
/// # Errors
/// Says why not.
pub(crate) fn check(limits: &CgroupLimits) -> io::Result<()> {
    let own = find()?;
    let there = fs::read_to_string(own.base.join("cgroup.controllers"))
        .map_err(|error| about(&own.base, "has no cgroup.controllers", &error))?;
    let missing: Vec<&str> =
        controllers(limits).filter(|name| there.split_whitespace().all(|n| n != *name)).collect();
    if !missing.is_empty() {
        return Err(io::Error::other(format!(
            "{} has no controller {} for the agent to use",
            own.base.display(),
            missing.join(", ")
        )));
    }
    // Only making tells: permissions say nothing of a read-only mount.
    let probe = own.base.join(format!("gop-probe-{}", process::id()));
    fs::create_dir(&probe)
        .and_then(|()| fs::remove_dir(&probe))
        .map_err(|error| about(&own.base, "does not take the agent's cgroups", &error))
}

/// Where the cgroup of an entity is; none when it has none.
pub(crate) fn of(config: &ProcessConfig, key: &EntityKey) -> Option<PathBuf> {
    config.cgroup.as_ref()?;
    path(key.endpoint.as_str(), key.number).ok()
}

/// Where the cgroup of an entity would be.
///
/// # Errors
/// When this host has no cgroup v2.
pub(super) fn path(endpoint: &str, number: u32) -> io::Result<PathBuf> {
    Ok(find()?.base.join(format!("{endpoint}-{number}")))
}

/// Makes a cgroup, or takes up the one that is there, and sets its limits.
///
/// # Errors
/// Names the file that could not be written.
pub(crate) fn make(path: &Path, limits: &CgroupLimits) -> io::Result<()> {
    let mut own = find()?;
    if path.parent() != Some(&own.base) {
        return Err(io::Error::other(format!("{} is not the agent's", path.display())));
    }
    for controller in controllers(limits) {
        enable(&mut own, controller)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(about(path, "cannot be made", &error));
        }
        _ => {}
    }
    for (file, value) in settings(limits) {
        set(&path.join(file), &value)?;
    }
    Ok(())
}

/// Removes a cgroup whose processes have ended; one that is not there is removed.
///
/// It waits a little for processes that were killed: do not call it on the async runtime.
///
/// # Errors
/// When something is left in it.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let late = Instant::now() + EMPTY;
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < late => {
                sleep(AGAIN);
            }
            removed => return removed.map_err(|error| about(path, "cannot be removed", &error)),
        }
    }
}

/// The cgroup of this process, and the one above it when that is the one to work in.
fn find() -> io::Result<Own> {
    let me = Process::myself().map_err(io::Error::other)?;
    let mounts = me.mountinfo().map_err(io::Error::other)?;
    let mount = mounts
        .into_iter()
        .find(|mount| mount.fs_type == "cgroup2")
        .ok_or_else(|| io::Error::other("this host has no cgroup v2 mounted"))?;
    let groups = me.cgroups().map_err(io::Error::other)?;
    let name = groups
        .into_iter()
        .find(|group| group.hierarchy == 0)
        .map(|group| group.pathname)
        .ok_or_else(|| io::Error::other("the agent is in no cgroup v2"))?;
    let inside = Path::new(&name)
        .strip_prefix(&mount.root)
        .ok()
        .filter(|inside| !inside.starts_with(".."))
        .ok_or_else(|| {
            let mount = mount.mount_point.display();
            io::Error::other(format!("the agent's cgroup {name} is not below {mount}"))
        })?;
    // Without an empty last component, which `join` would make of the root.
    let path: PathBuf = mount.mount_point.join(inside).components().collect();
    Ok(match path.parent() {
        Some(above) if path.file_name().is_some_and(|name| name == LEAF) => {
            Own { base: above.to_owned(), below: true }
        }
        _ => Own { base: path, below: false },
    })
}

/// Moves this process out of the cgroup that hands out controllers, before anything is started in
/// it: what does not have a cgroup of its own is then started beside the entities', and not there.
///
/// # Errors
/// Names the file that could not be written.
pub(crate) fn step_down() -> io::Result<()> {
    let own = find()?;
    if own.below { Ok(()) } else { enter_leaf(&own.base, process::id()) }
}

fn enter_leaf(base: &Path, pid: u32) -> io::Result<()> {
    let leaf = base.join(LEAF);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(about(&leaf, "cannot be made", &error));
        }
        _ => {}
    }
    set(&leaf.join("cgroup.procs"), &pid.to_string())
}

/// Hands a controller to the cgroups below.
fn enable(own: &mut Own, controller: &str) -> io::Result<()> {
    let file = own.base.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file).map_err(|error| about(&file, "", &error))?;
    if enabled.split_whitespace().any(|name| name == controller) {
        return Ok(());
    }
    let value = format!("+{controller}");
    match fs::write(&file, &value) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy && !own.below => {
            enter_leaf(&own.base, process::id())?;
            own.below = true;
            // Still busy: somebody else is in the cgroup, and nothing of ours may move him.
            set(&file, &value).map_err(|error| held_by_others(&own.base, error))
        }
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            Err(held_by_others(&own.base, about(&file, "", &error)))
        }
        written => written.map_err(|error| about(&file, "", &error)),
    }
}

/// Says who keeps a cgroup from handing out controllers, where somebody does.
fn held_by_others(base: &Path, error: io::Error) -> io::Error {
    let pids = fs::read_to_string(base.join("cgroup.procs")).unwrap_or_default();
    let pids: Vec<&str> = pids.split_whitespace().take(SHOWN).collect();
    if pids.is_empty() || error.kind() != io::ErrorKind::ResourceBusy {
        return error;
    }
    let pids = pids.join(", ");
    io::Error::new(error.kind(), format!("{error}; in it, to be stopped or moved: pid {pids}"))
}

fn set(file: &Path, value: &str) -> io::Result<()> {
    fs::write(file, value).map_err(|error| about(file, &format!("does not take {value}"), &error))
}

fn about(path: &Path, what: &str, error: &io::Error) -> io::Error {
    let space = if what.is_empty() { "" } else { " " };
    io::Error::new(error.kind(), format!("{}{space}{what}: {error}", path.display()))
}

fn controllers(limits: &CgroupLimits) -> impl Iterator<Item = &'static str> {
    let wanted = [
        ("memory", limits.memory_max.is_some()),
        ("cpu", limits.cpu_max.is_some()),
        ("pids", limits.pids_max.is_some()),
    ];
    wanted.into_iter().filter_map(|(name, wanted)| wanted.then_some(name))
}

fn settings(limits: &CgroupLimits) -> Vec<(&'static str, String)> {
    let memory = limits.memory_max.map(|bytes| ("memory.max", bytes.to_string()));
    let cpu = limits.cpu_max.map(|thousandths| {
        ("cpu.max", format!("{} {PERIOD}", thousandths.saturating_mul(PERIOD / 1000)))
    });
    let pids = limits.pids_max.map(|pids| ("pids.max", pids.to_string()));
    [memory, cpu, pids].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let limits =
            CgroupLimits { memory_max: Some(1 << 31), cpu_max: Some(1500), pids_max: Some(512) };
        let settings = settings(&limits);
        let said: Vec<_> = settings.iter().map(|(file, value)| (*file, value.as_str())).collect();
        let expected =
            [("memory.max", "2147483648"), ("cpu.max", "150000 100000"), ("pids.max", "512")];
        assert_eq!(said, expected);
    }

    #[test]
    fn the_agent_goes_one_level_down_and_may_be_there() {
        // A plain folder: what is written is what the kernel would be told.
        let base = tempfile::tempdir().unwrap();
        for pid in [7, 8] {
            enter_leaf(base.path(), pid).unwrap();
            let procs = base.path().join("gop-agent/cgroup.procs");
            assert_eq!(fs::read_to_string(procs).unwrap(), pid.to_string());
        }
        assert!(enter_leaf(&base.path().join("not there"), 7).is_err());
    }

    /// With a child, and in a cgroup that is only the test's, where this host lets it have one.
    #[test]
    fn a_process_goes_down_in_a_real_cgroup() {
        let none = CgroupLimits::default();
        if check(&none).is_err() {
            return;
        }
        let base = path("test-down", process::id()).unwrap();
        make(&base, &none).unwrap();
        let mut child = process::Command::new("sleep").arg("600").spawn().unwrap();
        let entered = enter_leaf(&base, child.id());
        let seen = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let removed = remove(&base.join(LEAF)).and_then(|()| remove(&base));
        entered.unwrap();
        removed.unwrap();
        assert!(seen.lines().any(|line| line.starts_with("0::") && line.ends_with(LEAF)), "{seen}");
    }

    #[test]
    fn who_is_in_the_way_is_named() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("cgroup.procs"), "12\n13\n").unwrap();
        let busy = io::Error::from(io::ErrorKind::ResourceBusy);
        let said = held_by_others(base.path(), busy).to_string();
        assert!(said.contains("12, 13"), "{said}");
        let other = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(!held_by_others(base.path(), other).to_string().contains("12"));
    }

    /// Without limits, so that no controller is needed: which there are depends on the host.
    #[test]
    fn a_cgroup_holds_a_process_and_is_removed_after_it() {
        let none = CgroupLimits::default();
        if let Err(error) = check(&none) {
            // What an operator is told on such a host.
            let said = error.to_string();
            assert!(said.contains("cgroup"), "{said}");
            return;
        }
        let path = path("test", process::id()).unwrap();
        make(&path, &none).unwrap();
        make(&path, &none).unwrap();
        let mut child = process::Command::new("sleep").arg("600").spawn().unwrap();
        let joined = fs::write(path.join("cgroup.procs"), child.id().to_string());
        let held = fs::remove_dir(&path).map_err(|error| error.kind());
        child.kill().unwrap();
        let removed = remove(&path);
        child.wait().unwrap();
        joined.unwrap();
        assert_eq!(held, Err(io::ErrorKind::ResourceBusy));
        removed.unwrap();
        assert!(!path.exists());
        remove(&path).unwrap();
    }

    #[test]
    fn a_limit_works_or_the_host_is_said_to_have_no_controller() {
        let pids = CgroupLimits { pids_max: Some(7), ..CgroupLimits::default() };
        if let Err(error) = check(&pids) {
            let said = error.to_string();
            assert!(said.contains("cgroup") || said.contains("controller pids"), "{said}");
        }
        assert!(make(Path::new("/tmp/elsewhere"), &pids).is_err());
    }
}
