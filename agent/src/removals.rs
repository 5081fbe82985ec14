//! Entities that this agent shall delete because the manager's record does not have them.
//!
//! Invariant: an entity is removed by one run at a time, in the order of its other messages, and
//! never in the way of the lease. What was not removed is asked for again at the next sync.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use goperation::{Error, JsonObject, MessageId, Reason};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::{agent::Agent, order::OrderKey};

/// What is to be removed, and what is being removed.
#[derive(Debug, Default)]
pub(crate) struct Removals {
    /// The value says whether the dispatcher has it.
    asked: Mutex<BTreeMap<OrderKey, bool>>,
    new: Notify,
}

impl Removals {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<OrderKey, bool>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for one; nothing when it is asked for already.
    pub(crate) fn ask(&self, key: OrderKey) {
        self.lock().entry(key).or_insert(false);
        self.new.notify_one();
    }

    /// Waits for what is asked for and not begun, and takes all of it.
    pub(crate) async fn next(&self) -> Vec<OrderKey> {
        loop {
            let taken: Vec<_> = self
                .lock()
                .iter_mut()
                .filter_map(|(key, taken)| (!std::mem::replace(taken, true)).then(|| key.clone()))
                .collect();
            if !taken.is_empty() {
                return taken;
            }
            self.new.notified().await;
        }
    }

    fn done(&self, key: &OrderKey) {
        self.lock().remove(key);
    }
}

impl Agent {
    /// Deletes an entity that the manager's record does not have.
    pub(crate) async fn remove(&self, key: &OrderKey) {
        let (endpoint, number) = key;
        // Apart: thousands of jobs that wait for their turn have room for what this keeps.
        let removed = Box::pin(self.remove_unrecorded(endpoint, *number)).await;
        self.removals.done(key);
        match removed {
            Ok(()) => info!(endpoint, entity = number, "removed: not on record"),
            Err(error) => {
                warn!(endpoint, entity = number, %error, "not removed");
                self.sync_again();
            }
        }
    }

    async fn remove_unrecorded(&self, endpoint: &str, number: u32) -> Result<(), Error> {
        // The same after a crash, so that the program of a broken-off run is found.
        let agent = self.manager.agent_id().unwrap_or(0);
        let id = MessageId::parse("id", &format!("remove:{agent}:{endpoint}:{number}"))?;
        self.kill_orphans_of(std::slice::from_ref(&id)).await;
        let _place = self
            .running
            .acquire()
            .await
            .map_err(|_| Error::new(Reason::Unavailable, "the agent is stopping"))?;
        match self.delete_unrecorded(id, endpoint, number, JsonObject::new()).await {
            Err(error) if error.reason == Reason::EntityNotFound => Ok(()),
            outcome => outcome.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_is_taken_once_until_it_is_done() {
        let removals = Removals::default();
        let key = ("db".to_owned(), 3);
        removals.ask(key.clone());
        removals.ask(key.clone());
        assert_eq!(removals.next().await, std::slice::from_ref(&key));
        removals.ask(key.clone());
        removals.ask(("db".to_owned(), 4));
        assert_eq!(removals.next().await, [("db".to_owned(), 4)]);
        removals.done(&key);
        removals.ask(key.clone());
        assert_eq!(removals.next().await, [key]);
    }
}
