//! `gop emulate`: many agents in this one process, for tests, benches and trials.
//!
//! Invariant: it says `ready` once, when every agent stands where it shall by the manager's record,
//! and it ends only after everything that it started has ended.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use goperation_bridge::{Transport, rabbit::RabbitConfig};
use goperation_emulator::{Config, Handle, Parts, memory, start};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::setup::{Signals, blocking, broker, channel, failed, rabbit, say_ready};
use crate::{args::Emulate, error::Error};

/// Runs until a signal.
pub(crate) async fn run(args: Emulate) -> Result<(), Error> {
    let rabbit_config = RabbitConfig { one_connection: true, ..broker(&args.broker)? };
    let manager = args.manager.clone();
    let groups = args.agents.div_ceil(args.connections_of);
    let given = args.data_dir.clone();
    let (folder, temporary) = blocking(move || folder(given)).await?;
    let config = config(args, folder);
    config.roles().map_err(|e| Error::Usage(e.to_string()))?;
    let signals = Signals::watch()?;
    let mut parts = Parts { transports: Vec::new(), managers: Vec::new() };
    for _ in 0..groups {
        parts.managers.push(channel(&manager)?);
        parts.transports.push(rabbit(rabbit_config.clone())?);
    }
    let transports = parts.transports.clone();
    let ran = emulate(config, parts, signals.token()).await;
    close(transports).await;
    if let Some(temporary) = temporary {
        let removed = blocking(move || {
            let path = temporary.path().to_owned();
            temporary.close().map_err(|e| unusable(&path, &e))
        });
        if let Err(error) = removed.await {
            warn!(%error, "the temporary folder is left behind");
        }
    }
    ran
}

async fn emulate(config: Config, parts: Parts, stop: &CancellationToken) -> Result<(), Error> {
    let before = memory();
    let folder = config.folder.clone();
    let ledger = config.ledger.clone();
    let (handle, mut running) = start(config, parts, stop.clone()).await.map_err(|e| failed(&e))?;
    let ready = async {
        // When it is not, what runs says why.
        if handle.ready().await.is_ok() {
            let line = line(&handle, &folder, &ledger, before);
            if let Err(error) = say_ready(&line) {
                warn!(%error, "the line `ready` was not printed");
            }
        }
    };
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = ready => running.await,
    };
    let ended = ended.map_err(|e| Error::Failed(format!("the emulation ended badly: {e}")))?;
    ended.map_err(|e| failed(&e))
}

/// What is said when all are ready; memory is what they cost this process.
fn line(handle: &Handle, folder: &Path, ledger: &Path, before: Option<u64>) -> String {
    let agents = handle.members().len();
    let mut line =
        format!("ready agents={agents} data_dir={} ledger={}", folder.display(), ledger.display());
    if let (Some(before), Some(now)) = (before, memory()) {
        let each = now.saturating_sub(before) / u64::try_from(agents).unwrap_or(1).max(1);
        line += &format!(" memory={}MiB memory_per_agent={}KiB", now >> 20, each >> 10);
    }
    line
}

fn config(args: Emulate, folder: PathBuf) -> Config {
    Config {
        first: args.first,
        seed: args.seed,
        latency: args.latency,
        late_by: args.late_by,
        fail: args.fail,
        silent: args.silent,
        late: args.late,
        status: args.status,
        ledger: args.ledger.unwrap_or_else(|| folder.join("ledger")),
        ..Config::new(args.agents, folder)
    }
}

/// The folder that keeps everything; a temporary one goes with its guard.
fn folder(given: Option<PathBuf>) -> Result<(PathBuf, Option<TempDir>), Error> {
    let Some(path) = given else {
        let made = tempfile::Builder::new().prefix("gop-emulate-").tempdir();
        let made = made.map_err(|e| unusable(&std::env::temp_dir(), &e))?;
        return Ok((made.path().to_owned(), Some(made)));
    };
    let path = std::path::absolute(&path).map_err(|e| unusable(&path, &e))?;
    fs::create_dir_all(&path).map_err(|e| unusable(&path, &e))?;
    Ok((path, None))
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    Error::Usage(format!("--data-dir: {} cannot be used: {error}", path.display()))
}

async fn close(transports: Vec<Arc<dyn Transport>>) {
    futures::future::join_all(transports.iter().map(|transport| transport.close())).await;
}
