//! Records of caches.

use goperation::{to_timestamp, v1::Cache};

use crate::{db::Record, etag};

/// A cache.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CacheRecord {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) value: Option<prost_types::Struct>,
    /// How long it is kept from when that was said, in milliseconds.
    #[prost(uint64, tag = "3")]
    pub(crate) ttl: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) expire_time: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) create_time: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) update_time: u64,
    /// Raised by each change: the etag.
    #[prost(uint64, tag = "7")]
    pub(crate) revision: u64,
}

impl Record for CacheRecord {
    const VERSION: u8 = 1;
}

impl CacheRecord {
    /// Whether it is kept still.
    pub(crate) fn is_live(&self, now: u64) -> bool {
        now < self.expire_time
    }

    /// Bytes that it counts for.
    pub(crate) fn bytes(&self) -> u64 {
        prost::Message::encoded_len(self) as u64
    }

    /// What stands for it where caches are found by time.
    pub(crate) fn mark(&self) -> CacheMark {
        CacheMark { bytes: self.bytes(), revision: self.revision }
    }

    /// The etag.
    pub(crate) fn etag(&self) -> String {
        etag::of(self.create_time, self.revision)
    }

    /// The cache as clients see it.
    pub(crate) fn to_api(&self) -> Cache {
        Cache {
            key: self.key.clone(),
            value: self.value.clone(),
            ttl: prost_types::Duration::try_from(std::time::Duration::from_millis(self.ttl)).ok(),
            expire_time: Some(to_timestamp(self.expire_time)),
            create_time: Some(to_timestamp(self.create_time)),
            update_time: Some(to_timestamp(self.update_time)),
            etag: self.etag(),
        }
    }
}

/// A cache, where it is found by when it expires: enough to remove it without reading it.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct CacheMark {
    #[prost(uint64, tag = "1")]
    pub(crate) bytes: u64,
    /// Changes with the cache, so that what was read of it is known to be old.
    #[prost(uint64, tag = "2")]
    pub(crate) revision: u64,
}

impl Record for CacheMark {
    const VERSION: u8 = 1;
}

/// How many caches are stored, expired ones that were not swept yet included.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct CacheTotals {
    #[prost(uint64, tag = "1")]
    pub(crate) caches: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) bytes: u64,
}

impl Record for CacheTotals {
    const VERSION: u8 = 1;
}
