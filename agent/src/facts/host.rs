//! What the host is.

use std::{collections::BTreeMap, fs, path::Path, thread};

use goperation::v1::AgentFacts;
use procfs::{Current as _, Meminfo};
use rustix::fs::{StatVfs, statvfs};

use super::{MIB, seen, to_i32};

/// What the host is; `said` is said of it beside what is read, and wins.
pub(super) fn facts(work_dir: &Path, said: BTreeMap<String, String>) -> AgentFacts {
    let disk = disk(work_dir).map_or(0, |disk| disk.f_blocks.saturating_mul(disk.f_frsize));
    AgentFacts {
        cpu: thread::available_parallelism().map_or(0, |count| to_i32(count.get() as u64)),
        memory_mib: to_i32(memory().map_or(0, |memory| memory.mem_total) / MIB),
        disk_mib: to_i32(disk / MIB),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        metadata: system().into_iter().chain(said).collect(),
    }
}

pub(super) fn memory() -> Option<Meminfo> {
    seen("memory", Meminfo::current())
}

pub(super) fn disk(work_dir: &Path) -> Option<StatVfs> {
    seen("disk", statvfs(work_dir))
}

fn system() -> BTreeMap<String, String> {
    let uname = rustix::system::uname();
    let mut all = BTreeMap::from([
        ("kernel".to_owned(), uname.release().to_string_lossy().into_owned()),
        ("machine".to_owned(), uname.machine().to_string_lossy().into_owned()),
    ]);
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if let Some(name) = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")) {
        all.insert("os".to_owned(), name.trim_matches('"').to_owned());
    }
    all
}
