//! Ports that are free now and stay ours: no other test process is given the same number.
//!
//! Invariant: a port handed out is locked by a file until this process ends. The numbers lie
//! below the range from which the system takes its own, so that an outgoing connection cannot
//! take one while the server that owns it is being started again, and above those that the tour of
//! the README and the agents of the tests hand out by number.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};

const FIRST: u16 = 24_000;
const COUNT: u16 = 8_000;

static HELD: LazyLock<Mutex<HashMap<u16, File>>> = LazyLock::new(Mutex::default);

/// A port that is free on TCP and UDP and is given to nobody else while this process lives.
///
/// # Panics
/// No port is left.
pub fn free_port() -> u16 {
    free_ports(1)[0]
}

/// The first of `count` consecutive ports, and the rest, each as [`free_port`] gives them.
///
/// # Panics
/// No such row of ports is left.
pub fn free_ports(count: u16) -> Vec<u16> {
    assert!(count > 0 && count <= COUNT, "1 to {COUNT} ports can be asked for, not {count}");
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..1_000 {
        let random = uuid::Uuid::new_v4().as_u64_pair().0;
        let offset = u16::try_from(random % u64::from(COUNT - count + 1)).unwrap_or(0);
        let row: Vec<u16> = (FIRST + offset..FIRST + offset + count).collect();
        if row.iter().any(|port| held.contains_key(port)) {
            continue;
        }
        let locks: Option<Vec<File>> = row.iter().map(|port| take(*port)).collect();
        if let Some(locks) = locks {
            held.extend(row.iter().copied().zip(locks));
            return row;
        }
    }
    panic!("no row of {count} free ports from {FIRST} on");
}

fn take(port: u16) -> Option<File> {
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(lock_folder().join(port.to_string()))
        .expect("a lock file for a port");
    lock.try_lock().ok()?;
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()?;
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).ok()?;
    Some(lock)
}

fn lock_folder() -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    let folder = std::env::temp_dir().join(format!("gop-test-ports-{user}"));
    std::fs::create_dir_all(&folder).expect("a folder for the port locks");
    folder
}
