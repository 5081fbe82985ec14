//! `BridgeService` on the manager's port: what the bridge does is handed to it as it is, with the
//! caller's deadline and trace; what needs the record is added here.

use std::time::Duration;

use futures::StreamExt as _;
use goperation::{
    Error, to_duration,
    v1::{bridge_service_server::BridgeService, *},
};
use prost::Message;
use tonic::{Request, Response, Status, async_trait};

use super::{LONGEST_WAIT, Services, span};
use crate::{
    app::Key,
    bridge_link::{Client, Incoming, failed, unknown},
    error::edge,
};

/// Metadata that goes along.
const ALONG: [&str; 3] = ["grpc-timeout", "traceparent", "tracestate"];

/// What a bridge gets beyond the wait, so that its typed answer comes before ours.
const SLACK: Duration = Duration::from_secs(1);

/// What is sent: it has a message id.
trait Sent: Message + 'static {
    const METHOD: &'static str;

    fn message_id(&mut self) -> &mut String;
}

macro_rules! sent {
    ($($request:ident = $method:literal;)+) => {$(
        impl Sent for $request {
            const METHOD: &'static str = $method;

            fn message_id(&mut self) -> &mut String {
                &mut self.message_id
            }
        }
    )+};
}
sent! {
    CastRequest = "cast";
    CallRequest = "call";
    NotifyRequest = "notify";
}

impl Services {
    fn bridge(&self) -> Client {
        self.0.link.client()
    }

    /// Hands a message to the bridge. With an idempotency key that is done once, to its end, and
    /// under the key's message id unless the message has one.
    async fn send<Q, A, F>(
        &self,
        request: Request<Q>,
        wait: Duration,
        send: impl FnOnce(Client, Request<Q>) -> F + Send + 'static,
    ) -> Result<Response<A>, Status>
    where
        Q: Sent,
        A: Message + Default + 'static,
        F: Future<Output = Result<Response<A>, Status>> + Send + 'static,
    {
        match Key::of(request.metadata(), "") {
            Ok(None) => return send(self.bridge(), on(request)).await,
            Ok(Some(_)) => {}
            Err(error) => return edge(Err(error)),
        }
        let mut metadata = Request::new(());
        *metadata.metadata_mut() = request.metadata().clone();
        let metadata = on(metadata).metadata().clone();
        self.keyed(request, Q::METHOD, wait, move |app, mut q, seal, wait| async move {
            if let Some(seal) = seal.filter(|_| q.message_id().is_empty()) {
                *q.message_id() = seal.message_id().to_string();
            }
            let id = q.message_id().clone();
            let what = || format!("{} was sent", Q::METHOD);
            let mut request = Request::new(q);
            *request.metadata_mut() = metadata;
            let sent = send(app.link.client(), request);
            match tokio::time::timeout(wait + SLACK, sent).await {
                Ok(Ok(response)) => Ok(response.into_inner()),
                Ok(Err(status)) => Err(failed(&status, what, &id)),
                Err(_) => Err(unknown(&what(), "the bridge did not answer in time", &id)),
            }
        })
        .await
    }
}

/// The request as it goes on to the bridge.
fn on<T>(request: Request<T>) -> Request<T> {
    let (metadata, _, message) = request.into_parts();
    let mut request = Request::new(message);
    for key in ALONG {
        if let Some(value) = metadata.get(key) {
            request.metadata_mut().insert(key, value.clone());
        }
    }
    request
}

fn target(target: Option<&Target>, method: &str, message_id: &str) {
    let namespace = target.map(|target| target.namespace.as_str()).unwrap_or_default();
    span!(endpoint = namespace, method = method, message_id = message_id);
}

#[async_trait]
impl BridgeService for Services {
    async fn cast(&self, request: Request<CastRequest>) -> Result<Response<CastResponse>, Status> {
        let q = request.get_ref();
        target(q.target.as_ref(), &q.method, &q.message_id);
        if !q.request_id.is_empty() {
            // Its agents would answer to a request that did not ask them.
            return edge(Err(Error::invalid("request_id", "is set by the manager")));
        }
        let wait = self.wait(&request);
        self.send(request, wait, |mut bridge, request| async move { bridge.cast(request).await })
            .await
    }

    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        let q = request.get_ref();
        target(q.target.as_ref(), &q.method, &q.message_id);
        let asked = q.timeout.as_ref().and_then(to_duration).unwrap_or_default();
        let wait = self.long_wait(&request).max(asked).min(LONGEST_WAIT);
        self.send(request, wait, |mut bridge, request| async move { bridge.call(request).await })
            .await
    }

    async fn notify(
        &self,
        request: Request<NotifyRequest>,
    ) -> Result<Response<NotifyResponse>, Status> {
        span!(message_id = request.get_ref().message_id.as_str());
        if let Err(error) = self.0.note_notify(&request.get_ref().queue).await {
            return edge(Err(error));
        }
        let wait = self.wait(&request);
        self.send(request, wait, |mut bridge, request| async move { bridge.notify(request).await })
            .await
    }

    type ReceiveStream = Incoming;

    async fn receive(
        &self,
        request: Request<ReceiveRequest>,
    ) -> Result<Response<Self::ReceiveStream>, Status> {
        if let Err(error) = self.0.note_notify(&request.get_ref().queue).await {
            return Err(error.into());
        }
        let stream = self.bridge().receive(on(request)).await?;
        // A stream would keep a stopping manager until its time is up.
        let stream = stream.take_until(self.0.stop.clone().cancelled_owned());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeResponse>, Status> {
        self.bridge().acknowledge(on(request)).await
    }

    async fn index_queues(
        &self,
        request: Request<IndexQueuesRequest>,
    ) -> Result<Response<IndexQueuesResponse>, Status> {
        edge(self.0.index_queues(request.into_inner()).await)
    }

    async fn show_queue(
        &self,
        request: Request<ShowQueueRequest>,
    ) -> Result<Response<ShowQueueResponse>, Status> {
        self.bridge().show_queue(on(request)).await
    }

    async fn index_dead_letters(
        &self,
        request: Request<IndexDeadLettersRequest>,
    ) -> Result<Response<IndexDeadLettersResponse>, Status> {
        self.bridge().index_dead_letters(on(request)).await
    }

    async fn create_agent_queues(
        &self,
        request: Request<CreateAgentQueuesRequest>,
    ) -> Result<Response<CreateAgentQueuesResponse>, Status> {
        self.bridge().create_agent_queues(on(request)).await
    }

    async fn delete_agent_queues(
        &self,
        request: Request<DeleteAgentQueuesRequest>,
    ) -> Result<Response<DeleteAgentQueuesResponse>, Status> {
        self.bridge().delete_agent_queues(on(request)).await
    }
}
