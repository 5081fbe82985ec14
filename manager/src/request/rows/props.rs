//! Whatever happens, in whatever order: it adds up.

use goperation::v1::RespondRequest;
use proptest::{prelude::*, sample::select};

use super::{
    tests::{NOW, answer, record, row},
    *,
};

use ResponseState::{Accepted, Failed, Pending, Running, Sent, Silent, Skipped, Succeeded};

#[derive(Debug, Clone)]
enum Op {
    Wait(u64),
    Send(usize),
    Sent(u32),
    NotSent(u32, bool),
    Recall(u32),
    Respond(u32, ResponseState, i32),
    Deadlines,
    Overtime(u32),
    Cancel,
    Resume(Option<u32>),
    Write,
    /// The manager ends and another one takes it up.
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let agent = || 0..9_u32;
    let states = vec![Accepted, Running, Succeeded, Failed, Silent, Pending, Skipped];
    prop_oneof![
        3 => (0..9_000_u64).prop_map(Op::Wait),
        6 => (0..5_usize).prop_map(Op::Send),
        6 => agent().prop_map(Op::Sent),
        3 => (agent(), any::<bool>()).prop_map(|(agent, known)| Op::NotSent(agent, known)),
        1 => agent().prop_map(Op::Recall),
        12 => (agent(), select(states), -2..2_i32).prop_map(|(a, s, c)| Op::Respond(a, s, c)),
        2 => Just(Op::Deadlines),
        1 => agent().prop_map(Op::Overtime),
        1 => Just(Op::Cancel),
        2 => prop::option::of(0..3_u32).prop_map(Op::Resume),
        4 => Just(Op::Write),
        1 => Just(Op::Restart),
    ]
}

/// What is on record, and what a watcher has seen.
#[derive(Default)]
struct Stored {
    record: RequestRecord,
    rows: BTreeMap<u32, RowRecord>,
    events: Vec<EventRecord>,
}

impl Stored {
    fn write(&mut self, rows: &mut Rows) {
        let Some(changes) = rows.take() else { return };
        assert!(rows.record().revision > self.record.revision);
        self.record = rows.record().clone();
        for row in changes.rows {
            self.rows.insert(row.agent, row);
        }
        for (number, event) in changes.events {
            self.events.push(event);
            assert_eq!(usize::try_from(number).unwrap(), self.events.len());
        }
        assert_eq!(self.record.last_event, u64::try_from(self.events.len()).unwrap());
        self.check();
    }

    fn check(&self) {
        let counts = self.record.counts.unwrap();
        let count = |state: ResponseState| {
            i32::try_from(self.rows.values().filter(|row| row.state() == state).count()).unwrap()
        };
        assert_eq!(counts.pending, count(Pending));
        assert_eq!(counts.running, count(Sent) + count(Accepted) + count(Running));
        let finals = [counts.succeeded, counts.failed, counts.silent, counts.skipped];
        assert_eq!(finals, [Succeeded, Failed, Silent, Skipped].map(count));
        let sum = counts.pending + counts.running + finals.iter().sum::<i32>();
        assert_eq!((sum, sum), (counts.agents, i32::try_from(self.rows.len()).unwrap()));
        let late = self.rows.values().filter(|row| row.late).count();
        assert_eq!(counts.late, i32::try_from(late).unwrap());
        for row in self.rows.values() {
            self.check_row(row);
        }
        let ends = self.events.iter().filter(|event| event.summary).count();
        assert_eq!(ends, usize::from(self.record.has_ended()));
        if self.record.has_ended() && self.record.state() != RequestState::Failed {
            let code = if counts.silent + counts.skipped > 0 { NOT_ALL } else { 0 };
            assert_eq!(self.record.resultcode, code);
        }
    }

    fn check_row(&self, row: &RowRecord) {
        let events: Vec<_> = self.events.iter().filter(|e| e.agent == row.agent).collect();
        // What the events say last is what the row says.
        let last = events.last().map_or(Pending, |event| event.state());
        assert_eq!(last, row.state());
        let ended =
            |event: &&&EventRecord| matches!(event.state(), Succeeded | Failed | Silent | Skipped);
        let finals: Vec<_> = events.iter().filter(ended).collect();
        let first = finals.iter().filter(|event| !event.late).count();
        assert_eq!(first, usize::from(row.is_final()), "one end each");
        for pair in events.windows(2) {
            let (a, b) = (pair[0].state(), pair[1].state());
            if ended(&&pair[0]) {
                assert!(a == Silent && b != Skipped && pair[1].late, "{a:?} then {b:?}");
            } else {
                assert!(b > a || (b == a && (a == Running || a == Accepted)));
            }
        }
        assert!(row.sending || !matches!(row.state(), Sent | Accepted | Running));
    }
}

fn same(a: &Rows, b: &Rows) {
    assert_eq!(a.tally.counts(), b.tally.counts());
    assert!(a.tally.unsent().eq(b.tally.unsent()));
    assert!(a.tally.out().eq(b.tally.out()));
    assert_eq!(a.tally.batch(), b.tally.batch());
    for rows in [a, b] {
        for batch in 0..5 {
            let ready = rows.tally.unsent_of(batch).count();
            assert_eq!(rows.tally.ready_of(batch), ready);
            let mut all = rows.rows.values().filter(|row| row.batch == batch);
            assert_eq!(rows.tally.was_sent(batch), all.all(|row| row.state() != Pending));
        }
        let mut open = rows.rows.values().filter(|row| !row.is_final()).map(|row| row.agent);
        assert!(rows.unanswered(None).into_iter().eq(&mut open));
    }
    assert_eq!(a.record, b.record);
    assert_eq!(a.rows, b.rows);
}

proptest! {
    #[test]
    fn whatever_comes_in_whatever_order_it_adds_up(
        batches in prop::collection::vec(1..4_u32, 0..8),
        gone in prop::collection::vec(any::<bool>(), 8),
        max_failures in prop::option::of(0..4_u32),
        max_parallel in 0..3_u32,
        pause in select(vec![0_u64, 2_000]),
        ops in prop::collection::vec(op(), 0..120),
    ) {
        let new = RequestRecord { max_failures, max_parallel, pause, ..record() };
        let all = (1..).zip(&batches).zip(gone).map(|((agent, &batch), gone)| {
            let mut row = row(agent, batch);
            if gone && agent % 3 == 0 {
                row.set_state(Silent);
            }
            row
        });
        let mut rows = Rows::new(new, all.collect());
        rows.begin(NOW);
        let (mut now, mut stored) = (NOW, Stored::default());
        // Agents that may have got it, whatever the broker has said.
        let mut doubtful = BTreeSet::new();
        stored.write(&mut rows);
        for op in ops {
            let before: BTreeMap<_, _> =
                rows.rows.values().map(|row| (row.agent, (row.state(), row.server_time))).collect();
            match op {
                Op::Wait(time) => now += time,
                Op::Send(room) => {
                    let wanted = rows.wanted(now);
                    for agent in rows.send(wanted.min(room), now) {
                        let batch = rows.rows[&agent].batch;
                        let earlier = rows.rows.values().filter(|row| row.batch < batch);
                        prop_assert!(earlier.into_iter().all(RowRecord::is_final));
                        prop_assert!(!rows.record.cancelled);
                    }
                    if max_parallel > 0 {
                        prop_assert!(rows.running() <= usize::try_from(max_parallel).unwrap());
                    }
                }
                Op::Sent(agent) => rows.sent(agent, now),
                Op::NotSent(agent, known) => {
                    let reason =
                        if known { Reason::BrokerUnavailable } else { Reason::OutcomeUnknown };
                    if !known && rows.being_sent().any(|row| row.agent == agent) {
                        doubtful.insert(agent);
                    }
                    rows.not_sent(agent, &Error::new(reason, "scripted"));
                }
                Op::Recall(agent) => rows.recall(agent),
                Op::Respond(agent, state, resultcode) => {
                    let q = RespondRequest { resultcode, ..answer(state) };
                    let taken = rows.respond(agent, q, now);
                    if let Some(&(was, _)) = before.get(&agent) {
                        let is = rows.rows[&agent].state();
                        prop_assert!(taken || was == is);
                        // What has ended stays, unless it was silence.
                        prop_assert!(!matches!(was, Succeeded | Failed | Skipped) || !taken);
                    } else {
                        prop_assert!(!taken);
                    }
                }
                Op::Deadlines => {
                    for agent in rows.overdue(now) {
                        rows.give_up(agent, Reason::AgentOffline, String::new(), now);
                    }
                }
                Op::Overtime(agent) => {
                    rows.give_up(agent, Reason::OutcomeUnknown, String::new(), now);
                }
                Op::Cancel => drop(rows.cancel(now)),
                Op::Resume(limit) => drop(rows.resume(limit, now)),
                Op::Write => stored.write(&mut rows),
                Op::Restart => {
                    stored.write(&mut rows);
                    let all = stored.rows.values().cloned().collect();
                    let again = Rows::new(stored.record.clone(), all);
                    same(&again, &rows);
                    rows = again;
                    let all: Vec<_> = rows.being_sent().map(|row| row.agent).collect();
                    for agent in all {
                        rows.not_sent(agent, &Error::new(Reason::OutcomeUnknown, "scripted"));
                        doubtful.insert(agent);
                    }
                }
            }
            rows.settle(false, now);
            for agent in &doubtful {
                let row = &rows.rows[agent];
                prop_assert!(row.sending && row.state() != Skipped && !rows.is_unsent(*agent));
            }
            if rows.is_over() {
                rows.end(now);
            }
        }
        stored.write(&mut rows);
        // Once it sends to nobody more, each ends by its deadline.
        drop(rows.cancel(now));
        for agent in rows.overdue(now + rows.record.timeout) {
            rows.give_up(agent, Reason::OutcomeUnknown, String::new(), now);
        }
        prop_assert!(rows.rows.values().all(RowRecord::is_final));
        if rows.is_over() {
            rows.end(now);
        }
        stored.write(&mut rows);
        prop_assert!(stored.record.has_ended());
        prop_assert_eq!(rows.next_time(now), None);
    }
}
