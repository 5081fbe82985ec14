//! Where things stand in the store. Everything is below `m/`: the rest belongs to the embedded
//! transport.
//!
//! Invariant: numbers in keys are big-endian, so that the order of keys is that of numbers.

use goperation_store::Key;

fn key(parts: &[&[u8]]) -> Key {
    parts.concat()
}

/// Records of agents.
pub(crate) const AGENTS: &[u8] = b"m/agent/";
/// Records of entities.
pub(crate) const ENTITIES: &[u8] = b"m/entity/";
/// Entities by agent.
pub(crate) const ENTITIES_ON: &[u8] = b"m/on/";
/// Names of notify queues that were used.
pub(crate) const NOTIFY: &[u8] = b"m/notify/";
/// Queues of agents that are to be made.
pub(crate) const QUEUE_JOBS: &[u8] = b"m/queues/";
/// Deletes of agents that are under way.
pub(crate) const DELETES: &[u8] = b"m/delete/";
/// Entities that were deleted, by when.
pub(crate) const GONE_BY_TIME: &[u8] = b"m/gone-time/";
/// Claims of messages, by when they end.
pub(crate) const CLAIMS_BY_TIME: &[u8] = b"m/claim-time/";
/// Caches, by when they expire.
pub(crate) const CACHES_BY_TIME: &[u8] = b"m/cache-time/";

/// Which reports of agents are kept.
pub(crate) const REPORT_SPANS: &[u8] = b"m/report-span/";

/// Which reports of an agent are kept.
pub(crate) fn report_span(agent: u32) -> Key {
    key(&[REPORT_SPANS, &agent.to_be_bytes()])
}

/// Reports of an agent.
pub(crate) fn reports_of(agent: u32) -> Key {
    key(&[b"m/report/", &agent.to_be_bytes(), b"/"])
}

/// A report by its number.
pub(crate) fn report(agent: u32, number: u64) -> Key {
    key(&[&reports_of(agent), &number.to_be_bytes()])
}

/// Idempotency keys, by when they are forgotten.
pub(crate) const IDEMPOTENCY_BY_TIME: &[u8] = b"m/idempotency-time/";

/// What was asked for under an idempotency key.
pub(crate) fn idempotency(name: &str) -> Key {
    key(&[b"m/idempotency/", name.as_bytes()])
}

/// When an idempotency key is forgotten.
pub(crate) fn idempotency_time(time: u64, name: &str) -> Key {
    key(&[IDEMPOTENCY_BY_TIME, &time.to_be_bytes(), b"/", name.as_bytes()])
}

/// Records of requests.
pub(crate) const REQUESTS: &[u8] = b"m/request/";
/// Requests by when they were asked for.
pub(crate) const REQUESTS_BY_TIME: &[u8] = b"m/request-time/";
/// Requests that have not ended.
pub(crate) const REQUESTS_OPEN: &[u8] = b"m/request-open/";
/// Requests by when their rows are dropped.
pub(crate) const REQUESTS_BY_EXPIRY: &[u8] = b"m/request-expiry/";

/// The record of a request.
pub(crate) fn request(id: &str) -> Key {
    key(&[REQUESTS, id.as_bytes()])
}

/// When a request was asked for.
pub(crate) fn request_time(time: u64, id: &str) -> Key {
    key(&[REQUESTS_BY_TIME, &time.to_be_bytes(), b"/", id.as_bytes()])
}

/// That a request has not ended.
pub(crate) fn request_open(id: &str) -> Key {
    key(&[REQUESTS_OPEN, id.as_bytes()])
}

/// When the rows of a request are dropped.
pub(crate) fn request_expiry(time: u64, id: &str) -> Key {
    key(&[REQUESTS_BY_EXPIRY, &time.to_be_bytes(), b"/", id.as_bytes()])
}

/// Rows of a request.
pub(crate) fn rows_of(id: &str) -> Key {
    key(&[b"m/request-row/", id.as_bytes(), b"/"])
}

/// The row of an agent in a request.
pub(crate) fn row(id: &str, agent: u32) -> Key {
    key(&[&rows_of(id), &agent.to_be_bytes()])
}

/// Events of a request.
pub(crate) fn events_of(id: &str) -> Key {
    key(&[b"m/request-event/", id.as_bytes(), b"/"])
}

/// An event of a request by its number.
pub(crate) fn event(id: &str, number: u64) -> Key {
    key(&[&events_of(id), &number.to_be_bytes()])
}

/// The record of an agent.
pub(crate) fn agent(id: u32) -> Key {
    key(&[AGENTS, &id.to_be_bytes()])
}

/// The number of the agent that has a host and type.
pub(crate) fn identity(agent_type: &str, host: &str) -> Key {
    key(&[b"m/identity/", agent_type.as_bytes(), b"/", host.as_bytes()])
}

/// The last number of an agent.
pub(crate) fn agent_counter() -> Key {
    b"m/counter/agent".to_vec()
}

/// The last number of an entity of an endpoint.
pub(crate) fn entity_counter(endpoint: &str) -> Key {
    key(&[b"m/counter/entity/", endpoint.as_bytes()])
}

/// The record of an entity.
pub(crate) fn entity(endpoint: &str, number: u32) -> Key {
    key(&[ENTITIES, endpoint.as_bytes(), b"/", &number.to_be_bytes()])
}

/// Records of the entities of an endpoint.
pub(crate) fn entities_of(endpoint: &str) -> Key {
    key(&[ENTITIES, endpoint.as_bytes(), b"/"])
}

/// That an entity is on an agent.
pub(crate) fn entity_on(agent: u32, endpoint: &str, number: u32) -> Key {
    key(&[
        ENTITIES_ON,
        &agent.to_be_bytes(),
        b"/",
        endpoint.as_bytes(),
        b"/",
        &number.to_be_bytes(),
    ])
}

/// Entities on an agent.
pub(crate) fn entities_on(agent: u32) -> Key {
    key(&[ENTITIES_ON, &agent.to_be_bytes(), b"/"])
}

/// After all keys of [`entities_on`].
pub(crate) fn after_entities_on(agent: u32) -> Key {
    key(&[ENTITIES_ON, &agent.to_be_bytes(), &[b'/' + 1]])
}

/// The agent, endpoint and number in a key of [`entity_on`].
pub(crate) fn split_entity_on(key: &[u8]) -> Option<(u32, String, u32)> {
    let (agent, rest) = key.strip_prefix(ENTITIES_ON)?.split_first_chunk::<4>()?;
    let (endpoint, number) = rest.strip_prefix(b"/")?.split_last_chunk::<4>()?;
    let endpoint = String::from_utf8(endpoint.strip_suffix(b"/")?.to_vec()).ok()?;
    Some((u32::from_be_bytes(*agent), endpoint, u32::from_be_bytes(*number)))
}

/// That an agent has an endpoint.
pub(crate) fn endpoint_on(endpoint: &str, agent: u32) -> Key {
    key(&[b"m/endpoint/", endpoint.as_bytes(), b"/", &agent.to_be_bytes()])
}

/// Agents that have an endpoint.
pub(crate) fn agents_of(endpoint: &str) -> Key {
    key(&[b"m/endpoint/", endpoint.as_bytes(), b"/"])
}

/// That an entity was deleted.
pub(crate) fn gone(endpoint: &str, number: u32) -> Key {
    key(&[b"m/gone/", endpoint.as_bytes(), b"/", &number.to_be_bytes()])
}

/// When an entity was deleted.
pub(crate) fn gone_time(time: u64, endpoint: &str, number: u32) -> Key {
    key(&[
        GONE_BY_TIME,
        &time.to_be_bytes(),
        b"/",
        endpoint.as_bytes(),
        b"/",
        &number.to_be_bytes(),
    ])
}

/// The claim of a message.
pub(crate) fn claim(message_id: &str) -> Key {
    key(&[b"m/claim/", message_id.as_bytes()])
}

/// When the claim of a message ends.
pub(crate) fn claim_time(time: u64, message_id: &str) -> Key {
    key(&[CLAIMS_BY_TIME, &time.to_be_bytes(), b"/", message_id.as_bytes()])
}

/// What follows the time in a key by time.
pub(crate) fn after_time<'a>(prefix: &[u8], key: &'a [u8]) -> Option<(u64, &'a [u8])> {
    let (time, rest) = key.strip_prefix(prefix)?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*time), rest.strip_prefix(b"/")?))
}

/// The end of the keys by time that are before `time`.
pub(crate) fn before(prefix: &[u8], time: u64) -> Key {
    key(&[prefix, &time.to_be_bytes()])
}

/// A cache.
pub(crate) fn cache(name: &str) -> Key {
    key(&[b"m/cache/", name.as_bytes()])
}

/// When a cache expires.
pub(crate) fn cache_time(time: u64, name: &str) -> Key {
    key(&[CACHES_BY_TIME, &time.to_be_bytes(), b"/", name.as_bytes()])
}

/// When a cache expires, and its key, in a key of [`cache_time`].
pub(crate) fn split_cache_time(key: &[u8]) -> Option<(u64, &str)> {
    let (time, name) = after_time(CACHES_BY_TIME, key)?;
    Some((time, std::str::from_utf8(name).ok()?))
}

/// How many caches there are.
pub(crate) fn cache_totals() -> Key {
    b"m/cache-totals".to_vec()
}

/// That a notify queue was used.
pub(crate) fn notify(name: &str) -> Key {
    key(&[NOTIFY, name.as_bytes()])
}

/// That the queues of an agent are to be made.
pub(crate) fn queue_job(agent: u32) -> Key {
    key(&[QUEUE_JOBS, &agent.to_be_bytes()])
}

/// The delete of an agent.
pub(crate) fn delete(agent: u32) -> Key {
    key(&[DELETES, &agent.to_be_bytes()])
}

/// The number that ends a key.
pub(crate) fn last_number(key: &[u8]) -> Option<u32> {
    key.split_last_chunk::<4>().map(|(_, number)| u32::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_order_of_numbers() {
        assert!(entity("db", 255) < entity("db", 256));
        assert!(entity("db", u32::MAX) < entity("db2", 1));
        assert!(entity("db", 1).starts_with(&entities_of("db")));
        assert!(!entity("db2", 1).starts_with(&entities_of("db")));
    }

    #[test]
    fn an_entity_on_an_agent_is_read_back() {
        // 0x2f is `/`: it must not be taken for a separator.
        let key = entity_on(0x2f2f_2f2f, "game", 0x2f2f_2f2f);
        assert_eq!(split_entity_on(&key), Some((0x2f2f_2f2f, "game".to_owned(), 0x2f2f_2f2f)));
    }
}
