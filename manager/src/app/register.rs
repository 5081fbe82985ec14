//! Registration: host, type and a secret become a number, once.
//!
//! Invariant: a number is given out only with the counter, the identity and the record durable
//! together, so it is never given out again.

use goperation::{
    AgentStatus, AgentType, Error, HostName, Reason, Result, Secret,
    v1::{AgentFacts, CreateAgentRequest, CreateAgentResponse},
};
use sha2::{Digest as _, Sha256};

use super::{App, once::Seal, reports};
use crate::{
    check::{self, Violations},
    db::Tx,
    keys,
    record::{AgentRecord, DeleteRecord, IdRecord, QueueJob},
};

/// Longest address, in characters.
const ADDRESS: usize = 256;

/// What is kept of a secret.
pub(crate) fn hash(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

/// Whether the secret is the agent's.
///
/// # Errors
/// `PERMISSION_DENIED`.
pub(crate) fn authorise(record: &AgentRecord, secret: &str) -> Result<()> {
    if record.secret_hash == hash(secret) {
        return Ok(());
    }
    Err(Error::new(
        Reason::PermissionDenied,
        format!("the secret is not that of agent {} on {}", record.id, record.host),
    )
    .with("agent", record.id))
}

/// What an agent says of itself, at registration and at a sync.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) address: String,
    pub(super) ports_ranges: Vec<String>,
    pub(super) facts: Option<AgentFacts>,
}

impl About {
    pub(super) fn check(&self, bad: &mut Violations) {
        if self.address.chars().count() > ADDRESS {
            bad.add("address", format!("must have at most {ADDRESS} characters"));
        }
        check::ports_ranges(bad, "ports_ranges", &self.ports_ranges);
    }

    /// Takes it into the record, and says whether that changed anything.
    pub(super) fn apply(&self, record: &mut AgentRecord) -> bool {
        let mut changed =
            record.address != self.address || record.ports_ranges != self.ports_ranges;
        record.address.clone_from(&self.address);
        record.ports_ranges.clone_from(&self.ports_ranges);
        if self.facts.is_some() && record.facts != self.facts {
            record.facts.clone_from(&self.facts);
            changed = true;
        }
        changed
    }
}

impl App {
    pub(crate) async fn create_agent(
        &self,
        q: CreateAgentRequest,
        now: u64,
        seal: Option<&Seal>,
    ) -> Result<CreateAgentResponse> {
        if q.reserve {
            return self.reserve_agent(q, now, seal).await;
        }
        let mut bad = Violations::default();
        let agent_type = bad.take(AgentType::parse("type", &q.r#type));
        let host = bad.take(HostName::parse("host", &q.host));
        let secret = bad.take(Secret::parse("secret", &q.secret));
        if !q.endpoints.is_empty() {
            bad.add("endpoints", "must be empty without reserve: an agent brings its own");
        }
        let about = About { address: q.address, ports_ranges: q.ports_ranges, facts: q.facts };
        about.check(&mut bad);
        let (Some(agent_type), Some(host), Some(secret)) = (agent_type, host, secret) else {
            return Err(bad.error());
        };
        bad.finish()?;

        let secret_hash = hash(secret.reveal());
        let identity = keys::identity(agent_type.as_str(), host.as_str());
        let mut tx = self.db.begin();
        let (record, known) = loop {
            let holder = match tx.get::<IdRecord>(identity.clone()).await? {
                Some(IdRecord { id }) => tx.get::<AgentRecord>(keys::agent(id)).await?,
                None => None,
            };
            if let Some(mut record) =
                holder.clone().filter(|holder| holder.secret_hash == secret_hash)
            {
                super::not_deleted(&record)?;
                if about.apply(&mut record) {
                    record.touch(now);
                    tx.put(keys::agent(record.id), &record);
                }
                if tx.commit().await? {
                    break (record, true);
                }
                continue;
            }
            // A reserved agent never had queues: what is there is of one before it.
            let (mut record, remove_first) = match holder {
                Some(holder) if holder.reserved && !holder.deleted => {
                    reports::forget(&mut tx, holder.id).await?;
                    (take_over(&mut tx, holder), true)
                }
                Some(holder) if !holder.deleted => return Err(taken(&holder)),
                holder => {
                    let left = match &holder {
                        Some(AgentRecord { reserved: true, .. }) => true,
                        Some(h) => tx.get::<DeleteRecord>(keys::delete(h.id)).await?.is_some(),
                        None => false,
                    };
                    (self.new_record(&mut tx, &agent_type, &host, now).await?, left)
                }
            };
            let id = record.id;
            record.secret_hash.clone_from(&secret_hash);
            record.set_status(AgentStatus::Unactive, "registered", now);
            about.apply(&mut record);
            record.touch(now);
            tx.put(keys::agent(id), &record);
            tx.put(keys::queue_job(id), &QueueJob { remove_first, former: Vec::new() });
            if tx.commit().await? {
                tracing::info!(agent = id, host = %record.host, r#type = %record.agent_type,
                    "agent registered");
                break (record, false);
            }
        };
        if !known {
            self.settle_queues_soon(record.id).await;
        }
        Ok(CreateAgentResponse { agent: Some(self.agent_view(&record).await?), known })
    }

    /// The record of a new agent under the next number, with the identity that it has from here on.
    pub(super) async fn new_record(
        &self,
        tx: &mut Tx,
        agent_type: &AgentType,
        host: &HostName,
        now: u64,
    ) -> Result<AgentRecord> {
        // Read and raised here, the counter would let one registration a flush of the store pass.
        let number = self.numbers.next(&self.db, &self.tasks, keys::agent_counter()).await?;
        let id = fitting(number, "agents")?;
        tx.put(keys::identity(agent_type.as_str(), host.as_str()), &IdRecord { id });
        Ok(AgentRecord {
            id,
            agent_type: agent_type.to_string(),
            host: host.to_string(),
            create_time: now,
            manager_generation: 1,
            ..AgentRecord::default()
        })
    }
}

/// The record of a reserved agent without what its agent says itself from here on.
fn take_over(tx: &mut Tx, reserved: AgentRecord) -> AgentRecord {
    for endpoint in &reserved.endpoints {
        tx.delete(keys::endpoint_on(&endpoint.name, reserved.id));
    }
    AgentRecord {
        reserved: false,
        endpoints: Vec::new(),
        facts: None,
        snapshot: None,
        report_time: 0,
        ..reserved
    }
}

/// The number after the last one.
pub(super) fn next_number(last: u64, what: &str) -> Result<u32> {
    fitting(last.saturating_add(1), what)
}

fn fitting(number: u64, what: &str) -> Result<u32> {
    u32::try_from(number).ok().filter(|&n| i32::try_from(n).is_ok()).ok_or_else(|| {
        Error::new(Reason::Internal, format!("there are no numbers left for {what}"))
    })
}

fn taken(holder: &AgentRecord) -> Error {
    Error::new(
        Reason::IdentityTaken,
        format!(
            "agent {} has host {} and type {} already, with another secret; start it with the \
             secret that it kept, or remove it: gop agent delete --force {}",
            holder.id, holder.host, holder.agent_type, holder.id
        ),
    )
    .with("agent", holder.id)
    .with("host", &holder.host)
    .with("type", &holder.agent_type)
}
