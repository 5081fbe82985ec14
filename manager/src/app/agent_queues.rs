//! Queues of agents: made when an agent registers, bound when it syncs, and made later when the
//! broker is away.
//!
//! Invariant: what must be done is recorded before it is tried, and forgotten only when the bridge
//! has said that it is done, for the endpoints that the agent has then. At most [`AT_A_TIME`] are made
//! at a time, whoever asks.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use goperation::{Error, Reason, Result};

use super::App;
use crate::{
    keys,
    record::{AgentRecord, QueueJob},
};

/// How long the caller of a registration or sync waits for its queues.
const SOON: Duration = Duration::from_secs(3);
/// Shortest and longest pause between tries, in milliseconds.
const PAUSE: std::ops::RangeInclusive<u64> = 1_000..=2_000;
/// Agents whose queues are made at a time. Those that wait for a place have nothing half done when
/// their time is over.
pub(crate) const AT_A_TIME: usize = 16;

fn endpoints(record: &AgentRecord) -> Vec<String> {
    record.endpoints.iter().map(|endpoint| endpoint.name.clone()).collect()
}

impl App {
    /// Makes what is to be made for an agent, within a short time; else it is made later.
    pub(super) async fn settle_queues_soon(&self, id: u32) {
        match tokio::time::timeout(SOON, self.settle_queues(id)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::warn!(agent = id, %error, "queues are made later"),
            Err(_) => tracing::warn!(agent = id, "the bridge is slow; queues are made later"),
        }
        self.queues.notify_one();
    }

    /// Sees to it that an agent that has just synced has its queues: a broker may have been
    /// replaced by an empty one meanwhile.
    pub(super) async fn bind_queues(&self, record: &AgentRecord) {
        let id = record.id;
        match self.db.get::<QueueJob>(keys::queue_job(id)).await {
            Ok(None) => {}
            Ok(Some(_)) => return self.settle_queues_soon(id).await,
            Err(error) => return tracing::warn!(agent = id, %error, "queues were not bound"),
        }
        let to = record.to();
        let bind = async {
            let _place = self.queue_places.acquire().await;
            self.link.create_queues(&to, endpoints(record), Vec::new()).await
        };
        let error = match tokio::time::timeout(SOON, bind).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => Error::new(Reason::BrokerUnavailable, "the bridge is slow"),
        };
        tracing::warn!(agent = id, %error, "queues are bound later");
        let mut tx = self.db.begin();
        let noted = async {
            loop {
                if tx.get::<QueueJob>(keys::queue_job(id)).await?.is_none() {
                    tx.put(keys::queue_job(id), &QueueJob::default());
                }
                if tx.commit().await? {
                    return Ok::<_, Error>(());
                }
            }
        };
        if let Err(error) = noted.await {
            tracing::warn!(agent = id, %error, "queues were not bound");
        }
        self.queues.notify_one();
    }

    async fn settle_queues(&self, id: u32) -> Result<()> {
        let _place = self.queue_places.acquire().await;
        let key = keys::queue_job(id);
        let Some(mut job) = self.db.get::<QueueJob>(key.clone()).await? else { return Ok(()) };
        let record = self.db.get::<AgentRecord>(keys::agent(id)).await?;
        let Some(record) = record.filter(|record| !record.deleted) else {
            return self.forget_queue_job(id).await;
        };
        if job.remove_first {
            let drained = self.link.delete_queues(&record.to()).await?;
            tracing::info!(agent = id, drained, "queues of a deleted agent drained");
            let mut tx = self.db.begin();
            job = loop {
                let Some(current) = tx.get::<QueueJob>(key.clone()).await? else { return Ok(()) };
                let job = QueueJob { remove_first: false, ..current };
                tx.put(key.clone(), &job);
                if tx.commit().await? {
                    break job;
                }
            };
        }
        self.link.create_queues(&record.to(), endpoints(&record), job.former.clone()).await?;
        let mut tx = self.db.begin();
        loop {
            let now = tx.get::<AgentRecord>(keys::agent(id)).await?;
            let same = now.is_some_and(|now| endpoints(&now) == endpoints(&record));
            if tx.get::<QueueJob>(key.clone()).await?.as_ref() != Some(&job) || !same {
                // Changed meanwhile: it is done again.
                return Ok(());
            }
            tx.delete(key.clone());
            if tx.commit().await? {
                return Ok(());
            }
        }
    }

    async fn forget_queue_job(&self, id: u32) -> Result<()> {
        let mut tx = self.db.begin();
        tx.delete(keys::queue_job(id));
        while !tx.commit().await? {
            tx.delete(keys::queue_job(id));
        }
        Ok(())
    }

    /// Makes queues until the manager stops.
    pub(super) async fn make_queues(&self) {
        loop {
            match self.db.keys(keys::QUEUE_JOBS.to_vec()).await {
                Ok(jobs) => {
                    let ids: Vec<u32> =
                        jobs.iter().filter_map(|key| keys::last_number(key)).collect();
                    stream::iter(ids)
                        .for_each_concurrent(AT_A_TIME, |id| async move {
                            if let Err(error) = self.settle_queues(id).await {
                                tracing::debug!(agent = id, %error, "queues are not made yet");
                            }
                        })
                        .await;
                }
                Err(error) => tracing::warn!(%error, "failed to look for queues to make"),
            }
            self.pause(PAUSE, &self.queues).await;
        }
    }
}
