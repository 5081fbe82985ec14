//! Endpoints of the fleet: what the records of agents and entities say together.

use std::collections::BTreeMap;

use goperation::{
    EndpointName, Error, Reason, Result,
    v1::{
        AgentsEndpointRequest, AgentsEndpointResponse, CountEndpointsRequest,
        CountEndpointsResponse, Endpoint, EndpointCount, EndpointMethod, IndexEndpointsRequest,
        IndexEndpointsResponse, ShowEndpointRequest,
    },
};

use super::App;
use crate::{
    check::{self, Violations, no_endpoint},
    filter::{Cell, Field, Filter, Kind, Row},
    keys,
    page::Ask,
    record::AgentRecord,
};

const FIELDS: &[Field] =
    &[Field("name", Kind::Text), Field("agents", Kind::Number), Field("entities", Kind::Number)];

impl Row for Endpoint {
    fn cell(&self, field: &str) -> Cell<'_> {
        match field {
            "name" => Cell::Text(&self.name),
            "agents" => Cell::Number(self.agents.into()),
            "entities" => Cell::Number(self.entities.into()),
            _ => Cell::None,
        }
    }
}

/// Adds the methods that are not there yet. One is read-only or idempotent only where every agent
/// has it so.
fn merge(all: &mut Vec<EndpointMethod>, methods: &[EndpointMethod]) {
    for method in methods {
        match all.iter_mut().find(|known| known.name == method.name) {
            Some(known) => {
                known.read_only &= method.read_only;
                known.idempotent &= method.idempotent;
            }
            None => all.push(method.clone()),
        }
    }
}

/// That one agent does not have an endpoint.
pub(super) fn not_on(agent: &AgentRecord, name: &str) -> Error {
    Error::new(
        Reason::EndpointNotFound,
        format!("agent {} on {} does not have the endpoint {name}", agent.id, agent.host),
    )
    .with("agent", agent.id)
    .with("endpoint", name)
}

impl App {
    /// Every endpoint that an agent has or that has entities; of one agent when it is given.
    pub(super) async fn endpoints(&self, agent: Option<u32>) -> Result<BTreeMap<String, Endpoint>> {
        let mut all = BTreeMap::<String, Endpoint>::new();
        let wanted = |id: u32| agent.is_none_or(|agent| agent == id);
        for record in self.agent_records().await? {
            if record.deleted || !wanted(record.id) {
                continue;
            }
            for endpoint in &record.endpoints {
                let entry = all.entry(endpoint.name.clone()).or_default();
                entry.agents += 1;
                merge(&mut entry.methods, &endpoint.methods);
            }
        }
        for key in self.db.keys(keys::ENTITIES_ON.to_vec()).await? {
            if let Some((id, endpoint, _)) = keys::split_entity_on(&key)
                && wanted(id)
            {
                all.entry(endpoint).or_default().entities += 1;
            }
        }
        for (name, endpoint) in &mut all {
            endpoint.name.clone_from(name);
            endpoint.methods.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Ok(all)
    }

    pub(crate) async fn index_endpoints(
        &self,
        q: IndexEndpointsRequest,
    ) -> Result<IndexEndpointsResponse> {
        let agent = match q.agent_id {
            0 => None,
            id => Some(self.agent_record(check::number("agent_id", id)?).await?.id),
        };
        let id = q.agent_id.to_string();
        let ask = Ask::new(q.page_size, &q.page_token, &["endpoints", &q.filter, &id]);
        let (ask, filter) = check::both(ask, Filter::parse(&q.filter, FIELDS))?;
        let rows = self.endpoints(agent).await?;
        let rows = rows.into_values().filter(|endpoint| filter.passes(endpoint));
        let rows = rows.map(|endpoint| (endpoint.name.clone().into_bytes(), endpoint));
        let page = ask.cut(rows.collect(), false);
        Ok(IndexEndpointsResponse {
            endpoints: page.rows,
            next_page_token: page.next,
            total_size: page.total,
        })
    }

    pub(crate) async fn show_endpoint(&self, q: ShowEndpointRequest) -> Result<Endpoint> {
        let mut bad = Violations::default();
        let name = bad.take(EndpointName::parse("name", &q.name));
        let agent = match q.agent_id {
            0 => Some(None),
            id => bad.take(check::number("agent_id", id)).map(Some),
        };
        let (Some(name), Some(agent)) = (name, agent) else { return Err(bad.error()) };
        let name = name.as_str();
        let Some(agent) = agent else {
            return self.endpoints(None).await?.remove(name).ok_or_else(|| no_endpoint(name));
        };
        let agent = self.agent_record(agent).await?;
        let found = self.endpoints(Some(agent.id)).await?.remove(name);
        // Entities of an endpoint may outlive it on their agent.
        found.filter(|endpoint| endpoint.agents > 0).ok_or_else(|| not_on(&agent, name))
    }

    pub(crate) async fn agents_endpoint(
        &self,
        q: AgentsEndpointRequest,
    ) -> Result<AgentsEndpointResponse> {
        let name = EndpointName::parse("name", &q.name)?;
        let query = ["agents of", name.as_str(), q.filter.as_str()];
        let ask = Ask::new(q.page_size, &q.page_token, &query);
        let ids = self.db.keys(keys::agents_of(name.as_str())).await?;
        let ids: Vec<u32> = ids.iter().filter_map(|key| keys::last_number(key)).collect();
        if ids.is_empty() && self.db.keys(keys::entities_of(name.as_str())).await?.is_empty() {
            return Err(no_endpoint(name.as_str()));
        }
        let page = self.agent_page(ask, &q.filter, "", |record| ids.contains(&record.id)).await?;
        Ok(AgentsEndpointResponse {
            agents: page.rows,
            next_page_token: page.next,
            total_size: page.total,
        })
    }

    pub(crate) async fn count_endpoints(
        &self,
        q: CountEndpointsRequest,
    ) -> Result<CountEndpointsResponse> {
        let mut bad = Violations::default();
        let names: Vec<_> = q
            .names
            .iter()
            .enumerate()
            .filter_map(|(i, name)| bad.take(EndpointName::parse(&format!("names[{i}]"), name)))
            .collect();
        bad.finish()?;
        let mut all = self.endpoints(None).await?;
        if !names.is_empty() {
            all = names
                .iter()
                .map(|name| {
                    let name = name.to_string();
                    let known = all.get(&name).cloned();
                    (name.clone(), known.unwrap_or(Endpoint { name, ..Endpoint::default() }))
                })
                .collect();
        }
        let counts = all.into_values().map(|endpoint| EndpointCount {
            name: endpoint.name,
            agents: endpoint.agents,
            entities: endpoint.entities,
        });
        Ok(CountEndpointsResponse { counts: counts.collect() })
    }
}
