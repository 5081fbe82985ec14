//! The OpenAPI document of a live `gop dev`: by the property tests of schemathesis, and by its page
//! in a browser.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use goperation::v1::{
    ActivateAgentRequest, Cache, CreateCacheRequest, CreateEntityRequest, CreateRequestRequest,
    PortWish, RequestSelection, RequestState, Rollout, WatchRequestRequest,
    agent_service_client::AgentServiceClient, cache_service_client::CacheServiceClient,
    entity_service_client::EntityServiceClient, request_service_client::RequestServiceClient,
    watch_request_response::Event,
};
use goperation_harness::{chromium, node_modules, program, venv_program};
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};
use tonic::transport::Channel;

use crate::{
    dev::{dev, end},
    fleet::SOON,
};

/// Examples that schemathesis has to try.
const EXAMPLES: u64 = 10_000;
/// Operations that have to succeed at least once, of 78.
const SUCCEEDING: usize = 50;
/// How long it may take for them.
const TRIED_WITHIN: Duration = Duration::from_secs(660);
const SHOWN_WITHIN: Duration = Duration::from_secs(120);

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Something of everything: active agents, entities with ports, a cache.
async fn populate(address: &str) {
    let server = format!("http://{address}");
    let mut agents = AgentServiceClient::connect(server.clone()).await.unwrap();
    let mut entities = EntityServiceClient::connect(server.clone()).await.unwrap();
    let mut caches = CacheServiceClient::connect(server).await.unwrap();
    for id in [1, 2, 3] {
        agents.activate_agent(ActivateAgentRequest { id, state: 0 }).await.unwrap();
        let create = CreateEntityRequest {
            endpoint: "sample".to_owned(),
            agent_id: id,
            ports: vec![PortWish { name: "game".to_owned(), ..PortWish::default() }],
            ..CreateEntityRequest::default()
        };
        entities.create_entity(create).await.unwrap();
        let clock = CreateEntityRequest {
            endpoint: "clock".to_owned(),
            agent_id: id,
            ..CreateEntityRequest::default()
        };
        entities.create_entity(clock).await.unwrap();
    }
    let cache = Cache { key: "schemathesis".to_owned(), ..Cache::default() };
    caches.create_cache(CreateCacheRequest { cache: Some(cache) }).await.unwrap();
}

/// Begins a request and answers its id when nothing more happens to it by itself.
async fn begin(
    requests: &mut RequestServiceClient<Channel>,
    method: &str,
    rollout: Option<Rollout>,
) -> String {
    let on = RequestSelection { agents: "1-2".to_owned(), ..RequestSelection::default() };
    let create = CreateRequestRequest {
        namespace: "sample".to_owned(),
        method: method.to_owned(),
        on: Some(on),
        rollout,
        ..CreateRequestRequest::default()
    };
    let id = requests.create_request(create).await.unwrap().into_inner().request.unwrap().id;
    let watch = WatchRequestRequest { id: id.clone(), ..WatchRequestRequest::default() };
    let mut events = requests.watch_request(watch).await.unwrap().into_inner();
    let rests = async {
        while let Some(event) = events.message().await.unwrap() {
            match event.event {
                Some(Event::Summary(_)) => return,
                Some(Event::Request(it)) if it.state() == RequestState::Stopped => return,
                _ => {}
            }
        }
    };
    timeout(SOON, rests).await.expect("the request ends, or stops");
    id
}

/// Requests that have ended, that have stopped, and that are there to be removed.
async fn requests(address: &str) -> Value {
    let mut requests = RequestServiceClient::connect(format!("http://{address}")).await.unwrap();
    let ended = begin(&mut requests, "echo", None).await;
    let mut pairs = [Vec::new(), Vec::new()];
    for _ in 0..2 {
        // Of a method that no agent has.
        let strict =
            Rollout { canary: 1, max_failures: Some("0".to_owned()), ..Rollout::default() };
        pairs[0].push(begin(&mut requests, "dance", Some(strict)).await);
        pairs[1].push(begin(&mut requests, "echo", None).await);
    }
    let [stopped, removed] = pairs;
    json!({"ended": ended, "stopped": stopped, "removed": removed})
}

/// Runs a program to its end and answers what it printed; it must end well.
async fn run(mut command: Command, within: Duration) -> String {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(within, command.output()).await.expect("it ends in time").unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {}\n{text}\n{log}", command.as_std(), output.status);
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_schemathesis_finds_no_answer_outside_the_document() {
    let (process, address) = dev(&["--agents", "3"]).await;
    populate(&address).await;
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told.json");
    let here = clients().join("schemathesis");
    let mut schemathesis = Command::new(venv_program("schemathesis"));
    schemathesis
        .arg("--config-file")
        .arg(here.join("schemathesis.toml"))
        .args(["run", &format!("http://{address}/openapi.json"), "--no-color"])
        .current_dir(folder.path())
        .env("SCHEMATHESIS_TOLD", &told)
        .env("SCHEMATHESIS_REQUESTS", requests(&address).await.to_string())
        .env("PYTHONPATH", &here)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let report = run(schemathesis, TRIED_WITHIN).await;
    println!("{report}");
    let told: Value = serde_json::from_slice(&std::fs::read(told).unwrap()).unwrap();
    println!("{told}");
    assert!(told["answers"].as_u64().unwrap() >= EXAMPLES, "{told}");
    // What is only ever refused is not tried: most of all operations have to succeed.
    assert!(told["succeeded"].as_array().unwrap().len() >= SUCCEEDING, "{told}");
    end(process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_works_in_a_browser_and_asks_no_other_host() {
    let (process, address) = dev(&["--agents", "1"]).await;
    let mut browser = Command::new(program("node"));
    browser
        .arg(clients().join("page/docs.mjs"))
        .arg(format!("http://{address}/docs"))
        .env("NODE_MODULES", node_modules())
        .env("CHROMIUM", chromium());
    let shown = run(browser, SHOWN_WITHIN).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert!(shown["operations"].as_u64().unwrap() > 50, "{shown}");
    assert_eq!(shown["status"], "200", "{shown}");
    assert_eq!(shown["agents"], 1, "{shown}");
    assert_eq!(shown["complaints"], json!([]), "{shown}");
    assert_eq!(shown["hosts"], json!([address]), "{shown}");
    end(process).await;
}
