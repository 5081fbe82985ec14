//! What each thing that happens does.

use goperation::{
    to_timestamp,
    v1::{RespondRequest, ResponseDetail},
};
use prost_types::{Struct, Value, value::Kind};

use super::{answer::FAILED, *};

pub(super) const NOW: u64 = 1_000_000;

pub(super) fn record() -> RequestRecord {
    RequestRecord {
        id: "0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e77".to_owned(),
        method: "echo".to_owned(),
        state: RequestState::Running.into(),
        request_time: NOW,
        finish_timeout: 15_000,
        timeout: 20_000,
        ..RequestRecord::default()
    }
}

pub(super) fn row(agent: u32, batch: u32) -> RowRecord {
    RowRecord {
        agent,
        host: format!("h{agent}"),
        state: ResponseState::Pending.into(),
        resultcode: RESULT_UNKNOWN,
        batch,
        ..RowRecord::default()
    }
}

/// A new request over agents, each with its batch.
fn rows(record: RequestRecord, batches: &[u32]) -> Rows {
    let rows = (1..).zip(batches).map(|(agent, &batch)| row(agent, batch)).collect();
    let mut rows = Rows::new(record, rows);
    rows.begin(NOW);
    rows
}

pub(super) fn answer(state: ResponseState) -> RespondRequest {
    RespondRequest { state: state.into(), ..RespondRequest::default() }
}

fn states(rows: &Rows) -> Vec<ResponseState> {
    rows.rows.values().map(RowRecord::state).collect()
}

/// What the events that are to be written tell of an agent.
fn told(rows: &mut Rows, agent: u32) -> Vec<(ResponseState, bool)> {
    let events = rows.take().map(|changes| changes.events).unwrap_or_default();
    let of_agent = events.into_iter().filter(|(_, event)| event.agent == agent);
    of_agent.map(|(_, event)| (event.state(), event.late)).collect()
}

use ResponseState::{Accepted, Failed, Pending, Running, Sent, Silent, Skipped, Succeeded};

#[test]
fn an_agent_goes_its_way() {
    let mut rows = rows(record(), &[1]);
    assert_eq!(rows.wanted(NOW), 1);
    // Not begun, it cannot have got it.
    assert!(!rows.respond(1, answer(Succeeded), NOW));
    assert_eq!(rows.send(9, NOW), [1]);
    assert_eq!(rows.next_time(NOW), Some(NOW + 20_000));
    // The answer overtakes the broker's word.
    assert!(rows.respond(1, answer(Accepted), NOW));
    rows.sent(1, NOW);
    assert!(rows.respond(1, answer(Running), NOW));
    assert!(!rows.respond(1, answer(Running), NOW));
    assert!(!rows.respond(1, answer(Accepted), NOW));
    let half = RespondRequest { progress: "half".to_owned(), ..answer(Running) };
    assert!(rows.respond(1, half.clone(), NOW));
    assert!(!rows.respond(1, half, NOW));
    let number = Value { kind: Some(Kind::NumberValue(7.0)) };
    let done = RespondRequest {
        result: Some(Struct { fields: [("n".to_owned(), number)].into() }),
        details: vec![ResponseDetail { id: 3, ..ResponseDetail::default() }],
        reason: "not for a success".to_owned(),
        end_time: Some(to_timestamp(NOW + 5)),
        ..answer(Succeeded)
    };
    assert!(rows.respond(1, done.clone(), NOW + 9));
    for second in [done, answer(Failed), answer(Silent), answer(Running)] {
        assert!(!rows.respond(1, second, NOW + 9));
    }
    let changes = rows.take().unwrap();
    let row = &changes.rows[0];
    assert_eq!(row.result.as_deref(), Some(br#"{"n":7}"#.as_slice()));
    assert_eq!((row.details[0].id, row.reason.as_str(), row.resultcode), (3, "", 0));
    assert_eq!((row.end_time, row.server_time), (NOW + 5, NOW + 9));
    let events: Vec<_> = changes.events.iter().map(|(_, event)| event.state()).collect();
    let begun = ResponseState::Unspecified;
    assert_eq!(events, [begun, Sent, Accepted, Running, Running, Succeeded]);
    // Written, the result is the store's alone.
    assert_eq!(rows.row(1).unwrap().result, None);
    assert!(rows.is_over());
    rows.end(NOW + 10);
    assert!(!rows.is_over());
    let record = rows.record();
    assert_eq!((record.state(), record.resultcode), (RequestState::Finished, 0));
    let changes = rows.take().unwrap();
    assert!(changes.rows.is_empty() && changes.events[0].1.summary);
    assert!(rows.take().is_none());
}

#[test]
fn a_late_answer_replaces_silence_once() {
    let mut rows = rows(record(), &[1, 1, 1]);
    rows.send(9, NOW);
    let deadline = NOW + 20_000;
    assert!(rows.overdue(deadline - 1).is_empty());
    assert!(rows.respond(3, answer(Succeeded), NOW));
    for agent in rows.overdue(deadline) {
        rows.give_up(agent, Reason::AgentOffline, "away".to_owned(), deadline);
    }
    // It has answered.
    rows.give_up(3, Reason::AgentOffline, String::new(), deadline);
    assert_eq!(states(&rows), [Silent, Silent, Succeeded]);
    rows.end(deadline);
    assert_eq!(rows.record().resultcode, NOT_ALL);
    assert_eq!(rows.record().result, "2 of 3 agents have not answered");
    rows.take();

    // Its own word why it has not run it, and then that it has.
    assert!(!rows.respond(1, answer(Running), deadline + 1));
    let refusal = RespondRequest { reason: "AGENT_BUSY".to_owned(), ..answer(Silent) };
    assert!(rows.respond(1, refusal.clone(), deadline + 1));
    assert!(!rows.respond(1, refusal, deadline + 1));
    assert_eq!(rows.row(1).unwrap().reason, "AGENT_BUSY");
    assert!(rows.respond(1, RespondRequest { resultcode: 3, ..answer(Failed) }, deadline + 2));
    assert!(!rows.respond(1, answer(Succeeded), deadline + 3));
    assert_eq!(told(&mut rows, 1), [(Silent, true), (Failed, true)]);
    assert_eq!(rows.record().resultcode, NOT_ALL);
    assert!(rows.respond(2, answer(Succeeded), deadline + 3));
    let record = rows.record();
    assert_eq!((record.resultcode, record.result.as_str()), (0, "every agent has answered"));
    let counts = record.counts.unwrap();
    assert_eq!((counts.succeeded, counts.failed, counts.silent, counts.late), (2, 1, 0, 2));
    assert_eq!(record.end_time, deadline);
}

#[test]
fn what_an_agent_says_wrongly_is_put_right() {
    let mut rows = rows(record(), &[1, 1, 1]);
    rows.send(9, NOW);
    rows.respond(1, RespondRequest { message: "x".repeat(9999), ..answer(Failed) }, NOW);
    let row = rows.row(1).unwrap();
    assert_eq!((row.reason.as_str(), row.resultcode), ("METHOD_FAILED", FAILED));
    assert_eq!(row.message.len(), WORDS);
    rows.respond(2, RespondRequest { reason: "?".to_owned(), ..answer(Silent) }, NOW);
    let row = rows.row(2).unwrap();
    assert_eq!((row.reason.as_str(), row.resultcode), ("OUTCOME_UNKNOWN", RESULT_SILENT));
    assert!(!row.late);
    let nan = Value { kind: Some(Kind::NumberValue(f64::NAN)) };
    let result = Some(Struct { fields: [("n".to_owned(), nan)].into() });
    rows.respond(3, RespondRequest { result, ..answer(Succeeded) }, NOW);
    let row = rows.row(3).unwrap();
    assert!(row.state() == Succeeded && row.message.contains("result.n"), "{}", row.message);
    // Agents that it is not for.
    assert!(!rows.respond(4, answer(Succeeded), NOW));
    assert!(!rows.respond(0, answer(Succeeded), NOW));
}

#[test]
fn batches_go_one_after_the_other_with_a_pause() {
    let mut rows = rows(RequestRecord { pause: 500, ..record() }, &[1, 2, 2, 3]);
    assert_eq!(rows.wanted(NOW), 1);
    rows.send(9, NOW);
    assert_eq!(rows.wanted(NOW), 0);
    rows.respond(1, answer(Succeeded), NOW);
    assert_eq!(rows.wanted(NOW + 100), 0);
    assert_eq!(rows.next_time(NOW + 100), Some(NOW + 600));
    assert_eq!(rows.wanted(NOW + 599), 0);
    assert_eq!(rows.wanted(NOW + 600), 2);
    // Without room it stays ready, and does not pause anew.
    assert!(rows.send(0, NOW + 600).is_empty());
    assert_eq!((rows.wanted(NOW + 601), rows.next_time(NOW + 601)), (2, None));
    assert_eq!(rows.send(1, NOW + 700), [2]);
    assert_eq!(rows.wanted(NOW + 700), 1);
    assert_eq!(rows.send(9, NOW + 800), [3]);
    // Each has its own time.
    assert_eq!(rows.overdue(NOW + 20_700), [2]);
    rows.respond(2, answer(Succeeded), NOW);
    rows.respond(3, answer(Failed), NOW);
    assert_eq!(rows.wanted(NOW + 1000), 0);
    assert_eq!(rows.wanted(NOW + 1500), 1);
    let record = rows.record();
    assert_eq!((record.finish_time, record.deadline), (NOW + 15_800, NOW + 20_800));
}

#[test]
fn no_more_run_than_may() {
    let mut rows = rows(RequestRecord { max_parallel: 2, ..record() }, &[1, 1, 1]);
    assert_eq!(rows.wanted(NOW), 2);
    rows.send(2, NOW);
    assert_eq!(rows.wanted(NOW), 0);
    rows.respond(1, answer(Failed), NOW);
    assert_eq!(rows.wanted(NOW), 1);
}

#[test]
fn it_stops_at_the_limit_and_goes_on() {
    let mut rows = rows(RequestRecord { max_failures: Some(1), ..record() }, &[1, 1, 2, 2, 3]);
    rows.send(9, NOW);
    rows.respond(1, answer(Failed), NOW);
    rows.settle(false, NOW);
    assert_eq!(rows.record().state(), RequestState::Running);
    rows.give_up(2, Reason::AgentOffline, String::new(), NOW);
    rows.settle(false, NOW);
    assert_eq!(rows.record().state(), RequestState::Stopped);
    assert_eq!((rows.wanted(NOW), rows.send(0, NOW).len()), (0, 0));
    assert!(!rows.is_over());
    let before = rows.record().last_event;
    rows.settle(false, NOW);
    assert_eq!(rows.record().last_event, before);

    rows.resume(None, NOW).unwrap();
    assert_eq!(rows.record().last_event, before + 1);
    // It runs: nothing to resume.
    rows.resume(None, NOW).unwrap();
    assert_eq!(rows.record().last_event, before + 1);
    assert_eq!(rows.send(rows.running() + 9, NOW), [3, 4]);
    // A late answer is no failure from here on.
    assert!(rows.respond(2, answer(Failed), NOW));
    rows.respond(3, answer(Failed), NOW);
    rows.settle(false, NOW);
    assert_eq!(rows.record().state(), RequestState::Running);
    rows.resume(Some(0), NOW).unwrap();
    rows.respond(4, answer(Failed), NOW);
    rows.settle(false, NOW);
    assert_eq!(rows.record().state(), RequestState::Stopped);
    rows.resume(Some(9), NOW).unwrap();
    rows.send(9, NOW);
    rows.respond(5, answer(Failed), NOW);
    // Nothing is left to stop.
    rows.settle(false, NOW);
    assert!(rows.is_over());
    rows.end(NOW);
    assert_eq!(rows.resume(None, NOW).unwrap_err().reason, Reason::StateRefused);
    assert_eq!(rows.cancel(NOW).unwrap_err().metadata["state"], "FINISHED");
}

#[test]
fn a_cancel_skips_what_was_not_sent() {
    let mut rows = rows(RequestRecord { max_failures: Some(0), ..record() }, &[1, 1, 2, 2]);
    rows.send(9, NOW);
    rows.sent(1, NOW);
    rows.cancel(NOW).unwrap();
    // It may have been sent: it is waited for.
    assert_eq!(states(&rows), [Sent, Pending, Skipped, Skipped]);
    assert_eq!((rows.record().state(), rows.is_over()), (RequestState::Running, false));
    rows.sent(2, NOW);
    rows.cancel(NOW).unwrap();
    assert_eq!(rows.resume(None, NOW).unwrap_err().reason, Reason::StateRefused);
    rows.respond(1, answer(Failed), NOW);
    rows.respond(2, answer(Succeeded), NOW);
    rows.settle(false, NOW);
    assert!(rows.is_over());
    rows.end(NOW);
    let record = rows.record();
    assert_eq!((record.state(), record.resultcode), (RequestState::Cancelled, NOT_ALL));
    assert!(record.result.starts_with("2 of 4 agents were not sent to"), "{}", record.result);
    assert!(!rows.respond(3, answer(Succeeded), NOW));
    rows.cancel(NOW).unwrap();
}

#[test]
fn a_failed_pre_run_ends_it_before_anything_is_sent() {
    let mut rows = rows(record(), &[1, 1]);
    rows.fail("pre_run failed: no".to_owned(), NOW);
    assert_eq!(states(&rows), [Skipped, Skipped]);
    let record = rows.record();
    assert_eq!((record.state(), record.resultcode), (RequestState::Failed, PRE_RUN_FAILED));
    assert!(!rows.is_over() && rows.wanted(NOW) == 0);
}

#[test]
fn why_it_was_not_sent_is_kept_and_doubt_stays() {
    let mut rows = rows(record(), &[1]);
    rows.send(9, NOW);
    let error = |reason| Error::new(reason, "scripted");
    rows.not_sent(1, &error(Reason::BrokerUnavailable));
    assert_eq!(rows.row(1).unwrap().reason, "BROKER_UNAVAILABLE");
    rows.not_sent(1, &error(Reason::OutcomeUnknown));
    rows.not_sent(1, &error(Reason::BrokerUnavailable));
    assert_eq!(rows.row(1).unwrap().reason, "OUTCOME_UNKNOWN");
    assert_eq!(rows.being_sent().count(), 1);
    rows.sent(1, NOW);
    assert_eq!(rows.row(1).unwrap().reason, "");
    assert_eq!((rows.being_sent().count(), rows.running()), (0, 1));
    rows.not_sent(1, &error(Reason::BrokerUnavailable));
    assert_eq!(rows.row(1).unwrap().reason, "");
}

#[test]
fn what_was_not_sent_is_taken_back() {
    let mut rows = rows(record(), &[1, 1, 1]);
    rows.send(9, NOW);
    rows.sent(1, NOW);
    rows.not_sent(2, &Error::new(Reason::OutcomeUnknown, "scripted"));
    rows.not_sent(3, &Error::new(Reason::BrokerUnavailable, "scripted"));
    for agent in 1..=4 {
        rows.recall(agent);
    }
    assert_eq!((rows.running(), rows.wanted(NOW)), (2, 1));
    assert!(!rows.respond(3, answer(Succeeded), NOW));
    let row = rows.row(3).unwrap();
    assert_eq!((row.sending, row.deadline, row.reason.as_str()), (false, 0, ""));
    rows.cancel(NOW).unwrap();
    assert_eq!(states(&rows), [Sent, Pending, Skipped]);
}

#[test]
fn rows_that_are_known_at_the_beginning_are_told() {
    let gone =
        RowRecord { state: Silent.into(), reason: "QUEUE_NOT_FOUND".to_owned(), ..row(2, 1) };
    let record = RequestRecord { max_failures: Some(0), ..record() };
    let mut rows = Rows::new(record, vec![row(1, 1), gone]);
    rows.begin(NOW);
    let changes = rows.take().unwrap();
    let numbers: Vec<_> = changes.events.iter().map(|(number, e)| (*number, e.agent)).collect();
    assert_eq!(numbers, [(1, 0), (2, 2)]);
    let shown = changes.events[0].1.request.as_ref().unwrap();
    assert_eq!(shown.counts.unwrap().silent, 1);
    assert_eq!(shown.etag, rows.record().etag());
    rows.settle(false, NOW);
    assert_eq!(rows.record().state(), RequestState::Stopped);
}

#[test]
fn the_totals_of_rows_that_were_dropped_stay() {
    let mut rows = rows(RequestRecord { expire: 10, ..record() }, &[1, 1]);
    rows.send(9, NOW);
    rows.respond(1, answer(Succeeded), NOW);
    rows.give_up(2, Reason::AgentOffline, String::new(), NOW);
    rows.end(NOW);
    let before = rows.record().clone();
    for left in [0, 1] {
        let left = rows.rows.values().take(left).cloned().collect();
        assert_eq!(*Rows::new(before.clone(), left).record(), before);
    }
}

#[test]
fn who_waits_to_be_sent_to_again_is_something_to_stop() {
    let mut rows = rows(RequestRecord { max_failures: Some(0), ..record() }, &[1, 1]);
    rows.send(9, NOW);
    rows.not_sent(2, &Error::new(Reason::BrokerUnavailable, "scripted"));
    rows.respond(1, answer(Failed), NOW);
    rows.settle(false, NOW);
    assert_eq!(rows.record().state(), RequestState::Running);
    rows.settle(true, NOW);
    assert_eq!(rows.record().state(), RequestState::Stopped);
}

#[test]
fn it_is_known_when_the_first_batch_was_sent() {
    let mut rows = rows(record(), &[2, 2, 3]);
    assert!(!rows.first_batch_was_sent());
    rows.send(9, NOW);
    rows.sent(1, NOW);
    assert!(!rows.first_batch_was_sent());
    rows.give_up(2, Reason::AgentOffline, String::new(), NOW);
    assert!(rows.first_batch_was_sent());
}

#[test]
fn nothing_is_taken_when_the_rows_are_dropped() {
    let mut rows = rows(RequestRecord { expire: 10, ..record() }, &[1]);
    rows.send(9, NOW);
    rows.give_up(1, Reason::AgentOffline, String::new(), NOW);
    rows.end(NOW);
    assert_eq!(rows.record().rows_until(), Some(NOW + 10));
    assert!(!rows.respond(1, answer(Succeeded), NOW + 10));
    assert!(rows.respond(1, answer(Succeeded), NOW + 9));
}
