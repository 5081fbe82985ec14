//! What a store is asked for: no more than sled and a distributed key-value store both have.

use std::{fmt, future::Future, pin::Pin, sync::Arc, task};

use async_trait::async_trait;
use tokio::sync::oneshot;

/// An ordered byte key.
pub type Key = Vec<u8>;
/// A value; what is in it is versioned by whoever writes it.
pub type Value = Vec<u8>;
/// A key and its value.
pub type Row = (Key, Value);

/// What must hold for a transaction to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key has no value.
    Absent(Key),
    /// The key has exactly this value.
    Equals(Key, Value),
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put(Key, Value),
    /// Removes a key; nothing happens when it has no value.
    Delete(Key),
}

/// Conditions and changes, applied whole or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// Applied in order; of two to one key the later wins.
    pub writes: Vec<Write>,
}

impl Txn {
    /// An empty transaction: it is answered when everything before it is durable.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if the key has no value.
    #[must_use]
    pub fn absent(mut self, key: impl Into<Key>) -> Self {
        self.conditions.push(Condition::Absent(key.into()));
        self
    }

    /// Only if the key has exactly this value.
    #[must_use]
    pub fn equals(mut self, key: impl Into<Key>, value: impl Into<Value>) -> Self {
        self.conditions.push(Condition::Equals(key.into(), value.into()));
        self
    }

    /// Sets a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<Key>, value: impl Into<Value>) -> Self {
        self.writes.push(Write::Put(key.into(), value.into()));
        self
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Key>) -> Self {
        self.writes.push(Write::Delete(key.into()));
        self
    }

    /// The same with `prefix` before every key.
    fn behind(mut self, prefix: &[u8]) -> Self {
        let put = |key: &mut Key| drop(key.splice(..0, prefix.iter().copied()));
        for condition in &mut self.conditions {
            let (Condition::Absent(key) | Condition::Equals(key, _)) = condition;
            put(key);
        }
        for write in &mut self.writes {
            let (Write::Put(key, _) | Write::Delete(key)) = write;
            put(key);
        }
        self
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Applied and durable.
    Applied,
    /// The first condition that does not hold, and what the key has. Nothing was applied.
    Conflict {
        /// Key of the condition.
        key: Key,
        /// What it has.
        current: Option<Value>,
    },
}

impl Outcome {
    /// Whether it was applied.
    #[must_use]
    pub fn is_applied(&self) -> bool {
        matches!(self, Self::Applied)
    }
}

/// Which rows a scan reads: keys ≥ `start` and < `end`, at most `limit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// First key, included.
    pub start: Key,
    /// First key beyond, not included; empty for no end.
    pub end: Key,
    /// Rows at most.
    pub limit: usize,
    /// From the end backwards.
    pub reverse: bool,
}

impl Scan {
    /// Every row whose key begins with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl Into<Key>) -> Self {
        let start = prefix.into();
        let mut end = start.clone();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                break;
            }
        }
        Self { start, end, limit: usize::MAX, reverse: false }
    }

    /// At most so many rows.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }
}

/// Why a store could not do what was asked. Cloneable: one failed flush answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The store has been closed, or has failed earlier and takes nothing any more.
    #[error("the store is closed")]
    Closed,
    /// The folder cannot be used.
    #[error("failed to open the store in {path}")]
    Open {
        /// Folder.
        path: String,
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Reading or writing failed. After a failed write the store is closed: what is in memory
    /// may be ahead of what is on disk, so its owner must start again from disk.
    #[error("the store failed")]
    Failed(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// A place in the bounded queue of the store, taken before a lock so that [`Slot::submit`] can
/// neither wait nor fail under it.
pub struct Slot {
    submit: Submit,
    /// Bytes of prefixes that are put before the keys, and that no answer shows.
    prefix: usize,
}

type Submit = Box<dyn FnOnce(Txn, oneshot::Sender<Result<Outcome, Error>>) + Send>;

impl Slot {
    /// A slot that hands the transaction and the answer's sender to `submit`. For stores.
    #[must_use]
    pub fn new(
        submit: impl FnOnce(Txn, oneshot::Sender<Result<Outcome, Error>>) + Send + 'static,
    ) -> Self {
        Self { submit: Box::new(submit), prefix: 0 }
    }

    /// This slot for one whose keys all stand behind `prefix`.
    pub(crate) fn behind(self, prefix: Arc<[u8]>) -> Self {
        let Self { submit, prefix: before } = self;
        let bytes = before + prefix.len();
        let submit = move |txn: Txn, answer| submit(txn.behind(&prefix), answer);
        Self { submit: Box::new(submit), prefix: bytes }
    }

    /// Queues the transaction at once, in the order of these calls.
    #[must_use = "the transaction is durable only when this is awaited"]
    pub fn submit(self, txn: Txn) -> Pending {
        let (answer, pending) = oneshot::channel();
        (self.submit)(txn, answer);
        Pending { answer: pending, prefix: self.prefix }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot(..)")
    }
}

/// A submitted transaction; the transaction happens whether or not this is awaited.
#[derive(Debug)]
pub struct Pending {
    answer: oneshot::Receiver<Result<Outcome, Error>>,
    /// Bytes that a conflict's key has too many.
    prefix: usize,
}

impl Future for Pending {
    type Output = Result<Outcome, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<Self::Output> {
        let prefix = self.prefix;
        Pin::new(&mut self.answer).poll(cx).map(|answer| match answer {
            Ok(Ok(Outcome::Conflict { mut key, current })) => {
                key.drain(..prefix.min(key.len()));
                Ok(Outcome::Conflict { key, current })
            }
            Ok(answer) => answer,
            Err(_) => Err(Error::Closed),
        })
    }
}

/// A store. Reads may see what is applied but not yet durable; whatever is written after such
/// a read is durable only after it.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The value of a key.
    async fn get(&self, key: Key) -> Result<Option<Value>, Error>;

    /// The values of keys, in their order: for many, cheaper than one by one.
    async fn get_all(&self, keys: Vec<Key>) -> Result<Vec<Option<Value>>, Error>;

    /// Rows in order of their keys, each as it is when the scan comes by: a transaction applied
    /// meanwhile may show in part.
    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, Error>;

    /// A place in the queue of transactions, waiting while it is full.
    async fn reserve(&self) -> Result<Slot, Error>;

    /// Applies a transaction; the answer comes when it is durable.
    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        self.reserve().await?.submit(txn).await
    }
}
