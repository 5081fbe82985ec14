//! The state of the embedded transport, and what publishing does to it.
//!
//! Invariant: nothing here waits. What must become durable is collected in the [`Batch`], which
//! the actor hands to the store in this order; an answer or a delivery that depends on it is an
//! [`Effect`] of the same batch and happens after it is durable.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use goperation::now_millis;
use goperation_store::{Txn, Write};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    LocalConfig, keys,
    queue::{Entry, Queue, Sub, is_durable},
    record,
    settle::Settlements,
};
use crate::{Message, PublishError, QueueName, Route, TransportError};

/// A message to be published.
#[derive(Debug)]
pub(super) struct Publish {
    /// Where to.
    pub(super) route: Route,
    /// The message.
    pub(super) message: Arc<Message>,
    /// The message as a row.
    pub(super) record: Vec<u8>,
    /// How it ended.
    pub(super) answer: PublishAnswer,
}

/// Answers a publish.
#[derive(Debug)]
pub(super) struct PublishAnswer {
    /// Who waits.
    pub(super) reply: oneshot::Sender<Result<(), PublishError>>,
    /// Its share of the bytes that may be on their way.
    pub(super) permit: OwnedSemaphorePermit,
}

impl PublishAnswer {
    /// Answers; nothing happens when nobody waits any more.
    pub(super) fn send(self, result: Result<(), PublishError>) {
        drop(self.permit);
        self.reply.send(result).ok();
    }
}

/// What happens when a batch is durable.
#[derive(Debug)]
pub(super) enum Effect {
    /// The message is in the queue.
    Enqueued { queue: QueueName, seq: u64, entry: Entry },
    /// The publish is answered.
    Published { answer: PublishAnswer, result: Result<(), PublishError> },
    /// The change of the topology is answered.
    Changed { reply: oneshot::Sender<Result<u32, TransportError>>, count: u32 },
}

/// What is to be written, and what happens then.
#[derive(Debug, Default)]
pub(super) struct Batch {
    txn: Txn,
    effects: Vec<Effect>,
}

impl Batch {
    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.txn.writes.push(Write::Put(key, value));
    }

    pub(super) fn delete(&mut self, key: Vec<u8>) {
        self.txn.writes.push(Write::Delete(key));
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// The batch, unless there is nothing in it.
    pub(super) fn take(&mut self) -> Option<(Txn, Vec<Effect>)> {
        if self.txn.writes.is_empty() && self.effects.is_empty() {
            return None;
        }
        let Self { txn, effects } = std::mem::take(self);
        Some((txn, effects))
    }
}

/// A message that comes back later.
#[derive(Debug)]
pub(super) struct Delayed {
    /// Queue that it comes back to.
    pub(super) queue: QueueName,
    /// Number of the message.
    pub(super) body: u64,
    /// When it may be started at the latest.
    pub(super) finish_time: Option<u64>,
}

/// Messages that shall be read from the store: the queue, and number and body of each.
pub(super) type Load = (QueueName, Vec<(u64, u64)>);

/// Everything that the actor owns.
#[derive(Debug)]
pub(super) struct State {
    pub(super) config: LocalConfig,
    pub(super) queues: HashMap<QueueName, Queue>,
    pub(super) subs: BTreeMap<u64, Sub>,
    /// By due time and number.
    pub(super) delayed: BTreeMap<(u64, u64), Delayed>,
    /// Dead letters, oldest first: number and body.
    pub(super) dead: VecDeque<(u64, u64)>,
    /// How many places a message has, when more than one.
    pub(super) refs: HashMap<u64, u32>,
    /// The next number.
    pub(super) next: u64,
    pub(super) batch: Batch,
    pub(super) loads: Vec<Load>,
    pub(super) settlements: Arc<Settlements>,
    /// Why the store takes nothing any more.
    pub(super) failed: Option<String>,
}

impl State {
    /// An empty state.
    pub(super) fn new(config: LocalConfig, settlements: Arc<Settlements>) -> Self {
        Self {
            config,
            queues: HashMap::new(),
            subs: BTreeMap::new(),
            delayed: BTreeMap::new(),
            dead: VecDeque::new(),
            refs: HashMap::new(),
            next: 1,
            batch: Batch::default(),
            loads: Vec::new(),
            settlements,
            failed: None,
        }
    }

    /// A number never used before.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Publishes a message.
    pub(super) fn publish(&mut self, publish: Publish) {
        if let Some(why) = &self.failed {
            return publish.answer.send(Err(PublishError::Unavailable(why.clone())));
        }
        match publish.route.clone() {
            Route::Call(agent) => self.publish_in_memory(&QueueName::Call(agent), publish),
            Route::AnyCall(kind) => self.publish_in_memory(&QueueName::AnyCall(kind), publish),
            Route::Reply(bridge) => self.publish_in_memory(&QueueName::Reply(bridge), publish),
            Route::Cast(agent) => self.publish_durable(vec![QueueName::Cast(agent)], publish),
            Route::Any(kind) => self.publish_durable(vec![QueueName::Any(kind)], publish),
            Route::FanoutAgents => {
                let all = self.queues.keys().filter(|name| matches!(name, QueueName::Cast(_)));
                self.publish_durable(all.cloned().collect(), publish);
            }
            Route::FanoutEndpoint(endpoint) => {
                let bound = self.queues.iter().filter(|(_, q)| q.endpoints.contains(&endpoint));
                self.publish_durable(bound.map(|(name, _)| name.clone()).collect(), publish);
            }
            Route::Notify(name) => {
                let name = QueueName::Notify(name);
                if self.ensure_notify(&name) {
                    self.publish_durable(vec![name], publish);
                } else {
                    publish.answer.send(Err(PublishError::Full));
                }
            }
            Route::RetryCast(agent, step) => {
                self.publish_delayed(QueueName::Cast(agent), step, publish);
            }
            Route::RetryAny(agent, step) => {
                self.publish_delayed(QueueName::Any(agent.agent_type), step, publish);
            }
            Route::Dead(agent) => {
                let reason = publish.message.correlation.as_deref().unwrap_or("REJECTED");
                let reason = reason.to_owned();
                let body = self.store_body(publish.record, 1);
                self.bury(body, &QueueName::Cast(agent), &reason);
                let answer = publish.answer;
                self.batch.effect(Effect::Published { answer, result: Ok(()) });
            }
        }
    }

    fn publish_in_memory(&mut self, name: &QueueName, publish: Publish) {
        let seq = self.number();
        let limit = self.config.max_queue;
        let Some(queue) = self.queues.get_mut(name) else {
            return publish.answer.send(Err(PublishError::NoQueue));
        };
        if queue.len() >= limit {
            return publish.answer.send(Err(PublishError::Full));
        }
        let entry = Entry {
            body: 0,
            finish_time: publish.message.deadline,
            redelivered: false,
            message: Some(publish.message),
        };
        queue.ready.insert(seq, entry);
        publish.answer.send(Ok(()));
        self.pump(name);
    }

    /// Into every one of the queues that exists and has room.
    fn publish_durable(&mut self, names: Vec<QueueName>, publish: Publish) {
        let Publish { message, record, answer, .. } = publish;
        let (mut targets, mut full) = (Vec::new(), false);
        for name in names {
            let limit = match &name {
                QueueName::Notify(_) => self.config.max_notify,
                _ => self.config.max_queue,
            };
            match self.queues.get(&name) {
                Some(queue) if queue.len() < limit => targets.push(name),
                Some(_) => full = true,
                None => {}
            }
        }
        if targets.is_empty() {
            let error = if full { PublishError::Full } else { PublishError::NoQueue };
            return answer.send(Err(error));
        }
        let body = self.store_body(record, targets.len());
        for queue in targets {
            let entry = Entry {
                body,
                finish_time: message.finish_time,
                redelivered: false,
                message: Some(message.clone()),
            };
            self.enqueue(queue, entry);
        }
        let result = if full { Err(PublishError::Full) } else { Ok(()) };
        self.batch.effect(Effect::Published { answer, result });
    }

    fn publish_delayed(&mut self, queue: QueueName, step: std::time::Duration, publish: Publish) {
        let Publish { message, record, answer, .. } = publish;
        if !self.queues.contains_key(&queue) {
            return answer.send(Err(PublishError::NoQueue));
        }
        let step = u64::try_from(step.as_millis()).unwrap_or(u64::MAX);
        let (due, seq) = (now_millis().saturating_add(step), self.number());
        let body = self.store_body(record, 1);
        let finish_time = message.finish_time;
        let row = record::delayed(body, finish_time, queue.to_string());
        self.batch.put(keys::delayed(due, seq), row);
        self.delayed.insert((due, seq), Delayed { queue, body, finish_time });
        self.batch.effect(Effect::Published { answer, result: Ok(()) });
    }

    /// Writes a message that has so many places.
    fn store_body(&mut self, record: Vec<u8>, places: usize) -> u64 {
        let body = self.number();
        self.batch.put(keys::body(body), record);
        if places > 1 {
            self.refs.insert(body, u32::try_from(places).unwrap_or(u32::MAX));
        }
        body
    }

    /// Gives up one place of a message, and the message with its last one.
    pub(super) fn release(&mut self, body: u64) {
        match self.refs.get_mut(&body) {
            Some(places) => {
                *places -= 1;
                if *places <= 1 {
                    self.refs.remove(&body);
                }
            }
            None => self.batch.delete(keys::body(body)),
        }
    }

    /// Puts a stored message at the end of a durable queue that exists.
    pub(super) fn enqueue(&mut self, name: QueueName, entry: Entry) {
        let seq = self.number();
        self.batch.put(keys::place(&name, seq), record::place(entry.body, entry.finish_time));
        if let Some(queue) = self.queues.get_mut(&name) {
            queue.adding += 1;
        }
        self.batch.effect(Effect::Enqueued { queue: name, seq, entry });
    }

    /// What happens now that a batch is durable.
    pub(super) fn apply(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Enqueued { queue: name, seq, entry } => {
                    if let Some(queue) = self.queues.get_mut(&name) {
                        queue.adding = queue.adding.saturating_sub(1);
                        queue.add(seq, entry);
                        self.pump(&name);
                    } else {
                        // Its queue was removed while it was being written.
                        self.batch.delete(keys::place(&name, seq));
                        self.bury(entry.body, &name, "AGENT_DELETED");
                    }
                }
                Effect::Published { answer, result } => answer.send(result),
                Effect::Changed { reply, count } => {
                    reply.send(Ok(count)).ok();
                }
            }
        }
    }

    /// Nothing is taken any more, for the store has failed; says so to those who wait for
    /// `effects`. What was handed to it may be on disk.
    pub(super) fn fail(&mut self, why: &goperation_store::Error, effects: Vec<Effect>, sent: bool) {
        let text = why.to_string();
        if self.failed.is_none() {
            tracing::error!(
                error = why as &dyn std::error::Error,
                "embedded transport has stopped"
            );
        }
        for effect in effects {
            match effect {
                Effect::Enqueued { .. } => {}
                Effect::Published { answer, .. } if sent => {
                    answer.send(Err(PublishError::Unknown(text.clone())));
                }
                Effect::Published { answer, .. } => {
                    answer.send(Err(PublishError::Unavailable(text.clone())));
                }
                Effect::Changed { reply, .. } => {
                    reply.send(Err(TransportError::Unavailable(text.clone()))).ok();
                }
            }
        }
        for sub in self.subs.values() {
            sub.connected.send_replace(false);
        }
        self.failed.get_or_insert(text);
    }

    /// Adds a dead letter whose message is stored, dropping the oldest beyond the limit.
    pub(super) fn bury(&mut self, body: u64, queue: &QueueName, reason: &str) {
        let seq = self.number();
        let row = record::dead(body, queue.to_string(), reason.to_owned(), now_millis());
        self.batch.put(keys::dead(seq), row);
        self.dead.push_back((seq, body));
        while self.dead.len() > self.config.max_dead.max(1) {
            if let Some((seq, body)) = self.dead.pop_front() {
                self.batch.delete(keys::dead(seq));
                self.release(body);
            }
        }
    }

    /// Moves what is in a durable queue at that number to the dead letters.
    pub(super) fn bury_entry(&mut self, name: &QueueName, seq: u64, reason: &str) {
        let Some(entry) = self.queues.get_mut(name).and_then(|queue| queue.take(seq)) else {
            return;
        };
        if is_durable(name) {
            self.batch.delete(keys::place(name, seq));
            self.bury(entry.body, name, reason);
        }
    }
}
