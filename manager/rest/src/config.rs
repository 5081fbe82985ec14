//! The `[http]` table of the manager's configuration.
//!
//! Invariant: a value that was read can be used; every other one is refused with its reason where
//! it stands in the file.

use std::{fmt, str::FromStr, time::Duration};

use goperation::Secret;
use http::uri::Authority;
use serde::{Deserialize, Deserializer, de::Error as _};

/// What HTTP clients may do, and how much of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Web pages that may call from a browser, as `https://console.example.org`: their requests
    /// get CORS headers. Others, `*` above all, never do.
    pub cors_origins: Vec<Origin>,
    /// What a legacy client may send as `Auth-Token` instead of a user's: 16 to 256 characters.
    #[serde(deserialize_with = "token")]
    pub trusted_token: Option<Secret>,
    /// Largest body of a REST request, in bytes after decoding: 1 KiB to 256 MiB.
    #[serde(deserialize_with = "max_body")]
    pub max_body: usize,
    /// How long the body of a request may take to arrive: `30s`, at most an hour.
    #[serde(deserialize_with = "timeout")]
    pub body_timeout: Duration,
    /// How long the head of a request may take to arrive, and how long an HTTP/1 connection may
    /// be idle: `10s`, at most an hour.
    #[serde(deserialize_with = "timeout")]
    pub header_timeout: Duration,
    /// Connections at a time; further ones wait. At most what the limit of open files leaves.
    #[serde(deserialize_with = "max_connections")]
    pub max_connections: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cors_origins: Vec::new(),
            trusted_token: None,
            max_body: 4 << 20,
            body_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(10),
            max_connections: 10_240,
        }
    }
}

/// Where a web page comes from: scheme, host and port, as a browser writes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    text: String,
    host: String,
}

impl Origin {
    /// As a browser sends it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its host, without the port.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text that is not an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be http:// or https:// with a host and, if need be, a port: https://console.example.org"
)]
pub struct NotAnOrigin;

impl FromStr for Origin {
    type Err = NotAnOrigin;

    fn from_str(text: &str) -> Result<Self, NotAnOrigin> {
        let text = text.to_ascii_lowercase();
        let (scheme, rest) = text.split_once("://").ok_or(NotAnOrigin)?;
        let default = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return Err(NotAnOrigin),
        };
        let authority: Authority = rest.parse().map_err(|_| NotAnOrigin)?;
        let host = authority.host();
        // An authority keeps a port that is no number as part of what follows the host.
        let port = match authority.as_str().strip_prefix(host).ok_or(NotAnOrigin)? {
            "" => None,
            port => Some(port.strip_prefix(':').and_then(|p| p.parse::<u16>().ok())),
        };
        let port = match port {
            Some(None | Some(0)) => return Err(NotAnOrigin),
            Some(Some(port)) => Some(port).filter(|&port| port != default),
            None => None,
        };
        if host.is_empty() || host.contains('*') {
            return Err(NotAnOrigin);
        }
        let text = match port {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        };
        Ok(Self { text, host: host.to_owned() })
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| D::Error::custom(format!("`{text}` {error}")))
    }
}

fn token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let fits = text.bytes().all(|byte| byte.is_ascii_graphic());
    match Secret::parse("trusted_token", &text) {
        Ok(secret) if fits => Ok(Some(secret)),
        _ => Err(D::Error::custom("must have 16 to 256 characters of ASCII, and no spaces")),
    }
}

fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time = humantime::parse_duration(&text)
        .map_err(|e| D::Error::custom(format!("must be a duration such as 15s: {e}")))?;
    if time < Duration::from_millis(100) || time > Duration::from_secs(3600) {
        return Err(D::Error::custom("must be from 100ms to 1h"));
    }
    Ok(time)
}

fn max_body<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    number(deserializer, 1 << 10, 256 << 20)
}

fn max_connections<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    number(deserializer, 1, 1 << 20)
}

fn number<'de, D: Deserializer<'de>>(
    deserializer: D,
    least: usize,
    most: usize,
) -> Result<usize, D::Error> {
    let number = i64::deserialize(deserializer)?;
    match usize::try_from(number) {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(D::Error::custom(format!("must be from {least} to {most}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use goperation::parse_config;

    use super::*;

    fn load(text: &str) -> Result<Config, goperation::ConfigError> {
        parse_config(Path::new("h.toml"), text)
    }

    #[test]
    fn every_field_is_read_and_the_token_is_hidden() {
        let config = load(
            "cors_origins = ['https://A.example:443', 'http://[::1]:3000']\n\
             trusted_token = 'sixteen-letters!'\nmax_body = 1024\nbody_timeout = '1m'\n\
             header_timeout = '500ms'\nmax_connections = 5\n",
        )
        .unwrap();
        let origins: Vec<_> = config.cors_origins.iter().map(Origin::as_str).collect();
        assert_eq!(origins, ["https://a.example", "http://[::1]:3000"]);
        assert_eq!((config.max_body, config.max_connections), (1024, 5));
        assert_eq!(config.body_timeout, Duration::from_secs(60));
        assert_eq!(config.header_timeout, Duration::from_millis(500));
        assert!(!format!("{config:?}").contains("sixteen"), "{config:?}");
        assert_eq!(load("").unwrap().max_connections, 10_240);
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_place() {
        for (text, said) in [
            ("cors_origins = ['*']", "h.toml:1: cors_origins: `*` must"),
            (
                "cors_origins = [\n'http://a', 'http://a/x']",
                "h.toml:1: cors_origins: `http://a/x` must be",
            ),
            ("cors_origins = ['ftp://a']", "h.toml:1: cors_origins: `ftp://a` must"),
            ("cors_origins = ['https://*.a']", "h.toml:1: cors_origins: `https://*.a` must"),
            ("cors_origins = ['http://a:x']", "h.toml:1: cors_origins: `http://a:x` must"),
            ("cors_origins = ['http://a:']", "h.toml:1: cors_origins: `http://a:` must"),
            ("cors_origins = ['http://']", "h.toml:1: cors_origins: `http://` must"),
            ("cors_origins = ['http://u@a']", "h.toml:1: cors_origins: `http://u@a` must"),
            ("cors_origins = ['null']", "h.toml:1: cors_origins: `null` must"),
            ("trusted_token = 'short'", "h.toml:1: trusted_token: must have 16"),
            ("trusted_token = 'with spaces in it'", "h.toml:1: trusted_token: must have 16"),
            ("max_body = 0", "h.toml:1: max_body: must be from 1024"),
            ("max_body = -1", "h.toml:1: max_body: must be from 1024"),
            ("body_timeout = '0s'", "h.toml:1: body_timeout: must be from 100ms"),
            ("\nheader_timeout = 'x'", "h.toml:2: header_timeout: must be a duration"),
            ("max_connections = 0", "h.toml:1: max_connections: must be from 1"),
            ("nonsense = 1", "h.toml:1: nonsense: unknown field"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }
}
