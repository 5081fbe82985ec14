//! Who may ask, until there are users.
//!
//! Invariant: from anywhere but this host only the configured token lets a request through.

use std::net::SocketAddr;

use goperation::{Error, Reason, Secret};
use http::HeaderMap;

/// The header of the token.
const TOKEN: &str = "auth-token";
/// The header that says that the token is a fernet token.
const FERNET: &str = "gopfernet";
/// Longest token, in bytes.
const LONGEST: usize = 256;
/// Where every controller but the login of pages was for administrators only.
const PUBLIC: &str = "/n1.0";

/// What lets requests through.
pub(super) struct Auth {
    trusted: Option<Secret>,
}

impl Auth {
    pub(super) fn new(trusted: Option<Secret>) -> Self {
        Self { trusted }
    }

    /// Whether the request may go on.
    pub(super) fn check(
        &self,
        headers: &HeaderMap,
        path: &str,
        peer: Option<SocketAddr>,
    ) -> Result<(), Error> {
        // There is no token there: what is not public is refused with its route.
        if path.starts_with(PUBLIC) {
            return Ok(());
        }
        let token = headers.get(TOKEN).map(|value| value.as_bytes());
        if token.is_some_and(|token| token.len() > LONGEST) {
            return Err(refused(&format!("a token has at most {LONGEST} characters")));
        }
        let fernet = headers.get(FERNET).map(|value| value.as_bytes().to_ascii_lowercase());
        if fernet.is_some_and(|value| value == b"true" || value == b"yes") {
            return Err(refused("fernet tokens are not supported; send another token"));
        }
        if peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback()) {
            return Ok(());
        }
        match (token, &self.trusted) {
            (None, _) => Err(refused("Auth-Token is missing")),
            (Some(token), Some(trusted)) if same(token, trusted.reveal().as_bytes()) => Ok(()),
            (Some(_), Some(_)) => Err(refused("Auth-Token is not the trusted one")),
            (Some(_), None) => Err(refused(
                "no token is trusted: set trusted_token in the [http] table of the manager",
            )),
        }
    }
}

fn refused(why: &str) -> Error {
    Error::new(Reason::Unauthenticated, why)
}

/// Takes as long for every token of the same length.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len()
        && std::hint::black_box(a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_and_the_trusted_token_pass() {
        let auth = Auth::new(Secret::parse("t", "a-trusted-token-1").ok());
        let check = |peer: &str, token: &str, fernet: &str| {
            let mut headers = HeaderMap::new();
            for (name, value) in [(TOKEN, token), (FERNET, fernet)] {
                if !value.is_empty() {
                    headers.insert(name, value.parse().unwrap());
                }
            }
            auth.check(&headers, "/v1.0/agents", peer.parse().ok()).is_ok()
        };
        let long = "x".repeat(257);
        for (peer, token, fernet, passes) in [
            ("127.0.0.1:1", "", "", true),
            ("127.0.0.1:1", "whatever", "", true),
            ("[::1]:1", "", "no", true),
            ("[::ffff:127.0.0.1]:1", "", "", true),
            ("127.0.0.1:1", long.as_str(), "", false),
            ("127.0.0.1:1", "whatever", "true", false),
            ("127.0.0.1:1", "", "YES", false),
            ("10.0.0.1:1", "a-trusted-token-1", "", true),
            ("10.0.0.1:1", "a-trusted-token-1", "yes", false),
            ("10.0.0.1:1", "a-trusted-token-2", "", false),
            ("10.0.0.1:1", "a-trusted-token", "", false),
            ("10.0.0.1:1", "", "", false),
            ("", "", "", false),
            ("", "a-trusted-token-1", "", true),
        ] {
            assert_eq!(check(peer, token, fernet), passes, "{peer} {token} {fernet}");
        }
    }

    #[test]
    fn without_a_trusted_token_nobody_else_passes() {
        let mut headers = HeaderMap::new();
        headers.insert(TOKEN, "x".parse().unwrap());
        let error = Auth::new(None).check(&headers, "/v1.0/agents", None).unwrap_err();
        assert!(error.message.contains("trusted_token"), "{error}");
    }
}
