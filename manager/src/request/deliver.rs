//! Delivery: the method of a request on its way to a set of agents, by one broadcast or by single
//! CASTs, whichever is cheaper.
//!
//! Invariant: every message has the id of the request, so an agent that gets it twice runs it
//! once; and each agent is told of: the broker has it, has it not, or may have it. "Has it not" is
//! said only of what is known not to have been published to that agent by this delivery.

use std::{collections::HashSet, future::Future, sync::OnceLock, time::Duration};

use futures::{StreamExt as _, stream};
use goperation::{
    Error, JsonObject, MANAGER_NAMESPACE, Ranges, Reason, Result, json_to_struct, now_millis,
    to_timestamp,
    v1::{CastRequest, Target},
};
use prost_types::Struct;
use tokio::time::Instant;

use crate::{
    app::App,
    bridge_link::{To, everyone},
    db::Db,
    keys,
};

/// So few agents are never broadcast to.
const FEW: usize = 8;
/// Single CASTs at a time.
const AT_A_TIME: usize = 64;
/// A broadcast names its agents in the copy of each agent, which reads it: a longer list costs more
/// than it saves.
const MAX_RANGES: usize = 8 * 1024;
/// Nothing is begun later: what is left is delivered by another try.
const PATIENCE: Duration = Duration::from_secs(20);
/// When another try may succeed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What all agents are sent.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    /// Id of the request, and of the message.
    pub(super) request: String,
    pub(super) namespace: String,
    pub(super) method: String,
    pub(super) args: JsonObject,
    /// Agents that get it later do not start, in milliseconds since 1970.
    pub(super) finish_time: u64,
    /// W3C trace context; empty for none.
    pub(super) traceparent: String,
}

/// An agent that it is sent to.
#[derive(Debug, Clone)]
pub(super) struct Addressee {
    pub(super) agent: u32,
    pub(super) to: To,
    /// Its own, instead of those of the letter.
    pub(super) args: Option<JsonObject>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sent {
    /// The broker has it.
    Yes,
    /// Known not to be published.
    No(Error),
    /// Published or not: it may be sent again, for its id stays.
    Unknown(Error),
}

/// How an agent can be reached.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// Not at all.
    None(Error),
    /// Only by a CAST of its own.
    Single,
    /// By a broadcast, too.
    Any,
}

impl App {
    /// Sends it to these agents. Answers for each of them, in order of their numbers. Takes bounded
    /// time, and may be dropped at any time: what became of the agents is unknown then.
    pub(super) async fn deliver(&self, letter: &Letter, to: &[Addressee]) -> Vec<(u32, Sent)> {
        let (ways, fleet) = match ways(&self.db, letter, to).await {
            Ok(known) => known,
            Err(error) => {
                return to.iter().map(|to| (to.agent, Sent::No(error.clone()))).collect();
            }
        };
        let post = Post {
            letter,
            to,
            fleet,
            began: Instant::now(),
            stopping: || self.stop.is_cancelled(),
            send: |cast: CastRequest| self.link.send(cast, &letter.traceparent),
        };
        post.deliver(ways).await
    }
}

/// Whom a broadcast reaches.
pub(super) enum Audience {
    /// All agents; so many are there.
    All(usize),
    /// Those that have the endpoint.
    Of(HashSet<u32>),
}

impl Audience {
    /// That of a namespace now.
    pub(super) async fn read(db: &Db, namespace: &str) -> Result<Self> {
        if namespace.is_empty() || namespace == MANAGER_NAMESPACE {
            return Ok(Self::All(db.roster.live()));
        }
        Ok(Self::Of(numbers(db, keys::agents_of(namespace)).await?))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::All(count) => *count,
            Self::Of(agents) => agents.len(),
        }
    }

    fn has(&self, agent: u32) -> bool {
        match self {
            Self::All(_) => true,
            Self::Of(agents) => agents.contains(&agent),
        }
    }
}

async fn numbers(db: &Db, prefix: Vec<u8>) -> Result<HashSet<u32>> {
    Ok(db.keys(prefix).await?.iter().filter_map(|key| keys::last_number(key)).collect())
}

/// How each can be reached, and how many a broadcast would reach. One that was deleted is not sent
/// to: its host may have been given to another agent, which was not asked.
async fn ways(db: &Db, letter: &Letter, to: &[Addressee]) -> Result<(Vec<Way>, usize)> {
    let mut fleet = usize::MAX;
    let mut reached: HashSet<u32> = HashSet::new();
    if to.len() > FEW {
        let audience = Audience::read(db, &letter.namespace).await?;
        fleet = audience.len();
        if is_cheaper(to.len(), fleet) {
            // Their queues may not be bound yet as their records say.
            let unbound = numbers(db, keys::QUEUE_JOBS.to_vec()).await?;
            let agents = to.iter().map(|to| to.agent);
            reached.extend(agents.filter(|id| audience.has(*id) && !unbound.contains(id)));
        }
    }
    let way = |to: &Addressee| match db.roster.is_reserved(to.agent) {
        None => {
            let why = format!("agent {} was deleted, and its queues with it", to.agent);
            Way::None(Error::new(Reason::QueueNotFound, why).with("agent", to.agent))
        }
        Some(false) if to.args.is_none() && reached.contains(&to.agent) => Way::Any,
        Some(_) => Way::Single,
    };
    Ok((to.iter().map(way).collect(), fleet))
}

/// Whether one broadcast costs less than so many single CASTs: the broker routes it to all of the
/// fleet, and those that it does not name look at it in vain.
pub(super) fn is_cheaper(agents: usize, fleet: usize) -> bool {
    agents > FEW && agents.saturating_mul(2) >= fleet
}

/// Whether a CAST that ended so is known not to be in any queue.
fn is_not_published(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BrokerUnavailable
            | Reason::Unavailable
            | Reason::RateLimited
            | Reason::InvalidArgument
            | Reason::TooLarge
            | Reason::OverFinishtime
            | Reason::QueueNotFound
    )
}

/// One delivery.
struct Post<'a, Stopping, Go> {
    letter: &'a Letter,
    to: &'a [Addressee],
    fleet: usize,
    began: Instant,
    stopping: Stopping,
    /// Sends one message, and ends when its outcome is known.
    send: Go,
}

impl<Stopping, Go, Going> Post<'_, Stopping, Go>
where
    Stopping: Fn() -> bool,
    Go: Fn(CastRequest) -> Going,
    Going: Future<Output = Result<()>>,
{
    async fn deliver(&self, ways: Vec<Way>) -> Vec<(u32, Sent)> {
        let args = match json_to_struct("args", &self.letter.args) {
            Ok(args) => args,
            Err(error) => {
                return self.to.iter().map(|to| (to.agent, Sent::No(error.clone()))).collect();
            }
        };
        let mut told: Vec<Option<Sent>> = Vec::with_capacity(ways.len());
        let mut any = Vec::new();
        for (i, way) in ways.into_iter().enumerate() {
            told.push(match way {
                Way::None(error) => Some(Sent::No(error)),
                Way::Single => None,
                Way::Any => {
                    any.push(i);
                    None
                }
            });
        }

        let mut doubt = HashSet::new();
        let all = match self.broadcast(&any, &args).await {
            None => None,
            Some(Ok(())) => Some(Sent::Yes),
            // It reached nobody: each is sent to and told by itself why.
            Some(Err(error)) if error.reason == Reason::QueueNotFound => None,
            Some(Err(error)) if is_not_published(error.reason) => Some(Sent::No(error)),
            // A confirm covers all queues: some may have it. Each is sent to again.
            Some(Err(error)) => {
                let request = &self.letter.request;
                tracing::warn!(request, %error, "a broadcast is repeated to each agent");
                doubt.extend(any.iter().copied());
                None
            }
        };
        if all.is_some() {
            for i in any {
                told[i].clone_from(&all);
            }
        }

        let rest: Vec<usize> = (0..told.len()).filter(|&i| told[i].is_none()).collect();
        let away = OnceLock::new();
        let (away, args, doubt) = (&away, &args, &doubt);
        let singles: Vec<(usize, Sent)> = stream::iter(rest)
            .map(|i| async move {
                (i, self.outcome(self.single(i, args, away).await, doubt.contains(&i)))
            })
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await;
        for (i, sent) in singles {
            told[i] = Some(sent);
        }
        let mut told: Vec<_> =
            self.to.iter().zip(told).filter_map(|(to, sent)| Some((to.agent, sent?))).collect();
        told.sort_by_key(|(agent, _)| *agent);
        told
    }

    /// Sends to all of them at once; `None` when that is not the way.
    async fn broadcast(&self, any: &[usize], args: &Struct) -> Option<Result<()>> {
        if !is_cheaper(any.len(), self.fleet) {
            return None;
        }
        let agents: Ranges = any.iter().map(|&i| self.to[i].agent).collect();
        let agents = agents.to_string();
        if agents.len() > MAX_RANGES {
            return None;
        }
        if let Err(error) = self.may_begin() {
            return Some(Err(error));
        }
        let target = everyone(&self.letter.namespace);
        Some((self.send)(self.cast(target, agents, args.clone())).await)
    }

    /// Sends to one, unless another one has found the broker away.
    async fn single(&self, i: usize, args: &Struct, away: &OnceLock<Error>) -> Result<()> {
        self.may_begin()?;
        if let Some(error) = away.get() {
            return Err(error.clone());
        }
        let to = &self.to[i];
        let args = match &to.args {
            Some(own) => json_to_struct("args", own)?,
            None => args.clone(),
        };
        let target = to.to.target(&self.letter.namespace);
        let result = (self.send)(self.cast(target, String::new(), args)).await;
        if let Err(error) = &result
            && error.reason == Reason::BrokerUnavailable
        {
            let _ = away.set(error.clone());
        }
        result
    }

    fn cast(&self, target: Target, agents: String, args: Struct) -> CastRequest {
        CastRequest {
            target: Some(target),
            method: self.letter.method.clone(),
            args: Some(args),
            agents,
            finish_time: Some(to_timestamp(self.letter.finish_time)),
            message_id: self.letter.request.clone(),
            request_id: self.letter.request.clone(),
        }
    }

    /// Whether a message may still be sent.
    fn may_begin(&self) -> Result<()> {
        if self.letter.finish_time <= now_millis() {
            let why = "not sent: its finish time has passed";
            return Err(Error::new(Reason::OverFinishtime, why));
        }
        if (self.stopping)() {
            return Err(Error::new(Reason::Unavailable, "not sent: the manager is stopping"));
        }
        if self.began.elapsed() > PATIENCE {
            let why = "not sent yet: the bridge is slow";
            return Err(Error::new(Reason::BrokerUnavailable, why).with_retry_after(RETRY_AFTER));
        }
        Ok(())
    }

    /// What a single CAST says. `doubt`: a broadcast may have reached the agent before.
    fn outcome(&self, result: Result<()>, doubt: bool) -> Sent {
        let Err(error) = result else { return Sent::Yes };
        // An agent whose queue is not there has not got the broadcast either.
        let not_published = match error.reason {
            Reason::QueueNotFound => true,
            Reason::QueueFull => !doubt,
            reason => !doubt && is_not_published(reason),
        };
        if not_published {
            return Sent::No(error);
        }
        if error.reason == Reason::OutcomeUnknown {
            return Sent::Unknown(error);
        }
        let why = format!("it may have been sent: {}", error.message);
        Sent::Unknown(Error::new(Reason::OutcomeUnknown, why).with_message_id(&self.letter.request))
    }
}

#[cfg(test)]
mod tests;
