//! TCP sockets that are bound and neither listen nor connect: the kernel shows them only through
//! `sock_diag` (netlink), and only since Linux 6.8. An older one answers with none.
//!
//! The layouts are those of `linux/netlink.h` and `linux/inet_diag.h`; integers are the host's,
//! but ports and addresses are in network order.

use std::{
    io::{ErrorKind, Read, Result, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::holder::Seen;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const IPPROTO_TCP: u8 = 6;
/// `1 << TCP_BOUND_INACTIVE`
const BOUND_INACTIVE: u32 = 1 << 13;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// The kernel answers at once; this only keeps a defect from blocking a thread for ever.
const PATIENCE: Duration = Duration::from_secs(2);

/// The sockets on that port, IPv4 and IPv6.
pub(super) fn bound_inactive(port: u16) -> Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut socket = Socket::new(
            Domain::from(AF_NETLINK),
            Type::DGRAM,
            Some(Protocol::from(NETLINK_SOCK_DIAG)),
        )?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(&request(family, port))?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = socket.read(&mut buffer)?;
            if !collect(&buffer[..length], port, &mut seen)? {
                break;
            }
        }
    }
    Ok(seen)
}

fn request(family: u8, port: u16) -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER + 56);
    request.extend(72u32.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]); // sequence, port id
    request.extend([family, IPPROTO_TCP, 0, 0]);
    request.extend(BOUND_INACTIVE.to_ne_bytes());
    request.extend(port.to_be_bytes());
    request.extend([0; 46]); // the rest of the id: anything
    request
}

/// Reads one datagram of answers; false when it was the last.
fn collect(mut rest: &[u8], port: u16, seen: &mut Vec<Seen>) -> Result<bool> {
    while let Some(length) = u32_at(rest, 0) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (Some(message), Some(kind)) = (rest.get(HEADER..length), u16_at(rest, 4)) else {
            return Err(ErrorKind::InvalidData.into());
        };
        match kind {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => return Err(ErrorKind::Unsupported.into()),
            SOCK_DIAG_BY_FAMILY => seen.extend(parse(message).filter(|s| s.local.port() == port)),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn parse(message: &[u8]) -> Option<Seen> {
    let message: &[u8; MESSAGE] = message.get(..MESSAGE)?.try_into().ok()?;
    let port = u16::from_be_bytes([message[4], message[5]]);
    let address: [u8; 16] = message[8..24].try_into().ok()?;
    let ip = match message[0] {
        AF_INET => IpAddr::from(Ipv4Addr::new(address[0], address[1], address[2], address[3])),
        _ => IpAddr::from(Ipv6Addr::from(address)),
    };
    Some(Seen {
        local: SocketAddr::new(ip, port),
        uid: u32_at(message, 64)?,
        inode: u64::from(u32_at(message, 68)?),
        closing: false,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
