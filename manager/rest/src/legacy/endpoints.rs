//! `/agent/{agent_id}/endpoints` and `/endpoints`.

use goperation::{
    Error, Reason, Result,
    v1::{
        Agent, AgentsEndpointRequest, ChooseRequest, CountEndpointsRequest, CreateEndpointsRequest,
        DeleteEndpointsRequest, IndexEntitiesRequest,
    },
};
use serde_json::{Value, json};

use super::{
    Call,
    agents::entities_like,
    clients::{self, ask, timed},
    envelope::{Envelope, SUCCESS},
    fields,
    rows::{self, Hardware},
};

/// Endpoints that a path names, joined by commas.
fn names(call: &Call) -> Result<Vec<String>> {
    call.param("endpoint").split(',').map(|name| fields::endpoint("endpoint", name)).collect()
}

pub(super) async fn index(call: Call) -> Result<Envelope> {
    let agent = call.clients.agent(call.agent_id()?).await?;
    let query = IndexEntitiesRequest { agent_id: agent.id, ..IndexEntitiesRequest::default() };
    let entities = entities_like(&call.clients, &query).await?;
    let rows = agent.endpoints.iter().map(|name| rows::endpoint(&agent, name, &entities));
    Ok(Envelope::new("list endpoint on agent success", rows.collect()))
}

pub(super) async fn create(mut call: Call) -> Result<Envelope> {
    let names = call.body.endpoints("endpoints")?;
    let names = names.ok_or_else(|| Error::invalid("endpoints", "is required"))?;
    let agent = call.clients.agent(call.agent_id()?).await?;
    let request = CreateEndpointsRequest { agent_id: agent.id, names };
    let created = ask(call.clients.endpoints().create_endpoints(timed(request))).await?;
    let names = created.endpoints.into_iter().map(|endpoint| endpoint.name.into()).collect();
    Ok(Envelope::new("add endpoints success", names))
}

pub(super) async fn show(call: Call) -> Result<Envelope> {
    let name = call.endpoint()?;
    let agent = call.clients.agent(call.agent_id()?).await?;
    if !agent.endpoints.contains(&name) {
        let message = format!("agent {} does not have the endpoint {name}", agent.id);
        return Err(Error::new(Reason::EndpointNotFound, message));
    }
    let query = IndexEntitiesRequest {
        agent_id: agent.id,
        endpoint: name.clone(),
        ..IndexEntitiesRequest::default()
    };
    let entities = entities_like(&call.clients, &query).await?;
    Ok(Envelope::new("show endpoint success", vec![rows::endpoint(&agent, &name, &entities)]))
}

pub(super) async fn delete(call: Call) -> Result<Envelope> {
    let mut names = names(&call)?;
    let agent = call.clients.agent(call.agent_id()?).await?;
    // Those that it does not have were only logged.
    names.retain(|name| agent.endpoints.contains(name));
    names.sort_unstable();
    names.dedup();
    if !names.is_empty() {
        let request = DeleteEndpointsRequest { agent_id: agent.id, names: names.join(",") };
        ask(call.clients.endpoints().delete_endpoints(timed(request))).await?;
    }
    Ok(Envelope::new("delete endpoints success", Vec::new()))
}

pub(super) async fn agents(call: Call) -> Result<Envelope> {
    let name = call.endpoint()?;
    let agents: Vec<Agent> = clients::whole(|page_size, page_token| {
        let (name, filter) = (name.clone(), String::new());
        let query = AgentsEndpointRequest { name, page_size, page_token, filter };
        let mut client = call.clients.endpoints();
        async move {
            let page = ask(client.agents_endpoint(timed(query))).await?;
            Ok((page.agents, page.next_page_token))
        }
    })
    .await?;
    if agents.is_empty() {
        return Err(Error::invalid("endpoint", format!("no agent has the endpoint {name}")));
    }
    let row = |agent: &Agent| {
        let Hardware { cpu, memory, .. } = Hardware::of(agent);
        json!({ "agent_id": agent.id, "agent_host": agent.host, "cpu": cpu, "memory": memory })
    };
    Ok(Envelope::new("list agents of endpoint success", agents.iter().map(row).collect()))
}

pub(super) async fn entitys(call: Call) -> Result<Envelope> {
    let query =
        IndexEntitiesRequest { endpoint: call.endpoint()?, ..IndexEntitiesRequest::default() };
    let entities = entities_like(&call.clients, &query).await?;
    let rows = entities.iter().map(|entity| {
        json!({
            "agent_id": entity.agent_id,
            "entity": entity.number,
            "ports": rows::numbers(&entity.ports),
        })
    });
    Ok(Envelope::new("list entitys of endpoint success", rows.collect()))
}

pub(super) async fn count(call: Call) -> Result<Envelope> {
    let request = CountEndpointsRequest { names: names(&call)? };
    let counted = ask(call.clients.endpoints().count_endpoints(timed(request))).await?;
    let rows =
        counted.counts.into_iter().map(|row| json!({ "endpoint": row.name, "count": row.agents }));
    Ok(Envelope::new("count endpoints success", rows.collect()))
}

/// The agents that suit. The old route failed always; what it answers is what its rpc server did.
pub(super) async fn chioces(mut call: Call) -> Result<Envelope> {
    let name = call.endpoint()?;
    let includes = call.body.texts_as_they_are("includes")?;
    // The one who asks and the one who was asked had a name each for it.
    let weighters = match call.body.value("weighters") {
        Some(given) => weighters("weighters", given)?,
        None => call.body.value("weigher").map_or(Ok(Vec::new()), |w| weighters("weigher", w))?,
    };
    let request = ChooseRequest { name, includes, weighters, limit: 0 };
    let agents = match ask(call.clients.endpoints().choose(timed(request))).await {
        Ok(chosen) => chosen.candidates.iter().map(|agent| agent.agent_id).collect(),
        // Nobody was no failure.
        Err(error) if error.reason == Reason::EndpointNotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let result = "chioces agents success";
    let row = json!({ "resultcode": SUCCESS, "result": result, "agents": agents });
    Ok(Envelope::new(result, vec![row]))
}

/// Objects of one key each, whose value is null or what the agent's is divided by; or the texts
/// that they are here.
fn weighters(field: &str, given: Value) -> Result<Vec<String>> {
    let bad = || {
        let what = "must be a list of objects of one key, with null or a whole number";
        Error::invalid(field, what)
    };
    let Value::Array(items) = given else { return Err(bad()) };
    let weighter = |item: Value| match item {
        Value::String(text) => Ok(text),
        Value::Object(object) if object.len() == 1 => {
            let (key, by) = object.into_iter().next().ok_or_else(bad)?;
            match by {
                Value::Null => Ok(key),
                Value::Number(by) => by.as_i64().map(|by| format!("{key}/{by}")).ok_or_else(bad),
                _ => Err(bad()),
            }
        }
        _ => Err(bad()),
    };
    items.into_iter().map(weighter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weighters_as_they_were_and_as_they_are() {
        let read = |value| weighters("weighters", value).map_err(|e| e.violations[0].field.clone());
        let given = json!([{"cputime": 5}, {"cpu": -1}, {"process": null}, "free/-200"]);
        assert_eq!(read(given).unwrap(), ["cputime/5", "cpu/-1", "process", "free/-200"]);
        assert!(read(json!([])).unwrap().is_empty());
        for bad in [
            json!("cpu"),
            json!({"cpu": 1}),
            json!([{}]),
            json!([{"cpu": 1, "free": 2}]),
            json!([{"cpu": 1.5}]),
            json!([{"cpu": "x"}]),
            json!([7]),
        ] {
            assert_eq!(read(bad.clone()), Err("weighters".to_owned()), "{bad}");
        }
    }
}
