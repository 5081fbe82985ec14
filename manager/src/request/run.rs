//! The run of a request: the one task that owns it from its creation to its end, and again when
//! something comes after.
//!
//! Invariant: a round is taken whole: what was asked and what has happened changes the rows in
//! memory, then one transaction writes rows, events and record, and only then is anybody answered
//! or told. Nothing is sent before it is on record that it will be. Ended anywhere, the run is
//! taken up from the record; `keep` does so when it broke off.

mod begun;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use goperation::{Error, Reason, Result, now_millis, v1::ResponseState};
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Ask, Closing, Question, Told,
    cap::{Caps, Share},
    deliver::{Audience, Sent, is_cheaper},
    feed::Feed,
    hook::When,
    rows::{Changes, Rows},
    silence::silence,
};
use crate::{
    app::App,
    check,
    db::Tx,
    keys,
    record::{AgentRecord, RequestRecord, RowRecord},
};

/// Asks that are taken at once.
const ROUND: usize = 256;
/// So large, in bytes, what they say may get before the others wait for the next round.
const ROUND_BYTES: usize = 4 << 20;
/// Agents whose sending is begun at once, unless one broadcast may do for all.
const SLICE: usize = 512;
/// So few are looked up one by one, and are not waited for to be taken together.
const FEW: usize = 64;
/// How long a round waits for more of what agents say, while many have not answered: a round is a
/// transaction, and a turn of everybody who watches.
const GATHER: Duration = Duration::from_millis(5);
/// How often it looks for more meanwhile.
const GATHER_STEP: Duration = Duration::from_millis(1);
/// How long an ended request stays in memory after the last ask.
const QUIET: Duration = Duration::from_secs(60);
/// How long, after it was taken up again, nobody is given up: what agents have kept for the manager
/// comes first, in milliseconds.
const GRACE: u64 = 1_000;
/// Longest sleep: the clock may be set meanwhile.
const LOOK: Duration = Duration::from_secs(30);

/// Where the answer to an ask goes.
type Answer = oneshot::Sender<Result<Told>>;

/// What an asker gets once the round is durable.
enum Reply {
    Taken(bool),
    Record,
    Refused(Error),
}

/// What a run begins from.
pub(super) struct Begin {
    pub(super) rows: Rows,
    /// What it has of its method.
    pub(super) share: Share,
    /// It has just been put on record, and nothing that is to be sent has been tried.
    pub(super) is_new: bool,
}

impl Begin {
    /// From the record, once more.
    pub(super) fn again(rows: Rows, caps: &Caps) -> Self {
        let share = caps.share(&rows.record().method, rows.running());
        Self { rows, share, is_new: false }
    }
}

/// A request that is run.
pub(super) struct Run<'a> {
    app: Arc<App>,
    is_new: bool,
    rows: Rows,
    asks: &'a mut mpsc::Receiver<Question>,
    feed: Feed,
    share: Share,
    /// There was no room for all that could go.
    short: bool,
    /// Nobody is given up earlier.
    not_before: u64,
    /// To be sent to; that is on record.
    to_send: BTreeSet<u32>,
    /// To be sent to again, and when.
    again: BTreeSet<u32>,
    again_at: u64,
    tries: u32,
    /// The broker did not take what was sent last.
    away: bool,
    sending: Option<BoxFuture<'static, Vec<(u32, Sent)>>>,
    /// Whom that is for.
    posted: BTreeSet<u32>,
    hook: Option<BoxFuture<'static, (When, Result<(), String>)>>,
    /// When it was last asked.
    asked: Instant,
}

impl<'a> Run<'a> {
    pub(super) fn new(app: Arc<App>, begin: Begin, asks: &'a mut mpsc::Receiver<Question>) -> Self {
        let Begin { rows, mut share, is_new } = begin;
        let feed = app.requests.feed(&rows.record().id);
        share.set(rows.running());
        Self {
            is_new,
            feed,
            share,
            short: false,
            not_before: 0,
            to_send: BTreeSet::new(),
            again: BTreeSet::new(),
            again_at: 0,
            tries: 0,
            away: false,
            sending: None,
            posted: BTreeSet::new(),
            hook: None,
            asked: Instant::now(),
            app,
            rows,
            asks,
        }
    }

    /// Its share of the bound over the fleet, for whoever takes it up again.
    pub(super) fn into_share(self) -> Share {
        self.share
    }

    /// Runs it until it has ended and nobody asks any more. It may be dropped anywhere.
    pub(super) async fn run(&mut self) -> Result<()> {
        self.take_up();
        let mut questions = Vec::with_capacity(ROUND);
        loop {
            self.round(&mut questions).await?;
            self.start();
            if !self.wait(&mut questions).await {
                return Ok(());
            }
        }
    }

    /// What is on record to be sent goes; what was being sent when a manager ended goes again, under
    /// the same id. Whether the agents have that is not known.
    fn take_up(&mut self) {
        self.to_send = self.rows.being_sent().map(|row| row.agent).collect();
        self.feed.publish(self.rows.record().last_event);
        if self.is_new {
            return;
        }
        let unsure = Error::new(
            Reason::OutcomeUnknown,
            "it was being sent when the manager broke off, and whether it was is not known",
        );
        for &agent in &self.to_send {
            self.rows.not_sent(agent, &unsure);
        }
        if self.rows.running() > 0 {
            self.not_before = now_millis().saturating_add(GRACE);
        }
    }

    async fn round(&mut self, questions: &mut Vec<Question>) -> Result<()> {
        let now = now_millis();
        let count = fitting(questions);
        let mut replies: Vec<(Answer, Reply)> = Vec::with_capacity(count);
        let mut closings = Vec::new();
        for Question { ask, closing, answer } in questions.drain(..count) {
            let reply = self.take(ask, now).await.unwrap_or_else(Reply::Refused);
            if matches!(reply, Reply::Record) {
                closings.extend(closing);
            }
            replies.push((answer, reply));
        }
        if now >= self.not_before {
            self.give_up(self.rows.overdue(now), now).await?;
        }
        self.proceed(now).await?;
        let written = self.write(&closings).await;
        for (answer, reply) in replies {
            let told = match (&written, reply) {
                (_, Reply::Refused(error)) => Err(error),
                (Err(error), _) => Err(error.clone()),
                (Ok(()), Reply::Taken(taken)) => Ok(Told::Taken(taken)),
                (Ok(()), Reply::Record) => Ok(Told::Request(Box::new(self.rows.record().clone()))),
            };
            // Who has gone needs no answer.
            let _ = answer.send(told);
        }
        match written {
            // It was deleted.
            Err(error) if error.reason == Reason::RequestNotFound => {
                self.asks.close();
                Ok(())
            }
            written => written,
        }
    }

    async fn take(&mut self, ask: Ask, now: u64) -> Result<Reply> {
        if let Ask::Respond(q) = ask {
            let Ok(agent) = u32::try_from(q.agent_id) else { return Ok(Reply::Taken(false)) };
            return Ok(Reply::Taken(self.rows.respond(agent, *q, now)));
        }
        // It may have been removed meanwhile.
        if self.rows.record().has_ended() {
            still_there(&self.app, &self.rows.record().id).await?;
        }
        match ask {
            Ask::Respond(_) => {}
            Ask::Cancel => self.rows.cancel(now)?,
            Ask::Resume { max_failures } => {
                self.rows.resume(max_failures, now)?;
                // Of whom it is not known whether they were sent to, they are sent to again.
                let doubtful = self.rows.being_sent().map(|row| row.agent);
                self.to_send.extend(doubtful.filter(|agent| !self.posted.contains(agent)));
            }
            Ask::Overtime(among) => {
                self.give_up(self.rows.unanswered(among.as_ref()), now).await?;
            }
        }
        Ok(Reply::Record)
    }

    /// Gives agents up, each for the reason that it has now.
    async fn give_up(&mut self, agents: Vec<u32>, now: u64) -> Result<()> {
        if agents.is_empty() {
            return Ok(());
        }
        let records = records(&self.app, &agents).await?;
        for agent in agents {
            let Some(row) = self.rows.row(agent) else { continue };
            // Also before its first renewal since the manager's start it may be there.
            let online = !self.app.leases.is_over(agent);
            let namespace = &self.rows.record().namespace;
            let agent_record = records.get(&agent);
            let (reason, why) = if self.posted.contains(&agent) && !row.reason.is_empty() {
                // What is known is of the try before.
                let row = RowRecord { reason: String::new(), ..row.clone() };
                silence(&row, namespace, agent_record, online)
            } else {
                silence(row, namespace, agent_record, online)
            };
            self.rows.give_up(agent, reason, why, now);
        }
        Ok(())
    }

    /// What follows from where it is now.
    async fn proceed(&mut self, now: u64) -> Result<()> {
        let mut waiting = self.to_send.iter().chain(&self.again);
        let waiting = waiting.any(|&agent| self.rows.row(agent).is_some_and(|row| waits(row, now)));
        self.rows.settle(waiting, now);
        if self.rows.is_held() && self.recall() {
            self.rows.settle(false, now);
        }
        self.share.set(self.rows.running());
        if self.hook.is_none() && self.next_hook().is_none() && self.rows.is_over() {
            self.rows.end(now);
        }
        if self.again_at <= now {
            self.to_send.append(&mut self.again);
        }
        self.drop_stale(now);
        self.short = false;
        // One slice after the other, and none while the broker does not take the one before. An
        // agent whose own queue takes nothing holds nobody up.
        let waits = self.away && !self.again.is_empty();
        let busy = self.sending.is_some() || !self.to_send.is_empty() || waits;
        if busy {
            return Ok(());
        }
        let (agents, short) = next(&self.app, &mut self.rows, &mut self.share, now).await?;
        self.short = short;
        self.to_send.extend(agents);
        Ok(())
    }

    /// The hook whose time has come.
    fn next_hook(&self) -> Option<When> {
        let record = self.rows.record();
        if record.has_ended() {
            return None;
        }
        if self.rows.waits_for_pre_run() && !record.cancelled {
            return Some(When::Pre);
        }
        let after = record.after_run.is_some() && !record.after_run_done;
        if after && self.rows.first_batch_was_sent() {
            return Some(When::After);
        }
        let post = record.post_run.is_some() && !record.post_run_done;
        (post && self.rows.is_over()).then_some(When::Post)
    }

    /// Makes everything that has changed durable, and tells watchers.
    async fn write(&mut self, closings: &[Closing]) -> Result<()> {
        let changes = self.rows.take();
        if changes.is_none() && closings.is_empty() {
            return Ok(());
        }
        let record = self.rows.record();
        let mut tx = self.app.db.begin();
        loop {
            // Deleted, it must not come back.
            if !tx.has(keys::request(&record.id)).await? {
                return Err(check::no_request(&record.id));
            }
            put(&mut tx, record, changes.iter());
            for closing in closings {
                closing(&mut tx, record);
            }
            if record.has_ended() {
                tx.delete(keys::request_open(&record.id));
                if let Some(until) = record.rows_until() {
                    tx.mark(keys::request_expiry(until, &record.id));
                }
            }
            if tx.commit().await? {
                break;
            }
        }
        if record.has_ended() {
            self.app.requests.has_ended(&record.id);
        }
        self.feed.publish(record.last_event);
        Ok(())
    }

    /// Waits until there is something to do. `false`: it has ended, and nobody asks.
    async fn wait(&mut self, questions: &mut Vec<Question>) -> bool {
        if !questions.is_empty() {
            return true;
        }
        let now = now_millis();
        let wake = self.wake(now);
        let short = self.short;
        tokio::select! {
            count = self.asks.recv_many(questions, ROUND) => {
                self.asked = Instant::now();
                self.gather(questions).await;
                return count > 0;
            }
            told = done(&mut self.sending) => self.told(told, now_millis()),
            (when, result) = done(&mut self.hook) => self.called(when, result, now_millis()),
            () = self.share.freed(), if short => {}
            () = tokio::time::sleep(wake) => {}
        }
        if self.rows.record().has_ended() && self.asked.elapsed() >= QUIET {
            // What was asked until now is still taken.
            self.asks.close();
        }
        true
    }

    /// Takes more of what agents say, while nothing else is asked and many are out. Whoever asks for
    /// something else meanwhile waits until then, too.
    async fn gather(&mut self, questions: &mut Vec<Question>) {
        let is_said = |question: &Question| matches!(question.ask, Ask::Respond(_));
        if self.rows.running() <= FEW || !questions.iter().all(is_said) {
            return;
        }
        let most = ROUND.min(self.rows.running());
        let until = Instant::now() + GATHER;
        while questions.len() < most && Instant::now() < until {
            tokio::time::sleep(GATHER_STEP).await;
            while questions.len() < ROUND
                && let Ok(question) = self.asks.try_recv()
            {
                questions.push(question);
            }
        }
    }

    /// How long nothing is to be done if nothing happens.
    fn wake(&self, now: u64) -> Duration {
        if self.rows.record().has_ended() {
            return QUIET.saturating_sub(self.asked.elapsed());
        }
        let next = self.rows.next_time(now).map(|time| time.max(self.not_before));
        let again = (!self.again.is_empty()).then_some(self.again_at);
        match next.into_iter().chain(again).min() {
            Some(time) => LOOK.min(Duration::from_millis(time.saturating_sub(now))),
            None => LOOK,
        }
    }
}

/// Marks those that are sent to next, and says whether there was no room for some of them.
pub(super) async fn next(
    app: &App,
    rows: &mut Rows,
    share: &mut Share,
    now: u64,
) -> Result<(Vec<u32>, bool)> {
    if rows.waits_for_pre_run() {
        return Ok((Vec::new(), false));
    }
    let mut slice = rows.wanted(now);
    if slice > SLICE {
        // A broadcast to half of them is cheaper than single messages; with entities there is none.
        let record = rows.record();
        let one_message = record.on.as_ref().is_none_or(|on| on.entities.is_empty());
        let fleet = Audience::read(&app.db, &record.namespace).await?.len();
        if !one_message || !is_cheaper(slice, fleet) {
            slice = SLICE;
        }
    }
    let room = share.take(slice);
    Ok((rows.send(room, now), room < slice))
}

/// Whether an agent may still be sent to, or again.
fn waits(row: &RowRecord, now: u64) -> bool {
    row.state() == ResponseState::Pending && row.sending && row.finish_time > now
}

/// How many of the asks a round takes; one at least, if there is one.
fn fitting(questions: &[Question]) -> usize {
    let mut bytes = 0;
    let fits = |question: &&Question| {
        let room = bytes < ROUND_BYTES;
        bytes += match &question.ask {
            Ask::Respond(q) => q.encoded_len(),
            Ask::Cancel | Ask::Resume { .. } | Ask::Overtime(_) => 0,
        };
        room
    };
    questions.iter().take_while(fits).count()
}

async fn still_there(app: &App, id: &str) -> Result<()> {
    let record: Option<RequestRecord> = app.db.get(keys::request(id)).await?;
    record.map(drop).ok_or_else(|| check::no_request(id))
}

/// The records of agents, and perhaps of others.
async fn records(app: &App, agents: &[u32]) -> Result<BTreeMap<u32, AgentRecord>> {
    if agents.len() > FEW {
        let all = app.db.all::<AgentRecord>(keys::AGENTS.to_vec()).await?;
        return Ok(all.into_iter().map(|(_, record)| (record.id, record)).collect());
    }
    let mut found = BTreeMap::new();
    for &agent in agents {
        if let Some(record) = app.db.get(keys::agent(agent)).await? {
            found.insert(agent, record);
        }
    }
    Ok(found)
}

/// Puts what has changed into a transaction.
pub(super) fn put<'a>(
    tx: &mut Tx,
    record: &RequestRecord,
    changes: impl IntoIterator<Item = &'a Changes>,
) {
    tx.put(keys::request(&record.id), record);
    for changes in changes {
        for row in &changes.rows {
            tx.put(keys::row(&record.id, row.agent), row);
        }
        for (number, event) in &changes.events {
            tx.put(keys::event(&record.id, *number), event);
        }
    }
}

/// The end of what there is; never, when there is nothing.
async fn done<F: Future + Unpin>(what: &mut Option<F>) -> F::Output {
    match what {
        Some(what) => what.await,
        None => std::future::pending().await,
    }
}
