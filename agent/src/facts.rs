//! What the host is and does, for the manager's records and placement.
//!
//! Invariant: a fact that cannot be read is 0 or absent; a report never fails for it.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use goperation::{
    now_millis, to_timestamp,
    v1::{AgentFacts, AgentSnapshot},
};
use procfs::{Current as _, LoadAverage, Meminfo};
use rustix::fs::{StatVfs, statvfs};
use tokio::task::spawn_blocking;
use tracing::warn;

const MIB: u64 = 1 << 20;

/// What the host is.
pub async fn facts(work_dir: &Path) -> AgentFacts {
    read(work_dir, |work_dir| {
        let disk = disk(&work_dir);
        AgentFacts {
            cpu: thread::available_parallelism().map_or(0, |count| to_i32(count.get() as u64)),
            memory_mib: to_i32(memory().map_or(0, |memory| memory.mem_total) / MIB),
            disk_mib: to_i32(
                disk.map_or(0, |disk| disk.f_blocks.saturating_mul(disk.f_frsize)) / MIB,
            ),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            metadata: metadata().into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        }
    })
    .await
}

/// What the host does now.
pub async fn snapshot(work_dir: &Path) -> AgentSnapshot {
    read(work_dir, |work_dir| {
        let disk = disk(&work_dir);
        let free = memory().and_then(|memory| memory.mem_available);
        AgentSnapshot {
            time: Some(to_timestamp(now_millis())),
            load1: seen("load", LoadAverage::current()).map_or(0.0, |load| f64::from(load.one)),
            memory_free_mib: to_i32(free.unwrap_or(0) / MIB),
            disk_free_mib: to_i32(
                disk.map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize)) / MIB,
            ),
            processes: processes(),
        }
    })
    .await
}

async fn read<T: Default + Send + 'static>(
    work_dir: &Path,
    read: impl FnOnce(PathBuf) -> T + Send + 'static,
) -> T {
    let work_dir = work_dir.to_owned();
    spawn_blocking(move || read(work_dir)).await.unwrap_or_default()
}

fn seen<T, E: std::fmt::Display>(what: &str, read: Result<T, E>) -> Option<T> {
    read.inspect_err(|error| warn!(what, %error, "a fact of the host cannot be read")).ok()
}

fn memory() -> Option<Meminfo> {
    seen("memory", Meminfo::current())
}

fn disk(work_dir: &Path) -> Option<StatVfs> {
    seen("disk", statvfs(work_dir))
}

fn processes() -> i32 {
    let all = seen("processes", fs::read_dir("/proc"));
    let is_pid = |name: &str| name.bytes().all(|b| b.is_ascii_digit());
    let count = all.into_iter().flatten().flatten();
    to_i32(count.filter(|entry| entry.file_name().to_str().is_some_and(is_pid)).count() as u64)
}

fn metadata() -> Vec<(&'static str, String)> {
    let uname = rustix::system::uname();
    let mut all = vec![
        ("kernel", uname.release().to_string_lossy().into_owned()),
        ("machine", uname.machine().to_string_lossy().into_owned()),
    ];
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if let Some(name) = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")) {
        all.push(("os", name.trim_matches('"').to_owned()));
    }
    all
}

fn to_i32(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_host_has_facts() {
        let facts = facts(Path::new("/tmp")).await;
        assert!(facts.cpu > 0 && facts.memory_mib > 0 && facts.disk_mib > 0, "{facts:?}");
        assert!(!facts.metadata["kernel"].is_empty());
        let snapshot = snapshot(Path::new("/tmp")).await;
        assert!((1..=facts.memory_mib).contains(&snapshot.memory_free_mib), "{snapshot:?}");
        assert!((1..=facts.disk_mib).contains(&snapshot.disk_free_mib), "{snapshot:?}");
        assert!(snapshot.processes > 0 && snapshot.load1 >= 0.0);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_zero() {
        assert_eq!(facts(Path::new("/nowhere")).await.disk_mib, 0);
    }
}
