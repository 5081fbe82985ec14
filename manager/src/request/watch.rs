//! What becomes of a request, as a stream: what is on record from a cursor on, then what happens.
//!
//! Invariant: each event is told once, in order and without gap, and only when it is durable: the
//! stream reads no further than the run of the request has published. It is read as its client
//! takes it, so a slow one holds one part of the events and nothing else.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream, stream::BoxStream};
use goperation::{
    Error, Reason, Result, now_millis,
    v1::{ResponseState, WatchRequestRequest, WatchRequestResponse},
};
use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    feed::Feed,
    index::{rows_are_gone, rows_are_kept},
};
use crate::{
    app::App,
    check, keys,
    page::hex,
    record::{EventRecord, RequestRecord, RowRecord},
};

/// Events that are read at a time.
const PART: usize = 256;
/// Rows that are read at a time, each with a result of at most 1 MiB.
const ROWS: usize = 16;
/// How often a stream to which nothing happens looks whether its request is still on record.
const LOOK: Duration = Duration::from_secs(5);

/// Where an event stands, for clients: its number, and a check that it is of this request.
fn cursor(id: &str, number: u64) -> String {
    let check = Sha256::new().chain_update("cursor/").chain_update(id).finalize();
    format!("{number:x}.{}", hex(&check[..8]))
}

/// The number in a cursor; 0 when it is empty.
fn number(id: &str, text: &str) -> Result<u64> {
    if text.is_empty() {
        return Ok(0);
    }
    let number = text.split_once('.').and_then(|(number, _)| u64::from_str_radix(number, 16).ok());
    match number {
        Some(number) if cursor(id, number) == text => Ok(number),
        _ => Err(not_a_cursor()),
    }
}

fn not_a_cursor() -> Error {
    Error::invalid("cursor", "is not the cursor of an event of this request; begin without one")
}

fn stopping() -> Error {
    Error::new(
        Reason::Unavailable,
        "the manager is stopping; watch again from the last cursor when it is back",
    )
    .with_retry_after(Duration::from_secs(1))
}

fn too_many() -> Error {
    Error::new(Reason::RateLimited, "too many streams of requests at a time; try again later")
        .with_retry_after(Duration::from_secs(1))
}

/// One who watches.
#[derive(Debug)]
struct Watch {
    app: Arc<App>,
    id: String,
    feed: Feed,
    follow: bool,
    /// Number of the last event that was told.
    told: u64,
    /// Number of the last event that is durable.
    last: u64,
    /// Whether the summary was told, or stands before where the stream began.
    summed: bool,
    part: VecDeque<(u64, EventRecord)>,
    /// Rows of the next of these that have results.
    rows: HashMap<u32, RowRecord>,
    /// Given back when the stream ends.
    _place: OwnedSemaphorePermit,
}

impl App {
    /// What becomes of a request from a cursor on.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what is no cursor of it, `REQUEST_NOT_FOUND`, `STATE_REFUSED` when its
    /// events were dropped, and `RATE_LIMITED` when there are too many streams.
    pub(crate) async fn watch_request(
        self: &Arc<Self>,
        q: WatchRequestRequest,
    ) -> Result<BoxStream<'static, Result<WatchRequestResponse>>> {
        check::request_id("id", &q.id)?;
        let told = number(&q.id, &q.cursor)?;
        let place = self.watches.clone().try_acquire_owned().map_err(|_| too_many())?;
        // First, so that nothing that happens from here on is missed.
        let mut feed = self.requests.feed(&q.id);
        let record = self.durable_request(&q.id).await?;
        let last = record.last_event.max(*feed.last.borrow_and_update());
        if told > last {
            return Err(not_a_cursor());
        }
        if told < last {
            rows_are_kept(&record, now_millis())?;
        }
        let mut watch = Watch {
            app: self.clone(),
            id: q.id,
            feed,
            follow: q.follow,
            told,
            last,
            summed: false,
            part: VecDeque::new(),
            rows: HashMap::new(),
            _place: place,
        };
        // The end and its summary are one transaction.
        if told > 0 && record.has_ended() && !watch.follow {
            watch.summed = watch.is_after_summary().await?;
        }
        let events = stream::unfold(Some(watch), |watch| async move {
            let mut watch = watch?;
            match watch.next().await {
                Ok(Some(event)) => Some((Ok(event), Some(watch))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(events.boxed())
    }

    /// The record of a request as it stands on disk.
    async fn durable_request(&self, id: &str) -> Result<RequestRecord> {
        let mut tx = self.db.begin();
        let record = tx.get(keys::request(id)).await?.ok_or_else(|| check::no_request(id));
        // It has only read, so it waits for what it has read.
        tx.commit().await?;
        record
    }
}

/// Whether it tells of a row with a result: only what an agent has run has one.
fn has_result(event: &EventRecord) -> bool {
    matches!(event.state(), ResponseState::Succeeded | ResponseState::Failed)
}

impl Watch {
    /// Whether the summary is among what was told before.
    async fn is_after_summary(&self) -> Result<bool> {
        let mut after = keys::event(&self.id, self.told);
        loop {
            let events =
                self.app.db.part::<EventRecord>(keys::events_of(&self.id), Some(&after), PART);
            let events = events.await?;
            if events.iter().any(|(_, event)| event.summary) {
                return Ok(false);
            }
            match events.into_iter().next_back() {
                Some((key, _)) => after = key,
                None => return Ok(true),
            }
        }
    }

    async fn next(&mut self) -> Result<Option<WatchRequestResponse>> {
        loop {
            if self.app.stop.is_cancelled() {
                return Err(stopping());
            }
            // Late answers that were read with it are not told.
            if self.summed && !self.follow {
                return Ok(None);
            }
            if let Some((number, event)) = self.part.pop_front() {
                return self.tell(number, &event).await.map(Some);
            }
            if self.told < self.last {
                self.read().await?;
            } else {
                self.wait().await?;
            }
        }
    }

    async fn tell(&mut self, number: u64, event: &EventRecord) -> Result<WatchRequestResponse> {
        let row = if has_result(event) {
            if !self.rows.contains_key(&event.agent) {
                self.read_rows(event.agent).await?;
            }
            // Dropped meanwhile: an answer is not told without what it says.
            let Some(row) = self.rows.remove(&event.agent) else { return Err(self.gone().await) };
            Some(row)
        } else {
            None
        };
        self.told = number;
        self.summed |= event.summary;
        let cursor = cursor(&self.id, number);
        Ok(WatchRequestResponse { cursor, ..event.to_api(number, row.as_ref()) })
    }

    /// Reads the row of an agent, and of the next ones that have results.
    async fn read_rows(&mut self, agent: u32) -> Result<()> {
        let next = self.part.iter().map(|(_, event)| event).filter(|event| has_result(event));
        let agents = std::iter::once(agent).chain(next.map(|event| event.agent)).take(ROWS);
        let keys = agents.map(|agent| keys::row(&self.id, agent)).collect();
        let rows = self.app.db.get_all::<RowRecord>(keys).await?;
        self.rows = rows.into_iter().flatten().map(|row| (row.agent, row)).collect();
        Ok(())
    }

    /// Reads the next part of what is durable.
    async fn read(&mut self) -> Result<()> {
        let prefix = keys::events_of(&self.id);
        let after = keys::event(&self.id, self.told);
        let events = self.app.db.part::<EventRecord>(prefix, Some(&after), PART).await?;
        let mut expected = self.told;
        for (key, event) in events {
            expected += 1;
            if expected > self.last {
                break;
            }
            // Dropped meanwhile: a gap is never told.
            if key != keys::event(&self.id, expected) {
                return Err(self.gone().await);
            }
            self.part.push_back((expected, event));
        }
        if self.part.is_empty() { Err(self.gone().await) } else { Ok(()) }
    }

    /// Waits until there is more.
    async fn wait(&mut self) -> Result<()> {
        let changed = tokio::time::timeout(LOOK, self.feed.last.changed());
        let changed = tokio::select! {
            changed = changed => changed,
            () = self.app.stop.cancelled() => return Err(stopping()),
        };
        if !matches!(changed, Ok(Ok(()))) {
            let record: Option<RequestRecord> = self.app.db.get(keys::request(&self.id)).await?;
            // After its rows nothing comes any more.
            rows_are_kept(&record.ok_or_else(|| check::no_request(&self.id))?, now_millis())?;
        }
        self.last = self.last.max(*self.feed.last.borrow_and_update());
        Ok(())
    }

    async fn is_on_record(&self) -> Result<bool> {
        let record: Option<RequestRecord> = self.app.db.get(keys::request(&self.id)).await?;
        Ok(record.is_some())
    }

    /// Why events are missing.
    async fn gone(&self) -> Error {
        match self.is_on_record().await {
            Ok(true) => rows_are_gone(&self.id),
            Ok(false) => check::no_request(&self.id),
            Err(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e77";

    #[test]
    fn a_cursor_fits_only_its_request() {
        let seventh = cursor(ID, 7);
        assert_eq!(number(ID, &seventh), Ok(7));
        assert_eq!(number(ID, ""), Ok(0));
        let check = seventh.split_once('.').unwrap().1;
        for bad in [
            cursor("another", 7),
            format!("+7.{check}"),
            format!("07.{check}"),
            format!("7.{}", check.to_uppercase()),
            "7".to_owned(),
            "7.".to_owned(),
            ".".to_owned(),
        ] {
            let error = number(ID, &bad).unwrap_err();
            assert_eq!(error.violations[0].field, "cursor", "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}", at in any::<u64>()) {
            let _ = number(ID, &text);
            prop_assert_eq!(number(ID, &cursor(ID, at)), Ok(at));
        }
    }
}
