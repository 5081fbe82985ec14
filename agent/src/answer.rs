//! What goes back to the broker: replies, messages sent again later, and dead letters. What
//! belongs to a request is answered to the manager instead, whatever becomes of it.
//!
//! Invariant: a delivery is acknowledged only after what replaces it is confirmed, or on disk. When
//! that fails it is given back a little later, so that the broker delivers it again.

use std::time::Duration;

use goperation::{AgentStatus, Error, JsonObject, Reason};
use goperation_bridge::{Body, Delivery, Kind, Message, PublishError, QueueName, Route};
use tokio::time::sleep;
use tracing::{debug, error, warn};

use crate::{
    agent::Agent,
    gate,
    journal::{Entry, Outcome, Received},
    waiters::Waiter,
};

/// When a caller of a busy agent is told to try again.
const BUSY_RETRY: Duration = Duration::from_millis(500);
/// How long a delivery is kept whose replacement the broker did not take: given back at once it
/// would come again at once, and spin for as long as the broker takes nothing.
const GIVE_BACK: Duration = Duration::from_secs(1);

impl Agent {
    /// Replies to those who still wait.
    pub(crate) async fn reply(&self, call: &Message, waiters: Vec<Waiter>, outcome: &Outcome) {
        let body = match outcome {
            Ok(object) => Body::Object(object.clone()),
            Err(error) => Body::Failure(Box::new(error.clone())),
        };
        for waiter in waiters {
            let message = Message {
                deadline: waiter.deadline,
                correlation: waiter.correlation,
                traceparent: call.traceparent.clone(),
                ..Message::new(Kind::Reply, call.id.clone(), body.clone())
            };
            let route = Route::Reply(waiter.reply_to);
            let mut sent = self.transport.publish(&route, &message).await;
            if let Err(PublishError::TooLarge { limit }) = sent {
                let body = Body::Failure(Box::new(too_large(call, limit)));
                sent = self.transport.publish(&route, &Message { body, ..message }).await;
            }
            // Whoever still waits sends the message again and gets the stored answer.
            if let Err(error) = sent {
                debug!(message_id = %call.id, %error, "reply was not taken");
            }
        }
    }

    /// Ends a delivery that is not run: a CALL is answered, a request too, and any other CAST goes
    /// to the dead letters.
    pub(crate) async fn refuse(&self, delivery: Delivery, error: Error) {
        debug!(message_id = %delivery.message.id, reason = %error.reason, "message refused");
        // A CALL of a busy agent comes again.
        if error.reason != Reason::AgentBusy || delivery.message.kind != Kind::Call {
            self.counters.refused();
        }
        if delivery.message.kind == Kind::Call {
            let waiters = Waiter::of(&delivery.message).into_iter().collect();
            self.reply(&delivery.message, waiters, &Err(error)).await;
            return delivery.ack.ack().await;
        }
        if delivery.message.request.is_some() {
            return self.refuse_request(delivery, &error).await;
        }
        if self.bury(&delivery.message, error.reason).await {
            delivery.ack.ack().await;
        } else {
            self.give_back(delivery).await;
        }
    }

    /// The refusal is the answer, also for whoever sends the message once more.
    async fn refuse_request(&self, delivery: Delivery, error: &Error) {
        let (message, now) = (&delivery.message, self.core.manager_now());
        let refused = self.journal.refuse(message, now, error, self.manager.agent_id()).await;
        match refused {
            Ok(Received::New(_)) => {
                self.outbox.answered(&message.id, None);
                delivery.ack.ack().await;
            }
            Ok(Received::Known(entry)) => self.answer_again(delivery, Vec::new(), &entry).await,
            Err(error) => {
                error!(%error, "a refusal was not journaled");
                self.core.failed().cancel();
            }
        }
    }

    async fn give_back(&self, delivery: Delivery) {
        self.stopping.run_until_cancelled(sleep(GIVE_BACK)).await;
        delivery.ack.requeue().await;
    }

    /// Puts a message into the dead letters. False when the broker did not take it.
    pub(crate) async fn bury(&self, message: &Message, reason: Reason) -> bool {
        let letter = Message { correlation: Some(reason.as_str().to_owned()), ..message.clone() };
        match self.transport.publish(&Route::Dead(self.address.clone()), &letter).await {
            Ok(()) => true,
            Err(error) => {
                warn!(message_id = %message.id, %error, "dead letter was not taken");
                false
            }
        }
    }

    /// Neither lost nor spun: a CALL is answered AGENT_BUSY and its bridge sends it again, a CAST
    /// goes through the delayed-retry steps.
    pub(crate) async fn resend(&self, delivery: Delivery) {
        let status = self.core.status();
        self.counters.resent();
        if delivery.message.kind == Kind::Call {
            let error = Error::new(Reason::AgentBusy, format!("the agent is {status}"))
                .with("state", status)
                .with_retry_after(BUSY_RETRY);
            return self.refuse(delivery, error).await;
        }
        let remaining = delivery
            .message
            .finish_time
            .map(|finish| Duration::from_millis(finish.saturating_sub(self.core.manager_now())));
        let step = gate::retry_step(delivery.message.attempt, remaining);
        let route = match &delivery.queue {
            QueueName::Any(_) | QueueName::AnyCall(_) => {
                Route::RetryAny(self.address.clone(), step)
            }
            _ => Route::RetryCast(self.address.clone(), step),
        };
        let attempt = delivery.message.attempt.saturating_add(1);
        let message = Message { attempt, ..delivery.message.clone() };
        match self.transport.publish(&route, &message).await {
            Ok(()) => delivery.ack.ack().await,
            Err(error) => {
                warn!(message_id = %message.id, %error, "message was not sent again");
                self.give_back(delivery).await;
            }
        }
    }

    /// Answers a message that the journal knows, when it has its outcome: those who wait for it,
    /// and the manager if it is of a request.
    pub(crate) async fn answer_again(
        &self,
        delivery: Delivery,
        waiters: Vec<Waiter>,
        entry: &Entry,
    ) {
        let message = &delivery.message;
        if let Some(outcome) = entry.outcome() {
            self.reply(message, waiters, &outcome).await;
        }
        if let Err(error) = self.send_answer_again(&message.id, entry).await {
            error!(%error, "an answer was not put into the outbox");
            return self.core.failed().cancel();
        }
        delivery.ack.ack().await;
    }
}

/// That a method ran, and no message can carry what it answered.
fn too_large(call: &Message, limit: usize) -> Error {
    let method = &call.method;
    let message = format!("{method} has ended; its answer is beyond {limit} bytes and is not sent");
    Error::new(Reason::TooLarge, message).with("limit", limit).with_message_id(&call.id)
}

/// That a message came after its finish time.
pub(crate) fn over_finish_time(message: &Message, now: u64) -> Option<Error> {
    let finish = message.finish_time?;
    (now >= finish).then(|| {
        Error::new(
            Reason::OverFinishtime,
            format!("it arrived {} ms after its finish time and was not started", now - finish),
        )
        .with_message_id(&message.id)
    })
}

/// As [`over_finish_time`], of a message that is over only because the agent's status held it, and
/// holds it still: the wait is what has ended (contract §3, AGENT_BUSY).
pub(crate) fn busy_until_finish(message: &Message, status: AgentStatus) -> Error {
    Error::new(Reason::AgentBusy, format!("the agent was {status} until its finish time"))
        .with("state", status)
        .with_message_id(&message.id)
}

/// The number of the entity that arguments name, if they do.
pub(crate) fn entity_of(args: &JsonObject) -> Option<u32> {
    args.get("entity")?.as_u64()?.try_into().ok()
}
