//! The gRPC server: every service, health and reflection on one port.
//!
//! Invariant: [`serve`] returns when no connection is left: by themselves until the drain is over,
//! cut after it.

use std::time::Duration;

use goperation::{
    DESCRIPTOR,
    v1::{
        agent_service_server::AgentServiceServer, bridge_service_server::BridgeServiceServer,
        endpoint_service_server::EndpointServiceServer, entity_service_server::EntityServiceServer,
        port_service_server::PortServiceServer,
    },
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{codegen::http, transport::Server};
use tonic_reflection::server::Builder as Reflection;
use tracing::{Span, field::Empty};

use crate::{Error, app::App, connection::Connections, service::Services};

/// Largest message that is read: the inventory of a large agent.
const LARGEST: usize = 16 << 20;
/// How often an idle connection is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long it may take to say so.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is broken off gets this long to reach its caller.
const LAST: Duration = Duration::from_millis(500);

fn span(request: &http::Request<()>) -> Span {
    let rpc = request.uri().path().trim_start_matches('/');
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

fn reflection() -> Reflection<'static> {
    Reflection::configure()
        .register_encoded_file_descriptor_set(DESCRIPTOR)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Serves until `app.stop`, then drains for at most `drain`.
pub(crate) async fn serve(
    services: Services,
    listener: TcpListener,
    drain: Duration,
) -> Result<(), Error> {
    let broken = |error: Box<dyn std::error::Error + Send + Sync>| Error::Serve(error);
    let app = services.0.clone();
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AgentServiceServer<Services>>().await;
    health.set_serving::<EndpointServiceServer<Services>>().await;
    health.set_serving::<EntityServiceServer<Services>>().await;
    health.set_serving::<PortServiceServer<Services>>().await;
    health.set_serving::<BridgeServiceServer<Services>>().await;

    let cut = CancellationToken::new();
    let connections = TaskTracker::new();
    let incoming = Connections::new(listener, cut.clone(), connections.clone());
    let server = Server::builder()
        .trace_fn(span)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(|e| broken(e.into()))?)
        .add_service(reflection().build_v1alpha().map_err(|e| broken(e.into()))?)
        .add_service(AgentServiceServer::new(services.clone()).max_decoding_message_size(LARGEST))
        .add_service(EndpointServiceServer::new(services.clone()))
        .add_service(EntityServiceServer::new(services.clone()))
        .add_service(PortServiceServer::new(services.clone()))
        .add_service(BridgeServiceServer::new(services))
        .serve_with_incoming_shutdown(incoming, app.stop.clone().cancelled_owned());

    let mut time_is_up = std::pin::pin!(over(&app, drain));
    let (served, late) = tokio::select! {
        served = server => (served, false),
        () = &mut time_is_up => (Ok(()), true),
    };
    // Whatever ended it: nothing goes on behind its back.
    app.stop.cancel();
    connections.close();
    app.tasks.close();
    // Work whose caller has gone may still be under way.
    let in_time = !late
        && tokio::select! {
            () = app.tasks.wait() => true,
            () = time_is_up => false,
        };
    if !in_time {
        tracing::warn!("time is up: requests are broken off");
        app.abort.cancel();
        app.tasks.wait().await;
        // Their answers are on their way.
        let _ = tokio::time::timeout(LAST, connections.wait()).await;
    }
    cut.cancel();
    connections.wait().await;
    served.map_err(|error| Error::Serve(error.into()))
}

/// The end of the drain.
async fn over(app: &App, drain: Duration) {
    app.stop.cancelled().await;
    tokio::time::sleep(drain).await;
}
