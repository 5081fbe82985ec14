//! The task that sends what is in the outbox, until the manager has it.
//!
//! Invariant: an answer leaves the store only when the manager has said something of it: that it
//! took it, that it had one, or that it does not know the request; or when no manager will ever take
//! it, which is said aloud. While the manager is away one is tried at a time, with growing pauses.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use goperation::{
    Error, MessageId, Reason, Result, from_timestamp, now_millis, v1::RespondRequest,
};
use rand::RngExt as _;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    decode,
    queue::{Ended, Work},
    wire_id,
};
use crate::{agent::Agent, life};

/// What is sent at a time, at most.
const PLACES: usize = 4;
/// How long, at the end of the agent, what is there still is tried to be sent.
const FLUSH: Duration = Duration::from_secs(2);
/// How long an answer waits that the manager refuses for a reason of its own.
const REFUSED: Duration = Duration::from_secs(60);
/// How long after its message's end an answer is kept that the manager refuses: as the journal.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// What was tried.
enum Tried {
    /// To send what is told of a message, or its answer.
    Send { id: MessageId, is_answer: bool, sent: Sent },
    /// To remove what the manager has.
    Forget(Result<()>),
}

/// How the sending of something ended.
enum Sent {
    /// The manager has said something of it.
    Said,
    /// The manager is away.
    Away(Error),
    /// The manager does not want it now; others it may want.
    Refused(Error),
    /// Nobody will ever take it as it is.
    Never(Error),
    /// The store has failed: nothing is known of it any more.
    StoreFailed(Error),
}

/// When it is tried again while the manager is away.
#[derive(Debug, Default)]
struct Pause {
    failures: u32,
    until: Option<Instant>,
}

impl Pause {
    /// How many may be on their way.
    fn places(&self, now: Instant) -> usize {
        match self.until {
            None => PLACES,
            Some(until) if now < until => 0,
            Some(_) => 1,
        }
    }

    fn failed(&mut self, now: Instant) {
        // What was on its way with one that failed fails for the same.
        if self.until.is_none_or(|until| until <= now) {
            self.until = Some(now + life::back_off_step(self.failures));
            self.failures = self.failures.saturating_add(1);
        }
    }

    fn over(&mut self) {
        *self = Self::default();
    }
}

/// Sends until `stop`, and then for a moment what is there still.
pub(crate) async fn send(agent: Arc<Agent>, stop: CancellationToken) {
    let agent = &*agent;
    let mut pause = Pause::default();
    let mut sending = FuturesUnordered::new();
    loop {
        let now = Instant::now();
        let places = pause.places(now);
        while sending.len() < places
            && let Some(work) = agent.outbox.next(now)
        {
            sending.push(try_one(agent, work));
        }
        let due = match pause.until {
            Some(until) if places == 0 => Some(until),
            _ if sending.len() < places => agent.outbox.queue().due(),
            _ => None,
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(tried) = sending.next(), if !sending.is_empty() => {
                if note(agent, &mut pause, tried).is_break() {
                    return;
                }
            }
            () = agent.outbox.new.notified() => {}
            () = sleep_until(due.unwrap_or(now)), if due.is_some() => {}
        }
    }
    let flush = async {
        // What cannot be sent now is sent by the next start.
        while pause.until.is_none() {
            let now = Instant::now();
            while sending.len() < PLACES
                && let Some(work) = agent.outbox.next(now)
            {
                sending.push(try_one(agent, work));
            }
            let Some(tried) = sending.next().await else { break };
            if note(agent, &mut pause, tried).is_break() {
                return;
            }
        }
        let said = agent.outbox.queue().take_said();
        let _ended = note(agent, &mut pause, Tried::Forget(agent.outbox.forget(said).await));
    };
    if timeout(FLUSH, flush).await.is_err() {
        debug!("the outbox is not empty");
    }
}

async fn try_one(agent: &Agent, work: Work) -> Tried {
    match work {
        Work::Tell(id, told) => {
            let sent = match agent.manager.respond(*told).await {
                Ok(_) => Sent::Said,
                Err(error) => judged(error),
            };
            Tried::Send { id, is_answer: false, sent }
        }
        Work::Answer(id, bytes) => {
            let sent = send_answer(agent, &id, bytes).await;
            Tried::Send { id, is_answer: true, sent }
        }
        Work::Forget(said) => Tried::Forget(agent.outbox.forget(said).await),
    }
}

async fn send_answer(agent: &Agent, id: &MessageId, kept: Option<Vec<u8>>) -> Sent {
    let read = match kept {
        Some(bytes) => Ok(Some(bytes)),
        None => agent.outbox.read(id).await,
    };
    let bytes = match read {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Sent::Said,
        Err(error) => return Sent::StoreFailed(error),
    };
    match decode(&bytes) {
        Ok(answer) if answer.agent_id != wire_id(agent.manager.agent_id()) => {
            let former = answer.agent_id;
            info!(message_id = %id, agent = former, "an answer of a former identity is dropped");
        }
        Ok(answer) => {
            let old = is_old(&answer, now_millis());
            match agent.manager.respond(answer).await.map_err(judged) {
                Ok(taken) => debug!(message_id = %id, taken, "the manager has the answer"),
                Err(Sent::Said) => debug!(message_id = %id, "nobody asks for the answer any more"),
                Err(Sent::Never(error)) => dropped(id, &error),
                Err(Sent::Refused(error)) if old => dropped(id, &error),
                Err(other) => return other,
            }
        }
        Err(error) => dropped(id, &error),
    }
    agent.outbox.queue().said(id.clone(), bytes, Instant::now());
    Sent::Said
}

fn dropped(id: &MessageId, error: &Error) {
    error!(message_id = %id, %error, "an answer to a request is dropped: nobody will ever take it");
}

/// Whether the journal, too, would no longer know of it.
fn is_old(answer: &RespondRequest, now: u64) -> bool {
    let keep = u64::try_from(KEEP.as_millis()).unwrap_or(u64::MAX);
    let end = answer.end_time.as_ref().map(from_timestamp);
    end.is_some_and(|end| end.saturating_add(keep) <= now)
}

/// What an error of the manager means for what was sent.
fn judged(error: Error) -> Sent {
    match error.reason {
        Reason::RequestNotFound => Sent::Said,
        Reason::InvalidArgument | Reason::TooLarge => Sent::Never(error),
        Reason::AgentNotFound
        | Reason::StateRefused
        | Reason::PermissionDenied
        | Reason::Unauthenticated => Sent::Refused(error),
        _ => Sent::Away(error),
    }
}

/// Breaks when the store has failed: all that waits would fail alike.
fn note(agent: &Agent, pause: &mut Pause, tried: Tried) -> ControlFlow<()> {
    let now = Instant::now();
    let (id, is_answer, sent) = match tried {
        Tried::Send { id, is_answer, sent } => (id, is_answer, sent),
        Tried::Forget(Ok(())) => return ControlFlow::Continue(()),
        Tried::Forget(Err(error)) => return store_failed(agent, &error),
    };
    let ended = match sent {
        Sent::Said => {
            pause.over();
            Ended::Done
        }
        Sent::Away(error) => {
            if pause.until.is_none() {
                warn!(%error, "the manager cannot be told of requests, trying on");
            }
            pause.failed(now);
            if is_answer { Ended::Again } else { Ended::Done }
        }
        Sent::Refused(error) => {
            warn!(message_id = %id, %error, "the manager does not take what is said of a request");
            pause.over();
            let wait = REFUSED.mul_f64(rand::rng().random_range(0.5..1.0));
            if is_answer { Ended::Later(now + wait) } else { Ended::Done }
        }
        // Of an answer: it is dropped by now.
        Sent::Never(error) => {
            warn!(message_id = %id, %error, "the manager does not take what is said of a request");
            pause.over();
            Ended::Done
        }
        Sent::StoreFailed(error) => return store_failed(agent, &error),
    };
    agent.outbox.queue().ended(id, ended, now);
    ControlFlow::Continue(())
}

fn store_failed(agent: &Agent, error: &Error) -> ControlFlow<()> {
    error!(%error, "the outbox cannot be read or written");
    agent.core.failed().cancel();
    ControlFlow::Break(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_tried_at_a_time_while_the_manager_is_away() {
        let mut pause = Pause::default();
        let mut now = Instant::now();
        assert_eq!(pause.places(now), PLACES);
        let mut longest = Duration::ZERO;
        for _ in 0..50 {
            pause.failed(now);
            let until = pause.until.unwrap();
            pause.failed(now);
            assert_eq!(pause.until, Some(until), "others of the same time change nothing");
            assert_eq!(pause.places(now), 0);
            longest = longest.max(until - now);
            now = until;
            assert_eq!(pause.places(now), 1);
        }
        assert!(
            (Duration::from_secs(1)..=Duration::from_secs(2)).contains(&longest),
            "{longest:?}"
        );
        pause.over();
        assert_eq!(pause.places(now), PLACES);
    }

    #[test]
    fn what_the_manager_refuses_is_kept_for_a_day_and_what_it_never_takes_is_not() {
        let now = now_millis();
        let ended = |at| RespondRequest {
            end_time: Some(goperation::to_timestamp(at)),
            ..RespondRequest::default()
        };
        let day = 24 * 3600 * 1000;
        assert!(is_old(&ended(now - day), now));
        assert!(!is_old(&ended(now - day + 1000), now));
        assert!(!is_old(&RespondRequest::default(), now), "nobody knows its end");
        for (reason, kept) in [
            (Reason::RequestNotFound, false),
            (Reason::InvalidArgument, false),
            (Reason::TooLarge, false),
            (Reason::AgentNotFound, true),
            (Reason::PermissionDenied, true),
            (Reason::Internal, true),
        ] {
            let sent = judged(Error::new(reason, "as the test says"));
            assert_eq!(matches!(sent, Sent::Refused(_) | Sent::Away(_)), kept, "{reason}");
        }
    }
}
