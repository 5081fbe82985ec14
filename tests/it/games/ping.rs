//! Questions to the real servers in their own protocols.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream, UdpSocket},
    time::Duration,
};

/// How long one answer is waited for, before it is asked again or given up.
const WAIT: Duration = Duration::from_millis(500);
/// A datagram may be lost even on loopback when buffers are full.
const TRIES: usize = 40;

fn ask(socket: &UdpSocket, question: &[u8]) -> Option<Vec<u8>> {
    socket.send(question).ok()?;
    let mut answer = vec![0; 2048];
    let length = socket.recv(&mut answer).ok()?;
    answer.truncate(length);
    Some(answer)
}

fn connected(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    socket
}

/// The name of a teeworlds server, by the server info of protocol 0.7. Blocks.
pub(crate) fn teeworlds(port: u16) -> Option<String> {
    (0..TRIES).find_map(|_| {
        // A new socket each time: a late answer to the former question must not be taken.
        let socket = connected(port);
        // First each side gives the other a token.
        let own = [1, 2, 3, 4];
        let mut token = vec![0x04, 0, 0, 0xff, 0xff, 0xff, 0xff, 5];
        token.extend(own);
        token.resize(8 + 512, 0);
        let answer = ask(&socket, &token)?;
        let peer = answer.get(8..12)?;
        let mut question = vec![0x21];
        question.extend(peer);
        question.extend(own);
        question.extend(b"\xff\xff\xff\xffgie3\x01");
        let info = ask(&socket, &question)?;
        let words = info.get(9..)?.strip_prefix(b"\xff\xff\xff\xffinf3\x01")?;
        // The version, then the name.
        let name = words.split(|byte| *byte == 0).nth(1)?;
        Some(String::from_utf8_lossy(name).into_owned())
    })
}

/// The greeting of a bzflag server on TCP. Blocks.
pub(crate) fn bzflag_tcp(port: u16) -> Option<String> {
    (0..TRIES).find_map(|_| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        stream.set_read_timeout(Some(WAIT)).ok()?;
        stream.write_all(b"BZFLAG\r\n\r\n").ok()?;
        let mut greeting = [0; 8];
        stream.read_exact(&mut greeting).ok()?;
        Some(String::from_utf8_lossy(&greeting).into_owned())
    })
}

/// The greeting of a bzflag server in its answer to a ping on UDP. Blocks.
pub(crate) fn bzflag_udp(port: u16) -> Option<String> {
    (0..TRIES).find_map(|_| {
        let answer = ask(&connected(port), &[0, 2, 4, 4, 0, 0])?;
        Some(String::from_utf8_lossy(answer.get(4..12)?).into_owned())
    })
}
