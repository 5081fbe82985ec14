//! `BridgeService`: unpacks, calls the bridge, wraps.

use std::pin::Pin;

use futures::Stream;
use goperation::v1::{
    self,
    bridge_service_server::{BridgeService, BridgeServiceServer},
};
use tonic::{Request, Response, Status};
use tracing::{Instrument as _, Span, field::Empty, info_span};

use crate::{Bridge, Context};

/// What a receiver is sent.
type Incoming = Pin<Box<dyn Stream<Item = Result<v1::ReceiveResponse, Status>> + Send>>;

/// Bytes of one request or response at most.
const MAX_BYTES: usize = 4 << 20;

/// The bridge by its gRPC trait: for a server, or for calls within the process.
#[derive(Debug, Clone)]
pub struct Service {
    bridge: Bridge,
}

impl Service {
    /// That bridge.
    #[must_use]
    pub fn new(bridge: Bridge) -> Self {
        Self { bridge }
    }
}

/// The bridge as a gRPC server has it.
#[must_use]
pub fn service(bridge: Bridge) -> BridgeServiceServer<Service> {
    BridgeServiceServer::new(Service::new(bridge))
        .max_decoding_message_size(MAX_BYTES)
        .max_encoding_message_size(MAX_BYTES)
}

/// The span of a command.
fn command_span(kind: &'static str, target: Option<&v1::Target>, method: &str) -> Span {
    let text = |part: fn(&v1::Target) -> &String| target.map_or("", |target| part(target).as_str());
    info_span!(
        "command",
        kind,
        namespace = text(|target| &target.namespace),
        method,
        topic = text(|target| &target.topic),
        host = text(|target| &target.host),
        message_id = Empty,
    )
}

#[tonic::async_trait]
impl BridgeService for Service {
    type ReceiveStream = Incoming;

    async fn cast(
        &self,
        request: Request<v1::CastRequest>,
    ) -> Result<Response<v1::CastResponse>, Status> {
        let context = Context::from_metadata(request.metadata());
        let request = request.into_inner();
        let span = command_span("cast", request.target.as_ref(), &request.method);
        Ok(Response::new(self.bridge.cast(request, &context).instrument(span).await?))
    }

    async fn call(
        &self,
        request: Request<v1::CallRequest>,
    ) -> Result<Response<v1::CallResponse>, Status> {
        let context = Context::from_metadata(request.metadata());
        let request = request.into_inner();
        let span = command_span("call", request.target.as_ref(), &request.method);
        Ok(Response::new(self.bridge.call(request, &context).instrument(span).await?))
    }

    async fn notify(
        &self,
        request: Request<v1::NotifyRequest>,
    ) -> Result<Response<v1::NotifyResponse>, Status> {
        let context = Context::from_metadata(request.metadata());
        let request = request.into_inner();
        let span = info_span!("notify", queue = request.queue, message_id = Empty);
        Ok(Response::new(self.bridge.notify(request, &context).instrument(span).await?))
    }

    async fn receive(
        &self,
        request: Request<v1::ReceiveRequest>,
    ) -> Result<Response<Self::ReceiveStream>, Status> {
        let request = request.into_inner();
        let span = info_span!("receive", queue = request.queue);
        let stream = self.bridge.receive(request).instrument(span).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        let request = request.into_inner();
        let span = info_span!("acknowledge", queue = request.queue);
        Ok(Response::new(self.bridge.acknowledge(request).instrument(span).await?))
    }

    async fn index_queues(
        &self,
        request: Request<v1::IndexQueuesRequest>,
    ) -> Result<Response<v1::IndexQueuesResponse>, Status> {
        let span = info_span!("index_queues");
        let request = request.into_inner();
        Ok(Response::new(self.bridge.index_queues(&request).instrument(span).await?))
    }

    async fn show_queue(
        &self,
        request: Request<v1::ShowQueueRequest>,
    ) -> Result<Response<v1::ShowQueueResponse>, Status> {
        let request = request.into_inner();
        let span = info_span!("show_queue", queue = request.name);
        let queue = self.bridge.show_queue(&request).instrument(span).await?;
        Ok(Response::new(v1::ShowQueueResponse { queue: Some(queue) }))
    }

    async fn index_dead_letters(
        &self,
        request: Request<v1::IndexDeadLettersRequest>,
    ) -> Result<Response<v1::IndexDeadLettersResponse>, Status> {
        let span = info_span!("index_dead_letters");
        let request = request.into_inner();
        Ok(Response::new(self.bridge.index_dead_letters(&request).instrument(span).await?))
    }

    async fn create_agent_queues(
        &self,
        request: Request<v1::CreateAgentQueuesRequest>,
    ) -> Result<Response<v1::CreateAgentQueuesResponse>, Status> {
        let request = request.into_inner();
        let span = info_span!("create_agent_queues", r#type = request.r#type, host = request.host);
        self.bridge.create_agent_queues(&request).instrument(span).await?;
        Ok(Response::new(v1::CreateAgentQueuesResponse {}))
    }

    async fn delete_agent_queues(
        &self,
        request: Request<v1::DeleteAgentQueuesRequest>,
    ) -> Result<Response<v1::DeleteAgentQueuesResponse>, Status> {
        let request = request.into_inner();
        let span = info_span!("delete_agent_queues", r#type = request.r#type, host = request.host);
        Ok(Response::new(self.bridge.delete_agent_queues(&request).instrument(span).await?))
    }
}
