//! `/allagents` and `/agents`.

use std::collections::BTreeMap;

use goperation::{
    Error, Result, now_millis, to_timestamp,
    v1::{
        ActivateAgentRequest, Agent, AgentFacts, AgentSnapshot, AgentState, CleanAgentRequest,
        CreateAgentRequest, DeleteAgentRequest, EditAgentRequest, IndexAgentsRequest,
        IndexEntitiesRequest, ReportAgentRequest,
    },
};
use prost_types::FieldMask;
use serde_json::{Value, json};

use super::{
    Call,
    clients::{self, Clients, ask, timed},
    envelope::Envelope,
    fields::{Fields, agent_type, host},
    metadata,
    rows::{self, Hardware},
};

/// Pages of the services in a page of the old REST: 2000 rows.
const PAGES: usize = 2;
/// ONLINE_EXIST_EXPAND: how much longer than said a report is kept, in seconds.
const LONGER: i32 = 60;
/// Columns by which agents can be ordered, and the fields that they are.
const COLUMNS: [(&str, &str); 8] = [
    ("agent_id", "id"),
    ("host", "host"),
    ("agent_type", "type"),
    ("status", "status"),
    ("cpu", "cpu"),
    ("memory", "memory"),
    ("disk", "disk"),
    ("create_time", "create_time"),
];

/// Agents that fit.
pub(super) async fn agents_like(
    clients: &Clients,
    query: &IndexAgentsRequest,
    first: usize,
    count: usize,
) -> Result<Vec<Agent>> {
    clients::list(first, count, |page_size, page_token| {
        let query = IndexAgentsRequest { page_size, page_token, ..query.clone() };
        let mut client = clients.agents();
        async move {
            let page = ask(client.index_agents(timed(query))).await?;
            Ok((page.agents, page.next_page_token))
        }
    })
    .await
}

pub(super) async fn all(call: Call) -> Result<Envelope> {
    let agents = agents_like(&call.clients, &IndexAgentsRequest::default(), 0, usize::MAX).await?;
    let ids = agents.iter().map(|agent| agent.id.into()).collect();
    Ok(Envelope::new("list all agents success", ids))
}

fn order_by(body: &mut Fields) -> Result<String> {
    let column = body.text("order")?;
    let descending = body.flag("desc", false)?;
    let field = match column.as_deref() {
        None => "id",
        Some(column) => {
            COLUMNS.iter().find(|(name, _)| *name == column).map(|(_, field)| *field).ok_or_else(
                || {
                    let columns = COLUMNS.map(|(name, _)| name).join(", ");
                    Error::invalid("order", format!("must be one of {columns}"))
                },
            )?
        }
    };
    Ok(if descending { format!("{field} desc") } else { field.to_owned() })
}

pub(super) async fn index(mut call: Call) -> Result<Envelope> {
    let body = &mut call.body;
    let wanted = body.text("agent_type")?;
    let wanted = wanted.map(|text| agent_type("agent_type", &text)).transpose()?;
    let deleted = body.flag("deleted", false)?;
    let order_by = order_by(body)?;
    let number = body.count("page_num")?.unwrap_or_default().unsigned_abs();
    let conditions = [
        wanted.map(|name| format!("type = \"{name}\"")),
        deleted.then(|| "state = DELETED".to_owned()),
    ];
    let filter: Vec<_> = conditions.into_iter().flatten().collect();
    let query = IndexAgentsRequest {
        filter: filter.join(" AND "),
        order_by,
        show_deleted: deleted,
        ..IndexAgentsRequest::default()
    };
    let first = usize::try_from(number).unwrap_or(usize::MAX).saturating_mul(PAGES);
    let agents = agents_like(&call.clients, &query, first, PAGES).await?;
    if number > 0 && agents.is_empty() {
        return Err(Error::invalid("page_num", "is past the last page"));
    }
    let row = |agent: &Agent| {
        let Hardware { cpu, memory, disk } = Hardware::of(agent);
        json!({
            "agent_id": agent.id,
            "host": agent.host,
            "agent_type": agent.r#type,
            "status": agent.status,
            "cpu": cpu,
            "memory": memory,
            "disk": disk,
            "endpoints": agent.endpoints,
            "create_time": rows::seconds(agent.create_time.as_ref()),
        })
    };
    let rows = agents.iter().map(row).collect();
    Ok(Envelope::new("list agents success", rows).on_page(number))
}

pub(super) async fn create(mut call: Call) -> Result<Envelope> {
    let body = &mut call.body;
    let request = CreateAgentRequest {
        host: host("host", &body.needed_text("host")?)?,
        r#type: agent_type("agent_type", &body.needed_text("agent_type")?)?,
        facts: Some(AgentFacts {
            cpu: body.needed_count("cpu")?,
            memory_mib: body.needed_count("memory")?,
            disk_mib: body.needed_count("disk")?,
            ..AgentFacts::default()
        }),
        ports_ranges: body.texts("ports_range")?.unwrap_or_default(),
        endpoints: body.endpoints("endpoints")?.unwrap_or_default(),
        reserve: true,
        ..CreateAgentRequest::default()
    };
    let created = ask(call.clients.agents().create_agent(timed(request))).await?;
    let agent = created.agent.unwrap_or_default();
    let row = json!({
        "agent_id": agent.id,
        "host": agent.host,
        "status": agent.status,
        "ports_range": agent.ports_ranges,
        "endpoints": agent.endpoints,
    });
    Ok(Envelope::new("Create agent success", vec![row]))
}

pub(super) async fn show(mut call: Call) -> Result<Envelope> {
    let with_ports = call.body.flag("ports", false)?;
    // Ports stand with their entities.
    let with_entities = call.body.flag("entitys", false)? || with_ports;
    let agent = call.clients.agent(call.agent_id()?).await?;
    let mut endpoints: BTreeMap<&str, Vec<Value>> =
        agent.endpoints.iter().map(|name| (name.as_str(), Vec::new())).collect();
    let query = IndexEntitiesRequest { agent_id: agent.id, ..IndexEntitiesRequest::default() };
    let entities = if with_entities { entities_like(&call.clients, &query).await? } else { vec![] };
    for entity in &entities {
        let row = rows::entity(entity, with_ports);
        endpoints.entry(&entity.endpoint).or_default().push(row);
    }
    let Hardware { cpu, memory, disk } = Hardware::of(&agent);
    let row = json!({
        "agent_id": agent.id,
        "host": agent.host,
        "agent_type": agent.r#type,
        "status": agent.status,
        "cpu": cpu,
        "memory": memory,
        "disk": disk,
        "ports_range": agent.ports_ranges,
        "endpoints": endpoints,
        "metadata": metadata::of(&call.clients, &agent).await?,
    });
    Ok(Envelope::new("Show agent success", vec![row]))
}

/// Entities that fit.
pub(super) async fn entities_like(
    clients: &Clients,
    query: &IndexEntitiesRequest,
) -> Result<Vec<goperation::v1::Entity>> {
    clients::whole(|page_size, page_token| {
        let query = IndexEntitiesRequest { page_size, page_token, ..query.clone() };
        let mut client = clients.entities();
        async move {
            let page = ask(client.index_entities(timed(query))).await?;
            Ok((page.entities, page.next_page_token))
        }
    })
    .await
}

pub(super) async fn delete(mut call: Call) -> Result<Envelope> {
    let force = call.body.flag("force", false)?;
    let before = call.clients.agent(call.agent_id()?).await?;
    // Gone with the agent, so it is looked at first.
    let metadata = metadata::of(&call.clients, &before).await?;
    let request = DeleteAgentRequest { id: before.id, force, etag: String::new() };
    let deleted = ask(call.clients.agents().delete_agent(timed(request))).await?;
    let agent = deleted.agent.unwrap_or_default();
    let row = json!({
        "agent_id": before.id,
        "host": before.host,
        "status": agent.status,
        "metadata": metadata,
        "ports_range": before.ports_ranges,
    });
    Ok(Envelope::new("Delete agent success", vec![row]))
}

pub(super) async fn clean(call: Call) -> Result<Envelope> {
    let request = CleanAgentRequest { id: call.agent_id()? };
    ask(call.clients.agents().clean_agent(timed(request))).await?;
    Ok(Envelope::new("Clean agent success", Vec::new()))
}

pub(super) async fn active(mut call: Call) -> Result<Envelope> {
    let state = match call.body.int("status")? {
        None | Some(1) => AgentState::Active,
        Some(0) => AgentState::Unactive,
        Some(_) => return Err(Error::invalid("status", "must be 1 or 0")),
    };
    let id = call.clients.agent(call.agent_id()?).await?.id;
    let request = ActivateAgentRequest { id, state: state.into() };
    let changed = ask(call.clients.agents().activate_agent(timed(request))).await?;
    let agent = changed.agent.unwrap_or_default();
    let row = json!({
        "agent_id": agent.id,
        "host": agent.host,
        "agent_type": agent.r#type,
        "metadata": metadata::of(&call.clients, &agent).await?,
        "status": agent.status,
    });
    Ok(Envelope::new("Active agent success", vec![row]))
}

pub(super) async fn edit(mut call: Call) -> Result<Envelope> {
    let body = &mut call.body;
    let (mut facts, mut row) = (AgentFacts::default(), json!({}));
    let mut paths = Vec::new();
    for (column, path, value) in [
        ("cpu", "facts.cpu", &mut facts.cpu),
        ("memory", "facts.memory_mib", &mut facts.memory_mib),
        ("disk", "facts.disk_mib", &mut facts.disk_mib),
    ] {
        if let Some(count) = body.count(column)? {
            *value = count;
            row[column] = count.into();
            paths.push(path.to_owned());
        }
    }
    let ports_ranges = body.texts("ports_range")?;
    if let Some(ranges) = &ports_ranges {
        // It was answered as its column had it.
        row["ports_range"] = json!(ranges).to_string().into();
        paths.push("ports_ranges".to_owned());
    }
    if let Some(column) = std::mem::take(body).rest().keys().next() {
        return Err(Error::invalid(column, "cannot be edited"));
    }
    if paths.is_empty() {
        return Err(Error::invalid("body", "has nothing to edit"));
    }
    let id = call.clients.agent(call.agent_id()?).await?.id;
    let agent = Agent {
        id,
        facts: Some(facts),
        ports_ranges: ports_ranges.unwrap_or_default(),
        ..Agent::default()
    };
    let request = EditAgentRequest { agent: Some(agent), update_mask: Some(FieldMask { paths }) };
    ask(call.clients.agents().edit_agent(timed(request))).await?;
    Ok(Envelope::new("Edit agent success", vec![row]))
}

pub(super) async fn report(mut call: Call) -> Result<Envelope> {
    let metadata = call.body.present("metadata")?;
    let expire = call.body.present_count("expire")?;
    let snapshot = match call.body.value("snapshot") {
        None => None,
        Some(Value::Object(snapshot)) => Some(read_snapshot(Fields::new(snapshot))?),
        Some(_) => return Err(Error::invalid("snapshot", "must be an object or null")),
    };
    let agent = call.clients.agent(call.agent_id()?).await?;
    let request = ReportAgentRequest { id: agent.id, snapshot, ..ReportAgentRequest::default() };
    ask(call.clients.agents().report_agent(timed(request))).await?;
    let of = (agent.r#type.as_str(), agent.host.as_str());
    let seconds = expire.saturating_add(LONGER);
    match metadata {
        Value::Null => metadata::keep_on(&call.clients, of, seconds).await?,
        Value::Object(metadata) => metadata::keep(&call.clients, of, metadata, seconds).await?,
        _ => return Err(Error::invalid("metadata", "must be an object or null")),
    }
    Ok(Envelope::new("report success", Vec::new()))
}

/// An old snapshot as ours, which has the time of its arrival: the old one had it by the clock on
/// the wall of its host.
fn read_snapshot(mut old: Fields) -> Result<AgentSnapshot> {
    let mut count = |name| old.count(name).map(Option::unwrap_or_default);
    let (free, cached) = (count("free")?, count("cached")?);
    let (running, sleeping) = (count("running")?, count("sleeping")?);
    let counted = AgentSnapshot {
        time: Some(to_timestamp(now_millis())),
        memory_free_mib: free.saturating_add(cached),
        memory_used_mib: count("used")?,
        memory_cached_mib: cached,
        memory_buffers_mib: count("buffers")?,
        memory_unused_mib: free,
        disk_free_mib: count("left")?,
        processes: running.saturating_add(sleeping),
        running,
        sleeping,
        num_fds: count("num_fds")?,
        num_threads: count("num_threads")?,
        listen: count("listen")?,
        syn: count("syn")?,
        established: count("enable")?,
        closing: count("closeing")?,
        ..AgentSnapshot::default()
    };
    Ok(AgentSnapshot {
        context: old.measure("context")?,
        interrupts: old.measure("interrupts")?,
        soft_interrupts: old.measure("sinterrupts")?,
        user: old.measure("user")?,
        nice: old.measure("nice")?,
        system: old.measure("system")?,
        iowait: old.measure("iowait")?,
        irq: old.measure("irq")?,
        soft_irq: old.measure("sirq")?,
        ..counted
    })
}

/// The agent of a host and type, if there is one.
pub(super) async fn of_host(
    clients: &Clients,
    (agent_type, host): (&str, &str),
) -> Result<Option<i32>> {
    let query = IndexAgentsRequest {
        filter: format!("host = \"{host}\" AND type = \"{agent_type}\""),
        ..IndexAgentsRequest::default()
    };
    let agents = agents_like(clients, &query, 0, 1).await?;
    Ok(agents.first().map(|agent| agent.id))
}
