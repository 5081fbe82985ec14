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
}

/// Fields of the span of an RPC, where they are known.
macro_rules! span {
    ($($field:ident = $value:expr),+ $(,)?) => {{
        let span = tracing::Span::current();
        $(span.record(stringify!($field), $value);)+
    }};
}
use span;
