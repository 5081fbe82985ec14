//! All agents of an emulation: started a few at a time, watched, and joined.
//!
//! Invariant: one that cannot run ends them all, and when the task has ended nothing of them runs.

use std::sync::Arc;

use goperation_agent::SharedFacts;
use goperation_store::{Options, SledStore, Stats};
use tokio::{
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, Error, Parts, Role,
    ledger::Ledger,
    member::{Site, Stage, Ways},
};

/// Agents that start at a time.
const STARTING: usize = 16;
/// Memory for what each of them adds to the store. An agent by itself has as much as the store of all
/// would have without.
const AGENT_CACHE_BYTES: u64 = 64 * 1024;

/// A look at a running emulation.
#[derive(Debug, Clone)]
pub struct Handle {
    members: Arc<[Member]>,
    store: SledStore,
}

/// One emulated agent.
#[derive(Debug, Clone)]
pub struct Member {
    role: Role,
    stage: watch::Receiver<Stage>,
}

impl Member {
    /// What it is there for.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Its number at the manager, once it is known.
    #[must_use]
    pub fn agent_id(&self) -> Option<u32> {
        let stage = self.stage.borrow();
        let running = || stage.running.as_ref().and_then(goperation_agent::Handle::agent_id);
        stage.agent_id.or_else(running)
    }

    /// The agent, while it runs.
    #[must_use]
    pub fn agent(&self) -> Option<goperation_agent::Handle> {
        self.stage.borrow().running.clone()
    }
}

impl Handle {
    /// The agents, in order of the numbers of their hosts.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Waits until every agent stands where it shall, by the manager's record.
    ///
    /// # Errors
    /// [`Error::Broken`] when the emulation ended before; the task says why.
    pub async fn ready(&self) -> Result<(), Error> {
        for member in &*self.members {
            let mut stage = member.stage.clone();
            if stage.wait_for(|stage| stage.settled).await.is_err() {
                return Err(Error::Broken(format!("{} has ended", member.role.host())));
            }
        }
        Ok(())
    }

    /// What the store of all committed since its start.
    #[must_use]
    pub fn store_stats(&self) -> Stats {
        self.store.stats()
    }
}

/// Starts all agents; the task ends after `stop`, or with the first that cannot run.
///
/// # Errors
/// When configuration, folder or ledger cannot be used.
pub async fn start(
    config: Config,
    parts: Parts,
    stop: CancellationToken,
) -> Result<(Handle, JoinHandle<Result<(), Error>>), Error> {
    let roles = config.roles()?;
    if parts.transports.is_empty() || parts.managers.is_empty() {
        return Err(Error::Config("there must be a way to the broker and to the manager".into()));
    }
    let (store, ledger) = open(&config).await?;
    let site = Arc::new(Site {
        facts: Arc::new(SharedFacts::new(&config.folder)),
        store: store.clone(),
        ledger: Arc::new(ledger),
        starting: Semaphore::new(STARTING),
        stop: stop.child_token(),
        config,
    });
    let mut tasks = JoinSet::new();
    let mut members = Vec::with_capacity(roles.len());
    let count = roles.len();
    for (index, role) in roles.into_iter().enumerate() {
        let ways = Ways {
            transport: Arc::clone(&parts.transports[index * parts.transports.len() / count]),
            manager: parts.managers[index * parts.managers.len() / count].clone(),
        };
        let (sender, stage) = watch::channel(Stage::default());
        let site = Arc::clone(&site);
        tasks.spawn(async move { site.keep(role, ways, sender).await });
        members.push(Member { role, stage });
    }
    let handle = Handle { members: members.into(), store };
    Ok((handle, tokio::spawn(run(tasks, site))))
}

async fn open(config: &Config) -> Result<(SledStore, Ledger), Error> {
    let mut options = Options::new(config.folder.join("store")).durability(config.durability);
    options.cache_bytes += AGENT_CACHE_BYTES * u64::from(config.agents);
    let (folder, path) = (config.folder.clone(), config.ledger.clone());
    let opened = spawn_blocking(move || {
        std::fs::create_dir_all(&folder)
            .map_err(|source| Error::File { path: folder.clone(), source })?;
        let ledger = Ledger::open(&path)?;
        Ok((SledStore::open(options)?, ledger))
    });
    opened.await.map_err(|panic| Error::Broken(panic.to_string()))?
}

async fn run(mut tasks: JoinSet<Result<(), Error>>, site: Arc<Site>) -> Result<(), Error> {
    let mut ran = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.unwrap_or_else(|panic| Err(Error::Broken(panic.to_string())));
        if ended.is_err() {
            site.stop.cancel();
            ran = ran.and(ended);
        }
    }
    // All may be offline or deleted: that is what was asked for.
    if ran.is_ok() {
        site.stop.cancelled().await;
    }
    site.ledger.close().await;
    site.store.close().await;
    ran
}

/// Memory that this process has now, in bytes; none when the kernel does not say.
#[must_use]
pub fn memory() -> Option<u64> {
    let status = procfs::process::Process::myself().and_then(|own| own.status()).ok()?;
    status.vmrss.map(|kib| kib * 1024)
}
