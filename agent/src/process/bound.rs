//! Which ports processes really have bound, and who has those that an entity reserved.
//!
//! Invariant: a port counts as an entity's own only when a process of its tree has the socket
//! open, and that process is the one that was named, not one that got its pid. It reads /proc: not
//! for the runtime.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use goperation_launcher::ProcessId;
use procfs::{
    net::TcpState,
    process::{FDTarget, Process, all_processes},
};
use serde_json::{Value, json};

use crate::ports::{Protocol, Reserved};

/// A bound port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) protocol: Protocol,
    pub(super) address: SocketAddr,
    /// 0 when it cannot be seen.
    pub(super) pid: u32,
    pub(super) program: String,
    pub(super) own: bool,
    /// Name of the entity's reservation of it, if it has one.
    pub(super) reserved: Option<String>,
}

impl Bound {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "port": self.address.port(),
            "protocol": self.protocol.name(),
            "address": self.address.ip().to_string(),
            "pid": self.pid,
            "program": self.program,
            "own": self.own,
            "name": self.reserved.as_deref().unwrap_or_default(),
            "reserved": self.reserved.is_some(),
        })
    }
}

/// A socket that takes what comes to its port.
struct Open {
    protocol: Protocol,
    address: SocketAddr,
    inode: u64,
}

/// The ports that the processes have bound, and the reserved ones that others have.
pub(super) fn bound(tree: &[ProcessId], reserved: &[Reserved]) -> Vec<Bound> {
    let sockets = sockets();
    let own = own_sockets(tree);
    let mut others = None;
    let mut all: Vec<Bound> = sockets
        .into_iter()
        .filter_map(|socket| {
            let name = reserved.iter().find(|row| has(row, &socket)).map(|row| row.name.clone());
            let holder = match own.get(&socket.inode) {
                Some(holder) => Some(holder.clone()),
                None if name.is_none() => return None,
                // Whose it is takes a look at every process: only when there is one.
                None => others.get_or_insert_with(foreign_sockets).get(&socket.inode).cloned(),
            };
            let is_own = own.contains_key(&socket.inode);
            let (pid, program) = holder.unwrap_or_default();
            Some(Bound {
                protocol: socket.protocol,
                address: socket.address,
                pid,
                program,
                own: is_own,
                reserved: name,
            })
        })
        .collect();
    all.sort_by_key(|bound| (bound.address.port(), bound.protocol, bound.address.ip()));
    all
}

/// Whether the tree has bound every protocol of a reserved port.
pub(super) fn has_bound(tree: &[ProcessId], reserved: &Reserved) -> bool {
    let own = own_sockets(tree);
    let bound: BTreeSet<Protocol> = sockets()
        .into_iter()
        .filter(|socket| has(reserved, socket) && own.contains_key(&socket.inode))
        .map(|socket| socket.protocol)
        .collect();
    reserved.protocol.singles().iter().all(|single| bound.contains(single))
}

fn has(reserved: &Reserved, socket: &Open) -> bool {
    reserved.port == socket.address.port() && reserved.protocol.singles().contains(&socket.protocol)
}

/// What the kernel's tables show. One that cannot be read, as that of IPv6 on a host without it,
/// shows nothing.
fn sockets() -> Vec<Open> {
    let tcp = [procfs::net::tcp(), procfs::net::tcp6()].into_iter().flatten().flatten();
    let tcp = tcp.filter(|entry| entry.state == TcpState::Listen).map(|entry| Open {
        protocol: Protocol::Tcp,
        address: entry.local_address,
        inode: entry.inode,
    });
    let udp = [procfs::net::udp(), procfs::net::udp6()].into_iter().flatten().flatten();
    // One that is connected talks to one other and serves nobody.
    let udp = udp.filter(|entry| entry.remote_address.port() == 0).map(|entry| Open {
        protocol: Protocol::Udp,
        address: entry.local_address,
        inode: entry.inode,
    });
    tcp.chain(udp).collect()
}

/// Number and name of a process.
type Holder = (u32, String);

fn own_sockets(tree: &[ProcessId]) -> BTreeMap<u64, Holder> {
    let processes = tree.iter().filter_map(|id| {
        let process = Process::new(i32::try_from(id.pid).ok()?).ok()?;
        (process.stat().ok()?.starttime == id.start_time).then_some(process)
    });
    sockets_of(processes)
}

fn foreign_sockets() -> BTreeMap<u64, Holder> {
    sockets_of(all_processes().into_iter().flatten().flatten())
}

fn sockets_of(processes: impl Iterator<Item = Process>) -> BTreeMap<u64, Holder> {
    let mut found = BTreeMap::new();
    for process in processes {
        let Ok(files) = process.fd() else { continue };
        let inodes: Vec<u64> = files
            .flatten()
            .filter_map(|file| match file.target {
                FDTarget::Socket(inode) => Some(inode),
                _ => None,
            })
            .collect();
        if inodes.is_empty() {
            continue;
        }
        let name = process.stat().map(|stat| stat.comm).unwrap_or_default();
        let pid = u32::try_from(process.pid).unwrap_or(0);
        for inode in inodes {
            found.entry(inode).or_insert_with(|| (pid, name.clone()));
        }
    }
    found
}
