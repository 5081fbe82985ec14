//! The task that owns the state of the embedded transport.
//!
//! Invariant: transactions go to the store in the order of the commands, and are answered in that
//! order; the task never waits for one before it takes the next command.

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc, time::Duration};

use futures::{StreamExt as _, future, stream::FuturesUnordered};
use goperation::{AgentType, EndpointName, now_millis};
use goperation_store::{Error, Outcome, Pending, Store};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    keys, record,
    settle::Settlements,
    state::{Effect, Load, Publish, State},
    topology::ChangeReply,
};
use crate::{
    Address, Message, PublishError, QueueInfo, QueueName, Source, Subscription, TransportError,
};

/// Transactions that may be on their way to disk.
const MAX_PENDING: usize = 256;
/// Commands taken into one transaction.
const MAX_BATCH: usize = 64;
/// How often the heads of the queues are looked at, when nothing is due before.
const SWEEP: Duration = Duration::from_millis(500);
/// What is not yet durable when the transport closes is given that long.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// What the actor is asked for.
#[derive(Debug)]
pub(super) enum Command {
    /// Publish a message.
    Publish(Publish),
    /// Make the CAST queue of an agent.
    EnsureAgent { agent: Address, endpoints: Vec<EndpointName>, reply: ChangeReply },
    /// Remove the CAST queue of an agent.
    RemoveAgent { agent: Address, reply: ChangeReply },
    /// Make the shared CAST queue of a type.
    EnsureType { agent_type: AgentType, reply: ChangeReply },
    /// Start a subscription.
    Subscribe { source: Source, prefetch: u16, reply: SubscribeReply },
    /// Look at a queue.
    Info { name: QueueName, reply: oneshot::Sender<Option<QueueInfo>> },
}

type SubscribeReply = oneshot::Sender<Result<Subscription, TransportError>>;
type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// The queue, and for each number the message, unless it cannot be read.
type Loaded = (QueueName, Result<Vec<(u64, Option<Message>)>, Error>);

/// The task's own things.
pub(super) struct Actor {
    state: State,
    store: Arc<dyn Store>,
    settlements: Arc<Settlements>,
    pending: VecDeque<(Pending, Vec<Effect>)>,
    loading: FuturesUnordered<Boxed<Loaded>>,
    ending: FuturesUnordered<Boxed<u64>>,
}

impl Actor {
    /// An actor for that state.
    pub(super) fn new(state: State, store: Arc<dyn Store>, settlements: Arc<Settlements>) -> Self {
        Self {
            state,
            store,
            settlements,
            pending: VecDeque::new(),
            loading: FuturesUnordered::new(),
            ending: FuturesUnordered::new(),
        }
    }

    /// Works until `shutdown` or until nobody can send commands any more.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        shutdown: CancellationToken,
    ) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        let mut sweep = Instant::now() + SWEEP;
        loop {
            // Looked at in every turn: a timer made anew in each would never end under load.
            let due = self.until_due();
            if due.is_zero() || sweep <= Instant::now() {
                self.state.tick();
                sweep = Instant::now() + SWEEP;
            }
            self.commit().await;
            let wake = sweep.min(Instant::now() + due.max(Duration::from_millis(1)));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                done = next_done(&mut self.pending) => self.done(done),
                () = self.settlements.wait() => self.state.settle(self.settlements.take()),
                Some(id) = self.ending.next() => self.state.unsubscribe(id),
                Some(loaded) = self.loading.next() => self.loaded(loaded),
                () = tokio::time::sleep_until(wake) => {}
                count = commands.recv_many(&mut batch, MAX_BATCH),
                    if self.pending.len() < MAX_PENDING =>
                {
                    if count == 0 {
                        break;
                    }
                    for command in batch.drain(..) {
                        self.take(command);
                    }
                }
            }
        }
        self.finish(commands).await;
    }

    /// How long until a delayed message comes back, or until the next sweep.
    fn until_due(&self) -> Duration {
        let due = self.state.delayed.first_key_value().map_or(u64::MAX, |(&(due, _), _)| due);
        Duration::from_millis(due.saturating_sub(now_millis())).min(SWEEP)
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Publish(publish) => self.state.publish(publish),
            Command::EnsureAgent { agent, endpoints, reply } => {
                self.state.ensure_agent(agent, endpoints, reply);
            }
            Command::RemoveAgent { agent, reply } => self.state.remove_agent(&agent, reply),
            Command::EnsureType { agent_type, reply } => self.state.ensure_type(&agent_type, reply),
            Command::Subscribe { source, prefetch, reply } => {
                let started = self.state.subscribe(source, prefetch);
                let answer = started.map(|(subscription, id, token)| {
                    self.ending.push(Box::pin(async move {
                        token.cancelled_owned().await;
                        id
                    }));
                    subscription
                });
                reply.send(answer).ok();
            }
            Command::Info { name, reply } => {
                reply.send(self.state.info(&name)).ok();
            }
        }
    }

    /// Hands what was collected to the store, and starts the reads that were asked for.
    async fn commit(&mut self) {
        if let Some((txn, effects)) = self.state.batch.take() {
            match self.store.reserve().await {
                Ok(slot) if self.state.failed.is_none() => {
                    self.pending.push_back((slot.submit(txn), effects));
                }
                Ok(_) => self.state.fail(&Error::Closed, effects, false),
                Err(error) => self.state.fail(&error, effects, false),
            }
        }
        for load in self.state.loads.drain(..) {
            self.loading.push(Box::pin(read(self.store.clone(), load)));
        }
    }

    fn done(&mut self, (outcome, effects): (Result<Outcome, Error>, Vec<Effect>)) {
        match outcome {
            Ok(_) => self.state.apply(effects),
            Err(error) => self.state.fail(&error, effects, true),
        }
    }

    fn loaded(&mut self, (name, messages): Loaded) {
        match messages {
            Ok(messages) => self.state.loaded(&name, messages),
            Err(error) => self.state.fail(&error, Vec::new(), true),
        }
    }

    /// Refuses what was not begun, and waits a last time for what was.
    async fn finish(mut self, mut commands: mpsc::Receiver<Command>) {
        commands.close();
        while let Ok(command) = commands.try_recv() {
            // The others are told by the drop of their senders.
            if let Command::Publish(publish) = command {
                publish.answer.send(Err(PublishError::Unavailable("closing".to_owned())));
            }
        }
        self.state.settle(self.settlements.take());
        self.state.unsubscribe_all();
        let last = async {
            self.commit().await;
            while !self.pending.is_empty() {
                let (outcome, effects) = next_done(&mut self.pending).await;
                match outcome {
                    Ok(_) => self.state.apply(effects),
                    Err(error) => self.state.fail(&error, effects, true),
                }
                self.commit().await;
            }
        };
        if tokio::time::timeout(LAST_WAIT, last).await.is_err() {
            tracing::warn!("the store did not take the last messages in time");
        }
    }
}

/// The oldest transaction, when it is durable; waits for ever when there is none.
async fn next_done(
    pending: &mut VecDeque<(Pending, Vec<Effect>)>,
) -> (Result<Outcome, Error>, Vec<Effect>) {
    let Some((first, _)) = pending.front_mut() else { return future::pending().await };
    let outcome = first.await;
    let effects = pending.pop_front().map(|(_, effects)| effects).unwrap_or_default();
    (outcome, effects)
}

/// Reads messages from the store.
async fn read(store: Arc<dyn Store>, (name, bodies): Load) -> Loaded {
    let reads = bodies.into_iter().map(|(seq, body)| {
        let get = store.get(keys::body(body));
        async move { get.await.map(|bytes| (seq, bytes.and_then(|bytes| record::decode(&bytes)))) }
    });
    (name, future::try_join_all(reads).await)
}
