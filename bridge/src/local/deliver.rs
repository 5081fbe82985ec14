//! Deliveries: who gets the next message, and what becomes of it.
//!
//! Invariant: a message is in exactly one of a queue's `ready` and a subscription's `unacked`.

use std::collections::BTreeSet;

use goperation::now_millis;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    keys,
    queue::{Entry, Queue, Sub, Unacked, is_durable, is_late},
    settle::{Settlement, Verdict},
    state::State,
};
use crate::{Message, QueueName, Source, Subscription, TransportError};

/// CALLs and replies that may be out for one subscription: they need no acknowledgement, so the
/// prefetch does not hold them back.
const FREE_DELIVERIES: usize = 256;

impl State {
    /// Starts a subscription; answers its number, and the token whose end ends it.
    pub(super) fn subscribe(
        &mut self,
        source: Source,
        prefetch: u16,
    ) -> Result<(Subscription, u64, CancellationToken), TransportError> {
        if let Source::Notify(name) = &source
            && !self.ensure_notify(&QueueName::Notify(name.clone()))
        {
            return Err(TransportError::Refused("there are too many notify queues".to_owned()));
        }
        let prefetch = usize::from(prefetch.max(1));
        let (sender, deliveries) = mpsc::channel(prefetch + FREE_DELIVERIES);
        let (connected, watching) = watch::channel(false);
        let token = CancellationToken::new();
        let id = self.number();
        let taken = !matches!(source, Source::Notify(_))
            && self.subs.values().any(|sub| sub.active && sub.source == source);
        let sub = Sub {
            source,
            deliveries: sender,
            connected,
            prefetch,
            free: FREE_DELIVERIES,
            open: 0,
            unacked: std::collections::HashMap::new(),
            active: !taken,
            turn: false,
        };
        self.subs.insert(id, sub);
        self.attach(id);
        let guard = token.clone().drop_guard();
        Ok((Subscription { deliveries, connected: watching, guard }, id, token))
    }

    /// Makes an active subscription a consumer of those of its queues that exist.
    pub(super) fn attach(&mut self, id: u64) {
        let Some(sub) = self.subs.get(&id).filter(|sub| sub.active) else { return };
        let names = sub.queues();
        let mut all = self.failed.is_none();
        for name in &names {
            if !is_durable(name) {
                self.queues.entry(name.clone()).or_default();
            }
            match self.queues.get_mut(name) {
                Some(queue) if !queue.consumers.contains(&id) => queue.consumers.push_back(id),
                Some(_) => {}
                None => all = false,
            }
        }
        sub.connected.send_replace(all);
        self.pump_all(&names);
    }

    /// Ends a subscription: what it has not acknowledged goes back to its queues.
    pub(super) fn unsubscribe(&mut self, id: u64) {
        let Some(sub) = self.subs.remove(&id) else { return };
        sub.connected.send_replace(false);
        for unacked in sub.unacked.values() {
            self.put_back(unacked);
        }
        let names = sub.queues();
        for name in &names {
            let Some(queue) = self.queues.get_mut(name) else { continue };
            queue.consumers.retain(|&consumer| consumer != id);
            if queue.consumers.is_empty() {
                queue.forget();
                if !is_durable(name) {
                    self.queues.remove(name);
                }
            }
        }
        self.pump_all(&names);
        if sub.active {
            let waiting = self.subs.iter_mut().find(|(_, s)| !s.active && s.source == sub.source);
            if let Some((&next, waiting)) = waiting {
                waiting.active = true;
                self.attach(next);
            }
        }
    }

    /// Ends every subscription.
    pub(super) fn unsubscribe_all(&mut self) {
        while let Some((&id, _)) = self.subs.last_key_value() {
            self.unsubscribe(id);
        }
    }

    fn put_back(&mut self, unacked: &Unacked) {
        if let Some(queue) = self.queues.get_mut(&unacked.queue) {
            queue.add(unacked.seq, unacked.entry());
        }
    }

    /// What became of deliveries.
    pub(super) fn settle(&mut self, list: Vec<Settlement>) {
        let mut names = BTreeSet::new();
        let mut freed = BTreeSet::new();
        for Settlement { sub: id, tag, verdict } in list {
            let Some(sub) = self.subs.get_mut(&id) else { continue };
            freed.insert(id);
            let Some(tag) = tag else {
                sub.open = sub.open.saturating_sub(1);
                continue;
            };
            let Some(unacked) = sub.unacked.remove(&tag) else { continue };
            match verdict {
                Verdict::Ack => {
                    self.batch.delete(keys::place(&unacked.queue, unacked.seq));
                    self.release(unacked.body);
                }
                Verdict::Requeue => {
                    self.put_back(&unacked);
                    names.insert(unacked.queue);
                }
            }
        }
        for id in freed {
            if let Some(sub) = self.subs.get_mut(&id) {
                sub.turn = !sub.turn;
                let queues = sub.queues();
                self.pump_all(&queues);
            }
        }
        let names: Vec<_> = names.into_iter().collect();
        self.pump_all(&names);
    }

    fn pump_all(&mut self, names: &[QueueName]) {
        for name in names {
            self.pump(name);
        }
    }

    /// Delivers from a queue until it is empty or nobody can take more.
    pub(super) fn pump(&mut self, name: &QueueName) {
        let durable = is_durable(name);
        while let Some(queue) = self.queues.get_mut(name) {
            let Some((&seq, head)) = queue.ready.first_key_value() else { return };
            if is_late(head.finish_time) {
                self.bury_entry(name, seq, "EXPIRED");
                continue;
            }
            let Some(id) = queue.taker(&self.subs, durable) else { return };
            if !self.deliver(name, seq, id) {
                return;
            }
        }
    }

    /// Delivers one message; false when it must be read from the store first.
    fn deliver(&mut self, name: &QueueName, seq: u64, id: u64) -> bool {
        let tag = is_durable(name).then(|| self.number());
        let (Some(queue), Some(sub)) = (self.queues.get_mut(name), self.subs.get_mut(&id)) else {
            return false;
        };
        if queue.ready.get(&seq).is_none_or(|entry| entry.message.is_none()) {
            if !queue.loading {
                queue.loading = true;
                self.loads.push((name.clone(), queue.to_load()));
            }
            return false;
        }
        let Some(Entry { body, finish_time, redelivered, message: Some(message) }) =
            queue.take(seq)
        else {
            return false;
        };
        if let Some(tag) = tag {
            let unacked = Unacked { queue: name.clone(), seq, body, finish_time };
            sub.unacked.insert(tag, unacked);
        } else {
            sub.open += 1;
        }
        if let Err(message) = sub.send(&self.settlements, (id, tag), name, message, redelivered) {
            if tag.is_none() {
                let message = Some((*message).into());
                let entry = Entry { body, finish_time, redelivered, message };
                queue.ready.insert(seq, entry);
            }
            self.unsubscribe(id);
        }
        true
    }

    /// Messages that were read for a queue; one that is not readable is a dead letter.
    pub(super) fn loaded(&mut self, name: &QueueName, messages: Vec<(u64, Option<Message>)>) {
        for (seq, message) in messages {
            match (message, self.queues.get_mut(name)) {
                (Some(message), Some(queue)) => queue.fill(seq, message),
                (None, Some(queue)) if queue.ready.contains_key(&seq) => {
                    self.bury_entry(name, seq, "UNREADABLE");
                }
                _ => {}
            }
        }
        if let Some(queue) = self.queues.get_mut(name) {
            queue.loading = false;
            if queue.consumers.is_empty() {
                queue.forget();
            }
        }
        self.pump(name);
    }

    /// Brings back what is due, and buries what nobody may start any more at the head of a queue.
    pub(super) fn tick(&mut self) {
        let now = now_millis();
        while let Some(first) = self.delayed.first_entry() {
            let (due, seq) = *first.key();
            if due > now {
                break;
            }
            let delayed = first.remove();
            self.batch.delete(keys::delayed(due, seq));
            if self.queues.contains_key(&delayed.queue) {
                let entry = Entry {
                    body: delayed.body,
                    finish_time: delayed.finish_time,
                    redelivered: false,
                    message: None,
                };
                self.enqueue(delayed.queue, entry);
            } else {
                self.bury(delayed.body, &delayed.queue, "QUEUE_NOT_FOUND");
            }
        }
        let head_is_late = |queue: &Queue| {
            queue.ready.first_key_value().is_some_and(|(_, head)| is_late(head.finish_time))
        };
        let late = self.queues.iter().filter(|(_, queue)| head_is_late(queue));
        for name in late.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.bury_late(&name);
        }
    }

    fn bury_late(&mut self, name: &QueueName) {
        while let Some((&seq, head)) =
            self.queues.get(name).and_then(|queue| queue.ready.first_key_value())
            && is_late(head.finish_time)
        {
            self.bury_entry(name, seq, "EXPIRED");
        }
    }
}
