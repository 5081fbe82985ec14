//! Caches: small values that scripts leave for each other under a key, for a time.
//!
//! Invariant: an expired cache is never seen. A cache, its mark by time and the totals change in
//! one transaction, so that neither of the two is ever wrong about it.

use std::{collections::BTreeSet, time::Duration};

use goperation::{
    Error, MessageId, Reason, Result, json_to_struct, struct_to_json, to_duration,
    v1::{
        Cache, CreateCacheRequest, CreateCacheResponse, DeleteCacheRequest, DeleteCacheResponse,
        EditCacheRequest, EditCacheResponse, FlushCachesResponse, IndexCachesRequest,
        IndexCachesResponse, NewCacheResponse, UpdateCacheRequest, UpdateCacheResponse,
    },
};
use goperation_store::Key;
use prost::Message;
use prost_types::Struct;

use super::{App, once::Seal};
use crate::{
    check::{self, Violations},
    etag,
    filter::{Cell, Field, Filter, Kind, Row},
    keys,
    page::Ask,
    record::{CacheMark, CacheRecord, CacheTotals},
};

/// Longest key, in characters.
const KEY: usize = 128;
/// Largest value, encoded, in bytes.
const VALUE: usize = 64 << 10;
/// How long a cache is kept when that is not said.
const DEFAULT_TTL: Duration = Duration::from_secs(30);
/// Shortest time that a cache is kept.
const SHORTEST_TTL: Duration = Duration::from_secs(1);
/// Longest time that a cache is kept.
const LONGEST_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most caches.
const MOST: u64 = 10_000;
/// Most bytes of all caches together.
const MOST_BYTES: u64 = 64 << 20;
/// A page ends after that many bytes, so that a client that takes 4 MiB can read it.
const PAGE_BYTES: u64 = 2 << 20;
/// Caches that are removed in one transaction.
const CHUNK: usize = 200;

const FIELDS: &[Field] = &[Field("key", Kind::Text)];

impl Row for &str {
    fn cell(&self, field: &str) -> Cell<'_> {
        if field == "key" { Cell::Text(self) } else { Cell::None }
    }
}

fn fits(text: &str) -> bool {
    text.len() <= KEY && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

fn checked_key<'a>(field: &str, text: &'a str) -> Result<&'a str> {
    // `new` is where a blank one is.
    if text.is_empty() || text == "new" || !fits(text) {
        return Err(Error::invalid(
            field,
            format!("must be 1 to {KEY} letters, digits, dots, dashes or underscores, not `new`"),
        ));
    }
    Ok(text)
}

fn no_cache(key: &str) -> Error {
    Error::new(Reason::CacheNotFound, format!("there is no cache {key}, or it has expired"))
        .with("key", key)
}

/// What a client wants to be kept, checked.
struct Wanted {
    value: Struct,
    /// Milliseconds.
    ttl: u64,
}

impl Wanted {
    fn read(bad: &mut Violations, cache: &Cache) -> Result<Option<Self>> {
        let value = bad.take(
            struct_to_json("cache.value", cache.value.as_ref())
                .and_then(|object| json_to_struct("cache.value", &object)),
        );
        let ttl = match &cache.ttl {
            None => Some(DEFAULT_TTL),
            Some(ttl) => to_duration(ttl).filter(|ttl| (SHORTEST_TTL..=LONGEST_TTL).contains(ttl)),
        };
        if ttl.is_none() {
            bad.add("cache.ttl", "must be from 1s to 7 days");
        }
        let (Some(value), Some(ttl)) = (value, ttl) else { return Ok(None) };
        let bytes = value.encoded_len();
        if bytes > VALUE {
            return Err(Error::new(
                Reason::TooLarge,
                format!("cache.value: has {bytes} bytes; at most {VALUE} are kept"),
            ));
        }
        Ok(Some(Self { value, ttl: super::millis(ttl) }))
    }

    /// A cache that is made now.
    fn record(self, key: &str, now: u64) -> CacheRecord {
        CacheRecord {
            key: key.to_owned(),
            value: Some(self.value),
            ttl: self.ttl,
            expire_time: now + self.ttl,
            create_time: now,
            update_time: now,
            // Random, because one may be deleted and made anew within a millisecond.
            revision: rand::random::<u32>().into(),
        }
    }
}

impl CacheTotals {
    fn remove(&mut self, bytes: u64) {
        self.caches = self.caches.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Adds one, or says which bound does not allow it.
    fn add(&mut self, bytes: u64) -> Result<(), String> {
        self.caches += 1;
        self.bytes += bytes;
        if self.caches > MOST {
            return Err(format!("at most {MOST} caches are kept"));
        }
        if self.bytes > MOST_BYTES {
            return Err(format!("at most {} MiB of caches are kept", MOST_BYTES >> 20));
        }
        Ok(())
    }
}

impl App {
    pub(crate) async fn index_caches(
        &self,
        q: IndexCachesRequest,
        now: u64,
    ) -> Result<IndexCachesResponse> {
        let ask = Ask::new(q.page_size, &q.page_token, &["caches", &q.filter]);
        let (ask, filter) = check::both(ask, Filter::parse(&q.filter, FIELDS))?;
        let marks = self.db.keys(keys::CACHES_BY_TIME.to_vec()).await?;
        // A set: a cache that is stored anew meanwhile may be met twice.
        let found: BTreeSet<String> = marks
            .iter()
            .filter_map(|mark| keys::split_cache_time(mark))
            .filter(|(time, key)| now < *time && filter.passes(key))
            .map(|(_, key)| key.to_owned())
            .collect();
        let rows = found.into_iter().map(|key| (key.clone().into_bytes(), key));
        let mut page = ask.cut(rows.collect(), false);
        let mut caches = Vec::with_capacity(page.rows.len());
        let (mut bytes, mut last) = (0, "");
        for key in &page.rows {
            if bytes >= PAGE_BYTES {
                page.next = ask.token(last.as_bytes());
                break;
            }
            if let Some(record) = self.live_cache(key, now).await? {
                bytes += record.bytes();
                caches.push(record.to_api());
            }
            last = key;
        }
        Ok(IndexCachesResponse { caches, next_page_token: page.next, total_size: page.total })
    }

    pub(crate) fn new_cache() -> NewCacheResponse {
        let cache =
            Cache { ttl: prost_types::Duration::try_from(DEFAULT_TTL).ok(), ..Cache::default() };
        let constraints = [
            (
                "key",
                format!(
                    "at most {KEY} letters, digits, dots, dashes or underscores, not `new`; made \
                     when empty"
                ),
            ),
            ("value", format!("an object of at most {VALUE} bytes; integers within ±2^53")),
            ("ttl", "from 1s to 604800s".to_owned()),
        ];
        let constraints = constraints.into_iter().map(|(f, text)| (f.to_owned(), text)).collect();
        NewCacheResponse { cache: Some(cache), constraints }
    }

    pub(crate) async fn show_cache(&self, key: &str, now: u64) -> Result<Cache> {
        let key = checked_key("key", key)?;
        let record = self.live_cache(key, now).await?.ok_or_else(|| no_cache(key))?;
        Ok(record.to_api())
    }

    pub(crate) async fn create_cache(
        &self,
        q: CreateCacheRequest,
        now: u64,
        seal: Option<&Seal>,
    ) -> Result<CreateCacheResponse> {
        let cache = q.cache.ok_or_else(|| Error::invalid("cache", "must be given"))?;
        let mut bad = Violations::default();
        let made = format!("cache-{}", MessageId::generate());
        let key = match cache.key.as_str() {
            "" => Some(made.as_str()),
            given => bad.take(checked_key("cache.key", given)),
        };
        let wanted = Wanted::read(&mut bad, &cache)?;
        let (Some(key), Some(wanted)) = (key, wanted) else { return Err(bad.error()) };
        let record = wanted.record(key, now);
        let make = |former: Option<&CacheRecord>| match former {
            Some(_) => Err(Error::new(
                Reason::AlreadyExists,
                format!("there is a cache {key} already; update it, or take another key"),
            )
            .with("key", key)),
            None => Ok(Some(record.clone())),
        };
        let answer = |cache| CreateCacheResponse { cache: Some(cache) };
        self.write_cache(key, now, make, answer, seal).await
    }

    pub(crate) async fn update_cache(
        &self,
        q: UpdateCacheRequest,
        now: u64,
    ) -> Result<UpdateCacheResponse> {
        let cache = q.cache.ok_or_else(|| Error::invalid("cache", "must be given"))?;
        let mut bad = Violations::default();
        let key = bad.take(checked_key("cache.key", &cache.key));
        let wanted = Wanted::read(&mut bad, &cache)?;
        let (Some(key), Some(wanted)) = (key, wanted) else { return Err(bad.error()) };
        let first = wanted.record(key, now);
        let make = |former: Option<&CacheRecord>| -> Result<_> {
            let Some(former) = former else {
                return if cache.etag.is_empty() {
                    Ok(Some(first.clone()))
                } else {
                    Err(gone(key, &cache.etag))
                };
            };
            etag::check(&cache.etag, &former.etag(), &format!("cache {key}"))?;
            let (create_time, revision) = (former.create_time, former.revision + 1);
            Ok(Some(CacheRecord { create_time, revision, ..first.clone() }))
        };
        let answer = |cache| UpdateCacheResponse { cache: Some(cache) };
        self.write_cache(key, now, make, answer, None).await
    }

    pub(crate) async fn edit_cache(
        &self,
        q: EditCacheRequest,
        now: u64,
        seal: Option<&Seal>,
    ) -> Result<EditCacheResponse> {
        let cache = q.cache.ok_or_else(|| Error::invalid("cache", "must be given"))?;
        let mut bad = Violations::default();
        let key = bad.take(checked_key("cache.key", &cache.key));
        let paths = q.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let named = |path: &str| paths.iter().any(|p| p == path);
        let (mut value, mut ttl) = (named("value"), named("ttl"));
        if paths.is_empty() {
            (value, ttl) = (cache.value.is_some(), cache.ttl.is_some());
        }
        for path in paths.iter().filter(|path| !["value", "ttl"].contains(&path.as_str())) {
            bad.add("update_mask", format!("`{path}` cannot be set; only value and ttl can"));
        }
        let wanted = Wanted::read(&mut bad, &cache)?;
        let (Some(key), Some(wanted)) = (key, wanted) else { return Err(bad.error()) };
        bad.finish()?;
        let make = |former: Option<&CacheRecord>| -> Result<_> {
            let mut record = former.cloned().ok_or_else(|| no_cache(key))?;
            etag::check(&cache.etag, &record.etag(), &format!("cache {key}"))?;
            if !ttl && (!value || record.value.as_ref() == Some(&wanted.value)) {
                return Ok(None);
            }
            if value {
                record.value = Some(wanted.value.clone());
            }
            if ttl {
                record.ttl = wanted.ttl;
                record.expire_time = now + wanted.ttl;
            }
            record.update_time = now;
            record.revision += 1;
            Ok(Some(record))
        };
        let answer = |cache| EditCacheResponse { cache: Some(cache) };
        self.write_cache(key, now, make, answer, seal).await
    }

    pub(crate) async fn delete_cache(
        &self,
        q: DeleteCacheRequest,
        now: u64,
    ) -> Result<DeleteCacheResponse> {
        let key = checked_key("key", &q.key)?;
        let mut tx = self.db.begin();
        loop {
            if let Some(record) = tx.get::<CacheRecord>(keys::cache(key)).await? {
                if record.is_live(now) {
                    etag::check(&q.etag, &record.etag(), &format!("cache {key}"))?;
                }
                let mut totals = tx.get::<CacheTotals>(keys::cache_totals()).await?;
                let totals = totals.get_or_insert_default();
                totals.remove(record.bytes());
                tx.put(keys::cache_totals(), totals);
                tx.delete(keys::cache_time(record.expire_time, key));
                tx.delete(keys::cache(key));
            }
            if tx.commit().await? {
                return Ok(DeleteCacheResponse {});
            }
        }
    }

    pub(crate) async fn flush_caches(&self, prefix: &str, now: u64) -> Result<FlushCachesResponse> {
        if !fits(prefix) {
            return Err(Error::invalid(
                "prefix",
                format!("must be at most {KEY} letters, digits, dots, dashes or underscores"),
            ));
        }
        let mut marks = self.db.keys(keys::CACHES_BY_TIME.to_vec()).await?;
        marks.retain(|mark| {
            keys::split_cache_time(mark)
                .is_some_and(|(time, key)| now < time && key.starts_with(prefix))
        });
        let mut flushed = 0;
        for chunk in marks.chunks(CHUNK) {
            flushed += self.remove_caches(chunk).await?;
        }
        Ok(FlushCachesResponse { flushed: i32::try_from(flushed).unwrap_or(i32::MAX) })
    }

    /// Removes what has expired.
    ///
    /// # Errors
    /// When the record cannot be read or written.
    pub(super) async fn sweep_caches(&self, now: u64) -> Result<()> {
        loop {
            let end = keys::before(keys::CACHES_BY_TIME, now.saturating_add(1));
            let marks = self.db.keys_between(keys::CACHES_BY_TIME.to_vec(), end, CHUNK).await?;
            if !marks.is_empty() {
                self.remove_caches(&marks).await?;
            }
            if marks.len() < CHUNK {
                return Ok(());
            }
        }
    }

    /// Removes the caches of these marks, and says how many were there still.
    async fn remove_caches(&self, marks: &[Key]) -> Result<usize> {
        let mut tx = self.db.begin();
        loop {
            let mut totals = tx.get::<CacheTotals>(keys::cache_totals()).await?.unwrap_or_default();
            let mut removed = 0;
            for mark in marks {
                let Some((_, key)) = keys::split_cache_time(mark) else { continue };
                // Gone, or stored anew since.
                let Some(found) = tx.get::<CacheMark>(mark.clone()).await? else { continue };
                totals.remove(found.bytes);
                tx.delete(keys::cache(key));
                tx.delete(mark.clone());
                removed += 1;
            }
            tx.put(keys::cache_totals(), &totals);
            if tx.commit().await? {
                return Ok(removed);
            }
        }
    }

    async fn live_cache(&self, key: &str, now: u64) -> Result<Option<CacheRecord>> {
        let record = self.db.get::<CacheRecord>(keys::cache(key)).await?;
        Ok(record.filter(|record| record.is_live(now)))
    }

    /// Stores what `make` makes of the cache that there is, if it makes anything.
    async fn write_cache<A: Message>(
        &self,
        key: &str,
        now: u64,
        make: impl Fn(Option<&CacheRecord>) -> Result<Option<CacheRecord>> + Send,
        wrap: impl Fn(Cache) -> A + Send,
        seal: Option<&Seal>,
    ) -> Result<A> {
        let mut swept = false;
        let mut tx = self.db.begin();
        loop {
            let stored = tx.get::<CacheRecord>(keys::cache(key)).await?;
            let live = stored.as_ref().filter(|stored| stored.is_live(now));
            let made = make(live)?;
            let answer = wrap(made.as_ref().or(live).ok_or_else(|| no_cache(key))?.to_api());
            if let Some(made) = made {
                let mut totals =
                    tx.get::<CacheTotals>(keys::cache_totals()).await?.unwrap_or_default();
                if let Some(stored) = &stored {
                    totals.remove(stored.bytes());
                    tx.delete(keys::cache_time(stored.expire_time, key));
                }
                match totals.add(made.bytes()) {
                    Ok(()) => {}
                    // What has expired must not be in anybody's way.
                    Err(_) if !swept => {
                        // The sweep may want the turn that this one has.
                        tx = self.db.begin();
                        self.sweep_caches(now).await?;
                        swept = true;
                        continue;
                    }
                    Err(bound) => return Err(self.full(bound, now).await?),
                }
                tx.put(keys::cache_totals(), &totals);
                tx.put(keys::cache(key), &made);
                tx.put(keys::cache_time(made.expire_time, key), &made.mark());
            }
            if let Some(seal) = seal {
                seal.end(&mut tx, &answer);
            }
            if tx.commit().await? {
                return Ok(answer);
            }
        }
    }

    /// That a bound is reached, and when the first cache expires.
    async fn full(&self, bound: String, now: u64) -> Result<Error> {
        let end = keys::before(keys::CACHES_BY_TIME, u64::MAX);
        let first = self.db.keys_between(keys::CACHES_BY_TIME.to_vec(), end, 1).await?;
        let first = first.first().and_then(|mark| keys::split_cache_time(mark));
        let after = first.map_or(0, |(time, _)| time.saturating_sub(now)).max(1000);
        Ok(Error::new(Reason::RateLimited, bound).with_retry_after(Duration::from_millis(after)))
    }
}

fn gone(key: &str, given: &str) -> Error {
    Error::new(
        Reason::EtagMismatch,
        format!("cache {key} with etag {given} has expired or was deleted"),
    )
    .with("key", key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_plain() {
        for good in ["a", "A.b-c_9", "newer", &"k".repeat(128)] {
            assert!(checked_key("key", good).is_ok(), "{good}");
        }
        for bad in ["", "new", "a b", "a/b", "ä", &"k".repeat(129)] {
            assert!(checked_key("key", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn both_bounds_hold_and_are_named() {
        let mut totals = CacheTotals { caches: MOST - 1, bytes: 10 };
        assert_eq!(totals.add(1), Ok(()));
        assert!(totals.clone().add(1).unwrap_err().contains("10000"));
        totals.remove(1);
        assert_eq!(totals.add(1), Ok(()));
        let mut totals = CacheTotals { caches: 1, bytes: MOST_BYTES - 5 };
        assert_eq!(totals.add(5), Ok(()));
        assert!(totals.add(1).unwrap_err().contains("64 MiB"));
    }
}
