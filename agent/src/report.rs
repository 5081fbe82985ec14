//! Reports: when the next one is due, and what it says.
//!
//! Invariant: two reports that are due are at least half an interval apart, whatever the clocks do.
//! A report that hangs, for its host or for the manager, keeps nothing else waiting.

use std::{sync::Arc, time::Duration};

use goperation::{Error, Reason, Result};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::agent::Agent;

/// Reports until `stop`. At once for the first time: an agent whose facts are not known is not
/// chosen for anything.
pub(crate) async fn reports(agent: Arc<Agent>, stop: CancellationToken) {
    let report = async {
        let mut is_first = true;
        loop {
            if let Err(error) = agent.report().await {
                warn!(%error, "not reported");
            }
            sleep(agent.next_report(is_first)).await;
            is_first = false;
        }
    };
    stop.run_until_cancelled(report).await;
}

impl Agent {
    /// Reports facts and a performance snapshot.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the manager is away, or the host says nothing in time.
    pub(crate) async fn report(&self) -> Result<()> {
        // Whatever keeps the facts keeps the snapshot: it is not waited for once more.
        let Some(facts) = self.facts.facts().await else {
            return Err(Error::new(Reason::Unavailable, "the host's facts cannot be read in time"));
        };
        let snapshot = self.facts.snapshot().await;
        self.manager.report(Some(facts), snapshot).await
    }

    /// How long until the next report.
    pub(crate) fn next_report(&self, first: bool) -> Duration {
        let interval = u64::try_from(self.config.report_interval.as_millis()).unwrap_or(u64::MAX);
        let number = self.manager.agent_id().unwrap_or(0);
        Duration::from_millis(wait(self.core.manager_now(), interval, number, first))
    }
}

/// Milliseconds from `now` to the next report: aligned to the interval, so that the reports of a
/// fleet can be laid beside each other, and splayed over a tenth of it by the agent's number, so
/// that they do not come at once.
fn wait(now: u64, interval: u64, number: u32, first: bool) -> u64 {
    let interval = interval.max(1);
    let splay = u64::from(number).wrapping_mul(7919) % (interval / 10).max(1);
    let next = (now / interval + 1).saturating_mul(interval).saturating_add(splay);
    let wait = next.saturating_sub(now);
    // Just after a report: the clock was set back, or the timer was early.
    if !first && wait < interval / 2 { wait.saturating_add(interval) } else { wait }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const FIVE_MINUTES: u64 = 300_000;

    #[test]
    fn a_fleet_is_aligned_and_does_not_come_at_once() {
        let now = 1_700_000_123_456;
        let times: Vec<_> = (1..=1000).map(|id| now + wait(now, FIVE_MINUTES, id, true)).collect();
        for time in &times {
            assert!(time % FIVE_MINUTES < FIVE_MINUTES / 10, "{time}");
        }
        let seconds: BTreeSet<_> = times.iter().map(|time| time / 1000).collect();
        assert_eq!(seconds.len(), 30, "spread over 30 seconds");
        let most = seconds.iter().map(|s| times.iter().filter(|t| *t / 1000 == *s).count()).max();
        assert!(most < Some(50), "{most:?} of 1000 in one second");
    }

    #[test]
    fn reports_follow_each_other_by_the_interval() {
        let mut now = 1_700_000_123_456;
        now += wait(now, FIVE_MINUTES, 7, true);
        for late in [0, 1, 100, 5000] {
            let next = now + late + wait(now + late, FIVE_MINUTES, 7, false);
            assert_eq!(next, now + FIVE_MINUTES, "{late}");
            now = next;
        }
        // A clock that was set back by a little does not make a second one.
        assert!(wait(now - now % FIVE_MINUTES - 2, FIVE_MINUTES, 7, false) > FIVE_MINUTES / 2);
    }

    proptest! {
        #[test]
        fn the_wait_is_never_0_nor_much_more_than_an_interval(
            now in any::<u64>(), interval in any::<u64>(), number in any::<u32>(), first: bool,
        ) {
            let wait = wait(now, interval, number, first);
            let interval = interval.max(1);
            prop_assert!(wait <= interval.saturating_mul(2));
            prop_assert!(first || wait >= interval / 2 || now > u64::MAX - interval.saturating_mul(2).min(u64::MAX / 2));
        }
    }
}
