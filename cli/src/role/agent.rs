//! `gop agent --config F` and `gop agent adopt`.
//!
//! Invariant: a deleted agent ends with code 3 and is not started again by itself.

use std::{
    env,
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use goperation::{AgentStatus, ConfigError};
use goperation_agent::{Config, Exit, Handle, Parts, RunError, config::Anew};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{error, info, warn};

use super::{
    fleet::{AGAIN, LOOK, is_online},
    service,
    setup::{Signals, chain, channel, failed, load, rabbit, say_ready},
};
use crate::{error::Error, output::Output};

/// Runs until a signal, a delete, or an upgrade, after which the new program takes over.
pub(crate) async fn run(file: PathBuf) -> Result<(), Error> {
    // Asked now: after an upgrade the running program's own path is gone.
    let program = env::current_exe();
    let config = load(file.clone(), Config::load).await?;
    let Some(rabbit_config) = config.broker.clone() else {
        let message = "is missing: an agent by itself needs `[broker]` with `uri = \"amqp://…\"`";
        return Err(Error::Usage(ConfigError::new(&file, "broker", message).to_string()));
    };
    let who = format!("agent {} on {}", config.agent_type, config.host);
    let anew = config.package.restart;
    let manager = channel(&config.manager)?;
    let signals = Signals::watch()?;
    let transport = rabbit(rabbit_config)?;
    let launcher = program.as_ref().map_or_else(|_| Vec::new(), |program| launcher(program));
    let parts = Parts { transport: transport.clone(), manager, launcher };
    let exit = live(config, parts, signals.token().clone()).await;
    transport.close().await;
    match exit? {
        Exit::Stopped => Ok(()),
        Exit::Deleted => Err(deleted(&who)),
        Exit::Restart if anew == Anew::Exit => Err(Error::Restart(who)),
        Exit::Restart => {
            let program = program
                .map_err(|e| Error::Failed(format!("the path of this program is unknown: {e}")))?;
            restart(&program)
        }
    }
}

/// What starts games: this program, run again as their launcher.
pub(super) fn launcher(gop: &Path) -> Vec<OsString> {
    vec![gop.into(), "launch".into()]
}

/// Lives to the end, and says `ready` once the agent is online and consumes.
async fn live(config: Config, parts: Parts, stop: CancellationToken) -> Result<Exit, Error> {
    let who = format!("type={} host={}", config.agent_type, config.host);
    let manager = parts.manager.clone();
    let (running, mut living) =
        goperation_agent::start(config, parts, stop).await.map_err(run_error)?;
    let ready = async {
        let mut status = running.watch_status();
        let works = |status: &AgentStatus| {
            !matches!(status, AgentStatus::Initializing | AgentStatus::Deleted)
        };
        // From here on it looks after what it runs, also while the manager is away.
        if status.wait_for(works).await.is_ok() {
            service::ready(&format!("{who}: works, not online yet"));
        }
        let id = online(&running, &manager).await;
        say_ready(&format!("ready agent={id} {who}"))
    };
    let ended = tokio::select! {
        ended = &mut living => ended,
        // A line that cannot be printed ends nothing: whoever waits for it sees that.
        said = ready => {
            if let Err(error) = said {
                warn!(%error, "the line `ready` was not printed");
            }
            living.await
        }
    };
    match ended.map_err(|e| Error::Failed(format!("the agent ended badly: {e}")))? {
        // Memory may be ahead of the disk: only a new process starts from what is on it.
        Err(RunError::Store(error)) => {
            error!(error = %chain(&error), "the store failed: starting again from disk");
            sleep(AGAIN).await;
            Ok(Exit::Restart)
        }
        ended => ended.map_err(run_error),
    }
}

/// Waits until an agent is online at the manager and consumes; answers its number.
async fn online(running: &Handle, manager: &Channel) -> i32 {
    loop {
        let id = running.agent_id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id
            && running.is_connected()
            && is_online(manager, id).await
        {
            return id;
        }
        sleep(LOOK).await;
    }
}

/// Makes a deleted agent new.
pub(crate) async fn adopt(file: PathBuf, output: Output) -> Result<(), Error> {
    let config = load(file, Config::load).await?;
    let adopted = goperation_agent::adopt(&config).await.map_err(|e| failed(&e))?;
    let former =
        adopted.former_id.map_or_else(|| "without a number".to_owned(), |id| id.to_string());
    output.local(
        &serde_json::json!({"formerId": adopted.former_id, "entities": adopted.entities}),
        || {
            format!(
                "adopted: it was agent {former} and keeps {} entities; its next start registers \
                 it under a new number",
                adopted.entities
            )
        },
    )
}

/// Why a deleted agent ends.
pub(super) fn deleted(who: &str) -> Error {
    Error::Deleted(format!(
        "{who} is deleted: its record at the manager or its own store says DELETED; what it runs \
         is left running"
    ))
}

/// The code that an agent's failure ends with.
pub(super) fn run_error(error: RunError) -> Error {
    match error {
        RunError::Config(ref error) => Error::Usage(error.to_string()),
        RunError::Store(_) => failed(&error),
        RunError::Refused(ref cause) | RunError::Start(ref cause) => {
            goperation::Error { message: error.to_string(), ..cause.clone() }.into()
        }
    }
}

/// Becomes the new program, with the same arguments.
fn restart(program: &Path) -> Result<(), Error> {
    info!(program = %program.display(), "starting again after the upgrade");
    service::status("starting again after an upgrade");
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let error = Command::new(program).args(arguments).exec();
    Err(Error::Failed(format!("cannot start {}: {error}", program.display())))
}
