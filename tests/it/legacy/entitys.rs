//! Endpoints, entitys and ports.

use std::net::TcpListener;

use goperation_harness::poll_until;
use serde_json::{Value, json};

use super::{
    curl::shape,
    routes::{Ground, INVALID},
};
use crate::fleet::SOON;

const NOBODY: &str = "4711";

pub(super) async fn endpoints(g: &Ground) {
    let index = "GET /agent/{agent_id}/endpoints";
    let entity = "{agent_id:int,desc:str,endpoint:str,endpoint_id:int,entity:int,id:int,ports:[\
                  {agent_id:int,desc:null,endpoint:str,endpoint_id:int,entity:int,entity_id:int,\
                  port:int}]}";
    let row = |entitys: &str| format!("{{agent_id:int,endpoint:str,entitys:[{entitys}],id:int}}");
    let reply = g.ask(index, &[&g.h1], Value::Null).await;
    let shapes: Vec<_> = reply.rows().iter().map(shape).collect();
    assert_eq!(shapes, [row(""), row(entity)]);
    g.ask(index, &[NOBODY], Value::Null).await.failed(400, INVALID);

    let create = "POST /agent/{agent_id}/endpoints";
    for (endpoints, names) in [
        (json!("cc"), json!(["cc"])),
        (json!("dd,ee"), json!(["dd", "ee"])),
        (json!(["Ff", "gg"]), json!(["ff", "gg"])),
    ] {
        let reply = g.ask(create, &[&g.r1], json!({ "endpoints": endpoints })).await;
        assert_eq!(json!(reply.rows()), names);
    }
    g.ask(create, &[&g.r1], json!({"endpoints": "aa"})).await.failed(500, "DBDuplicateEntry: ");
    // Its configuration declares them.
    g.ask(create, &[&g.h1], json!({"endpoints": "cc"})).await.failed(400, INVALID);
    g.ask(create, &[NOBODY], json!({"endpoints": "cc"})).await.failed(400, INVALID);
    for body in [json!(null), json!({}), json!({"endpoints": "a-b"}), json!({"endpoints": []})] {
        g.ask(create, &[&g.r1], body).await.failed(400, INVALID);
    }

    let show = "GET /agent/{agent_id}/endpoints/{endpoint}";
    assert_eq!(shape(g.ask(show, &[&g.h1, "db"], Value::Null).await.row()), row(entity));
    assert_eq!(shape(g.ask(show, &[&g.r1, "aa"], Value::Null).await.row()), row(""));
    g.ask(show, &[&g.h1, "none"], Value::Null).await.failed(404, "NoResultFound: ");
    g.ask(show, &[NOBODY, "db"], Value::Null).await.failed(400, INVALID);
    g.ask(show, &[&g.h1, "a-b"], Value::Null).await.failed(400, INVALID);

    let delete = "DELETE /agent/{agent_id}/endpoints/{endpoint}";
    assert!(g.ask(delete, &[&g.r1, "cc,dd,none"], Value::Null).await.rows().is_empty());
    assert!(g.ask(delete, &[&g.r1, "ee,ee"], Value::Null).await.rows().is_empty());
    assert!(g.ask(delete, &[&g.r1, "none"], Value::Null).await.rows().is_empty());
    g.ask(delete, &[&g.h1, "bare"], Value::Null).await.failed(400, INVALID);
    g.ask(delete, &[NOBODY, "aa"], Value::Null).await.failed(400, INVALID);
    g.ask(delete, &[&g.r1, "a-b"], Value::Null).await.failed(400, INVALID);
    let left = g.ask(index, &[&g.r1], Value::Null).await;
    let left: Vec<_> = left.rows().iter().map(|row| row["endpoint"].clone()).collect();
    assert_eq!(json!(left), json!(["aa", "bb", "ff", "gg"]));

    let agents = "GET /endpoints/{endpoint}/agents";
    let reply = g.ask(agents, &["db"], Value::Null).await;
    let hosts: Vec<_> = reply.rows().iter().map(|row| row["agent_host"].clone()).collect();
    assert_eq!(json!(hosts), json!(["h1", "h2"]));
    assert_eq!(shape(&reply.rows()[0]), "{agent_host:str,agent_id:int,cpu:int,memory:int}");
    g.ask(agents, &["none"], Value::Null).await.failed(400, INVALID);

    let choices = "GET /endpoints/{endpoint}/chioces";
    let h1: i32 = g.h1.parse().unwrap();
    let row = |agents: &[i32]| json!([{"resultcode": 0, "result": "chioces agents success", "agents": agents}]);
    // An agent reports when it has started, and not at once.
    let wish = json!({"includes": ["host=h1", "cpu>=1", "metadata.zone=all"],
                      "weighters": [{"cpu": -1}, {"process": null}]});
    poll_until(SOON, "h1 is chosen", async || {
        json!(g.ask(choices, &["db"], wish.clone()).await.rows()) == row(&[h1])
    })
    .await;
    let weigher = json!({"includes": ["host=h1"], "weigher": [{"entities": 2}]});
    assert_eq!(json!(g.ask(choices, &["db"], weigher).await.rows()), row(&[h1]));
    let nobody = json!({"includes": ["cpu>100000"]});
    assert_eq!(json!(g.ask(choices, &["db"], nobody).await.rows()), row(&[]));
    assert_eq!(json!(g.ask(choices, &["none"], Value::Null).await.rows()), row(&[]));
    for body in [
        json!({"includes": ["cpu"]}),
        json!({"includes": "cpu>1"}),
        json!({"weighters": [{"cpu": 0}]}),
        json!({"weighters": [{"speed": null}]}),
    ] {
        g.ask(choices, &["db"], body).await.failed(400, INVALID);
    }
    g.ask(choices, &["a-b"], Value::Null).await.failed(400, INVALID);

    let entitys = "GET /endpoints/{endpoint}/entitys";
    let reply = g.ask(entitys, &["db"], Value::Null).await;
    assert_eq!(reply.rows()[0], json!({"agent_id": h1, "entity": 1, "ports": [g.ports[0]]}));
    assert_eq!(reply.rows().len(), 2);
    assert!(g.ask(entitys, &["none"], Value::Null).await.rows().is_empty());
    g.ask(entitys, &["a-b"], Value::Null).await.failed(400, INVALID);

    let count = "GET /endpoints/{endpoint}/count";
    let reply = g.ask(count, &["aa,db,none"], Value::Null).await;
    assert_eq!(
        json!(reply.rows()),
        json!([{"endpoint": "aa", "count": 1}, {"endpoint": "db", "count": 2},
               {"endpoint": "none", "count": 0}])
    );
    g.ask(count, &["all"], Value::Null).await.failed(400, INVALID);
}

pub(super) async fn entitys(g: &Ground) {
    let index = "GET /agent/{agent_id}/endpoint/{endpoint}/entitys";
    for (body, ports) in [(json!(null), json!([])), (json!({"ports": true}), json!([g.ports[0]]))] {
        let reply = g.ask(index, &[&g.h1, "db"], body).await;
        assert_eq!(reply.row(), &json!({ "entity": 1, "ports": ports }));
    }
    assert!(g.ask(index, &[&g.h1, "none"], Value::Null).await.rows().is_empty());
    g.ask(index, &[NOBODY, "db"], Value::Null).await.failed(400, INVALID);

    create(g).await;

    let show = "GET /endpoint/{endpoint}/entitys/{entity}";
    let reply = g.ask(show, &["db", "2"], json!({"ports": false})).await;
    let h2: i32 = g.h2.parse().unwrap();
    let row = reply.row();
    assert_eq!((&row["agent_id"], &row["ports"]), (&json!(h2), &json!([])));
    assert_eq!(row.as_object().unwrap().len(), 5, "{row}");
    for entity in ["4711", "1,2", "x", "0"] {
        g.ask(show, &["db", entity], Value::Null).await.failed(400, INVALID);
    }
    g.ask(show, &["none", "1"], Value::Null).await.failed(400, INVALID);

    let delete = "DELETE /endpoint/{endpoint}/entitys/{entity}";
    // Its agent is offline.
    g.ask(delete, &["db", "2"], Value::Null).await.failed(400, INVALID);
    g.ask(delete, &["db", "2"], json!({"token": "t"})).await.failed(400, INVALID);
    g.ask(delete, &["db", "4711"], Value::Null).await.failed(400, INVALID);
    g.ask(delete, &["db", "1,2"], Value::Null).await.failed(400, INVALID);
    g.ask(delete, &["db", "1"], json!({"notify": "x"})).await.failed(400, INVALID);
    g.ask(delete, &["db", "1"], json!({"finishtime": 1})).await.failed(400, INVALID);
    let reply = g.ask(delete, &["db", "100"], json!({"notify": false})).await;
    assert_eq!(reply.row(), &json!({"entity": 100, "endpoint": "db", "notify": null}));

    let logs = "GET /endpoint/{endpoint}/entitys/{entity}/logs";
    let reply = g.ask(logs, &["db", "1"], json!({"path": "x"})).await;
    assert_eq!(reply.row(), &json!({"dirs": [], "files": ["a.log"]}));
    let readlog = "GET /endpoint/{endpoint}/entitys/{entity}/readlog";
    let reply = g.ask(readlog, &["db", "1"], json!({"path": "x/a.log"})).await;
    assert_eq!(reply.row(), &json!({"port": 7, "token": "t", "ipaddr": "127.0.0.1"}));
    let asked = std::fs::read_to_string(g.site.path().join("asked.json")).unwrap();
    let asked: Value = serde_json::from_str(&asked).unwrap();
    assert_eq!(asked["args"], json!({"entity": 1, "path": "x/a.log", "lines": 10}), "{asked}");
    for route in [logs, readlog] {
        let path = json!({"path": "a.log"});
        g.ask(route, &["db", "1"], json!({"path": "../../etc"})).await.failed(400, INVALID);
        g.ask(route, &["db", "4711"], path.clone()).await.failed(400, INVALID);
        g.ask(route, &["db", "2"], path.clone()).await.failed(400, INVALID);
        g.ask(route, &["bare", "1"], path).await.failed(501, "NoSuchMethod: ");
    }
    g.ask(readlog, &["db", "1"], Value::Null).await.failed(400, INVALID);
}

async fn create(g: &Ground) {
    let route = "POST /agent/{agent_id}/endpoint/{endpoint}/entitys";
    let bare = g.ask(route, &[&g.h1, "bare"], Value::Null).await;
    assert_eq!((&bare.row()["entity"], &bare.row()["ports"]), (&json!(1), &json!([])));
    // The agent was told of it all the same.
    let quiet = g.ask(route, &[&g.h1, "db"], json!({"notify": false, "entity": 100})).await;
    assert_eq!((&quiet.row()["entity"], &quiet.row()["notify"]), (&json!(100), &Value::Null));
    assert!(g.site.path().join("h1/db/100").is_dir());

    let active = "PATCH /agents/{agent_id}/active";
    g.ask(active, &[&g.h1], json!({"status": 0})).await.row();
    g.ask(route, &[&g.h1, "db"], Value::Null).await.failed(400, INVALID);
    g.ask(active, &[&g.h1], json!({"status": 1})).await.row();
    for (agent, endpoint) in
        [(NOBODY, "db"), (&g.h1, "none"), (&g.h2, "db"), (&g.r1, "aa"), (&g.h1, "a-b")]
    {
        g.ask(route, &[agent, endpoint], Value::Null).await.failed(400, INVALID);
    }
    for body in [
        json!({"entity": 1}),
        json!({"entity": -1}),
        json!({"finishtime": 1}),
        json!({"finishtime": "soon"}),
        json!({"ports": []}),
        json!({"ports": ["x"]}),
        json!({"ports": [1024]}),
        json!({"desc": 7}),
    ] {
        g.ask(route, &[&g.h1, "db"], body).await.failed(400, INVALID);
    }
    // Others have it: an entity, or a stranger.
    let taken = json!({"ports": [g.ports[0]]});
    g.ask(route, &[&g.h1, "db"], taken).await.failed(500, "RpcResultError: ");
    let foreign = TcpListener::bind(("127.0.0.1", g.ports[1])).unwrap();
    let taken = json!({"ports": g.ports[1].to_string()});
    g.ask(route, &[&g.h1, "db"], taken).await.failed(500, "RpcResultError: ");
    drop(foreign);
}

pub(super) async fn ports(g: &Ground) {
    let (one, two) = (g.ports[1], g.ports[2]);
    let allocated = "GET /agent/{agent_id}/ports";
    let reply = g.ask(allocated, &[&g.h1], Value::Null).await;
    assert_eq!(reply.row(), &json!({"port": g.ports[0], "desc": null}));
    assert!(g.ask(allocated, &[NOBODY], Value::Null).await.rows().is_empty());
    g.ask(allocated, &["x"], Value::Null).await.failed(400, INVALID);

    let index = "GET /agent/{agent_id}/endpoint/{endpoint}/entity/{entity}/ports";
    let reply = g.ask(index, &[&g.h1, "db", "1"], json!({"x": 1})).await;
    assert_eq!(reply.row(), &json!({"port": g.ports[0], "desc": null}));
    for of in [["4711", "db", "1"], [&g.h1, "db", "4711"], [&g.h1, "none", "1"]] {
        assert!(g.ask(index, &of, Value::Null).await.rows().is_empty(), "{of:?}");
    }
    g.ask(index, &[&g.h1, "db", "1,2"], Value::Null).await.failed(400, INVALID);

    let create = "POST /agent/{agent_id}/endpoint/{endpoint}/entity/{entity}/ports";
    let body = json!({"ports": format!("{one},{two}")});
    assert!(g.ask(create, &[&g.h1, "db", "1"], body.clone()).await.rows().is_empty());
    g.ask(create, &[&g.h1, "db", "1"], body.clone()).await.failed(500, "RpcResultError: ");
    let any = json!({"ports": [null]});
    g.ask(create, &[&g.h1, "db", "1"], any.clone()).await.failed(500, "RpcResultError: ");
    g.ask(create, &[&g.h1, "db", "4711"], any.clone()).await.failed(404, "NoResultFound: ");
    g.ask(create, &[NOBODY, "db", "1"], any.clone()).await.failed(400, INVALID);
    g.ask(create, &[&g.h2, "db", "2"], any).await.failed(500, "RpcPrepareError: ");
    for body in [json!(null), json!({}), json!({"ports": []}), json!({"ports": "1-2"})] {
        g.ask(create, &[&g.h1, "db", "1"], body).await.failed(400, INVALID);
    }

    let delete = "DELETE /agent/{agent_id}/endpoint/{endpoint}/entity/{entity}/ports/{ports}";
    let both = format!("{one},{two}");
    let foreign = format!("{one},1024");
    g.ask(delete, &[&g.h1, "db", "1", &foreign], Value::Null).await.failed(400, INVALID);
    // Nothing was freed.
    assert_eq!(g.ask(index, &[&g.h1, "db", "1"], Value::Null).await.rows().len(), 3);
    assert!(g.ask(delete, &[&g.h1, "db", "1", &both], Value::Null).await.rows().is_empty());
    assert_eq!(g.ask(index, &[&g.h1, "db", "1"], Value::Null).await.rows().len(), 1);
    let loose = json!({"strict": false});
    assert!(g.ask(delete, &[&g.h1, "db", "1", &both], loose).await.rows().is_empty());
    for ports in ["1-2", "0", "x"] {
        g.ask(delete, &[&g.h1, "db", "1", ports], Value::Null).await.failed(400, INVALID);
    }
    g.ask(delete, &[NOBODY, "db", "1", &both], Value::Null).await.failed(400, INVALID);
    g.ask(delete, &[&g.h2, "db", "2", &both], Value::Null).await.failed(500, "RpcPrepareError: ");
}
