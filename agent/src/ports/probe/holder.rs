//! Who holds a port, by the kernel's socket tables and the open files of processes.

use std::{collections::BTreeSet, net::SocketAddr};

use procfs::{
    ProcResult,
    net::TcpState,
    process::{FDTarget, all_processes},
};

use super::{Protocol, diag};

/// What is on a port.
#[derive(Debug)]
pub(super) enum Found {
    /// A socket that somebody has.
    Live(String),
    /// TCP connections that no process has any more, and that end by themselves.
    Closing(String),
    /// Nothing that can be seen.
    Nobody,
}

/// A socket on the port.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Address that it is bound to.
    pub(super) local: SocketAddr,
    /// Owner of the process that made it.
    pub(super) uid: u32,
    /// Number of its file; 0 when no process has it.
    pub(super) inode: u64,
    /// Closed by its process, and on its way out.
    pub(super) closing: bool,
}

/// Looks for what holds the port on `protocol`, TCP or UDP.
pub(super) fn find(protocol: Protocol, port: u16) -> Found {
    let mut seen = if protocol == Protocol::Tcp { tcp(port) } else { udp(port) };
    if protocol == Protocol::Tcp && seen.iter().all(|socket| socket.closing) {
        // /proc/net/tcp lacks sockets that are bound and neither listen nor connect.
        seen.extend(diag::bound_inactive(port).unwrap_or_default());
    }
    let (closing, live): (Vec<_>, Vec<_>) = seen.into_iter().partition(|socket| socket.closing);
    let text = |socket: &Seen| format!("{}/{protocol}", socket.local);
    if let Some(first) = live.first() {
        return Found::Live(match process_of(&live) {
            Some((process, socket)) => format!("{process} on {}", text(socket)),
            None => format!("a process of uid {} on {}", first.uid, text(first)),
        });
    }
    match closing.first() {
        Some(first) => {
            Found::Closing(format!("connections that are still closing on {}", text(first)))
        }
        None => Found::Nobody,
    }
}

fn tcp(port: u16) -> Vec<Seen> {
    on(port, [procfs::net::tcp(), procfs::net::tcp6()], |entry| Seen {
        local: entry.local_address,
        uid: entry.uid,
        inode: entry.inode,
        closing: entry.inode == 0
            && matches!(
                entry.state,
                TcpState::TimeWait
                    | TcpState::FinWait1
                    | TcpState::FinWait2
                    | TcpState::Closing
                    | TcpState::LastAck
            ),
    })
}

fn udp(port: u16) -> Vec<Seen> {
    on(port, [procfs::net::udp(), procfs::net::udp6()], |entry| Seen {
        local: entry.local_address,
        uid: entry.uid,
        inode: entry.inode,
        closing: false,
    })
}

/// What the kernel's tables show on the port. One that cannot be read, as that of IPv6 on a host
/// without it, shows nothing.
fn on<E>(port: u16, tables: [ProcResult<Vec<E>>; 2], see: impl Fn(E) -> Seen) -> Vec<Seen> {
    let all = tables.into_iter().flatten().flatten().map(see);
    all.filter(|socket| socket.local.port() == port).collect()
}

/// The first process found that has one of the sockets open, and that socket. Processes of other
/// users can be looked into by root only.
fn process_of(sockets: &[Seen]) -> Option<(String, &Seen)> {
    let inodes: BTreeSet<u64> = sockets.iter().map(|s| s.inode).filter(|&i| i != 0).collect();
    if inodes.is_empty() {
        return None;
    }
    for process in all_processes().ok()?.flatten() {
        let Ok(files) = process.fd() else { continue };
        for file in files.flatten() {
            let FDTarget::Socket(inode) = file.target else { continue };
            if let Some(socket) = sockets.iter().find(|s| s.inode == inode && inode != 0) {
                let name = process.stat().map(|stat| stat.comm).unwrap_or_default();
                return Some((format!("pid {} ({name})", process.pid), socket));
            }
        }
    }
    None
}
