//! How deliveries end: a list that every delivery reports to, without waiting and without fail.
//!
//! Invariant: the list is bounded by the deliveries that are out, for each reports once.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::Ack;

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Done with.
    Ack,
    /// Back to its queue.
    Requeue,
}

/// The end of one delivery.
#[derive(Debug)]
pub(super) struct Settlement {
    /// Subscription that it went to.
    pub(super) sub: u64,
    /// Which; none for a delivery that nothing is kept of.
    pub(super) tag: Option<u64>,
    /// What becomes of it.
    pub(super) verdict: Verdict,
}

/// Ended deliveries that the actor has not looked at yet.
#[derive(Debug, Default)]
pub(super) struct Settlements {
    list: Mutex<Vec<Settlement>>,
    wake: Notify,
}

impl Settlements {
    fn push(&self, settlement: Settlement) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push(settlement);
        self.wake.notify_one();
    }

    /// Takes the list.
    pub(super) fn take(&self) -> Vec<Settlement> {
        std::mem::take(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the list has something.
    pub(super) async fn wait(&self) {
        self.wake.notified().await;
    }
}

/// Ends one delivery of the embedded transport.
pub(super) struct LocalAck {
    settlements: Arc<Settlements>,
    sub: u64,
    tag: Option<u64>,
    verdict: Verdict,
}

impl LocalAck {
    /// The end of the delivery `tag` to `sub`: back to its queue unless it is acknowledged.
    pub(super) fn new(settlements: Arc<Settlements>, sub: u64, tag: Option<u64>) -> Self {
        Self { settlements, sub, tag, verdict: Verdict::Requeue }
    }
}

impl fmt::Debug for LocalAck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalAck").field("sub", &self.sub).field("tag", &self.tag).finish()
    }
}

#[async_trait]
impl Ack for LocalAck {
    async fn ack(mut self: Box<Self>) {
        self.verdict = Verdict::Ack;
    }

    async fn requeue(self: Box<Self>) {}
}

impl Drop for LocalAck {
    fn drop(&mut self) {
        let Self { sub, tag, verdict, .. } = *self;
        self.settlements.push(Settlement { sub, tag, verdict });
    }
}
