//! The gRPC services: each unpacks a request, calls [`crate::app`] and wraps the answer.
//!
//! Invariant: what changes an agent runs to its end even when its caller goes away.

mod agent;
mod bridge;
mod cache;
mod endpoint;
mod entity;
mod port;

use std::{sync::Arc, time::Duration};

use tonic::{Request, metadata::MetadataMap};

use crate::app::App;

/// The services, over what they share.
#[derive(Debug, Clone)]
pub(crate) struct Services(pub(crate) Arc<App>);

impl Services {
    /// How long an agent may be waited for: the configured time, or less when the caller's
    /// deadline is nearer, so that a typed answer reaches it.
    fn wait<T>(&self, request: &Request<T>) -> Duration {
        let longest = self.0.call_timeout;
        deadline(request.metadata()).map_or(longest, |left| {
            let margin = (left / 10).min(Duration::from_millis(500));
            longest.min(left.saturating_sub(margin))
        })
    }
}

/// The caller's deadline: `grpc-timeout` of the gRPC protocol.
pub(crate) fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
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

/// Fields of the span of an RPC, where they are known.
macro_rules! span {
    ($($field:ident = $value:expr),+ $(,)?) => {{
        let span = tracing::Span::current();
        $(span.record(stringify!($field), $value);)+
    }};
}
use span;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines() {
        for (text, expected) in [
            ("15S", Some(15_000)),
            ("1500m", Some(1500)),
            ("2000000u", Some(2000)),
            ("1M", Some(60_000)),
            ("", None),
            ("S", None),
            ("123456789S", None),
            ("1x", None),
            ("+1S", None),
        ] {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(deadline(&metadata), expected.map(Duration::from_millis), "{text}");
        }
    }
}
