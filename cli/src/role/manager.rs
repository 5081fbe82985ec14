//! `gop manager`: the manager with its store, and a bridge in its process unless the
//! configuration names one elsewhere.

use std::sync::Arc;

use goperation_bridge::{Bridge, BridgeConfig, Transport};
use goperation_manager::{BridgeAt, BridgeLink, Config, Parts};
use goperation_store::{Options, SledStore};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::setup::{
    Signals, bind, check_listen, embedded, failed, load, open_store, rabbit, with_ready,
};
use crate::{args::Server, error::Error};

/// Runs until a signal.
pub(crate) async fn run(args: Server) -> Result<(), Error> {
    let config = load(args.role.config, Config::load).await?;
    check_listen(config.listen, args.insecure)?;
    let signals = Signals::watch()?;
    let (listener, address) = bind(config.listen).await?;
    let options = Options::new(config.data_dir.join("store")).durability(config.durability.into());
    let store = open_store(options).await?;
    info!(%address, "manager starts");
    let serving = on_store(config, listener, &store, signals.token());
    let ran = with_ready(serving, address).await;
    store.close().await;
    ran
}

async fn on_store(
    config: Config,
    listener: TcpListener,
    store: &SledStore,
    stop: &CancellationToken,
) -> Result<(), Error> {
    if let BridgeAt::Remote(uri) = &config.bridge {
        let link = BridgeLink::remote(uri.clone());
        return serve(config, listener, store, link, stop).await;
    }
    let transport = match config.broker.clone() {
        Some(rabbit_config) => rabbit(rabbit_config)?,
        None => embedded(store).await?,
    };
    let carrier = Carrier::start(transport, config.limits.clone());
    let ran = serve(config, listener, store, carrier.link(), stop).await;
    carrier.close().await;
    ran
}

/// A bridge of this process and the transport under it.
#[derive(Debug)]
pub(super) struct Carrier {
    transport: Arc<dyn Transport>,
    bridge: Bridge,
}

impl Carrier {
    /// Starts a bridge on a transport.
    pub(super) fn start(transport: Arc<dyn Transport>, config: BridgeConfig) -> Self {
        Self { bridge: Bridge::start(Arc::clone(&transport), config), transport }
    }

    /// The transport.
    pub(super) fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport)
    }

    /// The bridge.
    pub(super) fn bridge(&self) -> Bridge {
        self.bridge.clone()
    }

    /// The bridge, as a manager in this process reaches it.
    pub(super) fn link(&self) -> BridgeLink {
        BridgeLink::embedded(goperation_bridge::Service::new(self.bridge.clone()))
    }

    /// Ends both.
    pub(super) async fn close(self) {
        self.bridge.close().await;
        self.transport.close().await;
    }
}

/// Serves until `stop`.
pub(super) async fn serve(
    config: Config,
    listener: TcpListener,
    store: &SledStore,
    bridge: BridgeLink,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let parts = Parts { store: Arc::new(store.clone()), bridge };
    goperation_manager::run(config, listener, parts, stop.clone()).await.map_err(|e| failed(&e))
}
