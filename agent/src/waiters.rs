//! Who waits for the answer of each message that is being worked on.
//!
//! Invariant: a message id is in here from its acceptance until its answer is out, so a duplicate
//! that arrives meanwhile is not run but waits for the same answer. Only the dispatcher enters.

use std::{collections::HashMap, sync::Mutex};

use goperation::MessageId;
use goperation_bridge::{Kind, Message};

/// Callers of one message beyond this many are not answered; they repeat and get the stored one.
const MAX_WAITERS: usize = 64;

/// A bridge that waits for one reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiter {
    /// The bridge.
    pub(crate) reply_to: String,
    /// Which of its calls.
    pub(crate) correlation: Option<String>,
    /// Until when, in milliseconds since 1970.
    pub(crate) deadline: Option<u64>,
}

impl Waiter {
    /// Who waits for this message's answer: nobody for a CAST.
    pub(crate) fn of(message: &Message) -> Option<Self> {
        if message.kind != Kind::Call {
            return None;
        }
        Some(Self {
            reply_to: message.reply_to.clone()?,
            correlation: message.correlation.clone(),
            deadline: message.deadline,
        })
    }
}

/// Messages that are being worked on, with their waiters.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<HashMap<MessageId, Vec<Waiter>>>);

impl Waiters {
    /// Enters a message. False when it is being worked on already; its waiter is added then.
    pub(crate) fn enter(&self, message: &Message) -> bool {
        if self.join(message) {
            return false;
        }
        self.lock().insert(message.id.clone(), Waiter::of(message).into_iter().collect());
        true
    }

    /// Adds the waiter of a message that is being worked on already; false when it is not.
    pub(crate) fn join(&self, message: &Message) -> bool {
        let mut map = self.lock();
        let Some(waiters) = map.get_mut(&message.id) else { return false };
        if let Some(waiter) = Waiter::of(message)
            && waiters.len() < MAX_WAITERS
            && !waiters.contains(&waiter)
        {
            waiters.push(waiter);
        }
        true
    }

    /// Takes a message out; its waiters are to be answered.
    pub(crate) fn leave(&self, id: &MessageId) -> Vec<Waiter> {
        self.lock().remove(id).unwrap_or_default()
    }

    /// How many messages are being worked on.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<MessageId, Vec<Waiter>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
