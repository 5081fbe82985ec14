//! Who may ask a manager that only this host reaches and that has no users yet.
//!
//! Invariant: behind a loopback listener no web page of another origin gets an answer, whatever
//! name it gave our address (DNS rebinding). What no browser can send is not held up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use goperation::{Error, Reason};
use http::{HeaderMap, Version, header, request::Parts, uri::Authority};

use crate::config::Origin;

/// The guard of one listener.
#[derive(Debug)]
pub(crate) struct Guard {
    loopback: bool,
    origins: Vec<Origin>,
}

impl Guard {
    /// A guard for what listens on that address; pages of `origins` may ask.
    pub(crate) fn new(listen: SocketAddr, origins: Vec<Origin>) -> Self {
        Self { loopback: listen.ip().to_canonical().is_loopback(), origins }
    }

    /// Whether a request may go on. `native` says that it is gRPC over HTTP/2, which no browser
    /// speaks; tunnels to it have names of their own.
    pub(crate) fn check(&self, request: &Parts, native: bool) -> Result<(), Error> {
        let hosts = hosts(request)?;
        if !self.loopback {
            return Ok(());
        }
        if !native && let Some(host) = hosts.iter().find(|host| !is_loopback(host.host())) {
            return Err(refused(format!(
                "this manager answers only to names of its own host, and not to `{host}`, as it \
                 listens on loopback and has no users yet: call it as localhost or 127.0.0.1"
            )));
        }
        for origin in request.headers.get_all(header::ORIGIN) {
            if !origin.to_str().is_ok_and(|origin| self.knows(origin)) {
                let origin = String::from_utf8_lossy(origin.as_bytes());
                return Err(refused(format!(
                    "pages of `{origin}` may not ask this manager: name their origin in \
                     cors_origins of its [http] table, or with `gop dev --cors-origin`"
                )));
            }
        }
        Ok(())
    }

    /// Whether the request is from a page of a configured origin.
    pub(crate) fn knows_page(&self, request: &Parts) -> bool {
        let origin = request.headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
        origin.is_some_and(|origin| self.origins.iter().any(|known| known.as_str() == origin))
    }

    fn knows(&self, origin: &str) -> bool {
        match origin.parse::<Origin>() {
            Ok(origin) => is_loopback(origin.host()) || self.origins.contains(&origin),
            Err(_) => false,
        }
    }
}

fn refused(message: String) -> Error {
    Error::new(Reason::HostRefused, message)
}

/// Every name that the request gives the server.
fn hosts(request: &Parts) -> Result<Vec<Authority>, Error> {
    let mut hosts: Vec<_> = request.uri.authority().cloned().into_iter().collect();
    let named = named(&request.headers)?;
    if request.version == Version::HTTP_11 && named.is_none() {
        return Err(Error::invalid("Host", "is missing: HTTP/1.1 requires it"));
    }
    hosts.extend(named);
    if hosts.iter().any(|host| host.as_str().contains('@')) {
        return Err(Error::invalid("Host", "must be a host and, if need be, a port"));
    }
    Ok(hosts)
}

fn named(headers: &HeaderMap) -> Result<Option<Authority>, Error> {
    let mut values = headers.get_all(header::HOST).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(Error::invalid("Host", "is given twice"));
    }
    let Some(host) = first else { return Ok(None) };
    let parsed = host.to_str().ok().and_then(|host| host.parse().ok());
    let bad = || Error::invalid("Host", "must be a host and, if need be, a port");
    parsed.ok_or_else(bad).map(Some)
}

/// Whether that name or address can only be this host.
fn is_loopback(host: &str) -> bool {
    if let Some(v6) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return v6.parse::<Ipv6Addr>().is_ok_and(|ip| IpAddr::V6(ip).to_canonical().is_loopback());
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return ip.is_loopback();
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(listen: &str, version: Version, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let origins = vec!["https://console.example".parse().unwrap()];
        let guard = Guard::new(listen.parse().unwrap(), origins);
        let mut request = http::Request::builder().version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let native = version == Version::HTTP_2
            && parts.headers.get("content-type").is_some_and(|kind| kind == "application/grpc");
        guard.check(&parts, native).map_or_else(|e| e.reason.http_status(), |()| 200)
    }

    #[test]
    fn behind_loopback_only_loopback_names_are_answered() {
        for (host, status) in [
            ("localhost", 200),
            ("LOCALHOST:7999", 200),
            ("localhost.", 200),
            ("a.localhost:1", 200),
            ("127.0.0.1", 200),
            ("127.8.9.1:80", 200),
            ("[::1]:7999", 200),
            ("[::ffff:127.0.0.1]", 200),
            ("evil.example", 403),
            ("localhost.evil.example", 403),
            ("evillocalhost", 403),
            ("127.0.0.1.evil.example:7999", 403),
            ("10.0.0.1", 403),
            ("[::2]", 403),
            ("0.0.0.0:7999", 403),
            ("u@localhost", 400),
            ("a b", 400),
            ("", 400),
        ] {
            let got = check("127.0.0.1:7999", Version::HTTP_11, "/v1/agents", &[("host", host)]);
            assert_eq!(got, status, "{host}");
        }
        // The authority of the target counts as well as the header.
        let absolute = "http://evil.example/v1/agents";
        for version in [Version::HTTP_11, Version::HTTP_2] {
            assert_eq!(check("[::1]:1", version, absolute, &[("host", "localhost")]), 403);
        }
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(check("[::1]:1", Version::HTTP_11, "/", &twice), 400);
        assert_eq!(check("[::1]:1", Version::HTTP_11, "/", &[]), 400);
        assert_eq!(check("[::1]:1", Version::HTTP_10, "/", &[]), 200);
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        for (origin, status) in [
            ("http://localhost:3000", 200),
            ("http://127.0.0.1:7999", 200),
            ("http://[::1]", 200),
            ("https://console.example", 200),
            ("https://console.example:443", 200),
            ("http://console.example", 403),
            ("https://console.example:444", 403),
            ("https://evil.example", 403),
            ("null", 403),
            ("*", 403),
        ] {
            let headers = [("host", "localhost"), ("origin", origin)];
            assert_eq!(check("127.0.0.1:1", Version::HTTP_11, "/", &headers), status, "{origin}");
        }
    }

    #[test]
    fn native_grpc_may_come_by_any_name_and_a_public_listener_is_not_guarded() {
        let native = [("content-type", "application/grpc")];
        let tunnel = "http://tunnel.example/goperation.v1.AgentService/IndexAgents";
        assert_eq!(check("127.0.0.1:1", Version::HTTP_2, tunnel, &native), 200);
        assert_eq!(check("127.0.0.1:1", Version::HTTP_2, tunnel, &[]), 403);
        let from_page = [native[0], ("origin", "https://evil.example")];
        assert_eq!(check("127.0.0.1:1", Version::HTTP_2, tunnel, &from_page), 403);
        let public = [("host", "manager.example"), ("origin", "https://evil.example")];
        assert_eq!(check("10.0.0.1:1", Version::HTTP_11, "/", &public), 200);
        assert_eq!(check("10.0.0.1:1", Version::HTTP_11, "/", &[]), 400);
    }
}
