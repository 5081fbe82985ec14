//! The runs of requests: where the one owner of a request is found, or made.
//!
//! Invariant: of each request there is at most one run at a time. Another one is made only when
//! the one before has ended, from what is on record then.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use goperation::{Error, Reason, Result, now_millis};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use super::{
    Ask, Closing, Question, Told,
    cap::Caps,
    feed::{Feed, Feeds},
    keep::Keep,
    rows::Rows,
    run::{self, Begin},
};
use crate::{
    app::App,
    check,
    config::RequestsConfig,
    db::Tx,
    keys,
    record::{RequestRecord, RowRecord},
    turns::Turns,
};

/// Asks that wait for a run.
const WAITING: usize = 1024;
/// When there may be room for another request.
const ROOM: Duration = Duration::from_secs(10);
/// Rows that are read at a time, each with a result of at most 1 MiB.
const PART: usize = 32;
/// How long it may take until a request is in memory.
const LOAD: Duration = Duration::from_secs(10);

/// The runs of all requests that have one.
#[derive(Debug)]
pub(crate) struct Requests {
    runs: Mutex<HashMap<String, Entry>>,
    feeds: Feeds,
    caps: Caps,
    /// Those that have not ended; never more than are kept, but for what a start takes up.
    open: Mutex<HashSet<String>>,
    most: usize,
    /// Whose turn it is to make the run of a request.
    turns: Turns,
    tasks: TaskTracker,
}

#[derive(Debug, Clone)]
struct Entry {
    asks: mpsc::Sender<Question>,
    /// The run has ended.
    gone: CancellationToken,
}

/// The place of a run; another one may have it when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    app: Arc<App>,
    id: String,
    gone: CancellationToken,
}

impl Requests {
    pub(crate) fn new(rules: &RequestsConfig) -> Self {
        Self {
            runs: Mutex::default(),
            feeds: Feeds::default(),
            caps: Caps::new(&rules.max_running),
            open: Mutex::default(),
            most: usize::try_from(rules.most).unwrap_or(usize::MAX),
            turns: Turns::default(),
            tasks: TaskTracker::new(),
        }
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, HashSet<String>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a new one, if there is room for it.
    fn admit(&self, id: &str) -> Result<()> {
        let mut open = self.open();
        if open.len() >= self.most && !open.contains(id) {
            return Err(too_many(self.most));
        }
        open.insert(id.to_owned());
        Ok(())
    }

    /// Counts one no more: it has ended, or is not on record.
    pub(super) fn has_ended(&self, id: &str) {
        self.open().remove(id);
    }

    fn entry(&self, id: &str) -> Option<Entry> {
        self.runs().get(id).cloned()
    }

    /// How far the events of a request are, also when it has no run.
    pub(crate) fn feed(&self, id: &str) -> Feed {
        self.feeds.of(id)
    }

    pub(super) fn caps(&self) -> &Caps {
        &self.caps
    }

    /// Waits until every run has ended; they end when the manager stops.
    pub(crate) async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.app.requests.runs().remove(&self.id);
        self.gone.cancel();
    }
}

impl App {
    /// Stores a new request with its rows, whom it is sent to first, and what `extra` adds, and
    /// starts its run. The answer comes when it is durable. One that is there already stays as it is.
    pub(crate) async fn begin_request(
        self: &Arc<Self>,
        record: RequestRecord,
        rows: Vec<RowRecord>,
        extra: impl FnOnce(&mut Tx),
    ) -> Result<RequestRecord> {
        let mut tx = self.db.begin();
        extra(&mut tx);
        // What was stored is also run, whatever becomes of who asked.
        self.whole(|app| async move { app.store_request(record, rows, tx).await }).await
    }

    async fn store_request(
        self: Arc<Self>,
        record: RequestRecord,
        rows: Vec<RowRecord>,
        mut tx: Tx,
    ) -> Result<RequestRecord> {
        let id = record.id.clone();
        let _turn = self.requests.turns.wait(id.as_str(), LOAD).await.ok_or_else(busy)?;
        if let Some(there) = self.db.get(keys::request(&id)).await? {
            return Ok(there);
        }
        let now = now_millis();
        let mut rows = Rows::new(record, rows);
        let mut share = self.requests.caps().share(&rows.record().method, 0);
        rows.begin(now);
        rows.settle(false, now);
        // Whom it begins with is on record with it: the run need not write all their rows again.
        run::next(&self, &mut rows, &mut share, now).await?;
        let changes = rows.take();
        let record = rows.record().clone();
        self.requests.admit(&id)?;
        let stored = async {
            if tx.has(keys::request(&id)).await? {
                return Err(busy());
            }
            run::put(&mut tx, &record, changes.iter());
            tx.mark(keys::request_time(record.request_time, &id));
            tx.mark(keys::request_open(&id));
            if tx.commit().await? { Ok(()) } else { Err(busy()) }
        };
        if let Err(error) = stored.await {
            self.requests.has_ended(&id);
            return Err(error);
        }
        self.spawn_run(Begin { rows, share, is_new: true });
        Ok(record)
    }

    /// Asks the run of a request, which is made if there is none.
    ///
    /// # Errors
    /// `REQUEST_NOT_FOUND`, and what the run says.
    pub(crate) async fn ask_request(
        self: &Arc<Self>,
        id: &str,
        mut ask: Ask,
        mut closing: Option<Closing>,
    ) -> Result<Told> {
        loop {
            let asks = self.run_of(id).await?;
            let (answer, told) = oneshot::channel();
            match asks.send(Question { ask, closing, answer }).await {
                // Without an answer it was broken off, and whoever asks again learns how far it
                // came.
                Ok(()) => return told.await.unwrap_or_else(|_| Err(stopping())),
                // It has just ended, for want of asks.
                Err(mpsc::error::SendError(question)) => {
                    Question { ask, closing, .. } = question;
                }
            }
        }
    }

    async fn run_of(self: &Arc<Self>, id: &str) -> Result<mpsc::Sender<Question>> {
        if let Some(entry) = self.requests.entry(id).filter(|entry| !entry.asks.is_closed()) {
            return Ok(entry.asks);
        }
        let _turn = self.requests.turns.wait(id, LOAD).await.ok_or_else(busy)?;
        while let Some(entry) = self.requests.entry(id) {
            if !entry.asks.is_closed() {
                return Ok(entry.asks);
            }
            // It writes its last.
            entry.gone.cancelled().await;
        }
        if self.stop.is_cancelled() {
            return Err(stopping());
        }
        let rows = self.load_request(id).await?;
        Ok(self.spawn_run(Begin::again(rows, self.requests.caps())))
    }

    pub(super) async fn load_request(&self, id: &str) -> Result<Rows> {
        let record: Option<RequestRecord> = self.db.get(keys::request(id)).await?;
        let record = record.ok_or_else(|| check::no_request(id))?;
        Ok(Rows::new(record, self.light_rows(id).await?))
    }

    /// The rows of a request, without the results: those of all agents need not fit into memory.
    pub(super) async fn light_rows(&self, id: &str) -> Result<Vec<RowRecord>> {
        let mut rows = Vec::new();
        let mut last = None;
        loop {
            let part = self.db.part::<RowRecord>(keys::rows_of(id), last.as_deref(), PART).await?;
            let Some((key, _)) = part.last() else { return Ok(rows) };
            last = Some(key.clone());
            rows.extend(part.into_iter().map(|(_, mut row)| {
                row.result = None;
                row.details.iter_mut().for_each(|detail| detail.result = None);
                row
            }));
        }
    }

    /// Only for whoever has the turn of the request, or before anybody can ask.
    fn spawn_run(self: &Arc<Self>, begin: Begin) -> mpsc::Sender<Question> {
        let id = begin.rows.record().id.clone();
        let (run, asks) = self.make_run(id, Some(begin));
        self.requests.tasks.spawn(run);
        asks
    }

    /// It is loaded when it is not given.
    fn make_run(
        self: &Arc<Self>,
        id: String,
        begin: Option<Begin>,
    ) -> (impl Future<Output = ()> + Send + use<>, mpsc::Sender<Question>) {
        let (asks, inbox) = mpsc::channel(WAITING);
        let gone = CancellationToken::new();
        self.requests.runs().insert(id.clone(), Entry { asks: asks.clone(), gone: gone.clone() });
        let span = tracing::info_span!("request", request = %id);
        let keep = Keep::new(self.clone(), id.clone(), begin, inbox);
        let seat = Seat { app: self.clone(), id, gone };
        let run = async move {
            // Dropped last: when the place is free, nothing of the run goes on.
            let _seat = seat;
            keep.run().await;
        };
        (run.instrument(span), asks)
    }

    /// Takes up every request that has not ended. Before the manager serves.
    pub(crate) async fn resume_requests(self: &Arc<Self>) -> Result<()> {
        let mut runs = Vec::new();
        for key in self.db.keys(keys::REQUESTS_OPEN.to_vec()).await? {
            let Some(id) = key.strip_prefix(keys::REQUESTS_OPEN) else { continue };
            let id = String::from_utf8_lossy(id).into_owned();
            let begin = match self.load_request(&id).await {
                Ok(rows) => Some(Begin::again(rows, self.requests.caps())),
                Err(error) => {
                    tracing::error!(request = %id, %error, "failed to take up a request");
                    None
                }
            };
            self.requests.open().insert(id.clone());
            // One that cannot be read now is tried again.
            runs.push(self.make_run(id, begin).0);
        }
        // All are counted by now, so none begins what another one already fills.
        for run in runs {
            self.requests.tasks.spawn(run);
        }
        Ok(())
    }
}

fn busy() -> Error {
    Error::new(Reason::Unavailable, "the request is being taken up; nothing was done, try again")
        .with_retry_after(Duration::from_secs(1))
}

fn too_many(most: usize) -> Error {
    let what = format!(
        "{most} requests have not ended, and requests.most allows no more: wait for the end of \
         one, or cancel one that is RUNNING or STOPPED"
    );
    Error::new(Reason::RateLimited, what).with("most", most).with_retry_after(ROOM)
}

pub(super) fn stopping() -> Error {
    Error::new(
        Reason::Unavailable,
        "the manager broke off; ask again, or look at the request, when it is back",
    )
    .with_retry_after(Duration::from_secs(1))
}
