//! Numbers that count up in the record, for many at once: those who wait share one transaction.
//!
//! Invariant: no number is given twice, also after a crash: the record has it before it is given. One
//! that is given and not used is burnt.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use goperation::{Error, Reason, Result};
use goperation_store::Key;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::db::Db;

type Answer = oneshot::Sender<Result<u64>>;

/// Who waits for a number, by the counter. A counter that is here has a task that gives its numbers.
#[derive(Debug, Default, Clone)]
pub(crate) struct Numbers(Arc<Mutex<HashMap<Key, Vec<Answer>>>>);

impl Numbers {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Key, Vec<Answer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next number of a counter.
    ///
    /// # Errors
    /// What the store answers.
    pub(crate) async fn next(&self, db: &Db, tasks: &TaskTracker, counter: Key) -> Result<u64> {
        let (answer, answered) = oneshot::channel();
        let is_first = {
            let mut waiting = self.waiting();
            let is_first = !waiting.contains_key(&counter);
            waiting.entry(counter.clone()).or_default().push(answer);
            is_first
        };
        if is_first {
            tasks.spawn(self.clone().give(db.clone(), counter));
        }
        let ended = |_| Error::new(Reason::Unavailable, "the manager is stopping; try again");
        answered.await.unwrap_or_else(|gone| Err(ended(gone)))
    }

    /// Gives numbers until nobody waits for one.
    async fn give(self, db: Db, counter: Key) {
        loop {
            let asked = {
                let mut waiting = self.waiting();
                let asked = waiting.get_mut(&counter).map(std::mem::take).unwrap_or_default();
                if asked.is_empty() {
                    waiting.remove(&counter);
                    return;
                }
                asked
            };
            let last = raise(&db, &counter, asked.len()).await;
            for (answer, number) in asked.into_iter().zip(1..) {
                // Whoever asked may have gone.
                let _ = answer.send(last.clone().map(|last| last + number));
            }
        }
    }
}

/// Raises a counter by that many, and answers what it was.
async fn raise(db: &Db, counter: &Key, by: usize) -> Result<u64> {
    let mut tx = db.begin();
    loop {
        let last = tx.number(counter.clone()).await?;
        let by = u64::try_from(by).unwrap_or(u64::MAX);
        tx.put_number(counter.clone(), last.saturating_add(by));
        if tx.commit().await? {
            return Ok(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use goperation_store::{Options, SledStore};

    use super::*;

    #[tokio::test]
    async fn many_at_once_get_each_another_and_share_transactions() {
        const MANY: u64 = 1000;
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(Options::new(folder.path())).unwrap();
        let (db, tasks) = (Db::new(Arc::new(store.clone())), TaskTracker::new());
        let numbers = Numbers::default();
        let counter = || b"n".to_vec();
        let asked = (0..MANY).map(|_| numbers.next(&db, &tasks, counter()));
        let mut given: Vec<u64> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
        given.sort_unstable();
        assert_eq!(given, (1..=MANY).collect::<Vec<_>>());
        assert!(store.stats().transactions < MANY / 10);
        assert_eq!(numbers.next(&db, &tasks, counter()).await.unwrap(), MANY + 1);
        tasks.close();
        tasks.wait().await;
        assert!(numbers.waiting().is_empty());
        drop(db);
        store.close().await;
    }
}
