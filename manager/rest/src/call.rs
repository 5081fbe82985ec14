//! A gRPC call in this process, of any method, with messages made from descriptors.
//!
//! Invariant: the call takes the way of every gRPC client, through the same services; and it ends
//! with its deadline, or when it is dropped.

use std::{convert::Infallible, time::Duration};

use http::{Extensions, uri::PathAndQuery};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, MethodDescriptor};
use tonic::{
    Request, Response, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    service::Routes,
};

/// What is called, with what.
#[derive(Debug)]
pub(crate) struct Call {
    /// The method.
    pub(crate) method: MethodDescriptor,
    /// Its request.
    pub(crate) message: DynamicMessage,
    /// What goes with it.
    pub(crate) metadata: MetadataMap,
    /// What the server knows of the connection.
    pub(crate) extensions: Extensions,
    /// How long the caller waits.
    pub(crate) timeout: Option<Duration>,
}

impl Call {
    /// Calls a method with one answer.
    pub(crate) async fn unary(self, grpc: Routes) -> Result<Response<DynamicMessage>, Status> {
        let timeout = self.timeout;
        let (request, path, codec) = self.into_request()?;
        let mut client = client(grpc).await?;
        within(timeout, client.unary(request, path, codec)).await
    }

    /// Calls a method with a stream of answers.
    pub(crate) async fn stream(
        self,
        grpc: Routes,
    ) -> Result<Response<Streaming<DynamicMessage>>, Status> {
        let timeout = self.timeout;
        let (request, path, codec) = self.into_request()?;
        let mut client = client(grpc).await?;
        within(timeout, client.server_streaming(request, path, codec)).await
    }

    fn into_request(self) -> Result<(Request<DynamicMessage>, PathAndQuery, Dynamic), Status> {
        let (service, name) = (self.method.parent_service().full_name(), self.method.name());
        let path = PathAndQuery::try_from(format!("/{service}/{name}"))
            .map_err(|_| Status::internal("the name of the method is no path"))?;
        let codec = Dynamic { reads: self.method.output() };
        let mut request = Request::from_parts(self.metadata, self.extensions, self.message);
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        Ok((request, path, codec))
    }
}

async fn client(grpc: Routes) -> Result<Grpc<Routes>, Status> {
    // In this process a message is as large as the service has made it.
    let mut client = Grpc::new(grpc).max_decoding_message_size(usize::MAX);
    client.ready().await.map_err(|never: Infallible| -> Status { match never {} })?;
    Ok(client)
}

async fn within<T>(
    timeout: Option<Duration>,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match timeout {
        None => call.await,
        Some(timeout) => {
            tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| Err(too_late(timeout)))
        }
    }
}

/// The caller waits no longer.
pub(crate) fn too_late(timeout: Duration) -> Status {
    Status::deadline_exceeded(format!("no answer within the Grpc-Timeout of {timeout:?}"))
}

/// Messages by their descriptors.
#[derive(Debug, Clone)]
pub(crate) struct Dynamic {
    /// What is read.
    pub(crate) reads: MessageDescriptor,
}

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.reads.clone(), bytes)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
