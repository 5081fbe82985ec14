//! The port as HTTP clients meet it: who may ask, gRPC-Web beside gRPC, and how connections end.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use goperation::{
    Reason,
    v1::{
        IndexAgentsRequest, ReceiveRequest, ShowAgentRequest,
        agent_service_client::AgentServiceClient, bridge_service_client::BridgeServiceClient,
    },
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::body::Body;
use tonic_web::{GrpcWebCall, GrpcWebClientLayer, GrpcWebClientService};
use tower::Layer as _;

use crate::harness::{Manager, answer};

const PATIENCE: Duration = Duration::from_secs(20);
const PAGE: &str = "https://console.example";

async fn with_page() -> Manager {
    Manager::with(|config| config.http.cors_origins = vec![PAGE.parse().unwrap()]).await
}

/// Head, in lower case, and body of the answer to a request without a body.
async fn ask(address: SocketAddr, line: &str, headers: &[(&str, &str)]) -> (String, String) {
    let mut text = format!("{line} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{text}\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The value of a header, of all its lines.
fn header(head: &str, name: &str) -> Option<String> {
    let prefix = format!("{name}: ");
    let values: Vec<_> = head.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

#[tokio::test]
async fn only_names_and_pages_of_this_host_are_answered() {
    let manager = with_page().await;
    let address = manager.address();
    for path in ["/v1/agents", "/v1.0/goperation/agents", "/openapi.json", "/docs/", "/nowhere"] {
        for (host, origin, refused) in [
            ("localhost", None, false),
            ("127.0.0.1:80", None, false),
            ("evil.example", None, true),
            ("localhost", Some("http://localhost:3000"), false),
            ("localhost", Some(PAGE), false),
            ("localhost", Some("https://evil.example"), true),
            ("localhost", Some("null"), true),
        ] {
            let mut headers = vec![("Host", host)];
            headers.extend(origin.map(|origin| ("Origin", origin)));
            let (head, body) = ask(address, &format!("GET {path}"), &headers).await;
            assert_eq!(status(&head) == 403, refused, "{path} {headers:?}: {head}");
            if refused {
                assert!(body.contains("HOST_REFUSED"), "{path} {headers:?}: {body}");
            }
        }
    }
    let (head, body) = ask(address, "GET /v1/agents", &[]).await;
    assert_eq!(status(&head), 400, "{body}");
    let web = [("Host", "evil.example"), ("Content-Type", "application/grpc-web+proto")];
    let (head, _) = ask(address, "POST /goperation.v1.AgentService/IndexAgents", &web).await;
    assert_eq!(status(&head), 403);
}

#[tokio::test]
async fn only_configured_pages_get_cors() {
    let manager = with_page().await;
    let address = manager.address();
    let rpc = "/goperation.v1.AgentService/IndexAgents";
    let asks = [
        ("Host", "localhost"),
        ("Access-Control-Request-Method", "PATCH"),
        ("Access-Control-Request-Headers", "auth-token,grpc-metadata-x,if-match"),
    ];
    for (path, shared) in [
        ("/v1/agents", true),
        ("/v1.0/goperation/agents", true),
        ("/openapi.json", true),
        (rpc, true),
        ("/docs/", false),
        ("/v1x", false),
    ] {
        let preflight = [&asks[..], &[("Origin", PAGE)]].concat();
        let (head, _) = ask(address, &format!("OPTIONS {path}"), &preflight).await;
        let allowed = shared.then(|| PAGE.to_owned());
        assert_eq!(header(&head, "access-control-allow-origin"), allowed, "{path}: {head}");
        if shared {
            assert_eq!(status(&head), 200, "{head}");
            let of = |name| header(&head, name).unwrap();
            assert!(of("access-control-allow-methods").contains("patch"), "{head}");
            let headers = of("access-control-allow-headers");
            assert_eq!(headers, "auth-token,grpc-metadata-x,if-match");
            assert_eq!(of("access-control-max-age"), "3600");
            assert_eq!(of("access-control-allow-credentials"), "true");
            assert!(of("vary").contains("origin"), "{head}");
        }
    }
    let get = |origin| async move {
        let mut headers = vec![("Host", "localhost")];
        headers.extend(origin);
        ask(address, "GET /v1/agents", &headers).await.0
    };
    let head = get(Some(("Origin", PAGE))).await;
    assert_eq!(status(&head), 200);
    assert_eq!(header(&head, "access-control-allow-origin").as_deref(), Some(PAGE));
    assert!(header(&head, "access-control-expose-headers").unwrap().contains("etag"));
    for origin in [None, Some(("Origin", "http://localhost:3000"))] {
        let head = get(origin).await;
        assert_eq!(status(&head), 200);
        assert!(!head.contains("access-control-"), "{head}");
        // A cache does not give a page the answer to another.
        assert!(header(&head, "vary").unwrap().contains("origin"), "{head}");
    }
    // Without the question OPTIONS is no preflight, and without a page it has no CORS.
    let plain = [("Host", "localhost"), ("Origin", PAGE)];
    for headers in [&plain[..], &[&asks[..], &[("Origin", "http://[::1]:1")]].concat()] {
        let (head, _) = ask(address, "OPTIONS /v1/agents", headers).await;
        assert_eq!(status(&head), 204, "{head}");
        assert!(header(&head, "allow").unwrap().contains("get"), "{head}");
        assert!(!head.contains("access-control-allow-origin"), "{head}");
    }
}

#[tokio::test]
async fn without_configured_pages_there_is_no_cors() {
    let manager = Manager::start().await;
    let headers = [
        ("Host", "localhost"),
        ("Origin", "http://localhost:3000"),
        ("Access-Control-Request-Method", "GET"),
    ];
    for line in ["OPTIONS /v1/agents", "GET /v1/agents"] {
        let (head, _) = ask(manager.address(), line, &headers).await;
        assert!(!head.contains("access-control-"), "{head}");
    }
}

/// A client of gRPC-Web over HTTP/1.1, as a browser is one.
type Web = GrpcWebClientService<Client<HttpConnector, GrpcWebCall<Body>>>;

fn web() -> Web {
    GrpcWebClientLayer::new().layer(Client::builder(TokioExecutor::new()).build_http())
}

#[tokio::test]
async fn grpc_web_and_grpc_are_on_one_port() {
    let mut manager = Manager::start().await;
    let id = manager.register("h1").await;
    let origin: tonic::transport::Uri = format!("http://{}", manager.address()).parse().unwrap();

    let mut agents = AgentServiceClient::with_origin(web(), origin.clone());
    let shown = answer(agents.show_agent(ShowAgentRequest { id }).await).unwrap();
    assert_eq!(shown.agent, Some(manager.show(id).await.unwrap()));
    let missing = answer(agents.show_agent(ShowAgentRequest { id: id + 1 }).await).unwrap_err();
    assert_eq!(missing, manager.show(id + 1).await.unwrap_err());
    assert_eq!(missing.reason, Reason::AgentNotFound);

    let mut bridge = BridgeServiceClient::with_origin(web(), origin);
    let request = ReceiveRequest { queue: "news".to_owned(), ..ReceiveRequest::default() };
    let mut stream = answer(bridge.receive(request).await).unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().message_id, "n1");
    manager.shutdown();
    assert!(timeout(PATIENCE, stream.next()).await.unwrap().is_none_or(|end| end.is_err()));
    manager.wait_end().await.unwrap();
}

#[tokio::test]
async fn what_is_neither_is_told_so() {
    let manager = Manager::start().await;
    let rpc = "/goperation.v1.AgentService/IndexAgents";
    for (line, kind, expected, reason) in [
        (format!("POST {rpc}"), "application/grpc", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (format!("POST {rpc}"), "application/grpc-web+json", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (format!("GET {rpc}"), "application/grpc-web", 405, "METHOD_NOT_ALLOWED"),
        (format!("POST {rpc}"), "application/json", 404, "ROUTE_NOT_FOUND"),
        ("GET /nowhere".to_owned(), "text/plain", 404, "ROUTE_NOT_FOUND"),
    ] {
        let headers = [("Host", "localhost"), ("Content-Type", kind)];
        let (head, body) = ask(manager.address(), &line, &headers).await;
        assert_eq!(status(&head), expected, "{line}: {body}");
        assert!(body.contains(reason), "{line}: {body}");
        assert_eq!(header(&head, "content-type").as_deref(), Some("application/json"));
        let length = header(&head, "content-length").unwrap();
        assert_eq!(length, body.len().to_string(), "{line}");
        // The same without its body.
        if line.starts_with("GET") {
            let line = line.replace("GET", "HEAD");
            let (head, body) = ask(manager.address(), &line, &headers).await;
            assert_eq!((status(&head), body.as_str()), (expected, ""), "{line}");
        }
    }
}

#[tokio::test]
async fn an_open_stream_of_json_does_not_hold_up_a_stop() {
    let mut manager = Manager::start().await;
    let mut stream = TcpStream::connect(manager.address()).await.unwrap();
    let request = b"GET /v1/queues/news:receive HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&text).contains("\"n1\"") {
            assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0);
        }
    };
    timeout(PATIENCE, read).await.unwrap();
    // Idle ones do not either.
    let mut idle = TcpStream::connect(manager.address()).await.unwrap();
    let begun = Instant::now();
    manager.shutdown();
    timeout(PATIENCE, stream.read_to_end(&mut text)).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.ends_with("0\r\n\r\n"), "the stream has its end: {text}");
    manager.wait_end().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, idle.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn further_connections_wait_for_a_place() {
    let manager = Manager::with(|config| {
        config.http.max_connections = 2;
        config.http.header_timeout = Duration::from_secs(3600);
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(manager.address()).await.unwrap();
        stream.write_all(b"GET /v1/agents HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut first)).await.unwrap().unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        held.push(stream);
    }
    let mut agents = manager.agents();
    let mut waiting = std::pin::pin!(agents.index_agents(IndexAgentsRequest::default()));
    let early = timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "a third connection was served: {early:?}");
    held.pop();
    timeout(PATIENCE, waiting).await.unwrap().unwrap();
}
