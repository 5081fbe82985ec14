//! The whole way of a request, over services in this process.

use std::{io::Read as _, sync::atomic::Ordering};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::testing::Library;

struct Here {
    rest: Rest,
    library: Library,
    gone: mpsc::Receiver<()>,
}

fn here() -> Here {
    let (library, gone) = Library::new();
    let routes = Routes::new(library.clone());
    let rest = Rest::new(library.pool.clone(), routes, Limits::default()).unwrap();
    Here { rest, library, gone }
}

fn request(line: &str, headers: &[(&str, &str)], body: &str) -> Request<Incoming> {
    let (method, uri) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Incoming::new(Full::new(Bytes::from(body.to_owned())))).unwrap()
}

struct Got {
    status: u16,
    headers: http::HeaderMap,
    bytes: Bytes,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default()
    }

    fn reason(&self) -> (u16, String) {
        (self.status, self.json()["reason"].as_str().unwrap().to_owned())
    }
}

async fn ask(rest: &Rest, line: &str, headers: &[(&str, &str)], body: &str) -> Got {
    let (head, body) = rest.answer(request(line, headers, body)).await.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let length = head.headers.get("content-length");
    if !line.starts_with("HEAD")
        && let Some(length) = length
    {
        assert_eq!(length.to_str().unwrap(), bytes.len().to_string());
    }
    Got { status: head.status.as_u16(), headers: head.headers, bytes }
}

#[tokio::test]
async fn a_call_goes_through_and_its_answer_comes_back() {
    let rest = here().rest;
    let got = ask(
        &rest,
        "PATCH /t1/books/5",
        &[("content-type", "application/json"), ("grpc-metadata-echo", "e")],
        r#"{"title": "t", "facts": {"a": 7}, "etag": "e7"}"#,
    )
    .await;
    assert_eq!(got.status, 200);
    assert_eq!(got.header("content-type"), "application/json");
    assert_eq!(got.header("grpc-metadata-echo"), "e");
    assert_eq!(got.header("etag"), "\"e7\"");
    let book = got.json();
    assert_eq!((&book["id"], &book["facts"]), (&json!(5), &json!({"a": 7})));
    let got = ask(&rest, "GET /t1/books?names=a&names=b", &[], "").await;
    assert_eq!(got.json(), json!({"books": [], "names": ["a", "b"]}));
    let got = ask(&rest, "GET /t1/names?names=a", &[], "").await;
    assert_eq!(got.json(), json!(["a"]));
    let got = ask(&rest, "POST /t1/books/5:lend", &[], "").await;
    assert_eq!(got.json()["book"]["id"], 5);
    let huge = ask(&rest, "GET /t1/titles/huge", &[], "").await;
    assert!(huge.bytes.len() > 5 << 20, "larger than a client's default limit");
}

#[tokio::test]
async fn what_cannot_be_answered_is_a_problem() {
    let rest = here().rest;
    let json = [("content-type", "application/json")];
    for (line, headers, body, status, reason) in [
        ("GET /t1/nothing", &json[..], "", 404, "ROUTE_NOT_FOUND"),
        ("GET /t1/books/", &json, "", 404, "ROUTE_NOT_FOUND"),
        ("OPTIONS /t1/nothing", &json, "", 404, "ROUTE_NOT_FOUND"),
        ("PUT /t1/books", &json, "", 405, "METHOD_NOT_ALLOWED"),
        ("HEAD2 /t1/books", &json, "", 405, "METHOD_NOT_ALLOWED"),
        ("GET /t1/titles/%ff", &json, "", 400, "INVALID_ARGUMENT"),
        ("GET /t1/titles/%2", &json, "", 400, "INVALID_ARGUMENT"),
        ("GET /t1/books?no=1", &json, "", 400, "INVALID_ARGUMENT"),
        ("GET /t1/books", &json, "{\"a\":1}", 400, "INVALID_ARGUMENT"),
        ("POST /t1/books", &json, "{", 400, "INVALID_ARGUMENT"),
        ("POST /t1/books", &[("content-type", "text/plain")], "{}", 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("POST /t1/books", &[("content-encoding", "br")], "{}", 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("GET /t1/books", &[("grpc-timeout", "1")], "", 400, "INVALID_ARGUMENT"),
        ("GET /t1/titles/slow", &[("grpc-timeout", "10m")], "", 504, "OUTCOME_UNKNOWN"),
        ("DELETE /t1/books/5", &[("if-match", "W/\"a\"")], "", 412, "ETAG_MISMATCH"),
    ] {
        let got = ask(&rest, line, headers, body).await;
        assert_eq!(got.reason(), (status, reason.to_owned()), "{line} {}", got.json());
        assert_eq!(got.header("content-type"), "application/json");
    }
    let got = ask(&rest, "PUT /t1/books", &[], "").await;
    assert_eq!(got.header("allow"), "GET, HEAD, OPTIONS, POST");
    let got = ask(&rest, "GET /t1/titles/missing", &[], "").await;
    assert_eq!(got.reason(), (409, "LOCKED".to_owned()));
    assert_eq!(got.header("retry-after"), "2");
    assert_eq!(got.header("grpc-metadata-why"), "no");
    assert_eq!(got.json()["message"], "somebody has it");
    let large = format!("\"{}\"", "a".repeat(5 << 20));
    let got = ask(&rest, "POST /t1/books", &[], &large).await;
    assert_eq!(got.reason(), (413, "TOO_LARGE".to_owned()));
}

#[tokio::test]
async fn options_and_head_are_answered() {
    let rest = here().rest;
    let got = ask(&rest, "OPTIONS /t1/books/5", &[], "").await;
    assert_eq!((got.status, got.header("allow")), (204, "DELETE, OPTIONS, PATCH"));
    for (line, headers) in [
        ("/t1/titles/a", &[][..]),
        ("/t1/titles/large", &[("accept-encoding", "gzip")]),
        ("/t1/titles/missing", &[]),
        ("/t1/nothing", &[]),
        ("/t1/books?no=1", &[]),
    ] {
        let get = ask(&rest, &format!("GET {line}"), headers, "").await;
        let head = ask(&rest, &format!("HEAD {line}"), headers, "").await;
        assert_eq!((head.status, &head.headers), (get.status, &get.headers), "{line}");
        assert!(head.bytes.is_empty() && !get.bytes.is_empty());
    }
    let head = ask(&rest, "HEAD /t1/books:watch", &[], "").await;
    assert_eq!((head.status, head.header("allow")), (405, "GET, OPTIONS"));
}

#[tokio::test]
async fn a_version_that_is_known_is_not_sent_again() {
    let rest = here().rest;
    let got = ask(&rest, "GET /t1/titles/a", &[("if-none-match", "\"e1\"")], "").await;
    assert_eq!((got.status, got.header("etag")), (304, "\"e1\""));
    assert!(got.bytes.is_empty() && got.headers.get("content-type").is_none());
    let got = ask(&rest, "GET /t1/titles/a", &[("if-none-match", "\"e0\"")], "").await;
    assert_eq!((got.status, got.header("etag")), (200, "\"e1\""));
}

#[tokio::test]
async fn a_large_answer_is_compressed_for_who_reads_gzip() {
    let rest = here().rest;
    let plain = ask(&rest, "GET /t1/titles/large", &[], "").await;
    assert_eq!((plain.header("vary"), plain.header("content-encoding")), ("accept-encoding", ""));
    let got = ask(&rest, "GET /t1/titles/large", &[("accept-encoding", "gzip")], "").await;
    assert_eq!((got.header("vary"), got.header("content-encoding")), ("accept-encoding", "gzip"));
    assert!(got.bytes.len() < 1000);
    let mut text = Vec::new();
    GzDecoder::new(&got.bytes[..]).read_to_end(&mut text).unwrap();
    assert_eq!(text, plain.bytes);
    let small = ask(&rest, "GET /t1/titles/a", &[("accept-encoding", "gzip")], "").await;
    assert_eq!((small.header("vary"), small.header("content-encoding")), ("", ""));
}

#[tokio::test]
async fn a_stream_is_lines_or_events() {
    let rest = here().rest;
    let got = ask(&rest, "GET /t1/books:watch?page_size=2", &[], "").await;
    assert_eq!((got.status, got.header("content-type")), (200, "application/x-ndjson"));
    let text = String::from_utf8(got.bytes.to_vec()).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let ids: Vec<_> = lines.iter().map(|l| l["result"]["book"]["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [0, 1]);
    let got = ask(&rest, "GET /t1/books:watch?page_size=1&names=fail", &[], "").await;
    let text = String::from_utf8(got.bytes.to_vec()).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((text.lines().count(), &last["error"]["reason"]), (2, &json!("UNAVAILABLE")));

    let events = [("accept", "text/event-stream")];
    let got = ask(&rest, "GET /t1/books:watch?page_size=1&names=fail", &events, "").await;
    assert_eq!(got.header("content-type"), "text/event-stream");
    let text = String::from_utf8(got.bytes.to_vec()).unwrap();
    let parts: Vec<_> = text.split("\n\n").collect();
    assert!(parts[0].starts_with("data: {\"book\":{\"id\":0,"), "{text}");
    assert!(parts[1].starts_with("event: error\ndata: {"), "{text}");
    assert_eq!(&parts[2..], [""]);
}

#[tokio::test]
async fn a_failure_before_the_first_message_is_the_answer() {
    let rest = here().rest;
    let got = ask(&rest, "GET /t1/books:watch?names=refuse", &[], "").await;
    assert_eq!(got.reason(), (404, "QUEUE_NOT_FOUND".to_owned()));
    let got = ask(&rest, "GET /t1/books:watch?page_size=0&names=fail", &[], "").await;
    assert_eq!(got.reason(), (503, "UNAVAILABLE".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_of_events_beats_and_ends_with_its_deadline() {
    let rest = here().rest;
    let headers = [("accept", "text/event-stream"), ("grpc-timeout", "40S")];
    let got = ask(&rest, "GET /t1/books:watch?page_size=0&names=silent", &headers, "").await;
    let text = String::from_utf8(got.bytes.to_vec()).unwrap();
    assert!(text.starts_with(":\n\n:\n\nevent: error\n"), "{text}");
    assert!(text.contains("OUTCOME_UNKNOWN"), "{text}");
}

#[tokio::test]
async fn a_stream_makes_no_more_than_is_read_and_ends_with_its_reader() {
    let Here { rest, library, mut gone } = here();
    let made = library.made.clone();
    drop(library);
    let mut body = rest.answer(request("GET /t1/books:watch", &[], "")).await.into_body();
    for _ in 0..3 {
        body.frame().await.unwrap().unwrap();
    }
    // The services fill one buffer of 32 KiB at a time, of messages of some ten bytes.
    let so_far = made.load(Ordering::SeqCst);
    assert!(so_far < 10_000, "{so_far} made for 3 read");
    tokio::task::yield_now().await;
    assert_eq!(made.load(Ordering::SeqCst), so_far);
    drop((body, rest));
    assert_eq!(gone.recv().await, None, "the call has ended");
}
