//! One reading of the host for many agents of one process.
//!
//! Invariant: the host is read once in [`FRESH`], however many ask; also a reading that failed
//! stands for so long.

use std::{path::PathBuf, time::Duration};

use goperation::v1::{AgentFacts, AgentSnapshot};
use tokio::{sync::Mutex, time::Instant};

use super::Facts;

/// How long a reading stands.
const FRESH: Duration = Duration::from_secs(60);

/// What is read of the host, once for all.
#[derive(Debug)]
pub struct SharedFacts {
    host: Facts,
    facts: Mutex<Reading<AgentFacts>>,
    snapshot: Mutex<Reading<AgentSnapshot>>,
}

/// What was read last, and when.
type Reading<T> = Option<(Instant, Option<T>)>;

impl SharedFacts {
    /// Of this host, with the disk that a folder is on.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            host: Facts::of_host(folder.into()),
            facts: Mutex::default(),
            snapshot: Mutex::default(),
        }
    }

    /// What the host is.
    pub(super) async fn facts(&self) -> Option<AgentFacts> {
        fresh(&self.facts, self.host.read_facts()).await
    }

    /// What the host does now.
    pub(super) async fn snapshot(&self) -> Option<AgentSnapshot> {
        fresh(&self.snapshot, self.host.read_snapshot()).await
    }
}

/// The last reading, or a new one, for which all others wait.
async fn fresh<T: Clone>(
    reading: &Mutex<Reading<T>>,
    read: impl Future<Output = Option<T>>,
) -> Option<T> {
    let mut reading = reading.lock().await;
    if let Some((since, read)) = &*reading
        && since.elapsed() < FRESH
    {
        return read.clone();
    }
    let read = read.await;
    *reading = Some((Instant::now(), read.clone()));
    read
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_share_one_reading() {
        let reading = Mutex::default();
        let reads = AtomicUsize::new(0);
        let read = || async { Some(reads.fetch_add(1, Ordering::Relaxed)) };
        let all = join_all((0..1000).map(|_| fresh(&reading, read()))).await;
        assert!(all.iter().all(|read| *read == Some(0)));
        tokio::time::advance(FRESH).await;
        assert_eq!(fresh(&reading, read()).await, Some(1));
        // One that failed stands too.
        tokio::time::advance(FRESH).await;
        assert_eq!(fresh(&reading, async { None }).await, None);
        assert_eq!(fresh(&reading, read()).await, None);
        assert_eq!(reads.load(Ordering::Relaxed), 2);
    }
}
