//! Caches, what holds for every request, and what is not there yet.

use serde_json::{Value, json};

use super::routes::{Ground, INVALID};

pub(super) async fn every_request(g: &Ground) {
    let curl = &g.curl;
    let agents = "/v1.0/agents";
    // No route, and no way of saying so but this.
    for (method, path) in
        [("GET", "/v1.0/agents/"), ("PATCH", agents), ("GET", "/v1.0/nothing"), ("GET", "/v1.0")]
    {
        curl.send(method, path, None).await.failed(404, "HTTPNotFound: ");
    }
    let options = curl.send("OPTIONS", "/v1.0/nothing", None).await;
    assert_eq!((options.status, &options.body), (200, &Value::Null));

    // The method of the query, the suffix, and a body without a type, which curl never sends.
    assert_eq!(curl.run(&["-d", ""], "/v1.0/allagents?_method=GET").await.status, 400);
    let typeless = ["-X", "POST", "-H", "Content-Type:", "-d", "{\"agent_type\": \"scheduler\"}"];
    assert!(curl.run(&typeless, "/v1.0/agents.json?_method=GET").await.rows().is_empty());
    let form = ["-X", "GET", "-d", "{}"];
    curl.run(&form, agents).await.failed(400, &format!("{INVALID}Content-Type"));
    let json = "Content-Type: application/json";
    let broken = ["-X", "GET", "-H", json, "-d", "{\n  x"];
    let reply = curl.run(&broken, agents).await;
    reply.failed(400, INVALID);
    assert!(reply.body["msg"].as_str().unwrap().contains("line 2"), "{reply:?}");
    curl.send("GET", agents, Some(&json!([1]))).await.failed(400, INVALID);

    // Any token will do from this host, but not any kind of token.
    for (header, status) in [
        ("Auth-Token: whatever".to_owned(), 200),
        (format!("Auth-Token: {}", "x".repeat(256)), 200),
        (format!("Auth-Token: {}", "x".repeat(257)), 401),
        ("gopfernet: true".to_owned(), 401),
        ("gopfernet: Yes".to_owned(), 401),
        ("gopfernet: no".to_owned(), 200),
    ] {
        let reply = curl.run(&["-H", &header], agents).await;
        assert_eq!(reply.status, status, "{header}");
        if status == 401 {
            reply.failed(401, "Request Failed: HTTPUnauthorized");
        }
    }
    // What is not public is for the admin.
    curl.send("GET", "/n1.0/agents", None).await.failed(401, "Request Failed: HTTPUnauthorized");
    curl.send("GET", "/n1.0/nothing", None).await.failed(404, "HTTPNotFound: ");
}

pub(super) async fn caches(g: &Ground) {
    let (create, show, delete) = ("POST /caches", "GET /caches/{key}", "DELETE /caches/{key}");
    let value = json!({"token": "x", "expire": 60, "n": [1, 2.5, null]});
    let reply = g.ask(create, &[], value.clone()).await;
    let key = reply.row().as_str().unwrap().to_owned();
    let rest = key.strip_prefix("gop-caches-").unwrap_or_else(|| panic!("{key}"));
    let (time, letters) = rest.split_once('-').unwrap();
    assert!(time.parse::<u64>().is_ok() && letters.len() == 6, "{key}");
    assert_eq!(g.ask(show, &[&key], Value::Null).await.row(), &value);
    assert_eq!(g.ask(delete, &[&key], Value::Null).await.row(), &json!(key));
    assert_eq!(g.ask(delete, &[&key], Value::Null).await.row(), &json!(key));
    g.ask(show, &[&key], Value::Null).await.refused();
    g.ask(create, &[], Value::Null).await.failed(400, INVALID);
    g.ask(create, &[], json!({"expire": "x"})).await.failed(400, INVALID);
    g.ask(create, &[], json!({"expire": 8 * 24 * 3600})).await.failed(400, INVALID);
    for key in ["other-1", "gop-caches-*"] {
        for route in [show, delete] {
            g.ask(route, &[key], Value::Null).await.failed(400, INVALID);
        }
    }
    g.ask("PUT /caches/{key}", &[&key], json!({})).await.failed(501, "NotImplementedError: ");

    let online = "POST /caches/host/{host}/online";
    let body = json!({"agent_type": "application", "metadata": {"zone": "z9"}, "expire": 60});
    let reply = g.ask(online, &["Unknown.example.org"], body.clone()).await;
    assert_eq!(reply.row(), &json!({"agent_id": null}));
    let r1: i32 = g.r1.parse().unwrap();
    assert_eq!(g.ask(online, &["r1"], body.clone()).await.row(), &json!({ "agent_id": r1 }));
    for field in ["agent_type", "metadata", "expire"] {
        let mut body = body.clone();
        body.as_object_mut().unwrap().remove(field);
        g.ask(online, &["r1"], body).await.failed(400, INVALID);
    }
    g.ask(online, &["-bad-"], body.clone()).await.failed(400, INVALID);
    g.ask(online, &["r1"], Value::Null).await.failed(400, INVALID);

    let flush = "POST /caches/flush";
    let metadata = async || {
        let shown = g.ask("GET /agents/{agent_id}", &[&g.r1], Value::Null).await;
        shown.row()["metadata"].clone()
    };
    let key = g.ask(create, &[], json!({"a": 1})).await.row().as_str().unwrap().to_owned();
    assert!(g.ask(flush, &[], json!({"online": false})).await.rows().is_empty());
    g.ask(show, &[&key], Value::Null).await.refused();
    assert_eq!(metadata().await, json!({"zone": "z9"}));
    assert!(g.ask(flush, &[], json!({"online": true})).await.rows().is_empty());
    assert_eq!(metadata().await, Value::Null);
    g.ask(flush, &[], Value::Null).await.failed(400, INVALID);
    g.ask(flush, &[], json!({"online": "x"})).await.failed(400, INVALID);
    let body = json!({"metadata": {"local_ip": "10.0.0.9", "gopdb-aff": 3}, "expire": 600});
    g.ask("POST /agents/{agent_id}/report", &[&g.r1], body).await.rows();
}

/// Routes that come with the rest of the system.
const LATER: [&str; 18] = [
    "PUT /asyncrequests/{request_id}",
    "GET /files",
    "POST /files",
    "GET /files/{md5}",
    "PUT /files/{md5}",
    "DELETE /files/{md5}",
    "GET /agents/{agent_id}/files",
    "PUT /agents/{agent_id}/files/{md5}",
    "DELETE /agents/{agent_id}/files/{md5}",
    "POST /schedulers",
    "GET /schedulers/{job_id}",
    "PUT /schedulers/{job_id}",
    "DELETE /schedulers/{job_id}",
    "POST /schedulers/{job_id}/stop",
    "POST /schedulers/{job_id}/start",
    "POST /n1.0/goperation/login/{username}",
    "DELETE /goperation/login/{username}/{token}",
    "POST /goperation/login/{username}/{token}",
];

pub(super) async fn later(g: &Ground) {
    for route in LATER {
        let args = vec!["x"; route.matches('{').count()];
        g.ask(route, &args, json!({"a": 1})).await.failed(501, "NotImplementedError: ");
    }
}
