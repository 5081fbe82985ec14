//! A TCP relay on loopback that can be made to fail as networks do.
//!
//! Invariant: while the relay is silent it reads nothing, writes nothing and closes nothing, so
//! that both ends see a link that is still there and says nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Whether the relay forwards, and to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    target: SocketAddr,
    mode: Mode,
    /// Connections accepted in an earlier era than this are closed.
    open_from: u64,
    /// Connections accepted in an earlier era than this are silent for ever.
    speaking_from: u64,
    /// The era of connections accepted now.
    era: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    Mute,
    Silent,
    Refuse,
}

/// A relay from a loopback address of its own to a target. Dropping it closes all connections.
#[derive(Debug)]
pub struct TcpRelay {
    addr: SocketAddr,
    state: watch::Sender<State>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl TcpRelay {
    /// Starts a relay to `target`. It needs the tokio runtime for as long as it is used.
    ///
    /// # Panics
    /// No loopback port can be bound.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port");
        let addr = listener.local_addr().expect("the address of a bound socket");
        let start = State { target, mode: Mode::Forward, open_from: 0, speaking_from: 0, era: 0 };
        let (state, states) = watch::channel(start);
        let open = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(listener, states, Arc::clone(&open)));
        Self { addr, state, open, task }
    }

    /// The address to which the client connects.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections are open now, silent ones included.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Closes all connections. New ones are forwarded as before.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            state.era += 1;
            state.open_from = state.era;
        });
    }

    /// Closes all connections, and each new one as soon as it is made, until [`Self::resume`].
    pub fn refuse(&self) {
        self.cut();
        self.state.send_modify(|state| state.mode = Mode::Refuse);
    }

    /// Goes half-open: connections stay, new ones are taken, and nothing passes or is closed
    /// until [`Self::resume`], after which what was sent meanwhile passes.
    pub fn silence(&self) {
        self.state.send_modify(|state| state.mode = Mode::Silent);
    }

    /// Forwards what clients say and holds back the answers, until [`Self::resume`].
    pub fn mute(&self) {
        self.state.send_modify(|state| state.mode = Mode::Mute);
    }

    /// As [`Self::silence`], but for ever and only for the connections that are there now: the
    /// link that a router has forgotten. New ones are forwarded at once.
    pub fn abandon(&self) {
        self.state.send_modify(|state| {
            state.era += 1;
            state.speaking_from = state.era;
        });
    }

    /// Forwards again, after [`Self::silence`], [`Self::mute`] or [`Self::refuse`].
    pub fn resume(&self) {
        self.state.send_modify(|state| state.mode = Mode::Forward);
    }

    /// Sends new connections to `target` from now on.
    pub fn retarget(&self, target: SocketAddr) {
        self.state.send_modify(|state| state.target = target);
    }
}

impl Drop for TcpRelay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One direction's and one connection's view of the state.
#[derive(Debug, Clone)]
struct View {
    states: watch::Receiver<State>,
    era: u64,
    /// Whether it is the direction of the answers.
    answers: bool,
}

impl View {
    /// Whether this direction may speak in that state.
    fn may_speak(&self) -> impl Fn(&State) -> bool + use<> {
        let (era, answers) = (self.era, self.answers);
        move |state| {
            let open = state.mode == Mode::Forward || state.mode == Mode::Mute && !answers;
            open && era >= state.speaking_from
        }
    }

    /// Waits until this connection may speak. Never, once it is abandoned or the relay is gone.
    async fn speaking(&mut self) -> State {
        let may = self.may_speak();
        let state = self.states.wait_for(may).await.ok().map(|state| *state);
        match state {
            Some(state) => state,
            None => std::future::pending().await,
        }
    }

    /// Waits until this connection may not speak.
    async fn silenced(&mut self) {
        let may = self.may_speak();
        let _relay_gone = self.states.wait_for(|state| !may(state)).await;
    }

    /// Waits until this connection is cut.
    async fn cut(&mut self) {
        let era = self.era;
        let _relay_gone = self.states.wait_for(|state| era < state.open_from).await;
    }
}

async fn accept(listener: TcpListener, states: watch::Receiver<State>, open: Arc<AtomicUsize>) {
    // Owned here: all connections end when this task does.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let now = *states.borrow();
                if now.mode == Mode::Refuse {
                    continue;
                }
                let view = View { states: states.clone(), era: now.era, answers: false };
                let count = Count::up(&open);
                connections.spawn(async move {
                    let mut cut = view.clone();
                    tokio::select! {
                        () = cut.cut() => {}
                        () = connection(client, view) => {}
                    }
                    drop(count);
                });
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// Forwards one connection until either end closes it with nothing left to say, or fails.
async fn connection(client: TcpStream, mut view: View) {
    let state = view.speaking().await;
    let Ok(server) = TcpStream::connect(state.target).await else { return };
    let _as_it_was = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let _ended = tokio::try_join!(
        pump(client_read, server_write, view.clone()),
        pump(server_read, client_write, View { answers: true, ..view }),
    );
}

/// Forwards one direction. A byte that was read when silence began is written when it ends.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut view: View,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        view.speaking().await;
        let mut silenced = view.clone();
        let count = tokio::select! {
            biased;
            () = silenced.silenced() => continue,
            count = from.read(&mut buffer) => count,
        };
        view.speaking().await;
        match count? {
            0 => return to.shutdown().await,
            count => to.write_all(&buffer[..count]).await?,
        }
    }
}

/// One open connection.
#[derive(Debug)]
struct Count(Arc<AtomicUsize>);

impl Count {
    fn up(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(open))
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
