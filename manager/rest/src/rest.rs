//! REST from the annotations: a request is matched, made a message, called, and its answer written.
//!
//! Invariant: whatever comes in, an answer in JSON goes out; and none is decided here that a
//! service decides.

use std::sync::Arc;

use goperation::{Error, Reason};
use http::{
    HeaderValue, Method, Request, Response, StatusCode, header::ALLOW, request::Parts as Head,
};
use http_body::Body as _;
use prost_reflect::DescriptorPool;
use tokio::time::Instant;
use tonic::{Status, metadata::MetadataMap, service::Routes};

use crate::{
    Answer, Incoming, answer,
    call::Call,
    headers,
    incoming::{self, Limits, read_body},
    large::{self, Turn},
    percent,
    problem::{self, problem},
    request, resume,
    router::{Found, Router},
    rule::{self, Binding, Body},
    stream::{self, Deadline},
};

/// The REST of an API. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Rest(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    router: Router,
    grpc: Routes,
    limits: Limits,
}

/// Why there is no answer, with what the service has said beside it.
struct Failure {
    error: Error,
    metadata: MetadataMap,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, metadata: MetadataMap::new() }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self { error: Error::from_status(&status), metadata: status.metadata().clone() }
    }
}

impl From<percent::Error> for Failure {
    fn from(error: percent::Error) -> Self {
        Error::invalid("path", error.to_string()).into()
    }
}

impl Rest {
    /// REST for every annotated method of the pool, answered by these services.
    pub(crate) fn new(
        pool: DescriptorPool,
        grpc: Routes,
        limits: Limits,
    ) -> Result<Self, rule::Error> {
        let router = Router::new(rule::bindings(&pool)?)?;
        Ok(Self(Arc::new(Inner { router, grpc, limits })))
    }

    /// Answers a request.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Answer> {
        let is_head = request.method() == Method::HEAD;
        let (head, body) = request.into_parts();
        let response = self.0.answer(head, body).await.unwrap_or_else(|failure| {
            let mut response = problem(&failure.error);
            headers::add_metadata(response.headers_mut(), failure.metadata);
            response
        });
        if is_head { response.map(|_| Answer::empty()) } else { response }
    }
}

impl Inner {
    async fn answer(&self, head: Head, body: Incoming) -> Result<Response<Answer>, Failure> {
        let path = head.uri.path();
        let found = self.router.find(path)?.ok_or_else(|| no_route(path))?;
        let Some(binding) = choose(&found, &head.method) else {
            return if head.method == Method::OPTIONS {
                Ok(options(&found))
            } else {
                Err(not_allowed(&head.method, &found).into())
            };
        };
        let values = found.values(binding)?;
        let timeout = headers::timeout(&head.headers)?;
        let deadline = timeout.map(|timeout| Deadline { at: Instant::now() + timeout, timeout });
        // A body where none is taken is refused for being there, not for its type.
        if binding.body != Body::None && !body.is_end_stream() {
            incoming::check_type(&head.headers)?;
        }
        let bytes = read_body(&head.headers, body, &self.limits).await?;
        let turn = head.extensions.get::<Turn>().cloned();
        let (length, uri) = (bytes.len(), head.uri.clone());
        let (taken, headers) = (binding.clone(), head.headers.clone());
        let message = large::work(length, turn, move || {
            request::message(
                &taken,
                &request::Parts {
                    values,
                    query: uri.query().unwrap_or_default(),
                    headers: &headers,
                    body: &bytes,
                },
            )
        })
        .await??;
        let mut message = message;
        if binding.method.is_server_streaming() {
            resume::go_on(&mut message, &head.headers)?;
        }
        let call = Call {
            method: binding.method.clone(),
            message,
            metadata: headers::to_metadata(&head.headers),
            extensions: head.extensions,
            // What is left of it: the body has taken its time.
            timeout: deadline.map(|d| d.at.saturating_duration_since(Instant::now())),
        };
        let binding = Arc::clone(binding);
        if binding.method.is_server_streaming() {
            let (metadata, messages, _) = call.stream(self.grpc.clone()).await?.into_parts();
            let response = stream::messages(messages, binding, deadline, &head.headers).await;
            return response.map(|response| with(response, metadata)).map_err(Failure::from);
        }
        let (metadata, message, _) = call.unary(self.grpc.clone()).await?.into_parts();
        match answer::message(&message, &binding, &head.headers).await {
            Ok(response) => Ok(with(response, metadata)),
            Err(error) => Err(Failure { error, metadata }),
        }
    }
}

/// HEAD is GET, but a stream has no length to tell.
fn choose<'a>(found: &Found<'a>, method: &Method) -> Option<&'a Arc<Binding>> {
    if method == Method::HEAD && found.binding(method).is_none() {
        return found.binding(&Method::GET).filter(|b| !b.method.is_server_streaming());
    }
    found.binding(method)
}

fn with(mut response: Response<Answer>, metadata: MetadataMap) -> Response<Answer> {
    headers::add_metadata(response.headers_mut(), metadata);
    response
}

fn no_route(path: &str) -> Error {
    Error::new(Reason::RouteNotFound, format!("nothing is at {path}; /openapi.json lists what is"))
        .with("path", path)
}

fn not_allowed(method: &Method, found: &Found<'_>) -> Error {
    let allow = found.allow();
    Error::new(Reason::MethodNotAllowed, format!("{method} is not allowed here; {allow} are"))
        .with(problem::ALLOWED, allow)
}

fn options(found: &Found<'_>) -> Response<Answer> {
    let mut response = Response::new(Answer::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Ok(allow) = HeaderValue::from_str(&found.allow()) {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}

#[cfg(test)]
mod tests;
