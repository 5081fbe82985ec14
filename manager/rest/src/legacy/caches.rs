//! `/caches`.
//!
//! What there is of old keys: `gop-caches-…` for values that scripts left, `online-…` for metadata.

use goperation::{
    Error, Result, Secret, json_to_struct, now_millis, struct_to_json,
    v1::{Cache, CreateCacheRequest, DeleteCacheRequest, FlushCachesRequest, ShowCacheRequest},
};
use serde_json::{Value, json};

use super::{
    Call, agents,
    clients::{ask, timed},
    envelope::Envelope,
    fields::{Fields, agent_type, host},
    metadata,
};

/// What every key begins with.
const PREFIX: &str = "gop-";
/// What the keys of values begin with.
const VALUES: &str = "gop-caches-";
/// How long a value is kept when that is not said, in seconds.
const KEPT: i32 = 30;

/// The key that the path names.
fn key(call: &Call) -> Result<String> {
    let key = call.param("key");
    if !key.starts_with(PREFIX) || key.contains('*') {
        return Err(Error::invalid("key", format!("must begin with {PREFIX} and have no * in it")));
    }
    Ok(key.to_owned())
}

/// A new key.
fn new_key() -> String {
    let random = Secret::generate();
    let letters = random.reveal().bytes().filter_map(|digit| char::from(digit).to_digit(16));
    let letters: Vec<u8> = letters.filter_map(|digit| u8::try_from(digit).ok()).collect();
    let pairs = letters.chunks_exact(2).take(6);
    let letters: String = pairs.map(|two| char::from(b'a' + (two[0] * 16 + two[1]) % 26)).collect();
    format!("{VALUES}{}-{letters}", now_millis() / 1000)
}

pub(super) async fn create(mut call: Call) -> Result<Envelope> {
    let body = std::mem::take(&mut call.body).rest();
    // It stays in the value.
    let mut expire = Fields::new(body.clone());
    let seconds =
        if body.contains_key("expire") { expire.count("expire")?.unwrap_or(0) } else { KEPT };
    let cache = Cache {
        key: new_key(),
        value: Some(json_to_struct("body", &body)?),
        ttl: metadata::ttl(seconds),
        ..Cache::default()
    };
    let request = CreateCacheRequest { cache: Some(cache) };
    let created = ask(call.clients.caches().create_cache(timed(request))).await?;
    let key = created.cache.unwrap_or_default().key;
    Ok(Envelope::new("create cache success", vec![key.into()]))
}

pub(super) async fn show(call: Call) -> Result<Envelope> {
    let request = ShowCacheRequest { key: key(&call)? };
    let shown = ask(call.clients.caches().show_cache(timed(request))).await?;
    let value = struct_to_json("value", shown.cache.unwrap_or_default().value.as_ref())?;
    Ok(Envelope::new("show cache success", vec![value.into()]))
}

pub(super) async fn delete(call: Call) -> Result<Envelope> {
    let key = key(&call)?;
    let request = DeleteCacheRequest { key: key.clone(), etag: String::new() };
    ask(call.clients.caches().delete_cache(timed(request))).await?;
    Ok(Envelope::new("delete cache success", vec![key.into()]))
}

pub(super) async fn flush(mut call: Call) -> Result<Envelope> {
    let online = call.body.flag("online", false)?;
    for prefix in [VALUES].into_iter().chain(online.then_some(metadata::PREFIX)) {
        let request = FlushCachesRequest { prefix: prefix.to_owned() };
        ask(call.clients.caches().flush_caches(timed(request))).await?;
    }
    Ok(Envelope::new("flush cache success", Vec::new()))
}

pub(super) async fn online(mut call: Call) -> Result<Envelope> {
    let host = host("host", call.param("host"))?;
    let agent_type = agent_type("agent_type", &call.body.needed_text("agent_type")?)?;
    let Value::Object(metadata) = call.body.present("metadata")? else {
        return Err(Error::invalid("metadata", "must be an object"));
    };
    let expire = call.body.present_count("expire")?;
    let of = (agent_type.as_str(), host.as_str());
    metadata::keep(&call.clients, of, metadata, expire).await?;
    let id = agents::of_host(&call.clients, of).await?;
    Ok(Envelope::new("online success", vec![json!({ "agent_id": id })]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_time_and_six_letters() {
        let key = new_key();
        let rest = key.strip_prefix(VALUES).unwrap();
        let (time, letters) = rest.split_once('-').unwrap();
        assert!(time.parse::<u64>().unwrap() > 1_700_000_000, "{key}");
        assert!(letters.len() == 6 && letters.bytes().all(|b| b.is_ascii_lowercase()), "{key}");
        assert_ne!(key, new_key());
    }
}
