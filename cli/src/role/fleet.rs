//! The agents of `gop dev`.
//!
//! Invariant: agents register one after the other, so that the first has the first number, and
//! all have ended when [`run`] returns.

use std::{env, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use goperation::v1::{ShowAgentRequest, agent_service_client::AgentServiceClient};
use goperation_agent::{Config, Exit, Handle, Parts};
use goperation_bridge::Transport;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{info, warn};

use super::{
    agent::{deleted, launcher, run_error},
    setup::{channel, reachable, say_ready},
};
use crate::error::Error;

/// All agents are ready within this time, or something is wrong.
const READY: Duration = Duration::from_secs(60);
/// How often it is looked whether they are.
pub(super) const LOOK: Duration = Duration::from_millis(25);
/// After a failure an agent is started again from its store this much later.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

/// How far an agent is.
#[derive(Debug, Clone)]
enum Stage {
    Starting,
    Running(Handle),
    /// Asked to, or deleted.
    Ended,
    Failed,
}

/// Runs the agents until `stop`, and says `ready` when all are online.
pub(super) async fn run(
    folder: &Path,
    agents: Vec<Config>,
    transport: Arc<dyn Transport>,
    address: SocketAddr,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let manager = channel(&format!("http://{}", reachable(address)))?;
    let mut tasks = JoinSet::new();
    let ready = async {
        let until = Instant::now() + READY;
        let mut waiting = Vec::new();
        for config in agents {
            let host = config.host.to_string();
            let (sender, stage) = watch::channel(Stage::Starting);
            let (transport, channel) = (Arc::clone(&transport), manager.clone());
            let stop = stop.clone();
            tasks.spawn(async move {
                let ended = keep(config, transport, channel, &sender, stop).await;
                sender.send_replace(if ended.is_ok() { Stage::Ended } else { Stage::Failed });
                ended
            });
            wait(&stage, until, async |_| true).await?;
            waiting.push((host, stage));
        }
        let mut online = Vec::new();
        for (host, stage) in waiting {
            if wait(&stage, until, async |id| is_online(&manager, id).await).await? {
                // Without facts no entity is placed on it, and its own report may be minutes away.
                let running = stage.borrow().clone();
                if let Stage::Running(agent) = running
                    && let Err(error) = agent.report().await
                {
                    warn!(host, %error, "not reported");
                }
                online.push(host);
            }
        }
        let (folder, agents) = (folder.display(), online.join(","));
        say_ready(&format!("ready http://{address} data_dir={folder} agents={agents}"))
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
    config: Config,
    transport: Arc<dyn Transport>,
    manager: Channel,
    stage: &watch::Sender<Stage>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let who = format!("agent {} on {}", config.agent_type, config.host);
    loop {
        let parts = Parts {
            transport: Arc::clone(&transport),
            manager: manager.clone(),
            launcher: env::current_exe().map_or_else(|_| Vec::new(), |gop| launcher(&gop)),
        };
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

/// Waits until an agent has a number, consumes, and `good` says yes to it; says no when it is deleted.
async fn wait(
    stage: &watch::Receiver<Stage>,
    until: Instant,
    good: impl AsyncFn(i32) -> bool,
) -> Result<bool, Error> {
    loop {
        let now = stage.borrow().clone();
        match now {
            Stage::Ended => return Ok(false),
            Stage::Failed => return Err(Error::Failed("an agent has failed".to_owned())),
            Stage::Starting => {}
            Stage::Running(agent) => {
                let id = agent.agent_id().and_then(|id| i32::try_from(id).ok());
                if let Some(id) = id
                    && agent.is_connected()
                    && good(id).await
                {
                    return Ok(true);
                }
            }
        }
        if Instant::now() >= until {
            return Err(Error::Failed(format!(
                "the agents did not come online within {} s; the log says why",
                READY.as_secs()
            )));
        }
        sleep(LOOK).await;
    }
}

/// Whether the manager's record says that an agent is online.
pub(super) async fn is_online(manager: &Channel, id: i32) -> bool {
    let shown = AgentServiceClient::new(manager.clone()).show_agent(ShowAgentRequest { id }).await;
    shown.is_ok_and(|shown| shown.into_inner().agent.is_some_and(|agent| agent.online))
}
