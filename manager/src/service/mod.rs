//! The gRPC services: each unpacks a request, calls [`crate::app`] and wraps the answer.
//!
//! Invariant: what changes an agent runs to its end even when its caller goes away, and once for an
//! idempotency key.

mod agent;
mod bridge;
mod cache;
mod endpoint;
mod entity;
mod port;
mod request;

use std::{sync::Arc, time::Duration};

use goperation::Result;
use goperation_bridge::Context;
use prost::Message;
use tonic::{Request, Response, Status};

use crate::{
    app::{App, Key, Seal},
    error::edge,
};

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

    /// Does it to its end, and once if the request has an idempotency key. The work gets what is
    /// left of the wait.
    async fn keyed<Q, A, F>(
        &self,
        request: Request<Q>,
        method: &'static str,
        wait: Duration,
        work: impl FnOnce(Arc<App>, Q, Option<Seal>, Duration) -> F + Send + 'static,
    ) -> Result<Response<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
        F: Future<Output = Result<A>> + Send + 'static,
    {
        self.keyed_by(request, method, wait, |q| q.encode_to_vec(), work).await
    }

    /// As [`Self::keyed`], for a request whose encoding is not always the same: `content` is.
    async fn keyed_by<Q, A, F>(
        &self,
        request: Request<Q>,
        method: &'static str,
        wait: Duration,
        content: fn(&Q) -> Vec<u8>,
        work: impl FnOnce(Arc<App>, Q, Option<Seal>, Duration) -> F + Send + 'static,
    ) -> Result<Response<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
        F: Future<Output = Result<A>> + Send + 'static,
    {
        let key = match Key::of(request.metadata(), "") {
            Ok(key) => key,
            Err(error) => return edge(Err(error)),
        };
        let q = request.into_inner();
        let content = if key.is_some() { content(&q) } else { Vec::new() };
        let answer = self.0.whole(|app| async move {
            let same = app.clone();
            let work = |seal, wait| work(same, q, seal, wait);
            app.sealed(key, method, &content, wait, work).await
        });
        edge(answer.await)
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
