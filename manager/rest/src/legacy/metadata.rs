//! What is known of an agent's host: by its lease while it is online, else as `online` and
//! `report` left it, for as long as they said.

use std::time::Duration;

use goperation::{
    Error, JsonObject, Reason, Result, json_to_struct, struct_to_json,
    v1::{Agent, Cache, EditCacheRequest, ShowCacheRequest, UpdateCacheRequest},
};
use prost_types::FieldMask;
use serde_json::{Value, json};

use super::clients::{Clients, ask, timed};

/// What the keys of metadata begin with.
pub(super) const PREFIX: &str = "online-";
/// ONLINE_EXIST_TIME: how long metadata is kept when that is not said.
const KEPT: i32 = 600;

/// The key of the metadata of an agent.
fn key(agent_type: &str, host: &str) -> String {
    format!("{PREFIX}{agent_type}-{host}")
}

/// Seconds as a duration; none is the default.
pub(super) fn ttl(seconds: i32) -> Option<prost_types::Duration> {
    let seconds = if seconds == 0 { KEPT } else { seconds };
    prost_types::Duration::try_from(Duration::from_secs(seconds.unsigned_abs().into())).ok()
}

/// The metadata of an agent; null when it is offline and nobody left any.
pub(super) async fn of(clients: &Clients, agent: &Agent) -> Result<Value> {
    if agent.online {
        return Ok(known(agent));
    }
    let request = ShowCacheRequest { key: key(&agent.r#type, &agent.host) };
    match ask(clients.caches().show_cache(timed(request))).await {
        Ok(shown) => {
            let value = shown.cache.unwrap_or_default().value;
            let mut value = struct_to_json("metadata", value.as_ref())?;
            Ok(value.remove("metadata").unwrap_or_default())
        }
        // A key of a long host name is refused, and was when it was to be kept.
        Err(error) if is_none(&error) => Ok(Value::Null),
        Err(error) => Err(error),
    }
}

fn is_none(error: &Error) -> bool {
    matches!(error.reason, Reason::CacheNotFound | Reason::InvalidArgument)
}

/// What an agent that is online has said of itself, under the keys that were always there.
fn known(agent: &Agent) -> Value {
    let mut metadata = json!({
        "local_ip": agent.address,
        "external_ips": [],
        "host": agent.host,
        "agent_type": agent.r#type,
        "zone": "all",
        "dnsnames": [],
    });
    for (name, value) in agent.facts.clone().unwrap_or_default().metadata {
        metadata[&name] = match name.as_str() {
            // Lists, which facts have joined by commas.
            "external_ips" | "dnsnames" => {
                value.split(',').filter(|item| !item.is_empty()).collect::<Vec<_>>().into()
            }
            _ => value.into(),
        };
    }
    metadata
}

/// Keeps metadata for a time.
pub(super) async fn keep(
    clients: &Clients,
    (agent_type, host): (&str, &str),
    metadata: JsonObject,
    seconds: i32,
) -> Result<()> {
    let mut value = JsonObject::new();
    value.insert("metadata".to_owned(), metadata.into());
    let cache = Cache {
        key: key(agent_type, host),
        value: Some(json_to_struct("metadata", &value)?),
        ttl: ttl(seconds),
        ..Cache::default()
    };
    let request = UpdateCacheRequest { cache: Some(cache) };
    ask(clients.caches().update_cache(timed(request))).await.map(|_| ())
}

/// Keeps what there is for another time.
pub(super) async fn keep_on(
    clients: &Clients,
    (agent_type, host): (&str, &str),
    seconds: i32,
) -> Result<()> {
    let cache = Cache { key: key(agent_type, host), ttl: ttl(seconds), ..Cache::default() };
    let mask = FieldMask { paths: vec!["ttl".to_owned()] };
    let request = EditCacheRequest { cache: Some(cache), update_mask: Some(mask) };
    match ask(clients.caches().edit_cache(timed(request))).await {
        Ok(_) => Ok(()),
        Err(error) if is_none(&error) => Ok(()),
        Err(error) => Err(error),
    }
}
