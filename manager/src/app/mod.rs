//! What the services do, one file a subject. Whoever calls here has unpacked the request and
//! wraps the answer.
//!
//! Invariant: the record is the truth and every change of it is a transaction; leases and clocks
//! live in memory, and a roster of the agents that is made of the record. What has been sent to an
//! agent is recorded before.

mod agent;
pub(crate) mod agent_queues;
mod cache;
mod choose;
mod chores;
mod claim;
mod create_entity;
mod delete_agent;
mod delete_entity;
mod endpoint;
mod entity;
mod hardware;
mod idempotency;
mod once;
mod place_entity;
mod port;
mod ports_json;
mod process;
mod process_json;
mod queue;
mod register;
mod renew;
mod reports;
mod reserved;
mod status;
mod sync;
mod upgrade;

pub(crate) use once::{Key, Seal, content, given_key};
pub(crate) use register::{authorise, hash};
pub(crate) use upgrade::Upgrades;

use std::{future::Future, sync::Arc, time::Duration};

use goperation::{Error, Reason, Result};
use tokio::sync::{Notify, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use crate::{
    bridge_link::{BridgeLink, To},
    check,
    config::RequestsConfig,
    db::{Db, Tx},
    keys,
    lease::Leases,
    numbers::Numbers,
    record::AgentRecord,
    request::Requests,
    turns::Turns,
};

/// What the services share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) db: Db,
    pub(crate) link: BridgeLink,
    pub(crate) leases: Leases,
    /// Longest wait for an agent.
    pub(crate) call_timeout: Duration,
    /// Reports that are kept of each agent.
    pub(crate) reports_kept: u64,
    /// How requests are run and kept.
    pub(crate) request_rules: RequestsConfig,
    /// Room for streams of what becomes of requests.
    pub(crate) watches: Arc<Semaphore>,
    /// Requests that are run.
    pub(crate) requests: Requests,
    /// Work that goes on when its caller has gone.
    pub(crate) tasks: TaskTracker,
    /// The manager is stopping: nothing new is begun and streams end.
    pub(crate) stop: CancellationToken,
    /// Time is up: work ends where it stands.
    pub(crate) abort: CancellationToken,
    /// There is something to do for the delete of an agent.
    pub(crate) deletes: Notify,
    /// There are queues to make.
    pub(crate) queues: Notify,
    /// Room for making them.
    pub(crate) queue_places: Semaphore,
    /// The numbers of agents.
    pub(crate) numbers: Numbers,
    /// Idempotency keys under which something is being done.
    pub(crate) turns: Turns,
    /// Upgrades that are being asked for.
    pub(crate) upgrades: Upgrades,
}

impl App {
    /// Runs work to its end even if the caller goes away meanwhile, so that a dropped connection
    /// leaves nothing half done.
    pub(crate) async fn whole<T, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let work = work(self.clone());
        let abort = self.abort.clone();
        let work = async move {
            tokio::select! {
                result = work => result,
                () = abort.cancelled() => Err(stopping()),
            }
        };
        let task = self.tasks.spawn(work.in_current_span());
        task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "request broke off");
            Err(Error::new(Reason::Internal, "the manager broke off; see its log"))
        })
    }
}

/// The manager was told to stop; the work may be half done and is taken up again by a sync.
fn stopping() -> Error {
    Error::new(
        Reason::OutcomeUnknown,
        "the manager is stopping; look at the resource when it is back",
    )
}

/// An agent that is not deleted.
async fn live_agent(tx: &mut Tx, id: u32) -> Result<AgentRecord> {
    let record: AgentRecord = tx.get(keys::agent(id)).await?.ok_or_else(|| check::no_agent(id))?;
    not_deleted(&record)?;
    Ok(record)
}

fn not_deleted(record: &AgentRecord) -> Result<()> {
    if record.deleted {
        return Err(Error::new(
            Reason::StateRefused,
            format!("agent {} on {} is DELETED", record.id, record.host),
        )
        .with("agent", record.id)
        .with("state", "DELETED"));
    }
    Ok(())
}

/// That an agent can be called: it is not deleted, and somebody has registered as it.
fn callable(record: &AgentRecord) -> Result<()> {
    not_deleted(record)?;
    if record.reserved {
        return Err(Error::new(
            Reason::AgentOffline,
            format!(
                "agent {} on {} is only on record: no agent has registered as it yet",
                record.id, record.host
            ),
        )
        .with("agent", record.id));
    }
    Ok(())
}

impl AgentRecord {
    fn to(&self) -> To {
        To { agent_type: self.agent_type.clone(), host: self.host.clone() }
    }
}

/// Adds one to the manager's generation of an agent: it will sync.
async fn raise_generation(app: &App, id: u32) {
    let mut tx = app.db.begin();
    let raised = async {
        loop {
            let Some(mut record) = tx.get::<AgentRecord>(keys::agent(id)).await? else {
                return Ok::<_, Error>(());
            };
            record.manager_generation += 1;
            tx.put(keys::agent(id), &record);
            if tx.commit().await? {
                return Ok(());
            }
        }
    };
    if let Err(error) = raised.await {
        // The agent's own generation has most likely changed too, and that is found as well.
        tracing::warn!(agent = id, %error, "failed to ask an agent to sync");
    }
}

/// Milliseconds in a duration.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
