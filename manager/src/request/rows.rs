//! What becomes of a request: its record and rows in memory, and what each thing that happens does
//! to them. No clock, no store: times are passed in, and what is to be written is taken out.
//!
//! Invariant: every change of a row goes through [`Rows::change`], so the counts always add up,
//! and an event comes of each; events are numbered without gap. A final row changes only by a late
//! answer, and only when it is SILENT.

mod answer;

use std::collections::{BTreeMap, BTreeSet};

use goperation::{
    Error, Ranges, Reason, Result,
    v1::{RequestCounts, RequestState, ResponseState},
};

use super::tally::Tally;
use crate::record::{EventRecord, RESULT_SILENT, RESULT_UNKNOWN, RequestRecord, RowRecord};

/// Result code of a request that has ended and of which an agent has not answered.
const NOT_ALL: i32 = 1;
/// Result code of a request whose `pre_run` failed.
const PRE_RUN_FAILED: i32 = 5;
/// Longest words of an agent that are kept, in characters.
const WORDS: usize = 4096;

/// What is to be written, in one transaction.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) rows: Vec<RowRecord>,
    /// With their numbers.
    pub(super) events: Vec<(u64, EventRecord)>,
}

/// A request in memory. Results of rows that are written are not kept.
#[derive(Debug)]
pub(super) struct Rows {
    record: RequestRecord,
    rows: BTreeMap<u32, RowRecord>,
    tally: Tally,
    /// The first batch that anybody is in.
    first: Option<u32>,
    /// Rows that are to be written.
    changed: BTreeSet<u32>,
    /// The record is to be written.
    touched: bool,
    events: Vec<(u64, EventRecord)>,
}

impl Rows {
    /// A request as it is on record.
    pub(super) fn new(record: RequestRecord, rows: Vec<RowRecord>) -> Self {
        let mut this = Self {
            record,
            rows: BTreeMap::new(),
            tally: Tally::default(),
            first: rows.iter().map(|row| row.batch).min(),
            changed: BTreeSet::new(),
            touched: false,
            events: Vec::new(),
        };
        for mut row in rows {
            if row.is_final() {
                strip(&mut row);
            }
            this.tally.enter(&row);
            this.rows.insert(row.agent, row);
        }
        // Of rows that were dropped since the end, the record alone knows the totals.
        let kept = this.record.counts.is_none_or(|was| was.agents == this.tally.counts().agents);
        if kept || !this.record.has_ended() {
            this.record.counts = Some(this.tally.counts());
        }
        this
    }

    /// The first events of a new request: that it began, and what is known already.
    pub(super) fn begin(&mut self, now: u64) {
        self.record.set_state(RequestState::Running);
        self.record.resultcode = RESULT_UNKNOWN;
        let final_ones: Vec<_> =
            self.rows.values().filter(|row| row.is_final()).map(event_of).collect();
        self.record.failures = u32::try_from(final_ones.len()).unwrap_or(u32::MAX);
        self.changed.extend(self.rows.keys());
        self.tell(now, false);
        for event in final_ones {
            self.push(EventRecord { time: now, ..event });
        }
    }

    pub(super) fn record(&self) -> &RequestRecord {
        &self.record
    }

    pub(super) fn row(&self, agent: u32) -> Option<&RowRecord> {
        self.rows.get(&agent)
    }

    /// Agents that are being sent to, and are not known to be reached.
    pub(super) fn being_sent(&self) -> impl Iterator<Item = &RowRecord> {
        let rows = self.tally.out().filter_map(|(_, agent)| self.rows.get(&agent));
        rows.filter(|row| row.state() == ResponseState::Pending)
    }

    /// How many agents are sent to or being sent to, without a final answer.
    pub(super) fn running(&self) -> usize {
        self.tally.running()
    }

    /// Whether nothing is sent before a hook has been called.
    pub(super) fn waits_for_pre_run(&self) -> bool {
        self.record.pre_run.is_some() && !self.record.pre_run_done
    }

    /// Whether the first batch was sent.
    pub(super) fn first_batch_was_sent(&self) -> bool {
        self.tally.has_begun() && self.first.is_none_or(|batch| self.tally.was_sent(batch))
    }

    /// Nothing more is sent.
    pub(super) fn cancel(&mut self, now: u64) -> Result<()> {
        if self.record.cancelled {
            return Ok(());
        }
        self.not_ended("cancelled")?;
        self.record.cancelled = true;
        self.record.paused_until = 0;
        self.record.set_state(RequestState::Running);
        self.tell(now, false);
        self.skip(now);
        Ok(())
    }

    /// Goes on after a stop. `limit`: another limit of failures.
    pub(super) fn resume(&mut self, limit: Option<u32>, now: u64) -> Result<()> {
        self.not_ended("resumed")?;
        if self.record.cancelled {
            return Err(self.refused("it was cancelled, so it cannot be resumed"));
        }
        let stopped = self.record.state() == RequestState::Stopped;
        if !stopped && limit.is_none() {
            return Ok(());
        }
        if let Some(limit) = limit {
            self.record.max_failures = Some(limit);
        }
        self.record.failures = 0;
        self.record.set_state(RequestState::Running);
        self.touched = true;
        if stopped {
            self.tell(now, false);
        }
        Ok(())
    }

    fn not_ended(&self, what: &str) -> Result<()> {
        if self.record.has_ended() {
            return Err(self.refused(&format!("it has ended, so it cannot be {what}")));
        }
        Ok(())
    }

    fn refused(&self, why: &str) -> Error {
        let state = self.record.state().as_str_name().trim_start_matches("REQUEST_STATE_");
        Error::new(Reason::StateRefused, format!("request {} is {state}: {why}", self.record.id))
            .with("request", &self.record.id)
            .with("state", state)
    }

    /// Agents without a final answer, of those that are named.
    pub(super) fn unanswered(&self, among: Option<&Ranges>) -> Vec<u32> {
        let open = self.tally.out().map(|(_, agent)| agent).chain(self.tally.unsent());
        let mut open: Vec<_> =
            open.filter(|&agent| among.is_none_or(|among| among.contains(agent))).collect();
        open.sort_unstable();
        open
    }

    /// Agents whose deadline has passed.
    pub(super) fn overdue(&self, now: u64) -> Vec<u32> {
        let over = self.tally.out().take_while(|&(deadline, _)| deadline <= now);
        over.map(|(_, agent)| agent).collect()
    }

    /// Gives an agent up, unless it has answered.
    pub(super) fn give_up(&mut self, agent: u32, reason: Reason, message: String, now: u64) {
        if self.rows.get(&agent).is_none_or(RowRecord::is_final) {
            return;
        }
        self.change(agent, now, |row| {
            row.set_state(ResponseState::Silent);
            row.resultcode = RESULT_SILENT;
            reason.as_str().clone_into(&mut row.reason);
            row.message = cut(message);
            row.end_time = now;
        });
    }

    /// Stops at the limit of failures, if it is passed and there is something to stop: somebody is
    /// not sent to, or `waiting` to be sent to again. After a cancel skips what is not sent.
    pub(super) fn settle(&mut self, waiting: bool, now: u64) {
        if self.record.cancelled {
            self.skip(now);
        }
        let passed = self.record.max_failures.is_some_and(|most| self.record.failures > most);
        let running = self.record.state() == RequestState::Running && !self.record.cancelled;
        if passed && running && (waiting || self.tally.unsent().next().is_some()) {
            self.record.set_state(RequestState::Stopped);
            self.tell(now, false);
        }
    }

    /// How many agents may be sent to now, as far as the request itself goes.
    pub(super) fn wanted(&mut self, now: u64) -> usize {
        if self.record.state() != RequestState::Running || self.record.cancelled {
            return 0;
        }
        // A batch goes when the one before has ended.
        let Some(batch) = self.tally.batch() else { return 0 };
        let ready = self.tally.ready_of(batch);
        if ready == 0 {
            return 0;
        }
        let follows = self.tally.has_begun() && !self.tally.has_begun_with(batch);
        if follows && self.record.pause > 0 {
            if self.record.paused_until == 0 {
                self.record.paused_until = now.saturating_add(self.record.pause);
                self.touched = true;
            }
            if now < self.record.paused_until {
                return 0;
            }
        }
        match usize::try_from(self.record.max_parallel).unwrap_or(usize::MAX) {
            0 => ready,
            most => ready.min(most.saturating_sub(self.tally.running())),
        }
    }

    /// Marks that the next agents are being sent to: at most `count`, of one batch.
    pub(super) fn send(&mut self, count: usize, now: u64) -> Vec<u32> {
        let Some(batch) = self.tally.batch() else { return Vec::new() };
        let next: Vec<_> = self.tally.unsent_of(batch).take(count).collect();
        if next.is_empty() {
            return next;
        }
        let finish_time = now.saturating_add(self.record.finish_timeout);
        let deadline = now.saturating_add(self.record.timeout);
        for &agent in &next {
            self.update(agent, |row| {
                row.sending = true;
                row.send_time = now;
                row.finish_time = finish_time;
                row.deadline = deadline;
            });
        }
        self.record.finish_time = finish_time;
        self.record.deadline = deadline;
        self.record.paused_until = 0;
        next
    }

    /// The broker has the message.
    pub(super) fn sent(&mut self, agent: u32, now: u64) {
        let waits = |row: &RowRecord| row.sending && row.state() == ResponseState::Pending;
        if self.rows.get(&agent).is_some_and(waits) {
            self.change(agent, now, |row| {
                row.set_state(ResponseState::Sent);
                row.reason.clear();
                row.message.clear();
            });
        }
    }

    /// Why the last try to send did not succeed; another follows.
    pub(super) fn not_sent(&mut self, agent: u32, error: &Error) {
        let Some(row) = self.rows.get(&agent) else { return };
        // Once it may have been published, it may have been for ever.
        let unknown = row.reason == Reason::OutcomeUnknown.as_str();
        let waits = row.state() == ResponseState::Pending;
        if waits && !unknown && row.reason != error.reason.as_str() {
            self.update(agent, |row| {
                error.reason.as_str().clone_into(&mut row.reason);
                row.message = cut(error.message.clone());
            });
        }
    }

    /// Whether it is known that an agent was not sent to.
    pub(super) fn is_unsent(&self, agent: u32) -> bool {
        self.rows.get(&agent).is_some_and(|row| {
            row.state() == ResponseState::Pending && row.reason != Reason::OutcomeUnknown.as_str()
        })
    }

    /// Takes back that an agent is to be sent to, as long as it is known that it was not.
    pub(super) fn recall(&mut self, agent: u32) {
        if self.is_unsent(agent) && self.rows.get(&agent).is_some_and(|row| row.sending) {
            self.update(agent, |row| {
                row.sending = false;
                (row.send_time, row.finish_time, row.deadline) = (0, 0, 0);
                row.reason.clear();
                row.message.clear();
            });
        }
    }

    /// Whether nothing may be sent now: it has stopped, or was cancelled.
    pub(super) fn is_held(&self) -> bool {
        self.record.state() == RequestState::Stopped || self.record.cancelled
    }

    /// When something is to be done without anybody asking: a deadline, or the end of a pause.
    pub(super) fn next_time(&self, now: u64) -> Option<u64> {
        let deadline = self.tally.out().next().map(|(deadline, _)| deadline);
        let running = self.record.state() == RequestState::Running;
        let pause = (running && self.record.paused_until > now).then_some(self.record.paused_until);
        deadline.into_iter().chain(pause).min()
    }

    /// Whether every row is final and the request has not been ended yet.
    pub(super) fn is_over(&self) -> bool {
        self.tally.batch().is_none() && !self.record.has_ended()
    }

    /// The record as it will be when it is ended now.
    pub(super) fn outcome(&self, now: u64) -> RequestRecord {
        let mut record = self.record.clone();
        record.set_state(if record.cancelled {
            RequestState::Cancelled
        } else {
            RequestState::Finished
        });
        record.end_time = now;
        (record.resultcode, record.result) = self.verdict();
        record
    }

    /// Ends it: every row is final, and the hooks were called.
    pub(super) fn end(&mut self, now: u64) {
        self.record = self.outcome(now);
        self.tell(now, true);
    }

    /// Ends it before anything was sent.
    pub(super) fn fail(&mut self, why: String, now: u64) {
        self.skip(now);
        self.record.set_state(RequestState::Failed);
        self.record.end_time = now;
        self.record.resultcode = PRE_RUN_FAILED;
        self.record.result = cut(why);
        self.tell(now, true);
    }

    /// Changes something of the record that no event tells of.
    pub(super) fn note(&mut self, change: impl FnOnce(&mut RequestRecord)) {
        change(&mut self.record);
        self.touched = true;
    }

    /// What is to be written beside the record; `None` when nothing has changed.
    pub(super) fn take(&mut self) -> Option<Changes> {
        if !self.touched && self.changed.is_empty() && self.events.is_empty() {
            return None;
        }
        self.record.revision += 1;
        self.touched = false;
        let mut rows = Vec::with_capacity(self.changed.len());
        for agent in std::mem::take(&mut self.changed) {
            if let Some(row) = self.rows.get_mut(&agent) {
                rows.push(row.clone());
                if row.is_final() {
                    strip(row);
                }
            }
        }
        Some(Changes { rows, events: std::mem::take(&mut self.events) })
    }

    /// Result code and words of a request whose rows are all final.
    fn verdict(&self) -> (i32, String) {
        let RequestCounts { agents, silent, skipped, .. } = self.tally.counts();
        let mut words = Vec::new();
        if skipped > 0 {
            words.push(format!("{skipped} of {agents} agents were not sent to"));
        }
        if silent > 0 {
            words.push(format!("{silent} of {agents} agents have not answered"));
        }
        let code = if words.is_empty() { 0 } else { NOT_ALL };
        if words.is_empty() {
            words.push("every agent has answered".to_owned());
        }
        if !self.record.notes.is_empty() {
            words.push(self.record.notes.clone());
        }
        (code, words.join("; "))
    }

    fn skip(&mut self, now: u64) {
        for agent in self.tally.unsent().collect::<Vec<_>>() {
            self.change(agent, now, |row| {
                row.set_state(ResponseState::Skipped);
                row.resultcode = RESULT_UNKNOWN;
                row.end_time = now;
            });
        }
    }

    /// Changes a row, with an event of what it is then.
    fn change(&mut self, agent: u32, now: u64, change: impl FnOnce(&mut RowRecord)) {
        let Some((before, after)) = self.update(agent, change) else { return };
        let was_open = !matches!(
            before,
            ResponseState::Succeeded | ResponseState::Failed | ResponseState::Silent
        );
        if was_open && matches!(after, ResponseState::Failed | ResponseState::Silent) {
            self.record.failures = self.record.failures.saturating_add(1);
        }
        if !was_open && self.record.has_ended() {
            (self.record.resultcode, self.record.result) = self.verdict();
        }
        if let Some(event) = self.rows.get(&agent).map(event_of) {
            self.push(EventRecord { time: now, ..event });
        }
    }

    /// Changes a row without an event; its states before and after.
    fn update(
        &mut self,
        agent: u32,
        change: impl FnOnce(&mut RowRecord),
    ) -> Option<(ResponseState, ResponseState)> {
        let mut row = self.rows.remove(&agent)?;
        self.tally.leave(&row);
        let before = row.state();
        change(&mut row);
        let after = row.state();
        self.tally.enter(&row);
        self.rows.insert(agent, row);
        self.changed.insert(agent);
        self.record.counts = Some(self.tally.counts());
        Some((before, after))
    }

    /// An event about the request as it is now.
    fn tell(&mut self, now: u64, summary: bool) {
        // As it will be written: with this event, and the revision of the next writing.
        let mut record = self.record.clone();
        record.revision += 1;
        self.push(EventRecord {
            time: now,
            request: Some(record.to_api()),
            summary,
            ..EventRecord::default()
        });
    }

    fn push(&mut self, event: EventRecord) {
        self.record.last_event += 1;
        self.events.push((self.record.last_event, event));
    }
}

/// What only the store keeps.
fn strip(row: &mut RowRecord) {
    row.result = None;
    row.details = Vec::new();
}

/// The event that tells what a row is.
fn event_of(row: &RowRecord) -> EventRecord {
    EventRecord {
        agent: row.agent,
        host: row.host.clone(),
        state: row.state,
        resultcode: row.resultcode,
        reason: row.reason.clone(),
        message: row.message.clone(),
        progress: row.progress.clone(),
        late: row.late,
        batch: row.batch,
        ..EventRecord::default()
    }
}

/// At most so much as is kept.
fn cut(mut words: String) -> String {
    if let Some((end, _)) = words.char_indices().nth(WORDS) {
        words.truncate(end);
    }
    words
}

#[cfg(test)]
mod props;
#[cfg(test)]
mod tests;
