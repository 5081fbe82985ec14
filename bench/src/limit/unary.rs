//! Bare tonic: one unary method that answers with what it is given, in a process of its own.
//!
//! Invariant: the messages are those of our Call, so what is encoded and decoded is the same.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use goperation::v1::{CallRequest, CallResponse, bridge_service_client::BridgeServiceClient};
use goperation_harness::GopProcess;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{Service, http},
    server::{Grpc, NamedService, UnaryService},
    transport::{Channel, Server},
};
use tonic_prost::ProstCodec;

use crate::{Result, bench::Bench};

#[derive(Debug, Clone, Copy)]
struct Echo;

impl UnaryService<CallRequest> for Echo {
    type Response = CallResponse;
    type Future = BoxFuture<'static, Result<Response<CallResponse>, Status>>;

    fn call(&mut self, request: Request<CallRequest>) -> Self::Future {
        let CallRequest { message_id, args, .. } = request.into_inner();
        Box::pin(async { Ok(Response::new(CallResponse { message_id, result: args })) })
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "goperation.v1.BridgeService";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut grpc = Grpc::new(ProstCodec::<CallResponse, CallRequest>::default());
        Box::pin(async move { Ok(grpc.unary(Echo, request).await) })
    }
}

/// Serves until it is killed.
pub(crate) async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("ready {}", listener.local_addr()?);
    let incoming = TcpListenerStream::new(listener);
    Ok(Server::builder().add_service(Echo).serve_with_incoming(incoming).await?)
}

/// A bare unary service in a process of its own, and a client of it.
#[derive(Debug)]
pub(crate) struct Unary {
    pub(crate) client: BridgeServiceClient<Channel>,
    _process: GopProcess,
}

impl Unary {
    pub(crate) async fn start(bench: &Bench) -> Result<Self> {
        let process = bench.role(["unary"]).await?;
        let address = process.ready_line().trim_start_matches("ready ").to_owned();
        let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
        Ok(Self { client: BridgeServiceClient::new(channel), _process: process })
    }
}
