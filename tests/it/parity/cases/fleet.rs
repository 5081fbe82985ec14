//! What agents have: endpoints, entities and ports.

use goperation::Reason::*;
use serde_json::{Value, json};

use super::{Case, ENTITY, PLACED, PROCESS, each, fails, merged, read};
use crate::parity::fixture::Fixture;

pub(super) fn endpoints(f: &Fixture) -> Vec<Case> {
    let names =
        |names: Value| f.agents("endpoints-more").map(|id| json!({"agentId": id, "names": names}));
    vec![
        read("EndpointService/IndexEndpoints", 0, json!({})),
        read("EndpointService/IndexEndpoints", 0, json!({"filter": "agents > 1", "pageSize": 1})),
        fails(
            "EndpointService/IndexEndpoints",
            0,
            json!({"filter": "agents ~ 1"}),
            InvalidArgument,
        ),
        read("EndpointService/IndexEndpoints", 1, json!({"agentId": 1})),
        fails("EndpointService/IndexEndpoints", 1, json!({"agentId": 9999}), AgentNotFound),
        read("EndpointService/ShowEndpoint", 0, json!({"name": "sample"})),
        read("EndpointService/ShowEndpoint", 0, json!({"name": "sample", "agentId": 2})),
        fails("EndpointService/ShowEndpoint", 0, json!({"name": "nowhere"}), EndpointNotFound),
        fails("EndpointService/ShowEndpoint", 0, json!({"name": "a.b"}), InvalidArgument),
        read("EndpointService/ShowEndpoint", 1, json!({"name": "sample", "agentId": 1})),
        fails(
            "EndpointService/ShowEndpoint",
            1,
            json!({"name": "arena", "agentId": 1}),
            EndpointNotFound,
        ),
        each("EndpointService/CreateEndpoints", names(json!(["market", "chat"])), &[]),
        fails(
            "EndpointService/CreateEndpoints",
            0,
            json!({"agentId": 1, "names": ["market"]}),
            StateRefused,
        ),
        fails(
            "EndpointService/CreateEndpoints",
            0,
            json!({"agentId": f.agents("endpoints-more")[0], "names": ["a b", "new"]}),
            InvalidArgument,
        ),
        each(
            "EndpointService/DeleteEndpoints",
            f.agents("endpoints-less").map(|id| json!({"agentId": id, "names": "arena,lobby"})),
            &[],
        ),
        fails(
            "EndpointService/DeleteEndpoints",
            0,
            json!({"agentId": 1, "names": "sample"}),
            StateRefused,
        ),
        read("EndpointService/AgentsEndpoint", 0, json!({"name": "sample", "pageSize": 2})),
        fails("EndpointService/AgentsEndpoint", 0, json!({"name": "nowhere"}), EndpointNotFound),
        read("EndpointService/CountEndpoints", 0, json!({})),
        read("EndpointService/CountEndpoints", 0, json!({"names": ["sample", "nowhere"]})),
        fails(
            "EndpointService/CountEndpoints",
            0,
            json!({"names": ["sample", "a b", "c/d"]}),
            InvalidArgument,
        ),
        read(
            "EndpointService/Choose",
            0,
            json!({"name": "sample", "includes": ["cpu>=1", "metadata.zone=all"],
                   "weighters": ["id/-1"], "limit": 1}),
        ),
        fails("EndpointService/Choose", 0, json!({"name": "nowhere"}), EndpointNotFound),
        fails(
            "EndpointService/Choose",
            0,
            json!({"name": "sample", "includes": ["cpu>=1", "cpu"], "weighters": ["id/0", "x"],
                   "limit": -1}),
            InvalidArgument,
        ),
    ]
}

/// Creations where the choice falls, and under a key.
pub(super) fn placed() -> Vec<Case> {
    let on = |agent: i32| {
        json!({
            "endpoint": "sample", "includes": [format!("id={agent}")], "weighters": ["entities"],
            "ports": [{"name": "game"}], "labels": {"k": "v", "l": "w"},
        })
    };
    let keyed = |agent: i32, key: &str| merged(on(agent), json!({"idempotencyKey": key}));
    let dry = merged(on(1), json!({"dry": true}));
    let nobody = json!({"endpoint": "sample", "includes": ["cpu>100000"]});
    let bad = merged(on(1), json!({"agentId": 1, "dry": true, "idempotencyKey": ""}));
    let long = "k".repeat(129);
    vec![
        read("EntityService/CreateEntity", 0, dry),
        each("EntityService/CreateEntity", [1, 2].map(on), PLACED),
        each("EntityService/CreateEntity", [keyed(1, "parity a"), keyed(2, "parity b")], PLACED),
        // Again: what each of them was answered, to everybody.
        read("EntityService/CreateEntity", 0, keyed(1, "parity a")),
        read("EntityService/CreateEntity", 0, keyed(2, "parity b")),
        fails("EntityService/CreateEntity", 0, keyed(2, "parity a"), KeyReused),
        fails("EntityService/CreateEntity", 0, keyed(1, &long), InvalidArgument),
        fails("EntityService/CreateEntity", 0, nobody, NoAgentSuits),
        fails("EntityService/CreateEntity", 0, bad, InvalidArgument),
    ]
}

pub(super) fn entities(f: &Fixture) -> Vec<Case> {
    let name = |number: i32| json!({"endpoint": "sample", "number": number});
    let entity = |number: i32| {
        json!({"entity": {
            "endpoint": "sample", "number": number, "description": "d", "labels": {"k.x": "v"},
        }})
    };
    let create = |agent: i32| {
        json!({
            "endpoint": "sample", "agentId": agent, "args": {"map": "dust", "slots": 16, "ratio": 0.5},
            "ports": [{"name": "game", "count": 2}], "description": "d", "labels": {"k": "v"},
        })
    };
    let edit = |number: i32| {
        json!({
            "entity": {"endpoint": "sample", "number": number, "labels": {"k": "v"}},
            "updateMask": "description,labels",
        })
    };
    let status = || json!({"endpoint": "sample", "number": f.shown});
    let old = |mut request: Value| {
        request["entity"]["etag"] = "old".into();
        request
    };
    vec![
        read("EntityService/IndexEntities", 0, json!({})),
        read("EntityService/IndexEntities", 0, json!({"filter": "labels.zone = \"a b\""})),
        fails(
            "EntityService/IndexEntities",
            0,
            json!({"filter": "state = ALIVE"}),
            InvalidArgument,
        ),
        read("EntityService/IndexEntities", 1, json!({"endpoint": "sample", "pageSize": 3})),
        fails("EntityService/IndexEntities", 1, json!({"endpoint": "a-b"}), InvalidArgument),
        read("EntityService/IndexEntities", 2, json!({"agentId": 1, "filter": "number > 2"})),
        fails("EntityService/IndexEntities", 2, json!({"agentId": 9999}), AgentNotFound),
        read("EntityService/NewEntity", 0, json!({"endpoint": "sample"})),
        fails("EntityService/NewEntity", 0, json!({"endpoint": "x"}), InvalidArgument),
        read("EntityService/ShowEntity", 0, name(f.shown)),
        fails("EntityService/ShowEntity", 0, name(9999), EntityNotFound),
        each("EntityService/CreateEntity", [1, 2].map(create), ENTITY),
        fails(
            "EntityService/CreateEntity",
            0,
            json!({
                "endpoint": "a b", "ports": [{"port": 70000}, {"port": 7000, "count": 2}],
            }),
            InvalidArgument,
        ),
        each("EntityService/UpdateEntity", f.entities("update").map(entity), ENTITY),
        fails("EntityService/UpdateEntity", 0, entity(9999), EntityNotFound),
        fails("EntityService/UpdateEntity", 0, old(entity(f.shown)), EtagMismatch),
        each("EntityService/EditEntity", f.entities("edit").map(edit), ENTITY),
        fails(
            "EntityService/EditEntity",
            0,
            json!({
                "entity": {"endpoint": "sample", "number": f.shown}, "updateMask": "agentId",
            }),
            InvalidArgument,
        ),
        each("EntityService/DeleteEntity", f.entities("delete").map(name), &[]),
        // Again: it is gone already.
        each("EntityService/DeleteEntity", f.entities("delete").map(name), &[]),
        fails("EntityService/DeleteEntity", 0, name(9999), EntityNotFound),
        each("EntityService/StatusEntity", [status(), status()], &["pid"]),
        fails("EntityService/StatusEntity", 0, name(9999), EntityNotFound),
    ]
}

pub(super) fn processes(f: &Fixture) -> Vec<Case> {
    let names = |purpose| f.clocks(purpose).map(|n| json!({"endpoint": "clock", "number": n}));
    let none = || json!({"endpoint": "clock", "number": 9999});
    let late = || json!({"endpoint": "clock", "number": 1, "grace": "3601s"});
    let graceful = |purpose| names(purpose).map(|name| merged(name, json!({"grace": "5s"})));
    vec![
        each("EntityService/StartEntity", names("start"), PROCESS),
        fails("EntityService/StartEntity", 0, none(), EntityNotFound),
        each("EntityService/StatusEntity", names("start"), PROCESS),
        each("EntityService/RestartEntity", graceful("restart"), PROCESS),
        fails("EntityService/RestartEntity", 0, late(), InvalidArgument),
        each("EntityService/StopEntity", graceful("stop"), PROCESS),
        fails("EntityService/StopEntity", 0, late(), InvalidArgument),
        each("EntityService/KillEntity", names("kill"), PROCESS),
        fails("EntityService/KillEntity", 0, none(), EntityNotFound),
    ]
}

pub(super) fn ports(f: &Fixture) -> Vec<Case> {
    let of = |number: i32| json!({"endpoint": "sample", "entity": number});
    let wish = |number: i32| {
        merged(
            of(number),
            json!({"wishes": [
                {"name": "a", "count": 2, "protocol": "PROTOCOL_TCP"}, {"name": "b"},
            ]}),
        )
    };
    let on = |agent: i32, port: usize| json!({"agentId": agent, "port": port});
    let free = |agent: i32, port: usize| {
        json!({
            "agentId": agent, "ports": [port, port + 30], "endpoint": "sample",
        })
    };
    let less = Fixture::ports("port-less");
    let freed = Fixture::ports("port-free");
    let taken = merged(of(f.shown), json!({"wishes": [{"port": 20050}]}));
    let outside = merged(of(f.shown), json!({"wishes": [{"port": 50000}]}));
    vec![
        read("PortService/IndexPorts", 0, json!({"agentId": 1})),
        read("PortService/IndexPorts", 0, json!({"agentId": 1, "filter": "protocol = UDP"})),
        fails("PortService/IndexPorts", 0, json!({"agentId": 9999}), AgentNotFound),
        read("PortService/IndexPorts", 1, of(f.shown)),
        fails("PortService/IndexPorts", 1, of(9999), EntityNotFound),
        read("PortService/NewPort", 0, json!({"agentId": 1})),
        fails("PortService/NewPort", 0, json!({"agentId": 9999}), AgentNotFound),
        read("PortService/ShowPort", 0, on(1, 20050)),
        read("PortService/ShowPort", 0, merged(on(1, 20050), json!({"protocol": "PROTOCOL_TCP"}))),
        fails("PortService/ShowPort", 0, on(1, 20099), PortNotFound),
        each("PortService/CreatePort", f.entities("port-more").map(wish), ENTITY),
        fails("PortService/CreatePort", 0, of(f.shown), InvalidArgument),
        fails("PortService/CreatePort", 0, taken, PortTaken),
        fails("PortService/CreatePort", 0, outside, PortOutOfRange),
        each("PortService/DeletePort", [on(1, less[0]), on(2, less[1])], ENTITY),
        fails("PortService/DeletePort", 0, on(1, 70000), InvalidArgument),
        each(
            "PortService/FreePorts",
            [free(1, freed[0]), free(2, freed[1])],
            &["port", "entity", "agentId", "createTime", "unknown"],
        ),
        fails("PortService/FreePorts", 0, json!({"agentId": 1}), InvalidArgument),
        fails(
            "PortService/FreePorts",
            0,
            json!({
                "agentId": 1, "ports": [20050, 20098], "strict": true,
            }),
            PortNotFound,
        ),
    ]
}
