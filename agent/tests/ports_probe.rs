//! The probe against real sockets: whatever holds a port is found, and named where it can be.
//!
//! Ports are taken outside of the range from which the kernel gives connections theirs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{ErrorKind, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream},
    process,
};

use goperation_agent::ports::{Probe, Protocol, is_bindable, probe};
use rand::RngExt;
use socket2::{Domain, SockAddr, Socket, Type};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Reuse {
    None,
    Address,
    Port,
}

const REUSES: [Reuse; 3] = [Reuse::None, Reuse::Address, Reuse::Port];

fn socket(protocol: Protocol, ip: IpAddr, reuse: Reuse) -> Socket {
    let kind = if protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::for_address((ip, 0).into()), kind, None).unwrap();
    match reuse {
        Reuse::None => {}
        Reuse::Address => socket.set_reuse_address(true).unwrap(),
        Reuse::Port => socket.set_reuse_port(true).unwrap(),
    }
    socket
}

fn address(ip: impl Into<IpAddr>, port: u16) -> SockAddr {
    SocketAddr::new(ip.into(), port).into()
}

/// Binds with `socket` a port that nothing else on the host has on any protocol or family.
fn bind_unused(socket: &Socket, ip: IpAddr) -> u16 {
    for _ in 0..200 {
        let port = rand::rng().random_range(15_000..20_000);
        if probe(Protocol::Both, port) != Probe::Free {
            continue;
        }
        match socket.bind(&address(ip, port)) {
            Ok(()) => return port,
            Err(e) if e.kind() == ErrorKind::AddrInUse => {}
            Err(e) => panic!("{ip}: {e}"),
        }
    }
    panic!("no unused port");
}

/// The addresses to hold ports on; without IPv6 on this machine, those of IPv4.
fn addresses() -> Vec<IpAddr> {
    let mut addresses = vec![Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()];
    let v6 = Socket::new(Domain::IPV6, Type::DGRAM, None)
        .and_then(|socket| socket.bind(&address(Ipv6Addr::LOCALHOST, 0)));
    match v6 {
        Ok(()) => addresses
            .extend([IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::LOCALHOST)]),
        Err(e) => eprintln!("no IPv6 on this machine ({e}): IPv4 only"),
    }
    addresses
}

/// Asserts that the port is held on `protocol`, by this process and on that address, and that
/// the other protocol is not.
fn assert_ours(what: &str, protocol: Protocol, ip: IpAddr, port: u16) {
    let expected = SocketAddr::new(ip, port);
    for asked in [protocol, Protocol::Both] {
        let Probe::Held { by: Some(by) } = probe(asked, port) else {
            panic!("{what}: {expected}/{protocol} was not found held, or not by name")
        };
        assert!(!is_bindable(asked, port), "{what}: {expected}/{protocol} can be bound");
        assert!(by.starts_with(&format!("pid {} (", process::id())), "{what}: {by}");
        assert!(by.ends_with(&format!(") on {expected}/{protocol}")), "{what}: {by}");
    }
    let other = if protocol == Protocol::Tcp { Protocol::Udp } else { Protocol::Tcp };
    assert_eq!(probe(other, port), Probe::Free, "{what}: {expected}, the other protocol");
    assert!(is_bindable(other, port), "{what}: {expected}, the other protocol cannot be bound");
}

/// Every holder of a matrix: `hold` makes more of the bound socket, and what it gives is kept.
fn for_each_holder<K>(
    what: &str,
    protocol: Protocol,
    only_v6: bool,
    hold: impl Fn(&Socket, SocketAddr) -> K,
) {
    for ip in addresses().into_iter().filter(|ip| !only_v6 || ip.is_ipv6()) {
        for reuse in REUSES {
            let holder = socket(protocol, ip, reuse);
            if only_v6 {
                holder.set_only_v6(true).unwrap();
            }
            let port = bind_unused(&holder, ip);
            let kept = hold(&holder, SocketAddr::new(ip, port));
            assert_ours(&format!("{what}, {reuse:?}"), protocol, ip, port);
            drop(kept);
            drop(holder);
            assert_eq!(probe(Protocol::Both, port), Probe::Free, "{what} on {ip}, {reuse:?}: gone");
        }
    }
}

#[test]
fn tcp_listeners() {
    for_each_holder("listener", Protocol::Tcp, false, |holder, _| holder.listen(8).unwrap());
    for_each_holder("v6-only listener", Protocol::Tcp, true, |holder, _| {
        holder.listen(8).unwrap();
    });
}

#[test]
fn tcp_sockets_that_are_bound_and_do_not_listen() {
    for ip in addresses() {
        for reuse in REUSES {
            let holder = socket(Protocol::Tcp, ip, reuse);
            let port = bind_unused(&holder, ip);
            let seen = probe(Protocol::Tcp, port);
            assert!(matches!(seen, Probe::Held { .. }), "{ip}, {reuse:?}");
            if shows_bound_sockets() {
                assert_ours("bound", Protocol::Tcp, ip, port);
            } else {
                eprintln!("this kernel does not show bound sockets: held, but not named");
                assert_eq!(seen, Probe::Held { by: None });
            }
        }
    }
}

/// Linux shows sockets that are only bound since 6.8.
fn shows_bound_sockets() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    version >= (6, 8)
}

#[test]
fn udp_sockets() {
    for_each_holder("bound", Protocol::Udp, false, |_, _| ());
    for_each_holder("v6-only", Protocol::Udp, true, |_, _| ());
}

#[test]
fn connected_udp_sockets() {
    for ip in addresses().into_iter().filter(IpAddr::is_loopback) {
        for reuse in REUSES {
            let holder = socket(Protocol::Udp, ip, reuse);
            let port = bind_unused(&holder, ip);
            holder.connect(&address(ip, 9)).unwrap();
            assert_ours("connected", Protocol::Udp, ip, port);
        }
    }
}

#[test]
fn connected_tcp_sockets_by_their_local_port() {
    for ip in addresses().into_iter().filter(IpAddr::is_loopback) {
        let server = socket(Protocol::Tcp, ip, Reuse::None);
        server.bind(&address(ip, 0)).unwrap();
        server.listen(1).unwrap();
        let holder = socket(Protocol::Tcp, ip, Reuse::Address);
        let port = bind_unused(&holder, ip);
        holder.connect(&server.local_addr().unwrap()).unwrap();
        assert_ours("connected", Protocol::Tcp, ip, port);
    }
}

#[test]
fn two_that_share_a_port() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for ip in addresses() {
            let first = socket(protocol, ip, Reuse::Port);
            let port = bind_unused(&first, ip);
            let second = socket(protocol, ip, Reuse::Port);
            second.bind(&address(ip, port)).unwrap();
            if protocol == Protocol::Tcp {
                first.listen(1).unwrap();
                second.listen(1).unwrap();
            }
            assert_ours("shared", protocol, ip, port);
            drop(first);
            assert_ours("shared, one left", protocol, ip, port);
        }
    }
}

/// Makes a TCP port that only a connection in TIME_WAIT has: the side that closes first keeps it.
fn time_wait(reuse: Reuse) -> u16 {
    let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
    let listener = socket(Protocol::Tcp, ip, reuse);
    let port = bind_unused(&listener, ip);
    listener.listen(1).unwrap();
    let mut client = TcpStream::connect((ip, port)).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    accepted.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    client.shutdown(Shutdown::Write).unwrap();
    // The server's side has seen both ends close when it reads the end too: TIME_WAIT.
    let mut accepted = TcpStream::from(accepted);
    assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
    drop((accepted, listener, client));
    let without_reuse = socket(Protocol::Tcp, ip, Reuse::None).bind(&address(ip, port));
    assert_eq!(without_reuse.unwrap_err().kind(), ErrorKind::AddrInUse, "no TIME_WAIT was made");
    port
}

#[test]
fn a_port_in_time_wait_is_free_for_servers_that_reuse_addresses() {
    assert_eq!(probe(Protocol::Tcp, time_wait(Reuse::Address)), Probe::Free);
}

#[test]
fn a_port_in_time_wait_that_nobody_can_bind_is_held_and_says_why() {
    let Probe::Held { by: Some(by) } = probe(Protocol::Tcp, time_wait(Reuse::None)) else {
        panic!("found free, but no program can bind it")
    };
    assert!(by.contains("still closing"), "{by}");
}

#[test]
fn a_port_in_time_wait_that_somebody_has_bound_again_is_held() {
    let port = time_wait(Reuse::Address);
    let ip = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let holder = socket(Protocol::Tcp, ip, Reuse::Address);
    holder.bind(&address(ip, port)).unwrap();
    if shows_bound_sockets() {
        assert_ours("bound again", Protocol::Tcp, ip, port);
    } else {
        eprintln!("this kernel does not show bound sockets: checked listening only");
    }
    holder.listen(1).unwrap();
    assert_ours("listening again", Protocol::Tcp, ip, port);
}
