//! `/allagents` and `/agents`.

use goperation::{Secret, v1::AgentSnapshot};
use goperation_harness::poll_until;
use serde_json::{Value, json};

use super::{
    curl::shape,
    routes::{Ground, INVALID},
};
use crate::{fleet::SOON, procs::WAIT};

/// What an agent is whose number no agent has.
const NOBODY: &str = "4711";

/// Numbers that no route for one agent takes.
const NOT_ONE: [&str; 5] = ["all", "1,2", "1-2", "x", NOBODY];

pub(super) async fn lists(g: &Ground) {
    let ids = |reply: &super::curl::Reply| -> Vec<String> {
        reply.rows().iter().map(|row| row["agent_id"].to_string()).collect()
    };
    let all = [g.h1.as_str(), g.h2.as_str(), g.r1.as_str()];
    let reply = g.ask("GET /allagents", &[], Value::Null).await;
    let numbers: Vec<_> = reply.rows().iter().map(Value::to_string).collect();
    assert_eq!(numbers, all);
    // A body that nobody wants is not read.
    assert_eq!(g.ask("GET /allagents", &[], json!({"x": 1})).await.rows().len(), 3);

    let index = "GET /agents";
    let reply = g.ask(index, &[], Value::Null).await;
    assert_eq!(ids(&reply), all);
    for row in reply.rows() {
        assert_eq!(
            shape(row),
            "{agent_id:int,agent_type:str,cpu:int,create_time:int,disk:int,endpoints:[str],\
             host:str,memory:int,status:int}"
        );
    }
    let mut reserved = reply.rows()[2].clone();
    assert!(reserved["create_time"].as_i64().unwrap() > 1_700_000_000);
    reserved["create_time"].take();
    assert_eq!(
        reserved,
        json!({"agent_id": g.r1.parse::<i32>().unwrap(), "host": "r1", "agent_type": "application",
               "status": 0, "cpu": 2, "memory": 1024, "disk": 2048, "endpoints": ["aa", "bb"],
               "create_time": null})
    );
    for (body, want) in [
        (json!({"agent_type": "application"}), &all[..]),
        (json!({"agent_type": "scheduler"}), &[]),
        (json!({"deleted": true}), &[]),
        (json!({"order": "host", "desc": true}), &[all[2], all[1], all[0]]),
        (json!({"order": "memory", "page_num": 0}), &[all[2], all[0], all[1]]),
    ] {
        assert_eq!(ids(&g.ask(index, &[], body.clone()).await), want, "{body}");
    }
    for body in [
        json!({"order": "zone"}),
        json!({"page_num": 1}),
        json!({"page_num": -1}),
        json!({"agent_type": 7}),
        json!({"deleted": "yes"}),
    ] {
        g.ask(index, &[], body).await.failed(400, INVALID);
    }
}

/// An agent that `create` takes.
fn agent(host: &str) -> Value {
    json!({"host": host, "agent_type": "application", "cpu": 1, "memory": 2, "disk": 3})
}

pub(super) async fn records(g: &Ground) {
    create(g).await;
    show(g).await;
    active(g).await;
    edit(g).await;
    report(g).await;
    let update = g.ask("PUT /agents/{agent_id}", &[&g.h1], json!({"cpu": 1})).await;
    update.failed(501, "NotImplementedError: ");
    let readlog = "GET /agents/{agent_id}/readlog";
    g.ask(readlog, &[&g.h1], json!({"lines": 5})).await.failed(501, "NoSuchMethod: ");
    g.ask(readlog, &[&g.r1], Value::Null).await.failed(503, "AMQPDestinationNotFound: ");
    g.ask(readlog, &[NOBODY], Value::Null).await.failed(400, INVALID);
    g.ask(readlog, &[&g.h1], json!({"lines": "x"})).await.failed(400, INVALID);
}

async fn create(g: &Ground) {
    let route = "POST /agents";
    // Reserved, and registered.
    for host in ["r1", "h1"] {
        g.ask(route, &[], agent(host)).await.refused();
    }
    g.ask(route, &[], Value::Null).await.failed(400, INVALID);
    for field in ["host", "agent_type", "cpu", "memory", "disk"] {
        let mut body = agent("r2");
        body.as_object_mut().unwrap().remove(field);
        g.ask(route, &[], body).await.failed(400, &format!("{INVALID}{field}: is required"));
    }
    for (field, value) in [
        ("host", json!("-bad-")),
        ("agent_type", json!("9")),
        ("cpu", json!(-1)),
        ("memory", json!("much")),
        ("disk", json!(1.5)),
        ("ports_range", json!(["80-90"])),
        ("ports_range", json!(7000.5)),
        ("endpoints", json!("a-b")),
    ] {
        let mut body = agent("r2");
        body[field] = value;
        g.ask(route, &[], body).await.failed(400, INVALID);
    }
}

async fn show(g: &Ground) {
    let route = "GET /agents/{agent_id}";
    let plain = g.ask(route, &[&g.h1], Value::Null).await;
    assert_eq!(
        shape(plain.row()),
        "{agent_id:int,agent_type:str,cpu:int,disk:int,endpoints:{bare:[],db:[]},host:str,\
         memory:int,metadata:{agent_type:str,dnsnames:[],external_ips:[],host:str,kernel:str,\
         local_ip:str,machine:str,os:str,zone:str},ports_range:[str],status:int}"
    );
    let with = |entity: Value| json!({"bare": [], "db": [entity]});
    for (body, endpoints) in [
        (json!({"entitys": true}), with(json!({"entity": 1, "ports": []}))),
        (json!({"ports": true}), with(json!({"entity": 1, "ports": [g.ports[0]]}))),
    ] {
        assert_eq!(g.ask(route, &[&g.h1], body).await.row()["endpoints"], endpoints);
    }
    let reserved = g.ask(route, &[&g.r1], Value::Null).await;
    assert_eq!(reserved.row()["metadata"], Value::Null);
    for id in NOT_ONE {
        g.ask(route, &[id], Value::Null).await.failed(400, INVALID);
    }
    g.ask(route, &[&g.h1], json!({"ports": "all"})).await.failed(400, INVALID);
}

async fn active(g: &Ground) {
    let route = "PATCH /agents/{agent_id}/active";
    for (body, status) in [(json!({"status": 0}), 0), (json!({"status": 1}), 1), (json!(null), 1)] {
        let reply = g.ask(route, &[&g.h1], body).await;
        assert_eq!(reply.row()["status"], status);
    }
    g.ask(route, &[&g.h1], json!({"status": -10})).await.failed(400, INVALID);
    g.ask(route, &[NOBODY], Value::Null).await.failed(400, INVALID);
    g.ask(route, &[&g.r1], Value::Null).await.failed(500, "RpcPrepareError: ");
    // Until the broker has noticed its end, the agent only does not answer.
    poll_until(SOON, "h2 is offline", async || {
        g.ask(route, &[&g.h2], Value::Null).await.status == 500
    })
    .await;
}

async fn edit(g: &Ground) {
    let route = "PATCH /agents/{agent_id}/edit";
    let body = json!({"cpu": 8, "disk": 4096, "ports_range": ["7000-7001", "7005"]});
    let reply = g.ask(route, &[&g.r1], body).await;
    assert_eq!(
        reply.row(),
        &json!({"cpu": 8, "disk": 4096, "ports_range": "[\"7000-7001\",\"7005\"]"})
    );
    let shown = g.ask("GET /agents/{agent_id}", &[&g.r1], Value::Null).await;
    let row = shown.row();
    assert_eq!(
        (&row["cpu"], &row["memory"], &row["disk"], &row["ports_range"]),
        (&json!(8), &json!(1024), &json!(4096), &json!(["7000-7001", "7005"]))
    );
    // Cleared, which it could not be.
    g.ask(route, &[&g.r1], json!({"ports_range": []})).await.row();
    let shown = g.ask("GET /agents/{agent_id}", &[&g.r1], Value::Null).await;
    assert_eq!(shown.row()["ports_range"], json!([]));
    for body in [json!(null), json!({}), json!({"status": 1}), json!({"cpu": "x"})] {
        g.ask(route, &[&g.r1], body).await.failed(400, INVALID);
    }
    // It reports its hardware itself.
    g.ask(route, &[&g.h1], json!({"cpu": 8})).await.failed(400, INVALID);
    g.ask(route, &[NOBODY], json!({"cpu": 8})).await.failed(400, INVALID);
}

async fn report(g: &Ground) {
    let route = "POST /agents/{agent_id}/report";
    let show = async || {
        let shown = g.ask("GET /agents/{agent_id}", &[&g.r1], Value::Null).await;
        shown.row()["metadata"].clone()
    };
    let nothing = json!({"metadata": null, "expire": 300});
    assert!(g.ask(route, &[&g.r1], nothing.clone()).await.rows().is_empty());
    assert_eq!(show().await, Value::Null);
    let body = json!({
        "metadata": {"local_ip": "10.0.0.9", "gopdb-aff": 3},
        "expire": 600,
        "snapshot": {"date": "2019-01-01", "hour": 1, "min": 5, "running": 1, "sleeping": 99,
                     "num_fds": 1000, "num_threads": 300, "context": 1500.5, "interrupts": 700,
                     "sinterrupts": "80", "irq": 1, "sirq": 2, "user": 30, "system": 10, "nice": 3,
                     "iowait": 4.5, "used": 600, "cached": 200, "buffers": 50, "free": 100,
                     "left": 5000, "listen": 11, "syn": 12, "enable": 13, "closeing": 14},
    });
    assert!(g.ask(route, &[&g.r1], body).await.rows().is_empty());
    assert!(g.ask(route, &[&g.r1], nothing).await.rows().is_empty());
    assert_eq!(show().await, json!({"local_ip": "10.0.0.9", "gopdb-aff": 3}));
    let id = g.r1.parse().unwrap();
    let snapshot = g.site.show(id).await.unwrap().snapshot.unwrap();
    let wanted = AgentSnapshot {
        time: snapshot.time,
        memory_free_mib: 300,
        memory_used_mib: 600,
        memory_cached_mib: 200,
        memory_buffers_mib: 50,
        memory_unused_mib: 100,
        disk_free_mib: 5000,
        processes: 100,
        running: 1,
        sleeping: 99,
        num_threads: 300,
        num_fds: 1000,
        context: 1500.5,
        interrupts: 700.0,
        soft_interrupts: 80.0,
        user: 30.0,
        nice: 3.0,
        system: 10.0,
        iowait: 4.5,
        irq: 1.0,
        soft_irq: 2.0,
        listen: 11,
        syn: 12,
        established: 13,
        closing: 14,
        ..AgentSnapshot::default()
    };
    assert_eq!(snapshot, wanted);
    for body in [
        json!(null),
        json!({"metadata": null}),
        json!({"expire": 1}),
        json!({"metadata": 1, "expire": 1}),
        json!({"metadata": null, "expire": -1}),
        json!({"metadata": null, "expire": 1, "snapshot": []}),
        json!({"metadata": null, "expire": 1, "snapshot": {"user": -1}}),
        json!({"metadata": null, "expire": 1, "snapshot": {"free": 1.5}}),
    ] {
        g.ask(route, &[&g.r1], body).await.failed(400, INVALID);
    }
    let body = json!({"metadata": null, "expire": 1});
    g.ask(route, &[NOBODY], body.clone()).await.failed(400, INVALID);
    // Only it has its secret.
    g.ask(route, &[&g.h1], body).await.failed(400, INVALID);
}

pub(super) async fn deletes(g: &Ground) {
    let (delete, clean) = ("DELETE /agents/{agent_id}", "POST /agents/{agent_id}/clean");
    for id in NOT_ONE {
        g.ask(delete, &[id], Value::Null).await.failed(400, INVALID);
    }
    g.ask(delete, &[&g.h1], json!({"force": "yes"})).await.failed(400, INVALID);
    // Entities remain.
    g.ask(delete, &[&g.h1], Value::Null).await.failed(400, INVALID);
    g.ask(clean, &[&g.h1], Value::Null).await.failed(400, INVALID);
    g.ask(clean, &[NOBODY], Value::Null).await.failed(404, "NoResultFound: ");

    // Offline: only by force.
    let empty = g.site.active_agent("h3", "ports_ranges = []\n").await;
    let h3 = empty.id.to_string();
    drop(empty);
    poll_until(SOON, "h3 is offline", async || {
        let reply = g.ask(delete, &[&h3], Value::Null).await;
        reply.status == 500
    })
    .await;
    g.ask(delete, &[&h3], Value::Null).await.failed(500, "RpcPrepareError: ");
    let reply = g.ask(delete, &[&h3], json!({"force": true})).await;
    let row = reply.row();
    assert_eq!((&row["agent_id"].to_string(), &row["status"]), (&h3, &json!(-127)));
    g.ask(delete, &[&h3], json!({"force": true})).await.failed(400, INVALID);
    assert!(g.ask(clean, &[&h3], Value::Null).await.rows().is_empty());
    g.ask(clean, &[&h3], Value::Null).await.failed(404, "NoResultFound: ");

    // Refused: it is not deleted then.
    let busy = g.site.active_agent("h4", "ports_ranges = []\n").await;
    let h4 = busy.id.to_string();
    let args = json!({"agent_id": busy.id, "secret": Secret::generate().reveal()});
    g.site.call("h4", "manager", "delete_agent_precommit", args, WAIT).await.unwrap();
    g.ask(delete, &[&h4], Value::Null).await.refused();
    let shown = g.ask("GET /agents/{agent_id}", &[&h4], Value::Null).await;
    assert_ne!(shown.row()["status"], -127);

    let reply = g.ask(delete, &[&g.r1], Value::Null).await;
    let metadata = json!({"local_ip": "10.0.0.9", "gopdb-aff": 3});
    let id: i32 = g.r1.parse().unwrap();
    assert_eq!(
        reply.row(),
        &json!({"agent_id": id, "host": "r1", "status": -127, "metadata": metadata,
                "ports_range": []})
    );
}
