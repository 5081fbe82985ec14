//! `/asyncrequests`, and what begins them: status and upgrade of agents.

use std::time::Duration;

use goperation::{Secret, now_millis, v1};
use goperation_harness::{Ledger, poll_for, poll_until};
use serde_json::{Value, json};

use super::{
    curl::{Curl, Reply, shape},
    routes::{Ground, INVALID},
};
use crate::{
    fleet::{SOON, script},
    procs::Site,
};

/// How long a request may take to end after everything that it waits for is there.
const END: Duration = Duration::from_secs(120);

const STATUS: &str = "GET /agents/{agent_id}/status";
const UPGRADE: &str = "POST /agents/{agent_id}/upgrade";
const INDEX: &str = "GET /asyncrequests";
const SHOW: &str = "GET /asyncrequests/{request_id}";
const RESPONSE: &str = "POST /asyncrequests/{request_id}/response";
const OVERTIME: &str = "PUT /asyncrequests/{request_id}/overtime";

/// An id that no request has.
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// How a message begins that says that there is no row.
const MISSING: &str = "NoResultFound: ";

/// The keys and types of what a request is answered with at first.
const BEGUN: &str = "{deadline:int,expire:int,finishtime:int,request_id:str,request_time:int,\
                     result:null,resultcode:null,status:null}";

fn now() -> u64 {
    now_millis() / 1000
}

/// A body that is sent now, with more in it: by a clock that is ahead as far as it may be, which
/// leaves a busy machine the most time to send it.
fn asked(more: Value) -> Value {
    let mut body = json!({ "request_time": now() + 4 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// As [`asked`], with more time than anything takes here.
fn asked_for_long(more: Value) -> Value {
    let mut body = asked(more);
    let time = body["request_time"].as_u64().unwrap();
    body["finishtime"] = (time + 120).into();
    body["deadline"] = (time + 180).into();
    body
}

fn id(reply: &Reply) -> String {
    assert_eq!(shape(reply.row()), BEGUN);
    reply.row()["request_id"].as_str().unwrap().to_owned()
}

/// The row of an agent in a request that is shown.
fn of<'a>(shown: &'a Value, agent: &str) -> Option<&'a Value> {
    let agent: i64 = agent.parse().unwrap();
    shown["respones"].as_array().unwrap().iter().find(|row| row["agent_id"] == agent)
}

fn begins(text: &Value, begin: &str) -> bool {
    text.as_str().is_some_and(|text| text.starts_with(begin))
}

/// Each route, and each of its errors.
pub(super) async fn each(g: &Ground) {
    bad(g).await;
    let id = status(g).await;
    given_up(g, &id).await;
    lists(g, &id).await;
}

async fn bad(g: &Ground) {
    for route in [STATUS, UPGRADE] {
        let bad = async |agents: &str, body: Value, begin: &str| {
            g.ask(route, &[agents], body).await.failed(400, &format!("{INVALID}{begin}"));
        };
        bad("all", Value::Null, "request_time: is required").await;
        bad("all", json!({"request_time": "x"}), "request_time: ").await;
        bad("all", json!({"request_time": now() - 60}), "request_time: ").await;
        bad("all", json!({"request_time": now() + 60}), "request_time: ").await;
        bad("all", asked(json!({"finishtime": now() - 1})), "finishtime: ").await;
        bad("all", asked(json!({"deadline": now() + 16})), "deadline: ").await;
        bad("all", asked(json!({"expire": -1})), "expire: ").await;
        for agents in ["0", "x", "1,%202", "4711", "1-4711", "4000000000"] {
            bad(agents, asked(json!({})), "").await;
        }
    }
    for (field, value) in [
        ("file", json!("-e")),
        ("pre_run", json!("http")),
        ("post_run.executer", json!({"executer": "shell", "ekwargs": {}})),
        ("after_run.ekwargs", json!({"executer": "http"})),
    ] {
        let name = field.split('.').next().unwrap();
        let mut body = asked(json!({}));
        body[name] = value;
        g.ask(UPGRADE, &[&g.h1], body).await.failed(400, &format!("{INVALID}{field}"));
    }
    // None of them is on record.
    assert!(g.ask(INDEX, &[], Value::Null).await.rows().is_empty());
}

/// Asks all agents, of which one answers.
async fn status(g: &Ground) -> String {
    let path = "/v1.0/agents/all/status";
    let keyed = async |more: Value| {
        let body = asked_for_long(more).to_string();
        let key = "Idempotency-Key: status-of-all";
        let kind = "Content-Type: application/json";
        g.curl.run(&["-X", "GET", "-H", key, "-H", kind, "-d", &body], path).await
    };
    let reply = keyed(json!({})).await;
    let (request, row) = (id(&reply), reply.row());
    assert_eq!(row["expire"], 180);
    let after = |name: &str| row[name].as_u64().unwrap() - row["request_time"].as_u64().unwrap();
    assert_eq!((after("finishtime"), after("deadline")), (120, 179));
    // Under the same key the same, and another one not.
    assert_eq!(keyed(json!({})).await.row(), row);
    keyed(json!({"expire": 60})).await.failed(400, INVALID);
    assert_eq!(g.ask(INDEX, &[], Value::Null).await.rows().len(), 1);

    let show = async || g.ask(SHOW, &[&request], Value::Null).await.row().clone();
    // There is no queue for one that never registered, which is known at once.
    poll_until(SOON, "h1 answers, and r1 has no queue", async || {
        let shown = show().await;
        of(&shown, &g.h1).is_some() && of(&shown, &g.r1).is_some()
    })
    .await;
    let shown = show().await;
    assert_eq!((&shown["status"], &shown["resultcode"]), (&json!(0), &json!(-127)), "{shown}");
    assert!(of(&shown, &g.h2).is_none(), "{shown}");
    // Details come when they are asked for, as they are.
    let shown = g.ask(SHOW, &[&request], json!({"details": true})).await;
    let row = of(shown.row(), &g.h1).unwrap();
    let detail = "{detail_id:int,result:{endpoint:str,entitys:int,frozen:bool,locked:int},\
                  resultcode:int}";
    assert_eq!(
        shape(row),
        format!(
            "{{agent_id:int,agent_time:int,details:[{detail}],result:str,resultcode:int,\
             server_time:int}}"
        )
    );
    let details: Vec<_> = row["details"].as_array().unwrap().iter().collect();
    let said = |i: usize| {
        let result = &details[i]["result"];
        (details[i]["detail_id"].clone(), result["endpoint"].clone(), result["entitys"].clone())
    };
    assert_eq!(said(0), (json!(0), json!("bare"), json!(0)));
    assert_eq!(said(1), (json!(1), json!("db"), json!(1)));
    request
}

/// Gives up who cannot answer, which ends the request.
async fn given_up(g: &Ground, id: &str) {
    let body = json!({"agent_time": now(), "agents": [g.h2, g.r1.parse::<i32>().unwrap()]});
    for (field, value) in [
        ("agent_time", Value::Null),
        ("agents", Value::Null),
        ("agents", json!([])),
        ("agents", json!(["x"])),
    ] {
        let mut bad = body.clone();
        bad[field] = value;
        g.ask(OVERTIME, &[id], bad).await.failed(400, &format!("{INVALID}{field}"));
    }
    g.ask(OVERTIME, &[id], Value::Null).await.failed(400, INVALID);
    let answer = json!({"agent_id": g.h2.parse::<i32>().unwrap(), "agent_time": now(),
                        "resultcode": 0, "result": "fine"});
    let with = |secret: &str| {
        let mut answer = answer.clone();
        answer["secret"] = secret.into();
        answer
    };
    // Nobody answers for an agent.
    g.ask(RESPONSE, &[id], answer.clone()).await.failed(400, &format!("{INVALID}secret: "));
    g.ask(RESPONSE, &[id], with("another-secret-that-is-long")).await.failed(400, INVALID);
    g.ask(RESPONSE, &[id], Value::Null).await.failed(400, INVALID);
    for (route, body) in [(SHOW, Value::Null), (RESPONSE, with("x")), (OVERTIME, body.clone())] {
        g.ask(route, &[NOBODY], body.clone()).await.failed(404, MISSING);
        g.ask(route, &["8A0E9C52"], body).await.failed(400, INVALID);
    }
    let shown = g.ask(SHOW, &[id], Value::Null).await;
    assert_eq!(shown.row()["status"], 0, "{shown:?}");

    // Its lease may have some time left.
    let h2 = g.h2.parse().unwrap();
    let gone = async || g.site.show(h2).await.is_ok_and(|agent| !agent.online);
    poll_until(SOON, "h2 is offline", gone).await;
    assert!(g.ask(OVERTIME, &[id], body.clone()).await.rows().is_empty());
    let shown = ended(&g.curl, id, json!({})).await;
    g.ask(OVERTIME, &[id], body).await.failed(400, INVALID);
    assert_eq!(shown["resultcode"], 1, "{shown}");
    assert!(begins(&shown["result"], "2 of 3 agents have not answered"), "{shown}");
    assert_eq!(
        shape(&shown),
        "{deadline:int,expire:int,finishtime:int,request_id:str,request_time:int,respones:[\
         {agent_id:int,agent_time:int,result:str,resultcode:int,server_time:int}],result:str,\
         resultcode:int,status:int}"
    );
    assert_eq!(shown["respones"].as_array().unwrap().len(), 3, "{shown}");
    assert_eq!(of(&shown, &g.h1).unwrap()["resultcode"], 0);
    for (agent, reason) in [(&g.h2, "AGENT_OFFLINE: "), (&g.r1, "QUEUE_NOT_FOUND: ")] {
        let row = of(&shown, agent).unwrap();
        assert_eq!(row["resultcode"], -124, "{shown}");
        assert!(begins(&row["result"], reason), "{shown}");
    }
    let none = g.ask(SHOW, &[id], json!({"agents": false})).await;
    assert_eq!(none.row()["respones"], json!([]));
    g.ask(SHOW, &[id], json!({"details": "all"})).await.failed(400, INVALID);
}

async fn lists(g: &Ground, id: &str) {
    let list = async |body: Value| g.ask(INDEX, &[], body).await;
    let reply = list(Value::Null).await;
    assert_eq!(
        shape(reply.row()),
        "{deadline:int,expire:int,finishtime:int,request_id:str,request_time:int,resultcode:int,\
         status:int}"
    );
    let row = reply.row();
    assert_eq!((&row["request_id"], &row["status"]), (&json!(id), &json!(1)));
    let time = row["request_time"].as_u64().unwrap();
    for (body, rows) in [
        (json!({"status": 1, "order": "deadline", "desc": true, "page_num": 0}), 1),
        (json!({"status": 0}), 0),
        (json!({"start": time, "end": time.to_string()}), 1),
        (json!({"start": time + 1}), 0),
        (json!({"end": time - 1}), 0),
        (json!({"start": "2024-01-31 18:00:00"}), 1),
        (json!({"end": "2024-01-31 18:00:00"}), 0),
    ] {
        assert_eq!(list(body.clone()).await.rows().len(), rows, "{body}");
    }
    for body in [
        json!({"order": "result"}),
        json!({"status": 2}),
        json!({"page_num": 1}),
        json!({"start": "x"}),
        json!({"end": -1}),
        json!({"desc": "x"}),
    ] {
        list(body).await.failed(400, INVALID);
    }
}

/// What is shown of a request, as a script asks again and again, once it has ended.
async fn ended(curl: &Curl, id: &str, body: Value) -> Value {
    let path = format!("/v1.0/asyncrequests/{id}?_method=GET");
    poll_for(END, "the request ends", async || {
        let reply = curl.send("POST", &path, Some(&body)).await;
        let row = reply.row();
        (row["status"] == 1).then(|| row.clone())
    })
    .await
}

/// A script that knows nothing newer.
struct Script {
    site: Site,
    curl: Curl,
}

impl Script {
    /// Begins a request and answers its id.
    async fn begin(&self, method: &str, path: &str, body: Value) -> String {
        id(&self.curl.send(method, path, Some(&body)).await)
    }

    /// As [`Self::begin`]; what is shown of it when it has ended.
    async fn run(&self, method: &str, path: &str, body: Value) -> Value {
        let id = self.begin(method, path, body).await;
        ended(&self.curl, &id, json!({"details": true})).await
    }

    /// An agent that is only on record, and its secret: an old one that answers over HTTP.
    async fn register(&self, host: &str) -> (i32, Secret) {
        let secret = Secret::generate();
        let request = v1::CreateAgentRequest {
            r#type: "application".to_owned(),
            host: host.to_owned(),
            secret: secret.reveal().to_owned(),
            ..v1::CreateAgentRequest::default()
        };
        let created = self.site.agents().create_agent(request).await.unwrap().into_inner();
        (created.agent.unwrap().id, secret)
    }

    /// Waits until the broker has the message to an agent: only then can it have been answered.
    async fn until_sent(&self, id: &str, agent: i32) {
        let sent = async || {
            let rows = self.site.responses(id).await;
            rows[&agent].state() == v1::ResponseState::Sent
        };
        poll_until(SOON, "the agent is sent to", sent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_asks_upgrades_and_asks_again() {
    let site = Site::start().await;
    let curl = Curl::new(site.url());
    let packages = Ledger::create();
    let record = format!("echo \"$(basename \"$0\") $1\" >> {:?}", packages.path());
    let good = script(site.path(), "good", &record);
    let poor = script(site.path(), "poor", &format!("{record}\necho no space >&2; exit 1"));
    let mut agents = Vec::new();
    for (host, program) in [("h1", good), ("h2", poor)] {
        let toml = format!(
            "[package]\ncommand = [{program:?}, \"{{file}}\"]\n[endpoints.db]\n[endpoints.game]\n"
        );
        agents.push(site.active_agent(host, &toml).await);
    }
    let (h1, h2) = (agents[0].id.to_string(), agents[1].id.to_string());
    let pid = agents[0].process().pid();
    let script = Script { site, curl };

    // The status of all, told apart by endpoint.
    let all = "/v1.0/agents/all/status";
    let shown = script.run("GET", all, asked_for_long(json!({}))).await;
    assert_eq!((&shown["resultcode"], &shown["expire"]), (&json!(0), &json!(180)), "{shown}");
    assert!(begins(&shown["result"], "every agent has answered"), "{shown}");
    assert_eq!(shown["respones"].as_array().unwrap().len(), 2, "{shown}");
    for agent in [&h1, &h2] {
        let row = of(&shown, agent).unwrap();
        assert_eq!(row["resultcode"], 0, "{shown}");
        for (detail, endpoint) in [(0, "db"), (1, "game")] {
            let detail = &row["details"][detail];
            assert_eq!(detail["result"]["endpoint"], endpoint, "{shown}");
            assert_eq!(detail["result"]["entitys"], 0, "{shown}");
        }
    }
    // As a page asks, for one agent; what else is in the body goes to the method, which refuses it.
    let one = format!("/v1.0/agents/{h2}/status?_method=GET");
    let shown = script.run("POST", &one, asked_for_long(json!({"other": 1, "expire": 0}))).await;
    assert!(of(&shown, &h1).is_none(), "{shown}");
    let row = of(&shown, &h2).unwrap();
    assert_eq!((&row["resultcode"], &shown["resultcode"]), (&json!(-1), &json!(0)), "{shown}");
    assert!(begins(&row["result"], "INVALID_ARGUMENT: "), "{shown}");

    // An upgrade of both, of which one cannot: everybody has answered, and that is 0.
    let both = format!("/v1.0/agents/{h1}-{h2}/upgrade");
    let body = asked_for_long(json!({"file": "/srv/next.rpm"}));
    let begun = script.begin("POST", &both, body).await;
    let shown = ended(&script.curl, &begun, json!({})).await;
    assert_eq!((&shown["resultcode"], &shown["expire"]), (&json!(0), &json!(0)), "{shown}");
    let (one, other) = (of(&shown, &h1).unwrap(), of(&shown, &h2).unwrap());
    assert_eq!((&one["resultcode"], &one["details"]), (&json!(0), &json!([])), "{shown}");
    assert_eq!((&other["resultcode"], &other["details"]), (&json!(-1), &json!([])), "{shown}");
    assert!(other["result"].as_str().unwrap().contains("exit code 1"), "{shown}");
    let mut runs = packages.lines();
    runs.sort();
    assert_eq!(runs, ["good /srv/next.rpm", "poor /srv/next.rpm"]);
    assert!(agents[0].runs());
    assert_eq!(agents[0].process().pid(), pid);
    // It is there again.
    let shown = script.run("GET", all, asked_for_long(json!({}))).await;
    assert_eq!(of(&shown, &h1).unwrap()["resultcode"], 0, "{shown}");

    // All of them stand in the list, in the order that is asked for.
    let list = async |body: Value| {
        let reply = script.curl.send("GET", "/v1.0/asyncrequests", Some(&body)).await;
        let ids = reply.rows().iter().map(|row| row["request_id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    let mut newest_first = list(json!({"status": 1})).await;
    assert_eq!(newest_first.len(), 4);
    assert_eq!(newest_first[1], begun);
    newest_first.reverse();
    assert_eq!(list(json!({"order": "request_time", "desc": false})).await, newest_first);
    newest_first.sort();
    assert_eq!(list(json!({"order": "request_id"})).await, newest_first);
    script.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_agent_answers_over_http() {
    let site = Site::start().await;
    let script = Script { curl: Curl::new(site.url()), site };
    let (agent, secret) = script.register("plain").await;
    let (other, others) = script.register("other").await;
    let agents = format!("{agent},{other}");
    let upgrade = format!("/v1.0/agents/{agents}/upgrade");
    let answer = |agent: i32, secret: &Secret, code: i32| {
        json!({"agent_id": agent, "agent_time": 1_700_000_000, "resultcode": code, "expire": 60,
               "result": "upgrade as asked", "secret": secret.reveal(),
               "details": [{"detail_id": 1, "resultcode": code, "result": {"pid": 7}},
                           {"detail_id": 2, "resultcode": 0, "result": "a|N/A|b"}]})
    };

    let id = script.begin("POST", &upgrade, asked_for_long(json!({}))).await;
    let path = format!("/v1.0/asyncrequests/{id}");
    let response = format!("{path}/response");
    let respond = async |body: Value| script.curl.send("POST", &response, Some(&body)).await;
    script.until_sent(&id, agent).await;
    script.until_sent(&id, other).await;
    assert!(respond(answer(agent, &secret, 0)).await.rows().is_empty());
    // A second answer changes nothing, and nobody answers with another's secret.
    respond(answer(agent, &secret, -1)).await.refused();
    respond(answer(other, &secret, 0)).await.failed(400, INVALID);
    // The other one is given up, and then answers after all.
    let overtime = json!({"agent_time": now(), "agents": [other]});
    let reply = script.curl.send("PUT", &format!("{path}/overtime"), Some(&overtime)).await;
    assert!(reply.rows().is_empty());
    let shown = ended(&script.curl, &id, json!({"details": true})).await;
    assert_eq!(shown["resultcode"], 1, "{shown}");
    assert_eq!(of(&shown, &other.to_string()).unwrap()["resultcode"], -124, "{shown}");
    assert!(respond(answer(other, &others, -1)).await.rows().is_empty());

    let shown = ended(&script.curl, &id, json!({"details": true})).await;
    assert_eq!(shown["resultcode"], 0, "{shown}");
    let rows = shown["respones"].as_array().unwrap();
    for (row, (agent, code)) in rows.iter().zip([(agent, 0), (other, -1)]) {
        let mut row = row.clone();
        assert!(row["server_time"].take().as_u64().unwrap() > 1_700_000_000, "{shown}");
        assert_eq!(
            row,
            json!({"agent_id": agent, "agent_time": 1_700_000_000, "server_time": null,
                   "resultcode": code, "result": "upgrade as asked",
                   "details": [{"detail_id": 1, "resultcode": code, "result": "{\"pid\":7}"},
                               {"detail_id": 2, "resultcode": 0, "result": "a|N/A|b"}]})
        );
    }
    assert_eq!(rows.len(), 2, "{shown}");
    // Once deleted it is not known any more.
    let path = format!("/v1.0/agents/{other}");
    script.curl.send("DELETE", &path, Some(&json!({"force": true}))).await.row();
    let reply = script.curl.send("POST", &upgrade, Some(&asked(json!({})))).await;
    reply.failed(400, &format!("{INVALID}there is no agent {other}"));
    script.site.stop().await;
}
