//! For the tests: a small API with what ours does not use, and any other from its source.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, stream};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use serde_json::Value;
use tokio::sync::mpsc;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService},
};
use tower::Service;

use crate::{
    call,
    rule::{self, Binding},
};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// The API of `testdata/library.proto`.
pub(crate) fn library() -> DescriptorPool {
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| compile(include_str!("../testdata/library.proto")));
    POOL.clone()
}

/// The API in that source.
pub(crate) fn compile(source: &str) -> DescriptorPool {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("test.proto"), source).unwrap();
    let proto = format!("{HERE}/../../proto");
    let mut compiler = protox::Compiler::new([folder.path(), proto.as_ref()]).unwrap();
    compiler.include_imports(true).open_files(["test.proto"]).unwrap();
    DescriptorPool::decode(compiler.encode_file_descriptor_set().as_slice()).unwrap()
}

/// A message of [`library`].
pub(crate) fn message(name: &str) -> MessageDescriptor {
    library().get_message_by_name(&format!("library.v1.{name}")).unwrap()
}

/// The first binding of a method of [`library`] that satisfies the condition.
pub(crate) fn binding(method: &str, which: impl Fn(&Binding) -> bool) -> Binding {
    static ALL: LazyLock<Vec<Binding>> = LazyLock::new(|| rule::bindings(&library()).unwrap());
    ALL.iter().find(|b| b.method.name() == method && which(b)).unwrap().clone()
}

/// What a message is as JSON, without what is not set.
pub(crate) fn to_json(message: &DynamicMessage) -> Value {
    serde_json::to_value(message).unwrap()
}

/// The message that this JSON is.
pub(crate) fn from_json(message: &MessageDescriptor, json: Value) -> DynamicMessage {
    DynamicMessage::deserialize(message.clone(), json).unwrap()
}

/// Services that answer [`library`]: what a book is called decides what happens to it.
#[derive(Debug, Clone)]
pub(crate) struct Library {
    /// The API.
    pub(crate) pool: DescriptorPool,
    /// Messages that streams have made so far.
    pub(crate) made: Arc<AtomicUsize>,
    /// Closed when no stream is left.
    _alive: mpsc::Sender<()>,
}

type Messages = Pin<Box<dyn Stream<Item = Result<DynamicMessage, Status>> + Send>>;

impl NamedService for Library {
    const NAME: &'static str = "library.v1.Library";
}

impl Service<http::Request<Body>> for Library {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let name = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let service = self.pool.get_service_by_name(Self::NAME).unwrap();
        let method = service.methods().find(|m| m.name() == name).unwrap();
        let library = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(call::Dynamic { reads: method.input() });
            let streams = method.is_server_streaming();
            let one = tower::service_fn(|request: Request<DynamicMessage>| {
                answer(method.clone(), request)
            });
            let many = tower::service_fn(|request: Request<DynamicMessage>| {
                let library = library.clone();
                let request = to_json(request.get_ref());
                async move { library.watch(request).map(Response::new) }
            });
            Ok(match streams {
                true => grpc.server_streaming(many, request).await,
                false => grpc.unary(one, request).await,
            })
        })
    }
}

async fn answer(
    method: MethodDescriptor,
    request: Request<DynamicMessage>,
) -> Result<Response<DynamicMessage>, Status> {
    let asked = to_json(request.get_ref());
    let echo = request.metadata().get("echo").cloned();
    let book = asked.get("book").cloned().unwrap_or_else(
        || serde_json::json!({"title": asked.get("name").or(asked.get("title")), "etag": "e1"}),
    );
    let reply = match (method.name(), book["title"].as_str()) {
        ("IndexBooks", _) => serde_json::json!({"names": asked["names"]}),
        (_, Some("missing")) => {
            let error = goperation::Error::new(goperation::Reason::Locked, "somebody has it")
                .with_retry_after(Duration::from_millis(1500));
            let mut status = Status::from(error);
            status.metadata_mut().insert("why", "no".parse().unwrap());
            return Err(status);
        }
        (_, Some("slow")) => std::future::pending().await,
        (_, Some("large")) => serde_json::json!({"book": {"title": "a".repeat(3000)}}),
        (_, Some("huge")) => serde_json::json!({"book": {"title": "a".repeat(5 << 20)}}),
        _ => serde_json::json!({"book": book}),
    };
    let mut reply = Response::new(from_json(&method.output(), reply));
    if let Some(echo) = echo {
        reply.metadata_mut().insert("echo", echo);
    }
    Ok(reply)
}

impl Library {
    /// The services, and what says when no stream of them is left.
    pub(crate) fn new() -> (Self, mpsc::Receiver<()>) {
        let (alive, gone) = mpsc::channel(1);
        (Self { pool: library(), made: Arc::default(), _alive: alive }, gone)
    }

    fn watch(self, asked: Value) -> Result<Messages, Status> {
        let end = asked["names"][0].as_str().unwrap_or_default().to_owned();
        let most = asked["pageSize"].as_u64().unwrap_or(if end.is_empty() { u64::MAX } else { 0 });
        if end == "refuse" {
            return Err(goperation::Error::new(goperation::Reason::QueueNotFound, "no").into());
        }
        let output = self.pool.get_message_by_name("library.v1.ShowBookResponse").unwrap();
        Ok(Box::pin(stream::unfold((0, self), move |(i, library)| {
            let (output, end) = (output.clone(), end.clone());
            async move {
                let next = (i + 1, library);
                if i < most {
                    next.1.made.fetch_add(1, Ordering::SeqCst);
                    let json = serde_json::json!({"book": {"id": i, "lent": true}});
                    return Some((Ok(from_json(&output, json)), next));
                }
                match end.as_str() {
                    "fail" if i == most => Some((Err(Status::unavailable("stopping")), next)),
                    "silent" => std::future::pending().await,
                    _ => None,
                }
            }
        })))
    }
}
