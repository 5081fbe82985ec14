//! What a request is: native gRPC, gRPC-Web, legacy, a page, or REST.
//!
//! Invariant: every request is seen by the guard first and is then answered by exactly one of
//! them; a failure outside of gRPC is always a JSON problem.

use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use goperation::{Error as Typed, Reason};
use http::{HeaderValue, Method, Request, Response, Version, header, request::Parts};
use http_body::Body as _;
use prost_reflect::DescriptorPool;
use tonic::{body::Body, service::Routes};
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};
use tower_http::cors::CorsLayer;

use crate::{
    Config, cors,
    deadline::Deadline,
    guard::Guard,
    incoming::Limits,
    large::{Turn, Turns},
    legacy::Legacy,
    openapi::Pages,
    problem::{ALLOWED, problem},
    rest::Rest,
};

/// The kinds of gRPC-Web, as their content type.
const GRPC_WEB: [&str; 4] = [
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];

/// Large JSON bodies at a time: a text takes many times its length once it is parsed.
const LARGE_JSON: usize = 4;
/// Large gRPC requests that are read at a time.
const LARGE_GRPC: usize = 16;

/// Why there is no gateway: the descriptor, or an annotation in it, cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the API's descriptor cannot be used")]
pub struct Error(#[source] Box<dyn std::error::Error + Send + Sync>);

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error(error.into())
}

/// Everything that answers on the manager's port. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    guard: Guard,
    cors: Option<CorsLayer>,
    grpc: Routes,
    web: GrpcWebService<Routes>,
    legacy: Legacy,
    pages: Pages,
    rest: Rest,
    pool: DescriptorPool,
    config: Config,
    json_turns: Turns,
    grpc_turns: Turns,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("guard", &self.inner.guard).finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway to `grpc`, whose annotations are in `descriptor`, for what listens on `listen`.
    ///
    /// # Errors
    /// When the descriptor or an annotation in it cannot be used.
    pub fn new(
        grpc: Routes,
        descriptor: &[u8],
        config: Config,
        listen: SocketAddr,
    ) -> Result<Self, Error> {
        let pool = DescriptorPool::decode(descriptor).map_err(broken)?;
        let grpc = grpc.prepare();
        let limits = Limits { max_body: config.max_body, body_timeout: config.body_timeout };
        let inner = Inner {
            guard: Guard::new(listen, config.cors_origins.clone()),
            cors: cors::layer(&config.cors_origins),
            web: GrpcWebLayer::new().layer(grpc.clone()),
            legacy: Legacy::new(grpc.clone(), &config),
            pages: Pages::new(&pool).map_err(broken)?,
            rest: Rest::new(pool.clone(), grpc.clone(), limits).map_err(broken)?,
            grpc,
            pool,
            // Shorter than the body's own time, so that it says what is the matter.
            json_turns: Turns::new(LARGE_JSON, config.body_timeout / 2),
            grpc_turns: Turns::new(LARGE_GRPC, config.body_timeout / 2),
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl<B> Service<Request<B>> for Gateway
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        let request = request.map(Body::new);
        Box::pin(async move { Ok(inner.answer(request).await) })
    }
}

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Grpc,
    Web,
    Plain,
}

impl Kind {
    fn of(request: &Parts) -> Self {
        let kind = request.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let starts = |with: &str| {
            kind.and_then(|kind| kind.get(..with.len()))
                .is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
        };
        if starts("application/grpc-web") {
            Self::Web
        } else if starts("application/grpc") {
            Self::Grpc
        } else {
            Self::Plain
        }
    }
}

impl Inner {
    async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let kind = Kind::of(&parts);
        let native = kind == Kind::Grpc && parts.version == Version::HTTP_2;
        if let Err(error) = self.guard.check(&parts, native) {
            return finish(&parts.method, problem(&error));
        }
        let method = parts.method.clone();
        let cors = self.cors.clone().filter(|_| self.is_shared(kind, parts.uri.path()));
        // OPTIONS that is no preflight asks what the route allows, and so does that of a page
        // that may not call.
        let for_page = self.guard.knows_page(&parts)
            && (method != Method::OPTIONS || cors::is_preflight(&parts));
        let request = Request::from_parts(parts, body);
        let answer = match cors {
            None => self.dispatch(kind, request).await,
            Some(_) if !for_page => {
                let mut answer = self.dispatch(kind, request).await;
                answer.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
                answer
            }
            Some(cors) => {
                let inner = service_fn(move |request| {
                    let this = Arc::clone(&self);
                    async move { Ok::<_, Infallible>(this.dispatch(kind, request).await) }
                });
                called(cors.layer(inner).oneshot(request).await)
            }
        };
        finish(&method, answer)
    }

    /// Whether pages of configured origins may use that path.
    fn is_shared(&self, kind: Kind, path: &str) -> bool {
        kind == Kind::Web
            || is_below(path, "/v1")
            || is_legacy(path)
            || path == "/openapi.json"
            || self.takes_stream(path).is_some()
    }

    /// Whether the gRPC method with that path takes a stream; `None` when there is no such method.
    fn takes_stream(&self, path: &str) -> Option<bool> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let service = self.pool.get_service_by_name(service)?;
        let method = service.methods().find(|m| m.name() == method)?;
        Some(method.is_client_streaming())
    }

    async fn dispatch(self: Arc<Self>, kind: Kind, request: Request<Body>) -> Response<Body> {
        match kind {
            Kind::Grpc if request.version() == Version::HTTP_2 => {
                let request = self.timed(request);
                called(self.grpc.clone().oneshot(request).await)
            }
            Kind::Grpc => problem(&Typed::new(
                Reason::UnsupportedMediaType,
                "gRPC needs HTTP/2 (with plain text, by prior knowledge); over HTTP/1.1 there are \
                 gRPC-Web and REST",
            )),
            Kind::Web => self.web(request).await,
            Kind::Plain => self.plain(request).await,
        }
    }

    async fn plain(&self, request: Request<Body>) -> Response<Body> {
        // Kept by the request, until it is answered.
        let turn = Turn::default();
        let (mut head, body) = request.into_parts();
        head.extensions.insert(Turn::clone(&turn));
        let body = self.json_turns.apply(&head.headers, body, turn);
        let request = Request::from_parts(head, body);
        if is_legacy(request.uri().path()) {
            let peer = request.extensions().get::<SocketAddr>().copied();
            return self.legacy.answer(request, peer).await;
        }
        match self.pages.answer(request.method(), request.uri().path(), request.headers()) {
            Some(page) => page,
            None => self.rest.answer(request).await,
        }
    }

    async fn web(&self, request: Request<Body>) -> Response<Body> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        if !kind.is_some_and(|kind| GRPC_WEB.iter().any(|known| kind == known)) {
            return problem(&Typed::new(
                Reason::UnsupportedMediaType,
                format!("the kinds of gRPC-Web are {}", GRPC_WEB.join(", ")),
            ));
        }
        if request.method() != Method::POST {
            let error = Typed::new(Reason::MethodNotAllowed, "gRPC-Web calls are POST requests");
            return problem(&error.with(ALLOWED, Method::POST));
        }
        let request = self.timed(request);
        called(self.web.clone().oneshot(request).await)
    }

    /// A request whose body has to arrive in time, and in its turn when it is large, unless it is
    /// a stream.
    fn timed(&self, request: Request<Body>) -> Request<Body> {
        if self.takes_stream(request.uri().path()) != Some(false) {
            return request;
        }
        let (head, body) = request.into_parts();
        let body = self.grpc_turns.apply(&head.headers, body, Turn::default());
        let body = Body::new(Deadline::new(body, self.config.body_timeout));
        Request::from_parts(head, body)
    }
}

/// Whether a path is one of the old system's.
fn is_legacy(path: &str) -> bool {
    is_below(path, "/v1.0") || is_below(path, "/n1.0")
}

fn is_below(path: &str, base: &str) -> bool {
    path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn called(result: Result<Response<Body>, Infallible>) -> Response<Body> {
    match result {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

/// The answer to a HEAD request says how long the body would be, and has none.
fn finish(method: &Method, mut answer: Response<Body>) -> Response<Body> {
    if method != Method::HEAD {
        return answer;
    }
    if let Some(length) = answer.body().size_hint().exact().filter(|&length| length > 0) {
        answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    answer.map(|_| Body::empty())
}
