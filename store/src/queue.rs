//! The bounded queue between callers and the owner thread.
//!
//! Invariant: a place is taken before the queue is entered, so entering it neither waits nor
//! fails, and whatever entered is either handed to the owner thread in that order or, once the
//! queue has failed, dropped: then its caller is told that the store is closed.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{Error, Outcome, Slot, Txn, Write};

/// A transaction and who waits for it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) txn: Txn,
    answer: oneshot::Sender<Result<Outcome, Error>>,
    /// Of its keys and values.
    bytes: usize,
    /// Held until the answer, so that what waits and what is being written is bounded together.
    _place: OwnedSemaphorePermit,
}

impl Job {
    /// Whether it only waits for what is before it.
    fn is_nothing(&self) -> bool {
        self.txn.conditions.is_empty() && self.txn.writes.is_empty()
    }

    pub(crate) fn answer(self, answer: Result<Outcome, Error>) {
        // Nobody may be waiting: the transaction happened nevertheless.
        let _ = self.answer.send(answer);
    }
}

#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    jobs: VecDeque<Job>,
    open: bool,
    /// The owner thread sleeps, and nobody has woken it yet: all that was asked of it is done. To
    /// notify a condition variable is a call of the system, whether anybody waits or not.
    asleep: bool,
}

impl Queue {
    pub(crate) fn new(places: usize) -> Self {
        Self {
            state: Mutex::new(State { jobs: VecDeque::new(), open: true, asleep: false }),
            ready: Condvar::new(),
            places: Arc::new(Semaphore::new(places)),
        }
    }

    /// Waits for a place.
    pub(crate) async fn reserve(self: &Arc<Self>) -> Result<Slot, Error> {
        let place = self.places.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let queue = self.clone();
        Ok(Slot::new(move |txn, answer| {
            let bytes = txn.writes.iter().map(size).sum();
            queue.push(Job { txn, answer, bytes, _place: place });
        }))
    }

    fn push(&self, job: Job) {
        let mut state = self.lock();
        let now = if !state.open {
            Err(Error::Closed)
        } else if state.asleep && job.is_nothing() {
            Ok(Outcome::Applied)
        } else {
            state.jobs.push_back(job);
            let asleep = mem::take(&mut state.asleep);
            drop(state);
            if asleep {
                self.ready.notify_one();
            }
            return;
        };
        drop(state);
        job.answer(now);
    }

    /// Waits for jobs and takes what is there, one at least, but no more once `bytes` are
    /// reached. None when the queue is closed and empty.
    pub(crate) fn take(&self, bytes: usize) -> Option<Vec<Job>> {
        let mut state = self.lock();
        while state.jobs.is_empty() {
            if !state.open {
                return None;
            }
            state.asleep = true;
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.asleep = false;
        let mut sum = 0;
        let mut group = Vec::with_capacity(state.jobs.len());
        while sum < bytes
            && let Some(job) = state.jobs.pop_front()
        {
            sum += job.bytes;
            group.push(job);
        }
        Some(group)
    }

    /// Takes nothing more; what is queued is still handed out.
    pub(crate) fn close(&self) {
        self.lock().open = false;
        self.places.close();
        self.ready.notify_all();
    }

    /// Takes nothing more, and drops what is queued.
    pub(crate) fn fail(&self) {
        self.close();
        let dropped = mem::take(&mut self.lock().jobs);
        for job in dropped {
            job.answer(Err(Error::Closed));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(write: &Write) -> usize {
    match write {
        Write::Put(key, value) => key.len() + value.len(),
        Write::Delete(key) => key.len(),
    }
}
