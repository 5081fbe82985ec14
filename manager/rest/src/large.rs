//! Large bodies wait for their turn, so that many at a time do not fill the memory.
//!
//! Invariant: of no more requests than there are turns is more than [`FREE`] held; a body that has
//! no turn is not read on, which its peer notices, and is refused after a while; small ones never
//! wait.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use goperation::{Error, Reason};
use http::{HeaderMap, header::CONTENT_ENCODING};
use http_body::{Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};
use tonic::{Status, body::Body};

/// What a body may have without a turn.
const FREE: usize = 256 << 10;
/// Work on so much is done at once.
const SHORT: usize = 64 << 10;
/// When a refused one may be sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// The turn of one request, once it has it. Its last clone gives it back.
pub(crate) type Turn = Arc<OnceLock<OwnedSemaphorePermit>>;

/// The turns of all large bodies of a kind.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    turns: Arc<Semaphore>,
    patience: Duration,
}

impl Turns {
    /// So many at a time; a body waits for that long, and is then refused.
    pub(crate) fn new(count: usize, patience: Duration) -> Self {
        Self { turns: Arc::new(Semaphore::new(count)), patience }
    }

    /// A body with these headers, which waits for its turn when it is large. `turn` is where its
    /// turn is kept; it lasts as long as the body or any clone.
    pub(crate) fn apply(&self, headers: &HeaderMap, body: Body, turn: Turn) -> Body {
        // How large it is once it is decoded is not known.
        let read = if headers.contains_key(CONTENT_ENCODING) { FREE + 1 } else { 0 };
        Body::new(Large { body, read, turns: self.clone(), turn, waiting: None })
    }

    async fn wait(self) -> Result<OwnedSemaphorePermit, Status> {
        match timeout(self.patience, self.turns.acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Error::new(Reason::Unavailable, "too many large requests are under way")
                .with_retry_after(AGAIN)
                .into()),
        }
    }
}

/// Does work on a body of that length: elsewhere than the runtime's own threads when it takes
/// long. Its turn is kept until it is done, also when nobody waits for that any more.
pub(crate) async fn work<T: Send + 'static>(
    length: usize,
    turn: Option<Turn>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    if length <= SHORT {
        return Ok(work());
    }
    let worked = spawn_blocking(move || {
        let done = work();
        drop(turn);
        done
    });
    worked.await.map_err(|_| Error::new(Reason::Internal, "the body could not be worked on"))
}

type Waiting = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, Status>> + Send>>;

/// A body that waits for a turn when it is large.
struct Large {
    body: Body,
    read: usize,
    turns: Turns,
    turn: Turn,
    waiting: Option<Waiting>,
}

impl http_body::Body for Large {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.read > FREE && this.turn.get().is_none() {
            let turns = &this.turns;
            let waiting = this.waiting.get_or_insert_with(|| Box::pin(turns.clone().wait()));
            let waited = ready!(waiting.as_mut().poll(cx));
            this.waiting = None;
            match waited {
                Ok(turn) => drop(this.turn.set(turn)),
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            this.read += frame.data_ref().map_or(0, |data| data.remaining());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    /// A body of pieces of 128 KiB.
    fn body(pieces: usize) -> Body {
        let piece = Bytes::from(vec![0; 128 << 10]);
        let frames = (0..pieces).map(move |_| Ok::<_, Status>(Frame::data(piece.clone())));
        Body::new(StreamBody::new(tokio_stream::iter(frames)))
    }

    async fn read(headers: &HeaderMap, pieces: usize, turns: &Turns, turn: &Turn) -> bool {
        match turns.apply(headers, body(pieces), turn.clone()).collect().await {
            Ok(read) => read.to_bytes().len() == pieces << 17,
            Err(status) => {
                assert_eq!(Error::from_status(&status).reason, Reason::Unavailable);
                false
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_large_ones_wait() {
        let turns = Turns::new(1, Duration::from_secs(1));
        let plain = HeaderMap::new();
        let (first, second) = (Turn::default(), Turn::default());
        assert!(read(&plain, 4, &turns, &first).await);
        assert!(!read(&plain, 4, &turns, &second).await);
        assert!(read(&plain, 2, &turns, &second).await);
        // What is compressed may be large.
        let gzip: HeaderMap = [(CONTENT_ENCODING, "gzip".parse().unwrap())].into_iter().collect();
        assert!(!read(&gzip, 1, &turns, &second).await);
        drop(first);
        assert!(read(&plain, 4, &turns, &second).await);
        drop(second);
        assert!(read(&gzip, 1, &turns, &Turn::default()).await);
        assert_eq!(turns.turns.available_permits(), 1);
    }
}
