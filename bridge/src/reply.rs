//! Replies, and the CALLs that wait for them.
//!
//! Invariant: the map has one entry for each CALL that waits, bounded, and none for any other.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use goperation::{Error, JsonObject};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{Body, Message, Source, Subscription, Transport, error::rate_limited};

/// Replies that may be out for the bridge at a time.
const PREFETCH: u16 = 256;
/// Replies that one CALL may have waiting: each of its attempts may be answered.
const REPLIES: usize = 16;
/// How long until the subscription is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// A reply: to which attempt, and what.
pub(crate) type Reply = (u32, Result<JsonObject, Error>);

/// The CALLs that wait.
#[derive(Debug)]
pub(crate) struct Calls {
    limit: usize,
    waiting: Mutex<HashMap<String, mpsc::Sender<Reply>>>,
}

/// The place of one CALL in the map; it leaves the map when this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting {
    calls: Arc<Calls>,
    correlation: String,
    /// Its replies.
    pub(crate) replies: mpsc::Receiver<Reply>,
}

impl Calls {
    /// A map for so many CALLs.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, waiting: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, mpsc::Sender<Reply>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// A place for one more.
    ///
    /// # Errors
    /// `RATE_LIMITED` when all places are taken.
    pub(crate) fn register(self: &Arc<Self>) -> Result<Waiting, Error> {
        let correlation = uuid::Uuid::new_v4().simple().to_string();
        let (sender, replies) = mpsc::channel(REPLIES);
        let mut waiting = self.lock();
        if waiting.len() >= self.limit {
            return Err(rate_limited("waiting CALLs", self.limit));
        }
        waiting.insert(correlation.clone(), sender);
        drop(waiting);
        Ok(Waiting { calls: self.clone(), correlation, replies })
    }

    /// Hands a reply to the CALL that waits for it; one that nobody waits for is dropped.
    fn resolve(&self, reply: Message) {
        let correlation = reply.correlation.as_deref().unwrap_or_default();
        let Some((call, attempt)) = correlation.rsplit_once('.') else { return };
        let Ok(attempt) = attempt.parse() else { return };
        let result = match reply.body {
            Body::Object(object) => Ok(object),
            Body::Failure(error) => Err(*error),
        };
        if let Some(sender) = self.lock().get(call) {
            // Full only when a CALL got more replies than it can have attempts: one is enough.
            sender.try_send((attempt, result)).ok();
        }
    }
}

impl Waiting {
    /// What the replies to that attempt carry.
    pub(crate) fn correlation(&self, attempt: u32) -> String {
        format!("{}.{attempt}", self.correlation)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.calls.lock().remove(&self.correlation);
    }
}

/// Takes replies until `stop`.
pub(crate) async fn take_replies(
    transport: Arc<dyn Transport>,
    name: String,
    calls: Arc<Calls>,
    connected: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let work = async {
        loop {
            match transport.subscribe(Source::Replies(name.clone()), PREFETCH).await {
                Ok(subscription) => follow(subscription, &calls, &connected).await,
                Err(error) => tracing::warn!(%error, "failed to subscribe to the replies"),
            }
            connected.send_replace(false);
            tokio::time::sleep(RETRY).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

/// Takes replies until the subscription ends.
async fn follow(mut subscription: Subscription, calls: &Calls, connected: &watch::Sender<bool>) {
    let mut watching = true;
    connected.send_replace(*subscription.connected.borrow_and_update());
    loop {
        tokio::select! {
            changed = subscription.connected.changed(), if watching => {
                watching = changed.is_ok();
                connected.send_replace(watching && *subscription.connected.borrow_and_update());
            }
            delivery = subscription.deliveries.recv() => match delivery {
                Some(delivery) => {
                    calls.resolve(delivery.message);
                    delivery.ack.ack().await;
                }
                None => return,
            },
        }
    }
}
