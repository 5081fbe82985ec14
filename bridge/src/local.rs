//! The embedded transport: what RabbitMQ does by our layout, in this process, with the durable
//! queues in a [`Store`].
//!
//! Invariant: an accepted message is on disk in each of its queues, and stays there until it is
//! acknowledged, dead and dropped, or its queue is removed.

mod actor;
mod deliver;
mod keys;
mod queue;
mod record;
mod recover;
mod settle;
mod state;
mod topology;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use goperation::{AgentType, EndpointName, JsonObject};
use goperation_store::{Scan, Store};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::{
    actor::{Actor, Command},
    record::DeadRow,
    settle::Settlements,
    state::{Publish, PublishAnswer},
    topology::ChangeReply,
};
use crate::{
    Address, Body, DeadLetter, Message, PublishError, QueueInfo, QueueName, Route, Source,
    Subscription, Transport, TransportError,
};

/// Commands that may wait for the actor.
const MAX_COMMANDS: usize = 1024;
/// How long the actor is given to end.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Bounds of the embedded transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalConfig {
    /// Messages in one CAST or CALL queue at most; beyond it QUEUE_FULL.
    pub max_queue: usize,
    /// Messages in one notify queue at most; beyond it QUEUE_FULL.
    pub max_notify: usize,
    /// Notify queues at most.
    pub max_notify_queues: usize,
    /// Dead letters kept at most; the oldest goes first.
    pub max_dead: usize,
    /// Size of one message at most, in bytes as stored.
    pub max_message_bytes: usize,
    /// Messages that are being published at most, in bytes together.
    pub max_publishing_bytes: usize,
    /// How long a message may take to become durable before its outcome is unknown.
    #[serde(with = "crate::config::duration")]
    pub confirm_timeout: Duration,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            max_queue: 100_000,
            max_notify: 10_000,
            max_notify_queues: 10_000,
            max_dead: 10_000,
            max_message_bytes: 1 << 20,
            max_publishing_bytes: 64 << 20,
            confirm_timeout: Duration::from_secs(10),
        }
    }
}

/// The embedded transport.
#[derive(Debug)]
pub struct Local {
    config: LocalConfig,
    store: Arc<dyn Store>,
    commands: mpsc::Sender<Command>,
    publishing: Arc<Semaphore>,
    shutdown: CancellationToken,
    actor: Mutex<Option<JoinHandle<()>>>,
}

impl Local {
    /// Takes up what is in the store. The store stays the caller's: it is not closed with this.
    ///
    /// # Errors
    /// The store's, when it cannot be read.
    pub async fn open(
        store: Arc<dyn Store>,
        config: LocalConfig,
    ) -> Result<Arc<Self>, goperation_store::Error> {
        let settlements = Arc::new(Settlements::default());
        let state = recover::load(&store, config.clone(), settlements.clone()).await?;
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
        let shutdown = CancellationToken::new();
        let actor = Actor::new(state, store.clone(), settlements);
        let task = tokio::spawn(actor.run(receiver, shutdown.clone()));
        let permits = config.max_publishing_bytes.clamp(1, Semaphore::MAX_PERMITS);
        Ok(Arc::new(Self {
            config,
            store,
            commands,
            publishing: Arc::new(Semaphore::new(permits)),
            shutdown,
            actor: Mutex::new(Some(task)),
        }))
    }

    /// Asks the actor for something.
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, TransportError> {
        let (reply, answer) = oneshot::channel();
        let closed = |_| TransportError::Unavailable("the transport is closed".to_owned());
        let asked = async {
            self.commands.send(command(reply)).await.map_err(|_| closed(()))?;
            answer.await.map_err(|_| closed(()))
        };
        let late = |_| TransportError::Unavailable("the store takes too long".to_owned());
        timeout(self.config.confirm_timeout, asked).await.map_err(late)?
    }

    async fn change(
        &self,
        command: impl FnOnce(ChangeReply) -> Command,
    ) -> Result<u32, TransportError> {
        self.ask(command).await?
    }

    async fn read_dead(&self, row: DeadRow) -> Result<Option<DeadLetter>, TransportError> {
        let bytes = self.store.get(keys::body(row.body)).await.map_err(unavailable)?;
        let Some(bytes) = bytes else { return Ok(None) };
        let (message_id, namespace, method, body) = match record::decode(&bytes) {
            Some(Message { id, namespace, method, body: Body::Object(body), .. }) => {
                (id.to_string(), namespace, method, body)
            }
            Some(Message { id, namespace, method, .. }) => {
                (id.to_string(), namespace, method, JsonObject::new())
            }
            None => Default::default(),
        };
        let DeadRow { queue, reason, time, .. } = row;
        Ok(Some(DeadLetter { message_id, queue, reason, namespace, method, body, time }))
    }
}

fn unavailable(error: goperation_store::Error) -> TransportError {
    TransportError::Unavailable(error.to_string())
}

#[async_trait]
impl Transport for Local {
    async fn publish(&self, route: &Route, message: &Message) -> Result<(), PublishError> {
        let record = record::encode(message);
        let limit = self.config.max_message_bytes;
        if record.len() > limit {
            return Err(PublishError::TooLarge { limit });
        }
        let wait = self.config.confirm_timeout;
        let busy = || PublishError::Busy("as much is being published as may be".to_owned());
        let closed = || PublishError::Unavailable("the transport is closed".to_owned());
        let share = record.len().clamp(1, self.config.max_publishing_bytes.max(1));
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        let permit = timeout(wait, self.publishing.clone().acquire_many_owned(share))
            .await
            .map_err(|_| busy())?
            .map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        let publish = Publish {
            route: route.clone(),
            message: Arc::new(message.clone()),
            record,
            answer: PublishAnswer { reply, permit },
        };
        match self.commands.send_timeout(Command::Publish(publish), wait).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => return Err(busy()),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(closed()),
        }
        match timeout(wait, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(PublishError::Unknown("the transport was closed".to_owned())),
            Err(_) => Err(PublishError::Unknown("the store takes too long".to_owned())),
        }
    }

    async fn ensure_agent(
        &self,
        agent: &Address,
        endpoints: &[EndpointName],
        // What it is bound to is known here: everything not named now is former.
        _former: &[EndpointName],
    ) -> Result<(), TransportError> {
        let (agent, endpoints) = (agent.clone(), endpoints.to_vec());
        self.change(|reply| Command::EnsureAgent { agent, endpoints, reply }).await.map(drop)
    }

    async fn remove_agent(&self, agent: &Address) -> Result<u32, TransportError> {
        let agent = agent.clone();
        self.change(|reply| Command::RemoveAgent { agent, reply }).await
    }

    async fn ensure_type(&self, agent_type: &AgentType) -> Result<(), TransportError> {
        let agent_type = agent_type.clone();
        self.change(|reply| Command::EnsureType { agent_type, reply }).await.map(drop)
    }

    async fn subscribe(
        &self,
        source: Source,
        prefetch: u16,
    ) -> Result<Subscription, TransportError> {
        self.ask(|reply| Command::Subscribe { source, prefetch, reply }).await?
    }

    async fn queue(&self, name: &QueueName) -> Result<Option<QueueInfo>, TransportError> {
        let name = name.clone();
        self.ask(|reply| Command::Info { name, reply }).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, TransportError> {
        let scan = Scan::prefix(keys::DEAD).limit(limit);
        let rows = self.store.scan(scan).await.map_err(unavailable)?;
        let mut letters = Vec::with_capacity(rows.len());
        for row in rows.iter().filter_map(|(_, value)| DeadRow::read(value)) {
            letters.extend(self.read_dead(row).await?);
        }
        Ok(letters)
    }

    async fn close(&self) {
        self.shutdown.cancel();
        let task = self.actor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && timeout(CLOSE_WAIT, task).await.is_err()
        {
            tracing::warn!("the embedded transport did not end in time");
        }
    }
}
