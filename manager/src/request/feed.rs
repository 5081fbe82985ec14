//! How far the events of a request are, told to everyone who watches it.
//!
//! Invariant: all feeds of a request that live at a time are one; and a number is told only when
//! every event up to it is durable.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::watch;

type All = Mutex<HashMap<String, Weak<Source>>>;

/// The feeds of all requests that somebody has.
#[derive(Debug, Default)]
pub(super) struct Feeds(Arc<All>);

/// What the feeds of one request share.
#[derive(Debug)]
struct Source {
    id: String,
    last: watch::Sender<u64>,
    all: Arc<All>,
}

/// How far the events of one request are.
#[derive(Debug)]
pub(crate) struct Feed {
    /// The last event that was written since somebody has had this feed; 0 for none, whatever is
    /// on record from before.
    pub(super) last: watch::Receiver<u64>,
    source: Arc<Source>,
}

fn lock(all: &All) -> MutexGuard<'_, HashMap<String, Weak<Source>>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feeds {
    /// The feed of a request; whether there is such a request is not asked.
    pub(super) fn of(&self, id: &str) -> Feed {
        let mut all = lock(&self.0);
        let there = all.get(id).and_then(Weak::upgrade);
        let source = there.unwrap_or_else(|| {
            let source = Arc::new(Source {
                id: id.to_owned(),
                last: watch::Sender::new(0),
                all: self.0.clone(),
            });
            all.insert(id.to_owned(), Arc::downgrade(&source));
            source
        });
        Feed { last: source.last.subscribe(), source }
    }
}

impl Feed {
    /// Tells that every event up to this one is durable.
    pub(super) fn publish(&self, last: u64) {
        self.source.last.send_if_modified(|told| {
            let further = last > *told;
            *told = last.max(*told);
            further
        });
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut all = lock(&self.all);
        // Another one may have been made since the last holder has gone.
        if all.get(&self.id).is_some_and(|source| source.strong_count() == 0) {
            all.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everyone_is_told_and_nothing_is_left() {
        let feeds = Feeds::default();
        let (run, mut watcher) = (feeds.of("a"), feeds.of("a"));
        let other = feeds.of("b");
        run.publish(3);
        watcher.last.changed().await.unwrap();
        assert_eq!(*watcher.last.borrow_and_update(), 3);
        // An older number is no news.
        run.publish(2);
        assert!(!watcher.last.has_changed().unwrap());
        assert_eq!(*other.last.borrow(), 0);
        // A run that is made again finds its watchers.
        drop(run);
        feeds.of("a").publish(4);
        assert!(watcher.last.has_changed().unwrap());
        drop((watcher, other));
        assert!(lock(&feeds.0).is_empty());
    }
}
