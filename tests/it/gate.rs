//! The gate (contract §4): every status × method class, on a real broker, with a thousand messages
//! held at once. The receiver's own counters and the broker's say how often each was delivered.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use goperation::{AgentStatus, Error, MessageId, Reason, now_millis, v1};
use goperation_bridge::{QueueName, Route, rabbit::CastQueue};
use goperation_harness::{BrokerCounters, Ledger, Processors, RabbitNode, poll_until};
use serde_json::{Value, json};

use crate::fleet::{Fleet, On, SOON, TestAgent, script, to_struct};

/// Messages that are held at once: half for the agent itself, half for an endpoint.
const HELD: usize = 1000;
/// How long the thousand are held, once sent, in the statuses other than SOFTBUSY.
const SHORT_HOLD: Duration = Duration::from_millis(100);
/// How long they are held in SOFTBUSY, where the broker's processor time is measured.
const HOLD: Duration = Duration::from_secs(60);

struct Gate {
    node: RabbitNode,
    fleet: Fleet,
    agent: TestAgent,
    /// A line per run of the endpoint's method.
    ledger: Ledger,
}

impl Gate {
    async fn start(cast_queue: CastQueue) -> Self {
        let node = RabbitNode::start().await;
        let uri = node.new_vhost().await.uri;
        let fleet = Fleet::start(On::At { uri, cast_queue }).await;
        let ledger = Ledger::create();
        let note = script(
            fleet.path(),
            "note",
            &format!("cat >/dev/null; echo \"$GOP_MESSAGE_ID\" >> {}", ledger.path().display()),
        );
        let toml = format!(
            "deleted_linger = \"10m\"\nmax_in_flight = 4\n\
             [endpoints.tt.methods.note]\nprogram = [{note:?}]\n"
        );
        let agent = fleet.agent("h1", &toml).await;
        Self { node, fleet, agent, ledger }
    }

    async fn set(&self, status: AgentStatus) {
        self.agent.handle.force_status(status, "test").await.unwrap();
    }

    /// CASTs so many messages, half of each class, and answers the ids of the endpoint's.
    async fn cast(&self, count: usize) -> Vec<String> {
        stream::iter(0..count)
            .map(async |i| {
                if i % 2 == 0 {
                    self.cast_one("manager", "free_ports", json!({"ports": [1]})).await;
                    None
                } else {
                    Some(self.cast_one("tt", "note", json!({})).await)
                }
            })
            .buffer_unordered(64)
            .filter_map(async |id| id)
            .collect()
            .await
    }

    /// CASTs one message until it is taken: a broker on a busy machine may confirm late, and to
    /// repeat a message under its id is safe.
    async fn cast_one(&self, namespace: &str, method: &str, args: Value) -> String {
        let request = v1::CastRequest {
            target: Some(self.agent.target(namespace)),
            method: method.to_owned(),
            args: Some(to_struct(args)),
            message_id: MessageId::generate().to_string(),
            ..v1::CastRequest::default()
        };
        poll_until(SOON, "the CAST is taken", async || {
            let Err(status) = self.fleet.bridge().cast(request.clone()).await else { return true };
            let error = Error::from_status(&status);
            let passing = [Reason::OutcomeUnknown, Reason::BrokerUnavailable];
            assert!(passing.contains(&error.reason), "{error}");
            false
        })
        .await;
        request.message_id
    }

    async fn depth(&self, name: QueueName) -> u32 {
        self.fleet.transport.queue(&name).await.unwrap().map_or(0, |queue| queue.depth)
    }

    /// Waits until the agent has given so many messages an outcome, and each endpoint message ran
    /// exactly once.
    async fn all_ran(&self, before: goperation_agent::Counts, count: u64, ids: &[String]) {
        poll_until(Duration::from_secs(120), "all have run", async || {
            self.agent.handle.counts().done - before.done >= count
        })
        .await;
        let counts = self.ledger.counts();
        for id in ids {
            assert_eq!(counts.get(id), Some(&1), "{id} ran not exactly once");
        }
        assert_eq!(self.agent.handle.counts().done - before.done, count);
        assert_eq!(self.depth(QueueName::Cast(self.agent.address())).await, 0);
    }

    async fn counters(&self) -> BrokerCounters {
        self.node.counters().await.unwrap()
    }

    /// ACTIVE runs both classes; UNACTIVE and PERDELETE run the agent's own and refuse the
    /// endpoint's, which the dead letters then have.
    async fn passes(&self, status: AgentStatus, endpoint_runs: bool) {
        self.set(status).await;
        let before = self.agent.handle.counts();
        let dead = self.depth(QueueName::Dead).await;
        let ids = self.cast(40).await;
        if endpoint_runs {
            self.all_ran(before, 40, &ids).await;
        } else {
            self.all_ran(before, 20, &[]).await;
            poll_until(SOON, "the refused are dead letters", async || {
                self.depth(QueueName::Dead).await >= dead + 20
            })
            .await;
            let ran = self.ledger.counts();
            assert!(ids.iter().all(|id| !ran.contains_key(id)), "{status} ran an endpoint method");
            let refused = self.fleet.call(self.agent.target("tt"), "note", json!({}), SOON).await;
            assert_eq!(refused.unwrap_err().reason, Reason::AgentNotActive);
        }
        let after = self.agent.handle.counts();
        assert_eq!(after.resent, before.resent, "{status} sent messages again");
    }

    /// A thousand messages held for a while: none lost, none run twice, at most ten deliveries
    /// each, and all run within one step of the release.
    async fn holds(&self, status: AgentStatus, hold: Duration) {
        self.set(status).await;
        let (before, broker) = (self.agent.handle.counts(), self.counters().await);
        let ids = self.cast(HELD).await;
        let (cast, cpu, processors) = (Instant::now(), self.node.cpu_time(), Processors::now());
        tokio::time::sleep_until((cast + hold).into()).await;
        let spent = (self.node.cpu_time() - cpu).mul_f64(processors.share_that_ran());
        let share = spent.as_secs_f64() / cast.elapsed().as_secs_f64();
        assert_eq!(self.agent.handle.counts().started, before.started, "{status} ran something");

        let released = Instant::now();
        self.set(AgentStatus::Active).await;
        let [.., step] = Route::STEPS;
        poll_until(step + Duration::from_secs(3), "all are back after one step", async || {
            let counts = self.agent.handle.counts();
            counts.deliveries - counts.resent - (before.deliveries - before.resent) >= HELD as u64
        })
        .await;
        let back = released.elapsed();
        self.all_ran(before, HELD as u64, &ids).await;

        let (after, broker_after) = (self.agent.handle.counts(), self.counters().await);
        let deliveries = after.deliveries - before.deliveries;
        println!(
            "{status}: held {hold:?}, deliveries {:.1} a message (broker {}), broker cpu {:.1} %, \
             all back after {back:?}",
            deliveries as f64 / HELD as f64,
            broker_after.delivered - broker.delivered,
            share * 100.0,
        );
        assert!(deliveries <= 10 * HELD as u64, "{status}: {deliveries} deliveries");
        assert_eq!(broker_after.redelivered, broker.redelivered, "{status}: redelivered");
        assert_eq!(broker_after.dropped, broker.dropped, "{status}: dropped");
        if hold >= HOLD {
            assert!(share < 0.05, "{status}: the broker used {:.1} % of a core", share * 100.0);
        }
        self.calls_are_answered_busy(status).await;
    }

    /// A CALL of an agent that holds is answered AGENT_BUSY when its wait ends.
    async fn calls_are_answered_busy(&self, status: AgentStatus) {
        self.set(status).await;
        for namespace in ["manager", "tt"] {
            let method = if namespace == "tt" { "note" } else { "status_agent" };
            let wait = Duration::from_secs(3);
            let busy = self.fleet.call(self.agent.target(namespace), method, json!({}), wait).await;
            let error = busy.unwrap_err();
            assert_eq!(error.reason, Reason::AgentBusy, "{status} {namespace}: {error}");
            assert!(error.retry_after.is_some());
        }
    }

    /// A message that can finish in 3 s is not delayed by one that was held for long.
    async fn short_ones_overtake(&self) {
        self.set(AgentStatus::SoftBusy).await;
        let long = self.fleet.cast(self.agent.target("tt"), "note", json!({}), None).await.unwrap();
        tokio::time::sleep(Duration::from_secs(8)).await;
        let finish = now_millis() + 3000;
        let short = self
            .fleet
            .cast(self.agent.target("tt"), "note", json!({}), Some(finish))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.set(AgentStatus::Active).await;
        poll_until(Duration::from_secs(3), "the short one runs in its time", async || {
            self.ledger.counts().contains_key(&short)
        })
        .await;
        poll_until(Duration::from_secs(60), "the long one runs", async || {
            self.ledger.counts().contains_key(&long)
        })
        .await;
        // The ledger has them a moment before their outcomes count.
        poll_until(SOON, "both have ended", async || {
            let counts = self.agent.handle.counts();
            counts.started == counts.done
        })
        .await;
    }
}

async fn all_combinations(cast_queue: CastQueue) {
    let gate = Gate::start(cast_queue).await;
    gate.passes(AgentStatus::Active, true).await;
    gate.passes(AgentStatus::Unactive, false).await;
    gate.passes(AgentStatus::PerDelete, false).await;
    gate.short_ones_overtake().await;
    for status in [AgentStatus::Initializing, AgentStatus::HardBusy, AgentStatus::Deleted] {
        gate.holds(status, SHORT_HOLD).await;
    }
    gate.holds(AgentStatus::SoftBusy, HOLD).await;
    gate.set(AgentStatus::Active).await;
    gate.agent.stop().await;
    gate.fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_all_combinations_on_a_classic_queue() {
    all_combinations(CastQueue::Classic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_all_combinations_on_a_quorum_queue() {
    all_combinations(CastQueue::Quorum).await;
}

/// Pausing and resuming as an operator does.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_pauses_and_resumes() {
    let fleet = Fleet::start(On::Embedded).await;
    let agent = fleet.agent("h1", "").await;
    fleet.activate(&agent).await;
    let paused = v1::PauseAgentRequest { id: agent.wire_id() };
    let paused = fleet.agents().pause_agent(paused).await.unwrap().into_inner().agent.unwrap();
    assert_eq!(paused.status, AgentStatus::SoftBusy.number());
    let resume = v1::ResumeAgentRequest { id: agent.wire_id() };
    let resumed = fleet.agents().resume_agent(resume).await.unwrap().into_inner().agent.unwrap();
    assert_eq!(resumed.status, AgentStatus::Active.number());
    agent.stop().await;
    fleet.stop().await;
}
