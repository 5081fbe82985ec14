//! One accepted connection, as the HTTP server reads and writes it.
//!
//! Invariant: a peer that does not say which HTTP it speaks, or does not take what it asked for,
//! fails the connection after a while; so no peer holds it for ever by doing nothing.

use std::{
    io,
    net::Shutdown,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// What an HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A peer that takes nothing for this long takes nothing more.
const STALL: Duration = Duration::from_secs(60);
/// What is still on its way from the peer is read for this long, as closing before it is read
/// would take our last answer from the peer.
const LINGER: Duration = Duration::from_secs(5);

/// The socket of a connection. It outlives the server of the connection, for its last answer.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    stream: Arc<TcpStream>,
    waiting: Arc<AtomicBool>,
}

impl Socket {
    /// The socket of an accepted stream.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream: Arc::new(stream), waiting: Arc::default() }
    }

    /// The way on which the server reads and writes it. The version of HTTP has to be said within
    /// `timeout`.
    pub(crate) fn connection(&self, timeout: Duration) -> Connection {
        Connection {
            socket: self.clone(),
            unsaid: Some(Unsaid { seen: 0, late: Box::pin(sleep(timeout)) }),
            stall: None,
        }
    }

    /// Notes that a whole request head has arrived.
    pub(crate) fn begun(&self) {
        self.waiting.store(false, Ordering::Relaxed);
    }

    /// Whether something has arrived after the last answer that is no request yet.
    pub(crate) fn is_within_request(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Writes a last answer, if there is room, to a peer that has none under way.
    pub(crate) fn say(&self, answer: &[u8]) {
        // A peer whose socket is full does not listen.
        let _ = self.stream.try_write(answer);
    }

    /// Ends what we send, and waits for the peer to end, for a while.
    pub(crate) async fn linger(&self) {
        if SockRef::from(&*self.stream).shutdown(Shutdown::Write).is_ok() {
            let _late = tokio::time::timeout(LINGER, self.discard()).await;
        }
    }

    async fn discard(&self) {
        let mut buffer = [0; 8192];
        while self.stream.readable().await.is_ok() {
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => tokio::task::yield_now().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// A peer that has not said which HTTP it speaks.
#[derive(Debug)]
struct Unsaid {
    seen: usize,
    late: Pin<Box<Sleep>>,
}

/// A connection, for the server.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    unsaid: Option<Unsaid>,
    stall: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    /// Goes on with `write` until it does not block.
    fn poll_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.socket.waiting.store(false, Ordering::Relaxed);
        loop {
            if self.socket.stream.poll_write_ready(cx)?.is_pending() {
                let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(STALL)));
                ready!(stall.as_mut().poll(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            match write(&self.socket.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    self.stall = None;
                    return Poll::Ready(written);
                }
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(unsaid) = &mut self.unsaid
            && unsaid.late.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        loop {
            ready!(self.socket.stream.poll_read_ready(cx))?;
            match self.socket.stream.try_read(buf.initialize_unfilled()) {
                Ok(count) => {
                    buf.advance(count);
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let new = buf.filled().get(before..).unwrap_or_default();
        if !new.is_empty() {
            self.socket.waiting.store(true, Ordering::Relaxed);
        }
        if let Some(unsaid) = &mut self.unsaid {
            let awaited = PREFACE.get(unsaid.seen..).unwrap_or_default();
            unsaid.seen += new.len();
            // Still the beginning of the preface, and not yet all of it.
            if !awaited.starts_with(new) || unsaid.seen >= PREFACE.len() {
                self.unsaid = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.socket.stream).shutdown(Shutdown::Write))
    }
}
