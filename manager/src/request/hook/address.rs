//! Where hooks may go: each address that a name stands for is looked at after it was resolved, and
//! only an address that was looked at is connected to.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Addresses of a host that a hook may call.
///
/// # Errors
/// When there is none.
pub(super) async fn resolve(
    host: &str,
    port: u16,
    allow_local: bool,
) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    let refused = found.iter().find(|address| is_local(address.ip())).map(SocketAddr::ip);
    let mut allowed = found;
    allowed.retain(|address| allow_local || !is_local(address.ip()));
    match (allowed.is_empty(), refused) {
        (false, _) => Ok(allowed),
        (true, Some(ip)) => Err(io::Error::other(format!(
            "its address {ip} is one of this host or of a link, and hooks may call those only \
             with requests.hooks.allow_local"
        ))),
        (true, None) => Err(io::Error::other("its name has no address")),
    }
}

/// Whether an address is of this host or of a link, or of nobody. Those that only clouds' metadata
/// have are of a link by what they are for.
fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_local_v4(ip),
        IpAddr::V6(ip) => is_local_v6(ip),
    }
}

fn is_local_v4(ip: Ipv4Addr) -> bool {
    let [first, ..] = ip.octets();
    let metadata = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
    // This network; reserved, with broadcast.
    let nobody = first == 0 || first >= 240 || ip.is_multicast();
    nobody || ip.is_loopback() || ip.is_link_local() || metadata.contains(&ip)
}

fn is_local_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let inner = |high: u16, low: u16| {
        let ([w, x], [y, z]) = (high.to_be_bytes(), low.to_be_bytes());
        is_local_v4(Ipv4Addr::new(w, x, y, z))
    };
    match (a, b, c, d, e, f) {
        // An IPv4 address in another form: mapped, compatible (with :: and ::1), NAT64, 6to4.
        (0, 0, 0, 0, 0, 0xffff | 0) | (0x64, 0xff9b, 0, 0, 0, 0) => inner(g, h),
        (0x2002, ..) => inner(b, c),
        _ => {
            let metadata = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
            ip.is_multicast() || ip.is_unicast_link_local() || ip == metadata
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_host_and_of_links() {
        for local in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "100.100.100.200",
            "192.0.0.192",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:169.254.1.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "fe80::1",
            "fd00:ec2::254",
            "ff02::1",
        ] {
            assert!(is_local(local.parse().unwrap()), "{local}");
        }
        // Receivers of hooks are often of a private network.
        for other in [
            "1.1.1.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "fd00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::101:101",
            "2002:101:101::",
        ] {
            assert!(!is_local(other.parse().unwrap()), "{other}");
        }
    }

    #[tokio::test]
    async fn what_a_name_stands_for_is_looked_at() {
        // However the address is written.
        for host in ["127.0.0.1", "::1", "localhost", "127.1", "0x7f000001"] {
            let Ok(allowed) = resolve(host, 80, true).await else { continue };
            assert!(!allowed.is_empty(), "{host}");
            let refused = resolve(host, 80, false).await.unwrap_err().to_string();
            assert!(refused.contains("allow_local"), "{host}: {refused}");
        }
        assert!(resolve("127.0.0.1", 80, true).await.is_ok());
        assert!(resolve("1.1.1.1", 80, false).await.is_ok());
    }
}
