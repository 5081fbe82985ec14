//! Turns of what must not be done twice at the same time under one name.
//!
//! Invariant: at most one turn of a name is held, and a name that nobody has or waits for is not
//! kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::OwnedMutexGuard;

/// The keys under which something is being done, each with its queue.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

/// A request's turn, had or waited for. A key that nobody waits for any more is forgotten.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    name: &'a str,
    queue: Arc<tokio::sync::Mutex<()>>,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn; none when it did not come in time.
    pub(crate) async fn wait<'a>(&'a self, name: &'a str, wait: Duration) -> Option<Turn<'a>> {
        let queue = self.all().entry(name.to_owned()).or_default().clone();
        let mut turn = Turn { turns: self, name, queue, held: None };
        let held = tokio::time::timeout(wait, turn.queue.clone().lock_owned()).await.ok()?;
        turn.held = Some(held);
        Some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.held = None;
        let mut all = self.turns.all();
        // The map's and our own.
        if Arc::strong_count(&self.queue) == 2 {
            all.remove(self.name);
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
