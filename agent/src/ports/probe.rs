//! Whether something on this host holds a port: by binding it, on IPv4 and IPv6.
//!
//! Invariant: `Free` means that a program could have bound the port on all addresses at that
//! moment. The sockets of the probe are closed before it answers. [`probe`] blocks while it looks for
//! who holds a port: not for the runtime.

mod diag;
mod holder;

use std::{
    io::{Error, ErrorKind, Result},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Socket, Type};

use self::holder::Found;
use super::Protocol;

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Nothing holds it.
    Free,
    /// Something holds it.
    Held {
        /// Who, as far as this process may know: `pid 4242 (teeworlds_srv) on 0.0.0.0:7001/udp`.
        by: Option<String>,
    },
}

/// Tries one port on this host. [`Protocol::Both`] is free when both are.
///
/// A TCP port with nothing but connections that are still closing (TIME_WAIT) is free when a
/// program that sets `SO_REUSEADDR`, as servers do, can listen on it. A port that the kernel
/// refuses for another reason is not free either: `by` says the reason then.
#[must_use]
pub fn probe(protocol: Protocol, port: u16) -> Probe {
    let mut tries = protocol.singles().iter().map(|&single| {
        try_single(single, port).unwrap_or_else(|error| Probe::Held {
            by: Some(format!("the kernel, which refuses to bind {port}/{single}: {error}")),
        })
    });
    tries.find(|probe| *probe != Probe::Free).unwrap_or(Probe::Free)
}

/// Whether one port can be bound as it is. False says nothing yet: [`probe`] looks closer. It takes
/// microseconds and waits for nothing, as when a runtime binds a listener.
#[must_use]
pub fn is_bindable(protocol: Protocol, port: u16) -> bool {
    let bindable = |&single: &Protocol| matches!(try_bind(single, port, Reuse::No), Ok(true));
    protocol.singles().iter().all(bindable)
}

fn try_single(protocol: Protocol, port: u16) -> Result<Probe> {
    if try_bind(protocol, port, Reuse::No)? {
        return Ok(Probe::Free);
    }
    let (by, reuse) = match holder::find(protocol, port) {
        Found::Live(by) => return Ok(Probe::Held { by: Some(by) }),
        Found::Closing(by) => (Some(by), Reuse::Address),
        // Gone since the first try, or not to be seen from here.
        Found::Nobody => (None, Reuse::No),
    };
    Ok(if try_bind(protocol, port, reuse)? { Probe::Free } else { Probe::Held { by } })
}

/// How a port is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reuse {
    /// Without any reuse option: every socket on the port is in the way.
    No,
    /// With `SO_REUSEADDR`, up to listening: closing connections are not in the way.
    Address,
}

/// Whether the port can be bound on IPv4 and, where there is IPv6, on IPv6 too.
fn try_bind(protocol: Protocol, port: u16, reuse: Reuse) -> Result<bool> {
    let v4 = bind(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into(), protocol, reuse);
    // The IPv4 socket is kept meanwhile: its port is not somebody else's between the two.
    let _v4 = match v4 {
        Ok(socket) => socket,
        Err(e) if e.kind() == ErrorKind::AddrInUse => return Ok(false),
        Err(e) => return Err(e),
    };
    match bind(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into(), protocol, reuse) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::AddrInUse => Ok(false),
        Err(e) if no_ipv6(&e) => Ok(true),
        Err(e) => Err(e),
    }
}

fn bind(domain: Domain, address: SocketAddr, protocol: Protocol, reuse: Reuse) -> Result<Socket> {
    let kind = if protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(domain, kind, None)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    if reuse == Reuse::Address {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if reuse == Reuse::Address {
        socket.listen(1)?;
    }
    Ok(socket)
}

/// Whether the error means that the host has no IPv6.
fn no_ipv6(error: &Error) -> bool {
    let raw = error.raw_os_error();
    error.kind() == ErrorKind::AddrNotAvailable
        || raw == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
        || raw == Some(rustix::io::Errno::PROTONOSUPPORT.raw_os_error())
}
