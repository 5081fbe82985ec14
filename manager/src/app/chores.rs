//! What the manager does by itself, until it stops.
//!
//! Invariant: a chore only takes up what is recorded, so it may be broken off anywhere.

use std::{ops::RangeInclusive, time::Duration};

use goperation::{Result, now_millis};
use tokio::sync::Notify;

use super::App;
use crate::keys;

/// Pause between looks for what has become too old.
const PURGE: Duration = Duration::from_secs(600);
/// Pause between looks for caches that have expired.
const SWEEP: Duration = Duration::from_secs(5);
/// Pause between looks for requests that are too old or too many.
const LOOK_AT_REQUESTS: Duration = Duration::from_secs(60);
/// How long it is remembered that an entity was deleted, in milliseconds: longer than any message
/// may be on its way.
const REMEMBER: u64 = 8 * 24 * 3600 * 1000;
/// Keys that are removed in one transaction.
const CHUNK: usize = 500;
/// A pause is never shorter, however often it is woken, in milliseconds.
const SHORTEST: u64 = 100;

impl App {
    /// Does everything until the manager stops.
    pub(crate) async fn chores(&self) {
        let work = async {
            tokio::join!(
                self.make_queues(),
                self.finish_deletes(),
                self.purge(),
                self.sweep(),
                self.trim(),
                self.drop_requests(),
            );
        };
        tokio::select! {
            () = work => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Waits for a jittered time, or until something is new.
    pub(super) async fn pause(&self, range: RangeInclusive<u64>, new: &Notify) {
        let pause = Duration::from_millis(rand::random_range(range));
        // An agent that fails at once must not make this spin.
        tokio::time::sleep(Duration::from_millis(SHORTEST)).await;
        let _ = tokio::time::timeout(pause, new.notified()).await;
    }

    async fn purge(&self) {
        loop {
            let now = now_millis();
            for result in [
                self.purge_claims(now).await,
                self.purge_gone(now).await,
                self.purge_keys(now).await,
            ] {
                if let Err(error) = result {
                    tracing::warn!(%error, "failed to remove what is too old");
                }
            }
            tokio::time::sleep(PURGE).await;
        }
    }

    async fn sweep(&self) {
        loop {
            if let Err(error) = self.sweep_caches(now_millis()).await {
                tracing::warn!(%error, "failed to remove expired caches");
            }
            if let Err(error) = self.drop_expired_rows(now_millis()).await {
                tracing::warn!(%error, "failed to drop rows of requests");
            }
            tokio::time::sleep(SWEEP).await;
        }
    }

    async fn drop_requests(&self) {
        loop {
            if let Err(error) = self.drop_old_requests(now_millis()).await {
                tracing::warn!(%error, "failed to remove old requests");
            }
            tokio::time::sleep(LOOK_AT_REQUESTS).await;
        }
    }

    /// Once: the bound of reports changes only with a start.
    async fn trim(&self) {
        if let Err(error) = self.trim_reports().await {
            tracing::warn!(%error, "failed to drop reports over the bound");
        }
    }

    async fn purge_claims(&self, now: u64) -> Result<()> {
        self.purge_before(keys::CLAIMS_BY_TIME, now, |rest| {
            Some(keys::claim(std::str::from_utf8(rest).ok()?))
        })
        .await
    }

    async fn purge_keys(&self, now: u64) -> Result<()> {
        self.purge_before(keys::IDEMPOTENCY_BY_TIME, now, |rest| {
            Some(keys::idempotency(std::str::from_utf8(rest).ok()?))
        })
        .await
    }

    async fn purge_gone(&self, now: u64) -> Result<()> {
        self.purge_before(keys::GONE_BY_TIME, now.saturating_sub(REMEMBER), |rest| {
            let (endpoint, number) = rest.split_last_chunk::<4>()?;
            let endpoint = std::str::from_utf8(endpoint.strip_suffix(b"/")?).ok()?;
            Some(keys::gone(endpoint, u32::from_be_bytes(*number)))
        })
        .await
    }

    /// Removes what is older than `time`: its key by time, and the key that `main` makes of it.
    async fn purge_before(
        &self,
        prefix: &[u8],
        time: u64,
        main: impl Fn(&[u8]) -> Option<goperation_store::Key>,
    ) -> Result<()> {
        loop {
            let end = keys::before(prefix, time);
            let old = self.db.keys_between(prefix.to_vec(), end, CHUNK).await?;
            let mut tx = self.db.begin();
            for key in &old {
                // Taken again meanwhile, it has another time.
                if !tx.has(key.clone()).await? {
                    continue;
                }
                if let Some(main) = keys::after_time(prefix, key).and_then(|(_, rest)| main(rest)) {
                    tx.delete(main);
                }
                tx.delete(key.clone());
            }
            if tx.commit().await? && old.len() < CHUNK {
                return Ok(());
            }
        }
    }
}
