//! The cases: for each method and binding at least one that succeeds and one that fails.

mod agents;
mod fleet;
mod messages;
mod requests;

use goperation::Reason;
use serde_json::Value;

use self::{
    agents::{agents, last},
    fleet::{endpoints, entities, placed, ports, processes},
    messages::{caches, messages, queues},
    requests::{requests, responses, standing},
};
use super::fixture::Fixture;

/// What is asked for in one case.
#[derive(Debug)]
pub(super) enum Ask {
    /// A reading: the same request both ways, and exactly the same answer.
    Read(Value),
    /// Something with an effect, each way on an object of its own; `differ` names the fields that
    /// cannot be the same.
    Each { grpc: Value, rest: Value, differ: &'static [&'static str] },
    /// A stream of two messages: by gRPC, as lines of JSON, and as server-sent events.
    Stream { grpc: Value, lines: Value, events: Value, differ: &'static [&'static str] },
    /// A stream that ends, of what stays as it is: the same three ways, and exactly the same.
    Ending(Value),
    /// A failure for that reason, the same both ways.
    Fails(Value, Reason),
}

/// One case.
#[derive(Debug)]
pub(super) struct Case {
    /// `AgentService/ShowAgent`.
    pub(super) method: &'static str,
    /// Which of its bindings.
    pub(super) binding: usize,
    pub(super) ask: Ask,
}

/// Fields of a record that no two objects have in common.
const TIMES: &[&str] = &["etag", "createTime", "updateTime"];
/// As [`TIMES`], for an agent that is told to go: it may have gone when the answer is made.
const LEAVING: &[&str] = &[
    "online",
    "id",
    "host",
    "etag",
    "createTime",
    "updateTime",
    "statusTime",
    "reportTime",
    "snapshot",
    "upgrade",
    "clockOffset",
    "portsRanges",
    "diskMib",
];
/// As [`LEAVING`], for an agent that stays.
const AGENT: &[&str] = LEAVING.split_first().unwrap().1;
/// What no two upgrades have in common.
const UPGRADE: &[&str] = &["messageId", "beginTime", "endTime", "log"];
/// As [`TIMES`], for an entity and its ports.
const ENTITY: &[&str] =
    &["number", "agentId", "etag", "createTime", "updateTime", "port", "entity"];
/// As [`ENTITY`], for one that was placed.
const PLACED: &[&str] = &[
    "number",
    "agentId",
    "host",
    "entities",
    "weights",
    "etag",
    "createTime",
    "updateTime",
    "port",
    "entity",
];
/// As [`ENTITY`], for one with a process.
const PROCESS: &[&str] = &[
    "number",
    "agentId",
    "etag",
    "createTime",
    "updateTime",
    "pid",
    "since",
    "startTime",
    "time",
    "cpuTime",
    "cpuPercent",
    "memoryBytes",
    "processes",
];
/// As [`TIMES`], for a cache.
const CACHE: &[&str] = &["key", "etag", "createTime", "updateTime", "expireTime"];

/// All cases, in the order in which they are run.
pub(super) fn all(f: &Fixture) -> Vec<Case> {
    let groups = [
        agents(f),
        endpoints(f),
        placed(),
        entities(f),
        processes(f),
        ports(f),
        messages(),
        queues(f),
        caches(),
        requests(f),
        responses(f),
        standing(f),
    ];
    let mut cases: Vec<_> = groups.into_iter().flatten().collect();
    cases.extend(last());
    cases
}

fn read(method: &'static str, binding: usize, request: Value) -> Case {
    Case { method, binding, ask: Ask::Read(request) }
}

fn each(method: &'static str, [grpc, rest]: [Value; 2], differ: &'static [&'static str]) -> Case {
    Case { method, binding: 0, ask: Ask::Each { grpc, rest, differ } }
}

fn fails(method: &'static str, binding: usize, request: Value, reason: Reason) -> Case {
    Case { method, binding, ask: Ask::Fails(request, reason) }
}

/// A request with more fields.
pub(super) fn merged(mut request: Value, more: Value) -> Value {
    let fields = request.as_object_mut().expect("a request is an object");
    fields.extend(more.as_object().expect("fields are an object").clone());
    request
}
