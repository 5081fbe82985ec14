//! The events of a request over streams that break: each stream goes on from the last event that
//! was seen.
//!
//! Invariant: no event is given twice and none is left out; a stream that stays broken ends the
//! feed after the time that it was given.

use std::{future::Future, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use goperation::{
    Reason,
    v1::{WatchRequestResponse, watch_request_response::Event},
};
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::error::Error;

/// The first pause after a break; each is twice as long as the one before.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(2);
/// A stream that has held this long was whole: the next break is a new one.
const STEADY: Duration = Duration::from_secs(10);

/// What comes of a feed.
#[derive(Debug)]
pub(super) enum Item {
    /// Something has happened.
    Event(Box<WatchRequestResponse>),
    /// The manager has closed the stream without a summary: it is stopping, or there is no more.
    /// Asked for more, the feed opens another one.
    Closed,
    /// The stream broke, for that cause; another one is tried.
    Broken(String),
    /// There is a stream again.
    Back,
    /// It stayed broken, for that cause; nothing follows.
    GaveUp(String),
}

/// From where, and how long.
#[derive(Debug, Clone)]
pub(super) struct Start {
    /// Of the last event that was seen; empty for all.
    pub(super) cursor: String,
    /// Whether it goes on after the summary.
    pub(super) follow: bool,
    /// How long a broken stream is tried again.
    pub(super) wait: Duration,
}

/// The events from `start` on; `open` opens a stream after a cursor.
pub(super) fn items<O, F, S>(start: Start, open: O) -> impl Stream<Item = Result<Item, Error>>
where
    O: FnMut(String) -> F,
    F: Future<Output = Result<S, Status>>,
    S: Stream<Item = Result<WatchRequestResponse, Status>> + Unpin,
{
    let feed = Feed {
        start,
        open,
        stream: None,
        opened: Instant::now(),
        broken: None,
        pause: FIRST,
        down: false,
        over: false,
    };
    stream::unfold(feed, |mut feed| async move { feed.next().await.map(|item| (item, feed)) })
}

struct Feed<O, S> {
    start: Start,
    open: O,
    stream: Option<S>,
    /// When the stream was opened.
    opened: Instant,
    /// Since when no event has come because of breaks.
    broken: Option<Instant>,
    pause: Duration,
    /// It was told that the stream is broken, and not yet that there is one again.
    down: bool,
    over: bool,
}

impl<O, F, S> Feed<O, S>
where
    O: FnMut(String) -> F,
    F: Future<Output = Result<S, Status>>,
    S: Stream<Item = Result<WatchRequestResponse, Status>> + Unpin,
{
    async fn next(&mut self) -> Option<Result<Item, Error>> {
        while !self.over {
            let status = match &mut self.stream {
                Some(stream) => match stream.next().await {
                    Some(Ok(event)) => return Some(Ok(self.seen(event))),
                    Some(Err(status)) => Some(status),
                    None => None,
                },
                None => {
                    if self.broken.is_some() {
                        sleep(self.pause).await;
                        self.pause = (self.pause * 2).min(LONGEST);
                    }
                    match (self.open)(self.start.cursor.clone()).await {
                        Ok(stream) => {
                            self.stream = Some(stream);
                            self.opened = Instant::now();
                            if std::mem::take(&mut self.down) {
                                return Some(Ok(Item::Back));
                            }
                            continue;
                        }
                        Err(status) => Some(status),
                    }
                }
            };
            if let Some(item) = self.lost(status) {
                return Some(item);
            }
        }
        None
    }

    fn seen(&mut self, event: WatchRequestResponse) -> Item {
        self.start.cursor.clone_from(&event.cursor);
        self.broken = None;
        self.pause = FIRST;
        self.over = !self.start.follow && matches!(event.event, Some(Event::Summary(_)));
        Item::Event(Box::new(event))
    }

    /// There is no stream: what is to be told of it, if anything.
    fn lost(&mut self, status: Option<Status>) -> Option<Result<Item, Error>> {
        if self.stream.take().is_some() && self.opened.elapsed() >= STEADY {
            self.broken = None;
            self.pause = FIRST;
        }
        let since = *self.broken.get_or_insert_with(Instant::now);
        let late = since.elapsed() >= self.start.wait;
        let Some(status) = status else {
            self.over = late;
            self.down = true;
            let closed = "the manager has closed the stream";
            return Some(Ok(if late { Item::GaveUp(closed.to_owned()) } else { Item::Closed }));
        };
        let error = goperation::Error::from_status(&status);
        if !passes(error.reason) {
            self.over = true;
            return Some(Err(error.into()));
        }
        if late {
            self.over = true;
            return Some(Ok(Item::GaveUp(error.message)));
        }
        let told = std::mem::replace(&mut self.down, true);
        (!told).then_some(Ok(Item::Broken(error.message)))
    }
}

/// Whether it may be better soon. What breaks on the way has the nearest reason only.
fn passes(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Unavailable | Reason::RateLimited | Reason::OutcomeUnknown | Reason::Internal
    )
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, pin::pin};

    use goperation::v1::{AgentEvent, Request};

    use super::*;

    /// What comes of opening a stream.
    type Opened = Result<Vec<Result<WatchRequestResponse, Status>>, Status>;

    fn event(cursor: u32) -> Result<WatchRequestResponse, Status> {
        Ok(WatchRequestResponse {
            cursor: cursor.to_string(),
            time: None,
            event: Some(Event::Agent(AgentEvent::default())),
        })
    }

    fn summary(cursor: u32) -> Result<WatchRequestResponse, Status> {
        let event = Some(Event::Summary(Request::default()));
        Ok(WatchRequestResponse { cursor: cursor.to_string(), time: None, event })
    }

    /// What is told, with the cursors that streams were opened after; streams that are not given
    /// cannot be opened.
    async fn told(follow: bool, streams: Vec<Opened>) -> (Vec<String>, Vec<String>) {
        let mut streams = VecDeque::from(streams);
        let mut cursors = Vec::new();
        let mut told = Vec::new();
        {
            let wait = Duration::from_secs(60);
            let open = |cursor: String| {
                cursors.push(cursor);
                let next = streams.pop_front();
                let next = next.unwrap_or_else(|| Err(Status::unavailable("away")));
                std::future::ready(next.map(stream::iter))
            };
            let mut items = pin!(items(Start { cursor: String::new(), follow, wait }, open));
            while let Some(item) = items.next().await {
                told.push(match item {
                    Ok(Item::Event(event)) => event.cursor.clone(),
                    Ok(Item::Closed) => "closed".to_owned(),
                    Ok(Item::Broken(cause)) => format!("broken: {cause}"),
                    Ok(Item::Back) => "back".to_owned(),
                    Ok(Item::GaveUp(cause)) => format!("gave up: {cause}"),
                    Err(error) => format!("error: {error}"),
                });
            }
        }
        (told, cursors)
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_stream_goes_on_from_its_cursor() {
        let cut = || Err(Status::unknown("cut"));
        let streams = vec![
            Ok(vec![event(1), event(2), cut()]),
            Err(Status::unavailable("refused")),
            Err(Status::unavailable("refused")),
            Ok(vec![event(3)]),
            Ok(vec![event(4), cut()]),
            Ok(vec![cut()]),
            Ok(vec![event(5), summary(6), event(7)]),
        ];
        let (told, cursors) = told(false, streams).await;
        let want = "1 2 broken: cut back 3 closed back 4 broken: cut back broken: cut back 5 6";
        assert_eq!(told.join(" "), want);
        assert_eq!(cursors, ["", "2", "2", "2", "3", "4", "4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn late_answers_follow_the_summary_when_they_are_wanted() {
        let gone = goperation::Error::new(Reason::RequestNotFound, "gone");
        let streams = vec![Ok(vec![summary(1), event(2)]), Err(gone.into())];
        let (told, cursors) = told(true, streams).await;
        assert_eq!(told[..3], ["1", "2", "closed"]);
        assert!(told[3].starts_with("error: gone"), "{told:?}");
        assert_eq!(cursors, ["", "2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_up_after_its_time_and_says_so() {
        let began = Instant::now();
        let (told, _) = told(false, vec![Ok(vec![event(1)])]).await;
        assert_eq!(told, ["1", "closed", "gave up: away"]);
        let took = began.elapsed();
        assert!((60..65).contains(&took.as_secs()), "{took:?}");
        // The same when streams can be opened and say nothing.
        let (told, _) = self::told(false, vec![Ok(Vec::new()); 1000]).await;
        assert_eq!(told.last().unwrap(), "gave up: the manager has closed the stream");
        let (told, _) = self::told(false, vec![Ok(vec![Err(Status::unknown("cut"))]); 1000]).await;
        assert_eq!(told.last().unwrap(), "gave up: cut");
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_not_pass_is_not_tried_again() {
        let (told, cursors) = told(false, vec![Err(Status::invalid_argument("cursor"))]).await;
        assert_eq!((told.len(), cursors.len()), (1, 1), "{told:?}");
        assert!(told[0].starts_with("error: cursor"), "{told:?}");
    }
}
