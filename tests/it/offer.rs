//! CASTs offered at a steady rate, whatever becomes of them, and what was answered to each; and
//! the outside ledger that says what really ran.
//!
//! Invariant: the rate is that of the clock. A slow answer delays no other CAST. Those who offer
//! have a thread of their own, as if they were elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use goperation::{
    Error, Reason,
    v1::{self, bridge_service_client::BridgeServiceClient},
};
use goperation_bridge::QueueName;
use goperation_harness::Ledger;
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::fleet::{Fleet, TestAgent, connection};

/// Connections over which they come.
const CALLERS: usize = 8;
/// How many a connection carries at a time: HTTP/2 as the manager speaks it lets no more through.
/// Those beyond it wait where they are offered, and cost nothing here.
const AT_ONCE: usize = 200;
/// How often the clock is asked how many are due.
const TICK: Duration = Duration::from_millis(5);
/// How long all that was accepted may take to run.
const DRAIN: Duration = Duration::from_secs(300);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(100);

/// CASTs that are being offered.
pub(crate) struct Offer {
    stop: CancellationToken,
    thread: thread::JoinHandle<Answers>,
}

/// What was answered.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// How many were offered, over which time.
    pub(crate) offered: usize,
    pub(crate) took: Duration,
    /// Ids that were answered OK, and when.
    pub(crate) ok: Vec<(Instant, String)>,
    /// Ids that were answered OUTCOME_UNKNOWN.
    pub(crate) unknown: Vec<String>,
    /// Ids that were refused, by reason.
    pub(crate) refused: BTreeMap<&'static str, Vec<String>>,
    /// The longest wait for an answer, from when it was due to be sent.
    pub(crate) slowest: Duration,
    /// Most that waited for an answer at a time.
    pub(crate) most_waiting: usize,
}

/// One CAST: its id, when it was answered, how long that took, and the answer.
type Answer = (String, Instant, Duration, Result<(), Error>);

impl Offer {
    /// Begins to offer so many a second of the method `note`.
    pub(crate) fn start(fleet: &Fleet, target: &v1::Target, per_second: u32) -> Self {
        let (address, target) = (fleet.address(), target.clone());
        let stop = CancellationToken::new();
        let ends = stop.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let channels = (0..CALLERS).map(|_| connection(address)).collect();
                offer(channels, target, per_second, ends).await
            })
        });
        Self { stop, thread }
    }

    /// Offers no more and waits for the last answer.
    pub(crate) async fn end(self) -> Answers {
        self.stop.cancel();
        let joined = spawn_blocking(|| self.thread.join()).await.unwrap();
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

async fn offer(
    channels: Vec<Channel>,
    target: v1::Target,
    per_second: u32,
    ends: CancellationToken,
) -> Answers {
    let clients: Vec<_> = channels.into_iter().map(BridgeServiceClient::new).collect();
    let mut answers = Answers::default();
    let mut under_way = JoinSet::new();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let start = Instant::now();
    let mut sent = 0;
    while sent < answers.offered || !under_way.is_empty() || !ends.is_cancelled() {
        if !ends.is_cancelled() {
            answers.took = start.elapsed();
            answers.offered = (answers.took.as_secs_f64() * f64::from(per_second)) as usize;
        }
        while sent < answers.offered && under_way.len() < CALLERS * AT_ONCE {
            let mut client = clients[sent % CALLERS].clone();
            let id = format!("offered-{sent}");
            let due = start + Duration::from_secs(1) * u32::try_from(sent).unwrap() / per_second;
            let request = v1::CastRequest {
                target: Some(target.clone()),
                method: "note".to_owned(),
                message_id: id.clone(),
                ..v1::CastRequest::default()
            };
            under_way.spawn(async move {
                let answer = client.cast(request).await;
                let answer = answer.map(drop).map_err(|s| Error::from_status(&s));
                (id, Instant::now(), due.elapsed(), answer)
            });
            sent += 1;
        }
        answers.most_waiting = answers.most_waiting.max(answers.offered - sent + under_way.len());
        tokio::select! {
            Some(answer) = under_way.join_next() => answers.add(answer.unwrap()),
            _ = tick.tick() => {}
        }
    }
    answers
}

impl Answers {
    fn add(&mut self, (id, at, took, answer): Answer) {
        self.slowest = self.slowest.max(took);
        match answer {
            Ok(()) => self.ok.push((at, id)),
            Err(error) => match error.reason {
                Reason::OutcomeUnknown => {
                    assert_eq!(error.metadata.get("message_id"), Some(&id), "{error}");
                    self.unknown.push(id);
                }
                Reason::BrokerUnavailable | Reason::QueueFull | Reason::RateLimited => {
                    assert!(error.retry_after.is_some(), "no time to retry: {error}");
                    self.refused.entry(error.reason.as_str()).or_default().push(id);
                }
                _ => panic!("{id} was answered {error:?}"),
            },
        }
    }

    /// When the first was accepted after that moment.
    pub(crate) fn first_ok_after(&self, moment: Instant) -> Option<Instant> {
        self.ok.iter().map(|(at, _)| *at).filter(|at| *at > moment).min()
    }

    /// Waits until all has run, and holds the ledger against what was answered; `also` are ids
    /// that were answered OK elsewhere.
    pub(crate) async fn check(
        &self,
        fleet: &Fleet,
        agent: &TestAgent,
        ledger: &Ledger,
        also: &[String],
    ) {
        let answered =
            self.ok.len() + self.unknown.len() + self.refused.values().map(Vec::len).sum::<usize>();
        assert_eq!(answered, self.offered);
        let rate = self.offered as f64 / self.took.as_secs_f64();
        let refused: Vec<_> = self.refused.iter().map(|(why, ids)| (why, ids.len())).collect();
        println!(
            "offered {} in {:.1?} ({rate:.0}/s): {} OK, {} unknown, refused {refused:?}; slowest \
             answer {:.1?}, at most {} waited",
            self.offered,
            self.took,
            self.ok.len(),
            self.unknown.len(),
            self.slowest,
            self.most_waiting,
        );
        let since = Instant::now();
        let ok: BTreeSet<&String> = self.ok.iter().map(|(_, id)| id).chain(also).collect();
        let empty = [QueueName::Cast(agent.address()), QueueName::Any(agent.address().agent_type)];
        // Neither the depth, which leaves out what is on its way, nor the number of runs, which has
        // the unknown in it, says that the accepted have run.
        let all_ran = async || {
            for name in &empty {
                if !matches!(fleet.transport.queue(name).await, Ok(Some(q)) if q.depth == 0) {
                    return false;
                }
            }
            let (counts, runs) = (agent.handle.counts(), ledger.counts());
            counts.started == counts.done && ok.iter().all(|id| runs.contains_key(*id))
        };
        let drained = timeout(DRAIN, async {
            while !all_ran().await {
                sleep(LOOK).await;
            }
        });
        let drained = drained.await.is_ok();
        let runs = ledger.counts();
        let lost: Vec<_> = ok.iter().filter(|id| !runs.contains_key(**id)).collect();
        let twice: Vec<_> = runs.iter().filter(|(_, times)| **times > 1).collect();
        let unasked: Vec<_> =
            self.refused.values().flatten().filter(|id| runs.contains_key(*id)).collect();
        let unknown = self.unknown.iter().filter(|id| runs.contains_key(*id)).count();
        println!(
            "ran {} in all, {unknown} of the unknown; lost {}, ran twice {}, refused but ran {}; \
             drained in {:.1?}; {:?}",
            runs.len(),
            lost.len(),
            twice.len(),
            unasked.len(),
            since.elapsed(),
            agent.handle.counts(),
        );
        assert!(lost.is_empty(), "answered OK and never run: {lost:?}");
        assert!(twice.is_empty(), "run twice: {twice:?}");
        assert!(unasked.is_empty(), "said not to be published, and run: {unasked:?}");
        assert!(drained, "not all had ended after {DRAIN:?}");
    }
}
