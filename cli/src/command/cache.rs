//! `gop cache ls|show|set|rm|flush`.

use goperation::v1::{
    Cache, CreateCacheRequest, DeleteCacheRequest, FlushCachesRequest, IndexCachesRequest,
    ShowCacheRequest, UpdateCacheRequest,
};
use serde_json::Value;

use crate::{
    args::CacheCommand,
    client::{Client, PAGE, all_pages},
    error::Error,
    output::{Output, fields, object, result, short, table, time},
};

/// Runs one command.
pub(crate) async fn run(
    client: &Client,
    output: Output,
    command: CacheCommand,
) -> Result<(), Error> {
    match command {
        CacheCommand::Ls { filter } => list(client, output, filter).await,
        CacheCommand::Show { key } => {
            let request = client.request(ShowCacheRequest { key });
            let answer = client.caches().show_cache(request).await?.into_inner();
            output.answer(&answer, |a| a.cache.as_ref().map(details).unwrap_or_default())
        }
        CacheCommand::Set { key, value, ttl, etag } => {
            let cache = Cache {
                key: key.unwrap_or_default(),
                value: Some(value.to_struct()?),
                ttl: ttl
                    .map(prost_types::Duration::try_from)
                    .transpose()
                    .map_err(|e| Error::Usage(format!("--ttl: {e}")))?,
                etag,
                ..Cache::default()
            };
            set(client, output, cache).await
        }
        CacheCommand::Rm { key } => {
            let request = DeleteCacheRequest { key: key.clone(), ..DeleteCacheRequest::default() };
            let answer = client.caches().delete_cache(client.request(request)).await?.into_inner();
            output.answer(&answer, |_| format!("removed {key}"))
        }
        CacheCommand::Flush { prefix, all: _ } => {
            let request = FlushCachesRequest { prefix: prefix.unwrap_or_default() };
            let answer = client.caches().flush_caches(client.request(request)).await?.into_inner();
            output.answer(&answer, |a| format!("removed {}", a.flushed))
        }
    }
}

async fn list(client: &Client, output: Output, filter: Option<String>) -> Result<(), Error> {
    let answer = all_pages(|page_token| {
        let request = client.request(IndexCachesRequest {
            page_size: PAGE,
            page_token,
            filter: filter.clone().unwrap_or_default(),
        });
        let mut caches = client.caches();
        async move { caches.index_caches(request).await }
    })
    .await?;
    output.answer(&answer, |a| rows(&a.caches))
}

/// One without a key gets one.
async fn set(client: &Client, output: Output, cache: Cache) -> Result<(), Error> {
    let mut caches = client.caches();
    if cache.key.is_empty() {
        let request = client.request(CreateCacheRequest { cache: Some(cache) });
        let answer = caches.create_cache(request).await?.into_inner();
        return output.answer(&answer, |a| rows(a.cache.as_slice()));
    }
    let request = client.request(UpdateCacheRequest { cache: Some(cache) });
    let answer = caches.update_cache(request).await?.into_inner();
    output.answer(&answer, |a| rows(a.cache.as_slice()))
}

fn rows(caches: &[Cache]) -> String {
    table(
        ["KEY", "EXPIRES", "VALUE"],
        caches.iter().map(|c| {
            let value = Value::Object(object(c.value.as_ref())).to_string();
            [c.key.clone(), time(c.expire_time.as_ref()), short(&value)]
        }),
    )
}

fn details(c: &Cache) -> String {
    let fields = fields([
        ("key", c.key.clone()),
        ("expires", time(c.expire_time.as_ref())),
        ("created", time(c.create_time.as_ref())),
        ("changed", time(c.update_time.as_ref())),
        ("etag", c.etag.clone()),
    ]);
    fields + &result(c.value.as_ref())
}
