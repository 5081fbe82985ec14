//! Agents.

use goperation::Reason::*;
use serde_json::{Value, json};

use super::{AGENT, Case, LEAVING, UPGRADE, each, fails, merged, read};
use crate::parity::fixture::{Fixture, SECRET};

pub(super) fn agents(f: &Fixture) -> Vec<Case> {
    let secret = |id: i32| json!({"id": id, "secret": SECRET});
    let with = |id: i32, more: Value| merged(secret(id), more);
    let new = |host: &str| {
        json!({
            "type": "parity", "host": host, "secret": SECRET, "address": "10.0.0.9",
            "portsRanges": ["4000-4999", "6000"],
            "facts": {"cpu": 8, "memoryMib": 4096, "metadata": {"kernel": "6.1"}},
        })
    };
    let described = |id: i32| {
        json!({"agent": {
            "id": id, "description": "rack 7 — \"ü\"", "labels": {"zone": "b", "": ""},
        }})
    };
    let update = |id: i32| {
        let mut request = described(id);
        request["agent"]["labels"] = json!({"zone": "b", "a/b": "c d"});
        request
    };
    let edit = |id: i32| {
        json!({
            "agent": {"id": id, "description": "not set", "labels": {"zone": "c"}},
            "updateMask": "labels.zone",
        })
    };
    let sync = |id: i32| {
        with(
            id,
            json!({
                "generation": 7, "address": "10.0.0.9", "portsRanges": ["4000-4099"],
                "endpoints": [{"name": "arena", "driver": "script", "methods": [
                    {"name": "create"}, {"name": "players", "readOnly": true},
                ]}],
            }),
        )
    };
    let claim = |id: i32, message: &str| with(id, json!({"messageId": message}));
    let snapshot = json!({
        "facts": {"cpu": 2}, "snapshot": {"load1": 0.25, "time": "2026-01-02T03:04:05.5Z"},
    });
    let state = json!({"id": 1, "state": "AGENT_STATE_DELETED"});
    vec![
        read("AgentService/IndexAgents", 0, json!({})),
        read("AgentService/IndexAgents", 0, json!({"filter": "host = dev1 AND online = true"})),
        read(
            "AgentService/IndexAgents",
            0,
            json!({
                "pageSize": 2, "orderBy": "host desc", "showDeleted": true,
            }),
        ),
        fails("AgentService/IndexAgents", 0, json!({"filter": "colour = red"}), InvalidArgument),
        fails("AgentService/IndexAgents", 0, json!({"pageSize": -1}), InvalidArgument),
        fails("AgentService/IndexAgents", 0, json!({"pageToken": "x y&z"}), InvalidArgument),
        read("AgentService/NewAgent", 0, json!({})),
        read("AgentService/ShowAgent", 0, json!({"id": 1})),
        fails("AgentService/ShowAgent", 0, json!({"id": 9999}), AgentNotFound),
        fails("AgentService/ShowAgent", 0, json!({"id": -1}), InvalidArgument),
        each("AgentService/CreateAgent", [new("parity-new-a"), new("parity-new-b")], AGENT),
        fails(
            "AgentService/CreateAgent",
            0,
            json!({
                "type": "no type", "host": "no host", "secret": "short", "portsRanges": ["9-8"],
            }),
            InvalidArgument,
        ),
        fails(
            "AgentService/CreateAgent",
            0,
            json!({
                "type": "application", "host": "dev1", "secret": "another secret than its own",
            }),
            IdentityTaken,
        ),
        each("AgentService/UpdateAgent", f.agents("update").map(update), AGENT),
        fails("AgentService/UpdateAgent", 0, described(1), InvalidArgument),
        fails("AgentService/UpdateAgent", 0, json!({"agent": {"id": 9999}}), AgentNotFound),
        fails(
            "AgentService/UpdateAgent",
            0,
            json!({"agent": {"id": 1, "etag": "old"}}),
            EtagMismatch,
        ),
        each("AgentService/EditAgent", f.agents("edit").map(edit), AGENT),
        fails(
            "AgentService/EditAgent",
            0,
            json!({
                "agent": {"id": 1, "description": "x"}, "updateMask": "description,host,status",
            }),
            InvalidArgument,
        ),
        fails(
            "AgentService/EditAgent",
            0,
            json!({
                "agent": {"id": 1, "etag": "old"}, "updateMask": "description",
            }),
            EtagMismatch,
        ),
        each(
            "AgentService/DeleteAgent",
            f.agents("force").map(|id| json!({"id": id, "force": true})),
            AGENT,
        ),
        fails("AgentService/DeleteAgent", 0, json!({"id": 9999}), AgentNotFound),
        fails("AgentService/DeleteAgent", 0, json!({"id": 1}), EntitiesRemain),
        fails("AgentService/DeleteAgent", 0, json!({"id": 1, "etag": "o\"l d"}), EtagMismatch),
        fails(
            "BridgeService/Call",
            0,
            json!({"method": "say", "target": {
                "topic": "agent.application", "host": "dev3", "namespace": "sample",
            }}),
            AgentNotActive,
        ),
        each("AgentService/ActivateAgent", [3, 4].map(|id| json!({"id": id})), AGENT),
        fails("AgentService/ActivateAgent", 0, state, InvalidArgument),
        fails("AgentService/ActivateAgent", 0, json!({"id": f.agents("edit")[0]}), AgentOffline),
        each("AgentService/PauseAgent", [3, 4].map(|id| json!({"id": id})), AGENT),
        fails("AgentService/PauseAgent", 0, json!({"id": 9999}), AgentNotFound),
        fails(
            "BridgeService/Call",
            0,
            json!({
                "target": {"topic": "agent.application", "host": "dev3"}, "method": "status",
                "timeout": "4s", "messageId": "parity-busy",
            }),
            AgentBusy,
        ),
        each("AgentService/ResumeAgent", [3, 4].map(|id| json!({"id": id})), AGENT),
        fails("AgentService/ResumeAgent", 0, json!({"id": 9999}), AgentNotFound),
        each(
            "AgentService/ReportAgent",
            f.agents("report").map(|id| with(id, snapshot.clone())),
            &[],
        ),
        // Each has the one report of the case before.
        each(
            "AgentService/IndexReports",
            f.agents("report").map(|id| json!({"id": id})),
            &["time"],
        ),
        read("AgentService/IndexReports", 0, json!({"id": f.agents("report")[0], "pageSize": 1})),
        read(
            "AgentService/IndexReports",
            0,
            json!({
                "id": f.agents("report")[1], "since": "2026-01-02T03:04:05.5Z",
                "until": "2999-01-01T00:00:00Z",
            }),
        ),
        fails("AgentService/IndexReports", 0, json!({"id": 9999}), AgentNotFound),
        fails(
            "AgentService/IndexReports",
            0,
            json!({"id": 1, "pageToken": "x y&z", "since": "2026-01-02T00:00:00Z",
                   "until": "2026-01-01T00:00:00Z"}),
            InvalidArgument,
        ),
        fails(
            "AgentService/ReportAgent",
            0,
            with(f.agents("report")[0], json!({"snapshot": {"load1": -1, "closing": -1}})),
            InvalidArgument,
        ),
        fails("AgentService/ReportAgent", 0, json!({"id": 1, "secret": SECRET}), PermissionDenied),
        each("AgentService/CleanAgent", f.agents("clean").map(|id| json!({"id": id})), &[]),
        fails("AgentService/CleanAgent", 0, json!({"id": 1}), StateRefused),
        each(
            "AgentService/RenewAgent",
            f.agents("renew").map(|id| with(id, json!({"status": 1, "generation": 3}))),
            &["time"],
        ),
        fails(
            "AgentService/RenewAgent",
            0,
            with(f.agents("renew")[0], json!({"status": 5})),
            InvalidArgument,
        ),
        each("AgentService/SyncAgent", f.agents("sync").map(sync), &[]),
        fails("AgentService/SyncAgent", 0, json!({"id": 1, "secret": SECRET}), PermissionDenied),
        each(
            "AgentService/ClaimMessage",
            [claim(f.agents("claim")[0], "parity-1"), claim(f.agents("claim")[1], "parity-2")],
            &["holder"],
        ),
        // The other one has it: that is an answer too.
        each(
            "AgentService/ClaimMessage",
            [claim(f.agents("claim")[1], "parity-1"), claim(f.agents("claim")[0], "parity-2")],
            &["holder"],
        ),
        fails(
            "AgentService/ClaimMessage",
            0,
            claim(f.agents("claim")[0], "a b/c"),
            InvalidArgument,
        ),
    ]
}

/// What would be in the way of the others.
pub(super) fn last() -> Vec<Case> {
    let delete = |id: i32| json!({"id": id});
    let upgrade = |id: i32| json!({"id": id, "file": "next.rpm"});
    vec![
        each("AgentService/UpgradeAgent", [3, 4].map(upgrade), UPGRADE),
        fails("AgentService/UpgradeAgent", 0, upgrade(9999), AgentNotFound),
        fails(
            "AgentService/UpgradeAgent",
            0,
            json!({
                "id": -1, "file": "--root", "messageId": "a b",
                "finishTime": "2001-01-01T00:00:00Z",
            }),
            InvalidArgument,
        ),
        each(
            "AgentService/ActivateAgent",
            [3, 4].map(|id| json!({"id": id, "state": "AGENT_STATE_UNACTIVE"})),
            AGENT,
        ),
        each("AgentService/DeleteAgent", [delete(3), delete(4)], LEAVING),
    ]
}
