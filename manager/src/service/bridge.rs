//! `BridgeService` on the manager's port: what the bridge does is handed to it as it is, with the
//! caller's deadline and trace; what needs the record is added here.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use goperation::v1::{bridge_service_server::BridgeService, *};
use tonic::{Request, Response, Status, async_trait};

use super::{Services, span};
use crate::{bridge_link::Client, error::edge};

/// Metadata that goes along.
const ALONG: [&str; 3] = ["grpc-timeout", "traceparent", "tracestate"];

impl Services {
    fn bridge(&self) -> Client {
        self.0.link.client()
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
        self.bridge().cast(on(request)).await
    }

    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        let q = request.get_ref();
        target(q.target.as_ref(), &q.method, &q.message_id);
        self.bridge().call(on(request)).await
    }

    async fn notify(
        &self,
        request: Request<NotifyRequest>,
    ) -> Result<Response<NotifyResponse>, Status> {
        span!(message_id = request.get_ref().message_id.as_str());
        if let Err(error) = self.0.note_notify(&request.get_ref().queue).await {
            return edge(Err(error));
        }
        self.bridge().notify(on(request)).await
    }

    type ReceiveStream = Pin<Box<dyn Stream<Item = Result<ReceiveResponse, Status>> + Send>>;

    async fn receive(
        &self,
        request: Request<ReceiveRequest>,
    ) -> Result<Response<Self::ReceiveStream>, Status> {
        if let Err(error) = self.0.note_notify(&request.get_ref().queue).await {
            return Err(error.into());
        }
        let stream = self.bridge().receive(on(request)).await?.into_inner();
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
