//! The listener: HTTP/1 and HTTP/2 on one port, with a bound on whatever a peer can take.
//!
//! Invariant: every task that serves a peer is held by the tracker until it has ended, which is
//! soon after `cut` at the latest; no peer can keep others from being accepted for longer than
//! the timeouts, as long as there are connections left.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use goperation_rest::Gateway;
use hyper::{Request, body::Incoming, rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rustix::process::{Resource, getrlimit};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;

use crate::connection::Socket;

/// How often an idle connection is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long it may take to say so.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a connection that could not be accepted: there may be no file handles left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that the kernel keeps for us until they are accepted. Those of a burst beyond it
/// would be lost, or be there only for the peer.
const BACKLOG: i32 = 4096;
/// Largest head of a request.
const LARGEST_HEAD: u32 = 64 << 10;
/// Requests at a time on one HTTP/2 connection.
const STREAMS: u32 = 1024;
/// Answers that are kept for an HTTP/2 stream that does not take them.
const SEND_BUFFER: usize = 64 << 10;
/// Requests that an HTTP/2 peer may take back before they were looked at.
const TAKEN_BACK: usize = 128;
/// Errors that an HTTP/2 peer may make.
const PEER_ERRORS: usize = 128;
/// Files that are left to the rest of the process.
const OTHER_FILES: usize = 256;

/// What the head of a request that did not arrive in time is answered, as there is no request
/// that a service could answer.
const LATE: &str = "{\"code\":1,\"status\":\"CANCELLED\",\"reason\":\"REQUEST_TIMEOUT\",\
    \"message\":\"the head of the request did not arrive in time\",\"details\":[]}";

/// How the listener's tasks are held and ended.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    /// No further connection, and none that is idle; requests go on.
    pub(crate) stop: CancellationToken,
    /// Nothing goes on.
    pub(crate) cut: CancellationToken,
    /// Holds every task.
    pub(crate) tasks: TaskTracker,
}

impl<F> Executor<F> for Ends
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.tasks.spawn(task);
    }
}

/// Bounds of the listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How long the head of a request may take to arrive.
    pub(crate) header_timeout: Duration,
    /// Connections at a time.
    pub(crate) max_connections: usize,
}

/// Accepts connections and serves each in a task, until `ends.stop`.
pub(crate) async fn accept(listener: TcpListener, gateway: Gateway, bounds: Bounds, ends: &Ends) {
    if let Err(error) = SockRef::from(&listener).listen(BACKLOG) {
        tracing::warn!(%error, "bursts of connections may be lost");
    }
    let places = Arc::new(Semaphore::new(places(bounds.max_connections)));
    let server = Arc::new(server(bounds.header_timeout, ends.clone()));
    let next = async {
        loop {
            // Never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    tune(&stream);
                    let peer = Peer { address: peer, socket: Socket::new(stream), _place: place };
                    let (server, gateway) = (Arc::clone(&server), gateway.clone());
                    let (timeout, served) = (bounds.header_timeout, ends.clone());
                    ends.tasks.spawn(async move {
                        peer.serve(&server, gateway, timeout, &served).await;
                    });
                }
                // It says nothing about the next.
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = next => {}
        () = ends.stop.cancelled() => {}
    }
}

/// As many connections as are wanted, or as the limit of open files leaves.
fn places(wanted: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let most = files.saturating_sub(OTHER_FILES).max(files / 2).max(1);
    if most < wanted {
        tracing::info!(max_connections = wanted, most, "the limit of open files allows less");
    }
    wanted.min(most).min(Semaphore::MAX_PERMITS)
}

fn tune(stream: &TcpStream) {
    let keep_alive =
        TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE_TIMEOUT).with_retries(3);
    // Without them answers are only slower, and peers that are gone only noticed later.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keep_alive);
}

fn server(header_timeout: Duration, ends: Ends) -> Builder<Ends> {
    let mut server = Builder::new(ends);
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(LARGEST_HEAD as usize);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .max_header_list_size(LARGEST_HEAD)
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(TAKEN_BACK)
        .max_local_error_reset_streams(PEER_ERRORS);
    server
}

/// A peer that is connected.
struct Peer {
    address: SocketAddr,
    socket: Socket,
    _place: OwnedSemaphorePermit,
}

impl Peer {
    async fn serve(
        &self,
        server: &Builder<Ends>,
        gateway: Gateway,
        header_timeout: Duration,
        ends: &Ends,
    ) {
        let serving = self.requests(server, gateway, header_timeout, &ends.stop);
        let ended = tokio::select! {
            ended = serving => ended,
            () = ends.cut.cancelled() => return,
        };
        if let Err(error) = ended {
            tracing::debug!(peer = %self.address, error = &*error, "a connection failed");
            if is_late(&*error) && self.socket.is_within_request() {
                self.socket.say(&late());
            }
        }
        tokio::select! {
            () = self.socket.linger() => {}
            () = ends.stop.cancelled() => {}
        }
    }

    async fn requests(
        &self,
        server: &Builder<Ends>,
        gateway: Gateway,
        header_timeout: Duration,
        stop: &CancellationToken,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let answer = |mut request: Request<Incoming>| {
            self.socket.begun();
            request.extensions_mut().insert(self.address);
            gateway.clone().call(request)
        };
        let connection = TokioIo::new(self.socket.connection(header_timeout));
        let mut serving = std::pin::pin!(server.serve_connection(connection, service_fn(answer)));
        tokio::select! {
            ended = &mut serving => return ended,
            () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
        }
        serving.await
    }
}

fn is_late(error: &(dyn std::error::Error + 'static)) -> bool {
    match (error.downcast_ref::<hyper::Error>(), error.downcast_ref::<io::Error>()) {
        (Some(error), _) => error.is_timeout(),
        (_, Some(error)) => error.kind() == io::ErrorKind::TimedOut,
        _ => false,
    }
}

fn late() -> Vec<u8> {
    let length = LATE.len();
    format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{LATE}"
    )
    .into_bytes()
}
