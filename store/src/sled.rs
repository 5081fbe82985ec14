//! [`SledStore`]: the store on sled 0.34.
//!
//! Invariant: only the owner thread writes; the tree is held by it, by this handle and by reads
//! under way, so that the folder is free when all three are gone.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::Ordering},
    thread::{self, JoinHandle},
    time::Duration,
};

use async_trait::async_trait;
use sled::Tree;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{self, JoinSet},
    time::timeout,
};

use crate::{
    Error, Key, Row, Scan, Slot, Store, Value,
    disk::{Disk, Failure},
    queue::Queue,
    writer::{Counters, Writer},
};

/// Transactions that wait or are being written, at most.
const PLACES: usize = 1024;
/// Reads at once, at most: each occupies a thread.
const READS: u32 = 32;
/// For what is queued to be written, and for reads under way to end.
const CLOSE_WAIT: Duration = Duration::from_secs(30);
/// Memory for cached pages unless said otherwise, bytes.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// What a granted answer survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// `kill -9` of the process.
    #[default]
    Crash,
    /// A power cut too.
    Power,
    /// Nothing: for the proof that the crash test sees a missing flush.
    #[doc(hidden)]
    None,
}

/// How to open a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder; made when missing.
    pub path: PathBuf,
    /// What a granted answer survives.
    pub durability: Durability,
    /// Memory for cached pages, bytes.
    pub cache_bytes: u64,
}

impl Options {
    /// [`Durability::Crash`] and 16 MiB of cache.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), durability: Durability::default(), cache_bytes: CACHE_BYTES }
    }

    /// What a granted answer survives.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}

/// What was committed since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Transactions answered, those in conflict too. One that is empty counts only if others were
    /// before it.
    pub transactions: u64,
    /// Groups in which they were committed, each with one flush at most.
    pub groups: u64,
}

/// A store on sled. Clones are handles to the same store.
///
/// Dropped without [`SledStore::close`] it still writes what is queued, but nobody can wait for
/// that, and the folder is free only some time later. After a failed write the folder stays
/// locked until the process ends: start again from disk in a new one.
#[derive(Clone)]
pub struct SledStore(Arc<Handle>);

struct Handle {
    path: PathBuf,
    shared: Arc<Shared>,
    owner: Mutex<Option<JoinHandle<()>>>,
}

/// What the handles and the owner thread share.
struct Shared {
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    reads: Arc<Semaphore>,
    rows: Mutex<Option<Tree>>,
    ended: Mutex<bool>,
    end: Condvar,
}

impl SledStore {
    /// Opens or makes the store. Blocks while it reads back what was written.
    ///
    /// # Errors
    /// [`Error::Open`] when the folder cannot be used, another process has it, or it was written
    /// by another version.
    pub fn open(options: Options) -> Result<Self, Error> {
        let failed = |source: Failure| Error::Open {
            path: options.path.display().to_string(),
            source: Arc::new(source),
        };
        let disk = Disk::open(&options).map_err(failed)?;
        let shared = Arc::new(Shared {
            queue: Arc::new(Queue::new(PLACES)),
            counters: Arc::default(),
            reads: Arc::new(Semaphore::new(READS as usize)),
            rows: Mutex::new(Some(disk.rows())),
            ended: Mutex::new(false),
            end: Condvar::new(),
        });
        let ending = Ending(shared.clone());
        let owner = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || ending.0.own(disk))
            .map_err(|source| {
                let path = options.path.clone();
                failed(Failure::File { what: "start a thread for", path, source })
            })?;
        Ok(Self(Arc::new(Handle { path: options.path, shared, owner: Mutex::new(Some(owner)) })))
    }

    /// Takes nothing more, writes what is queued, ends the owner thread and frees the folder.
    pub async fn close(&self) {
        let shared = self.0.shared.clone();
        shared.queue.close();
        let reads = timeout(CLOSE_WAIT, shared.reads.acquire_many(READS)).await;
        shared.reads.close();
        let read = reads.is_ok();
        drop(reads);
        let owner = lock(&self.0.owner).take();
        let ended = task::spawn_blocking(move || {
            let ended = shared.wait_for_end(CLOSE_WAIT);
            // It has nothing left to do, so joining it does not wait.
            ended && owner.is_none_or(|owner| owner.join().is_ok())
        });
        if !(ended.await.unwrap_or(false) && read) {
            tracing::error!(path = %self.0.path.display(), "the store did not close cleanly");
        }
    }

    /// What was committed since the store was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.0.shared.counters;
        Stats {
            transactions: counters.transactions.load(Ordering::Relaxed),
            groups: counters.groups.load(Ordering::Relaxed),
        }
    }

    /// Reads on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Tree) -> Result<T, sled::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = self.0.shared.clone();
        if let Ok(place) = shared.reads.clone().try_acquire_owned() {
            return shared.read_in(place, read).await;
        }
        // A task of its own: a place that is given to a caller who does not look, because he is
        // waiting for another read, would be lost to all. It ends with its caller.
        let mut reads = JoinSet::new();
        reads.spawn(async move { shared.read(read).await });
        match reads.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(error)) if error.is_panic() => Err(Error::Failed(Arc::new(error))),
            Some(Err(_)) | None => Err(Error::Closed),
        }
    }
}

#[async_trait]
impl Store for SledStore {
    async fn get(&self, key: Key) -> Result<Option<Value>, Error> {
        self.read(move |rows| Ok(rows.get(key)?.map(|value| value.to_vec()))).await
    }

    async fn get_all(&self, keys: Vec<Key>) -> Result<Vec<Option<Value>>, Error> {
        let value = |rows: &Tree, key| Ok(rows.get(key)?.map(|value| value.to_vec()));
        self.read(move |rows| keys.into_iter().map(|key| value(rows, key)).collect()).await
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, Error> {
        self.read(move |rows| rows_of(rows, scan)).await
    }

    async fn reserve(&self) -> Result<Slot, Error> {
        self.0.shared.queue.reserve().await
    }
}

fn rows_of(rows: &Tree, scan: Scan) -> Result<Vec<Row>, sled::Error> {
    let Scan { start, end, limit, reverse } = scan;
    if !end.is_empty() && start >= end {
        return Ok(Vec::new());
    }
    let range = if end.is_empty() { rows.range(start..) } else { rows.range(start..end) };
    let row = |row: Result<(sled::IVec, sled::IVec), sled::Error>| {
        row.map(|(key, value)| (key.to_vec(), value.to_vec()))
    };
    if reverse {
        range.rev().take(limit).map(row).collect()
    } else {
        range.take(limit).map(row).collect()
    }
}

impl Shared {
    /// Reads when there is a place for it.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Tree) -> Result<T, sled::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let place = self.reads.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        self.read_in(place, read).await
    }

    async fn read_in<T: Send + 'static>(
        &self,
        place: OwnedSemaphorePermit,
        read: impl FnOnce(&Tree) -> Result<T, sled::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let rows = lock(&self.rows).clone().ok_or(Error::Closed)?;
        let done = task::spawn_blocking(move || {
            let done = read(&rows);
            // In this order: who has all places knows that no read holds the tree.
            drop(rows);
            drop(place);
            done
        });
        match done.await {
            Ok(done) => done.map_err(|error| Error::Failed(Arc::new(Failure::from(error)))),
            Err(error) if error.is_panic() => Err(Error::Failed(Arc::new(error))),
            Err(_) => Err(Error::Closed),
        }
    }

    /// What the owner thread does.
    fn own(&self, disk: Disk) {
        let rows = disk.rows();
        let (queue, counters) = (self.queue.clone(), self.counters.clone());
        Writer { disk, rows, queue, counters }.run(|error| {
            // Memory may be ahead of the disk now: nobody may read it.
            self.reads.close();
            tracing::error!(error = %Chain(error), "the store failed and takes nothing any more");
        });
    }

    fn wait_for_end(&self, wait: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.end.wait_timeout_while(ended, wait, |ended| !*ended);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Ends the store with its owner thread, however that ends.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.queue.fail();
        drop(lock(&self.0.rows).take());
        *lock(&self.0.ended) = true;
        self.0.end.notify_all();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore").field("path", &self.0.path).finish_non_exhaustive()
    }
}

/// An error with its causes, for the log.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
