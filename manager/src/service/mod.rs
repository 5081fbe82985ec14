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

use goperation_bridge::Context;
use tonic::Request;

use crate::app::App;

/// Longest wait for what a caller gave the time for itself.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// The services, over what they share.
#[derive(Debug, Clone)]
pub(crate) struct Services(pub(crate) Arc<App>);

impl Services {
    /// How long an agent may be waited for: the configured time, or less when the caller's
    /// deadline is nearer, so that a typed answer reaches it.
    fn wait<T>(&self, request: &Request<T>) -> Duration {
        let longest = self.0.call_timeout;
        Context::from_metadata(request.metadata()).wait().map_or(longest, |wait| longest.min(wait))
    }

    /// How long what takes its time may be waited for, as the start of a game: as long as the caller
    /// waits, at most ten minutes; the configured time when it does not say.
    fn long_wait<T>(&self, request: &Request<T>) -> Duration {
        let wait = Context::from_metadata(request.metadata()).wait();
        wait.map_or(self.0.call_timeout, |wait| LONGEST_WAIT.min(wait))
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
