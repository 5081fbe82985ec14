//! Calls of a real server on this host.

use std::{net::SocketAddr, time::Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};

use super::*;

/// Everything that is waited for comes within this.
const PATIENCE: Duration = Duration::from_secs(20);
const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn read(ekwargs: &Value) -> Result<Call, Vec<String>> {
    let mut bad = Violations::default();
    let call = Call::read(&mut bad, "e", ekwargs.as_object().unwrap());
    match bad.finish() {
        Ok(()) => Ok(call.unwrap()),
        Err(error) => Err(error.violations.into_iter().map(|v| v.field).collect()),
    }
}

/// A server that answers everything with `answer`, and tells what it was asked. Without an answer
/// it keeps silent.
async fn server(answer: Option<&'static str>) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = Vec::new();
            let mut part = [0; 4096];
            while !is_whole(&asked) {
                match stream.read(&mut part).await {
                    Ok(0) | Err(_) => break,
                    Ok(length) => asked.extend_from_slice(&part[..length]),
                }
            }
            let _ = tell.send(String::from_utf8(asked).unwrap()).await;
            match answer {
                Some(answer) => drop(stream.write_all(answer.as_bytes()).await),
                None => std::future::pending().await,
            }
        }
    });
    (address, told)
}

fn is_whole(asked: &[u8]) -> bool {
    let asked = String::from_utf8_lossy(asked).to_lowercase();
    let Some((head, body)) = asked.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse::<usize>().unwrap())
}

/// First line, headers in lower case each with its end, and body of what was asked.
async fn next(told: &mut mpsc::Receiver<String>) -> (String, String, String) {
    let asked = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    let (head, body) = asked.split_once("\r\n\r\n").unwrap();
    let (first, headers) = head.split_once("\r\n").unwrap();
    (first.to_owned(), format!("\r\n{}\r\n", headers.to_lowercase()), body.to_owned())
}

#[tokio::test]
async fn a_call_is_made_as_it_is_said() {
    let (address, mut told) = server(Some(GOOD)).await;
    let url = format!("http://{address}/a?x=1#part");
    for (ekwargs, line, header, body) in [
        (json!({"url": url}), "GET /a?x=1 HTTP/1.1", "\r\nhost: 127.0.0.1:", ""),
        (
            json!({"url": url, "params": {"b c": ["1", 2], "d": true}}),
            "GET /a?x=1&b+c=1&b+c=2&d=true HTTP/1.1",
            "\r\nhost: 127.0.0.1:",
            "",
        ),
        (
            json!({"url": url, "json": {"a": [1]}, "headers": {"X-Key": "k", "Host": "other"}}),
            "POST /a?x=1 HTTP/1.1",
            "\r\ncontent-type: application/json\r\n",
            r#"{"a":[1]}"#,
        ),
        (
            json!({"url": url, "method": "put", "data": {"a": "b&c"}}),
            "PUT /a?x=1 HTTP/1.1",
            "\r\ncontent-type: application/x-www-form-urlencoded\r\n",
            "a=b%26c",
        ),
        (
            json!({"url": url, "data": "as it is", "headers": {"content-type": "text/plain"}}),
            "POST /a?x=1 HTTP/1.1",
            "\r\ncontent-type: text/plain\r\n",
            "as it is",
        ),
    ] {
        let mut call = read(&ekwargs).unwrap();
        call.add_header(HeaderName::from_static("x-key"), HeaderValue::from_static("added"));
        call.run(true).await.unwrap();
        let (first, headers, said) = next(&mut told).await;
        assert_eq!((first.as_str(), said.as_str()), (line, body), "{ekwargs}");
        assert!(headers.contains(header), "{ekwargs}: {headers}");
        for single in ["\r\nhost: ", "\r\nx-key: "] {
            assert_eq!(headers.matches(single).count(), 1, "{headers}");
        }
        let own = ekwargs.pointer("/headers/X-Key").is_some();
        assert_eq!(headers.contains("\r\nx-key: k\r\n"), own, "{headers}");
        assert_eq!(headers.contains("\r\nhost: other\r\n"), own, "{headers}");
    }
}

#[tokio::test]
async fn only_a_good_answer_is_success() {
    let empty = "HTTP/1.1 204 No Content\r\n\r\n";
    let busy = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
    let moved = "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n";
    for (answer, expected) in [
        (empty, None),
        (busy, Some("was answered 503")),
        (moved, Some("redirects are not followed")),
        ("nonsense\r\n\r\n", Some("the connection broke")),
        ("", Some("the connection broke")),
    ] {
        let (address, mut told) = server(Some(answer)).await;
        let url = format!("http://{address}/?secret=1");
        let why = read(&json!({"url": url})).unwrap().run(true).await.err();
        match (&why, expected) {
            (None, None) => {}
            (Some(why), Some(expected)) => {
                assert!(why.contains(expected), "{answer}: {why}");
                assert!(!why.contains("secret"), "{why}");
            }
            _ => panic!("{answer}: {why:?}"),
        }
        // A redirect is not gone after: one question, no second.
        next(&mut told).await;
        assert!(told.try_recv().is_err(), "{answer}");
    }
}

#[tokio::test]
async fn a_silent_server_is_waited_for_as_long_as_is_said() {
    let (address, mut told) = server(None).await;
    let url = format!("http://{address}/");
    let begun = Instant::now();
    let why = read(&json!({"url": url, "timeout": 3})).unwrap().run(true).await.unwrap_err();
    assert!(why.ends_with("was not answered within 3 s"), "{why}");
    assert!(begun.elapsed() >= Duration::from_secs(3));
    next(&mut told).await;
}

#[tokio::test]
async fn this_host_is_called_only_when_that_is_allowed() {
    let (address, mut told) = server(Some(GOOD)).await;
    let port = address.port();
    for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "127.1"] {
        let call = read(&json!({"url": format!("http://{host}:{port}/")})).unwrap();
        let why = call.run(false).await.unwrap_err();
        assert!(why.contains("requests.hooks.allow_local"), "{host}: {why}");
        assert!(told.try_recv().is_err());
    }
    read(&json!({"url": format!("http://{address}/")})).unwrap().run(true).await.unwrap();
    next(&mut told).await;
}

#[test]
fn every_bad_field_of_a_call_is_named() {
    let url = "http://h/";
    for (ekwargs, fields) in [
        (json!({}), vec!["e.url"]),
        (json!({"url": "h/path"}), vec!["e.url"]),
        (json!({"url": "/path"}), vec!["e.url"]),
        (json!({"url": "ftp://h/"}), vec!["e.url"]),
        (json!({"url": "https://h/"}), vec!["e.url"]),
        (json!({"url": "http://u:p@h/"}), vec!["e.url"]),
        (json!({"url": "http://:80/"}), vec!["e.url"]),
        (json!({"url": "http://h h/"}), vec!["e.url"]),
        (json!({"url": 7, "timeout": 2.9, "async": 1}), vec!["e.timeout", "e.async", "e.url"]),
        (json!({"url": url, "timeout": 61, "method": "CONNECT"}), vec!["e.method", "e.timeout"]),
        (json!({"url": url, "headers": {"Content-Length": 1}}), vec!["e.headers"]),
        (json!({"url": url, "headers": {"a b": "c"}}), vec!["e.headers"]),
        (json!({"url": url, "headers": {"a": "b\nc"}}), vec!["e.headers"]),
        (json!({"url": url, "headers": ["a"]}), vec!["e.headers"]),
        (json!({"url": url, "data": "a", "json": 1}), vec!["e.data"]),
        (json!({"url": url, "data": [1]}), vec!["e.data"]),
        (json!({"url": url, "params": {"a": {}}, "x": 1}), vec!["e.x", "e.params"]),
    ] {
        assert_eq!(read(&ekwargs).unwrap_err(), fields, "{ekwargs}");
    }
    assert!(read(&json!({"url": "http://[::1]:80/", "timeout": 60, "async": true})).unwrap().apart);
}
