//! Settings of the bridge.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// What the manager's own CALLs may need.
const SHORTEST_LIMIT: Duration = Duration::from_secs(600);

/// Bounds and defaults of the bridge. Durations are written as `15s`, `24h`, `7days`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BridgeConfig {
    /// CALLs that may wait at a time; beyond it RATE_LIMITED.
    pub max_calls: usize,
    /// How long a CALL waits when it does not say.
    #[serde(with = "duration")]
    pub default_call_timeout: Duration,
    /// How long a CALL may ask to wait; at least the ten minutes for which the manager waits for
    /// what takes its time, as the start of a game.
    #[serde(serialize_with = "duration::serialize", deserialize_with = "longest_call")]
    pub max_call_timeout: Duration,
    /// How long after now a CAST may still be started when it does not say.
    #[serde(with = "duration")]
    pub default_finish: Duration,
    /// How long after now a finish time may be.
    #[serde(with = "duration")]
    pub max_finish: Duration,
    /// Streams of Receive at a time; beyond it RATE_LIMITED.
    pub max_receive_streams: usize,
    /// How long a CALL waits for the bridge's own reply queue, before it is BROKER_UNAVAILABLE.
    #[serde(with = "duration")]
    pub reply_queue_wait: Duration,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            max_calls: 10_000,
            default_call_timeout: Duration::from_secs(15),
            max_call_timeout: Duration::from_secs(3600),
            default_finish: Duration::from_secs(24 * 3600),
            max_finish: Duration::from_secs(7 * 24 * 3600),
            max_receive_streams: 1024,
            reply_queue_wait: Duration::from_secs(1),
        }
    }
}

/// Reads `max_call_timeout`.
fn longest_call<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let timeout = duration::deserialize(from)?;
    if timeout < SHORTEST_LIMIT {
        return Err(D::Error::custom(
            "must be at least 10m: the manager waits so long for a start",
        ));
    }
    Ok(timeout)
}

/// Durations as people write them.
pub(crate) mod duration {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes `15s`.
    pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    /// Reads `15s`.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text)
            .map_err(|e| D::Error::custom(format!("must be a duration such as 15s: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_refuses_what_it_does_not_know() {
        let text = serde_json::to_string(&BridgeConfig::default()).unwrap();
        assert_eq!(serde_json::from_str::<BridgeConfig>(&text).unwrap(), BridgeConfig::default());
        let read = serde_json::from_str::<BridgeConfig>(r#"{"default_call_timeout": "2m"}"#);
        assert_eq!(read.unwrap().default_call_timeout, Duration::from_secs(120));
        assert!(serde_json::from_str::<BridgeConfig>(r#"{"max_cals": 1}"#).is_err());
        let limit = |text| serde_json::from_str::<BridgeConfig>(&format!("{{{text}}}"));
        assert!(limit(r#""max_call_timeout": "10m""#).is_ok());
        assert!(limit(r#""max_call_timeout": "9m""#).is_err());
    }
}
