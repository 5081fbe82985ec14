//! What every RPC has, by whichever way it was called: a span, and its caller's deadline.
//!
//! Invariant: no caller is answered after its deadline; what was begun may still go on.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use goperation::{Error, Reason, parse_grpc_timeout};
use http::{HeaderMap, Request, Response};
use tonic::Status;
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field::Empty};

const TIMEOUT: &str = "grpc-timeout";

/// Gives a span and a deadline to every RPC of a service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RpcLayer;

impl<S> Layer<S> for RpcLayer {
    type Service = Rpc<S>;

    fn layer(&self, inner: S) -> Rpc<S> {
        Rpc { inner }
    }
}

/// A service whose RPCs have spans and deadlines.
#[derive(Debug, Clone)]
pub(crate) struct Rpc<S> {
    inner: S,
}

impl<S, B, A> Service<Request<B>> for Rpc<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
    A: Default,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let span = span(request.uri().path());
        let left = left(request.headers());
        let answer = span.in_scope(|| self.inner.call(request));
        let answer = async move {
            let Some(left) = left else { return answer.await };
            match tokio::time::timeout(left, answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    let error = "the caller's deadline passed before there was an answer";
                    Ok(Status::from(Error::new(Reason::OutcomeUnknown, error)).into_http())
                }
            }
        };
        Box::pin(answer.instrument(span))
    }
}

/// What is left of the caller's time.
fn left(headers: &HeaderMap) -> Option<Duration> {
    parse_grpc_timeout(headers.get(TIMEOUT)?.to_str().ok()?)
}

fn span(path: &str) -> Span {
    let rpc = path.trim_start_matches('/');
    tracing::info_span!(
        "rpc",
        rpc,
        agent = Empty,
        endpoint = Empty,
        entity = Empty,
        method = Empty,
        message_id = Empty,
    )
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceExt as _, service_fn};

    use super::*;

    async fn ask(timeout: Option<&str>) -> Response<String> {
        let slow = service_fn(|_: Request<()>| async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok::<_, Infallible>(Response::new("done".to_owned()))
        });
        let mut request = Request::new(());
        if let Some(timeout) = timeout {
            request.headers_mut().insert(TIMEOUT, timeout.parse().unwrap());
        }
        RpcLayer.layer(slow).oneshot(request).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_answered_after_the_deadline() {
        for in_time in [None, Some("4S"), Some("nonsense")] {
            assert_eq!(ask(in_time).await.body(), "done");
        }
        let late = ask(Some("2S")).await;
        let status = Status::from_header_map(late.headers()).unwrap();
        assert_eq!(Error::from_status(&status).reason, Reason::OutcomeUnknown);
        assert_eq!(late.body(), "");
    }
}
