//! What a sync decides about one entity: what the agent has against what is on record.
//!
//! Invariant: pure, so that every row of the table can be tested and a transaction may ask again.
//! An inventory may be older than the last answer of its agent, so nothing that the agent has
//! answered for within `grace` is taken back; the agent is asked to sync again instead.

use goperation::v1::EntityProcess;

use crate::record::{EntityRecord, PortRecord, State, since};

/// An entity as its agent reports it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reported {
    pub(crate) endpoint: String,
    pub(crate) number: u32,
    pub(crate) ready: bool,
    pub(crate) failed: bool,
    pub(crate) ports: Vec<PortRecord>,
    /// What its process does.
    pub(crate) process: Option<EntityProcess>,
}

/// What the manager has on record under a name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Known {
    /// Nothing.
    Nothing,
    /// It was deleted.
    Gone,
    /// An entity of this agent.
    Mine(Box<EntityRecord>),
    /// An entity of another agent.
    Elsewhere,
}

/// What changes on record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// Nothing.
    Nothing,
    /// It is recorded like this.
    Put(Box<EntityRecord>),
    /// Its record is removed.
    Drop,
}

/// What is decided about one entity.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) change: Change,
    /// The agent should delete it.
    pub(crate) remove: bool,
    /// When another sync may decide what this one could not.
    pub(crate) again_at: Option<u64>,
}

impl Verdict {
    const NOTHING: Self = Self { change: Change::Nothing, remove: false, again_at: None };
    const REMOVE: Self = Self { remove: true, ..Self::NOTHING };

    fn change(change: Change) -> Self {
        Self { change, ..Self::NOTHING }
    }

    fn again_at(time: u64) -> Self {
        Self { again_at: Some(time), ..Self::NOTHING }
    }
}

/// Decides about one entity of `agent`; times and `grace` in milliseconds.
pub(crate) fn decide(
    agent: u32,
    known: Known,
    reported: Option<&Reported>,
    now: u64,
    grace: u64,
) -> Verdict {
    match (known, reported) {
        (Known::Mine(record), Some(reported)) => both(*record, reported, now, grace),
        (Known::Mine(record), None) => missing(*record, now, grace),
        (Known::Elsewhere | Known::Gone, Some(_)) => Verdict::REMOVE,
        (Known::Nothing, Some(reported)) => {
            let mut record = EntityRecord {
                endpoint: reported.endpoint.clone(),
                number: reported.number,
                agent,
                ports: reported.ports.clone(),
                process: reported.process.clone(),
                create_time: now,
                finish_time: now,
                ..EntityRecord::default()
            };
            record.set(state_of(reported));
            record.touch(now);
            Verdict::change(Change::Put(Box::new(record)))
        }
        (_, None) => Verdict::NOTHING,
    }
}

fn state_of(reported: &Reported) -> State {
    match (reported.ready, reported.failed) {
        (true, _) => State::Ready,
        (_, true) => State::Failed,
        _ => State::Creating,
    }
}

fn both(mut record: EntityRecord, reported: &Reported, now: u64, grace: u64) -> Verdict {
    let state = state_of(reported);
    let same = record.state() == state && same_ports(&record.ports, &reported.ports);
    let older = since(reported.process.as_ref()) < since(record.process.as_ref());
    match record.state() {
        // What was sent may still be on its way, with the operator's own arguments.
        State::Deleting if now < record.finish_time => Verdict::again_at(record.finish_time),
        State::Deleting => Verdict::REMOVE,
        _ if same && record.process == reported.process => Verdict::NOTHING,
        // What a process has done since the answer is news at any time.
        _ if now < record.answer_time + grace && (!same || older) => {
            Verdict::again_at(record.answer_time + grace)
        }
        before => {
            // A ready entity is never created again: the agent is only about to say so.
            record.set(if state == State::Creating { before } else { state });
            record.ports.clone_from(&reported.ports);
            record.process.clone_from(&reported.process);
            // What a process does changes by itself: nobody's edit is refused for it.
            if !same {
                record.touch(now);
            }
            Verdict::change(Change::Put(Box::new(record)))
        }
    }
}

/// Whether the ports are the same; when each was reserved the two sides tell differently.
fn same_ports(a: &[PortRecord], b: &[PortRecord]) -> bool {
    let is = |p: &PortRecord, q: &PortRecord| {
        (p.port, p.protocol, &p.name) == (q.port, q.protocol, &q.name)
    };
    a.len() == b.len() && a.iter().zip(b).all(|(p, q)| is(p, q))
}

fn missing(mut record: EntityRecord, now: u64, grace: u64) -> Verdict {
    match record.state() {
        State::Ready if now < record.answer_time + grace => {
            Verdict::again_at(record.answer_time + grace)
        }
        State::Ready => {
            record.set(State::Lost);
            record.touch(now);
            Verdict::change(Change::Put(Box::new(record)))
        }
        State::Creating if now < record.finish_time + grace => {
            Verdict::again_at(record.finish_time + grace)
        }
        State::Creating | State::Deleting => Verdict::change(Change::Drop),
        State::Failed | State::Lost => Verdict::NOTHING,
    }
}

#[cfg(test)]
mod tests {
    use goperation::v1::Protocol;

    use super::*;

    const NOW: u64 = 1_000_000;
    const GRACE: u64 = 5_000;

    fn record(state: State) -> EntityRecord {
        let mut record = EntityRecord {
            endpoint: "db".into(),
            number: 3,
            agent: 1,
            ports: vec![port(7000)],
            finish_time: NOW - 2 * GRACE,
            ..EntityRecord::default()
        };
        record.set(state);
        record
    }

    fn mine(record: EntityRecord) -> Known {
        Known::Mine(Box::new(record))
    }

    fn port(port: u32) -> PortRecord {
        PortRecord { port, protocol: Protocol::Tcp.into(), ..PortRecord::default() }
    }

    fn has(ready: bool, failed: bool) -> Reported {
        Reported {
            endpoint: "db".into(),
            number: 3,
            ready,
            failed,
            ports: vec![port(7000)],
            process: None,
        }
    }

    fn verdict(known: Known, reported: Option<&Reported>) -> Verdict {
        decide(1, known, reported, NOW, GRACE)
    }

    fn state_after(verdict: &Verdict) -> Option<State> {
        match &verdict.change {
            Change::Put(record) => Some(record.state()),
            _ => None,
        }
    }

    #[test]
    fn an_unknown_entity_is_recorded() {
        for (reported, state) in [
            (has(true, false), State::Ready),
            (has(false, true), State::Failed),
            (has(false, false), State::Creating),
        ] {
            let verdict = verdict(Known::Nothing, Some(&reported));
            assert_eq!(state_after(&verdict), Some(state));
            assert!(!verdict.remove);
        }
    }

    #[test]
    fn what_is_not_this_agents_is_removed_there() {
        for known in [Known::Gone, Known::Elsewhere] {
            assert_eq!(verdict(known, Some(&has(true, false))), Verdict::REMOVE);
        }
    }

    #[test]
    fn an_agent_without_a_ready_entity_has_lost_it() {
        let lost = verdict(mine(record(State::Ready)), None);
        assert_eq!(state_after(&lost), Some(State::Lost));
        let found = verdict(mine(record(State::Lost)), Some(&has(true, false)));
        assert_eq!(state_after(&found), Some(State::Ready));
    }

    #[test]
    fn a_creation_ends_as_the_agent_says() {
        for (reported, state) in
            [(has(true, false), State::Ready), (has(false, true), State::Failed)]
        {
            let verdict = verdict(mine(record(State::Creating)), Some(&reported));
            assert_eq!(state_after(&verdict), Some(state));
        }
        assert_eq!(
            verdict(mine(record(State::Creating)), Some(&has(false, false))),
            Verdict::NOTHING
        );
    }

    #[test]
    fn a_creation_that_never_arrived_is_dropped_when_it_is_over() {
        let over = record(State::Creating);
        assert_eq!(verdict(mine(over), None), Verdict::change(Change::Drop));
        let mut open = record(State::Creating);
        open.finish_time = NOW + 1;
        assert_eq!(verdict(mine(open), None), Verdict::again_at(NOW + 1 + GRACE));
    }

    #[test]
    fn a_deletion_goes_on() {
        let deleting = record(State::Deleting);
        assert_eq!(verdict(mine(deleting.clone()), None), Verdict::change(Change::Drop));
        assert_eq!(verdict(mine(deleting.clone()), Some(&has(true, false))), Verdict::REMOVE);
        let open = EntityRecord { finish_time: NOW + 1, ..deleting };
        assert_eq!(verdict(mine(open), Some(&has(true, false))), Verdict::again_at(NOW + 1));
    }

    #[test]
    fn ports_are_as_the_agent_says() {
        let mut reported = has(true, false);
        reported.ports = vec![port(7000), port(7001)];
        let verdict = verdict(mine(record(State::Ready)), Some(&reported));
        match verdict.change {
            Change::Put(record) => assert_eq!(record.ports, reported.ports),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_process_does_changes_no_etag() {
        let before = record(State::Ready);
        let mut reported = has(true, false);
        reported.process = Some(EntityProcess { pid: 7, ..EntityProcess::default() });
        match verdict(mine(before.clone()), Some(&reported)).change {
            Change::Put(record) => {
                assert_eq!(record.process, reported.process);
                assert_eq!(record.etag(), before.etag());
                assert_eq!(verdict(mine(*record), Some(&reported)), Verdict::NOTHING);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_inventory_older_than_the_last_answer_changes_nothing() {
        let mut fresh = record(State::Ready);
        fresh.answer_time = NOW - 1;
        let again = Verdict::again_at(NOW - 1 + GRACE);
        assert_eq!(verdict(mine(fresh.clone()), None), again);
        let mut other = has(true, false);
        other.ports.clear();
        assert_eq!(verdict(mine(fresh), Some(&other)), again);
    }

    #[test]
    fn an_older_process_does_not_take_a_newer_one_back() {
        let process = |since: u64, pid| EntityProcess {
            pid,
            since: Some(goperation::to_timestamp(since)),
            ..EntityProcess::default()
        };
        let mut fresh = record(State::Ready);
        fresh.answer_time = NOW - 1;
        fresh.process = Some(process(5000, 7));
        let told = |since, pid| Reported { process: Some(process(since, pid)), ..has(true, false) };
        let again = Verdict::again_at(NOW - 1 + GRACE);
        assert_eq!(verdict(mine(fresh.clone()), Some(&told(4999, 6))), again);
        // News is taken at once; and the agent is believed in the end, whatever its clock says.
        for (answered, told) in [(NOW - 1, told(5001, 8)), (NOW - GRACE, told(4999, 6))] {
            fresh.answer_time = answered;
            match verdict(mine(fresh.clone()), Some(&told)).change {
                Change::Put(record) => assert_eq!(record.process, told.process),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_needs_its_operator_stays() {
        for state in [State::Failed, State::Lost] {
            assert_eq!(verdict(mine(record(state)), None), Verdict::NOTHING);
        }
        assert_eq!(verdict(Known::Nothing, None), Verdict::NOTHING);
    }
}
