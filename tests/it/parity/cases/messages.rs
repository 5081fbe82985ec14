//! CALL, CAST, NOTIFY, queues, and caches.

use goperation::Reason::*;
use serde_json::{Value, json};

use super::{Ask, CACHE, Case, TIMES, each, fails, merged, read};
use crate::parity::fixture::{ACKNOWLEDGED, Fixture, STREAMS};

pub(super) fn messages() -> Vec<Case> {
    const IDS: &[&str] = &["messageId", "message_id"];
    let sample = || json!({"topic": "agent.application", "host": "dev1", "namespace": "sample"});
    let to = |target: Value, method: &str| json!({"target": target, "method": method});
    let say = || merged(to(sample(), "say"), json!({"args": {"text": "hi"}}));
    let echo = || merged(to(sample(), "echo"), json!({"args": {"n": 1, "x": [null, "ü", 0.25]}}));
    let host = |name: &str| json!({"topic": "agent.application", "host": name});
    let all = json!({"topic": "agent", "fanout": true, "namespace": "sample"});
    let [grpc, lines, events] = STREAMS.map(|queue| json!({"queue": queue}));
    let stream = Ask::Stream {
        grpc,
        lines,
        events,
        differ: &["ackToken", "messageId", "sendTime", "redelivered"],
    };
    vec![
        each("BridgeService/Cast", [say(), say()], IDS),
        fails("BridgeService/Cast", 0, to(host("nowhere"), "x"), QueueNotFound),
        fails(
            "BridgeService/Cast",
            0,
            merged(say(), json!({"messageId": "?", "agents": "3-1"})),
            InvalidArgument,
        ),
        each("BridgeService/Call", [echo(), echo()], IDS),
        fails("BridgeService/Call", 0, to(host("nowhere"), "x"), QueueNotFound),
        fails("BridgeService/Call", 0, to(all, "said"), FanoutCall),
        fails(
            "BridgeService/Call",
            0,
            merged(to(sample(), "dance"), json!({"messageId": "p-1"})),
            MethodNotFound,
        ),
        fails("BridgeService/Call", 0, json!({"timeout": "-1s"}), InvalidArgument),
        each(
            "BridgeService/Notify",
            [1, 2].map(|n| json!({"queue": format!("parity.n{n}"), "payload": {"n": 1}})),
            IDS,
        ),
        fails("BridgeService/Notify", 0, json!({"queue": "a b/c%"}), InvalidArgument),
        Case { method: "BridgeService/Receive", binding: 0, ask: stream },
        fails("BridgeService/Receive", 0, json!({"queue": "ü"}), InvalidArgument),
        fails(
            "BridgeService/Receive",
            0,
            json!({"queue": STREAMS[0], "maxUnacknowledged": 1000}),
            InvalidArgument,
        ),
    ]
}

pub(super) fn queues(f: &Fixture) -> Vec<Case> {
    let acknowledge = |i: usize| json!({"queue": ACKNOWLEDGED, "ackTokens": [f.tokens[i], "0.0"]});
    let queues = |side: &str| {
        json!({
            "type": "parity", "host": format!("queues-{side}"), "endpoints": ["arena"],
        })
    };
    let remove = |side: &str| json!({"type": "parity", "host": format!("queues-{side}")});
    vec![
        each("BridgeService/Acknowledge", [acknowledge(0), acknowledge(1)], &[]),
        fails("BridgeService/Acknowledge", 0, json!({"queue": ACKNOWLEDGED}), InvalidArgument),
        read("BridgeService/IndexQueues", 0, json!({})),
        read("BridgeService/IndexQueues", 0, json!({"filter": "depth > 0", "pageSize": 1})),
        fails("BridgeService/IndexQueues", 0, json!({"filter": "colour = red"}), InvalidArgument),
        read("BridgeService/ShowQueue", 0, json!({"name": "cast.application.dev1"})),
        fails("BridgeService/ShowQueue", 0, json!({"name": "no such kind"}), InvalidArgument),
        read("BridgeService/IndexDeadLetters", 0, json!({"pageSize": 5})),
        fails("BridgeService/IndexDeadLetters", 0, json!({"pageSize": -5}), InvalidArgument),
        each("BridgeService/CreateAgentQueues", [queues("a"), queues("b")], &[]),
        fails(
            "BridgeService/CreateAgentQueues",
            0,
            json!({
                "type": "1 2", "host": "a b", "endpoints": ["?"],
            }),
            InvalidArgument,
        ),
        each("BridgeService/DeleteAgentQueues", [remove("a"), remove("b")], &[]),
        fails(
            "BridgeService/DeleteAgentQueues",
            0,
            json!({"type": "1 2", "host": "a b"}),
            InvalidArgument,
        ),
    ]
}

pub(super) fn caches() -> Vec<Case> {
    let cache = |key: &str| {
        json!({"cache": {
            "key": format!("parity.{key}"), "value": {"n": 2, "deep": {"x": [1, "a"]}}, "ttl": "3600s",
        }})
    };
    let edit = |key: &str| {
        json!({
            "cache": {"key": format!("parity.{key}"), "value": {"n": 9}, "ttl": "1s"},
            "updateMask": "value",
        })
    };
    let key = |key: &str| json!({"key": format!("parity.{key}")});
    let old = |mut request: Value| {
        request["cache"]["etag"] = "old".into();
        request
    };
    vec![
        read("CacheService/IndexCaches", 0, json!({"pageSize": 2})),
        fails("CacheService/IndexCaches", 0, json!({"filter": "colour = red"}), InvalidArgument),
        read("CacheService/NewCache", 0, json!({})),
        read("CacheService/ShowCache", 0, key("show")),
        fails("CacheService/ShowCache", 0, json!({"key": "nothing"}), CacheNotFound),
        each("CacheService/CreateCache", [cache("new-a"), cache("new-b")], CACHE),
        fails("CacheService/CreateCache", 0, cache("show"), AlreadyExists),
        fails(
            "CacheService/CreateCache",
            0,
            json!({"cache": {"key": "a b", "ttl": "-1s"}}),
            InvalidArgument,
        ),
        each("CacheService/UpdateCache", [cache("update-a"), cache("update-b")], CACHE),
        each("CacheService/UpdateCache", [cache("put-a"), cache("put-b")], CACHE),
        fails("CacheService/UpdateCache", 0, old(cache("show")), EtagMismatch),
        each("CacheService/EditCache", [edit("edit-a"), edit("edit-b")], CACHE),
        fails("CacheService/EditCache", 0, edit("nothing"), CacheNotFound),
        each("CacheService/DeleteCache", [key("delete-a"), key("delete-b")], TIMES),
        each("CacheService/DeleteCache", [key("delete-a"), key("delete-b")], TIMES),
        fails(
            "CacheService/DeleteCache",
            0,
            merged(key("show"), json!({"etag": "old"})),
            EtagMismatch,
        ),
        each(
            "CacheService/FlushCaches",
            [json!({"prefix": "flush-a."}), json!({"prefix": "flush-b."})],
            &[],
        ),
        fails("CacheService/FlushCaches", 0, json!({"prefix": "a b"}), InvalidArgument),
    ]
}
