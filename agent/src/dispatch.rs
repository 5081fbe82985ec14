//! The loop that takes deliveries through the gate and the journal to their jobs.
//!
//! Invariant: one task decides about every message, so the order of arrival is the order of the
//! journal and of the jobs of each entity. It waits for nothing but room in the store's queue.

mod admit;

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
};

use futures::{FutureExt as _, StreamExt as _, stream::FuturesOrdered};
use goperation::{AgentStatus, Error, Result, v1::ResponseState};
use goperation_bridge::{Ack, Body, Delivery, Message, Subscription};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    agent::Agent,
    answer::entity_of,
    each,
    gate::{self, MethodClass, Verdict},
    job::{Job, Place},
    journal::{Phase, Received},
    methods::Method,
    order::{OrderKey, Orders},
    state::Pause,
};

/// Deliveries whose *received* is on its way to the disk, at most.
const MAX_ARRIVING: usize = 4096;

/// Answers and resends that are on their way, at most.
const MAX_ERRANDS: usize = 8192;

type Arriving = Pin<Box<dyn Future<Output = (Delivery, Result<Received>, Admitted)> + Send>>;

/// What work on several entities has to its end when it is beyond the bound.
type Pass = Option<OwnedSemaphorePermit>;

/// What a message has that is let in.
#[derive(Debug)]
struct Admitted {
    pass: Pass,
    /// It may begin as soon as it is durable.
    at_once: bool,
    /// Its place among those that run, if it may and needs one.
    place: Place,
}

/// What is done in the order of its entity.
#[derive(Debug)]
enum Work {
    Job(Box<Job>, Pass),
    /// The manager's record does not have the entity.
    Remove(OrderKey),
}

/// The dispatcher of one agent.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    agent: Arc<Agent>,
    arrival: u64,
    /// Waiting for the second look of the gate; all wait equally long, so the first is due first.
    held: VecDeque<(Instant, Delivery)>,
    arriving: FuturesOrdered<Arriving>,
    /// Of how many messages that are arriving each entity is.
    arriving_for: HashMap<OrderKey, usize>,
    orders: Orders,
    /// The one pass that there is, and of how many entities he works who has it.
    pass: Arc<Semaphore>,
    beyond: usize,
    /// Work waiting for what is before it on the same entities, by its ticket.
    waiting: HashMap<u64, (Work, Vec<OrderKey>)>,
    tickets: u64,
    jobs: JoinSet<Vec<OrderKey>>,
    /// Answers and resends that are on their way.
    errands: JoinSet<()>,
    /// Whether this dispatcher made the agent SOFTBUSY.
    bounded: bool,
}

impl Dispatcher {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self {
            agent,
            arrival: goperation::now_millis() << 16,
            held: VecDeque::new(),
            arriving: FuturesOrdered::new(),
            arriving_for: HashMap::new(),
            orders: Orders::default(),
            pass: Arc::new(Semaphore::new(1)),
            beyond: 0,
            waiting: HashMap::new(),
            tickets: 0,
            jobs: JoinSet::new(),
            errands: JoinSet::new(),
            bounded: false,
        }
    }

    /// Runs until `stop`; then running jobs get the configured time to end.
    pub(crate) async fn run(
        mut self,
        recovered: Vec<Job>,
        mut subscription: Subscription,
        stop: CancellationToken,
    ) {
        for job in recovered {
            self.agent.waiters.enter(&job.message);
            self.enqueue(job, None);
        }
        let mut status = self.agent.core.watch_status();
        let agent = Arc::clone(&self.agent);
        loop {
            let due = self.held.front().map(|(due, _)| *due);
            let room = self.arriving.len() < MAX_ARRIVING
                && self.errands.len() < MAX_ERRANDS
                && self.held.len() < MAX_ERRANDS;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.jobs.join_next(), if !self.jobs.is_empty() => self.ended(ended),
                Some(_) = self.errands.join_next(), if !self.errands.is_empty() => {}
                Some((delivery, received, admitted)) = self.arriving.next(),
                    if !self.arriving.is_empty() =>
                {
                    self.journaled(delivery, received, admitted);
                }
                Ok(()) = status.changed() => self.look_again(&mut status).await,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.second_look().await;
                }
                keys = agent.removals.next() => for key in keys {
                    self.enqueue_as(Work::Remove(key.clone()), vec![key]);
                },
                delivery = subscription.deliveries.recv(), if room => match delivery {
                    Some(delivery) => self.admit(delivery).await,
                    None => break,
                },
            }
        }
        drop(subscription);
        self.drain().await;
    }

    /// Ends a delivery. Most are ended as soon as that is asked for, and need no task.
    fn acknowledge(&mut self, ack: Box<dyn Ack>) {
        let mut ended = ack.ack();
        if (&mut ended).now_or_never().is_none() {
            self.errands.spawn(ended);
        }
    }

    fn resend(&mut self, delivery: Delivery) {
        let agent = Arc::clone(&self.agent);
        self.errands.spawn(async move { agent.resend(delivery).await });
    }

    fn refuse(&mut self, delivery: Delivery, error: Error) {
        let agent = Arc::clone(&self.agent);
        self.errands.spawn(async move { agent.refuse(delivery, error).await });
    }

    /// *received* is durable, or the message was known.
    fn journaled(&mut self, delivery: Delivery, received: Result<Received>, admitted: Admitted) {
        for key in self.order_keys(&delivery.message) {
            if let Some(count) = self.arriving_for.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.arriving_for.remove(&key);
                }
            }
        }
        let Admitted { pass, at_once, place } = admitted;
        match received {
            Ok(Received::New(entry)) => {
                let Delivery { message, ack, .. } = delivery;
                self.acknowledge(ack);
                self.agent.tell(&message, ResponseState::Accepted, "");
                let shared = entry.is_shared();
                self.enqueue(Job { message, entry: Some(entry), shared, at_once, place }, pass);
            }
            Ok(Received::Known(entry)) => {
                let waiters = self.agent.waiters.leave(&delivery.message.id);
                if entry.phase() == Phase::Done {
                    let agent = Arc::clone(&self.agent);
                    self.errands.spawn(async move {
                        agent.answer_again(delivery, waiters, &entry).await;
                    });
                } else {
                    self.acknowledge(delivery.ack);
                }
            }
            Err(error) => {
                error!(%error, "message was not journaled");
                self.agent.core.failed().cancel();
            }
        }
    }

    /// Which entities a message is about: the jobs of each run one after the other.
    fn order_keys(&self, message: &Message) -> Vec<OrderKey> {
        if self.agent.is_apart(message) {
            return Vec::new();
        }
        match class(message) {
            MethodClass::Endpoint => each::keys(message),
            MethodClass::Manager => reserved_for(message).into_iter().collect(),
        }
    }

    fn enqueue(&mut self, job: Job, pass: Pass) {
        let keys = self.order_keys(&job.message);
        self.enqueue_as(Work::Job(Box::new(job), pass), keys);
    }

    fn enqueue_as(&mut self, mut work: Work, keys: Vec<OrderKey>) {
        self.tickets += 1;
        if self.orders.enter(self.tickets, &keys) {
            self.start(work, keys);
        } else {
            // What it waits for may need the place: a removal that came while it was made durable.
            if let Work::Job(job, _) = &mut work {
                job.place = None;
            }
            self.waiting.insert(self.tickets, (work, keys));
        }
    }

    fn start(&mut self, work: Work, keys: Vec<OrderKey>) {
        let agent = Arc::clone(&self.agent);
        self.jobs.spawn(async move {
            match work {
                Work::Job(job, pass) => {
                    agent.run_job(*job).await;
                    drop(pass);
                }
                Work::Remove(key) => agent.remove(&key).await,
            }
            keys
        });
    }

    fn ended(&mut self, ended: std::result::Result<Vec<OrderKey>, tokio::task::JoinError>) {
        match ended {
            Ok(keys) => {
                for ticket in self.orders.leave(&keys) {
                    if let Some((work, keys)) = self.waiting.remove(&ticket) {
                        self.start(work, keys);
                    }
                }
            }
            // A job that panicked has left its message open: only a new start settles it.
            Err(error) => {
                error!(%error, "a job ended without an answer");
                self.agent.core.failed().cancel();
            }
        }
        // By the status too: a pause that was overtaken by its end is ended here.
        let bounded = self.bounded || self.agent.core.status() == AgentStatus::SoftBusy;
        if bounded && self.agent.is_below_bound() {
            self.bounded = false;
            let agent = Arc::clone(&self.agent);
            self.errands.spawn(async move { drop(agent.core.resume(Pause::Bound).await) });
        }
    }

    fn bound_reached(&mut self) {
        if !self.bounded {
            self.bounded = true;
            let agent = Arc::clone(&self.agent);
            self.errands.spawn(async move {
                drop(agent.core.pause(Pause::Bound).await);
                // All may have ended meanwhile: nothing else would end the pause then.
                if agent.is_below_bound() {
                    drop(agent.core.resume(Pause::Bound).await);
                }
            });
        }
    }

    /// The second look of the gate, for everything that is due: one timer serves all.
    async fn second_look(&mut self) {
        let now = Instant::now();
        while self.held.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, delivery)) = self.held.pop_front() else { break };
            let verdict = gate::after_hold(self.agent.core.status(), class(&delivery.message));
            self.follow(verdict, delivery).await;
        }
    }

    /// A status that holds nothing any more lets everything go at once.
    async fn look_again(&mut self, status: &mut watch::Receiver<AgentStatus>) {
        let status = *status.borrow_and_update();
        if gate::gate(status, MethodClass::Manager) == Verdict::Hold {
            return;
        }
        for (_, delivery) in std::mem::take(&mut self.held) {
            let verdict = verdict(status, &delivery.message);
            self.follow(verdict, delivery).await;
        }
    }

    /// Lets running jobs end, for as long as is configured; what has not ended then is interrupted.
    async fn drain(mut self) {
        self.held.clear();
        let deadline = Instant::now() + self.agent.config.drain;
        // What has its *started* is begun, or has it no more: the next start would take it for
        // interrupted. The others are left to the next start.
        while let Ok(Some((delivery, received, admitted))) =
            timeout_at(deadline, self.arriving.next()).await
        {
            if admitted.at_once {
                self.journaled(delivery, received, admitted);
            }
        }
        for (_, (work, _)) in std::mem::take(&mut self.waiting) {
            if let Work::Job(job, _) = work {
                let agent = Arc::clone(&self.agent);
                self.errands.spawn(async move { agent.not_begun(*job).await });
            }
        }
        while !(self.jobs.is_empty() && self.errands.is_empty()) {
            tokio::select! {
                Some(_) = self.jobs.join_next(), if !self.jobs.is_empty() => {}
                Some(_) = self.errands.join_next(), if !self.errands.is_empty() => {}
                () = sleep_until(deadline) => break,
            }
        }
        self.jobs.shutdown().await;
        self.errands.shutdown().await;
    }
}

/// The gate, with the one message that it lets through SOFTBUSY: the one that ends it.
fn verdict(status: AgentStatus, message: &Message) -> Verdict {
    let class = class(message);
    let resumes = class == MethodClass::Manager && message.method == Method::ResumeAgent.name();
    if status == AgentStatus::SoftBusy && resumes {
        return Verdict::Run;
    }
    gate::gate(status, class)
}

/// The entity whose ports one of the agent's own methods is about.
fn reserved_for(message: &Message) -> Option<OrderKey> {
    let Body::Object(args) = &message.body else { return None };
    let entity = entity_of(args)?;
    Some((args.get("endpoint")?.as_str()?.to_ascii_lowercase(), entity))
}

/// Whose method it is.
fn class(message: &Message) -> MethodClass {
    if message.namespace == goperation::MANAGER_NAMESPACE {
        MethodClass::Manager
    } else {
        MethodClass::Endpoint
    }
}
