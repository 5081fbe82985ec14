//! What a run has others do while it goes on taking asks: sendings and hooks.
//!
//! Invariant: one sending and one hook at a time, each begun when it is on record that it will be.

use futures::{FutureExt as _, future::BoxFuture};
use goperation::{JsonObject, Reason, now_millis};

use super::{Run, waits};
use crate::{
    bridge_link::To,
    record::RowRecord,
    request::{
        deliver::{Addressee, Letter, Sent},
        hook::When,
    },
};

/// First and longest pause before it is sent again, in milliseconds.
const AGAIN: (u64, u64) = (200, 5_000);

impl Run<'_> {
    /// Starts what is on record by now: a hook, a sending.
    pub(super) fn start(&mut self) {
        if self.hook.is_none()
            && let Some(when) = self.next_hook()
        {
            self.hook = Some(self.call(when));
        }
        if self.sending.is_none() && !self.to_send.is_empty() {
            self.sending = self.post(now_millis());
        }
    }

    fn call(&self, when: When) -> BoxFuture<'static, (When, Result<(), String>)> {
        let record = match when {
            When::Post => self.rows.outcome(now_millis()),
            When::Pre | When::After => self.rows.record().clone(),
        };
        let app = self.app.clone();
        let call = async move {
            let hook = match when {
                When::Pre => &record.pre_run,
                When::After => &record.after_run,
                When::Post => &record.post_run,
            };
            let Some(hook) = hook else { return (when, Ok(())) };
            (when, app.call_hook(hook, when, &record).await)
        };
        call.boxed()
    }

    /// Forgets to send to those that have answered, or whose time is over: they are given up at
    /// their deadline.
    pub(super) fn drop_stale(&mut self, now: u64) {
        let rows = &self.rows;
        self.to_send.retain(|&agent| rows.row(agent).is_some_and(|row| waits(row, now)));
    }

    /// Sends to nobody any more for now; says whether there was anybody. Who may have got it is
    /// waited for.
    pub(super) fn recall(&mut self) -> bool {
        let mut waiting = std::mem::take(&mut self.to_send);
        waiting.append(&mut self.again);
        for &agent in &waiting {
            self.rows.recall(agent);
        }
        !waiting.is_empty()
    }

    /// The next sending: those that have the same finish time are one.
    fn post(&mut self, now: u64) -> Option<BoxFuture<'static, Vec<(u32, Sent)>>> {
        self.drop_stale(now);
        let rows = &self.rows;
        let finish_time = rows.row(*self.to_send.first()?)?.finish_time;
        let next: Vec<_> = self
            .to_send
            .iter()
            .filter_map(|&agent| rows.row(agent))
            .filter(|row| row.finish_time == finish_time)
            .collect();

        let record = rows.record();
        let args: JsonObject = serde_json::from_slice(&record.args).unwrap_or_default();
        let to: Vec<_> = next.iter().map(|row| addressee(row, &args)).collect();
        let letter = Letter {
            request: record.id.clone(),
            namespace: record.namespace.clone(),
            method: record.method.clone(),
            args,
            finish_time,
            traceparent: record.traceparent.clone(),
        };
        let sent: Vec<_> = next.iter().map(|row| row.agent).collect();
        for agent in &sent {
            self.to_send.remove(agent);
        }
        self.posted.extend(sent);
        let app = self.app.clone();
        Some(async move { app.deliver(&letter, &to).await }.boxed())
    }

    /// Takes what became of a sending.
    pub(super) fn told(&mut self, told: Vec<(u32, Sent)>, now: u64) {
        self.sending = None;
        self.posted.clear();
        let nobody = told.len() > 1 && told.iter().all(|(_, sent)| *sent != Sent::Yes);
        let (mut failed, mut away) = (false, nobody);
        for (agent, sent) in told {
            match sent {
                Sent::Yes => self.rows.sent(agent, now),
                Sent::No(error) if is_hopeless(error.reason) => {
                    // It may have it from an earlier try: then its deadline decides.
                    if self.rows.is_unsent(agent) {
                        self.rows.give_up(agent, error.reason, error.message, now);
                    }
                }
                // It may be that it was sent before, so its deadline decides; and by what is known
                // of the tries before, if there were any.
                Sent::No(error) if error.reason == Reason::OverFinishtime => {
                    if self.rows.row(agent).is_some_and(|row| row.reason.is_empty()) {
                        self.rows.not_sent(agent, &error);
                    }
                }
                Sent::No(error) | Sent::Unknown(error) => {
                    failed = true;
                    away |= is_of_all(error.reason);
                    self.rows.not_sent(agent, &error);
                    self.again.insert(agent);
                }
            }
        }
        self.away = failed && away;
        if !failed {
            if self.again.is_empty() {
                self.tries = 0;
            }
            return;
        }
        let (first, longest) = AGAIN;
        let pause = first.saturating_mul(1 << self.tries.min(10)).min(longest);
        self.tries += 1;
        self.again_at = now.saturating_add(rand::random_range(pause / 2..=pause));
    }

    /// Takes what became of a hook.
    pub(super) fn called(&mut self, when: When, result: Result<(), String>, now: u64) {
        self.hook = None;
        let (name, failed) = match when {
            When::Pre => ("pre_run", result.err()),
            When::After => ("after_run", result.err()),
            When::Post => ("post_run", result.err()),
        };
        let failed = failed.map(|why| format!("{name} failed: {why}"));
        if let Some(why) = &failed {
            tracing::warn!("{why}");
        }
        let fails = when == When::Pre && !self.rows.record().cancelled;
        self.rows.note(|record| {
            match when {
                When::Pre => record.pre_run_done = true,
                When::After => record.after_run_done = true,
                When::Post => record.post_run_done = true,
            }
            // What was sent is not undone by it.
            if let Some(why) = failed.as_deref().filter(|_| !fails) {
                let joint = if record.notes.is_empty() { "" } else { "; " };
                record.notes.push_str(joint);
                record.notes.push_str(why);
            }
        });
        if let Some(why) = failed.filter(|_| fails) {
            self.rows.fail(why, now);
        }
    }
}

fn addressee(row: &RowRecord, args: &JsonObject) -> Addressee {
    let own = (!row.entities.is_empty()).then(|| {
        let mut own = args.clone();
        own.insert("entities".to_owned(), row.entities.clone().into());
        own
    });
    let to = To { agent_type: row.agent_type.clone(), host: row.host.clone() };
    Addressee { agent: row.agent, to, args: own }
}

/// Whether whoever is sent to next would fail alike: it is not the agent's own queue.
fn is_of_all(reason: Reason) -> bool {
    matches!(reason, Reason::BrokerUnavailable | Reason::Unavailable | Reason::RateLimited)
}

/// Whether no further try can succeed.
fn is_hopeless(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::QueueNotFound | Reason::InvalidArgument | Reason::TooLarge | Reason::FanoutCall
    )
}
