//! What was made over a connection a moment ago, so that it need not be made again at once.
//!
//! Invariant: nothing older than its time counts, and at most [`REMEMBERED`] are remembered. It
//! belongs to one connection: after a broker was replaced by an empty one, all is made again.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Beyond that, all are forgotten, and made again when they are asked for.
const REMEMBERED: usize = 10_000;

/// Names, and when what they stand for was made.
#[derive(Debug)]
pub(super) struct Recent<K> {
    life: Duration,
    made: Mutex<HashMap<K, Instant>>,
}

impl<K: Eq + Hash + Clone> Recent<K> {
    /// What was made counts for so long.
    pub(super) fn new(life: Duration) -> Self {
        Self { life, made: Mutex::default() }
    }

    /// It was made now.
    pub(super) fn note(&self, name: &K) {
        let mut made = self.made();
        if made.len() >= REMEMBERED {
            made.clear();
        }
        made.insert(name.clone(), Instant::now());
    }

    /// Whether it was made just now.
    pub(super) fn has(&self, name: &K) -> bool {
        self.made().get(name).is_some_and(|at| at.elapsed() < self.life)
    }

    /// Whether it was made just now; it is forgotten.
    pub(super) fn take(&self, name: &K) -> bool {
        self.made().remove(name).is_some_and(|at| at.elapsed() < self.life)
    }

    fn made(&self) -> MutexGuard<'_, HashMap<K, Instant>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_just_now_is_known_until_it_is_taken() {
        let recent = Recent::new(Duration::from_secs(60));
        assert!(!recent.has(&1) && !recent.take(&1));
        recent.note(&1);
        assert!(recent.has(&1) && !recent.has(&2));
        assert!(recent.take(&1));
        assert!(!recent.take(&1));
    }

    #[test]
    fn what_is_old_or_too_much_does_not_count() {
        let at_once = Recent::new(Duration::ZERO);
        at_once.note(&1);
        assert!(!at_once.has(&1) && !at_once.take(&1));
        let full = Recent::new(Duration::from_secs(60));
        (0..=REMEMBERED).for_each(|name| full.note(&name));
        assert!(full.has(&REMEMBERED) && !full.has(&0));
    }
}
