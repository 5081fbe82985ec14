use http_body_util::BodyExt as _;
use serde_json::json;

use super::*;

struct Sent<'a> {
    method: &'a str,
    path: &'a str,
    kind: Option<&'a str>,
    body: &'a str,
    peer: &'a str,
}

impl Default for Sent<'_> {
    fn default() -> Self {
        Self { method: "GET", path: "/v1.0/agents", kind: None, body: "", peer: "127.0.0.1:9" }
    }
}

/// What is answered where there are no services at all: one that is reached is unimplemented.
async fn answer(sent: Sent<'_>) -> (u16, Value) {
    let legacy = Legacy::new(Routes::default(), &Config::default());
    let mut request = Request::builder().method(sent.method).uri(sent.path);
    if let Some(kind) = sent.kind {
        request = request.header("content-type", kind);
    }
    let body = Incoming::new(Full::new(Bytes::copy_from_slice(sent.body.as_bytes())));
    let answer = legacy.answer(request.body(body).unwrap(), sent.peer.parse().ok()).await;
    let status = answer.status().as_u16();
    let length: usize = answer.headers()[header::CONTENT_LENGTH].to_str().unwrap().parse().unwrap();
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(bytes.len(), length);
    let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
    (status, body)
}

fn msg(body: &Value) -> &str {
    body["msg"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn what_has_no_route_is_not_found_in_json() {
    for (method, path) in [
        ("GET", "/v1.0/agents/"),
        ("PATCH", "/v1.0/agents"),
        ("GET", "/v1.0/x"),
        ("HEAD", "/v1.0/agents"),
    ] {
        let (status, body) = answer(Sent { method, path, ..Sent::default() }).await;
        assert_eq!(status, 404, "{method} {path}");
        assert_eq!(body, json!({ "msg": format!("HTTPNotFound: there is no {method} {path}") }));
    }
}

#[tokio::test]
async fn what_is_not_built_is_said_in_both_bodies_whatever_is_sent() {
    let later = table::every().filter(|route| route.handler.is_none());
    let mut seen = 0;
    for route in later {
        let path = route.path.replace(['{', '}'], "");
        let (status, body) =
            answer(Sent { method: route.method, path: &path, body: "{", ..Sent::default() }).await;
        assert_eq!(status, 501, "{} {path}: {body}", route.method);
        assert!(msg(&body).starts_with("NotImplementedError: "), "{body}");
        assert_eq!((&body["resultcode"], &body["data"]), (&json!(-1), &json!([])));
        assert_eq!(body.as_object().unwrap().len(), 6, "{body}");
        seen += 1;
    }
    // Files, schedulers, login, and three updates that never were.
    assert_eq!(seen, 20);
}

#[tokio::test]
async fn options_is_always_fine() {
    for path in ["/v1.0/agents", "/v1.0/nowhere"] {
        let sent = Sent { method: "OPTIONS", path, peer: "10.0.0.1:9", ..Sent::default() };
        assert_eq!(answer(sent).await, (200, Value::Null), "{path}");
    }
}

#[tokio::test]
async fn only_this_host_may_ask_without_a_token() {
    let (status, body) = answer(Sent { peer: "10.0.0.1:9", ..Sent::default() }).await;
    assert_eq!(status, 401);
    assert!(msg(&body).starts_with("Request Failed: HTTPUnauthorized"), "{body}");
}

#[tokio::test]
async fn the_method_of_the_query_wins() {
    for (method, path, status) in [
        // Reached, and then there is no service.
        ("POST", "/v1.0/allagents?_method=GET", 501),
        ("POST", "/v1.0/allagents?x=1&_method=get", 501),
        ("GET", "/v1.0/allagents?_method=POST", 400),
        ("GET", "/v1.0/agents/1?_method=DELETE", 400),
        ("DELETE", "/v1.0/allagents?_method=GET", 501),
        ("POST", "/v1.0/allagents", 404),
    ] {
        assert_eq!(
            answer(Sent { method, path, ..Sent::default() }).await.0,
            status,
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn bodies() {
    let create = || Sent { method: "POST", ..Sent::default() };
    let form = Some("application/x-www-form-urlencoded");
    for (sent, status, said) in [
        (Sent { body: "{}", kind: form, ..Sent::default() }, 400, "Content-Type"),
        (Sent { kind: form, ..Sent::default() }, 400, "Content-Type"),
        (Sent { body: "{", ..Sent::default() }, 400, "line 1, column 1"),
        (Sent { body: "[]", ..Sent::default() }, 400, "body: must be a JSON object"),
        (create(), 400, "body: is required"),
        (Sent { body: "null", ..create() }, 400, "body: is required"),
        (Sent { body: "{}", ..create() }, 400, "host: is required"),
        (Sent { body: "{\"deleted\": 7}", ..Sent::default() }, 400, "deleted: must be"),
        (Sent { body: "{\"order\": \"x\"}", ..Sent::default() }, 400, "order: must be one of"),
        (Sent { body: "null", ..Sent::default() }, 501, ""),
        (
            Sent {
                body: "{\"deleted\": true}",
                kind: Some("application/json; charset=utf-8"),
                ..Sent::default()
            },
            501,
            "",
        ),
        // Not read where none is wanted.
        (Sent { path: "/v1.0/allagents", body: "[1]", ..Sent::default() }, 501, ""),
    ] {
        let what = format!("{} {} {}", sent.method, sent.path, sent.body);
        let (is, body) = answer(sent).await;
        assert_eq!(is, status, "{what}: {body}");
        if status == 400 {
            assert!(msg(&body).starts_with("InvalidArgument: Argument is Invalid: "), "{body}");
            assert!(msg(&body).contains(said), "{what}: {body}");
        }
    }
}

#[tokio::test]
async fn paths_that_name_nothing_that_can_be() {
    for path in [
        "/v1.0/agents/all",
        "/v1.0/agents/1,2",
        "/v1.0/agents/x",
        "/v1.0/agents/0",
        "/v1.0/agent/1/endpoints/a-b",
        "/v1.0/endpoints/all/agents",
        "/v1.0/endpoint/db/entitys/1,2",
        "/v1.0/caches/other",
        "/v1.0/agents/all/status",
        "/v1.0/caches/gop-*",
    ] {
        let (status, body) = answer(Sent { path, ..Sent::default() }).await;
        assert_eq!(status, 400, "{path}: {body}");
    }
}

#[tokio::test]
async fn what_is_too_large_or_too_deep_is_refused() {
    let large = format!("\"{}\"", "x".repeat(Config::default().max_body));
    let (status, body) = answer(Sent { body: &large, ..Sent::default() }).await;
    assert_eq!(status, 413, "{body}");
    assert!(msg(&body).starts_with("HTTPRequestEntityTooLarge: "), "{body}");
    let deep = "[".repeat(100_000);
    let (status, body) = answer(Sent { body: &deep, ..Sent::default() }).await;
    assert_eq!(status, 400, "{body}");
}

#[tokio::test]
async fn what_begins_a_request_is_checked_before_anybody_is_asked() {
    let now = goperation::now_millis() / 1000;
    let status = "/v1.0/agents/all/status";
    let upgrade = "/v1.0/agents/1-3,7/upgrade";
    for (method, path, body, status, text) in [
        ("GET", status, json!({}), 400, "request_time: is required"),
        ("GET", status, json!({"request_time": now - 60}), 400, "5 seconds apart"),
        ("GET", status, json!({"request_time": now, "finishtime": now}), 400, "finishtime"),
        ("GET", "/v1.0/agents/x/status", json!({"request_time": now}), 400, "agent_id"),
        // Reached, and then there is no service.
        ("GET", status, json!({"request_time": now, "more": 1}), 501, ""),
        ("POST", upgrade, json!({"request_time": now, "file": "/a.rpm"}), 501, ""),
        ("POST", upgrade, json!({"request_time": now, "file": 1}), 400, "file"),
        ("POST", upgrade, json!({"request_time": now, "pre_run": {}}), 400, "pre_run.exec"),
    ] {
        let body = body.to_string();
        let what = format!("{method} {path} {body}");
        let (is, answered) = answer(Sent { method, path, body: &body, ..Sent::default() }).await;
        assert_eq!(is, status, "{what}: {answered}");
        assert!(msg(&answered).contains(text), "{what}: {answered}");
    }
}

#[tokio::test]
async fn what_is_asked_of_a_request() {
    let one = "/v1.0/asyncrequests/8a0e9c52-0c27-4f4c-9d41-0d3f6b3c8f11";
    let (response, overtime) = (&format!("{one}/response"), &format!("{one}/overtime"));
    for (method, path, body, status) in [
        ("GET", "/v1.0/asyncrequests", "{\"status\": 2}", 400),
        ("GET", "/v1.0/asyncrequests", "{\"order\": \"result\"}", 400),
        ("GET", "/v1.0/asyncrequests", "{\"start\": \"2024-01-31 18:00:00\"}", 501),
        ("GET", one, "{\"details\": \"all\"}", 400),
        ("GET", one, "", 501),
        ("PUT", one, "{}", 501),
        ("POST", response, "", 400),
        ("POST", response, "{\"agent_id\": 1, \"agent_time\": 2, \"resultcode\": 0}", 400),
        ("PUT", overtime, "", 400),
        ("PUT", overtime, "{\"agent_time\": 2, \"agents\": []}", 400),
        ("PUT", overtime, "{\"agent_time\": 2, \"agents\": [1]}", 501),
    ] {
        let (is, answered) = answer(Sent { method, path, body, ..Sent::default() }).await;
        assert_eq!(is, status, "{method} {path} {body}: {answered}");
    }
}
