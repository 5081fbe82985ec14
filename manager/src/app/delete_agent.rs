//! Delete of an agent in two phases, and what it leaves behind.
//!
//! Invariant: from the moment that the record says DELETED it says so for ever, and what is still
//! to be done then is recorded in the same transaction; before it, a broken-off delete changes
//! nothing, for the agent lets its precommit lapse.

use std::time::Duration;

use goperation::{
    AgentStatus, Error, JsonObject, MANAGER_NAMESPACE, MessageId, Reason, Result, Secret,
    now_millis,
    v1::{Agent, AgentState, CleanAgentResponse, DeleteAgentRequest},
};

use super::App;
use crate::{
    bridge_link::{Call, To},
    check,
    db::Tx,
    etag, keys,
    record::{AgentRecord, DeletePhase, DeleteRecord, EntityRecord, IdRecord, QueueJob},
};

/// Shortest and longest pause between looks at what is under way, in milliseconds.
const PAUSE: std::ops::RangeInclusive<u64> = 1_000..=2_000;
/// A first phase that is older was broken off, in milliseconds: longer than any wait.
const BROKEN_OFF: u64 = 2 * 3600 * 1000;
/// How long the second phase may be started, in milliseconds.
const POSTCOMMIT_TIME: u64 = 3600 * 1000;

/// What the first look at an agent says about a delete.
enum Begin {
    /// It is deleted already, and this is how it was left.
    Done(Box<Agent>),
    /// It is to be asked.
    Ask(DeleteRecord),
}

fn args(delete: &DeleteRecord) -> JsonObject {
    let mut args = JsonObject::new();
    args.insert("agent_id".to_owned(), delete.agent.into());
    args.insert("secret".to_owned(), delete.secret.clone().into());
    args
}

fn to(delete: &DeleteRecord) -> To {
    To { agent_type: delete.agent_type.clone(), host: delete.host.clone() }
}

impl App {
    pub(crate) async fn delete_agent(
        &self,
        q: DeleteAgentRequest,
        wait: Duration,
    ) -> Result<Agent> {
        let id = check::number("id", q.id)?;
        if let Some(agent) = self.delete_reserved(id, &q.etag).await? {
            return Ok(agent);
        }
        if q.force {
            return self.force_delete(id, &q.etag).await;
        }
        let delete = match self.begin_delete(id, &q.etag).await? {
            Begin::Done(agent) => return Ok(*agent),
            Begin::Ask(delete) => delete,
        };
        let message = MessageId::generate();
        let precommit = Call {
            to: &to(&delete),
            namespace: MANAGER_NAMESPACE,
            method: "delete_agent_precommit",
            args: args(&delete),
            id: &message,
            finish: None,
        };
        if let Err(error) = self.link.call(precommit, now_millis(), wait).await {
            self.drop_delete(&delete).await?;
            return Err(error.with("agent", id));
        }
        let record = self.commit_delete(&delete).await?;
        tracing::info!(agent = id, "agent deleted");
        self.remove_entities(id).await?;
        self.postcommit(&delete).await;
        self.deletes.notify_one();
        self.agent_view(&record).await
    }

    /// Records the intent with its secret, before the agent is asked.
    async fn begin_delete(&self, id: u32, etag: &str) -> Result<Begin> {
        let secret = Secret::generate();
        let postcommit = MessageId::generate();
        let mut tx = self.db.begin();
        loop {
            let Some(record) = tx.get::<AgentRecord>(keys::agent(id)).await? else {
                let last = tx.number(keys::agent_counter()).await?;
                return cleaned(id, last).map(Box::new).map(Begin::Done);
            };
            if record.deleted {
                if tx.commit().await? {
                    return Ok(Begin::Done(Box::new(self.agent_view(&record).await?)));
                }
                continue;
            }
            etag::check(etag, &record.etag(), &format!("agent {id}"))?;
            if tx.get::<DeleteRecord>(keys::delete(id)).await?.is_some() {
                return Err(Error::new(
                    Reason::StateRefused,
                    format!("agent {id} is being deleted by another request"),
                )
                .with("agent", id)
                .with("state", AgentStatus::PerDelete));
            }
            let delete = DeleteRecord {
                agent: id,
                agent_type: record.agent_type,
                host: record.host,
                secret: secret.reveal().to_owned(),
                phase: DeletePhase::Precommit.into(),
                postcommit: postcommit.to_string(),
                time: now_millis(),
            };
            tx.put(keys::delete(id), &delete);
            if tx.commit().await? {
                return Ok(Begin::Ask(delete));
            }
        }
    }

    /// Forgets an intent that the agent did not agree to.
    async fn drop_delete(&self, delete: &DeleteRecord) -> Result<()> {
        let key = keys::delete(delete.agent);
        let mut tx = self.db.begin();
        loop {
            if tx.get::<DeleteRecord>(key.clone()).await?.as_ref() != Some(delete) {
                return Ok(());
            }
            tx.delete(key.clone());
            if tx.commit().await? {
                return Ok(());
            }
        }
    }

    /// The record says DELETED from here on.
    async fn commit_delete(&self, delete: &DeleteRecord) -> Result<AgentRecord> {
        let id = delete.agent;
        let mut tx = self.db.begin();
        loop {
            let mut record: AgentRecord =
                tx.get(keys::agent(id)).await?.ok_or_else(|| check::no_agent(id))?;
            if record.deleted {
                // Forced meanwhile.
                return Ok(record);
            }
            if tx.get::<DeleteRecord>(keys::delete(id)).await?.as_ref() != Some(delete) {
                return Err(Error::new(
                    Reason::StateRefused,
                    format!("the delete of agent {id} was given up meanwhile; try again"),
                ));
            }
            mark_deleted(&mut record, "delete_agent", now_millis());
            for endpoint in &record.endpoints {
                tx.delete(keys::endpoint_on(&endpoint.name, id));
            }
            tx.delete(keys::queue_job(id));
            tx.put(keys::agent(id), &record);
            let phase = DeletePhase::Committed.into();
            tx.put(keys::delete(id), &DeleteRecord { phase, ..delete.clone() });
            if tx.commit().await? {
                return Ok(record);
            }
        }
    }

    async fn force_delete(&self, id: u32, etag: &str) -> Result<Agent> {
        let mut tx = self.db.begin();
        let (record, delete) = loop {
            let Some(mut record) = tx.get::<AgentRecord>(keys::agent(id)).await? else {
                return cleaned(id, tx.number(keys::agent_counter()).await?);
            };
            let former = tx.get::<DeleteRecord>(keys::delete(id)).await?;
            if record.deleted && former.is_none() {
                if tx.commit().await? {
                    return self.agent_view(&record).await;
                }
                continue;
            }
            if !record.deleted {
                etag::check(etag, &record.etag(), &format!("agent {id}"))?;
                mark_deleted(&mut record, "delete_agent --force", now_millis());
                for endpoint in &record.endpoints {
                    tx.delete(keys::endpoint_on(&endpoint.name, id));
                }
                tx.delete(keys::queue_job(id));
                tx.put(keys::agent(id), &record);
            }
            let delete = DeleteRecord {
                agent: id,
                agent_type: record.agent_type.clone(),
                host: record.host.clone(),
                phase: DeletePhase::Forced.into(),
                time: now_millis(),
                ..DeleteRecord::default()
            };
            tx.put(keys::delete(id), &delete);
            if tx.commit().await? {
                break (record, delete);
            }
        };
        tracing::info!(agent = id, "agent deleted by force");
        self.leases.end(id);
        if let Err(error) = self.finish_delete(&delete).await {
            tracing::warn!(agent = id, %error, "the rest of a delete is done later");
            self.deletes.notify_one();
        }
        self.agent_view(&record).await
    }

    /// Removes the entities of a deleted agent. None can be added any more.
    async fn remove_entities(&self, id: u32) -> Result<()> {
        for key in self.db.keys(keys::entities_on(id)).await? {
            let Some((_, endpoint, number)) = keys::split_entity_on(&key) else { continue };
            let entity = keys::entity(&endpoint, number);
            let mut tx = self.db.begin();
            loop {
                let record = tx.get::<EntityRecord>(entity.clone()).await?;
                if record.is_some_and(|record| record.agent == id) {
                    tx.delete(entity.clone());
                }
                tx.delete(key.clone());
                if tx.commit().await? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Tells the agent that it is deleted. It is told again until its lease is over, and by each
    /// of its renewals too.
    async fn postcommit(&self, delete: &DeleteRecord) {
        let Ok(message) = MessageId::parse("postcommit", &delete.postcommit) else { return };
        let postcommit = Call {
            to: &to(delete),
            namespace: MANAGER_NAMESPACE,
            method: "delete_agent_postcommit",
            args: args(delete),
            id: &message,
            finish: Some(now_millis() + POSTCOMMIT_TIME),
        };
        if let Err(error) = self.link.cast(postcommit).await {
            tracing::warn!(agent = delete.agent, %error, "a deleted agent is told later");
        }
    }

    /// Goes on with what is recorded of a delete, as far as it can now.
    async fn finish_delete(&self, delete: &DeleteRecord) -> Result<()> {
        let id = delete.agent;
        match delete.phase() {
            DeletePhase::Precommit => {
                if now_millis().saturating_sub(delete.time) > BROKEN_OFF {
                    self.drop_delete(delete).await?;
                }
                return Ok(());
            }
            DeletePhase::Committed if !self.leases.is_over(id) => {
                // It has a renewal's time to go: a repeat that comes after it has gone would only
                // be drained into the dead letters.
                let told = super::millis(self.leases.term() / 3);
                if now_millis().saturating_sub(delete.time) > told {
                    self.postcommit(delete).await;
                }
                return Ok(());
            }
            DeletePhase::Committed | DeletePhase::Forced => {}
        }
        self.remove_entities(id).await?;
        if successor(&mut self.db.begin(), delete).await?.is_none() {
            let drained = self.link.delete_queues(&to(delete)).await?;
            tracing::info!(agent = id, drained, "queues of a deleted agent removed");
        }
        let mut tx = self.db.begin();
        loop {
            // Registered anew while the queues were removed: they are made again.
            if let Some(new) = successor(&mut tx, delete).await?
                && tx.get::<QueueJob>(keys::queue_job(new)).await?.is_none()
            {
                tx.put(keys::queue_job(new), &QueueJob::default());
                self.queues.notify_one();
            }
            tx.delete(keys::delete(id));
            if tx.commit().await? {
                self.leases.forget(id);
                return Ok(());
            }
        }
    }

    /// Drops what a manager that died left in the first phase: nobody waits for its answer.
    ///
    /// # Errors
    /// When the record cannot be read or written.
    pub(crate) async fn drop_broken_deletes(&self) -> Result<()> {
        for (_, delete) in self.db.all::<DeleteRecord>(keys::DELETES.to_vec()).await? {
            if delete.phase() == DeletePhase::Precommit {
                tracing::info!(agent = delete.agent, "a broken-off delete is given up");
                self.drop_delete(&delete).await?;
            }
        }
        Ok(())
    }

    /// Goes on with deletes until the manager stops.
    pub(super) async fn finish_deletes(&self) {
        loop {
            match self.db.all::<DeleteRecord>(keys::DELETES.to_vec()).await {
                Ok(deletes) => {
                    for (_, delete) in deletes {
                        if let Err(error) = self.finish_delete(&delete).await {
                            tracing::debug!(agent = delete.agent, %error,
                                "the rest of a delete is not done yet");
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "failed to look for deletes"),
            }
            self.pause(PAUSE, &self.deletes).await;
        }
    }

    pub(crate) async fn clean_agent(&self, id: i32) -> Result<CleanAgentResponse> {
        let id = check::number("id", id)?;
        let mut tx = self.db.begin();
        loop {
            let record: AgentRecord =
                tx.get(keys::agent(id)).await?.ok_or_else(|| check::no_agent(id))?;
            if !record.deleted {
                let state =
                    AgentStatus::from_number(record.status).map_or("UNKNOWN", AgentStatus::name);
                return Err(Error::new(
                    Reason::StateRefused,
                    format!("agent {id} is {state}; only the record of a DELETED one is cleaned"),
                )
                .with("agent", id)
                .with("state", state));
            }
            let identity = keys::identity(&record.agent_type, &record.host);
            if tx.get::<IdRecord>(identity.clone()).await?.is_some_and(|holder| holder.id == id) {
                tx.delete(identity);
            }
            super::reports::forget(&mut tx, id).await?;
            tx.delete(keys::agent(id));
            if tx.commit().await? {
                return Ok(CleanAgentResponse {});
            }
        }
    }
}

/// The agent that has registered since under the host and type of a deleted one. A reserved one has
/// no queues, and whoever takes it over removes first what is left.
async fn successor(tx: &mut Tx, delete: &DeleteRecord) -> Result<Option<u32>> {
    let identity = keys::identity(&delete.agent_type, &delete.host);
    let Some(IdRecord { id }) = tx.get(identity).await? else { return Ok(None) };
    if id == delete.agent {
        return Ok(None);
    }
    let holder = tx.get::<AgentRecord>(keys::agent(id)).await?;
    Ok(holder.filter(|holder| !holder.reserved).map(|holder| holder.id))
}

pub(super) fn mark_deleted(record: &mut AgentRecord, cause: &str, now: u64) {
    record.deleted = true;
    record.set_status(AgentStatus::Deleted, cause, now);
    record.touch(now);
}

/// An agent without a record: cleaned, or there never was one.
fn cleaned(id: u32, last: u64) -> Result<Agent> {
    if u64::from(id) > last {
        return Err(check::no_agent(id));
    }
    Ok(Agent {
        id: i32::try_from(id).unwrap_or(i32::MAX),
        state: AgentState::Deleted.into(),
        status: AgentStatus::Deleted.number(),
        ..Agent::default()
    })
}
