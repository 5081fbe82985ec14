//! One supervised connection: made again for ever, with jitter, by us and not by lapin, whose own
//! recovery can end in a connection that says connected and consumes nothing.
//!
//! Invariant: a [`Session`] is one connection and is never repaired. Whoever distrusts it calls
//! [`Session::abort`]; its socket is shut at once, also when the other side is silent.

use std::{
    fmt, io,
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use goperation::{AgentType, EndpointName};
use lapin::{
    AsyncTcpStream, Channel, Connection, ConnectionProperties, ErrorKind,
    tcp::{AMQPUriTcpExt as _, TLSConfig},
};
use rand::RngExt as _;
use socket2::{SockRef, Socket};
use tokio::{
    sync::{OnceCell, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    fault::{Fault, answered},
    recent::Recent,
};
use crate::Address;

/// Longest wait for a connection and its handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for the broker's goodbye.
const CLOSE: Duration = Duration::from_millis(500);
/// How long what the agents of a type or of an endpoint share, once made, is taken to be there: many
/// agents may register at once, and an operator may remove a queue at any time.
const SHARED_IS_RECENT: Duration = Duration::from_secs(1);
/// How long after its registration an agent's first sync may come, for its queues to be only bound.
const AGENT_IS_RECENT: Duration = Duration::from_secs(30);
/// Channels that are kept to be lent again.
const IDLE_CHANNELS: usize = 16;
/// A session that lived this long starts the back-off anew.
const STEADY: Duration = Duration::from_secs(5);

/// Waits between tries: growing, jittered, never above two seconds.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(2);

    pub(super) fn next(&mut self) -> Duration {
        let full = Self::FIRST.saturating_mul(1 << self.tries.min(8)).min(Self::LAST);
        self.tries += 1;
        full.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// One connection.
pub(super) struct Session {
    connection: Connection,
    /// A second handle of the connection's socket, to shut it when lapin would wait for ever.
    socket: Socket,
    ended: CancellationToken,
    /// When the broker last said something over it, as far as anybody asked.
    heard: Mutex<Instant>,
    /// Whether the exchanges that all agents share were declared over this connection.
    pub(super) common: OnceCell<()>,
    /// Numbers of channels that lapin never gives out again.
    spent: AtomicU32,
    /// Kept once more by each agent that proves its way over it.
    proving: Arc<()>,
    /// Channels that wait to be lent again.
    idle: Mutex<Vec<Channel>>,
    /// Types whose shared queues were made over it just now.
    pub(super) types: Recent<AgentType>,
    /// Endpoints whose exchange was made over it just now.
    pub(super) endpoints: Recent<EndpointName>,
    /// Agents whose queues were made over it just now, and not yet bound to endpoints.
    pub(super) fresh: Recent<Address>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Session {
    /// A new channel.
    ///
    /// lapin 4.12 keeps the error with which the broker closed a channel, for ever, for the number of
    /// that channel: the next one of that number is refused with it and never gives its number back.
    /// So another number is tried, and when none is left the connection is made anew.
    pub(super) async fn channel(&self) -> Result<Channel, Fault> {
        loop {
            let refused = match answered(self.connection.create_channel()).await {
                Ok(channel) => {
                    self.heard();
                    return Ok(channel);
                }
                Err(fault) => fault,
            };
            if !self.alive() {
                return Err(refused);
            }
            match &refused {
                Fault::Amqp(error) if matches!(error.kind(), ErrorKind::ProtocolError(_)) => {
                    self.spent.fetch_add(1, Ordering::Relaxed);
                }
                Fault::Amqp(error)
                    if matches!(error.kind(), ErrorKind::ChannelsLimitReached)
                        && self.spent.load(Ordering::Relaxed) > 0 =>
                {
                    tracing::info!("the numbers of its channels are spent: connecting anew");
                    self.abort();
                    return Err(refused);
                }
                _ => return Err(refused),
            }
        }
    }

    /// A channel for changes of the layout, opened only if none waits: opening and closing one costs
    /// RabbitMQ 3.10 more the more channels there are (ADR 0002).
    pub(super) async fn lend(&self) -> Result<Channel, Fault> {
        let idle = std::iter::from_fn(|| self.idle().pop()).find(|c| c.status().connected());
        match idle {
            Some(channel) => Ok(channel),
            None => self.channel().await,
        }
    }

    /// Takes back a lent channel on which all was answered.
    pub(super) fn take_back(&self, channel: Channel) {
        let mut idle = self.idle();
        if idle.len() < IDLE_CHANNELS {
            idle.push(channel);
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Channel>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One agent more proves its way over it, for as long as this is kept.
    pub(super) fn prove(&self) -> Arc<()> {
        Arc::clone(&self.proving)
    }

    /// How many agents prove their ways over it.
    pub(super) fn proving(&self) -> u32 {
        u32::try_from(Arc::strong_count(&self.proving) - 1).unwrap_or(u32::MAX)
    }

    /// The broker has said something over it.
    pub(super) fn heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// For how long nobody has heard anything over it. A connection that says connected may be dead.
    pub(super) fn quiet(&self) -> Duration {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Whether it can be used, as far as this side knows.
    pub(super) fn alive(&self) -> bool {
        !self.ended.is_cancelled() && self.connection.status().connected()
    }

    /// Whether the broker has an alarm on and reads nothing from us.
    pub(super) fn blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Ends it now.
    pub(super) fn abort(&self) {
        self.ended.cancel();
        // It fails when the socket has gone already, which is as well.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Waits until the connection has gone or is told to go.
    async fn watch(&self, heartbeat: Duration) {
        let mut events = pin!(self.connection.events_listener());
        // A close without an error is no event of lapin's. Who publishes sees it all the same, and a
        // look for it wakes an idle agent: not often, then.
        let mut tick = interval(heartbeat);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.connection.status().connected() {
            tokio::select! {
                () = self.ended.cancelled() => return,
                event = events.next() => if event.is_none() { return },
                _ = tick.tick() => {}
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.abort();
    }
}

/// What a link is doing.
#[derive(Debug, Clone)]
enum State {
    /// It has not succeeded or failed yet.
    Starting,
    Up(Arc<Session>),
    Down(String),
}

/// A connection that comes back.
#[derive(Debug, Clone)]
pub(super) struct Link {
    state: watch::Receiver<State>,
}

impl Link {
    /// Starts a link; it ends with `cancel`.
    pub(super) fn start(context: &Arc<Context>, name: String, cancel: CancellationToken) -> Self {
        let (sender, state) = watch::channel(State::Starting);
        let context = Arc::clone(context);
        let tasks = context.tasks.clone();
        tasks.spawn(async move { supervise(&context, &name, &cancel, &sender).await });
        Self { state }
    }

    /// The connection, if it is there now. Only before the first try has ended it waits for that,
    /// at most `patience`.
    pub(super) async fn session(&self, patience: Duration) -> Result<Arc<Session>, String> {
        let mut state = self.state.clone();
        let first = timeout(patience, state.wait_for(|s| !matches!(s, State::Starting))).await;
        match first.map(|known| known.map(|s| s.clone())) {
            Ok(Ok(State::Up(session))) if session.alive() => Ok(session),
            Ok(Ok(State::Down(why))) => Err(why),
            Ok(Err(_)) => Err("the transport is closed".to_owned()),
            Ok(Ok(State::Up(_) | State::Starting)) | Err(_) => Err("not connected".to_owned()),
        }
    }

    /// The connection, if it is there now.
    pub(super) fn current(&self) -> Option<Arc<Session>> {
        match &*self.state.borrow() {
            State::Up(session) => Some(Arc::clone(session)),
            State::Starting | State::Down(_) => None,
        }
    }

    /// Waits for a connection; none when the link has ended.
    pub(super) async fn up(&self) -> Option<Arc<Session>> {
        let mut state = self.state.clone();
        let alive = |s: &State| matches!(s, State::Up(session) if session.alive());
        match state.wait_for(alive).await.as_deref() {
            Ok(State::Up(session)) => Some(Arc::clone(session)),
            _ => None,
        }
    }
}

async fn supervise(
    context: &Context,
    name: &str,
    cancel: &CancellationToken,
    state: &watch::Sender<State>,
) {
    let mut backoff = Backoff::default();
    while !cancel.is_cancelled() {
        let connected = tokio::select! {
            () = cancel.cancelled() => break,
            connected = connect(context, name) => connected,
        };
        let why = match connected {
            Ok(session) => {
                tracing::info!(link = name, broker = %context.config.place(), "connected");
                let session = Arc::new(session);
                state.send_replace(State::Up(Arc::clone(&session)));
                let since = Instant::now();
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = session.watch(context.config.heartbeat) => {}
                }
                state.send_replace(State::Down("the connection was lost".to_owned()));
                if cancel.is_cancelled() {
                    let goodbye = session.connection.close(200, "bye".into());
                    let _ = timeout(CLOSE, goodbye).await;
                }
                session.abort();
                if since.elapsed() >= STEADY {
                    backoff = Backoff::default();
                }
                "the connection was lost".to_owned()
            }
            Err(fault) => {
                let why = fault.to_string();
                state.send_replace(State::Down(why.clone()));
                why
            }
        };
        if cancel.is_cancelled() {
            break;
        }
        let delay = backoff.next();
        tracing::warn!(link = name, %why, ?delay, "not connected to the broker");
        tokio::select! {
            () = cancel.cancelled() => {}
            () = sleep(delay) => {}
        }
    }
}

/// Shuts the socket of a connection attempt that is given up: lapin's thread would wait on it for
/// as long as the other side is silent.
struct Attempt {
    socket: Arc<OnceLock<Socket>>,
    done: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.get().filter(|_| !self.done) {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

async fn connect(context: &Context, name: &str) -> Result<Session, Fault> {
    let runtime = lapin::runtime::default_runtime()?;
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let slot = Arc::new(OnceLock::new());
    let mut attempt = Attempt { socket: Arc::clone(&slot), done: false };
    let handshake = Connection::connector(
        context.uri.clone(),
        runtime,
        async move |uri, runtime| {
            let stream = uri.connect_with_config_async(TLSConfig::default(), &runtime);
            let stream = timeout(CONNECT, stream)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            match &stream {
                AsyncTcpStream::Plain(plain) => {
                    let socket = SockRef::from(plain.get_ref()).try_clone()?;
                    // Should lapin connect twice in one attempt, the first socket has gone.
                    let _ = slot.set(socket);
                }
                _ => return Err(io::Error::from(io::ErrorKind::Unsupported).into()),
            }
            Ok(stream)
        },
        properties,
    );
    let connection = match timeout(CONNECT, handshake).await {
        Ok(connection) => connection?,
        Err(_) => return Err(Fault::Silent),
    };
    let Some(socket) = attempt.socket.get() else {
        return Err(Fault::Other("the connection has no socket".to_owned()));
    };
    let socket = socket.try_clone().map_err(|e| Fault::Other(e.to_string()))?;
    // The session shuts the socket from here on.
    attempt.done = true;
    Ok(Session {
        connection,
        socket,
        ended: CancellationToken::new(),
        heard: Mutex::new(Instant::now()),
        common: OnceCell::new(),
        spent: AtomicU32::new(0),
        proving: Arc::default(),
        idle: Mutex::default(),
        types: Recent::new(SHARED_IS_RECENT),
        endpoints: Recent::new(SHARED_IS_RECENT),
        fresh: Recent::new(AGENT_IS_RECENT),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_grows_and_is_bounded() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(delays[0] <= Duration::from_millis(100));
        assert!(delays.iter().all(|d| *d <= Duration::from_secs(2)));
        assert!(delays[10..].iter().all(|d| *d >= Duration::from_secs(1)));
    }
}
