//! One accepted message: started, run, done, answered.
//!
//! Invariant: the method runs between a durable *started* and a durable *done*; what read-only
//! methods do needs neither. A message whose turn comes too late is not started, and one that
//! waits for its turn is not started yet.

use std::sync::Arc;

use goperation::{
    AgentStatus, Error, MANAGER_NAMESPACE, MessageId, Reason, Result, v1::ResponseState,
};
use goperation_bridge::{Body, Kind, Message};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Duration, sleep},
};
use tracing::{Instrument as _, debug, error, info_span, warn};

use crate::{
    agent::Agent,
    answer::{busy_until_finish, entity_of, over_finish_time},
    endpoint::kill_orphans_of,
    journal::{Entry, Outcome, Phase},
    methods,
    process::KILL,
    upgrade::is_upgrade,
    waiters::Waiter,
};

/// How long until a claim that failed is tried again.
const CLAIM_RETRY: Duration = Duration::from_secs(1);

/// An accepted message.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) message: Message,
    /// Its journal entry; read-only methods have none.
    pub(crate) entry: Option<Box<Entry>>,
    /// Whether any one agent of the type may run it: then it must be claimed first.
    pub(crate) shared: bool,
    /// Its *started* was made durable with its *received*, in this life of the agent.
    pub(crate) at_once: bool,
    /// Its place, if it has that already.
    pub(crate) place: Place,
}

/// A place among those that run.
pub(crate) type Place = Option<OwnedSemaphorePermit>;

/// How a run ended.
pub(crate) enum Ended {
    /// With its outcome.
    Outcome(Outcome),
    /// The outcome comes after the restart that the method asked for.
    AfterRestart,
}

/// Whether a job may start.
enum Start {
    Now,
    /// It ends with this instead.
    Never(Error),
    /// The agent is stopping: the journal has it for the next start.
    NextTime,
}

impl Agent {
    /// Runs one job to its answer, when there is a place for it. Until then the job is all that is
    /// kept of it, and it is not started: a crash then costs it nothing.
    pub(crate) async fn run_job(&self, mut job: Job) {
        if job.shared && !self.is_ours(&job).await {
            self.waiters.leave(&job.message.id);
            return;
        }
        if job.place.is_none() && self.needs_place(&job.message) {
            job.place = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return self.not_begun(job).await,
                place = Arc::clone(&self.running).acquire_owned() => place.ok(),
            };
        }
        Box::pin(self.run_placed(job)).await;
    }

    /// Whether a message is run only when there is a place for it.
    pub(crate) fn needs_place(&self, message: &Message) -> bool {
        message.namespace != MANAGER_NAMESPACE && !self.is_apart(message)
    }

    /// Leaves a job to the next start of the agent, also one that was let in to begin at once.
    pub(crate) async fn not_begun(&self, job: Job) {
        let Job { message, entry, at_once, .. } = job;
        if at_once
            && let Some(mut entry) = entry
            && let Err(error) = self.journal.not_started(&message.id, &mut entry).await
        {
            error!(%error, "that a message was not started was not journaled");
        }
        self.waiters.leave(&message.id);
    }

    /// A message for any one agent of the type runs here only if this agent claims it. It is in the
    /// journal before that, so that what is claimed is not lost when this agent dies: its next
    /// start claims it once more. While the manager is away nobody can claim, and it waits here.
    async fn is_ours(&self, job: &Job) -> bool {
        let id = &job.message.id;
        loop {
            let claim = self.manager.claim(&job.message);
            match self.stopping.run_until_cancelled(claim).await {
                Some(Ok(true)) => return true,
                Some(Ok(false)) => break,
                Some(Err(error)) => warn!(message_id = %id, %error, "claim failed"),
                None => return false,
            }
            // Whether it may still be started is judged as for every other.
            if over_finish_time(&job.message, self.core.manager_now()).is_some() {
                return true;
            }
            if self.stopping.run_until_cancelled(sleep(CLAIM_RETRY)).await.is_none() {
                return false;
            }
        }
        if let Some(entry) = &job.entry
            && let Err(error) = self.journal.forget(id, entry).await
        {
            error!(%error, "a message of another agent was not forgotten");
            self.core.failed().cancel();
        }
        false
    }

    async fn run_placed(&self, job: Job) {
        let message = &job.message;
        let entity = match &message.body {
            Body::Object(args) => entity_of(args),
            Body::Failure(_) => None,
        };
        let span = info_span!(
            "run",
            agent = self.manager.agent_id(),
            endpoint = %message.namespace,
            entity,
            method = %message.method,
            message_id = %message.id,
            traceparent = message.traceparent.as_deref(),
        );
        self.run_in_span(job).instrument(span).await;
    }

    async fn run_in_span(&self, job: Job) {
        let start = match self.wait_for_start(&job.message).await {
            Start::Now => Ok(()),
            Start::Never(error) => Err(error),
            Start::NextTime => return self.not_begun(job).await,
        };
        // The place is kept until it is answered.
        let Job { message, mut entry, at_once, place: _place, .. } = job;
        let outcome = match start {
            // A former life of the agent has begun it: that it was not started would be untrue.
            Err(error)
                if !at_once
                    && entry.as_ref().is_some_and(|entry| entry.phase() == Phase::Started) =>
            {
                Err(interrupted_for_good(&message, &error))
            }
            Err(error) => {
                if let Some(entry) = &mut entry {
                    entry.refuse();
                }
                // Nobody waits for a CAST: the dead letters say why it was not started.
                if message.kind != Kind::Call && message.request.is_none() {
                    self.bury(&message, error.reason).await;
                }
                Err(error)
            }
            Ok(()) => match self.run_started(&message, &mut entry, at_once).await {
                Ended::Outcome(outcome) => outcome,
                Ended::AfterRestart => return,
            },
        };
        if let Some(entry) = &mut entry
            && let Err(error) = self.end_job(&message, entry, &outcome).await
        {
            error!(%error, "outcome was not journaled");
            self.core.failed().cancel();
            return;
        }
        self.counters.done();
        match &outcome {
            Ok(_) => debug!("done"),
            Err(error) => debug!(reason = %error.reason, %error, "failed"),
        }
        let waiters = self.waiters.leave(&message.id);
        self.reply(&message, waiters, &outcome).await;
    }

    async fn run_started(
        &self,
        message: &Message,
        entry: &mut Option<Box<Entry>>,
        at_once: bool,
    ) -> Ended {
        let Body::Object(args) = &message.body else {
            return Ended::Outcome(Err(Error::invalid("args", "must be an object")));
        };
        if !at_once
            && let Some(entry) = entry
            && let Err(error) = self.journal.started(&message.id, entry).await
        {
            self.core.failed().cancel();
            return Ended::Outcome(Err(error));
        }
        self.counters.started();
        self.tell(message, ResponseState::Running, "");
        if message.namespace == MANAGER_NAMESPACE {
            return self.run_manager_method(message, args).await;
        }
        Ended::Outcome(self.run_in_endpoint(message, args).await)
    }

    /// Makes the outcome of a message durable, and its answer if it is of a request.
    async fn end_job(&self, message: &Message, entry: &mut Entry, outcome: &Outcome) -> Result<()> {
        let done = self.journal.done(&message.id, entry, outcome, self.manager.agent_id());
        if let Some(answer) = done.await? {
            self.outbox.answered(&message.id, Some(answer));
        }
        Ok(())
    }

    /// Waits until the status lets the method start: it may have changed since the gate.
    async fn wait_for_start(&self, message: &Message) -> Start {
        let mut status = self.core.watch_status();
        let mut held = false;
        loop {
            if let Some(late) = over_finish_time(message, self.core.manager_now()) {
                let now = self.core.status();
                let busy = held && is_busy(now);
                return Start::Never(if busy { busy_until_finish(message, now) } else { late });
            }
            if message.namespace == MANAGER_NAMESPACE {
                return Start::Now;
            }
            match self.core.is_active().await {
                Ok(()) => return Start::Now,
                Err(refused) if refused.reason != Reason::AgentNotActive => {
                    return Start::Never(refused);
                }
                Err(refused) if !is_busy(self.core.status()) => return Start::Never(refused),
                Err(_) => held = true,
            }
            let left = message.finish_time.map_or(Duration::MAX, |finish| {
                Duration::from_millis(finish.saturating_sub(self.core.manager_now()))
            });
            tokio::select! {
                () = self.stopping.cancelled() => return Start::NextTime,
                Ok(()) = status.changed() => {}
                () = sleep(left) => {}
            }
        }
    }

    /// Jobs that the last run of this agent left open. What was started and cannot be run again
    /// ends as INTERRUPTED.
    ///
    /// # Errors
    /// When the journal cannot be read or written.
    pub(crate) async fn recover_jobs(&self) -> Result<Vec<Job>> {
        let mut open = Vec::new();
        for (id, entry) in self.journal.open().await? {
            let message = entry.message(id)?;
            // Answered later: see `answer_upgrades`.
            if entry.phase() != Phase::Started || !is_upgrade(&message) {
                open.push((message, Box::new(entry)));
            }
        }
        let started = open.iter().filter(|(_, entry)| entry.phase() == Phase::Started);
        let started: Vec<_> = started.map(|(message, _)| message.id.clone()).collect();
        self.kill_orphans_of(&started).await;
        let mut jobs = Vec::new();
        for (message, mut entry) in open {
            if entry.phase() == Phase::Started
                && let Some(outcome) = self.settle_interrupted(&message).await?
            {
                self.end_job(&message, &mut entry, &outcome).await?;
                let waiters = Waiter::of(&message).into_iter().collect();
                self.reply(&message, waiters, &outcome).await;
                continue;
            }
            let shared = entry.is_shared();
            jobs.push(Job { message, entry: Some(entry), shared, at_once: false, place: None });
        }
        Ok(jobs)
    }

    /// Kills what a former life of this agent started for these messages and left running.
    pub(crate) async fn kill_orphans_of(&self, messages: &[MessageId]) {
        // Emulated agents start no programs, and a thousand of them would look through all
        // processes of the host a thousand times.
        if self.endpoints.stub().is_none() {
            kill_orphans_of(&self.config.data_dir, messages).await;
        }
    }

    /// The outcome of a method that was started and not done; none when it may run again.
    async fn settle_interrupted(&self, message: &Message) -> Result<Option<Outcome>> {
        let idempotent = if message.namespace == MANAGER_NAMESPACE {
            methods::Method::parse(&message.method).is_ok_and(methods::Method::is_idempotent)
        } else {
            self.endpoints.is_idempotent(&message.namespace, &message.method)
        };
        // Now, while it is before all that came after it: later it waits for nothing.
        if idempotent
            && message.method == KILL
            && let Body::Object(args) = &message.body
        {
            return Ok(Some(self.run_in_endpoint(message, args).await));
        }
        if idempotent {
            return Ok(None);
        }
        self.settle_entity(message).await?;
        Ok(Some(Err(interrupted(message))))
    }
}

/// That a method was started and its agent died.
pub(crate) fn interrupted(message: &Message) -> Error {
    Error::new(
        Reason::Interrupted,
        format!(
            "{} was started and the agent died before it ended; it is not idempotent, so it was \
             not run again: look at what it left",
            message.method
        ),
    )
    .with_message_id(&message.id)
}

/// That a method was started, its agent died, and it may not be run again any more.
fn interrupted_for_good(message: &Message, why: &Error) -> Error {
    Error::new(
        Reason::Interrupted,
        format!(
            "{} was started and the agent died before it ended; it was not run again: {}; look at \
             what it left",
            message.method, why.message
        ),
    )
    .with_message_id(&message.id)
}

/// Whether what waits will be let go by itself.
pub(crate) fn is_busy(status: AgentStatus) -> bool {
    matches!(status, AgentStatus::SoftBusy | AgentStatus::Initializing | AgentStatus::HardBusy)
}
