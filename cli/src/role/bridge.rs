//! `gop bridge`: a bridge on its own, for a manager that is pointed at it.

use std::{net::SocketAddr, path::Path, time::Duration};

use goperation::{
    ConfigError, DESCRIPTOR, parse_config, read_config,
    v1::bridge_service_server::{BridgeServiceServer, SERVICE_NAME},
};
use goperation_bridge::{Bridge, BridgeConfig, rabbit::RabbitConfig};
use serde::Deserialize;
use tokio::{net::TcpListener, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::{info, warn};

use super::{
    manager::Carrier,
    setup::{Signals, bind, check_listen, failed, load, rabbit, with_ready},
};
use crate::{args, error::Error};

/// How long open requests may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// The TOML file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// `listen`: address that is listened on.
    #[serde(default = "listen")]
    listen: SocketAddr,
    /// `[broker]`: the RabbitMQ. Manager and agents must have the same names on it.
    broker: RabbitConfig,
    /// `[bridge]`: bounds and defaults.
    #[serde(default)]
    bridge: BridgeConfig,
}

fn listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7998))
}

impl Config {
    fn load(file: &Path) -> Result<Self, ConfigError> {
        let config: Self = parse_config(file, &read_config(file)?)?;
        let Err(error) = config.broker.check() else { return Ok(config) };
        let first = error.violations.into_iter().next();
        Err(match first {
            Some(bad) => ConfigError::new(file, format!("broker.{}", bad.field), bad.description),
            None => ConfigError::new(file, "broker", error.message),
        })
    }
}

/// Runs until a signal.
pub(crate) async fn run(args: args::Server) -> Result<(), Error> {
    let config = load(args.role.config, Config::load).await?;
    check_listen(config.listen, args.insecure)?;
    let signals = Signals::watch()?;
    let (listener, address) = bind(config.listen).await?;
    let carrier = Carrier::start(rabbit(config.broker)?, config.bridge);
    info!(%address, "bridge serves");
    let serving = serve(listener, carrier.bridge(), signals.token());
    let served = with_ready(serving, address).await;
    carrier.close().await;
    served
}

async fn serve(
    listener: TcpListener,
    bridge: Bridge,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let service = goperation_bridge::service(bridge.clone());
    serving(&health, &service).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(SERVICE_NAME)
            .with_service_name("grpc.health.v1.Health")
    };
    let server = Server::builder()
        .add_service(service)
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(|e| failed(&e))?)
        .add_service(reflection().build_v1alpha().map_err(|e| failed(&e))?)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled());
    let drained = async {
        stop.cancelled().await;
        // Ends the streams of receivers; without that the server would wait for them.
        let ended = async {
            bridge.close().await;
            std::future::pending::<()>().await;
        };
        if timeout(DRAIN, ended).await.is_err() {
            warn!("requests were open still");
        }
    };
    tokio::select! {
        served = server => served.map_err(|e| failed(&e)),
        () = drained => Ok(()),
    }
}

/// Says SERVING for the service and for the whole.
async fn serving<B>(health: &tonic_health::server::HealthReporter, _: &BridgeServiceServer<B>)
where
    B: goperation::v1::bridge_service_server::BridgeService,
{
    health.set_serving::<BridgeServiceServer<B>>().await;
}
