//! Turns of what must not be done twice at the same time under one name.
//!
//! Invariant: at most one turn of a name is held, and a name that nobody has or waits for is not
//! kept. Turns of a name come in the order in which they were waited for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::OwnedMutexGuard;

type Queue = Arc<tokio::sync::Mutex<()>>;

/// The names under which something is being done, each with its queue.
#[derive(Debug, Default, Clone)]
pub(crate) struct Turns(Arc<Mutex<HashMap<Vec<u8>, Queue>>>);

/// A turn, had or waited for. A name that nobody waits for any more is forgotten.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Turns,
    name: Vec<u8>,
    queue: Queue,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    fn all(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn; none when it did not come in time.
    pub(crate) async fn wait(&self, name: impl Into<Vec<u8>>, wait: Duration) -> Option<Turn> {
        let name = name.into();
        let queue = self.all().entry(name.clone()).or_default().clone();
        let mut turn = Turn { turns: self.clone(), name, queue, held: None };
        let held = tokio::time::timeout(wait, turn.queue.clone().lock_owned()).await.ok()?;
        turn.held = Some(held);
        Some(turn)
    }
}

impl Turn {
    /// Whether it is a turn of that name.
    pub(crate) fn is_of(&self, name: &[u8]) -> bool {
        self.name == name
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.held = None;
        let mut all = self.turns.all();
        // The map's and our own.
        if Arc::strong_count(&self.queue) == 2 {
            all.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_come_one_after_the_other_and_leave_nothing() {
        let turns = Turns::default();
        let wait = Duration::from_secs(1);
        let first = turns.wait("a", wait).await.unwrap();
        let other = turns.wait("b", wait).await.unwrap();
        assert!(turns.wait("a", wait).await.is_none());
        let (second, ()) = tokio::join!(turns.wait("a", wait), async {
            tokio::task::yield_now().await;
            drop(first);
        });
        assert!(turns.wait("a", wait).await.is_none());
        drop((second, other));
        assert!(turns.all().is_empty());
    }
}
