//! The owner thread: takes what is queued as one group, checks conditions in order, applies all
//! writes of the group as one batch, flushes once, then answers everyone.
//!
//! One thread, because sled's own asynchronous flush hangs when many tasks wait for it, and one
//! batch, because each batch costs sled two writes of its log.
//!
//! Invariant: no answer goes out before all that was applied earlier is durable, and after a
//! failed write nothing is applied any more.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use sled::{Batch, Tree};

use crate::{
    Condition, Error, Outcome, Txn, Value, Write,
    disk::{Disk, Failure, unless_panics},
    queue::{Job, Queue},
};

/// A group is closed when its writes reach this many bytes: a batch holds up reads.
const GROUP_BYTES: usize = 1024 * 1024;

/// What was committed since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) transactions: AtomicU64,
    pub(crate) groups: AtomicU64,
}

pub(crate) struct Writer {
    pub(crate) disk: Disk,
    pub(crate) rows: Tree,
    pub(crate) queue: Arc<Queue>,
    pub(crate) counters: Arc<Counters>,
}

/// What the group so far sets, over what the tree has.
type Overlay<'a> = BTreeMap<&'a [u8], Option<&'a [u8]>>;

impl Writer {
    /// Writes until the queue is closed and empty, or until a write fails: then calls `failed`
    /// before anybody is told.
    pub(crate) fn run(mut self, failed: impl FnOnce(&Error)) {
        while let Some(group) = self.queue.take(GROUP_BYTES) {
            match unless_panics(|| self.commit(&group)) {
                Ok(outcomes) => {
                    for (job, outcome) in group.into_iter().zip(outcomes) {
                        job.answer(Ok(outcome));
                    }
                }
                Err(failure) => {
                    let error = Error::Failed(Arc::new(failure));
                    self.queue.fail();
                    failed(&error);
                    for job in group {
                        job.answer(Err(error.clone()));
                    }
                    // Dropped after a failed batch, sled waits for ever for the rest of it.
                    mem::forget((self.disk, self.rows));
                    return;
                }
            }
        }
    }

    fn commit(&mut self, group: &[Job]) -> Result<Vec<Outcome>, Failure> {
        let mut overlay = Overlay::new();
        let mut outcomes = Vec::with_capacity(group.len());
        for job in group {
            let outcome = self.check(&job.txn, &overlay)?;
            if outcome.is_applied() {
                for write in &job.txn.writes {
                    match write {
                        Write::Put(key, value) => overlay.insert(key, Some(value)),
                        Write::Delete(key) => overlay.insert(key, None),
                    };
                }
            }
            outcomes.push(outcome);
        }
        if !overlay.is_empty() {
            self.apply(&overlay)?;
            self.disk.flush()?;
        }
        self.counters.transactions.fetch_add(group.len() as u64, Ordering::Relaxed);
        self.counters.groups.fetch_add(1, Ordering::Relaxed);
        Ok(outcomes)
    }

    fn check(&self, txn: &Txn, overlay: &Overlay<'_>) -> Result<Outcome, Failure> {
        for condition in &txn.conditions {
            let (key, wanted) = match condition {
                Condition::Absent(key) => (key, None),
                Condition::Equals(key, value) => (key, Some(value)),
            };
            let current: Option<Value> = match overlay.get(key.as_slice()) {
                Some(value) => value.map(<[u8]>::to_vec),
                None => self.rows.get(key)?.map(|value| value.to_vec()),
            };
            if current.as_ref() != wanted {
                return Ok(Outcome::Conflict { key: key.clone(), current });
            }
        }
        Ok(Outcome::Applied)
    }

    fn apply(&self, overlay: &Overlay<'_>) -> Result<(), Failure> {
        if overlay.len() == 1 {
            for (key, value) in overlay {
                match value {
                    Some(value) => self.rows.insert(key, *value)?,
                    None => self.rows.remove(key)?,
                };
            }
            return Ok(());
        }
        let mut batch = Batch::default();
        for (key, value) in overlay {
            match value {
                Some(value) => batch.insert(*key, *value),
                None => batch.remove(*key),
            }
        }
        Ok(self.rows.apply_batch(batch)?)
    }
}
