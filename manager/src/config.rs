//! The manager's part of the configuration.
//!
//! Invariant: what is not in the file has a default, and what cannot be used is refused with its
//! file, line and field before anything is opened.

mod requests;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use goperation::{ConfigError, parse_config, read_config};
use goperation_bridge::{BridgeConfig, rabbit::RabbitConfig};
use goperation_rest::Config as HttpConfig;
use goperation_store as store;
use serde::{Deserialize, Deserializer, de::Error as _};
use tonic::transport::Uri;

pub use requests::{HooksConfig, RequestsConfig};

/// Configuration of a manager.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address that is listened on.
    pub listen: SocketAddr,
    /// Folder of the store; made when it does not exist.
    pub data_dir: PathBuf,
    /// What an answer survives.
    pub durability: Durability,
    /// How long an agent counts as online after a renewal: `15s`, at most that.
    #[serde(deserialize_with = "duration")]
    pub lease: Duration,
    /// How long an agent is waited for when the caller says no shorter: `15s`.
    #[serde(deserialize_with = "duration")]
    pub call_timeout: Duration,
    /// How long requests may go on after the manager was told to stop: `5s`.
    #[serde(deserialize_with = "duration")]
    pub drain: Duration,
    /// How many reports of each agent are kept, at most 100000: 2016, a week of one each five
    /// minutes. With 0 only the last one is known.
    pub reports_kept: u32,
    /// Where the bridge is: `embedded`, or the URI of one that runs by itself.
    pub bridge: BridgeAt,
    /// `[broker]`: the RabbitMQ of an embedded bridge. Without it the messages are in the
    /// manager's own store, for agents in its process.
    pub broker: Option<RabbitConfig>,
    /// Bounds of an embedded bridge.
    pub limits: BridgeConfig,
    /// `[http]`: what clients may do over HTTP.
    pub http: HttpConfig,
    /// `[requests]`: how requests are run and kept.
    pub requests: RequestsConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7999)),
            data_dir: PathBuf::from("/var/lib/goperation/manager"),
            durability: Durability::default(),
            lease: Duration::from_secs(15),
            call_timeout: Duration::from_secs(15),
            drain: Duration::from_secs(5),
            reports_kept: 2016,
            bridge: BridgeAt::default(),
            broker: None,
            limits: BridgeConfig::default(),
            http: HttpConfig::default(),
            requests: RequestsConfig::default(),
        }
    }
}

impl Config {
    /// Longest lease (contract §6).
    pub const LONGEST_LEASE: Duration = Duration::from_secs(15);

    /// Most reports that can be kept of an agent.
    pub const MOST_REPORTS: u32 = 100_000;

    /// Reads a TOML file.
    ///
    /// # Errors
    /// What cannot be used, with file, line and field.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read_config(path)?;
        let config: Self = parse_config(path, &text)?;
        config.check(path, &text)?;
        Ok(config)
    }

    /// Whether the values that were read from `text` can be used.
    fn check(&self, file: &Path, text: &str) -> Result<(), ConfigError> {
        let bad =
            |field: &str, message: &str| Err(ConfigError::in_field(file, text, field, message));
        if self.lease.is_zero() || self.lease > Self::LONGEST_LEASE {
            return bad("lease", "must be more than 0 and at most 15s");
        }
        if self.call_timeout.is_zero() || self.call_timeout > Duration::from_secs(3600) {
            return bad("call_timeout", "must be more than 0 and at most 1h");
        }
        if self.reports_kept > Self::MOST_REPORTS {
            return bad("reports_kept", "must be at most 100000");
        }
        if self.data_dir.as_os_str().is_empty() {
            return bad("data_dir", "must not be empty");
        }
        if let Err((field, message)) = self.requests.check() {
            return bad(&format!("requests.{field}"), message);
        }
        let Some(Err(error)) = self.broker.as_ref().map(RabbitConfig::check) else {
            return Ok(());
        };
        match error.violations.first() {
            Some(first) => bad(&format!("broker.{}", first.field), &first.description),
            None => bad("broker", &error.message),
        }
    }
}

/// What an answer survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// `kill -9` of the process.
    #[default]
    Crash,
    /// A power cut too.
    Power,
}

impl From<Durability> for store::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Crash => Self::Crash,
            Durability::Power => Self::Power,
        }
    }
}

/// Where the bridge is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BridgeAt {
    /// In the manager's process.
    #[default]
    Embedded,
    /// There.
    Remote(Uri),
}

impl<'de> Deserialize<'de> for BridgeAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        match text.parse::<Uri>() {
            Ok(uri) if uri.scheme_str() == Some("http") && uri.host().is_some() => {
                Ok(Self::Remote(uri))
            }
            _ => Err(D::Error::custom("must be `embedded` or a URI such as http://host:7998")),
        }
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|e| D::Error::custom(format!("must be a duration such as 15s: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let config: Config = parse_config(Path::new("m.toml"), text)?;
        config.check(Path::new("m.toml"), text).map(|()| config)
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let config = load("").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:7999");
        assert_eq!(config.lease, Duration::from_secs(15));
        assert_eq!(config.bridge, BridgeAt::Embedded);
    }

    #[test]
    fn every_field_is_read() {
        let config = load(
            "listen = '[::1]:80'\ndata_dir = '/d'\ndurability = 'power'\nlease = '3s'\n\
             call_timeout = '1m'\ndrain = '1s'\nreports_kept = 9\nbridge = 'http://b:7998'\n\
             [broker]\nuri = 'amqp://u:secret@h'\nprefix = 'g2'\ncast_queue = 'quorum'\n[limits]\nmax_calls = 5\n\
             [http]\ncors_origins = ['https://a']\nmax_body = 2048\n\
             [requests]\nkeep = '2d'\nmost = 10\nmax_running = { upgrade_agent = 3 }\n\
             hooks = { allow_local = true }\n",
        )
        .unwrap();
        let rabbit = config.broker.as_ref().unwrap();
        assert_eq!((rabbit.uri.as_str(), rabbit.prefix.as_str()), ("amqp://u:secret@h", "g2"));
        assert_eq!(config.limits.max_calls, 5);
        assert_eq!((config.http.cors_origins.len(), config.http.max_body), (1, 2048));
        assert_eq!(config.durability, Durability::Power);
        let requests = &config.requests;
        assert_eq!((requests.keep, requests.most), (Duration::from_secs(2 * 24 * 3600), 10));
        assert_eq!(requests.max_running["upgrade_agent"], 3);
        assert!(requests.hooks.allow_local);
        assert_eq!((config.call_timeout, config.reports_kept), (Duration::from_secs(60), 9));
        assert!(matches!(&config.bridge, BridgeAt::Remote(uri) if uri.host() == Some("b")));
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn errors_name_line_and_field() {
        for (text, said) in [
            ("\nlease = '1h'", "m.toml:2: lease: must be more than 0"),
            ("\nlease = 'x'", "m.toml:2: lease: must be a duration"),
            ("bridge = 'ftp://x'", "m.toml:1: bridge: must be `embedded`"),
            ("[broker]\nuri = 'amqp://h'\nprefix = '.'", "m.toml:3: broker.prefix: "),
            ("[http]\n\ncors_origins = ['*']", "m.toml:3: http.cors_origins: `*` must be"),
            ("[http]\ntrusted_token = 'x'", "m.toml:2: http.trusted_token: must have 16"),
            ("[http]\nnonsense = 1", "m.toml:2: http.nonsense: unknown field"),
            ("reports_kept = 100001", "m.toml:1: reports_kept: must be at most 100000"),
            ("reports_kept = -1", "m.toml:1: reports_kept: "),
            ("[requests]\nkeep = '1s'", "m.toml:2: requests.keep: must be from 1m"),
            ("[requests]\nmost = 0", "m.toml:2: requests.most: must be from 1"),
            ("[requests]\nmax_watches = 0", "m.toml:2: requests.max_watches: must be from 1"),
            (
                "[requests]\nmax_running = { echo = 0 }",
                "m.toml:2: requests.max_running.echo: must be at least 1",
            ),
            ("[requests]\nmax_running = { 'a b' = 1 }", "m.toml:2: requests.max_running."),
            ("nonsense = 1", "m.toml:1: nonsense: unknown field"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
