//! TCP sockets by state, asked of the kernel by `sock_diag` as `ss` does.
//!
//! Invariant: the kernel is not asked for the sockets of which there may be a hundred thousand,
//! those that are open and those in TIME_WAIT: other counters have their numbers. With 108 000
//! open ones that is 20 ms, where `/proc/net/tcp` is 16 MB of text and 200 ms.

use std::{
    io,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

/// How long the kernel may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Numbers of messages: `linux/netlink.h`, `linux/sock_diag.h`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// Length of a message's header, and of a request with it.
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 56;

/// Families of addresses, and TCP, as the kernel numbers them.
const INET: u8 = 2;
const INET6: u8 = 10;
const TCP: u8 = 6;

/// States: `net/tcp_states.h`.
const SYN: [u8; 3] = [2, 3, 12];
const CLOSING: [u8; 4] = [4, 5, 9, 11];
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;

/// TCP sockets by state, but those that are open and those in TIME_WAIT.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct States {
    pub(super) listen: u64,
    /// On their way to be open.
    pub(super) syn: u64,
    /// The other side has closed it, this one not yet.
    pub(super) close_wait: u64,
    /// On their way to be closed, by other states.
    pub(super) closing: u64,
}

fn request(family: u8) -> [u8; REQUEST] {
    let states = [&SYN[..], &CLOSING, &[CLOSE_WAIT, LISTEN]].concat();
    let states = states.iter().fold(0_u32, |mask, state| mask | 1 << state);
    let mut request = [0; REQUEST];
    request[..4].copy_from_slice(&u32::try_from(REQUEST).unwrap_or(0).to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    request[HEADER] = family;
    request[HEADER + 1] = TCP;
    request[HEADER + 4..HEADER + 8].copy_from_slice(&states.to_ne_bytes());
    request
}

/// Adds what one datagram has; says whether it was the last.
fn add(mut datagram: &[u8], states: &mut States) -> io::Result<bool> {
    while let Some((length, rest)) = datagram.split_first_chunk() {
        let length = u32::from_ne_bytes(*length) as usize;
        let (Some(kind), Some(message)) = (rest.first_chunk(), datagram.get(HEADER..length)) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        match u16::from_ne_bytes(*kind) {
            DONE => return Ok(true),
            ERROR => {
                let errno = message.first_chunk().map_or(0, |number| i32::from_ne_bytes(*number));
                return Err(io::Error::from_raw_os_error(-errno));
            }
            SOCK_DIAG_BY_FAMILY => match message.get(1) {
                Some(&LISTEN) => states.listen += 1,
                Some(&CLOSE_WAIT) => states.close_wait += 1,
                Some(state) if SYN.contains(state) => states.syn += 1,
                Some(state) if CLOSING.contains(state) => states.closing += 1,
                _ => {}
            },
            _ => {}
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Counts the sockets of this network namespace.
pub(super) fn count() -> io::Result<States> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let late = Instant::now() + PATIENCE;
    let mut buffer = vec![0; 64 << 10];
    let mut states = States::default();
    for family in [INET, INET6] {
        send(&socket, &request(family), SendFlags::empty())?;
        loop {
            let (length, _) = match recv(&socket, &mut buffer[..], RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                received => received?,
            };
            match add(&buffer[..length], &mut states) {
                Ok(false) => {}
                Ok(true) => break,
                // A kernel without IPv6.
                Err(_) if family == INET6 => break,
                Err(error) => return Err(error),
            }
            if Instant::now() > late {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_datagram_is_counted_by_state() {
        let states = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 10];
        let mut datagram: Vec<u8> = Vec::new();
        for state in states {
            datagram.extend(message(SOCK_DIAG_BY_FAMILY, &[INET, state, 0]));
        }
        let mut seen = States::default();
        assert!(!add(&datagram, &mut seen).unwrap());
        assert_eq!(seen, States { listen: 2, syn: 3, close_wait: 1, closing: 4 });
        assert!(add(&message(DONE, &[0; 4]), &mut seen).unwrap());
    }

    #[test]
    fn a_broken_datagram_is_an_error_and_not_a_loop() {
        let refused = add(&message(ERROR, &(-2_i32).to_ne_bytes()), &mut States::default());
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::NotFound);
        for broken in [&[0; 16][..], &[255; 16], &[3, 0, 0, 0, 20, 0], &[16, 0, 0, 0, 20]] {
            assert!(add(broken, &mut States::default()).is_err(), "{broken:?}");
        }
        assert!(!add(&[], &mut States::default()).unwrap());
    }

    #[test]
    fn this_hosts_sockets_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _other = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        // Ours says that it has nothing more to say, the other one does not: FIN_WAIT2 and CLOSE_WAIT.
        open.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut &accepted, &mut rest).unwrap();
        let states = count().unwrap();
        assert!(states.listen >= 2, "{states:?}");
        assert!(states.close_wait >= 1 && states.closing >= 1, "{states:?}");
    }
}
