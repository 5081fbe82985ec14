//! A store that dies at a named point of a commit, for the tests of crashes.
//!
//! Invariant: transactions reach the store behind it in the order of their submission, and once
//! the death at the point has come back none does and no answer goes out any more.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use goperation_store::{Error, Key, Pending, Row, Scan, SledStore, Slot, Store, Value};

/// Where a commit is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The transaction is made, and the store does not have it.
    BeforeSubmit,
    /// The store has it; nobody knows whether it is on disk.
    AfterSubmitBeforeDurable,
    /// It is on disk, and nobody was told.
    AfterDurableBeforeAnswer,
    /// The answer is on its way to the caller.
    AfterAnswer,
}

impl Point {
    pub(crate) const ALL: [Self; 4] = [
        Self::BeforeSubmit,
        Self::AfterSubmitBeforeDurable,
        Self::AfterDurableBeforeAnswer,
        Self::AfterAnswer,
    ];
}

/// What happens at the point. A death that ends the process does not come back: what other threads
/// do until it strikes them goes on as if there were none, so that none is told of a closed store.
type Death = fn();

/// The store, and the point at which it dies.
#[derive(Clone)]
pub(crate) struct Points(Arc<Inner>);

struct Inner {
    store: SledStore,
    /// The point, and how many commits pass before the one that dies there.
    armed: Mutex<Option<(Point, u64)>>,
    dead: AtomicBool,
    death: Death,
}

impl Points {
    pub(crate) fn new(store: SledStore, death: Death) -> Self {
        let (armed, dead) = (Mutex::default(), AtomicBool::new(false));
        Self(Arc::new(Inner { store, armed, dead, death }))
    }

    /// Dies at that point of a commit, after so many others. Answers the point that was set
    /// before, unless a commit has come to it.
    pub(crate) fn arm(&self, point: Option<(Point, u64)>) -> Option<(Point, u64)> {
        std::mem::replace(&mut *self.0.armed.lock().unwrap(), point)
    }

    fn is_dead(&self) -> bool {
        self.0.dead.load(Ordering::SeqCst)
    }

    /// The point of the commit that is submitted now, if it dies.
    fn next(&self) -> Option<Point> {
        let mut armed = self.0.armed.lock().unwrap();
        match &mut *armed {
            Some((point, 0)) => {
                let point = *point;
                *armed = None;
                Some(point)
            }
            Some((_, passing)) => {
                *passing -= 1;
                None
            }
            None => None,
        }
    }

    fn die(&self) {
        (self.0.death)();
        self.0.dead.store(true, Ordering::SeqCst);
    }

    fn slot(&self, behind: Slot) -> Slot {
        let points = self.clone();
        Slot::new(move |txn, answer| {
            let point = points.next();
            if point == Some(Point::BeforeSubmit) {
                points.die();
            }
            if points.is_dead() {
                return;
            }
            let pending: Pending = behind.submit(txn);
            if point == Some(Point::AfterSubmitBeforeDurable) {
                points.die();
            }
            tokio::spawn(async move {
                let outcome = pending.await;
                if point == Some(Point::AfterDurableBeforeAnswer) {
                    points.die();
                }
                if !points.is_dead() {
                    drop(answer.send(outcome));
                }
                if point == Some(Point::AfterAnswer) {
                    points.die();
                }
            });
        })
    }
}

impl fmt::Debug for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Points")
    }
}

#[async_trait]
impl Store for Points {
    async fn get(&self, key: Key) -> Result<Option<Value>, Error> {
        self.0.store.get(key).await
    }

    async fn get_all(&self, keys: Vec<Key>) -> Result<Vec<Option<Value>>, Error> {
        self.0.store.get_all(keys).await
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, Error> {
        self.0.store.scan(scan).await
    }

    async fn reserve(&self) -> Result<Slot, Error> {
        Ok(self.slot(self.0.store.reserve().await?))
    }
}
