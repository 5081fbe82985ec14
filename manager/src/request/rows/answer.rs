//! What an agent says does to its row.
//!
//! Invariant: who is further does not go back, and a second answer changes nothing.

use goperation::{
    Reason, from_timestamp, struct_to_json,
    v1::{RespondRequest, ResponseState},
};

use super::{Rows, cut};
use crate::record::RESULT_SILENT;

/// Result code of an agent that failed and gave none.
pub(super) const FAILED: i32 = -1;

impl Rows {
    /// How far an agent is, or its answer. `false`: it changes nothing.
    pub(in crate::request) fn respond(&mut self, agent: u32, q: RespondRequest, now: u64) -> bool {
        if self.record.rows_until().is_some_and(|until| until <= now) {
            return false;
        }
        // What was never sent cannot be answered.
        let Some(row) = self.rows.get(&agent).filter(|row| row.sending) else { return false };
        match q.state() {
            state @ (ResponseState::Accepted | ResponseState::Running) => {
                let progress = cut(q.progress);
                let news = !progress.is_empty() && progress != row.progress;
                let further = state > row.state() || (state == row.state() && news);
                if row.is_final() || !further {
                    return false;
                }
                self.sent(agent, now);
                self.change(agent, now, |row| {
                    row.set_state(state);
                    row.progress = progress;
                    if let Some(time) = &q.start_time {
                        row.start_time = from_timestamp(time);
                    }
                });
                true
            }
            state @ (ResponseState::Succeeded | ResponseState::Failed | ResponseState::Silent) => {
                self.answered(agent, state, q, now)
            }
            _ => false,
        }
    }

    fn answered(&mut self, agent: u32, state: ResponseState, q: RespondRequest, now: u64) -> bool {
        let Some(row) = self.rows.get(&agent) else { return false };
        let late = row.state() == ResponseState::Silent;
        // An agent that has refused itself and refuses again says nothing new; that it has run the
        // method after all does.
        let again = late && row.server_time > 0 && state == ResponseState::Silent;
        if again || (row.is_final() && !late) {
            return false;
        }
        if !late {
            self.sent(agent, now);
        }
        let (result, broken) = match q.result.as_ref().map(|r| struct_to_json("result", Some(r))) {
            Some(Ok(object)) => (serde_json::to_vec(&object).ok(), None),
            Some(Err(error)) => (None, Some(error.message)),
            None => (None, None),
        };
        self.change(agent, now, |row| {
            row.set_state(state);
            row.late = late;
            row.resultcode = match state {
                ResponseState::Silent => RESULT_SILENT,
                ResponseState::Failed if q.resultcode == 0 => FAILED,
                _ => q.resultcode,
            };
            row.reason = reason(state, &q.reason).to_owned();
            row.message =
                cut(if q.message.is_empty() { broken.unwrap_or_default() } else { q.message });
            row.result = result;
            row.details = q.details;
            row.progress = cut(q.progress);
            if let Some(time) = &q.start_time {
                row.start_time = from_timestamp(time);
            }
            row.end_time = q.end_time.as_ref().map_or(now, from_timestamp);
            row.server_time = now;
        });
        true
    }
}

/// The reason that an agent gave, or the one that its state has without one.
fn reason(state: ResponseState, given: &str) -> &str {
    let otherwise = match state {
        ResponseState::Succeeded => return "",
        ResponseState::Failed => Reason::MethodFailed,
        _ => Reason::OutcomeUnknown,
    };
    Reason::parse(given).unwrap_or(otherwise).as_str()
}
