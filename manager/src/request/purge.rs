//! How requests leave the record: removed by an operator, or when they are too old or too many;
//! and their rows before, when they are kept for a time only.
//!
//! Invariant: what is left of a removed request is marked in the same transaction, so a removal
//! that was broken off is finished later. A request that has not ended is never removed.

use goperation::{Error, Reason, Result};
use goperation_store::Key;

use crate::{app::App, check, keys, record::RequestRecord};

/// Keys that are removed in one transaction.
const CHUNK: usize = 500;

impl App {
    /// Removes a request that has ended, with its rows and events.
    ///
    /// # Errors
    /// `REQUEST_NOT_FOUND`, and `STATE_REFUSED` while it has not ended.
    pub(crate) async fn remove_request(&self, id: &str) -> Result<()> {
        self.remove_ended(id, u64::MAX).await.map(drop)
    }

    /// Removes a request that has ended, if that was not after `until`; says whether it did.
    async fn remove_ended(&self, id: &str, until: u64) -> Result<bool> {
        let mut tx = self.db.begin();
        loop {
            let record: RequestRecord =
                tx.get(keys::request(id)).await?.ok_or_else(|| check::no_request(id))?;
            if !record.has_ended() {
                return Err(not_ended(&record));
            }
            if record.end_time > until {
                return Ok(false);
            }
            tx.delete(keys::request(id));
            tx.delete(keys::request_time(record.request_time, id));
            if let Some(until) = record.rows_until() {
                tx.delete(keys::request_expiry(until, id));
            }
            // What is left of it, until that is gone too.
            tx.mark(keys::request_expiry(0, id));
            if tx.commit().await? {
                break;
            }
        }
        self.drop_rows(keys::request_expiry(0, id), id).await?;
        Ok(true)
    }

    /// Drops rows whose time is over, and what is left of removed requests.
    pub(crate) async fn drop_expired_rows(&self, now: u64) -> Result<()> {
        let prefix = keys::REQUESTS_BY_EXPIRY;
        loop {
            let end = keys::before(prefix, now);
            let marks = self.db.keys_between(prefix.to_vec(), end, CHUNK).await?;
            for mark in &marks {
                let id = keys::after_time(prefix, mark).map(|(_, id)| String::from_utf8_lossy(id));
                let Some(id) = id else { continue };
                self.drop_rows(mark.clone(), &id).await?;
            }
            if marks.len() < CHUNK {
                return Ok(());
            }
        }
    }

    /// Removes rows and events, and at last the mark that they are to be removed.
    async fn drop_rows(&self, mark: Key, id: &str) -> Result<()> {
        for prefix in [keys::rows_of(id), keys::events_of(id)] {
            // Beyond any number of 8 bytes.
            let end = [prefix.as_slice(), &[u8::MAX; 9]].concat();
            loop {
                let old = self.db.keys_between(prefix.clone(), end.clone(), CHUNK).await?;
                let mut tx = self.db.begin();
                for key in &old {
                    tx.delete(key.clone());
                }
                if tx.commit().await? && old.len() < CHUNK {
                    break;
                }
            }
        }
        let mut tx = self.db.begin();
        tx.delete(mark);
        // It has read nothing, so nobody is faster.
        tx.commit().await?;
        Ok(())
    }

    /// Removes requests that have ended too long ago, and of too many the oldest.
    pub(crate) async fn drop_old_requests(&self, now: u64) -> Result<()> {
        let rules = &self.request_rules;
        let keep = u64::try_from(rules.keep.as_millis()).unwrap_or(u64::MAX);
        let most = usize::try_from(rules.most).unwrap_or(usize::MAX);
        let all = self.db.keys(keys::REQUESTS_BY_TIME.to_vec()).await?;
        let mut too_many = all.len().saturating_sub(most);
        for key in all {
            let Some((time, id)) = keys::after_time(keys::REQUESTS_BY_TIME, &key) else { continue };
            // A younger one has not ended longer ago.
            let until = match now.checked_sub(keep) {
                _ if too_many > 0 => u64::MAX,
                Some(until) if time <= until => until,
                _ => break,
            };
            match self.remove_ended(&String::from_utf8_lossy(id), until).await {
                Ok(true) => too_many = too_many.saturating_sub(1),
                Ok(false) => {}
                // Still running, or removed by somebody else.
                Err(error) if is_no_matter(error.reason) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_no_matter(reason: Reason) -> bool {
    matches!(reason, Reason::StateRefused | Reason::RequestNotFound)
}

fn not_ended(record: &RequestRecord) -> Error {
    let state = record.state().as_str_name().trim_start_matches("REQUEST_STATE_");
    let what = format!("request {} is {state}; cancel it, and wait for its end", record.id);
    Error::new(Reason::StateRefused, what).with("request", &record.id).with("state", state)
}
