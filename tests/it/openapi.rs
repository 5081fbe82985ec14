//! The OpenAPI document of a live `gop dev`: by the property tests of schemathesis, and by its page
//! in a browser.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use goperation::v1::{
    ActivateAgentRequest, Cache, CreateCacheRequest, CreateEntityRequest, PortWish,
    agent_service_client::AgentServiceClient, cache_service_client::CacheServiceClient,
    entity_service_client::EntityServiceClient,
};
use goperation_harness::{chromium, node_modules, program, venv_program};
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use crate::dev::{dev, end};

/// Examples that schemathesis has to try.
const EXAMPLES: u64 = 10_000;
/// Operations that have to succeed at least once, of 57.
const SUCCEEDING: usize = 40;
/// How long it may take for them.
const TRIED_WITHIN: Duration = Duration::from_secs(540);
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
