//! A sync: the whole inventory of an agent meets the record.
//!
//! Invariant: the agent's generation is recorded last, when everything that its inventory says is
//! recorded; a sync that is broken off is simply done again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use goperation::{
    EndpointName, MethodName, Result, from_timestamp,
    v1::{
        AgentEndpoint, AgentEntity, AgentUpgrade, EntityName, Protocol, StrayProcess,
        SyncAgentRequest, SyncAgentResponse,
    },
};

use super::{
    App,
    register::{About, authorise},
};
use crate::{
    check::{self, Violations},
    db::Tx,
    keys,
    reconcile::{Change, Known, Reported, Verdict, decide},
    record::{AgentRecord, EntityRecord, GoneRecord, PortRecord, QueueJob},
};

/// Entities that are compared at a time.
const AT_A_TIME: usize = 32;

type Name = (String, u32);

/// What an agent tells of itself, beside what it is and has.
struct Told {
    upgrade: Option<AgentUpgrade>,
    strays: Vec<StrayProcess>,
    generation: u64,
}

impl App {
    pub(crate) async fn sync_agent(
        &self,
        q: SyncAgentRequest,
        now: u64,
    ) -> Result<SyncAgentResponse> {
        let id = check::number("id", q.id)?;
        let record = self.agent_record(id).await?;
        authorise(&record, &q.secret)?;
        if record.deleted {
            return Ok(SyncAgentResponse { deleted: true, ..SyncAgentResponse::default() });
        }
        let about = About { address: q.address, ports_ranges: q.ports_ranges, facts: q.facts };
        let (endpoints, reported) = inventory(&about, q.endpoints, q.entities)?;

        self.raise_counters(reported.keys()).await?;
        let (remove, again_at) = self.sync_entities(id, &reported, now).await?;
        let told = Told { upgrade: q.upgrade, strays: q.strays, generation: q.generation };
        let record = self.sync_record(id, &about, &endpoints, told, now).await?;
        self.leases.synced(id, again_at);
        self.bind_queues(&record).await;
        tracing::info!(
            agent = id,
            entities = reported.len(),
            remove = remove.len(),
            generation = q.generation,
            "agent synced"
        );
        Ok(SyncAgentResponse {
            manager_generation: record.manager_generation,
            remove,
            status: record.start_status(),
            deleted: false,
        })
    }

    /// No number that an agent has is given out again.
    async fn raise_counters<'a>(&self, names: impl Iterator<Item = &'a Name>) -> Result<()> {
        let mut highest = BTreeMap::<&str, u32>::new();
        for (endpoint, number) in names {
            let max = highest.entry(endpoint).or_default();
            *max = (*max).max(*number);
        }
        let mut tx = self.db.begin();
        loop {
            let mut raised = false;
            for (endpoint, number) in &highest {
                let key = keys::entity_counter(endpoint);
                if tx.number(key.clone()).await? < u64::from(*number) {
                    tx.put_number(key, u64::from(*number));
                    raised = true;
                }
            }
            if !raised || tx.commit().await? {
                return Ok(());
            }
        }
    }

    /// Compares every entity; answers what the agent should remove, and when to look again.
    async fn sync_entities(
        &self,
        id: u32,
        reported: &HashMap<Name, Reported>,
        now: u64,
    ) -> Result<(Vec<EntityName>, Option<u64>)> {
        let mut names: BTreeSet<Name> = reported.keys().cloned().collect();
        for key in self.db.keys(keys::entities_on(id)).await? {
            names.extend(
                keys::split_entity_on(&key).map(|(_, endpoint, number)| (endpoint, number)),
            );
        }
        // Collected: a stream of borrowed names would tie the future to one lifetime.
        let work: Vec<_> = names
            .into_iter()
            .map(|name| {
                let told = reported.get(&name).cloned();
                self.sync_entity(id, name, told, now)
            })
            .collect();
        let verdicts: Vec<(Name, Verdict)> =
            stream::iter(work).buffer_unordered(AT_A_TIME).try_collect().await?;
        let again_at = verdicts.iter().filter_map(|(_, verdict)| verdict.again_at).min();
        let mut remove: Vec<EntityName> = verdicts
            .into_iter()
            .filter(|(_, verdict)| verdict.remove)
            .map(|((endpoint, number), _)| EntityName {
                endpoint,
                number: i32::try_from(number).unwrap_or(i32::MAX),
            })
            .collect();
        remove.sort_by(|a, b| (&a.endpoint, a.number).cmp(&(&b.endpoint, b.number)));
        Ok((remove, again_at))
    }

    async fn sync_entity(
        &self,
        id: u32,
        (endpoint, number): Name,
        told: Option<Reported>,
        now: u64,
    ) -> Result<(Name, Verdict)> {
        let grace = super::millis(self.leases.term() / 3);
        let key = keys::entity(&endpoint, number);
        let mut tx = self.db.begin();
        loop {
            let known = match tx.get::<EntityRecord>(key.clone()).await? {
                Some(record) if record.agent == id => Known::Mine(Box::new(record)),
                Some(_) => Known::Elsewhere,
                None => match tx.get::<GoneRecord>(keys::gone(&endpoint, number)).await? {
                    Some(_) => Known::Gone,
                    None => Known::Nothing,
                },
            };
            let verdict = decide(id, known, told.as_ref(), now, grace);
            match &verdict.change {
                Change::Nothing => return Ok(((endpoint, number), verdict)),
                Change::Put(record) => {
                    // A deleted agent gets no entities any more.
                    super::live_agent(&mut tx, id).await?;
                    tracing::info!(
                        agent = id,
                        endpoint,
                        entity = number,
                        state = record.state().name(),
                        "sync changed an entity"
                    );
                    tx.put(key.clone(), &**record);
                    tx.mark(keys::entity_on(id, &endpoint, number));
                }
                Change::Drop => {
                    tracing::info!(agent = id, endpoint, entity = number, "sync dropped an entity");
                    drop_entity(&mut tx, id, &endpoint, number, now);
                }
            }
            if tx.commit().await? {
                return Ok(((endpoint, number), verdict));
            }
        }
    }

    async fn sync_record(
        &self,
        id: u32,
        about: &About,
        endpoints: &[AgentEndpoint],
        told: Told,
        now: u64,
    ) -> Result<AgentRecord> {
        let mut tx = self.db.begin();
        loop {
            let mut record = super::live_agent(&mut tx, id).await?;
            let mut changed = about.apply(&mut record);
            if record.upgrade != told.upgrade || record.strays != told.strays {
                record.upgrade.clone_from(&told.upgrade);
                record.strays.clone_from(&told.strays);
                changed = true;
            }
            if record.endpoints != endpoints {
                let names = |list: &[AgentEndpoint]| -> BTreeSet<String> {
                    list.iter().map(|endpoint| endpoint.name.clone()).collect()
                };
                let (before, after) = (names(&record.endpoints), names(endpoints));
                for name in before.difference(&after) {
                    tx.delete(keys::endpoint_on(name, id));
                }
                for name in after.difference(&before) {
                    tx.mark(keys::endpoint_on(name, id));
                }
                if before != after {
                    let job = tx.get::<QueueJob>(keys::queue_job(id)).await?.unwrap_or_default();
                    let mut former: BTreeSet<_> = job.former.iter().cloned().collect();
                    former.extend(before);
                    let former = former.difference(&after).cloned().collect();
                    tx.put(keys::queue_job(id), &QueueJob { former, ..job });
                }
                record.endpoints = endpoints.to_vec();
                changed = true;
            }
            if changed {
                record.touch(now);
            }
            record.agent_generation = told.generation;
            tx.put(keys::agent(id), &record);
            if tx.commit().await? {
                return Ok(record);
            }
        }
    }
}

/// Removes the record of an entity, and remembers that it was removed.
pub(super) fn drop_entity(tx: &mut Tx, agent: u32, endpoint: &str, number: u32, now: u64) {
    tx.delete(keys::entity(endpoint, number));
    tx.delete(keys::entity_on(agent, endpoint, number));
    tx.put(keys::gone(endpoint, number), &GoneRecord { time: now });
    tx.mark(keys::gone_time(now, endpoint, number));
}

/// Reads an inventory; every bad field is named.
fn inventory(
    about: &About,
    endpoints: Vec<AgentEndpoint>,
    entities: Vec<AgentEntity>,
) -> Result<(Vec<AgentEndpoint>, HashMap<Name, Reported>)> {
    let mut bad = Violations::default();
    about.check(&mut bad);
    let mut known = BTreeMap::new();
    for (i, mut endpoint) in endpoints.into_iter().enumerate() {
        let field = format!("endpoints[{i}]");
        let name = bad.take(EndpointName::parse(&format!("{field}.name"), &endpoint.name));
        for (j, method) in endpoint.methods.iter().enumerate() {
            bad.take(MethodName::parse(&format!("{field}.methods[{j}].name"), &method.name));
        }
        if let Some(name) = name {
            endpoint.name = name.to_string();
            if known.insert(endpoint.name.clone(), endpoint).is_some() {
                bad.add(format!("{field}.name"), "is there twice");
            }
        }
    }
    let mut reported = HashMap::new();
    for (i, entity) in entities.into_iter().enumerate() {
        let field = format!("entities[{i}]");
        let name = bad.take(EndpointName::parse(&format!("{field}.endpoint"), &entity.endpoint));
        let number = bad.take(check::number(&format!("{field}.number"), entity.number));
        let mut ports = Vec::with_capacity(entity.ports.len());
        for (j, port) in entity.ports.iter().enumerate() {
            let field = format!("{field}.ports[{j}]");
            match (u16::try_from(port.port), Protocol::try_from(port.protocol)) {
                (Ok(number), Ok(protocol)) if number > 0 => ports.push(PortRecord {
                    port: number.into(),
                    protocol: protocol.into(),
                    name: port.name.clone(),
                    create_time: port.create_time.as_ref().map_or(0, from_timestamp),
                }),
                (Err(_) | Ok(_), Ok(_)) => bad.add(format!("{field}.port"), "must be a port"),
                _ => bad.add(format!("{field}.protocol"), "must be TCP, UDP or BOTH"),
            }
        }
        ports.sort_by_key(|port| (port.port, port.protocol));
        if let (Some(name), Some(number)) = (name, number) {
            let name = name.to_string();
            let entity = Reported {
                endpoint: name.clone(),
                number,
                ready: entity.ready,
                failed: entity.failed,
                ports,
                process: entity.process,
            };
            reported.insert((name, number), entity);
        }
    }
    bad.finish()?;
    Ok((known.into_values().collect(), reported))
}
