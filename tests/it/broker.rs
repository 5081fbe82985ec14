//! The broker dies, stays away, or its link goes silent, while CASTs are offered: what was
//! accepted runs once, everything else has its typed answer, and all works again by itself.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use goperation::{Error, JsonObject, Reason, v1};
use goperation_agent::{
    Parts,
    endpoint::{Invocation, Stub},
};
use goperation_bridge::{
    QueueName, Transport,
    rabbit::{CastQueue, Rabbit, RabbitConfig},
};
use goperation_harness::{Ledger, RabbitNode, TcpRelay, poll_for, poll_until};
use serde_json::json;
use tokio::{
    runtime::{self, Runtime},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::{Fleet, On, SOON, TestAgent, connection, everybody, to_struct},
    offer::Offer,
};

/// CASTs offered per second.
const RATE: u32 = 2000;
/// How long they are offered before the fault, and after all works again.
const STEADY: Duration = Duration::from_secs(3);
/// How long a broker that was stopped stays away.
const AWAY: Duration = Duration::from_secs(20);
/// After the broker is back, everything works again within this.
const BACK: Duration = Duration::from_secs(10);
/// The process, with manager, agent and those who offer, grows by at most this.
const GROWTH: u64 = 300 << 20;

/// What happens to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// `kill -9`, and started again at once.
    Killed,
    /// Stopped in order, and away.
    Stopped,
}

/// The runtime of an agent, ended without waiting.
struct Elsewhere(Option<Runtime>);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The method `note`: writes its message's id into the ledger.
#[derive(Debug)]
struct Note(Ledger);

#[async_trait]
impl Stub for Note {
    async fn run(&self, _: u32, _: &str, invocation: Invocation) -> Result<JsonObject, Error> {
        self.0.append(invocation.message_id.as_str());
        Ok(JsonObject::new())
    }
}

/// A manager with its bridge, and an agent with a transport and a runtime of its own.
struct Site {
    fleet: Fleet,
    agent: TestAgent,
    transport: Arc<dyn Transport>,
    /// A line per run of the method `note`.
    ledger: Ledger,
    _elsewhere: Elsewhere,
}

impl Site {
    async fn start(bridge: String, agent: String, cast_queue: CastQueue) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .try_init();
        let fleet = Fleet::start(On::At { uri: bridge, cast_queue }).await;
        let config = RabbitConfig { uri: agent, cast_queue, ..RabbitConfig::default() };
        let runtime =
            runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let elsewhere = Elsewhere(Some(runtime));
        let runtime = elsewhere.0.as_ref().unwrap().handle().clone();
        let address = fleet.address();
        let parts = runtime.spawn(async move {
            Parts {
                transport: Rabbit::connect(config).unwrap(),
                manager: connection(address),
                launcher: Vec::new(),
            }
        });
        let parts = parts.await.unwrap();
        let transport = Arc::clone(&parts.transport);
        let ledger = Ledger::create();
        // No programs: tens of thousands of them cost minutes, and say nothing of the broker.
        let toml = "max_journal = 1000000\n[endpoints.tt.methods.note]\nprogram = [\"true\"]\n";
        let note = Arc::new(Note(ledger.clone()));
        let agent = fleet.stubbed_agent_on("h1", toml, parts, &runtime, note).await;
        fleet.activate(&agent).await;
        Self { fleet, agent, transport, ledger, _elsewhere: elsewhere }
    }

    /// One CALL that only asks for the agent's state: no program has to wait for its turn.
    async fn works(&self) -> bool {
        let wait = Duration::from_secs(2);
        let target = self.agent.target("manager");
        self.fleet.call(target, "status_agent", json!({}), wait).await.is_ok()
    }

    /// The queues of the agent, all of which it must consume.
    async fn all_consumed(&self) -> bool {
        let address = self.agent.address();
        let of_type = address.agent_type.clone();
        for name in [
            QueueName::Call(address.clone()),
            QueueName::Cast(address),
            QueueName::AnyCall(of_type.clone()),
            QueueName::Any(of_type),
        ] {
            match self.fleet.transport.queue(&name).await {
                Ok(Some(queue)) if queue.consumers == 1 => {}
                _ => return false,
            }
        }
        true
    }

    async fn stop(self) {
        self.agent.stop().await;
        self.transport.close().await;
        self.fleet.stop().await;
    }
}

/// The memory of this process, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Follows the memory of this process until it is stopped, and answers the most.
async fn watch_memory(stop: CancellationToken) -> u64 {
    let mut most = resident();
    while stop.run_until_cancelled(sleep(Duration::from_millis(100))).await.is_some() {
        most = most.max(resident());
    }
    most
}

/// Notifies until it is taken, and answers the id.
async fn notify(fleet: &Fleet) -> String {
    let request = v1::NotifyRequest {
        queue: "news".to_owned(),
        payload: Some(to_struct(json!({}))),
        message_id: String::new(),
    };
    poll_for(BACK, "NOTIFY works", async || {
        Some(fleet.bridge().notify(request.clone()).await.ok()?.into_inner().message_id)
    })
    .await
}

async fn under_load(fault: Fault, cast_queue: CastQueue) {
    let node = RabbitNode::start().await;
    let uri = node.new_vhost().await.uri;
    let site = Site::start(uri.clone(), uri, cast_queue).await;
    let fleet = &site.fleet;
    let request = v1::ReceiveRequest {
        queue: "news".to_owned(),
        auto_acknowledge: true,
        ..v1::ReceiveRequest::default()
    };
    let mut news = fleet.bridge().receive(request).await.unwrap().into_inner();
    let sent = notify(fleet).await;
    assert_eq!(news.message().await.unwrap().unwrap().message_id, sent);
    assert!(site.works().await);
    // RabbitMQ 3 answers a declaration before it is on disk.
    node.flush_definitions().await;

    let before = resident();
    let watching = CancellationToken::new();
    let memory = tokio::spawn(watch_memory(watching.clone()));
    let offer = Offer::start(fleet, &site.agent.target("tt"), RATE);
    sleep(STEADY).await;
    match fault {
        Fault::Killed => node.kill().await,
        Fault::Stopped => {
            node.stop().await;
            sleep(AWAY).await;
        }
    }
    // The very first may meet the cut itself, which is an unknown outcome.
    poll_until(SOON, "CALLs are refused", async || {
        let (target, wait) = (site.agent.target("manager"), Duration::from_secs(1));
        let gone = fleet.call(target, "status_agent", json!({}), wait).await.unwrap_err();
        assert!(
            [Reason::BrokerUnavailable, Reason::OutcomeUnknown].contains(&gone.reason),
            "{gone}"
        );
        gone.reason == Reason::BrokerUnavailable
    })
    .await;
    node.start_again().await;

    let back = Instant::now();
    let calls = async {
        poll_until(BACK, "CALL works", async || site.works().await).await;
        back.elapsed()
    };
    let consumed = async {
        poll_until(BACK, "all queues are consumed", async || site.all_consumed().await).await;
        back.elapsed()
    };
    let notified = async {
        let sent = notify(fleet).await;
        loop {
            // One from before the fault, whose acknowledgement was lost, may come again.
            if news.message().await.unwrap().unwrap().message_id == sent {
                break back.elapsed();
            }
        }
    };
    let (calls, consumed, notified) = tokio::join!(calls, consumed, notified);
    let mut also = Vec::new();
    for target in [everybody("tt"), v1::Target { fanout: false, ..everybody("tt") }] {
        also.push(
            poll_for(BACK, "a broadcast and one to any agent are taken", async || {
                fleet.cast(target.clone(), "note", json!({}), None).await.ok()
            })
            .await,
        );
    }
    let again = back.elapsed();
    sleep(STEADY).await;

    let answers = offer.end().await;
    let casts = answers.first_ok_after(back).expect("CASTs are taken again") - back;
    println!(
        "{fault:?}, {cast_queue:?}: after the broker CASTs work in {casts:.1?}, CALLs in \
         {calls:.1?}, NOTIFY in {notified:.1?}, all queues are consumed in {consumed:.1?}"
    );
    answers.check(fleet, &site.agent, &site.ledger, &also).await;
    watching.cancel();
    let growth = memory.await.unwrap().saturating_sub(before);
    println!("memory of the process: {} MiB, and at most {} more", before >> 20, growth >> 20);
    assert!(again.max(casts) <= BACK, "{again:?} {casts:?}");
    assert!(growth < GROWTH, "{growth} bytes more");
    let done = fleet.call(site.agent.target("tt"), "note", json!({}), SOON).await;
    assert!(done.is_ok(), "{done:?}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_killed_broker_under_load_classic() {
    under_load(Fault::Killed, CastQueue::Classic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_broker_away_for_20_s_under_load_classic() {
    under_load(Fault::Stopped, CastQueue::Classic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_broker_away_for_20_s_under_load_quorum() {
    under_load(Fault::Stopped, CastQueue::Quorum).await;
}

/// Who is behind the link that goes silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    Agent,
    Bridge,
}

/// The link forgets its connections and closes none of them.
async fn half_open(behind: Behind) {
    let node = RabbitNode::shared().await;
    let direct = node.new_vhost().await.uri;
    let relay = TcpRelay::start(node.addr()).await;
    let relayed = direct.replace(&node.addr().to_string(), &relay.addr().to_string());
    let (bridge, agent) = match behind {
        Behind::Agent => (direct, relayed),
        Behind::Bridge => (relayed, direct),
    };
    let site = Site::start(bridge, agent, CastQueue::Classic).await;
    let fleet = &site.fleet;
    assert!(site.works().await);

    let limit = 4 * RabbitConfig::default().heartbeat;
    let offer = Offer::start(fleet, &site.agent.target("tt"), 100);
    site.ledger.wait_for(100, SOON).await;
    relay.abandon();
    let since = Instant::now();
    // Sent into the silence, and still answered: the bridge sends it again under its id.
    let patient = async {
        loop {
            let target = site.agent.target("tt");
            match fleet.call_as(target, "note", json!({}), 2 * limit, "patient").await {
                // Known not to be published, or not known: to repeat it is safe.
                Err(error)
                    if matches!(
                        error.reason,
                        Reason::BrokerUnavailable | Reason::OutcomeUnknown
                    ) => {}
                answer => break (answer, since.elapsed()),
            }
        }
    };
    let works = async {
        // Those that are sent while nobody knows of the fault may still go to the old queue.
        poll_until(2 * limit, "CALL works", async || site.works().await).await;
        since.elapsed()
    };
    let ((patient, patience), works) = tokio::join!(patient, works);
    poll_until(limit, "all queues are consumed", async || site.all_consumed().await).await;
    let consumed = since.elapsed();
    println!(
        "{behind:?} behind a half-open link: CALL works after {works:.1?}, a CALL sent meanwhile \
         is answered after {patience:.1?}, all queues are consumed after {consumed:.1?}"
    );
    assert!(patient.is_ok(), "{patient:?}");
    let answers = offer.end().await;
    answers.check(fleet, &site.agent, &site.ledger, &["patient".to_owned()]).await;
    assert!(works <= limit, "{works:?}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_an_agent_behind_a_half_open_link() {
    half_open(Behind::Agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_bridge_behind_a_half_open_link() {
    half_open(Behind::Bridge).await;
}
