//! What becomes of messages when the manager, the broker or the agent goes in the wrong moment.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use goperation::{AgentType, EndpointName};
use goperation_bridge::{
    Address, DeadLetter, Message, PublishError, QueueInfo, QueueName, Route, Source, Subscription,
    Transport, TransportError,
};
use goperation_harness::{Ledger, TcpRelay, poll_until};
use goperation_store::Store as _;
use serde_json::json;
use tokio::runtime;

use super::*;
use crate::fleet::{On, connection, everybody, script};

fn note(fleet: &Fleet, ledger: &Ledger) -> String {
    let body = format!("echo \"$GOP_MESSAGE_ID\" >> {}", ledger.path().display());
    let note = script(fleet.path(), "note", &body);
    format!("drain = \"500ms\"\n[endpoints.game.methods.note]\nprogram = [{note:?}]\n")
}

/// An agent that claimed a message for any one agent, and was stopped before it heard so, still
/// runs it: nobody else may any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_claimed_and_not_begun_is_not_lost() {
    let fleet = Fleet::start(On::Embedded).await;
    let ledger = Ledger::create();
    let toml = note(&fleet, &ledger);
    let relay = TcpRelay::start(fleet.address()).await;
    let relayed = || fleet.parts(connection(relay.addr()));
    let here = runtime::Handle::current();
    let agent = fleet.agent_on("h1", &toml, relayed(), &here).await;
    fleet.activate(&agent).await;

    relay.mute();
    let any = v1::Target { fanout: false, ..everybody("game") };
    let id = fleet.cast(any, "note", json!({}), None).await.unwrap();
    let claim = format!("m/claim/{id}").into_bytes();
    poll_until(SOON, "the claim is recorded", async || {
        fleet.store.get(claim.clone()).await.unwrap().is_some()
    })
    .await;
    assert_eq!(agent.stop().await, Exit::Stopped);
    relay.resume();

    let other = fleet.agent("h2", &toml).await;
    fleet.activate(&other).await;
    let agent = fleet.agent_on("h1", &toml, relayed(), &here).await;
    ledger.wait_for(1, SOON).await;
    // Whoever gets the next one has none before it.
    for host in ["h1", "h2"] {
        fleet.call(target(host, "game"), "note", json!({}), WAIT).await.unwrap();
    }
    assert_eq!(ledger.counts().get(&id), Some(&1));
    other.stop().await;
    agent.stop().await;
    fleet.stop().await;
}

/// A transport that takes no message to be sent again, while it is told so.
#[derive(Debug)]
struct NoRetry {
    behind: Arc<dyn Transport>,
    refuses: AtomicBool,
}

#[async_trait]
impl Transport for NoRetry {
    async fn publish(&self, route: &Route, message: &Message) -> Result<(), PublishError> {
        if matches!(route, Route::RetryCast(..)) && self.refuses.load(Ordering::Relaxed) {
            return Err(PublishError::Unavailable("an alarm".to_owned()));
        }
        self.behind.publish(route, message).await
    }

    async fn ensure_agent(
        &self,
        agent: &Address,
        endpoints: &[EndpointName],
        former: &[EndpointName],
    ) -> Result<(), TransportError> {
        self.behind.ensure_agent(agent, endpoints, former).await
    }

    async fn remove_agent(&self, agent: &Address) -> Result<u32, TransportError> {
        self.behind.remove_agent(agent).await
    }

    async fn ensure_type(&self, agent_type: &AgentType) -> Result<(), TransportError> {
        self.behind.ensure_type(agent_type).await
    }

    async fn subscribe(
        &self,
        source: Source,
        prefetch: u16,
    ) -> Result<Subscription, TransportError> {
        self.behind.subscribe(source, prefetch).await
    }

    async fn queue(&self, name: &QueueName) -> Result<Option<QueueInfo>, TransportError> {
        self.behind.queue(name).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, TransportError> {
        self.behind.dead_letters(limit).await
    }

    async fn close(&self) {
        self.behind.close().await;
    }
}

/// While the broker takes nothing, a message that must be sent again is neither lost nor spun.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_again_does_not_spin() {
    let fleet = Fleet::start(On::Embedded).await;
    let ledger = Ledger::create();
    let toml = note(&fleet, &ledger);
    let refuses = AtomicBool::new(true);
    let transport = Arc::new(NoRetry { behind: Arc::clone(&fleet.transport), refuses });
    let parts = goperation_agent::Parts {
        transport: transport.clone(),
        ..fleet.parts(fleet.channel.clone())
    };
    let agent = fleet.agent_on("h1", &toml, parts, &runtime::Handle::current()).await;
    fleet.activate(&agent).await;
    agent.handle.force_status(AgentStatus::HardBusy, "test").await.unwrap();
    let before = agent.handle.counts().deliveries;
    let id = fleet.cast(agent.target("game"), "note", json!({}), None).await.unwrap();
    // How often it comes in that time is what is looked at; a slow machine takes longer.
    let since = Instant::now();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let deliveries = agent.handle.counts().deliveries - before;
    let seconds = since.elapsed().as_secs();
    assert!((1..=seconds + 1).contains(&deliveries), "{deliveries} deliveries in {seconds} s");

    transport.refuses.store(false, Ordering::Relaxed);
    agent.handle.force_status(AgentStatus::Active, "test").await.unwrap();
    poll_until(SOON, "it runs", async || ledger.counts().contains_key(&id)).await;
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_no_message_can_carry_is_said() {
    let fleet = Fleet::start(On::Embedded).await;
    let ledger = Ledger::create();
    let body = format!(
        "echo ran >> {}; printf '{{\"big\":\"'; head -c 1500000 /dev/zero | tr '\\0' x; printf '\"}}'",
        ledger.path().display(),
    );
    let big = script(fleet.path(), "big", &body);
    let toml = format!("[endpoints.game.methods.big]\nprogram = [{big:?}]\nmax_output = 2000000\n");
    let agent = fleet.agent("h1", &toml).await;
    fleet.activate(&agent).await;
    for _ in 0..2 {
        let call = fleet.call_as(agent.target("game"), "big", json!({}), SOON, "once").await;
        let error = call.unwrap_err();
        assert_eq!(error.reason, Reason::TooLarge, "{error}");
        assert_eq!(error.metadata["message_id"], "once");
    }
    assert_eq!(ledger.lines().len(), 1);
    agent.stop().await;
    fleet.stop().await;
}

/// What was accepted and then could not start in its time is a dead letter, as what came too late.
#[tokio::test(flavor = "multi_thread")]
async fn a_cast_whose_turn_comes_too_late_is_a_dead_letter() {
    let fleet = Fleet::start(On::Embedded).await;
    let ledger = Ledger::create();
    let go = fleet.path().join("go");
    let body = format!("while [ ! -e {go:?} ]; do sleep 0.05; done");
    let wait = script(fleet.path(), "wait", &body);
    let toml = format!(
        "max_in_flight = 1\n{}[endpoints.game.methods.wait]\nprogram = [{wait:?}]\n",
        note(&fleet, &ledger)
    );
    let agent = fleet.agent("h1", &toml).await;
    fleet.activate(&agent).await;
    let target = || agent.target("game");
    let before = agent.handle.counts().started;
    fleet.cast(target(), "wait", json!({}), None).await.unwrap();
    poll_until(SOON, "it runs", async || agent.handle.counts().started > before).await;
    let finish = goperation::now_millis() + 2000;
    let late = fleet.cast(target(), "note", json!({}), Some(finish)).await.unwrap();
    poll_until(SOON, "its time is over", async || goperation::now_millis() > finish).await;
    std::fs::write(&go, "").unwrap();
    poll_until(SOON, "it is a dead letter", async || {
        let letters = fleet.transport.dead_letters(10).await.unwrap();
        letters.iter().any(|l| l.message_id == late && l.reason == "OVER_FINISHTIME")
    })
    .await;
    assert!(ledger.lines().is_empty(), "{:?}", ledger.lines());
    agent.stop().await;
    fleet.stop().await;
}
