//! Other processes, as the kernel shows them: nothing that the parts under test say is used.
//!
//! Invariant: a zombie does not live, and a process that ends while it is looked at is not there.

use std::collections::BTreeSet;

use procfs::process::{FDTarget, Process, all_processes};

/// Whether the process runs; one that has ended and waits for its parent does not.
pub fn is_alive(pid: u32) -> bool {
    open(pid).is_some_and(|process| lives(&process))
}

/// The arguments of a process, its program first.
pub fn arguments(pid: u32) -> Vec<String> {
    open(pid).and_then(|process| process.cmdline().ok()).unwrap_or_default()
}

/// A variable of the environment that a process was started with.
pub fn environment(pid: u32, name: &str) -> Option<String> {
    let environment = open(pid)?.environ().ok()?;
    environment.get(std::ffi::OsStr::new(name)).map(|value| value.to_string_lossy().into_owned())
}

/// The processes that live and have these arguments, side by side.
///
/// # Panics
/// /proc cannot be read.
pub fn with_arguments(wanted: &[&str]) -> BTreeSet<u32> {
    every()
        .filter(|process| {
            let arguments = process.cmdline().unwrap_or_default();
            arguments.windows(wanted.len()).any(|row| row == wanted) && lives(process)
        })
        .map(|process| process.pid().cast_unsigned())
        .collect()
}

/// The processes that have a socket bound to the port: TCP ones that listen, or UDP.
///
/// # Panics
/// /proc cannot be read.
pub fn holders(tcp: bool, port: u16) -> BTreeSet<u32> {
    let sockets: BTreeSet<u64> = if tcp {
        let listens = |e: &procfs::net::TcpNetEntry| e.state == procfs::net::TcpState::Listen;
        let tables = [procfs::net::tcp(), procfs::net::tcp6()].into_iter().flatten().flatten();
        tables.filter(|e| e.local_address.port() == port && listens(e)).map(|e| e.inode).collect()
    } else {
        let tables = [procfs::net::udp(), procfs::net::udp6()].into_iter().flatten().flatten();
        tables.filter(|e| e.local_address.port() == port).map(|e| e.inode).collect()
    };
    every()
        .filter(|process| {
            let files = process.fd().into_iter().flatten().flatten();
            files.into_iter().any(
                |file| matches!(file.target, FDTarget::Socket(inode) if sockets.contains(&inode)),
            )
        })
        .map(|process| process.pid().cast_unsigned())
        .collect()
}

fn every() -> impl Iterator<Item = Process> {
    all_processes().expect("/proc can be read").flatten()
}

fn open(pid: u32) -> Option<Process> {
    Process::new(pid.cast_signed()).ok()
}

fn lives(process: &Process) -> bool {
    process.stat().is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}
