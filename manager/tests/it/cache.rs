//! Caches.

use std::time::Duration;

use goperation::{Error, Reason, from_timestamp, json_to_struct, struct_to_json, v1::*};
use goperation_store::{Scan, Store as _};
use prost_types::FieldMask;
use serde_json::{Value, json};

use crate::{
    fake::object,
    harness::{Manager, answer, until},
};

fn cache(key: &str, value: Value) -> Cache {
    Cache {
        key: key.to_owned(),
        value: Some(json_to_struct("value", &object(value)).unwrap()),
        ..Cache::default()
    }
}

fn ttl(millis: u64) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(Duration::from_millis(millis)).ok()
}

fn value(cache: &Cache) -> Value {
    Value::Object(struct_to_json("value", cache.value.as_ref()).unwrap())
}

/// For how long it was kept when it was stored last, in milliseconds.
fn kept(cache: &Cache) -> u64 {
    let millis = |time: &Option<prost_types::Timestamp>| from_timestamp(time.as_ref().unwrap());
    millis(&cache.expire_time) - millis(&cache.update_time)
}

impl Manager {
    async fn show_cache(&self, key: &str) -> Result<Cache, Error> {
        let request = ShowCacheRequest { key: key.to_owned() };
        answer(self.caches().show_cache(request).await).map(|a| a.cache.unwrap())
    }

    async fn create_cache(&self, cache: Cache) -> Result<Cache, Error> {
        let request = CreateCacheRequest { cache: Some(cache) };
        answer(self.caches().create_cache(request).await).map(|a| a.cache.unwrap())
    }

    async fn update_cache(&self, cache: Cache) -> Result<Cache, Error> {
        let request = UpdateCacheRequest { cache: Some(cache) };
        answer(self.caches().update_cache(request).await).map(|a| a.cache.unwrap())
    }

    async fn edit_cache(&self, cache: Cache, paths: &[&str]) -> Result<Cache, Error> {
        let paths = paths.iter().map(|&path| path.to_owned()).collect();
        let request =
            EditCacheRequest { cache: Some(cache), update_mask: Some(FieldMask { paths }) };
        answer(self.caches().edit_cache(request).await).map(|a| a.cache.unwrap())
    }

    async fn delete_cache(&self, key: &str, etag: &str) -> Result<(), Error> {
        let request = DeleteCacheRequest { key: key.to_owned(), etag: etag.to_owned() };
        answer(self.caches().delete_cache(request).await).map(|_| ())
    }

    async fn flush(&self, prefix: &str) -> Result<i32, Error> {
        let request = FlushCachesRequest { prefix: prefix.to_owned() };
        answer(self.caches().flush_caches(request).await).map(|a| a.flushed)
    }

    async fn index_caches(&self, request: IndexCachesRequest) -> IndexCachesResponse {
        answer(self.caches().index_caches(request).await).unwrap()
    }

    async fn cache_keys(&self, filter: &str) -> Vec<String> {
        let request =
            IndexCachesRequest { filter: filter.to_owned(), ..IndexCachesRequest::default() };
        self.index_caches(request).await.caches.into_iter().map(|cache| cache.key).collect()
    }

    /// Rows that caches have in the store, besides the totals.
    async fn cache_rows(&self) -> usize {
        let rows = async |prefix: &str| self.store().scan(Scan::prefix(prefix)).await.unwrap();
        rows("m/cache/").await.len() + rows("m/cache-time/").await.len()
    }
}

#[tokio::test]
async fn a_cache_is_kept_over_a_crash() {
    let manager = Manager::start().await;
    let wanted = Cache { ttl: ttl(60_000), ..cache("job-1", json!({"a": 1, "b": [null, "x"]})) };
    let made = manager.create_cache(wanted).await.unwrap();
    assert_eq!(kept(&made), 60_000);
    let manager = manager.crash().await;
    assert_eq!(manager.show_cache("job-1").await.unwrap(), made);
    assert_eq!(value(&made), json!({"a": 1, "b": [null, "x"]}));
    let error = manager.create_cache(cache("job-1", json!({}))).await.unwrap_err();
    assert_eq!((error.reason, &*error.metadata["key"]), (Reason::AlreadyExists, "job-1"));
    let error = manager.show_cache("job-2").await.unwrap_err();
    assert_eq!((error.reason, &*error.metadata["key"]), (Reason::CacheNotFound, "job-2"));
}

#[tokio::test]
async fn a_key_is_made_when_none_is_given() {
    let manager = Manager::start().await;
    let made = manager.create_cache(cache("", json!({"a": 1}))).await.unwrap();
    let id = made.key.strip_prefix("cache-").unwrap();
    assert!(id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit()), "{id}");
    assert_eq!(kept(&made), 30_000);
    assert_eq!(manager.show_cache(&made.key).await.unwrap(), made);
    assert_ne!(manager.create_cache(cache("", json!({}))).await.unwrap().key, made.key);
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_by_name() {
    let manager = Manager::start().await;
    for (bad, field) in [
        (cache("new", json!({})), "cache.key"),
        (cache("a/b", json!({})), "cache.key"),
        (cache(&"k".repeat(129), json!({})), "cache.key"),
        (Cache { ttl: ttl(999), ..cache("a", json!({})) }, "cache.ttl"),
        (Cache { ttl: ttl(7 * 24 * 3_600_000 + 1), ..cache("a", json!({})) }, "cache.ttl"),
        (
            Cache {
                ttl: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
                ..cache("a", json!({}))
            },
            "cache.ttl",
        ),
    ] {
        let error = manager.create_cache(bad.clone()).await.unwrap_err();
        assert_eq!(error.violations[0].field, field, "{error}");
        let error = manager.update_cache(bad).await.unwrap_err();
        assert_eq!(error.violations[0].field, field, "{error}");
    }
    let mut rounded = cache("a", json!({"n": 1}));
    let number = prost_types::value::Kind::NumberValue(9_007_199_254_740_994.0);
    let fields = &mut rounded.value.as_mut().unwrap().fields;
    fields.insert("n".to_owned(), prost_types::Value { kind: Some(number) });
    let error = manager.create_cache(rounded).await.unwrap_err();
    assert_eq!(error.violations[0].field, "cache.value.n");

    // All bad fields at once.
    let bad = Cache { ttl: ttl(1), ..cache("new", json!({})) };
    assert_eq!(manager.create_cache(bad).await.unwrap_err().violations.len(), 2);
    // 15 bytes are what is around the text.
    let text = |bytes| cache("a", json!({"t": "x".repeat(bytes)}));
    let error = manager.create_cache(text(64 << 10)).await.unwrap_err();
    assert_eq!(error.reason, Reason::TooLarge);
    manager.create_cache(text((64 << 10) - 15)).await.unwrap();
    let error = answer(manager.caches().create_cache(CreateCacheRequest::default()).await);
    assert_eq!(error.unwrap_err().violations[0].field, "cache");
    let longest = Cache { ttl: ttl(7 * 24 * 3_600_000), ..cache("long", json!({})) };
    manager.create_cache(longest).await.unwrap();
}

#[tokio::test]
async fn an_expired_cache_is_not_there_and_is_swept() {
    let manager = Manager::start().await;
    let short = |key: &str| Cache { ttl: ttl(1000), ..cache(key, json!({"a": 1})) };
    let made = manager.create_cache(short("a")).await.unwrap();
    manager.create_cache(short("b")).await.unwrap();
    manager.create_cache(cache("c", json!({}))).await.unwrap();
    until("it has expired", || async { manager.show_cache("a").await.is_err() }).await;
    until("the other one too", || async { manager.cache_keys("").await == ["c"] }).await;
    let changed = manager.edit_cache(cache("a", json!({})), &["value"]).await.unwrap_err();
    assert_eq!(changed.reason, Reason::CacheNotFound);
    let with_etag = Cache { etag: made.etag.clone(), ..cache("a", json!({})) };
    let changed = manager.update_cache(with_etag).await.unwrap_err();
    assert_eq!(changed.reason, Reason::EtagMismatch);
    manager.delete_cache("a", "0-0").await.unwrap();
    // Another one under the same key.
    let again = manager.create_cache(cache("a", json!({"a": 2}))).await.unwrap();
    assert_ne!((again.create_time, again.etag), (made.create_time, made.etag));
    until("the expired one is swept", || async { manager.cache_rows().await == 4 }).await;
    assert_eq!(manager.cache_keys("").await, ["a", "c"]);
    assert_eq!(manager.flush("").await.unwrap(), 2);
    assert_eq!(manager.cache_rows().await, 0);
}

#[tokio::test]
async fn an_update_replaces_or_makes() {
    let manager = Manager::start().await;
    let first = manager.update_cache(cache("a", json!({"a": 1}))).await.unwrap();
    let longer = Cache { ttl: ttl(90_000), ..cache("a", json!({"b": 2})) };
    let second = manager.update_cache(longer.clone()).await.unwrap();
    assert_eq!((value(&second), kept(&second)), (json!({"b": 2}), 90_000));
    assert_eq!(second.create_time, first.create_time);
    assert_ne!(second.etag, first.etag);
    let late = Cache { etag: first.etag, ..longer.clone() };
    let error = manager.update_cache(late).await.unwrap_err();
    assert_eq!(error.reason, Reason::EtagMismatch);
    let seen = Cache { etag: second.etag.clone(), ..longer.clone() };
    manager.update_cache(seen).await.unwrap();
    // There is none of that version.
    let missing = Cache { key: "b".to_owned(), etag: second.etag, ..longer };
    let error = manager.update_cache(missing).await.unwrap_err();
    assert_eq!(error.reason, Reason::EtagMismatch);
    assert_eq!(manager.cache_keys("").await, ["a"]);
    assert_eq!(manager.cache_rows().await, 2);
    let nameless = manager.update_cache(cache("", json!({}))).await.unwrap_err();
    assert_eq!(nameless.violations[0].field, "cache.key");
}

#[tokio::test]
async fn an_edit_touches_only_what_it_names() {
    let manager = Manager::start().await;
    let made = manager.create_cache(cache("a", json!({"a": 1}))).await.unwrap();
    let given = Cache { ttl: ttl(90_000), ..cache("a", json!({"b": 2})) };
    let edited = manager.edit_cache(given.clone(), &["value"]).await.unwrap();
    assert_eq!(value(&edited), json!({"b": 2}));
    assert_eq!((edited.ttl, edited.expire_time), (made.ttl, made.expire_time));
    assert_ne!(edited.etag, made.etag);
    // The same value again is no change.
    let same = manager.edit_cache(given.clone(), &["value"]).await.unwrap();
    assert_eq!(same, edited);
    let edited =
        manager.edit_cache(Cache { value: None, ..given.clone() }, &["ttl"]).await.unwrap();
    assert_eq!((value(&edited), kept(&edited)), (json!({"b": 2}), 90_000));
    let stale = Cache { etag: made.etag, ..given.clone() };
    let error = manager.edit_cache(stale, &["ttl"]).await.unwrap_err();
    assert_eq!(error.reason, Reason::EtagMismatch);
    let error = manager.edit_cache(given.clone(), &["key", "value.b"]).await.unwrap_err();
    assert_eq!((error.reason, error.violations.len()), (Reason::InvalidArgument, 2));
    let missing = Cache { key: "b".to_owned(), ..given.clone() };
    let error = manager.edit_cache(missing, &["ttl"]).await.unwrap_err();
    assert_eq!(error.reason, Reason::CacheNotFound);
    // Without a mask: what has a value.
    let request = EditCacheRequest {
        cache: Some(Cache { ttl: None, ..cache("a", json!({"c": 3})) }),
        update_mask: None,
    };
    let edited = answer(manager.caches().edit_cache(request).await).unwrap().cache.unwrap();
    assert_eq!((value(&edited), edited.ttl), (json!({"c": 3}), given.ttl));
}

#[tokio::test]
async fn a_deletion_is_done_once_or_already() {
    let manager = Manager::start().await;
    let made = manager.create_cache(cache("a", json!({}))).await.unwrap();
    let error = manager.delete_cache("a", "0-0").await.unwrap_err();
    assert_eq!(error.reason, Reason::EtagMismatch);
    manager.delete_cache("a", &made.etag).await.unwrap();
    manager.delete_cache("a", &made.etag).await.unwrap();
    manager.delete_cache("never", "").await.unwrap();
    assert_eq!(manager.show_cache("a").await.unwrap_err().reason, Reason::CacheNotFound);
    let error = manager.delete_cache("a b", "").await.unwrap_err();
    assert_eq!(error.violations[0].field, "key");
    assert_eq!(manager.cache_rows().await, 0);
}

#[tokio::test]
async fn a_flush_takes_a_prefix_or_all_however_many() {
    let manager = Manager::start().await;
    let work = (0..450).map(|i| {
        let manager = &manager;
        let key = if i % 9 == 0 { format!("keep-{i}") } else { format!("job-{i}") };
        async move { manager.create_cache(cache(&key, json!({"i": i}))).await.unwrap() }
    });
    // All at once, and each changes the one total.
    futures::future::join_all(work).await;
    assert_eq!(manager.flush("job-").await.unwrap(), 400);
    assert_eq!(manager.flush("job-").await.unwrap(), 0);
    assert_eq!(manager.cache_keys("").await.len(), 50);
    assert_eq!(manager.flush("a b").await.unwrap_err().violations[0].field, "prefix");
    assert_eq!(manager.flush("").await.unwrap(), 50);
    assert_eq!(manager.cache_rows().await, 0);
}

#[tokio::test]
async fn caches_are_listed_in_pages_by_key() {
    let manager = Manager::start().await;
    for key in ["b", "a", "d", "c"] {
        manager.create_cache(cache(key, json!({"k": key}))).await.unwrap();
    }
    assert_eq!(manager.cache_keys("key != b AND key < d").await, ["a", "c"]);
    let request = IndexCachesRequest { page_size: 3, ..IndexCachesRequest::default() };
    let page = manager.index_caches(request.clone()).await;
    assert_eq!((page.caches.len(), page.total_size), (3, 4));
    assert_eq!(value(&page.caches[0]), json!({"k": "a"}));
    let next = IndexCachesRequest { page_token: page.next_page_token, ..request };
    let page = manager.index_caches(next).await;
    assert_eq!((page.caches[0].key.as_str(), page.next_page_token.as_str()), ("d", ""));
    let bad = IndexCachesRequest { filter: "value = 1".into(), ..IndexCachesRequest::default() };
    let error = answer(manager.caches().index_caches(bad).await).unwrap_err();
    assert_eq!(error.violations[0].field, "filter");
}

#[tokio::test]
async fn the_bound_of_all_bytes_holds_until_something_goes() {
    const MOST: usize = 1024;
    let manager = Manager::start().await;
    // With key and times 1024 of them are a little more than 64 MiB.
    let large = |key: &str, millis| Cache {
        ttl: ttl(millis),
        ..cache(key, json!({"t": "x".repeat((64 << 10) - 15)}))
    };
    for i in 0..MOST - 5 {
        manager.create_cache(large(&format!("k{i:04}"), 600_000)).await.unwrap();
    }
    let mut error = None;
    for i in 0..6 {
        error = manager.create_cache(large(&format!("short{i}"), 1000)).await.err();
    }
    let error = error.unwrap();
    assert_eq!(error.reason, Reason::RateLimited);
    assert!(error.message.contains("64 MiB"), "{error}");
    assert!(error.retry_after.is_some());

    // A page is cut before it is too large for a client, and the pages join.
    let mut request = IndexCachesRequest { page_size: 1000, ..IndexCachesRequest::default() };
    request.filter = "key < k0100".to_owned();
    let mut keys = Vec::new();
    let mut pages = 0;
    loop {
        let page = manager.index_caches(request.clone()).await;
        assert_eq!(page.total_size, 100);
        keys.extend(page.caches.into_iter().map(|cache| cache.key));
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(keys, (0..100).map(|i| format!("k{i:04}")).collect::<Vec<_>>());
    assert!((3..=5).contains(&pages), "{pages} pages");

    // What has expired is not in the way, and what is deleted makes room.
    until("the short ones have expired", || async {
        manager.create_cache(large("more", 600_000)).await.is_ok()
    })
    .await;
    manager.delete_cache("more", "").await.unwrap();
    assert_eq!(manager.flush("k").await.unwrap(), i32::try_from(MOST - 5).unwrap());
    manager.create_cache(large("again", 600_000)).await.unwrap();
}

#[tokio::test]
async fn a_blank_cache_names_its_constraints() {
    let manager = Manager::start().await;
    let blank = answer(manager.caches().new_cache(NewCacheRequest {}).await).unwrap();
    assert_eq!(blank.cache.unwrap().ttl, ttl(30_000));
    for field in ["key", "value", "ttl"] {
        assert!(blank.constraints.contains_key(field), "{field}");
    }
}
