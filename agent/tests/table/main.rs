//! Every row of the work lock's table (contract §5) through its real operation: a whole agent
//! under a real manager, driven by CALLs through the bridge.
//!
//! What no message can bring about is beside the operations themselves: `src/operations/tests.rs`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../../tests/it/fleet.rs"]
#[expect(dead_code, reason = "shared with the whole-system tests")]
mod fleet;

mod clerk;
mod delete;
mod messages;
mod ports;
mod report;
mod requests;
mod status;
mod token;
mod upgrade;

use std::{path::Path, time::Duration};

use goperation::{AgentStatus, Error, JsonObject, Reason, v1};
use goperation_agent::{Config, Exit};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use self::fleet::{Fleet, SOON, TestAgent, target};

/// For a CALL that is answered at once.
const WAIT: Duration = Duration::from_secs(10);
/// For a CALL that is answered only when its time is over. It is held for half a second and not
/// sent again in the last one, so a second is left for the answer.
const SHORT: Duration = Duration::from_millis(1500);

/// CALLs one of the agent's own methods.
async fn call(
    fleet: &Fleet,
    agent: &TestAgent,
    method: &str,
    args: Value,
) -> Result<JsonObject, Error> {
    fleet.call(agent.target("manager"), method, args, WAIT).await
}

/// As [`call`], for what must be refused.
async fn refused(fleet: &Fleet, agent: &TestAgent, method: &str, args: Value, reason: Reason) {
    let error = call(fleet, agent, method, args.clone()).await.unwrap_err();
    assert_eq!(error.reason, reason, "{method} {args}: {error}");
}

fn status(agent: &TestAgent) -> AgentStatus {
    *agent.handle.watch_status().borrow()
}

async fn becomes(agent: &TestAgent, wanted: AgentStatus) {
    let mut status = agent.handle.watch_status();
    tokio::time::timeout(SOON, status.wait_for(|s| *s == wanted))
        .await
        .unwrap_or_else(|_| panic!("the agent does not become {wanted}"))
        .unwrap();
}

/// An entity of the endpoint `game` through the manager; its number.
async fn create_entity(fleet: &Fleet, agent: &TestAgent) -> i32 {
    let request = v1::CreateEntityRequest {
        endpoint: "game".to_owned(),
        agent_id: agent.wire_id(),
        ..v1::CreateEntityRequest::default()
    };
    let answer = fleet.entities().create_entity(request).await.unwrap().into_inner();
    answer.entity.unwrap().number
}

/// Starts an agent that is not expected to live: how it ends.
async fn end_of(fleet: &Fleet, host: &str, toml: &str) -> Exit {
    let work_dir = fleet.path().join(host);
    let text = format!("work_dir = {work_dir:?}\nhost = {host:?}\naddress = \"127.0.0.1\"\n{toml}");
    let config = Config::from_toml(Path::new("test.toml"), &text).unwrap();
    let parts = fleet.parts(fleet.channel.clone());
    let run = goperation_agent::run(config, parts, CancellationToken::new());
    tokio::time::timeout(SOON, run).await.expect("it ends by itself").unwrap()
}
