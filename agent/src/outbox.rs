//! Answers to requests that the manager does not have yet.
//!
//! Invariant: an answer is in here from the transaction on that ends its message in the journal,
//! until the manager has said that it has it, or that nobody asks for it any more; the journal's
//! sweep does not touch it. What the manager has is removed a little later, many together: after a
//! crash it is sent once more. Of one message one thing is sent at a time, and its answer last.

mod answer;
mod queue;
mod send;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use goperation::{
    Error, MessageId, Reason, Result, now_millis, to_timestamp,
    v1::{RespondRequest, ResponseState},
};
use goperation_bridge::Message;
use goperation_store::{Scan, Store, Txn};
use prost::Message as _;
use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};

use self::queue::{Queue, Work};
use crate::{agent::Agent, journal::Entry};

pub(crate) use send::send;

/// Layout of [`Row`].
const VERSION: u32 = 1;
const PREFIX: &[u8] = b"o/";
/// Rows that the start reads at a time: each may be large.
const LOAD_BATCH: usize = 64;
/// How long what is told of a message waits for its answer, which makes it needless: that a method
/// runs that is over within this is news to nobody, and it is an RPC, a row and an event.
const TELL_DELAY: Duration = Duration::from_millis(500);

/// An answer.
#[derive(Clone, PartialEq, prost::Message)]
struct Row {
    #[prost(uint32, tag = "1")]
    version: u32,
    /// Without the agent's secret.
    #[prost(message, optional, tag = "2")]
    answer: Option<RespondRequest>,
}

/// The outbox in the agent's store.
#[derive(Debug)]
pub(crate) struct Outbox {
    store: Arc<dyn Store>,
    queue: Mutex<Queue>,
    new: Notify,
}

fn key(id: &MessageId) -> Vec<u8> {
    [PREFIX, id.as_str().as_bytes()].concat()
}

/// Puts the answer of an entry that is done beside it, and says which bytes that are; nothing when
/// no request asks for it.
pub(crate) fn put(
    txn: Txn,
    id: &MessageId,
    entry: &Entry,
    agent: Option<u32>,
) -> (Txn, Option<Vec<u8>>) {
    let Some(answer) = answer::answer(entry, agent) else { return (txn, None) };
    let bytes = Row { version: VERSION, answer: Some(answer) }.encode_to_vec();
    (txn.put(key(id), bytes.clone()), Some(bytes))
}

impl Outbox {
    /// The outbox in that store.
    #[must_use]
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, queue: Mutex::default(), new: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what the last run of the agent left. Answers how much that is.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store is closed, `INTERNAL` when a key is none of an outbox.
    pub(crate) async fn load(&self) -> Result<usize> {
        let mut scan = Scan::prefix(PREFIX).limit(LOAD_BATCH);
        let mut found = 0;
        loop {
            let rows = self.store.scan(scan.clone()).await.map_err(crate::error::store)?;
            found += rows.len();
            for (key, _) in &rows {
                let id = String::from_utf8_lossy(key.get(PREFIX.len()..).unwrap_or_default());
                self.answered(&MessageId::parse("message_id", &id)?, None);
            }
            match rows.last() {
                Some((last, _)) if rows.len() == LOAD_BATCH => {
                    scan.start = [last.as_slice(), &[0]].concat();
                }
                _ => return Ok(found),
            }
        }
    }

    /// The answer of a message is durable: it is to be sent, and nothing else of it any more. With
    /// its bytes it need not be read again.
    pub(crate) fn answered(&self, id: &MessageId, bytes: Option<Vec<u8>>) {
        self.queue().answered(id, bytes);
        self.new.notify_one();
    }

    /// Puts the answer of a message in again, for a repeat of it. Answers whether it has one.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store is closed.
    async fn put_again(&self, id: &MessageId, entry: &Entry, agent: Option<u32>) -> Result<bool> {
        let (txn, bytes) = put(Txn::new(), id, entry, agent);
        if bytes.is_none() {
            return Ok(false);
        }
        self.store.commit(txn).await.map_err(crate::error::store)?;
        self.answered(id, bytes);
        Ok(true)
    }

    /// What is to be sent next, if anything is now.
    fn next(&self, now: Instant) -> Option<Work> {
        self.queue().next(now)
    }

    /// The bytes of a message's answer; none when it was sent already.
    async fn read(&self, id: &MessageId) -> Result<Option<Vec<u8>>> {
        self.store.get(key(id)).await.map_err(crate::error::store)
    }

    /// Removes the answers that had these bytes; another one that came meanwhile stays.
    async fn forget(&self, said: Vec<(MessageId, Vec<u8>)>) -> Result<()> {
        if said.is_empty() {
            return Ok(());
        }
        let remove = |txn: Txn, (id, bytes): &(MessageId, Vec<u8>)| {
            txn.equals(key(id), bytes.as_slice()).delete(key(id))
        };
        let all = said.iter().fold(Txn::new(), remove);
        if self.store.commit(all).await.map_err(crate::error::store)?.is_applied() {
            return Ok(());
        }
        for one in &said {
            self.store.commit(remove(Txn::new(), one)).await.map_err(crate::error::store)?;
        }
        Ok(())
    }
}

/// The answer that bytes of the outbox are.
fn decode(bytes: &[u8]) -> Result<RespondRequest> {
    let unreadable = |why: &dyn std::fmt::Display| {
        Error::new(Reason::Internal, format!("its bytes in the outbox cannot be read: {why}"))
    };
    match Row::decode(bytes).map_err(|error| unreadable(&error))? {
        Row { version: VERSION, answer: Some(answer) } => Ok(answer),
        Row { version, .. } => Err(unreadable(&format_args!("they have version {version}"))),
    }
}

impl Agent {
    /// Tells the manager how far a message of a request is, as well as it goes: only the newest
    /// matters, and its answer more than that.
    pub(crate) fn tell(&self, message: &Message, state: ResponseState, progress: &str) {
        let Some(request) = &message.request else { return };
        let now = now_millis();
        let told = RespondRequest {
            id: request.clone(),
            agent_id: wire_id(self.manager.agent_id()),
            state: state.into(),
            progress: progress.to_owned(),
            start_time: (state == ResponseState::Running && progress.is_empty())
                .then(|| to_timestamp(now)),
            ..RespondRequest::default()
        };
        self.outbox.queue().tell(&message.id, told, Instant::now() + TELL_DELAY);
        self.outbox.new.notify_one();
    }

    /// Sees to it that the answer that the journal has of a message gets to the manager.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store is closed.
    pub(crate) async fn send_answer_again(&self, id: &MessageId, entry: &Entry) -> Result<bool> {
        self.outbox.put_again(id, entry, self.manager.agent_id()).await
    }
}

fn wire_id(agent: Option<u32>) -> i32 {
    agent.and_then(|id| i32::try_from(id).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use goperation::JsonObject;
    use goperation_bridge::{Body, Kind};
    use goperation_store::{Options, SledStore};

    use super::*;
    use crate::journal::{Journal, Received};

    fn message(id: &str, request: bool) -> Message {
        Message {
            request: request.then(|| id.to_owned()),
            ..Message::new(
                Kind::Cast,
                MessageId::parse("id", id).unwrap(),
                Body::Object(JsonObject::new()),
            )
        }
    }

    #[tokio::test]
    async fn an_answer_outlives_its_entry_in_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(SledStore::open(Options::new(dir.path().join("store"))).unwrap());
        let (journal, outbox) = (Journal::new(Arc::clone(&store)), Outbox::new(Arc::clone(&store)));
        for (id, request) in [("done", true), ("plain", false)] {
            let message = message(id, request);
            let entry = Entry::received(&message, false, 1, 1, false);
            let received = journal.receive(&message.id, entry).await.unwrap().await.unwrap();
            let Received::New(mut entry) = received else { panic!("it is new") };
            let outcome = Ok(JsonObject::new());
            let done = journal.done(&message.id, &mut entry, &outcome, Some(7)).await.unwrap();
            assert_eq!(done, outbox.read(&message.id).await.unwrap());
        }
        let refused = message("refused", true);
        let error = Error::new(Reason::AgentNotActive, "it is not");
        let first = journal.refuse(&refused, 1, &error, Some(7)).await.unwrap();
        assert!(matches!(first, Received::New(_)));
        let again = journal.refuse(&refused, 1, &error, Some(7)).await.unwrap();
        let Received::Known(entry) = again else { panic!("it is known") };
        assert!(entry.is_refused() && entry.outcome().is_some());

        assert_eq!(journal.sweep(u64::MAX).await.unwrap(), 3);
        assert!(journal.get(&refused.id).await.unwrap().is_none());
        assert_eq!(outbox.load().await.unwrap(), 2);
        let done = message("done", true).id;
        let bytes = outbox.read(&done).await.unwrap().unwrap();
        let answer = decode(&bytes).unwrap();
        assert_eq!((answer.state(), answer.agent_id), (ResponseState::Succeeded, 7));
        assert_eq!(answer.secret, "");

        // What is put in anew meanwhile is not taken out with what was there before.
        let other = refused.id.clone();
        let bytes_of_other = outbox.read(&other).await.unwrap().unwrap();
        let both = |bytes: &[u8]| {
            vec![(done.clone(), bytes.to_vec()), (other.clone(), bytes_of_other.clone())]
        };
        outbox.forget(both(b"other")).await.unwrap();
        assert!(outbox.read(&done).await.unwrap().is_some());
        assert!(outbox.read(&other).await.unwrap().is_none());
        outbox.forget(vec![(done.clone(), bytes)]).await.unwrap();
        assert!(outbox.read(&done).await.unwrap().is_none());
    }
}
