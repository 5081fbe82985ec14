//! Leases and clocks of agents: the only thing that the manager knows and does not store.
//!
//! Invariant: after a start of the manager everyone is offline until renewed, and an agent is
//! synced once before its generations are believed.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// What is known of an agent by its renewals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Whether its lease is held.
    pub(crate) online: bool,
    /// Its clock minus ours, in milliseconds.
    pub(crate) clock_offset: i64,
}

/// What a renewal leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Renewed {
    /// The agent should sync whatever its generations are.
    pub(crate) sync: bool,
    /// The status that it carries may be older than the one on record.
    pub(crate) stale: bool,
}

/// How long after an agent's own answer a renewal may have been on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Lease {
    until: Instant,
    clock_offset: i64,
    synced: bool,
    /// When a sync may find what the last one could not decide, in milliseconds since 1970.
    sync_at: Option<u64>,
    /// When it last answered with its status.
    answered: Option<Instant>,
}

impl Lease {
    fn new(clock_offset: i64) -> Self {
        Self { until: Instant::now(), clock_offset, synced: false, sync_at: None, answered: None }
    }
}

/// The leases of all agents.
#[derive(Debug)]
pub(crate) struct Leases {
    term: Duration,
    began: Instant,
    agents: Mutex<HashMap<u32, Lease>>,
}

impl Leases {
    pub(crate) fn new(term: Duration) -> Self {
        Self { term, began: Instant::now(), agents: Mutex::default() }
    }

    fn agents(&self) -> MutexGuard<'_, HashMap<u32, Lease>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a lease lasts.
    pub(crate) fn term(&self) -> Duration {
        self.term
    }

    /// Renews a lease.
    pub(crate) fn renew(&self, id: u32, clock_offset: i64, now: u64) -> Renewed {
        let mut agents = self.agents();
        let lease = agents.entry(id).or_insert_with(|| Lease::new(clock_offset));
        lease.until = Instant::now() + self.term;
        lease.clock_offset = clock_offset;
        Renewed {
            sync: !lease.synced || lease.sync_at.is_some_and(|at| at <= now),
            stale: lease.answered.is_some_and(|at| at.elapsed() < ON_ITS_WAY),
        }
    }

    /// Notes a sync, and when another one is needed. It holds no lease.
    pub(crate) fn synced(&self, id: u32, sync_at: Option<u64>) {
        let mut agents = self.agents();
        let lease = agents.entry(id).or_insert_with(|| Lease::new(0));
        lease.synced = true;
        lease.sync_at = sync_at;
    }

    /// Notes that an agent has just answered with its status. It holds no lease.
    pub(crate) fn answered(&self, id: u32) {
        self.agents().entry(id).or_insert_with(|| Lease::new(0)).answered = Some(Instant::now());
    }

    /// Ends a lease.
    pub(crate) fn end(&self, id: u32) {
        if let Some(lease) = self.agents().get_mut(&id) {
            lease.until = Instant::now();
        }
    }

    /// Forgets an agent.
    pub(crate) fn forget(&self, id: u32) {
        self.agents().remove(&id);
    }

    /// What is known of an agent.
    pub(crate) fn seen(&self, id: u32) -> Option<Seen> {
        let lease = self.agents().get(&id).copied()?;
        Some(Seen { online: lease.until > Instant::now(), clock_offset: lease.clock_offset })
    }

    /// Whether nobody can believe any more that the agent has a lease: one from before our own
    /// start included.
    pub(crate) fn is_over(&self, id: u32) -> bool {
        match self.agents().get(&id) {
            Some(lease) => lease.until <= Instant::now(),
            None => self.began.elapsed() >= self.term,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Duration = Duration::from_secs(15);

    #[tokio::test(start_paused = true)]
    async fn a_lease_lasts_its_term_and_is_renewed() {
        let leases = Leases::new(TERM);
        assert_eq!(leases.seen(1), None);
        leases.renew(1, -7, 0);
        assert_eq!(leases.seen(1), Some(Seen { online: true, clock_offset: -7 }));
        tokio::time::advance(TERM - Duration::from_millis(1)).await;
        assert!(leases.seen(1).unwrap().online);
        leases.renew(1, 0, 0);
        tokio::time::advance(TERM - Duration::from_millis(1)).await;
        assert!(leases.seen(1).unwrap().online);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!leases.seen(1).unwrap().online);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_on_its_way_does_not_overrule_an_answer() {
        let leases = Leases::new(TERM);
        leases.answered(1);
        assert!(leases.renew(1, 0, 0).stale);
        tokio::time::advance(ON_ITS_WAY).await;
        assert!(!leases.renew(1, 0, 0).stale);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopping_agent_is_offline_at_once() {
        let leases = Leases::new(TERM);
        leases.renew(1, 0, 0);
        assert!(!leases.is_over(1));
        leases.end(1);
        assert!(leases.is_over(1) && !leases.seen(1).unwrap().online);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_from_before_the_start_is_waited_for() {
        let leases = Leases::new(TERM);
        assert!(!leases.is_over(1));
        tokio::time::advance(TERM).await;
        assert!(leases.is_over(1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_syncs_first_and_again_when_it_is_time() {
        let leases = Leases::new(TERM);
        assert!(leases.renew(1, 0, 10).sync);
        leases.synced(1, Some(20));
        assert!(!leases.renew(1, 0, 19).sync);
        assert!(leases.renew(1, 0, 20).sync);
        leases.synced(1, None);
        assert!(!leases.renew(1, 0, 99).sync);
    }
}
