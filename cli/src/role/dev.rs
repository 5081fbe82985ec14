//! `gop dev`: all roles in one process, to try things and to learn.
//!
//! Invariant: it says `ready` once, when every agent is registered and online, and it ends only
//! after everything that it started has ended.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use goperation::{AgentStatus, v1};
use goperation_agent::{Config as AgentConfig, Exit, Handle, Parts};
use goperation_bridge::{BridgeConfig, Transport, rabbit::RabbitConfig};
use goperation_manager::Config as ManagerConfig;
use goperation_store::Options;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{info, warn};

use super::{
    agent::{deleted, run_error},
    manager::{Carrier, serve},
    sample,
    setup::{
        Signals, bind, blocking, broker, channel, check_listen, embedded, load, open_store, rabbit,
        reachable,
    },
};
use crate::{args::Dev, error::Error, output};

/// Agents are ready within this time, or something is wrong.
const READY: Duration = Duration::from_secs(60);
/// How often it is looked whether they are.
const LOOK: Duration = Duration::from_millis(25);
/// After a failure an agent is started again from its store this much later.
const AGAIN: Duration = Duration::from_secs(1);

/// How far an agent is.
#[derive(Debug, Clone)]
enum Stage {
    Starting,
    Running(Handle),
    /// Asked to, or deleted.
    Ended,
    Failed,
}

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
    let data_dir = args.data_dir;
    let folder = blocking(move || Folder::make(data_dir)).await?;
    let ran = match configs(folder.path(), given, args.agents).await {
        Ok(agents) => {
            in_folder(folder.path(), agents, rabbit_config, listener, address, signals.token())
                .await
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

/// The agents: the given one, or `count` with the sample endpoint.
async fn configs(
    folder: &Path,
    given: Option<AgentConfig>,
    count: u16,
) -> Result<Vec<AgentConfig>, Error> {
    let folder = folder.join("agents");
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
        None => (1..=count).map(|number| sample::agent(&folder, number)).collect(),
    })
    .await
}

/// Starts the manager's side; the agents live inside it.
async fn in_folder(
    folder: &Path,
    agents: Vec<AgentConfig>,
    rabbit_config: Option<RabbitConfig>,
    listener: TcpListener,
    address: SocketAddr,
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
            let config = ManagerConfig {
                listen: address,
                data_dir: folder.to_owned(),
                ..ManagerConfig::default()
            };
            // Ends last: agents say good-bye to it.
            let last = CancellationToken::new();
            let manager = serve(config, listener, &store, carrier.link(), &last);
            let fleet = async {
                let ran = fleet(folder, agents, carrier.transport(), address, stop).await;
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

/// Runs the agents until `stop`, and says when they are ready.
async fn fleet(
    folder: &Path,
    agents: Vec<AgentConfig>,
    transport: Arc<dyn Transport>,
    address: SocketAddr,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let manager = channel(&format!("http://{}", reachable(address)))?;
    let names: Vec<_> = agents.iter().map(|a| a.host.to_string()).collect();
    let mut tasks = JoinSet::new();
    let mut stages = Vec::new();
    for config in agents {
        let (sender, stage) = watch::channel(Stage::Starting);
        let transport = Arc::clone(&transport);
        let (manager, stop) = (manager.clone(), stop.clone());
        tasks.spawn(async move {
            let ended = keep(config, transport, manager, &sender, stop).await;
            sender.send_replace(if ended.is_ok() { Stage::Ended } else { Stage::Failed });
            ended
        });
        stages.push(stage);
    }
    let ready = async {
        let until = Instant::now() + READY;
        for stage in stages {
            wait_ready(&manager, &stage, until).await?;
        }
        let line = format!(
            "ready http://{address} data_dir={} agents={}",
            folder.display(),
            names.join(",")
        );
        match output::print(&line) {
            // Nobody reads it: the log has it too.
            Err(Error::BrokenPipe) | Ok(()) => info!("{line}"),
            Err(error) => return Err(error),
        }
        Ok(())
    };
    let ready = tokio::select! {
        ready = ready => ready,
        () = stop.cancelled() => Ok(()),
    };
    if ready.is_ok() {
        stop.cancelled().await;
    }
    stop.cancel();
    let mut ran = Ok(());
    while let Some(ended) = tasks.join_next().await {
        ran = ran.and(ended.unwrap_or_else(|e| Err(broken_off(&e))));
    }
    // An agent's own failure says more than that it was not ready.
    ran.and(ready)
}

fn broken_off(error: &JoinError) -> Error {
    Error::Failed(format!("an agent ended badly: {error}"))
}

/// Keeps one agent running: started again after an upgrade or a failed store, not after a delete.
async fn keep(
    config: AgentConfig,
    transport: Arc<dyn Transport>,
    manager: Channel,
    stage: &watch::Sender<Stage>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let who = format!("agent {} on {}", config.agent_type, config.host);
    loop {
        let parts = Parts { transport: Arc::clone(&transport), manager: manager.clone() };
        let started = goperation_agent::start(config.clone(), parts, stop.clone()).await;
        let first = matches!(*stage.borrow(), Stage::Starting);
        let ended = match started {
            Ok((running, living)) => {
                stage.send_replace(Stage::Running(running));
                match living.await {
                    Ok(ended) => ended,
                    Err(error) => return Err(broken_off(&error)),
                }
            }
            Err(error) if first => return Err(run_error(error)),
            Err(error) => Err(error),
        };
        match ended {
            Ok(Exit::Stopped) => return Ok(()),
            Ok(Exit::Deleted) => {
                warn!("{}", deleted(&who));
                return Ok(());
            }
            Ok(Exit::Restart) => info!(agent = %who, "starting again after the upgrade"),
            Err(error) => {
                warn!(agent = %who, error = %run_error(error), "starting again");
                tokio::select! {
                    () = sleep(AGAIN) => {}
                    () = stop.cancelled() => return Ok(()),
                }
            }
        }
    }
}

/// Waits until an agent is online by the manager's record, or has ended because it is deleted.
async fn wait_ready(
    manager: &Channel,
    stage: &watch::Receiver<Stage>,
    until: Instant,
) -> Result<(), Error> {
    let mut agents = v1::agent_service_client::AgentServiceClient::new(manager.clone());
    loop {
        let now = stage.borrow().clone();
        let running = match now {
            Stage::Ended => return Ok(()),
            Stage::Failed => return Err(Error::Failed("an agent has failed".to_owned())),
            Stage::Starting => None,
            Stage::Running(agent) => Some(agent),
        };
        if let Some(agent) = running
            && *agent.watch_status().borrow() != AgentStatus::Initializing
            && let Some(id) = agent.agent_id().and_then(|id| i32::try_from(id).ok())
        {
            let shown = agents.show_agent(v1::ShowAgentRequest { id }).await;
            if shown.is_ok_and(|shown| shown.into_inner().agent.is_some_and(|a| a.online)) {
                return Ok(());
            }
        }
        if Instant::now() >= until {
            return Err(Error::Failed(format!(
                "an agent did not come online within {} s; the log says why",
                READY.as_secs()
            )));
        }
        sleep(LOOK).await;
    }
}
