//! Subscriptions: their feeds over one connection, and for an agent the canary that proves the way
//! from its own exchange through its CALL queue back to itself.
//!
//! Invariant: a subscription goes on, over new connections, until it is dropped.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use goperation::now_millis;
use lapin::BasicProperties;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Context,
    control::Control,
    fault::ANSWER,
    feed::{Feed, Nest, Tap, canary_interval},
    layout::{Target, call_key},
    link::{Link, Session},
    live::Live,
    publisher::{Exchange, Publisher},
    wire::CANARY,
};
use crate::{Address, PublishError, Source, Subscription};

/// Agents that share a connection and have proved their ways send one canary in this time, all
/// together and on average: each that comes back proves the connection of all, and one wakes some
/// five processes of the broker that sleep otherwise.
const SHARED: Duration = Duration::from_secs(1);
/// For so many intervals of an agent that is alone a canary may be away there: they have much to do.
const PATIENCE: u32 = 16;
/// Before one of them consumes anew.
const PAUSE: Duration = Duration::from_millis(500);

/// Starts a subscription.
pub(super) fn start(
    context: &Arc<Context>,
    publisher: &Arc<Publisher>,
    control: &Arc<Control>,
    source: Source,
    prefetch: u16,
) -> Subscription {
    let prefetch = prefetch.max(1);
    let cancel = context.cancel.child_token();
    let (taps, link, agent) = match source {
        Source::Agent(agent) => {
            let link = if context.config.one_connection {
                context.shared()
            } else {
                // A connection of its own: what the canary tears down is this agent's alone.
                let name = format!("{} agent {agent}", context.config.prefix);
                Link::start(context, name, cancel.clone())
            };
            let taps = vec![
                Tap::Call(agent.clone()),
                Tap::AnyCall(agent.agent_type.clone()),
                Tap::Cast(agent.clone()),
                Tap::Any(agent.agent_type.clone()),
            ];
            (taps, link, Some(agent))
        }
        Source::Replies(bridge) => {
            (vec![Tap::Replies(bridge, Arc::clone(control))], control.link().clone(), None)
        }
        Source::Notify(name) => {
            (vec![Tap::Notify(name, Arc::clone(control))], control.link().clone(), None)
        }
    };

    // CASTs hold a permit each, so half of the room is left for CALLs whatever happens.
    let (sender, deliveries) = mpsc::channel(2 * usize::from(prefetch));
    let live = Arc::new(Live::new(taps.len(), agent.is_some()));
    let permits = Arc::new(Semaphore::new(usize::from(prefetch)));
    let canary = agent.map(|agent| Canary {
        context: Arc::clone(context),
        publisher: Arc::clone(publisher),
        live: Arc::clone(&live),
        nest: Arc::default(),
        agent,
    });
    let feeds = taps
        .into_iter()
        .enumerate()
        .map(|(number, tap)| Feed {
            context: Arc::clone(context),
            // Only the CALL queue brings canaries.
            nest: canary
                .as_ref()
                .filter(|_| matches!(tap, Tap::Call(_)))
                .map(|canary| Arc::clone(&canary.nest)),
            tap,
            number,
            live: Arc::clone(&live),
            prefetch,
            permits: Arc::clone(&permits),
            sender: sender.clone(),
        })
        .collect();
    let connected = live.connected();
    let running = Running { link, feeds, canary };
    let ends = cancel.clone();
    context.tasks.spawn(async move {
        tokio::select! {
            () = ends.cancelled() => {}
            () = running.run() => {}
        }
        live.end();
    });
    Subscription { deliveries, connected, guard: cancel.drop_guard() }
}

struct Running {
    link: Link,
    feeds: Vec<Feed>,
    canary: Option<Canary>,
}

impl Running {
    async fn run(&self) {
        // The connection over which the last canary stayed away.
        let mut doubted = Weak::new();
        while let Some(session) = self.link.up().await {
            // Dropped with this future when the subscription is.
            let mut tasks = JoinSet::new();
            for feed in &self.feeds {
                let (feed, session) = (feed.clone(), Arc::clone(&session));
                tasks.spawn(async move { feed.run(&session).await });
            }
            match &self.canary {
                Some(canary) => tokio::select! {
                    () = session.ended() => {}
                    () = canary.run(&session, doubted.as_ptr() == Arc::as_ptr(&session)) => {
                        doubted = Arc::downgrade(&session);
                    }
                },
                None => session.ended().await,
            }
            tasks.shutdown().await;
            for feed in &self.feeds {
                feed.live.feed(feed.number, false);
            }
            if session.alive() {
                // A shared connection: what is wrong with one agent must not spin on it.
                sleep(PAUSE).await;
            }
        }
    }
}

struct Canary {
    context: Arc<Context>,
    publisher: Arc<Publisher>,
    live: Arc<Live>,
    nest: Arc<Nest>,
    agent: Address,
}

impl Canary {
    /// Sends canaries while the feeds consume; returns when one stays away, with the connection torn
    /// down if it is this agent's own. One that is shared may be as good as before for the others:
    /// it is torn down when it is `doubted` already, or when nobody hears anything over it. Troubles
    /// of publishing are not judged: another connection does that.
    async fn run(&self, session: &Session, mut doubted: bool) {
        let short = canary_interval(self.context.config.heartbeat);
        let shared = self.context.config.one_connection;
        let patience = short * if shared { PATIENCE } else { 2 };
        let _proving = session.prove();
        // Until the way is proved for the first time.
        let mut proved = false;
        let mut consuming = self.live.consuming();
        let mut changes = self.nest.changes();
        self.live.canary(false);
        // Numbers of an earlier connection must not count.
        let mut number = self.nest.seen().max(now_millis());
        // The first that is not back yet, and when it left.
        let mut away: Option<(u64, Instant)> = None;
        loop {
            // Each try of a feed to consume is heard, or takes as long as the broker has to answer.
            let silence = patience.max(ANSWER * 3);
            while !*consuming.borrow_and_update() {
                tokio::select! {
                    changed = consuming.changed() => if changed.is_err() { return },
                    () = sleep(silence.saturating_sub(session.quiet()).max(PAUSE)) => {
                        if session.quiet() >= silence {
                            return self.abort(session, "the broker does not answer");
                        }
                    }
                }
            }
            let all = SHARED * if shared { session.proving() } else { 0 };
            let next = Instant::now() + if proved { short.max(all) } else { short };
            number += 1;
            match self.send(number, patience / 2).await {
                Ok(()) => away = away.or(Some((number, Instant::now()))),
                Err(PublishError::NoQueue) if *consuming.borrow() => {
                    return self.tear_down(session, false, "its CALL queue is not bound");
                }
                Err(_) => away = None,
            }
            // Wait for it, until the next one is due or a feed begins anew.
            loop {
                if away.is_some_and(|(first, _)| self.nest.seen() >= first) {
                    (away, proved, doubted) = (None, true, false);
                    session.heard();
                    self.live.canary(true);
                }
                tokio::select! {
                    () = sleep_until(next) => break,
                    _ = changes.changed() => {}
                    _ = consuming.changed() => {
                        (away, proved) = (None, false);
                        break;
                    }
                }
            }
            if self.nest.stalled() {
                away = None;
            }
            if away.is_some_and(|(_, left)| left.elapsed() >= patience) {
                let dead = doubted || session.quiet() >= patience;
                return self.tear_down(session, dead, "its canary did not come back");
            }
        }
    }

    /// Another agent's connection is left as it is, unless it is dead.
    fn tear_down(&self, session: &Session, dead: bool, why: &str) {
        if dead || !self.context.config.one_connection {
            return self.abort(session, why);
        }
        self.live.canary(false);
        // The others consume over it; its own channels are made anew.
        tracing::warn!(agent = %self.agent, why, "consuming anew");
    }

    fn abort(&self, session: &Session, why: &str) {
        self.live.canary(false);
        tracing::warn!(agent = %self.agent, why, "rebuilding the connection");
        session.abort();
    }

    async fn send(&self, number: u64, life: Duration) -> Result<(), PublishError> {
        let target =
            Target { exchange: self.context.layout.agent(&self.agent), key: call_key(&self.agent) };
        let properties = BasicProperties::default()
            .with_type(CANARY.into())
            .with_message_id(number.to_string().into())
            .with_delivery_mode(1)
            .with_expiration(life.as_millis().to_string().into());
        let sent = self.publisher.publish(&target, Exchange::Perhaps, properties, Vec::new());
        sent.await.map_err(PublishError::from)
    }
}
