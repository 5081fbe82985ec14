//! Times on the wire. Inside, a moment is milliseconds since 1970 by this host's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

/// Now, in milliseconds since 1970; 0 on a host whose clock stands before that.
#[must_use]
pub fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A moment as a protobuf timestamp.
#[must_use]
pub fn to_timestamp(millis: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1000 * 1_000_000).unwrap_or(0),
    }
}

/// A protobuf timestamp as a moment; one before 1970 is 0.
#[must_use]
pub fn from_timestamp(time: &Timestamp) -> u64 {
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    let nanos = u64::try_from(time.nanos).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}

/// A protobuf duration; `None` when it is negative or out of range.
#[must_use]
pub fn to_duration(duration: &prost_types::Duration) -> Option<Duration> {
    Duration::try_from(*duration).ok()
}

/// How long a caller waits, as gRPC's `grpc-timeout` says it: `1500m` is 1.5 seconds.
#[must_use]
pub fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_timeout_is_digits_and_a_unit() {
        for (text, expected) in [
            ("15S", Some(15_000)),
            ("1500m", Some(1500)),
            ("2000000u", Some(2000)),
            ("1M", Some(60_000)),
            ("", None),
            ("S", None),
            ("123456789S", None),
            ("1x", None),
            ("1é", None),
            ("+1S", None),
        ] {
            assert_eq!(parse_grpc_timeout(text), expected.map(Duration::from_millis), "{text}");
        }
    }
}
