//! The journal: received, started, done and outcome per message id (contract §3).
//!
//! Invariant: a message is acknowledged to the broker only after *received* is durable, its method
//! starts only after *started* is (both in one transaction, if nothing is before it), and its answer
//! goes out only after *done* is. So an effect
//! happens at most once per id, and a repeat gets the stored answer. What answers a request is in
//! the outbox from the transaction on that makes it *done*.

use std::{sync::Arc, time::Duration};

use goperation::{Error, JsonObject, MessageId, Reason, Result, now_millis};
use goperation_bridge::{Body, Kind, Message};
use goperation_store::{Outcome as Committed, Scan, Store, Txn};
use prost::Message as _;

use crate::outbox;

/// How long an id is kept beyond its finish time.
const KEEP: Duration = Duration::from_secs(24 * 3600);
/// Layout of [`Entry`].
const VERSION: u32 = 1;
/// Entries that one sweep reads at most.
pub(crate) const SWEEP_BATCH: usize = 1000;
/// Entries that the start reads at a time.
const OPEN_BATCH: usize = 1000;

/// What a method ended with.
pub(crate) type Outcome = Result<JsonObject, Error>;

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It will run.
    Received,
    /// It may have had its effect.
    Started,
    /// It has an outcome.
    Done,
}

/// One message in the journal.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Entry {
    #[prost(uint32, tag = "1")]
    version: u32,
    /// 1 received, 2 started, 3 done.
    #[prost(uint32, tag = "2")]
    phase: u32,
    #[prost(bool, tag = "3")]
    call: bool,
    #[prost(string, tag = "4")]
    namespace: String,
    #[prost(string, tag = "5")]
    method: String,
    #[prost(uint64, optional, tag = "6")]
    finish_time: Option<u64>,
    #[prost(uint64, optional, tag = "7")]
    deadline: Option<u64>,
    #[prost(string, optional, tag = "8")]
    reply_to: Option<String>,
    #[prost(string, optional, tag = "9")]
    correlation: Option<String>,
    #[prost(string, optional, tag = "10")]
    traceparent: Option<String>,
    #[prost(uint64, tag = "11")]
    sent: u64,
    /// Arguments as JSON, until it is done.
    #[prost(bytes = "vec", tag = "12")]
    args: Vec<u8>,
    /// Result as JSON, once it ended well.
    #[prost(bytes = "vec", optional, tag = "13")]
    result: Option<Vec<u8>>,
    /// Failure as an encoded `google.rpc.Status`, once it ended badly.
    #[prost(bytes = "vec", optional, tag = "14")]
    failure: Option<Vec<u8>>,
    /// When it is forgotten, in milliseconds since 1970.
    #[prost(uint64, tag = "15")]
    keep_until: u64,
    /// Its place in the order of arrival.
    #[prost(uint64, tag = "16")]
    arrival: u64,
    /// Whether any one agent of the type may run it: it must be claimed first.
    #[prost(bool, tag = "17")]
    shared: bool,
    /// Request that it belongs to.
    #[prost(string, optional, tag = "18")]
    request: Option<String>,
    /// When it began, in milliseconds since 1970 by this host's clock; 0 until then.
    #[prost(uint64, tag = "19")]
    start_time: u64,
    /// When it ended, by the same clock; 0 until then.
    #[prost(uint64, tag = "20")]
    end_time: u64,
    /// It was not started, and it will not be: its failure says why.
    #[prost(bool, tag = "21")]
    refused: bool,
}

impl Entry {
    /// A message that has arrived; `started`: and may have had its effect, as soon as this is durable.
    pub(crate) fn received(
        message: &Message,
        shared: bool,
        now: u64,
        arrival: u64,
        started: bool,
    ) -> Self {
        let args = match &message.body {
            Body::Object(args) => serde_json::to_vec(args).unwrap_or_default(),
            Body::Failure(_) => Vec::new(),
        };
        let keep = u64::try_from(KEEP.as_millis()).unwrap_or(u64::MAX);
        let mut entry = Self {
            version: VERSION,
            phase: 1,
            call: message.kind == Kind::Call,
            namespace: message.namespace.clone(),
            method: message.method.clone(),
            finish_time: message.finish_time,
            deadline: message.deadline,
            reply_to: message.reply_to.clone(),
            correlation: message.correlation.clone(),
            traceparent: message.traceparent.clone(),
            sent: message.sent,
            args,
            result: None,
            failure: None,
            keep_until: message.finish_time.unwrap_or(now).max(now).saturating_add(keep),
            arrival,
            shared,
            request: message.request.clone(),
            start_time: 0,
            end_time: 0,
            refused: false,
        };
        if started {
            entry.start();
        }
        entry
    }

    /// It may have had its effect from now on.
    fn start(&mut self) {
        self.phase = 2;
        self.start_time = now_millis();
    }

    /// It is not started, and it will not be; its outcome says why.
    pub(crate) fn refuse(&mut self) {
        self.refused = true;
    }

    /// It has that outcome from now on; the arguments are dropped.
    fn end(&mut self, outcome: &Outcome) {
        self.phase = 3;
        self.end_time = now_millis();
        self.args.clear();
        match outcome {
            Ok(result) => self.result = serde_json::to_vec(result).ok(),
            Err(error) => self.failure = Some(error.encode()),
        }
    }

    /// Request that it belongs to.
    #[must_use]
    pub(crate) fn of_request(&self) -> Option<&str> {
        self.request.as_deref()
    }

    /// Whether it was not started, and never will be.
    #[must_use]
    pub(crate) fn is_refused(&self) -> bool {
        self.refused
    }

    /// When it began and ended, in milliseconds since 1970 by this host's clock; 0 until then.
    #[must_use]
    pub(crate) fn times(&self) -> (u64, u64) {
        (self.start_time, self.end_time)
    }

    /// Whether any one agent of the type may run it: it must be claimed first.
    #[must_use]
    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// How far it has come.
    #[must_use]
    pub(crate) fn phase(&self) -> Phase {
        match self.phase {
            1 => Phase::Received,
            2 => Phase::Started,
            _ => Phase::Done,
        }
    }

    /// Its outcome, once it is done.
    #[must_use]
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        if let Some(failure) = &self.failure {
            return Some(Err(Error::decode(failure)));
        }
        let result = self.result.as_ref()?;
        Some(serde_json::from_slice(result).map_err(|e| {
            Error::new(Reason::Internal, format!("the stored result cannot be read: {e}"))
        }))
    }

    /// The message again, as far as it is needed to run it and to answer.
    ///
    /// # Errors
    /// `INTERNAL` when its arguments cannot be read.
    pub(crate) fn message(&self, id: MessageId) -> Result<Message> {
        let args = serde_json::from_slice(&self.args).map_err(|e| {
            Error::new(Reason::Internal, format!("the arguments of {id} cannot be read: {e}"))
        })?;
        Ok(Message {
            kind: if self.call { Kind::Call } else { Kind::Cast },
            id,
            namespace: self.namespace.clone(),
            method: self.method.clone(),
            agents: None,
            agent_type: None,
            finish_time: self.finish_time,
            deadline: self.deadline,
            attempt: 0,
            reply_to: self.reply_to.clone(),
            correlation: self.correlation.clone(),
            request: self.request.clone(),
            traceparent: self.traceparent.clone(),
            sent: self.sent,
            body: Body::Object(args),
        })
    }
}

/// Whether a message is new to the journal.
#[derive(Debug)]
pub(crate) enum Received {
    /// It is, and is on disk now.
    New(Box<Entry>),
    /// It was there already.
    Known(Box<Entry>),
}

/// The journal in the agent's store.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    store: Arc<dyn Store>,
}

fn key(id: &MessageId) -> Vec<u8> {
    [b"j/", id.as_str().as_bytes()].concat()
}

fn expiry_key(keep_until: u64, id: &str) -> Vec<u8> {
    [b"jx/".as_slice(), &keep_until.to_be_bytes(), id.as_bytes()].concat()
}

fn unreadable(e: impl std::fmt::Display) -> Error {
    Error::new(Reason::Internal, format!("the journal cannot be read: {e}"))
}

/// Writes an entry, unless the journal knows its id.
fn first(id: &MessageId, entry: &Entry) -> Txn {
    let key = key(id);
    Txn::new()
        .absent(key.clone())
        .put(key, entry.encode_to_vec())
        .put(expiry_key(entry.keep_until, id.as_str()), Vec::new())
}

/// What became of [`first`].
fn received(
    committed: Result<Committed, goperation_store::Error>,
    entry: Entry,
) -> Result<Received> {
    match committed.map_err(crate::error::store)? {
        Committed::Applied => Ok(Received::New(Box::new(entry))),
        Committed::Conflict { current, .. } => {
            let bytes = current.unwrap_or_default();
            let known = Entry::decode(bytes.as_slice()).map_err(unreadable)?;
            Ok(Received::Known(Box::new(known)))
        }
    }
}

impl Journal {
    /// The journal in that store.
    #[must_use]
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Queues a new entry at once, in the order of these calls; the answer is durable.
    /// Waits only for a place in the store's queue.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store is closed.
    pub(crate) async fn receive(
        &self,
        id: &MessageId,
        entry: Entry,
    ) -> Result<impl Future<Output = Result<Received>> + Send + use<>> {
        let slot = self.store.reserve().await.map_err(crate::error::store)?;
        let pending = slot.submit(first(id, &entry));
        Ok(async move { received(pending.await, entry) })
    }

    /// Ends a message of a request that is not run, with its answer: nothing is changed when the
    /// journal knows it.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store is closed.
    pub(crate) async fn refuse(
        &self,
        message: &Message,
        now: u64,
        error: &Error,
        agent: Option<u32>,
    ) -> Result<Received> {
        let mut entry = Entry::received(message, false, now, 0, false);
        entry.refuse();
        entry.end(&Err(error.clone()));
        let (txn, _) = outbox::put(first(&message.id, &entry), &message.id, &entry, agent);
        received(self.store.commit(txn).await, entry)
    }

    /// The entry of an id.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store is closed, `INTERNAL` when the entry cannot be read.
    pub(crate) async fn get(&self, id: &MessageId) -> Result<Option<Entry>> {
        let bytes = self.store.get(key(id)).await.map_err(crate::error::store)?;
        bytes.map(|b| Entry::decode(b.as_slice()).map_err(unreadable)).transpose()
    }

    /// Makes *started* durable.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store is closed.
    pub(crate) async fn started(&self, id: &MessageId, entry: &mut Entry) -> Result<()> {
        entry.start();
        let txn = Txn::new().put(key(id), entry.encode_to_vec());
        self.store.commit(txn).await.map_err(crate::error::store)?;
        Ok(())
    }

    /// Makes durable that it was not started after all.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store is closed.
    pub(crate) async fn not_started(&self, id: &MessageId, entry: &mut Entry) -> Result<()> {
        (entry.phase, entry.start_time) = (1, 0);
        let txn = Txn::new().put(key(id), entry.encode_to_vec());
        self.store.commit(txn).await.map_err(crate::error::store)?;
        Ok(())
    }

    /// Makes the outcome durable, and with it the answer to the request of the message, if it has
    /// one: that answer's bytes in the outbox. The arguments are dropped.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store is closed.
    pub(crate) async fn done(
        &self,
        id: &MessageId,
        entry: &mut Entry,
        outcome: &Outcome,
        agent: Option<u32>,
    ) -> Result<Option<Vec<u8>>> {
        entry.end(outcome);
        // Only the job of a message changes its entry, so there is nothing to race with.
        let txn = Txn::new().put(key(id), entry.encode_to_vec());
        let (txn, answer) = outbox::put(txn, id, entry, agent);
        self.store.commit(txn).await.map_err(crate::error::store)?;
        Ok(answer)
    }

    /// Forgets a message that another agent runs.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store is closed.
    pub(crate) async fn forget(&self, id: &MessageId, entry: &Entry) -> Result<()> {
        let expiry = expiry_key(entry.keep_until, id.as_str());
        let txn = Txn::new().delete(key(id)).delete(expiry);
        self.store.commit(txn).await.map_err(crate::error::store)?;
        Ok(())
    }

    /// What was received or started but not done, in the order of arrival.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store is closed, `INTERNAL` when an entry cannot be read.
    pub(crate) async fn open(&self) -> Result<Vec<(MessageId, Entry)>> {
        let mut open = Vec::new();
        let mut scan = Scan::prefix(b"j/").limit(OPEN_BATCH);
        loop {
            // By parts: most of it is done, and kept for a day or more.
            let rows = self.store.scan(scan.clone()).await.map_err(crate::error::store)?;
            for (key, value) in &rows {
                let entry = Entry::decode(value.as_slice()).map_err(unreadable)?;
                if entry.phase() != Phase::Done {
                    let id = String::from_utf8_lossy(key.get(2..).unwrap_or_default()).into_owned();
                    open.push((MessageId::parse("message_id", &id)?, entry));
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == OPEN_BATCH => {
                    scan.start = [last.as_slice(), &[0]].concat();
                }
                _ => break,
            }
        }
        open.sort_by_key(|(_, entry)| entry.arrival);
        Ok(open)
    }

    /// Forgets what is past its time. Answers how many entries that were.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the store is closed.
    pub(crate) async fn sweep(&self, now: u64) -> Result<usize> {
        let mut scan = Scan::prefix(b"jx/").limit(SWEEP_BATCH);
        scan.end = expiry_key(now, "");
        let rows = self.store.scan(scan).await.map_err(crate::error::store)?;
        if rows.is_empty() {
            return Ok(0);
        }
        let mut txn = Txn::new();
        for (key, _) in &rows {
            let id = key.get(3 + 8..).unwrap_or_default();
            txn = txn.delete(key.clone()).delete([b"j/".as_slice(), id].concat());
        }
        self.store.commit(txn).await.map_err(crate::error::store)?;
        Ok(rows.len())
    }
}

#[cfg(test)]
mod tests {
    use goperation_store::{Options, SledStore};

    use super::*;

    #[tokio::test]
    async fn what_begins_at_once_is_started_with_one_transaction_and_may_be_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(Options::new(dir.path().join("store"))).unwrap();
        let journal = Journal::new(Arc::new(store.clone()));
        let id = MessageId::parse("id", "m1").unwrap();
        let message = Message::new(Kind::Cast, id.clone(), Body::Object(JsonObject::new()));
        let phase = async || journal.get(&id).await.unwrap().map(|entry| entry.phase());

        let entry = Entry::received(&message, false, 1, 1, true);
        let Received::New(mut entry) = journal.receive(&id, entry).await.unwrap().await.unwrap()
        else {
            panic!("it is new")
        };
        assert_eq!((phase().await, store.stats().transactions), (Some(Phase::Started), 1));
        assert!(entry.times().0 > 0);
        journal.not_started(&id, &mut entry).await.unwrap();
        let [(_, open)] = journal.open().await.unwrap().try_into().unwrap();
        assert_eq!((open.phase(), open.times()), (Phase::Received, (0, 0)));
        journal.started(&id, &mut entry).await.unwrap();
        assert_eq!(phase().await, Some(Phase::Started));
    }
}
