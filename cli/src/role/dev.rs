//! `gop dev`: all roles in one process, to try things and to learn.
//!
//! Invariant: it says `ready` once, when every agent is registered and online, and it ends only
//! after everything that it started has ended.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use goperation_agent::Config as AgentConfig;
use goperation_bridge::{BridgeConfig, rabbit::RabbitConfig};
use goperation_manager::{Config as ManagerConfig, HttpConfig};
use goperation_store::Options;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    fleet, games,
    manager::{Carrier, serve},
    sample,
    setup::{Signals, bind, blocking, broker, check_listen, embedded, load, open_store, rabbit},
};
use crate::{args::Dev, error::Error};

/// What of the folder is the agents'.
const AGENTS: &str = "agents";

/// The folder that keeps everything.
enum Folder {
    Given(PathBuf),
    Temporary(TempDir),
}

impl Folder {
    fn make(given: Option<PathBuf>) -> Result<Self, Error> {
        let refused = |place: &Path, e: io::Error| {
            Error::Usage(format!("--data-dir: {} cannot be used: {e}", place.display()))
        };
        let Some(path) = given else {
            let made = tempfile::Builder::new().prefix("gop-dev-").tempdir();
            return made.map(Self::Temporary).map_err(|e| refused(&std::env::temp_dir(), e));
        };
        let path = std::path::absolute(&path).map_err(|e| refused(&path, e))?;
        fs::create_dir_all(&path).map_err(|e| refused(&path, e))?;
        Ok(Self::Given(path))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    fn leave(self) {
        if let Self::Temporary(folder) = self {
            games::end(&folder.path().join(AGENTS));
            let path = folder.path().to_owned();
            if let Err(error) = folder.close() {
                warn!(path = %path.display(), %error, "the temporary folder is left behind");
            }
        }
    }
}

/// Runs everything until a signal.
pub(crate) async fn run(args: Dev) -> Result<(), Error> {
    check_listen(args.listen, args.insecure)?;
    let rabbit_config = args.broker.as_deref().map(broker).transpose()?;
    if args.config.is_some() && args.agents > 1 {
        return Err(Error::Usage(
            "--config describes one agent: leave out --agents, or the --config".to_owned(),
        ));
    }
    let given = match args.config.clone() {
        Some(file) => Some(load(file, AgentConfig::load).await?),
        None => None,
    };
    let signals = Signals::watch()?;
    let (listener, address) = bind(args.listen).await?;
    let http = HttpConfig { cors_origins: args.cors_origins, ..HttpConfig::default() };
    let data_dir = args.data_dir;
    let folder = blocking(move || Folder::make(data_dir)).await?;
    let ran = match configs(folder.path(), given, args.agents, !args.no_games).await {
        Ok(agents) => {
            let config = ManagerConfig {
                listen: address,
                data_dir: folder.path().to_owned(),
                http,
                ..ManagerConfig::default()
            };
            in_folder(folder.path(), agents, rabbit_config, listener, config, signals.token()).await
        }
        Err(error) => Err(error),
    };
    blocking(move || {
        folder.leave();
        Ok(())
    })
    .await?;
    ran
}

/// The agents: the given one, or `count` with the endpoints of `gop dev`.
async fn configs(
    folder: &Path,
    given: Option<AgentConfig>,
    count: u16,
    games: bool,
) -> Result<Vec<AgentConfig>, Error> {
    let folder = folder.join(AGENTS);
    blocking(move || match given {
        Some(mut config) => {
            // The manager's record is in this folder, so what belongs to it is here too.
            config.work_dir = folder.join(config.host.as_str()).join("work");
            config.data_dir = folder.join(config.host.as_str()).join("data");
            for path in [&config.work_dir, &config.data_dir] {
                fs::create_dir_all(path).map_err(|e| {
                    Error::Failed(format!("folder {} cannot be made: {e}", path.display()))
                })?;
            }
            Ok(vec![config])
        }
        None => (1..=count).map(|number| sample::agent(&folder, number, games)).collect(),
    })
    .await
}

/// Starts the manager's side; the agents live inside it.
async fn in_folder(
    folder: &Path,
    agents: Vec<AgentConfig>,
    rabbit_config: Option<RabbitConfig>,
    listener: TcpListener,
    config: ManagerConfig,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let store = open_store(Options::new(folder.join("manager"))).await?;
    let transport = match rabbit_config {
        Some(rabbit_config) => rabbit(rabbit_config),
        None => embedded(&store).await,
    };
    let ran = match transport {
        Ok(transport) => {
            let carrier = Carrier::start(transport, BridgeConfig::default());
            let address = config.listen;
            // Ends last: agents say good-bye to it.
            let last = CancellationToken::new();
            let manager = serve(config, listener, &store, carrier.link(), &last);
            let fleet = async {
                let ran = fleet::run(folder, agents, carrier.transport(), address, stop).await;
                last.cancel();
                ran
            };
            let (served, ran) = tokio::join!(
                async {
                    let served = manager.await;
                    // A manager that ends by itself ends everything.
                    stop.cancel();
                    served
                },
                fleet
            );
            carrier.close().await;
            served.and(ran)
        }
        Err(error) => Err(error),
    };
    store.close().await;
    ran
}
