//! [`Prefixed`]: a part of a store that looks like a store of its own, for many that share one.
//!
//! Invariant: nothing outside of the prefix is read or written, and no answer shows the prefix.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{Error, Key, Row, Scan, Slot, Store, Value};

/// The rows of a store whose keys begin with a prefix, without it. Two of them are apart when
/// neither prefix begins with the other.
#[derive(Debug, Clone)]
pub struct Prefixed {
    inner: Arc<dyn Store>,
    prefix: Arc<[u8]>,
}

impl Prefixed {
    /// What of `inner` is behind `prefix`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, prefix: &[u8]) -> Self {
        Self { inner, prefix: prefix.into() }
    }

    fn key(&self, key: &[u8]) -> Key {
        [&*self.prefix, key].concat()
    }
}

#[async_trait]
impl Store for Prefixed {
    async fn get(&self, key: Key) -> Result<Option<Value>, Error> {
        self.inner.get(self.key(&key)).await
    }

    async fn get_all(&self, keys: Vec<Key>) -> Result<Vec<Option<Value>>, Error> {
        self.inner.get_all(keys.iter().map(|key| self.key(key)).collect()).await
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<Row>, Error> {
        let Scan { start, end, limit, reverse } = scan;
        let end =
            if end.is_empty() { Scan::prefix(self.prefix.to_vec()).end } else { self.key(&end) };
        let mut rows =
            self.inner.scan(Scan { start: self.key(&start), end, limit, reverse }).await?;
        for (key, _) in &mut rows {
            key.drain(..self.prefix.len().min(key.len()));
        }
        Ok(rows)
    }

    async fn reserve(&self) -> Result<Slot, Error> {
        Ok(self.inner.reserve().await?.behind(Arc::clone(&self.prefix)))
    }
}
