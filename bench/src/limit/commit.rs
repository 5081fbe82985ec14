//! Bare sled with one owner: what waits together is written together and flushed once.
//!
//! Invariant: an insert is answered after the flush that covers it, so it survives `kill -9`, as
//! what our store answers. sled is set as our store sets it: 16 MiB of cache, no flush of its own.

use std::{
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
};

use sled::{Batch, Db};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    Result,
    measure::{Load, Sample, closed_loop},
};

/// Inserts that wait, at most.
const PLACES: usize = 1024;
/// Inserts of one flush, at most.
const GROUP: usize = 256;
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// A folder of sled and the thread that owns it.
#[derive(Debug)]
pub(crate) struct Commit {
    /// Taken when it closes.
    jobs: Option<mpsc::Sender<Job>>,
    owner: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Job {
    key: Vec<u8>,
    value: Vec<u8>,
    answer: oneshot::Sender<sled::Result<()>>,
}

impl Commit {
    /// Opens or makes it.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let config = sled::Config::new();
        let config = config.path(folder).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let db = config.open()?;
        let (jobs, waiting) = mpsc::channel(PLACES);
        let owner = thread::Builder::new().name("commit".to_owned());
        let owner = owner.spawn(move || own(&db, waiting))?;
        Ok(Self { jobs: Some(jobs), owner: Some(owner) })
    }

    /// Sets a key, durably.
    ///
    /// # Errors
    /// sled failed.
    pub(crate) async fn insert(&self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or("it is closed")?;
        jobs.send(Job { key, value, answer }).await?;
        Ok(answered.await??)
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // The folder may be removed after this.
        if let Some(owner) = self.owner.take() {
            drop(owner.join());
        }
    }
}

fn own(db: &Db, mut waiting: mpsc::Receiver<Job>) {
    let mut group = Vec::with_capacity(GROUP);
    while waiting.blocking_recv_many(&mut group, GROUP) > 0 {
        let mut answers = Vec::with_capacity(group.len());
        let rows = group.drain(..).map(|Job { key, value, answer }| {
            answers.push(answer);
            (key, value)
        });
        let written = apply(db, rows).and_then(|()| db.flush().map(drop));
        for answer in answers {
            // Who asked may be gone: its insert happened nevertheless.
            let _gone = answer.send(written.clone());
        }
    }
}

/// One batch; a batch costs sled two writes of its log, so one row is none.
fn apply(db: &Db, mut rows: impl ExactSizeIterator<Item = (Vec<u8>, Vec<u8>)>) -> sled::Result<()> {
    if rows.len() == 1
        && let Some((key, value)) = rows.next()
    {
        return db.insert(key, value).map(drop);
    }
    let mut batch = Batch::default();
    for (key, value) in rows {
        batch.insert(key, value);
    }
    db.apply_batch(batch)
}

/// Inserts of new keys, ascending as ours are, with values of that size.
///
/// # Errors
/// sled failed.
pub(crate) async fn rate(at_once: usize, load: Load, value_bytes: usize) -> Result<Sample> {
    // On the disk of what ours writes: its folders are temporary ones, too.
    let folder = tempfile::tempdir()?;
    let commit = Arc::new(Commit::open(folder.path())?);
    let value = vec![7; value_bytes];
    closed_loop(at_once, load, move || {
        let (commit, value) = (Arc::clone(&commit), value.clone());
        async move { commit.insert(Uuid::now_v7().as_bytes().to_vec(), value).await }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_answered_is_there_after_the_next_open() {
        let folder = tempfile::tempdir().unwrap();
        let commit = Commit::open(folder.path()).unwrap();
        let inserts = (0..300_u16).map(|i| commit.insert(i.to_be_bytes().to_vec(), vec![1]));
        futures::future::try_join_all(inserts).await.unwrap();
        drop(commit);
        let rows = sled::open(folder.path()).unwrap();
        assert_eq!(rows.len(), 300);
    }
}
