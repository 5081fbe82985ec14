//! The entry to the library: opens the store, builds the agent, and lives.

use std::{
    ffi::OsString,
    sync::{Arc, OnceLock},
};

use goperation::{AgentStatus, Result, Secret, now_millis};
use goperation_bridge::{Address, Transport};
use goperation_store::{Options, Prefixed, SledStore, Stats, Store, Txn};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::error;

use crate::{
    agent::Agent,
    config::Config,
    core::Core,
    counters::{Counters, Counts},
    endpoint::{Endpoints, Stub},
    error::RunError,
    facts::{Facts, SharedFacts},
    journal::Journal,
    life,
    lock::Operation,
    manager::ManagerLink,
    outbox::Outbox,
    process::Processes,
    removals::Removals,
    state::{Because, State, scan_all},
    waiters::Waiters,
};

/// Where the secret is kept that makes this agent known to the manager.
pub(crate) const SECRET_KEY: &[u8] = b"secret";

/// Why the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to.
    Stopped,
    /// An upgrade succeeded: the caller starts the new program.
    Restart,
    /// It was deleted: it does not come back by itself.
    Deleted,
}

/// What an agent works with.
#[derive(Debug)]
pub struct Parts {
    /// The broker.
    pub transport: Arc<dyn Transport>,
    /// The manager.
    pub manager: Channel,
    /// Program and first arguments of the launcher of games: `["/usr/bin/gop", "launch"]`. Empty
    /// where no endpoint starts processes.
    pub launcher: Vec<OsString>,
}

/// What an emulated agent shares with the others of its process, and what is its own there.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The store of all; it stays open when the agent ends.
    pub store: SledStore,
    /// What stands before the keys of this agent: no other's begins with it.
    pub prefix: Vec<u8>,
    /// What runs the methods of its endpoints.
    pub stub: Arc<dyn Stub>,
    /// The host, read once for all.
    pub facts: Arc<SharedFacts>,
}

/// A look at a running agent, for the process that runs it.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Agent>, SledStore);

impl Handle {
    /// Its number, once the manager gave one.
    #[must_use]
    pub fn agent_id(&self) -> Option<u32> {
        self.0.manager.agent_id()
    }

    /// Follows its status.
    #[must_use]
    pub fn watch_status(&self) -> watch::Receiver<AgentStatus> {
        self.0.core.watch_status()
    }

    /// Whether it consumes all of its queues now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.connected.get().is_some_and(|connected| *connected.borrow())
    }

    /// Reports facts to the manager now, beside the reports that come by themselves.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the manager is away, or the host says nothing in time.
    pub async fn report(&self) -> Result<()> {
        self.0.report().await
    }

    /// What went through it since its start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.counters.read()
    }

    /// What its store committed since the start.
    #[must_use]
    pub fn store_stats(&self) -> Stats {
        self.1.stats()
    }

    /// Sets its status whatever it is (contract §5, `force_status`). Out of PERDELETE it ends the
    /// precommit.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store has failed.
    pub async fn force_status(&self, to: AgentStatus, cause: &str) -> Result<()> {
        self.0
            .core
            .change(Operation::ForceStatus, |state, txn| {
                let because = Because { cause, actor: "operator", now: now_millis() };
                if !matches!(to, AgentStatus::PerDelete | AgentStatus::Deleted) {
                    state.precommit = None;
                }
                state.force_status(to, because, txn);
                Ok(())
            })
            .await
    }
}

/// Runs an agent until `shutdown`, a delete or an upgrade.
///
/// # Errors
/// See [`RunError`].
pub async fn run(
    config: Config,
    parts: Parts,
    shutdown: CancellationToken,
) -> Result<Exit, RunError> {
    let (_, living) = start(config, parts, shutdown).await?;
    match living.await {
        Ok(exit) => exit,
        Err(panic) => {
            error!(%panic, "the agent ended badly");
            Err(RunError::Store(goperation_store::Error::Closed))
        }
    }
}

/// Opens the agent's store and starts it; the task ends as [`run`] says.
///
/// # Errors
/// When the store or the configuration cannot be used.
pub async fn start(
    config: Config,
    parts: Parts,
    shutdown: CancellationToken,
) -> Result<(Handle, JoinHandle<Result<Exit, RunError>>), RunError> {
    let sled = open(&config).await?;
    let store: Arc<dyn Store> = Arc::new(sled.clone());
    let (endpoints, facts) = (Endpoints::new(&config), Facts::new(&config));
    let agent = match build(config, parts, store, endpoints, facts).await {
        Ok(agent) => Arc::new(agent),
        Err(error) => {
            sled.close().await;
            return Err(error);
        }
    };
    let handle = Handle(Arc::clone(&agent), sled.clone());
    let living = tokio::spawn(async move {
        let exit = life::live(agent, shutdown).await;
        sled.close().await;
        exit
    });
    Ok((handle, living))
}

/// Starts an agent that shares its process with many others; the task ends as [`run`] says.
///
/// # Errors
/// As [`start`].
pub async fn start_shared(
    config: Config,
    parts: Parts,
    shared: Shared,
    shutdown: CancellationToken,
) -> Result<(Handle, JoinHandle<Result<Exit, RunError>>), RunError> {
    let Shared { store: sled, prefix, stub, facts } = shared;
    let store: Arc<dyn Store> = Arc::new(Prefixed::new(Arc::new(sled.clone()), &prefix));
    let endpoints = Endpoints::new(&config).run_by(stub);
    let facts = Facts::shared(&config, facts);
    let agent = Arc::new(build(config, parts, store, endpoints, facts).await?);
    let handle = Handle(Arc::clone(&agent), sled);
    Ok((handle, tokio::spawn(life::live(agent, shutdown))))
}

pub(crate) async fn open(config: &Config) -> Result<SledStore, RunError> {
    let options = Options::new(config.data_dir.join("store")).durability(config.durability);
    let opened = tokio::task::spawn_blocking(|| SledStore::open(options)).await;
    Ok(opened.unwrap_or(Err(goperation_store::Error::Closed))?)
}

async fn build(
    config: Config,
    parts: Parts,
    store: Arc<dyn Store>,
    endpoints: Endpoints,
    facts: Facts,
) -> Result<Agent, RunError> {
    let rows = scan_all(&*store).await?;
    let mut state = State::load(config.ports_ranges.clone(), &rows).map_err(RunError::Start)?;
    // Every start is a new generation, so that the manager asks for the inventory.
    let mut txn = Txn::new();
    state.raise_generation(&mut txn);
    state.settle_upgrade(now_millis(), &mut txn);
    let secret = match store.get(SECRET_KEY.to_vec()).await? {
        Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        None => {
            let secret = Secret::generate();
            txn = txn.put(SECRET_KEY, secret.reveal());
            secret.reveal().to_owned()
        }
    };
    let secret = Secret::parse("secret", &secret).map_err(RunError::Start)?;
    let deleted = state.status == AgentStatus::Deleted;
    if !deleted {
        let because = Because { cause: "start", actor: "agent", now: now_millis() };
        state.force_status(AgentStatus::Initializing, because, &mut txn);
    }
    store.commit(txn).await?;
    let address = Address { agent_type: config.agent_type.clone(), host: config.host.clone() };
    let endpoints = Arc::new(endpoints);
    let agent_id = state.agent_id;
    let core = Arc::new(Core::new(Arc::clone(&store), state));
    let processes =
        Processes::new(Arc::clone(&core), Arc::clone(&endpoints), parts.launcher, &config);
    Ok(Agent {
        endpoints,
        processes: Arc::new(processes),
        facts,
        address,
        journal: Journal::new(Arc::clone(&store)),
        outbox: Outbox::new(store),
        manager: ManagerLink::new(parts.manager, secret, agent_id),
        core,
        transport: parts.transport,
        waiters: Waiters::default(),
        counters: Counters::default(),
        removals: Removals::default(),
        connected: OnceLock::new(),
        running: Arc::new(Semaphore::new(config.max_in_flight)),
        stopping: CancellationToken::new(),
        restart: CancellationToken::new(),
        manager_generation: 0.into(),
        sync_again: false.into(),
        config,
    })
}
