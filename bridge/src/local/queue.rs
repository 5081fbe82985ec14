//! One queue in memory: what is in it by number, and who consumes it.
//!
//! Invariant: of a durable queue only numbers are kept, and at most [`WINDOW`] messages; the
//! messages are in the store.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use goperation::{EndpointName, now_millis};
use tokio::sync::{mpsc, watch};

use super::settle::{LocalAck, Settlements};
use crate::{Delivery, Message, QueueName, Source};

/// Messages of one durable queue that are kept in memory, while it is consumed.
pub(super) const WINDOW: usize = 64;

/// A message in a queue.
#[derive(Debug)]
pub(super) struct Entry {
    /// Number of the message in the store; 0 for one that is only in memory.
    pub(super) body: u64,
    /// When it may be started at the latest.
    pub(super) finish_time: Option<u64>,
    /// Whether it may have been delivered before.
    pub(super) redelivered: bool,
    /// The message, when it is in memory.
    pub(super) message: Option<Arc<Message>>,
}

/// A queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// What is in it, by number, oldest first.
    pub(super) ready: BTreeMap<u64, Entry>,
    /// Messages that are being written and will be in it.
    pub(super) adding: usize,
    /// Entries whose message is in memory; counted for durable queues only.
    cached: usize,
    /// Whether messages are being read from the store.
    pub(super) loading: bool,
    /// Subscriptions, the next to be served first.
    pub(super) consumers: VecDeque<u64>,
    /// Endpoints whose broadcasts it gets.
    pub(super) endpoints: BTreeSet<EndpointName>,
}

/// Whether what is in the queue survives a restart.
pub(super) fn is_durable(name: &QueueName) -> bool {
    match name {
        QueueName::Cast(_) | QueueName::Any(_) | QueueName::Notify(_) | QueueName::Dead => true,
        QueueName::Call(_) | QueueName::AnyCall(_) | QueueName::Reply(_) => false,
    }
}

impl Queue {
    /// Messages in it and on their way into it.
    pub(super) fn len(&self) -> usize {
        self.ready.len() + self.adding
    }

    /// Adds an entry of a durable queue; its message stays in memory only within the window.
    pub(super) fn add(&mut self, seq: u64, mut entry: Entry) {
        if self.consumers.is_empty() || self.cached >= WINDOW {
            entry.message = None;
        }
        self.cached += usize::from(entry.message.is_some());
        self.ready.insert(seq, entry);
    }

    /// Takes an entry of a durable queue.
    pub(super) fn take(&mut self, seq: u64) -> Option<Entry> {
        let entry = self.ready.remove(&seq)?;
        self.cached = self.cached.saturating_sub(usize::from(entry.message.is_some()));
        Some(entry)
    }

    /// Gives an entry the message that was read for it.
    pub(super) fn fill(&mut self, seq: u64, message: Message) {
        if let Some(entry) = self.ready.get_mut(&seq)
            && entry.message.is_none()
        {
            entry.message = Some(Arc::new(message));
            self.cached += 1;
        }
    }

    /// The entries at the head whose messages must be read: number and body.
    pub(super) fn to_load(&self) -> Vec<(u64, u64)> {
        let head = self.ready.iter().take(WINDOW / 2);
        head.filter(|(_, e)| e.message.is_none()).map(|(&seq, e)| (seq, e.body)).collect()
    }

    /// Forgets the messages in memory, for nobody consumes the queue any more.
    pub(super) fn forget(&mut self) {
        for entry in self.ready.values_mut() {
            if self.cached == 0 {
                break;
            }
            self.cached -= usize::from(entry.message.take().is_some());
        }
    }

    /// The next subscription that can take a message: each in its turn.
    pub(super) fn taker(&mut self, subs: &BTreeMap<u64, Sub>, durable: bool) -> Option<u64> {
        for _ in 0..self.consumers.len() {
            let id = *self.consumers.front()?;
            self.consumers.rotate_left(1);
            if subs.get(&id).is_some_and(|sub| sub.has_credit(durable)) {
                return Some(id);
            }
        }
        None
    }
}

/// A delivery that is not acknowledged yet.
#[derive(Debug)]
pub(super) struct Unacked {
    /// Its queue.
    pub(super) queue: QueueName,
    /// Its number there.
    pub(super) seq: u64,
    /// Number of the message.
    pub(super) body: u64,
    /// When it may be started at the latest.
    pub(super) finish_time: Option<u64>,
}

impl Unacked {
    /// The entry that goes back to the queue.
    pub(super) fn entry(&self) -> Entry {
        Entry { body: self.body, finish_time: self.finish_time, redelivered: true, message: None }
    }
}

/// A subscription.
#[derive(Debug)]
pub(super) struct Sub {
    /// What it is to.
    pub(super) source: Source,
    /// Where deliveries go: it has room for all that may be out.
    pub(super) deliveries: mpsc::Sender<Delivery>,
    /// Whether all its queues are consumed.
    pub(super) connected: watch::Sender<bool>,
    /// Unacknowledged deliveries at most.
    pub(super) prefetch: usize,
    /// Deliveries that need no acknowledgement and are not done with, at most.
    pub(super) free: usize,
    /// Those that are out now.
    pub(super) open: usize,
    /// Unacknowledged deliveries by tag.
    pub(super) unacked: HashMap<u64, Unacked>,
    /// False while another subscription has the exclusive queue.
    pub(super) active: bool,
    /// Which of its shared queues is served first.
    pub(super) turn: bool,
}

impl Sub {
    fn has_credit(&self, durable: bool) -> bool {
        if durable { self.unacked.len() < self.prefetch } else { self.open < self.free }
    }

    /// The queues that it consumes, the one to be served first at the front.
    pub(super) fn queues(&self) -> Vec<QueueName> {
        match &self.source {
            Source::Replies(bridge) => vec![QueueName::Reply(bridge.clone())],
            Source::Notify(name) => vec![QueueName::Notify(name.clone())],
            Source::Agent(agent) => {
                let mut names = vec![
                    QueueName::Call(agent.clone()),
                    QueueName::AnyCall(agent.agent_type.clone()),
                    QueueName::Cast(agent.clone()),
                    QueueName::Any(agent.agent_type.clone()),
                ];
                if self.turn {
                    names.swap(2, 3);
                }
                names
            }
        }
    }

    /// Sends a message, or gives it back when the receiver has gone.
    pub(super) fn send(
        &self,
        settlements: &Arc<Settlements>,
        (id, tag): (u64, Option<u64>),
        queue: &QueueName,
        message: Arc<Message>,
        redelivered: bool,
    ) -> Result<(), Box<Message>> {
        let delivery = Delivery {
            message: Arc::unwrap_or_clone(message),
            queue: queue.clone(),
            redelivered,
            ack: Box::new(LocalAck::new(settlements.clone(), id, tag)),
        };
        self.deliveries.try_send(delivery).map_err(|refused| Box::new(refused.into_inner().message))
    }
}

/// Whether nobody shall start it any more: its finish time has passed.
pub(super) fn is_late(finish_time: Option<u64>) -> bool {
    finish_time.is_some_and(|time| time < now_millis())
}
