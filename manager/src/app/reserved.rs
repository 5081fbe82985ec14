//! Reserved agents: on record before their hosts are there.
//!
//! Invariant: a reserved agent has no secret, so nothing that an agent does works for it, and no
//! queues; the first claimant of its host and type takes its record over (see `register`).

use std::collections::BTreeSet;

use goperation::{
    AgentStatus, AgentType, EndpointName, Error, HostName, Reason, Result, now_millis,
    v1::{
        Agent, AgentEndpoint, CreateAgentRequest, CreateAgentResponse, CreateEndpointsRequest,
        CreateEndpointsResponse, DeleteEndpointsRequest, DeleteEndpointsResponse, Endpoint,
    },
};

use super::{
    App, delete_agent::mark_deleted, endpoint::not_on, hardware::check_facts, once::Seal,
    register::About,
};
use crate::{
    check::{self, Violations},
    db::Tx,
    etag, keys,
    record::{AgentRecord, IdRecord},
};

/// Names of endpoints, checked; none twice.
fn names<'a>(
    bad: &mut Violations,
    given: impl Iterator<Item = (String, &'a str)>,
) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (field, name) in given {
        if let Some(name) = bad.take(EndpointName::parse(&field, name))
            && !names.insert(name.to_string())
        {
            bad.add(field, "is there twice");
        }
    }
    names
}

fn indexed<'a>(field: &str, given: &'a [String]) -> impl Iterator<Item = (String, &'a str)> {
    given.iter().enumerate().map(move |(i, name)| (format!("{field}[{i}]"), name.as_str()))
}

fn endpoint(name: &str) -> AgentEndpoint {
    AgentEndpoint { name: name.to_owned(), ..AgentEndpoint::default() }
}

impl App {
    /// Puts an agent on record without anybody being it.
    pub(super) async fn reserve_agent(
        &self,
        q: CreateAgentRequest,
        now: u64,
        seal: Option<&Seal>,
    ) -> Result<CreateAgentResponse> {
        let mut bad = Violations::default();
        let agent_type = bad.take(AgentType::parse("type", &q.r#type));
        let host = bad.take(HostName::parse("host", &q.host));
        if !q.secret.is_empty() {
            bad.add("secret", "must be empty with reserve: who registers first brings one");
        }
        let names = names(&mut bad, indexed("endpoints", &q.endpoints));
        if let Some(facts) = &q.facts {
            check_facts(&mut bad, "facts", facts);
        }
        let about = About { address: q.address, ports_ranges: q.ports_ranges, facts: q.facts };
        about.check(&mut bad);
        let (Some(agent_type), Some(host)) = (agent_type, host) else { return Err(bad.error()) };
        bad.finish()?;

        let identity = keys::identity(agent_type.as_str(), host.as_str());
        let mut tx = self.db.begin();
        loop {
            if let Some(IdRecord { id }) = tx.get::<IdRecord>(identity.clone()).await?
                && let Some(holder) = tx.get::<AgentRecord>(keys::agent(id)).await?
                && !holder.deleted
            {
                return Err(on_record(&holder));
            }
            let mut record = self.new_record(&mut tx, &agent_type, &host, now).await?;
            record.reserved = true;
            record.set_status(AgentStatus::Unactive, "reserved", now);
            about.apply(&mut record);
            for name in &names {
                record.endpoints.push(endpoint(name));
                tx.mark(keys::endpoint_on(name, record.id));
            }
            record.touch(now);
            tx.put(keys::agent(record.id), &record);
            let agent = Some(self.agent_view(&record).await?);
            let answer = CreateAgentResponse { agent, known: false };
            if let Some(seal) = seal {
                seal.end(&mut tx, &answer);
            }
            if tx.commit().await? {
                tracing::info!(agent = record.id, host = %record.host,
                    r#type = %record.agent_type, "agent reserved");
                return Ok(answer);
            }
        }
    }

    /// Deletes a reserved agent at once: there is nobody to ask. Nothing when it is none.
    pub(super) async fn delete_reserved(&self, id: u32, etag: &str) -> Result<Option<Agent>> {
        let mut tx = self.db.begin();
        loop {
            let record = tx.get::<AgentRecord>(keys::agent(id)).await?;
            let Some(mut record) = record.filter(|record| record.reserved && !record.deleted)
            else {
                return Ok(None);
            };
            etag::check(etag, &record.etag(), &format!("agent {id}"))?;
            self.check_no_entities(&record, None).await?;
            mark_deleted(&mut record, "delete_agent", now_millis());
            for endpoint in &record.endpoints {
                tx.delete(keys::endpoint_on(&endpoint.name, id));
            }
            tx.put(keys::agent(id), &record);
            if tx.commit().await? {
                tracing::info!(agent = id, "reserved agent deleted");
                return self.agent_view(&record).await.map(Some);
            }
        }
    }

    pub(crate) async fn create_endpoints(
        &self,
        q: CreateEndpointsRequest,
        now: u64,
        seal: Option<&Seal>,
    ) -> Result<CreateEndpointsResponse> {
        let mut bad = Violations::default();
        let id = bad.take(check::number("agent_id", q.agent_id));
        let names = names(&mut bad, indexed("names", &q.names));
        if q.names.is_empty() {
            bad.add("names", "must not be empty");
        }
        let Some(id) = id else { return Err(bad.error()) };
        bad.finish()?;
        let mut tx = self.db.begin();
        loop {
            let mut record = reserved_agent(&mut tx, id).await?;
            if let Some(known) = record.endpoints.iter().find(|known| names.contains(&known.name)) {
                return Err(Error::new(
                    Reason::AlreadyExists,
                    format!(
                        "agent {id} on {} has the endpoint {} already",
                        record.host, known.name
                    ),
                )
                .with("agent", id)
                .with("endpoint", &known.name));
            }
            for name in &names {
                record.endpoints.push(endpoint(name));
                tx.mark(keys::endpoint_on(name, id));
            }
            record.endpoints.sort_by(|a, b| a.name.cmp(&b.name));
            record.touch(now);
            tx.put(keys::agent(id), &record);
            // As they are with this agent; entities may have been there before.
            let mut all = self.endpoints(Some(id)).await?;
            let added = names.iter().map(|name| {
                let known = all.remove(name).unwrap_or_default();
                Endpoint { name: name.clone(), agents: 1, ..known }
            });
            let answer = CreateEndpointsResponse { endpoints: added.collect() };
            if let Some(seal) = seal {
                seal.end(&mut tx, &answer);
            }
            if tx.commit().await? {
                return Ok(answer);
            }
        }
    }

    pub(crate) async fn delete_endpoints(
        &self,
        q: DeleteEndpointsRequest,
        now: u64,
        seal: Option<&Seal>,
    ) -> Result<DeleteEndpointsResponse> {
        let mut bad = Violations::default();
        let id = bad.take(check::number("agent_id", q.agent_id));
        let names = names(&mut bad, q.names.split(',').map(|name| ("names".to_owned(), name)));
        let Some(id) = id else { return Err(bad.error()) };
        bad.finish()?;
        let mut tx = self.db.begin();
        loop {
            let mut record = reserved_agent(&mut tx, id).await?;
            for name in &names {
                if !record.endpoints.iter().any(|known| known.name == *name) {
                    return Err(not_on(&record, name));
                }
                self.check_no_entities(&record, Some(name)).await?;
                tx.delete(keys::endpoint_on(name, id));
            }
            record.endpoints.retain(|known| !names.contains(&known.name));
            record.touch(now);
            tx.put(keys::agent(id), &record);
            let answer = DeleteEndpointsResponse {};
            if let Some(seal) = seal {
                seal.end(&mut tx, &answer);
            }
            if tx.commit().await? {
                return Ok(answer);
            }
        }
    }

    /// That an agent has no entities, of one endpoint or of any.
    async fn check_no_entities(&self, record: &AgentRecord, endpoint: Option<&str>) -> Result<()> {
        let keys = self.db.keys(keys::entities_on(record.id)).await?;
        let mut left = keys.iter().filter_map(|key| keys::split_entity_on(key));
        let Some((id, endpoint, number)) =
            left.find(|(_, of, _)| endpoint.is_none_or(|endpoint| endpoint == of))
        else {
            return Ok(());
        };
        Err(Error::new(
            Reason::EntitiesRemain,
            format!("agent {id} on {} still has {endpoint} {number}; delete it first", record.host),
        )
        .with("agent", id)
        .with("endpoint", endpoint)
        .with("entity", number))
    }
}

/// An agent whose endpoints are written here.
async fn reserved_agent(tx: &mut Tx, id: u32) -> Result<AgentRecord> {
    let record = super::live_agent(tx, id).await?;
    if record.reserved {
        return Ok(record);
    }
    Err(Error::new(
        Reason::StateRefused,
        format!(
            "the endpoints of agent {id} on {} are declared in its own configuration; only those \
             of a reserved agent are written here",
            record.host
        ),
    )
    .with("agent", id))
}

fn on_record(holder: &AgentRecord) -> Error {
    Error::new(
        Reason::AlreadyExists,
        format!(
            "agent {} has host {} and type {} already",
            holder.id, holder.host, holder.agent_type
        ),
    )
    .with("agent", holder.id)
    .with("host", &holder.host)
    .with("type", &holder.agent_type)
}
