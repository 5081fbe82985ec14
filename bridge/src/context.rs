//! What the metadata of an RPC says: how long its caller waits, and the trace it belongs to.

use std::time::Duration;

use goperation::parse_grpc_timeout;
use tonic::metadata::MetadataMap;

/// The caller's part of every command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// W3C trace context, when the caller has one.
    pub traceparent: Option<String>,
    /// How long the caller waits, when it says.
    pub deadline: Option<Duration>,
}

/// The typed answer must reach the caller: at most that much is kept back for its way.
const MARGIN: Duration = Duration::from_millis(500);

impl Context {
    /// What the metadata say; what cannot be read counts as not said.
    #[must_use]
    pub fn from_metadata(metadata: &MetadataMap) -> Self {
        let text = |key| metadata.get(key).and_then(|value| value.to_str().ok());
        Self {
            traceparent: text("traceparent").filter(|text| is_traceparent(text)).map(str::to_owned),
            deadline: text("grpc-timeout").and_then(parse_grpc_timeout),
        }
    }

    /// How long may be waited before the caller gives up: min(10 %, 500 ms) less than it says.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_sub((deadline / 10).min(MARGIN)))
    }

    /// The trace context, or that of a new trace.
    pub(crate) fn traceparent_or_new(&self) -> String {
        self.traceparent.clone().unwrap_or_else(|| {
            let trace = uuid::Uuid::new_v4().simple().to_string();
            let span = uuid::Uuid::new_v4().simple().to_string();
            format!("00-{trace}-{}-01", &span[..16])
        })
    }
}

/// Whether a text is a trace context of version 00 that names a trace and a span.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let [version, trace, span, flags] = parts.as_slice() else { return false };
    let hex = |part: &str, len| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let named = |part: &str| part.bytes().any(|b| b != b'0');
    *version == "00"
        && hex(trace, 32)
        && named(trace)
        && hex(span, 16)
        && named(span)
        && hex(flags, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(key: &'static str, value: &str) -> Context {
        let mut metadata = MetadataMap::new();
        metadata.insert(key, value.parse().unwrap());
        Context::from_metadata(&metadata)
    }

    #[test]
    fn deadlines_are_read_and_trimmed() {
        for (text, deadline, wait) in
            [("15S", 15_000, 14_500), ("1000m", 1000, 900), ("1H", 3_600_000, 3_599_500)]
        {
            let context = context("grpc-timeout", text);
            assert_eq!(context.deadline, Some(Duration::from_millis(deadline)), "{text}");
            assert_eq!(context.wait(), Some(Duration::from_millis(wait)), "{text}");
        }
        for bad in ["", "S", "15", "-1S", "123456789S", "1x"] {
            assert_eq!(context("grpc-timeout", bad).deadline, None, "{bad}");
        }
    }

    #[test]
    fn a_bad_trace_context_is_replaced() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(context("traceparent", good).traceparent_or_new(), good);
        for bad in ["", "00-1-2-3", "00-00000000000000000000000000000000-b7ad6b7169203331-01"] {
            let made = context("traceparent", bad).traceparent_or_new();
            assert!(is_traceparent(&made), "{made}");
        }
    }
}
