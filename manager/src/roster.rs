//! Which agents are on record, in memory: a page of some of them needs to know how many there are,
//! an answer whether it is of who says so, a delivery whether its agents have queues, a renewal
//! whether it brings anything new, and none of them what else is on record of each.
//!
//! Invariant: it has what every transaction that was answered has made of an agent. It is derived:
//! each start makes it anew from the record.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::record::AgentRecord;

/// What every renewal of an agent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) generation: u64,
    pub(crate) manager_generation: u64,
}

/// One agent, at the revision of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    revision: u64,
    /// What is on record of it.
    said: Said,
    state: State,
    /// It has not registered yet, so it has no queues.
    reserved: bool,
    /// None when it has no secret yet.
    secret_hash: Option<[u8; 32]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Live,
    /// DELETED, and on record still.
    Deleted,
    /// No longer on record; its number is never given again.
    Gone,
}

#[derive(Debug, Default)]
struct Inner {
    agents: BTreeMap<u32, Entry>,
    live: usize,
    deleted: usize,
}

/// The agents on record.
#[derive(Debug, Default)]
pub(crate) struct Roster(Mutex<Inner>);

impl Roster {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record of an agent as it is now; what is noted late of an older one changes nothing.
    pub(crate) fn note(&self, record: &AgentRecord) {
        let state = if record.deleted { State::Deleted } else { State::Live };
        let secret_hash = record.secret_hash.as_slice().try_into().ok();
        let said = Said {
            status: record.status,
            generation: record.agent_generation,
            manager_generation: record.manager_generation,
        };
        let (revision, reserved) = (record.revision, record.reserved);
        self.inner().put(record.id, Entry { revision, said, state, reserved, secret_hash });
    }

    /// The record of an agent has been removed.
    pub(crate) fn removed(&self, id: u32) {
        let gone = Entry {
            revision: u64::MAX,
            said: Said { status: 0, generation: 0, manager_generation: 0 },
            state: State::Gone,
            reserved: false,
            secret_hash: None,
        };
        self.inner().put(id, gone);
    }

    /// How many there are that are not DELETED.
    pub(crate) fn live(&self) -> usize {
        self.inner().live
    }

    /// Of one that is not DELETED, whether it is reserved still.
    pub(crate) fn is_reserved(&self, id: u32) -> Option<bool> {
        let entry = self.inner().agents.get(&id).copied();
        entry.filter(|entry| entry.state == State::Live).map(|entry| entry.reserved)
    }

    /// Whether that is the hash of an agent's secret.
    pub(crate) fn has_secret(&self, id: u32, hash: &[u8]) -> bool {
        let secret_hash = self.inner().agents.get(&id).and_then(|entry| entry.secret_hash);
        secret_hash.is_some_and(|known| known == hash)
    }

    /// Whether that is an agent that is not DELETED, its secret, and what is on record of it already.
    pub(crate) fn says(&self, id: u32, hash: &[u8], said: Said) -> bool {
        self.inner().agents.get(&id).is_some_and(|entry| {
            entry.state == State::Live
                && entry.secret_hash.is_some_and(|known| known == hash)
                && entry.said == said
        })
    }

    /// How many there are, and the first `limit` of them whose numbers are above `after`, ascending.
    pub(crate) fn part(
        &self,
        deleted_too: bool,
        after: Option<u32>,
        limit: usize,
    ) -> (usize, Vec<u32>) {
        let inner = self.inner();
        let is_meant = |state| match state {
            State::Live => true,
            State::Deleted => deleted_too,
            State::Gone => false,
        };
        let above = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let meant = inner.agents.range(above).filter(|(_, entry)| is_meant(entry.state));
        let part = meant.map(|(&id, _)| id).take(limit).collect();
        (inner.live + if deleted_too { inner.deleted } else { 0 }, part)
    }
}

impl Inner {
    fn put(&mut self, id: u32, entry: Entry) {
        // A generation of the manager's is raised without a revision.
        let order = |entry: &Entry| (entry.revision, entry.said.manager_generation);
        if self.agents.get(&id).is_some_and(|now| order(now) > order(&entry)) {
            return;
        }
        let before = self.agents.insert(id, entry).map(|before| before.state);
        for (state, number) in [(State::Live, &mut self.live), (State::Deleted, &mut self.deleted)]
        {
            *number -= usize::from(before == Some(state));
            *number += usize::from(entry.state == state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u32, revision: u64, deleted: bool) -> AgentRecord {
        AgentRecord { id, revision, deleted, ..AgentRecord::default() }
    }

    #[test]
    fn what_is_noted_late_changes_nothing() {
        let roster = Roster::default();
        for id in 1..=5 {
            roster.note(&record(id, 1, false));
        }
        roster.note(&record(2, 3, true));
        roster.note(&record(2, 2, false));
        roster.removed(4);
        roster.note(&record(4, 9, true));
        assert_eq!(roster.part(false, None, 9), (3, vec![1, 3, 5]));
        assert_eq!(roster.part(true, None, 2), (4, vec![1, 2]));
        assert_eq!(roster.part(true, Some(2), 9), (4, vec![3, 5]));
        roster.note(&record(2, 4, false));
        assert_eq!(roster.part(false, Some(5), 9), (4, vec![]));
    }

    #[test]
    fn it_knows_who_has_not_registered_yet() {
        let roster = Roster::default();
        roster.note(&record(1, 1, false));
        roster.note(&AgentRecord { reserved: true, ..record(2, 1, false) });
        roster.note(&record(3, 1, true));
        assert_eq!(
            (roster.live(), roster.is_reserved(1), roster.is_reserved(2)),
            (2, Some(false), Some(true))
        );
        roster.note(&record(2, 2, false));
        assert_eq!(roster.is_reserved(2), Some(false));
        roster.removed(1);
        assert_eq!((roster.live(), roster.is_reserved(1), roster.is_reserved(3)), (1, None, None));
    }

    #[test]
    fn only_the_newest_secret_is_an_agents() {
        let with =
            |revision, secret_hash| AgentRecord { secret_hash, ..record(7, revision, false) };
        let (old, new) = (vec![1; 32], vec![2; 32]);
        let roster = Roster::default();
        assert!(!roster.has_secret(7, &old));
        roster.note(&with(1, Vec::new()));
        assert!(!roster.has_secret(7, &[]));
        roster.note(&with(3, new.clone()));
        roster.note(&with(2, old.clone()));
        assert_eq!((roster.has_secret(7, &old), roster.has_secret(7, &new)), (false, true));
        assert!(!roster.has_secret(8, &new));
        roster.removed(7);
        assert!(!roster.has_secret(7, &new));
    }

    #[test]
    fn a_renewal_brings_nothing_new_when_all_that_it_says_is_on_record() {
        let hash = vec![3; 32];
        let with = |revision, status, manager_generation, deleted| AgentRecord {
            secret_hash: hash.clone(),
            status,
            agent_generation: 4,
            manager_generation,
            ..record(7, revision, deleted)
        };
        let said = |status, generation, manager_generation| Said {
            status,
            generation,
            manager_generation,
        };
        let roster = Roster::default();
        assert!(!roster.says(7, &hash, said(1, 4, 1)));
        roster.note(&with(1, 1, 1, false));
        assert!(roster.says(7, &hash, said(1, 4, 1)));
        assert!(!roster.says(7, &[3; 31], said(1, 4, 1)) && !roster.says(8, &hash, said(1, 4, 1)));
        for other in [said(0, 4, 1), said(1, 5, 1), said(1, 4, 0)] {
            assert!(!roster.says(7, &hash, other), "{other:?}");
        }
        // Asked to sync, and the older one is noted late.
        roster.note(&with(1, 1, 2, false));
        roster.note(&with(1, 1, 1, false));
        assert!(!roster.says(7, &hash, said(1, 4, 1)) && roster.says(7, &hash, said(1, 4, 2)));
        roster.note(&with(2, -127, 2, true));
        assert!(!roster.says(7, &hash, said(-127, 4, 2)));
        roster.removed(7);
        assert!(!roster.says(7, &hash, said(0, 0, 0)));
    }
}
