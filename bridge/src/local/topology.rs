//! Which queues there are.
//!
//! Invariant: a durable queue is in memory as soon as its row is on the way to the store, for
//! whatever is written into it is written after that row.

use goperation::{AgentType, EndpointName};
use tokio::sync::oneshot;

use super::{
    keys,
    queue::Queue,
    record,
    state::{Effect, State},
};
use crate::{Address, QueueInfo, QueueName, Source, TransportError};

/// Answers a change of the topology with a count.
pub(super) type ChangeReply = oneshot::Sender<Result<u32, TransportError>>;

impl State {
    /// Makes the CAST queue of an agent, bound to the broadcasts of exactly these endpoints.
    pub(super) fn ensure_agent(
        &mut self,
        agent: Address,
        endpoints: Vec<EndpointName>,
        reply: ChangeReply,
    ) {
        let name = QueueName::Cast(agent.clone());
        let endpoints = endpoints.into_iter().collect();
        let known = self.queues.get(&name).is_some_and(|queue| queue.endpoints == endpoints);
        if !known {
            let texts = endpoints.iter().map(|e: &EndpointName| e.to_string()).collect();
            self.batch.put(keys::queue(&name), record::queue(texts));
            self.queues.entry(name).or_default().endpoints = endpoints;
            self.attach_all(|source| matches!(source, Source::Agent(a) if *a == agent));
        }
        self.batch.effect(Effect::Changed { reply, count: 0 });
    }

    /// Makes the shared CAST queue of a type.
    pub(super) fn ensure_type(&mut self, agent_type: &AgentType, reply: ChangeReply) {
        let name = QueueName::Any(agent_type.clone());
        if !self.queues.contains_key(&name) {
            self.make(name);
            self.attach_all(
                |source| matches!(source, Source::Agent(a) if a.agent_type == *agent_type),
            );
        }
        self.batch.effect(Effect::Changed { reply, count: 0 });
    }

    /// Makes a notify queue; false when there are too many.
    pub(super) fn ensure_notify(&mut self, name: &QueueName) -> bool {
        if self.queues.contains_key(name) {
            return true;
        }
        let notify = self.queues.keys().filter(|name| matches!(name, QueueName::Notify(_)));
        if notify.count() >= self.config.max_notify_queues {
            return false;
        }
        self.make(name.clone());
        true
    }

    fn make(&mut self, name: QueueName) {
        self.batch.put(keys::queue(&name), record::queue(Vec::new()));
        self.queues.insert(name, Queue::default());
    }

    fn attach_all(&mut self, mut fits: impl FnMut(&Source) -> bool) {
        let fitting = self.subs.iter().filter(|(_, sub)| fits(&sub.source));
        for id in fitting.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.attach(id);
        }
    }

    /// Removes the CAST queue of an agent; what is in it, delivered or not, becomes dead letters.
    pub(super) fn remove_agent(&mut self, agent: &Address, reply: ChangeReply) {
        let name = QueueName::Cast(agent.clone());
        let mut letters = Vec::new();
        if let Some(queue) = self.queues.remove(&name) {
            self.batch.delete(keys::queue(&name));
            letters.extend(queue.ready.iter().map(|(&seq, entry)| (seq, entry.body)));
            for id in queue.consumers {
                let Some(sub) = self.subs.get_mut(&id) else { continue };
                sub.connected.send_replace(false);
                sub.unacked.retain(|_, unacked| {
                    let here = unacked.queue == name;
                    if here {
                        letters.push((unacked.seq, unacked.body));
                    }
                    !here
                });
            }
        }
        letters.sort_unstable();
        let count = u32::try_from(letters.len()).unwrap_or(u32::MAX);
        for (seq, body) in letters {
            self.batch.delete(keys::place(&name, seq));
            self.bury(body, &name, "AGENT_DELETED");
        }
        self.batch.effect(Effect::Changed { reply, count });
    }

    /// The queue as it is now.
    pub(super) fn info(&self, name: &QueueName) -> Option<QueueInfo> {
        let (depth, consumers) = if *name == QueueName::Dead {
            (self.dead.len(), 0)
        } else {
            let queue = self.queues.get(name)?;
            (queue.ready.len(), queue.consumers.len())
        };
        Some(QueueInfo {
            name: name.clone(),
            depth: u32::try_from(depth).unwrap_or(u32::MAX),
            consumers: u32::try_from(consumers).unwrap_or(u32::MAX),
        })
    }
}
