//! Admission: whether a delivery runs, waits, goes round again or is refused.
//!
//! Invariant: what is let in is in the journal's hands, or, where it only reads, in a job's; all else
//! is answered or sent round, and leaves nothing.

use std::sync::Arc;

use goperation::{AgentStatus, Error, Reason};
use goperation_bridge::{Body, Delivery, Kind, Message, QueueName};
use tokio::time::Instant;
use tracing::error;

use super::{Admitted, Dispatcher, Pass, class, verdict};
use crate::{
    answer::{busy_until_finish, over_finish_time},
    each,
    gate::{MethodClass, Verdict},
    job::{Job, Place, is_busy},
    journal::{Entry, Phase},
    order::OrderKey,
    upgrade::is_upgrade,
    waiters::Waiter,
};

impl Dispatcher {
    /// Takes a delivery through the filters and the gate.
    pub(super) async fn admit(&mut self, delivery: Delivery) {
        let message = &delivery.message;
        if !self.agent.is_meant(message) {
            self.acknowledge(delivery.ack);
            return;
        }
        self.agent.counters.delivered();
        if self.agent.waiters.join(message) {
            self.acknowledge(delivery.ack);
            return;
        }
        if let Some(late) = over_finish_time(message, self.agent.core.manager_now()) {
            let status = self.agent.core.status();
            // It came in time, and was sent round for as long as it had.
            let why = if message.attempt == 0 {
                late
            } else if is_busy(status) {
                busy_until_finish(message, status)
            } else if self.room(&self.order_keys(message)).is_none() {
                self.no_room().with_message_id(&message.id)
            } else {
                late
            };
            return self.stored_or(delivery, why);
        }
        match verdict(self.agent.core.status(), message) {
            Verdict::Hold => {
                let due = Instant::now() + self.agent.config.hold;
                self.held.push_back((due, delivery));
            }
            verdict => self.follow(verdict, delivery).await,
        }
    }

    pub(super) async fn follow(&mut self, verdict: Verdict, delivery: Delivery) {
        match verdict {
            Verdict::Run => self.accept(delivery).await,
            Verdict::Refuse => self.refused(delivery),
            Verdict::Hold | Verdict::Resend => self.resend(delivery),
        }
    }

    /// A message that the journal knows gets its stored answer even where a new one is refused.
    fn stored_or(&mut self, delivery: Delivery, error: Error) {
        let agent = Arc::clone(&self.agent);
        self.errands.spawn(async move {
            let known = agent.journal.get(&delivery.message.id).await;
            match known.ok().flatten().filter(|entry| entry.phase() == Phase::Done) {
                Some(entry) => {
                    let waiters = Waiter::of(&delivery.message).into_iter().collect();
                    agent.answer_again(delivery, waiters, &entry).await;
                }
                None => agent.refuse(delivery, error).await,
            }
        });
    }

    fn refused(&mut self, delivery: Delivery) {
        let status = self.agent.core.status();
        let error = Error::new(
            Reason::AgentNotActive,
            format!("the agent is {status}; endpoint methods run only on an ACTIVE one"),
        )
        .with("state", status);
        self.stored_or(delivery, error);
    }

    /// Lets a message in that the gate lets run.
    async fn accept(&mut self, delivery: Delivery) {
        let message = &delivery.message;
        let shared = matches!(delivery.queue, QueueName::Any(_) | QueueName::AnyCall(_));
        let read_only = match self.agent.is_read_only(message) {
            Ok(read_only) => read_only,
            Err(error) => return self.refuse(delivery, error),
        };
        let Body::Object(_) = &message.body else {
            return self.refuse(delivery, Error::invalid("args", "must be an object"));
        };
        if class(message) == MethodClass::Endpoint
            && let Err(error) = each::check(message)
        {
            return self.refuse(delivery, error);
        }
        if self.agent.waiters.len() >= self.agent.config.max_journal {
            self.bound_reached();
            return self.resend(delivery);
        }
        let keys = self.order_keys(message);
        let Some(pass) = self.room(&keys) else { return self.locked(delivery) };
        if !self.agent.waiters.enter(message) {
            self.acknowledge(delivery.ack);
            return;
        }
        // A request has one answer of each agent, also when its message comes twice.
        if read_only && message.request.is_none() {
            let Delivery { message, ack, .. } = delivery;
            self.acknowledge(ack);
            let job = Job { message, entry: None, shared, at_once: false, place: None };
            return self.enqueue(job, pass);
        }
        if pass.is_some() {
            self.beyond = keys.len();
        }
        self.arrival += 1;
        let now = self.agent.core.manager_now();
        let (at_once, place) = self.at_once(message, shared, &keys);
        let entry = Entry::received(message, shared, now, self.arrival, at_once);
        match self.agent.journal.receive(&message.id, entry).await {
            Ok(received) => {
                for key in keys {
                    *self.arriving_for.entry(key).or_default() += 1;
                }
                let admitted = Admitted { pass, at_once, place };
                self.arriving
                    .push_back(Box::pin(async move { (delivery, received.await, admitted) }));
            }
            Err(error) => {
                self.agent.waiters.leave(&message.id);
                error!(%error, "message was not journaled");
                self.agent.core.failed().cancel();
            }
        }
    }

    /// Whether a message may begin as soon as it is durable, as far as is known now: nothing is before
    /// it, and there is a place. Then *received* and *started* are one transaction.
    fn at_once(&self, message: &Message, shared: bool, keys: &[OrderKey]) -> (bool, Place) {
        // One for any agent is claimed before it is started, and an upgrade is told by its *started*.
        if shared || is_upgrade(message) || self.agent.core.status() != AgentStatus::Active {
            return (false, None);
        }
        let after =
            |key: &OrderKey| self.orders.is_busy(key) || self.arriving_for.contains_key(key);
        if keys.iter().any(after) {
            return (false, None);
        }
        if !self.agent.needs_place(message) {
            return (true, None);
        }
        let place = Arc::clone(&self.agent.running).try_acquire_owned().ok();
        (place.is_some(), place)
    }

    /// Room for work on these entities, if there is: at most so many are worked on at a time. Work on
    /// several would hardly ever find room for all while others come and go, so one such at a time
    /// may be beyond the bound, and takes no room from them.
    fn room(&self, keys: &[OrderKey]) -> Option<Pass> {
        let beyond = if self.pass.available_permits() == 0 { self.beyond } else { 0 };
        if self.orders.has_room(keys, self.agent.config.max_entity_locks + beyond) {
            return Some(None);
        }
        let pass = (keys.len() > 1).then(|| Arc::clone(&self.pass).try_acquire_owned().ok());
        pass.flatten().map(Some)
    }

    fn no_room(&self) -> Error {
        let max = self.agent.config.max_entity_locks;
        let message = format!("{max} entities are being worked on, as many as may be; try again");
        Error::new(Reason::Locked, message)
    }

    fn locked(&mut self, delivery: Delivery) {
        if delivery.message.kind != Kind::Call {
            return self.resend(delivery);
        }
        let error = self.no_room();
        self.refuse(delivery, error);
    }
}
