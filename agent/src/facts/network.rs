//! What the host's network does.

use std::{collections::BTreeMap, fs};

use super::{rates::Traffic, seen, sock_diag};

/// TCP sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sockets {
    pub(super) listen: u64,
    pub(super) syn: u64,
    pub(super) established: u64,
    pub(super) closing: u64,
}

/// The TCP sockets of this network namespace.
pub(super) fn sockets() -> Sockets {
    let states = seen("TCP sockets", sock_diag::count()).unwrap_or_default();
    let current = seen("TCP counters", procfs::net::snmp()).map_or(0, |snmp| snmp.tcp_curr_estab);
    let sockstat = seen("socket counters", fs::read_to_string("/proc/net/sockstat"));
    Sockets {
        listen: states.listen,
        syn: states.syn,
        // The kernel's count has those in CLOSE_WAIT too.
        established: current.saturating_sub(states.close_wait),
        closing: states.closing + states.close_wait + time_wait(&sockstat.unwrap_or_default()),
    }
}

/// Sockets in TIME_WAIT, of either family, by `/proc/net/sockstat`.
fn time_wait(sockstat: &str) -> u64 {
    let tcp = sockstat.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap_or_default();
    let mut words = tcp.split_whitespace().skip_while(|word| *word != "tw").skip(1);
    words.next().and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Bytes of each interface but loopback.
pub(super) fn interfaces() -> BTreeMap<String, Traffic> {
    let all = seen("network interfaces", procfs::net::dev_status()).unwrap_or_default();
    let others = all.into_iter().filter(|(name, _)| name != "lo");
    others
        .map(|(name, device)| {
            (name, Traffic { received: device.recv_bytes, sent: device.sent_bytes })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_wait_is_found() {
        let text = "sockets: used 17\nTCP: inuse 1 orphan 0 tw 42 alloc 1 mem 34\nUDP: inuse 0\n";
        assert_eq!(time_wait(text), 42);
        for none in ["", "TCP: inuse 1", "TCP: tw", "TCP: tw x"] {
            assert_eq!(time_wait(none), 0, "{none}");
        }
    }
}
