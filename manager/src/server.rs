//! The server: every service, health and reflection on one port, for gRPC, gRPC-Web and REST.
//!
//! Invariant: [`serve`] returns when no connection is left: by themselves until the drain is over,
//! cut after it.

use std::time::Duration;

use goperation::{
    DESCRIPTOR,
    v1::{
        agent_service_server::AgentServiceServer, bridge_service_server::BridgeServiceServer,
        cache_service_server::CacheServiceServer, endpoint_service_server::EndpointServiceServer,
        entity_service_server::EntityServiceServer, port_service_server::PortServiceServer,
        request_service_server::RequestServiceServer,
    },
};
use goperation_rest::{Config as HttpConfig, Gateway};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use tonic_reflection::server::Builder as Reflection;

use crate::{
    Error,
    app::App,
    listen::{Bounds, Ends, accept},
    rpc::RpcLayer,
    service::Services,
};

/// Largest message that is read: the inventory of a large agent.
const LARGEST: usize = 16 << 20;

/// What is broken off gets this long to reach its caller.
const LAST: Duration = Duration::from_millis(500);

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Serve(error.into())
}

fn reflection() -> Reflection<'static> {
    Reflection::configure()
        .register_encoded_file_descriptor_set(DESCRIPTOR)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Every gRPC service, each RPC with its span and deadline however it is called.
async fn routes(services: Services) -> Result<Routes, Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AgentServiceServer<Services>>().await;
    health.set_serving::<EndpointServiceServer<Services>>().await;
    health.set_serving::<EntityServiceServer<Services>>().await;
    health.set_serving::<PortServiceServer<Services>>().await;
    health.set_serving::<BridgeServiceServer<Services>>().await;
    health.set_serving::<CacheServiceServer<Services>>().await;
    health.set_serving::<RequestServiceServer<Services>>().await;
    let agents = AgentServiceServer::new(services.clone()).max_decoding_message_size(LARGEST);
    // A result that is too large to be kept is dropped, not its answer.
    let requests = RequestServiceServer::new(services.clone()).max_decoding_message_size(LARGEST);
    let mut routes = Routes::builder();
    routes
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(broken)?)
        .add_service(reflection().build_v1alpha().map_err(broken)?)
        .add_service(agents)
        .add_service(CacheServiceServer::new(services.clone()))
        .add_service(EndpointServiceServer::new(services.clone()))
        .add_service(EntityServiceServer::new(services.clone()))
        .add_service(PortServiceServer::new(services.clone()))
        .add_service(requests)
        .add_service(BridgeServiceServer::new(services));
    Ok(routes.routes().into_axum_router().layer(RpcLayer).into())
}

/// Serves until `app.stop`, then drains for at most `drain`.
pub(crate) async fn serve(
    services: Services,
    listener: TcpListener,
    http: HttpConfig,
    drain: Duration,
) -> Result<(), Error> {
    let app = services.0.clone();
    let address = listener.local_addr().map_err(broken)?;
    let bounds =
        Bounds { header_timeout: http.header_timeout, max_connections: http.max_connections };
    let gateway =
        Gateway::new(routes(services).await?, DESCRIPTOR, http, address).map_err(broken)?;

    let ends =
        Ends { stop: app.stop.clone(), cut: CancellationToken::new(), tasks: TaskTracker::new() };
    accept(listener, gateway, bounds, &ends).await;
    let mut time_is_up = std::pin::pin!(tokio::time::sleep(drain));
    // What accepts has ended, so nothing but the connections adds to them.
    ends.tasks.close();
    app.tasks.close();
    let in_time = tokio::select! {
        () = ended(&ends.tasks, &app) => true,
        () = &mut time_is_up => false,
    };
    if !in_time {
        tracing::warn!("time is up: requests are broken off");
        app.abort.cancel();
        app.tasks.wait().await;
        // Their answers are on their way.
        let _ = tokio::time::timeout(LAST, ends.tasks.wait()).await;
    }
    ends.cut.cancel();
    ends.tasks.wait().await;
    Ok(())
}

/// Waits for the end of all connections, and of work whose caller has gone.
async fn ended(connections: &TaskTracker, app: &App) {
    connections.wait().await;
    app.tasks.wait().await;
}
