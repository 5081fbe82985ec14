//! Requests, and what stands for one.

use goperation::Reason::*;
use serde_json::{Value, json};

use super::{Ask, Case, each, fails, merged, read};
use crate::parity::fixture::{Fixture, SECRET, echo};

/// What no two requests have in common; a plan is that of its moment.
const REQUEST: &[&str] =
    &["id", "etag", "requestTime", "finishTime", "deadline", "endTime", "plan"];
/// Of no request.
const NONE: &str = "00000000-0000-7000-8000-000000000000";

pub(super) fn requests(f: &Fixture) -> Vec<Case> {
    let id = |id: &str| json!({"id": id});
    let done = |more: Value| merged(id(&f.done), more);
    let each_of = |purpose| f.requests(purpose).map(id);
    let two = echo("1-2");
    let both = |request: Value| [request.clone(), request];
    let rolled = merged(
        echo("1-2"),
        json!({
            "rollout": {"batch": "50%", "canary": 1, "pause": "0.5s", "maxFailures": "0",
                        "maxParallel": 2},
            "finishTimeout": "20s", "timeout": "23.5s", "expire": "3600s",
        }),
    );
    let wrong = json!({
        "namespace": "all", "method": "a b", "rollout": {"batch": "x"},
        "timeout": "-1s", "preRun": {"executer": "shell"},
    });
    let keyed = |key: &str| merged(echo("1"), json!({"idempotencyKey": key}));
    let reused = merged(echo("2"), json!({"idempotencyKey": "parity r"}));
    let nowhere = json!({"method": "echo", "on": {"endpoint": "nowhere"}});
    vec![
        read("RequestService/IndexRequests", 0, json!({})),
        read(
            "RequestService/IndexRequests",
            0,
            json!({"pageSize": 1, "filter": "method = echo AND state = FINISHED"}),
        ),
        fails("RequestService/IndexRequests", 0, json!({"filter": "a = b"}), InvalidArgument),
        read("RequestService/NewRequest", 0, json!({})),
        read("RequestService/ShowRequest", 0, id(&f.done)),
        fails("RequestService/ShowRequest", 0, id(NONE), RequestNotFound),
        fails("RequestService/ShowRequest", 0, id("no id/:"), InvalidArgument),
        read("RequestService/IndexResponses", 0, done(json!({"filter": "state = SUCCEEDED"}))),
        read("RequestService/IndexResponses", 0, done(json!({"pageSize": 1}))),
        fails("RequestService/IndexResponses", 0, id(NONE), RequestNotFound),
        fails("RequestService/IndexResponses", 0, done(json!({"pageSize": -1})), InvalidArgument),
        watch(id(&f.done)),
        watch(done(json!({"cursor": f.cursor}))),
        fails("RequestService/WatchRequest", 0, id(NONE), RequestNotFound),
        fails("RequestService/WatchRequest", 0, done(json!({"cursor": "1.x"})), InvalidArgument),
        read("RequestService/PlanRequest", 0, two.clone()),
        fails("RequestService/PlanRequest", 0, json!({}), InvalidArgument),
        fails("RequestService/PlanRequest", 0, nowhere, EndpointNotFound),
        each("RequestService/CreateRequest", both(two), REQUEST),
        each("RequestService/CreateRequest", both(rolled), REQUEST),
        each("RequestService/CreateRequest", [keyed("parity r"), keyed("parity s")], REQUEST),
        // Again: what it was answered, to everybody.
        read("RequestService/CreateRequest", 0, keyed("parity r")),
        fails("RequestService/CreateRequest", 0, reused, KeyReused),
        fails("RequestService/CreateRequest", 0, wrong, InvalidArgument),
        fails("RequestService/CreateRequest", 0, echo("1,9998-9999"), AgentNotFound),
        fails(
            "RequestService/CreateRequest",
            0,
            merged(echo("1"), json!({"plan": "another"})),
            PlanChanged,
        ),
        each("RequestService/CancelRequest", each_of("cancel"), REQUEST),
        fails("RequestService/CancelRequest", 0, id(&f.done), StateRefused),
        each("RequestService/ResumeRequest", each_of("resume"), REQUEST),
        fails("RequestService/ResumeRequest", 0, id(&f.done), StateRefused),
        fails(
            "RequestService/ResumeRequest",
            0,
            done(json!({"maxFailures": "many"})),
            InvalidArgument,
        ),
        each("RequestService/Overtime", each_of("overtime"), REQUEST),
        fails("RequestService/Overtime", 0, id(NONE), RequestNotFound),
        fails("RequestService/Overtime", 0, done(json!({"agents": "1-x"})), InvalidArgument),
        each("RequestService/DeleteRequest", each_of("delete"), &[]),
        fails("RequestService/DeleteRequest", 0, id(&f.responded), StateRefused),
    ]
}

/// A stream that ends, by all three ways and whole.
fn watch(request: Value) -> Case {
    Case { method: "RequestService/WatchRequest", binding: 0, ask: Ask::Ending(request) }
}

/// What agents answer.
pub(super) fn responses(f: &Fixture) -> Vec<Case> {
    let answer = |id: i32| {
        json!({
            "id": f.responded, "agentId": id, "secret": SECRET, "state": "RESPONSE_STATE_SUCCEEDED",
            "result": {"n": 1, "deep": [null, "ü"]}, "details": [{"id": 7, "result": {"x": 0.5}}],
            "startTime": "2026-01-02T03:04:05.5Z", "endTime": "2026-01-02T03:04:06Z",
        })
    };
    let agents = f.agents("update");
    let accepted = |id: i32| merged(answer(id), json!({"state": "RESPONSE_STATE_ACCEPTED"}));
    let stateless = json!({"id": f.responded, "agentId": 1, "secret": SECRET});
    vec![
        each("RequestService/Respond", agents.map(accepted), &[]),
        each("RequestService/Respond", agents.map(answer), &[]),
        // A second answer changes nothing, and is no failure.
        each("RequestService/Respond", agents.map(answer), &[]),
        fails("RequestService/Respond", 0, answer(1), PermissionDenied),
        fails("RequestService/Respond", 0, answer(9999), AgentNotFound),
        fails("RequestService/Respond", 0, stateless, InvalidArgument),
    ]
}

/// Messages of other services that stand for requests.
pub(super) fn standing(f: &Fixture) -> Vec<Case> {
    let [a, b] = f.agents("edit");
    let on = |agents: &str| json!({"on": {"agents": agents}, "expire": "3600s"});
    let both = |request: Value| [request.clone(), request];
    let upgrade = json!({
        "on": {"agents": format!("{a}-{b}")}, "file": "next.rpm", "rollout": {"canary": 1},
    });
    vec![
        each("AgentService/StatusAgent", both(on("1-2")), REQUEST),
        fails("AgentService/StatusAgent", 0, json!({}), InvalidArgument),
        fails("AgentService/StatusAgent", 0, on("9999"), AgentNotFound),
        each("AgentService/UpgradeAgents", both(upgrade), REQUEST),
        fails(
            "AgentService/UpgradeAgents",
            0,
            json!({"on": {"agents": "1"}, "file": "--root"}),
            InvalidArgument,
        ),
        fails(
            "AgentService/UpgradeAgents",
            0,
            json!({"on": {"all": true, "agents": "1"}, "timeout": "1s"}),
            InvalidArgument,
        ),
    ]
}
