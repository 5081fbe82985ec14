//! CALL: a command to one agent whose result is awaited.
//!
//! Invariant: the id never changes, however often it is sent, so its effect happens at most once;
//! an attempt that was delivered and not answered makes the end OUTCOME_UNKNOWN, whatever the
//! other attempts were told.

use std::{collections::BTreeSet, time::Duration};

use goperation::{Error, JsonObject, Reason, json_to_struct, now_millis, to_duration, v1};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::{
    Body, Bridge, Context, Kind, Message, PublishError, QueueName, Route,
    bridge::Inner,
    cast::{check_not_over, finish_time, millis},
    error::{self, Fields},
    reply::Waiting,
    target::{self, Given},
};

/// The first delay after which a busy agent is asked again; it doubles.
const FIRST_BUSY_DELAY: Duration = Duration::from_millis(500);
/// The first delay after which a silent agent is asked again; it doubles.
const FIRST_PROBE_DELAY: Duration = Duration::from_secs(1);
/// No delay before a busy agent is asked grows beyond it.
const MAX_BUSY_DELAY: Duration = Duration::from_secs(8);
/// No delay before a silent agent is asked grows beyond it: a lost queue is found in that time,
/// and so is one that came back over a new connection.
const MAX_PROBE_DELAY: Duration = Duration::from_secs(4);
/// How often a lost queue, or a lost broker, is looked for.
const LOST_DELAY: Duration = Duration::from_millis(250);
/// A busy agent looks again for 0.5 s before it says so. What is sent later than this before the
/// end could not be answered, and so would make a known outcome an unknown one; later than this
/// before the finish time it would only be told that it is too late.
const LAST_BUSY_ATTEMPT: Duration = Duration::from_secs(1);
/// When a repeat may find the agent free.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);

impl Bridge {
    /// Sends a command and waits for its result. Dropped, it leaves nothing behind here.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming every bad field, `FANOUT_CALL`, `AGENT_OFFLINE`,
    /// `QUEUE_NOT_FOUND`, `AGENT_BUSY`, `BROKER_UNAVAILABLE`, `OUTCOME_UNKNOWN`,
    /// `OVER_FINISHTIME`, `RATE_LIMITED`, `TOO_LARGE`, and whatever the agent answers (contract
    /// §3).
    pub async fn call(
        &self,
        request: v1::CallRequest,
        context: &Context,
    ) -> Result<v1::CallResponse, Error> {
        let inner = &self.inner;
        let mut fields = Fields::default();
        let timeout = match request.timeout.as_ref().map(to_duration) {
            None => inner.config.default_call_timeout,
            Some(Some(timeout))
                if !timeout.is_zero() && timeout <= inner.config.max_call_timeout =>
            {
                timeout
            }
            Some(_) => {
                let limit = humantime::format_duration(inner.config.max_call_timeout);
                fields.bad("timeout", format!("must be above 0 and at most {limit}"));
                Duration::ZERO
            }
        };
        let wait = context.wait().map_or(timeout, |wait| wait.min(timeout));
        let end = Instant::now() + wait;
        let finish_time =
            finish_time(&mut fields, &inner.config, request.finish_time.as_ref(), wait);
        let fanout = request.target.as_ref().is_some_and(|target| target.fanout);
        if fanout {
            fields.bad("target.fanout", "must not be set: a CALL goes to one agent; use CAST");
        }
        let given = Given {
            target: request.target.as_ref(),
            method: &request.method,
            args: request.args.as_ref(),
            agents: "",
            message_id: &request.message_id,
        };
        let command = match target::command(fields, &given) {
            Err(error) if fanout => return Err(Error { reason: Reason::FanoutCall, ..error }),
            command => command?,
        };
        tracing::Span::current().record("message_id", command.id.as_str());
        check_not_over(finish_time, &command.id)?;
        let (route, known) = command
            .target
            .call_route()
            .ok_or_else(|| Error::new(Reason::FanoutCall, "a CALL goes to one agent; use CAST"))?;
        let waiting = inner.calls.register()?;
        inner.replies_arrive(end).await?;
        let message = Message {
            kind: Kind::Call,
            id: command.id,
            namespace: command.target.namespace(),
            method: command.method.to_string(),
            agents: None,
            agent_type: None,
            finish_time: Some(finish_time),
            deadline: Some(now_millis().saturating_add(millis(wait))),
            attempt: 0,
            reply_to: Some(inner.name.clone()),
            correlation: None,
            request: None,
            traceparent: Some(context.traceparent_or_new()),
            sent: now_millis(),
            body: Body::Object(command.args),
        };
        let message_id = message.id.to_string();
        let target = command.target.describe();
        let call = Call::new(inner, waiting, message, route, known, target, end);
        let result = call.run().await.map_err(|error| error.with_message_id(&message_id))?;
        let result = json_to_struct("result", &result)
            .map_err(|error| error.with_message_id(&message_id))?;
        Ok(v1::CallResponse { message_id, result: Some(result) })
    }
}

impl Inner {
    /// Waits a little until replies can arrive.
    async fn replies_arrive(&self, end: Instant) -> Result<(), Error> {
        let mut replies = self.replies.clone();
        let wait = self.config.reply_queue_wait.min(end.saturating_duration_since(Instant::now()));
        match timeout(wait, replies.wait_for(|arrive| *arrive)).await {
            Ok(Ok(_)) => Ok(()),
            _ if self.stop.is_cancelled() => Err(error::stopping()),
            _ => Err(error::broker_unavailable("the reply queue of the bridge is not there")),
        }
    }
}

/// One CALL that waits.
struct Call<'a> {
    bridge: &'a Inner,
    waiting: Waiting,
    message: Message,
    route: Route,
    /// Exists while the target is known.
    known: QueueName,
    target: String,
    end: Instant,
    /// When the agent may begin with it at the latest.
    finish: Instant,
    /// Attempts that were, or may have been, delivered and are not answered.
    open: BTreeSet<u32>,
    /// Whether any attempt was, or may have been, delivered.
    delivered: bool,
    attempts: u32,
    next_attempt: Instant,
    busy_delay: Duration,
    probe_delay: Duration,
    /// What the last attempt that failed for certain was told.
    last: Option<Error>,
}

impl<'a> Call<'a> {
    fn new(
        bridge: &'a Inner,
        waiting: Waiting,
        message: Message,
        route: Route,
        known: QueueName,
        target: String,
        end: Instant,
    ) -> Self {
        let left = message.finish_time.map_or(u64::MAX, |at| at.saturating_sub(now_millis()));
        let finish = Instant::now().checked_add(Duration::from_millis(left)).unwrap_or(end);
        Self {
            bridge,
            waiting,
            message,
            route,
            known,
            target,
            end,
            finish,
            open: BTreeSet::new(),
            delivered: false,
            attempts: 0,
            next_attempt: Instant::now(),
            busy_delay: FIRST_BUSY_DELAY,
            probe_delay: FIRST_PROBE_DELAY,
            last: None,
        }
    }

    async fn run(mut self) -> Result<JsonObject, Error> {
        // Not by the clock: even a timer that is due waits for the next millisecond.
        self.send().await?;
        loop {
            let next = self.next_attempt.min(self.end);
            tokio::select! {
                biased;
                Some((attempt, reply)) = self.waiting.replies.recv() => match reply {
                    Err(error) if error.reason == Reason::AgentBusy => self.busy(attempt, error)?,
                    reply => return reply,
                },
                () = self.bridge.stop.cancelled() => {
                    return Err(self.ended("the bridge is stopping"));
                }
                () = sleep_until(next) => {
                    if next == self.end {
                        return Err(self.ended("no reply came in time"));
                    }
                    self.send().await?;
                }
            }
        }
    }

    /// Sends it, again or for the first time.
    async fn send(&mut self) -> Result<(), Error> {
        let attempt = self.attempts;
        self.attempts += 1;
        self.message.correlation = Some(self.waiting.correlation(attempt));
        let publish = self.bridge.transport.publish(&self.route, &self.message);
        let result = timeout_at(self.end, publish)
            .await
            .unwrap_or_else(|_| Err(PublishError::Unknown("no time was left".to_owned())));
        match result {
            Ok(()) | Err(PublishError::Unknown(_)) => {
                self.open.insert(attempt);
                self.delivered = true;
                let probe = Instant::now() + self.probe_delay;
                // Later it could not be answered: an agent that is busy would be taken for silent.
                let in_time = probe + LAST_BUSY_ATTEMPT <= self.end;
                self.next_attempt = if in_time { probe } else { self.end };
                self.probe_delay = (self.probe_delay * 2).min(MAX_PROBE_DELAY);
            }
            Err(PublishError::NoQueue) if !self.delivered => return Err(self.no_queue().await),
            Err(failed) if !self.delivered => {
                return Err(error::publish(failed, &self.message.id, &self.target));
            }
            Err(failed) => {
                self.last = Some(match failed {
                    PublishError::NoQueue => self.offline(),
                    other => error::publish(other, &self.message.id, &self.target),
                });
                self.next_attempt = Instant::now() + LOST_DELAY;
            }
        }
        Ok(())
    }

    /// Why nothing takes it: the agent is not there, or nobody knows it.
    async fn no_queue(&self) -> Error {
        match timeout_at(self.end, self.bridge.transport.queue(&self.known)).await {
            Ok(Ok(Some(_))) => self.offline(),
            Ok(Ok(None)) => error::queue_not_found(&self.target),
            Ok(Err(error)) => error.into(),
            Err(_) => error::broker_unavailable("no time was left"),
        }
    }

    fn offline(&self) -> Error {
        Error::new(Reason::AgentOffline, format!("{} is known, but not there", self.target))
            .with("target", &self.target)
    }

    /// An attempt was refused because the agent is busy: it did not run.
    fn busy(&mut self, attempt: u32, error: Error) -> Result<(), Error> {
        self.open.remove(&attempt);
        self.message.attempt += 1;
        self.last = Some(error.with_retry_after(BUSY_RETRY_AFTER));
        if !self.open.is_empty() {
            return Ok(());
        }
        let end = self.end.min(self.finish);
        let (now, latest) = (Instant::now(), end.checked_sub(LAST_BUSY_ATTEMPT));
        let Some(latest) = latest.filter(|&latest| now < latest) else {
            return Err(self.ended("the agent is busy"));
        };
        let delay = self.busy_delay.mul_f64(rand::random_range(0.75..1.25));
        self.busy_delay = (self.busy_delay * 2).min(MAX_BUSY_DELAY);
        self.probe_delay = FIRST_PROBE_DELAY;
        self.next_attempt = (now + delay).min(latest);
        Ok(())
    }

    /// What is known when nothing is awaited any more.
    fn ended(&mut self, why: &str) -> Error {
        match self.last.take() {
            Some(last) if self.open.is_empty() => last,
            _ if !self.delivered => {
                error::broker_unavailable(&format!("{why}, and nothing was published"))
            }
            _ => error::unknown(&self.message.id, why),
        }
    }
}
