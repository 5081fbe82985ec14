//! Agents as an operator sees and edits them.

use std::collections::HashMap;

use goperation::{
    AgentStatus, Error, Result,
    v1::{
        Agent, AgentFacts, AgentState, EditAgentRequest, EditAgentResponse, IndexAgentsRequest,
        IndexAgentsResponse, NewAgentResponse, UpdateAgentRequest,
    },
};
use goperation_store::Key;

use super::{App, hardware::Hardware, once::Seal};
use crate::{
    check, etag,
    filter::{Cell, Field, Filter, Kind, Row},
    keys,
    mask::{self, Change},
    page::{Ask, Page},
    record::AgentRecord,
};

const FIELDS: &[Field] = &[
    Field("id", Kind::Number),
    Field("type", Kind::Text),
    Field("host", Kind::Text),
    Field(
        "state",
        Kind::Name(&[
            "ACTIVE",
            "UNACTIVE",
            "SOFTBUSY",
            "INITIALIZING",
            "HARDBUSY",
            "DELETED",
            "PERDELETE",
        ]),
    ),
    Field("status", Kind::Number),
    Field("online", Kind::Flag),
    Field("endpoint", Kind::Set),
    Field("labels", Kind::Labels),
];

impl Row for Agent {
    fn cell(&self, field: &str) -> Cell<'_> {
        match field {
            "id" => Cell::Number(self.id.into()),
            "type" => Cell::Text(&self.r#type),
            "host" => Cell::Text(&self.host),
            "state" => AgentStatus::from_number(self.status)
                .map_or(Cell::None, |status| Cell::Text(status.name())),
            "status" => Cell::Number(self.status.into()),
            "online" => Cell::Flag(self.online),
            "endpoint" => Cell::Set(&self.endpoints),
            _ => Cell::None,
        }
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }
}

#[derive(Debug, Clone, Copy)]
enum By {
    Id,
    Host,
    Type,
    Status,
    Cpu,
    Memory,
    Disk,
    CreateTime,
}

fn order(text: &str) -> Result<(By, bool)> {
    let mut words = text.split_whitespace();
    let by = match words.next() {
        None | Some("id") => By::Id,
        Some("host") => By::Host,
        Some("type") => By::Type,
        Some("status") => By::Status,
        Some("cpu") => By::Cpu,
        Some("memory") => By::Memory,
        Some("disk") => By::Disk,
        Some("create_time") => By::CreateTime,
        Some(_) => return Err(bad_order()),
    };
    let descending = match (words.next(), words.next()) {
        (None, _) | (Some("asc"), None) => false,
        (Some("desc"), None) => true,
        _ => return Err(bad_order()),
    };
    Ok((by, descending))
}

fn bad_order() -> Error {
    Error::invalid(
        "order_by",
        "must be id, host, type, status, cpu, memory, disk or create_time, each with optional desc",
    )
}

/// A number so that the order of bytes is that of numbers, negative ones included.
fn ordered(number: i32) -> Vec<u8> {
    (i64::from(number) - i64::from(i32::MIN)).to_be_bytes().to_vec()
}

impl By {
    /// The number at the end makes each key its own.
    fn key(self, record: &AgentRecord) -> Vec<u8> {
        let fact = |get: fn(&AgentFacts) -> i32| ordered(record.facts.as_ref().map_or(0, get));
        let first = match self {
            Self::Id => Vec::new(),
            Self::Host => [record.host.as_bytes(), &[0]].concat(),
            Self::Type => [record.agent_type.as_bytes(), &[0]].concat(),
            Self::Status => ordered(record.status),
            Self::Cpu => fact(|facts| facts.cpu),
            Self::Memory => fact(|facts| facts.memory_mib),
            Self::Disk => fact(|facts| facts.disk_mib),
            Self::CreateTime => record.create_time.to_be_bytes().to_vec(),
        };
        [first.as_slice(), &record.id.to_be_bytes()].concat()
    }
}

/// Entities by agent, of keys of [`keys::entity_on`].
fn count_entities(on: &[Key]) -> HashMap<u32, usize> {
    let mut counts = HashMap::new();
    for (agent, _, _) in on.iter().filter_map(|key| keys::split_entity_on(key)) {
        *counts.entry(agent).or_default() += 1;
    }
    counts
}

impl App {
    /// Reads a filter of agents.
    pub(crate) fn agent_filter(text: &str) -> Result<Filter> {
        Filter::parse(text, FIELDS)
    }

    /// Number of entities on each agent that has any.
    pub(crate) async fn entity_counts(&self) -> Result<HashMap<u32, usize>> {
        Ok(count_entities(&self.db.keys(keys::ENTITIES_ON.to_vec()).await?))
    }

    /// An agent as clients see it.
    pub(super) async fn agent_view(&self, record: &AgentRecord) -> Result<Agent> {
        let entities = self.db.keys(keys::entities_on(record.id)).await?.len();
        Ok(record.to_api(self.leases.seen(record.id), entities))
    }

    pub(super) async fn agent_record(&self, id: u32) -> Result<AgentRecord> {
        self.db.get(keys::agent(id)).await?.ok_or_else(|| check::no_agent(id))
    }

    pub(super) async fn agent_records(&self) -> Result<Vec<AgentRecord>> {
        let rows = self.db.all(keys::AGENTS.to_vec()).await?;
        Ok(rows.into_iter().map(|(_, record)| record).collect())
    }

    /// A page of agents that pass a filter; `keep` limits them beforehand.
    pub(super) async fn agent_page(
        &self,
        ask: Result<Ask>,
        filter: &str,
        order_by: &str,
        keep: impl Fn(&AgentRecord) -> bool,
    ) -> Result<Page<Agent>> {
        let filter = check::both(Self::agent_filter(filter), order(order_by));
        let (ask, (filter, (by, descending))) = check::both(ask, filter)?;
        let counts = self.entity_counts().await?;
        let rows = self.agent_records().await?.into_iter().filter(keep).map(|record| {
            let entities = counts.get(&record.id).copied().unwrap_or_default();
            (by.key(&record), record.to_api(self.leases.seen(record.id), entities))
        });
        Ok(ask.cut(rows.filter(|(_, agent)| filter.passes(agent)).collect(), descending))
    }

    /// A page of all agents by their numbers: only what it shows is read, however many there are.
    async fn agents_by_id(&self, ask: &Ask, deleted_too: bool) -> Result<Page<Agent>> {
        let after = ask.after().and_then(keys::last_number);
        let (total, mut ids) = self.db.roster.part(deleted_too, after, ask.rows() + 1);
        let total = i32::try_from(total).unwrap_or(i32::MAX);
        let more = ids.len() > ask.rows();
        ids.truncate(ask.rows());
        let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else {
            return Ok(Page { rows: Vec::new(), next: String::new(), total });
        };
        let end = [keys::agent(last), vec![0]].concat();
        let records: Vec<(_, AgentRecord)> = self.db.between(keys::agent(first), end).await?;
        let (start, end) = (keys::entities_on(first), keys::after_entities_on(last));
        let counts = count_entities(&self.db.keys_between(start, end, usize::MAX).await?);
        let records = records.iter().map(|(_, record)| record);
        let shown = records.filter(|record| ids.binary_search(&record.id).is_ok());
        let rows = shown.map(|record| {
            let entities = counts.get(&record.id).copied().unwrap_or_default();
            record.to_api(self.leases.seen(record.id), entities)
        });
        let next = if more { ask.token(&last.to_be_bytes()) } else { String::new() };
        Ok(Page { rows: rows.collect(), next, total })
    }

    pub(crate) async fn index_agents(&self, q: IndexAgentsRequest) -> Result<IndexAgentsResponse> {
        let deleted = q.show_deleted.to_string();
        let query = ["agents", q.filter.as_str(), q.order_by.as_str(), deleted.as_str()];
        let ask = Ask::new(q.page_size, &q.page_token, &query);
        let is_plain = q.filter.trim().is_empty()
            && order(&q.order_by).is_ok_and(|by| matches!(by, (By::Id, false)));
        let page = match ask {
            Ok(ask) if is_plain => self.agents_by_id(&ask, q.show_deleted).await?,
            ask => {
                let keep = |record: &AgentRecord| q.show_deleted || !record.deleted;
                self.agent_page(ask, &q.filter, &q.order_by, keep).await?
            }
        };
        Ok(IndexAgentsResponse {
            agents: page.rows,
            next_page_token: page.next,
            total_size: page.total,
        })
    }

    pub(crate) fn new_agent() -> NewAgentResponse {
        let mut constraints = mask::constraints();
        for (field, text) in [
            ("type", "a letter, then letters, digits or dashes, at most 64"),
            ("host", "a host name, at most 128 characters"),
            ("secret", "16 to 256 characters that only the agent has; none with reserve"),
            ("reserve", "only puts the agent on record, for whoever registers as it first"),
            ("endpoints", "only with reserve: an agent brings its own"),
            ("address", "at most 256 characters"),
            ("ports_ranges", "each a-b or a, both ends usable, from 1024 to 65535"),
        ] {
            constraints.insert(field.to_owned(), text.to_owned());
        }
        let agent = Agent {
            r#type: "application".to_owned(),
            state: AgentState::Unactive.into(),
            status: AgentStatus::Unactive.number(),
            ..Agent::default()
        };
        NewAgentResponse { agent: Some(agent), constraints }
    }

    pub(crate) async fn show_agent(&self, id: i32) -> Result<Agent> {
        let record = self.agent_record(check::number("id", id)?).await?;
        self.agent_view(&record).await
    }

    pub(crate) async fn update_agent(&self, q: UpdateAgentRequest, now: u64) -> Result<Agent> {
        let agent = q.agent.ok_or_else(|| Error::invalid("agent", "must be given"))?;
        let change = Change::whole("agent", &agent.description, &agent.labels)?;
        self.change_agent(&agent, &change, &Hardware::default(), now, None).await
    }

    pub(crate) async fn edit_agent(
        &self,
        q: EditAgentRequest,
        now: u64,
        seal: Option<&Seal>,
    ) -> Result<Agent> {
        let agent = q.agent.ok_or_else(|| Error::invalid("agent", "must be given"))?;
        let mask = q.update_mask.as_ref();
        let change =
            Change::masked("agent", mask, &agent.description, &agent.labels, Hardware::PATHS)?;
        let masked = mask.is_some_and(|mask| !mask.paths.is_empty());
        let hardware = Hardware::read(&agent, masked.then(|| change.more()));
        self.change_agent(&agent, &change, &hardware, now, seal).await
    }

    async fn change_agent(
        &self,
        agent: &Agent,
        change: &Change,
        hardware: &Hardware,
        now: u64,
        seal: Option<&Seal>,
    ) -> Result<Agent> {
        let id = check::number("agent.id", agent.id)?;
        let mut tx = self.db.begin();
        loop {
            let mut record: AgentRecord =
                tx.get(keys::agent(id)).await?.ok_or_else(|| check::no_agent(id))?;
            etag::check(&agent.etag, &record.etag(), &format!("agent {id}"))?;
            let changed = hardware.apply(&mut record)?;
            if change.apply(&mut record.description, &mut record.labels) || changed {
                record.touch(now);
                tx.put(keys::agent(id), &record);
            }
            let view = self.agent_view(&record).await?;
            if let Some(seal) = seal {
                seal.end(&mut tx, &EditAgentResponse { agent: Some(view.clone()) });
            }
            if tx.commit().await? {
                return Ok(view);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders() {
        for good in ["", "id", "host desc", " type  desc ", "create_time asc", "memory desc"] {
            assert!(order(good).is_ok(), "{good}");
        }
        for bad in ["etag", "id down", "id desc desc", "id,host"] {
            assert!(order(bad).is_err(), "{bad}");
        }
    }
}
