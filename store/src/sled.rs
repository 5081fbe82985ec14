//! placeholder: written by the owner of the store crate.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;

use crate::{Error, Key, Row, Scan, Slot, Store, Value};

/// What a granted answer survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// `kill -9` of the process.
    #[default]
    Crash,
    /// A power cut too.
    Power,
    /// Nothing: for the proof that the crash test sees a missing flush.
    #[doc(hidden)]
    None,
}

/// How to open a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder.
    pub path: PathBuf,
    /// What a granted answer survives.
    pub durability: Durability,
    /// Memory for cached pages, bytes.
    pub cache_bytes: u64,
}

/// A store on sled.
#[derive(Debug, Clone)]
pub struct SledStore(Arc<()>);

impl SledStore {
    /// Opens or makes the store.
    ///
    /// # Errors
    /// [`Error::Open`] when the folder cannot be used or another process has it.
    pub fn open(_options: Options) -> Result<Self, Error> {
        Err(Error::Closed)
    }

    /// Writes what is queued, and ends the owner thread.
    pub async fn close(&self) {}
}

#[async_trait]
impl Store for SledStore {
    async fn get(&self, _key: Key) -> Result<Option<Value>, Error> {
        Err(Error::Closed)
    }

    async fn scan(&self, _scan: Scan) -> Result<Vec<Row>, Error> {
        Err(Error::Closed)
    }

    async fn reserve(&self) -> Result<Slot, Error> {
        Err(Error::Closed)
    }
}
