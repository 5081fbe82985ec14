//! Settings of the RabbitMQ transport.
//!
//! Invariant: a configuration that passed [`RabbitConfig::check`] can be used; only the broker can
//! still refuse it.

use std::{fmt, time::Duration};

use goperation::{Error, Violation};
use lapin::uri::{AMQPScheme, AMQPUri};
use serde::{Deserialize, Serialize};

/// Longest heartbeat: a half-open link must be found, and the broker must give up the names of
/// the lost connection (after 3 heartbeats), within seconds.
const MAX_HEARTBEAT: Duration = Duration::from_secs(5);

/// Type of the queues that hold CASTs. It stands in their names, because the type of a queue
/// cannot be changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CastQueue {
    /// Survives `kill -9` of the broker; the cheaper one.
    #[default]
    Classic,
    /// Replicated, and synced to disk before it is confirmed: survives power loss.
    Quorum,
}

impl CastQueue {
    /// As it stands in queue names and in `x-queue-type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Classic => Self::Quorum,
            Self::Quorum => Self::Classic,
        }
    }
}

/// How the transport reaches RabbitMQ and what it makes there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RabbitConfig {
    /// `amqp://user:password@host:port/vhost`. The default vhost `/` is written `%2f`.
    pub uri: String,
    /// First part of every name that is made on the broker: letters, digits and dashes. Manager,
    /// bridge and agents must have the same. The queues of NOTIFY do not carry it.
    pub prefix: String,
    /// Type of the CAST queues. Manager, bridge and agents must have the same.
    pub cast_queue: CastQueue,
    /// Interval of heartbeats: whole seconds from `1s` to `5s`. The canary runs at half of it.
    #[serde(with = "text")]
    pub heartbeat: Duration,
    /// How long a publish waits for its confirmation.
    #[serde(with = "text")]
    pub confirm_timeout: Duration,
    /// Publishes under way at a time; more are refused at once.
    pub max_in_flight: usize,
    /// Bytes of one message at most.
    pub max_message_bytes: usize,
    /// Messages in the dead-letter queue at most; the oldest give way. Used when the queue is
    /// made; later a broker policy changes it.
    pub dead_max_length: u32,
    /// Messages in one notify queue at most; more are refused. Used when the queue is made; later
    /// a broker policy changes it.
    pub notify_max_length: u32,
    /// Whether all agents of this transport consume over one connection: for many in one process.
    /// Not for files: an agent by itself has one of its own.
    #[serde(skip)]
    pub one_connection: bool,
}

impl Default for RabbitConfig {
    fn default() -> Self {
        Self {
            uri: "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned(),
            prefix: "gop".to_owned(),
            cast_queue: CastQueue::default(),
            heartbeat: MAX_HEARTBEAT,
            confirm_timeout: Duration::from_secs(5),
            max_in_flight: 4096,
            max_message_bytes: 1 << 20,
            dead_max_length: 10_000,
            notify_max_length: 10_000,
            one_connection: false,
        }
    }
}

impl fmt::Debug for RabbitConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitConfig")
            .field("uri", &self.place())
            .field("prefix", &self.prefix)
            .field("cast_queue", &self.cast_queue)
            .field("heartbeat", &self.heartbeat)
            .field("confirm_timeout", &self.confirm_timeout)
            .field("max_in_flight", &self.max_in_flight)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("dead_max_length", &self.dead_max_length)
            .field("notify_max_length", &self.notify_max_length)
            .field("one_connection", &self.one_connection)
            .finish()
    }
}

impl RabbitConfig {
    /// The broker's place without user and password, for logs.
    #[must_use]
    pub fn place(&self) -> String {
        self.uri.parse::<AMQPUri>().map_or_else(
            |_| "amqp://?".to_owned(),
            |uri| format!("amqp://{}:{}/{}", uri.authority.host, uri.authority.port, uri.vhost),
        )
    }

    /// Checks every field.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming all that are wrong.
    pub fn check(&self) -> Result<(), Error> {
        self.parsed().map(drop)
    }

    /// Checks every field and gives the URI as every connection uses it.
    pub(super) fn parsed(&self) -> Result<AMQPUri, Error> {
        let mut bad = Vec::new();
        let mut wrong = |field: &str, description: String| {
            bad.push(Violation { field: field.to_owned(), description });
        };
        let uri = self.uri.parse::<AMQPUri>();
        match &uri {
            Err(e) => wrong("uri", format!("must be amqp://user:password@host:port/vhost: {e}")),
            Ok(uri) if uri.scheme == AMQPScheme::AMQPS => {
                wrong("uri", "must begin with amqp://: TLS to the broker is not built in".into());
            }
            Ok(_) => {}
        }
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !(1..=16).contains(&self.prefix.len()) || !self.prefix.chars().all(fits) {
            wrong("prefix", "must be 1 to 16 lower case letters, digits or dashes".into());
        }
        if self.heartbeat.subsec_nanos() != 0
            || self.heartbeat.is_zero()
            || self.heartbeat > MAX_HEARTBEAT
        {
            wrong("heartbeat", "must be whole seconds from 1s to 5s".into());
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&self.confirm_timeout) {
            wrong("confirm_timeout", "must be from 100ms to 1m".into());
        }
        if !(1..=1_000_000).contains(&self.max_in_flight) {
            wrong("max_in_flight", "must be from 1 to 1000000".into());
        }
        if !(1024..=64 << 20).contains(&self.max_message_bytes) {
            wrong("max_message_bytes", "must be from 1024 to 67108864".into());
        }
        if self.dead_max_length == 0 {
            wrong("dead_max_length", "must be at least 1".into());
        }
        if self.notify_max_length == 0 {
            wrong("notify_max_length", "must be at least 1".into());
        }
        match uri {
            Ok(mut uri) if bad.is_empty() => {
                // A connection allocates 64 frames: 8 MiB by default, 1 MiB like this.
                uri.query.frame_max = Some(super::wire::FRAME_MAX);
                uri.query.heartbeat = u16::try_from(self.heartbeat.as_secs()).ok();
                Ok(uri)
            }
            _ => Err(Error::violations(bad)),
        }
    }
}

/// Durations as people write them: `5s`, `500ms`.
mod text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_field_is_named() {
        let config = RabbitConfig {
            uri: "amqps://h".into(),
            prefix: "A.b".into(),
            heartbeat: Duration::from_secs(6),
            confirm_timeout: Duration::ZERO,
            max_in_flight: 0,
            max_message_bytes: 0,
            dead_max_length: 0,
            notify_max_length: 0,
            ..RabbitConfig::default()
        };
        assert_eq!(config.check().unwrap_err().violations.len(), 8);
        assert!(RabbitConfig { uri: "no".into(), ..RabbitConfig::default() }.check().is_err());
        assert!(RabbitConfig::default().check().is_ok());
    }

    #[test]
    fn reads_and_refuses() {
        let config: RabbitConfig = serde_json::from_value(serde_json::json!({
            "heartbeat": "2s", "cast_queue": "quorum",
        }))
        .unwrap();
        assert_eq!(config.heartbeat, Duration::from_secs(2));
        assert_eq!(config.cast_queue, CastQueue::Quorum);
        let unknown =
            serde_json::from_value::<RabbitConfig>(serde_json::json!({ "hearbeat": "2s" }));
        assert!(unknown.is_err());
    }

    #[test]
    fn the_password_is_not_printed() {
        let config = RabbitConfig { uri: "amqp://u:hush@h:1/v".into(), ..RabbitConfig::default() };
        assert!(!format!("{config:?}").contains("hush"));
        assert_eq!(config.place(), "amqp://h:1/v");
    }
}
