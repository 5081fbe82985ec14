//! What every part of a running agent shares.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use goperation::{MANAGER_NAMESPACE, Result};
use goperation_bridge::{Address, Message, Transport};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    core::Core,
    counters::Counters,
    endpoint::Endpoints,
    entity::STATUS,
    facts::Facts,
    journal::Journal,
    manager::ManagerLink,
    methods,
    outbox::Outbox,
    process::{KILL, Processes},
    removals::Removals,
    waiters::Waiters,
};

/// One running agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) config: Config,
    pub(crate) address: Address,
    pub(crate) core: Arc<Core>,
    pub(crate) journal: Journal,
    /// Answers to requests that the manager does not have yet.
    pub(crate) outbox: Outbox,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) processes: Arc<Processes>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) manager: ManagerLink,
    pub(crate) facts: Facts,
    pub(crate) waiters: Waiters,
    pub(crate) counters: Counters,
    /// What the manager's record does not have.
    pub(crate) removals: Removals,
    /// Whether every queue is consumed; set once it is subscribed.
    pub(crate) connected: OnceLock<watch::Receiver<bool>>,
    /// Places for endpoint methods that run at a time.
    pub(crate) running: Arc<Semaphore>,
    /// Cancelled when the agent shall stop; ends waits of jobs that have not started.
    pub(crate) stopping: CancellationToken,
    /// Cancelled when a successful upgrade asks for a new start.
    pub(crate) restart: CancellationToken,
    /// The manager's generation for this agent that was seen last.
    pub(crate) manager_generation: AtomicU64,
    /// Whether the next renewal shall be followed by a sync, whatever the generations say.
    pub(crate) sync_again: AtomicBool,
}

impl Agent {
    /// Whether a message is for this agent: broadcasts may name types and numbers.
    pub(crate) fn is_meant(&self, message: &Message) -> bool {
        let of_type = message
            .agent_type
            .as_ref()
            .is_none_or(|agent_type| agent_type == self.address.agent_type.as_str());
        of_type
            && message
                .agents
                .as_ref()
                .is_none_or(|agents| self.manager.agent_id().is_some_and(|id| agents.contains(id)))
    }

    /// Whether the journal is so far below its bound that the agent is no longer SOFTBUSY for it.
    pub(crate) fn is_below_bound(&self) -> bool {
        self.waiters.len() <= self.config.max_journal / 2
    }

    /// The manager's generation for this agent that was seen last.
    pub(crate) fn manager_generation(&self) -> u64 {
        self.manager_generation.load(Ordering::Relaxed)
    }

    /// Notes the manager's generation of a sync.
    pub(crate) fn seen_manager_generation(&self, generation: u64) {
        self.manager_generation.store(generation, Ordering::Relaxed);
    }

    /// Asks for another sync after the next renewal.
    pub(crate) fn sync_again(&self) {
        self.sync_again.store(true, Ordering::Relaxed);
    }

    /// Whether a sync was asked for; asks once.
    pub(crate) fn wants_sync(&self) -> bool {
        self.sync_again.swap(false, Ordering::Relaxed)
    }

    /// Whether a message waits for nothing that is done with its entity, and needs no place among
    /// the methods that run: a kill, which is for what they are stuck with, and a look at a process,
    /// which tells that they are.
    pub(crate) fn is_apart(&self, message: &Message) -> bool {
        let Ok(endpoint) = self.endpoints.get(&message.namespace) else { return false };
        message.method == KILL
            || message.method == STATUS
                && endpoint.process().is_some()
                && !endpoint.has_method("status")
    }

    /// Whether the message's method only reads.
    ///
    /// # Errors
    /// `NAMESPACE_NOT_FOUND` or `METHOD_NOT_FOUND`.
    pub(crate) fn is_read_only(&self, message: &Message) -> Result<bool> {
        if message.namespace == MANAGER_NAMESPACE {
            return methods::Method::parse(&message.method).map(methods::Method::is_read_only);
        }
        self.endpoints.is_read_only(&message.namespace, &message.method)
    }
}
