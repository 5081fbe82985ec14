//! `/agent/{agent_id}/endpoint/{endpoint}/entitys` and `/endpoint/{endpoint}/entitys`.

use goperation::{
    JsonObject, Result, json_to_struct, struct_to_json,
    v1::{
        CreateEntityRequest, DeleteEntityRequest, Entity, IndexEntitiesRequest, ShowEntityRequest,
    },
};
use serde_json::{Value, json};

use super::{
    Call,
    agents::entities_like,
    clients::{ask, timed},
    envelope::{Envelope, SUCCESS},
    metadata, rows,
};

/// What an agent said, as the dictionary that it was; null when nobody wanted to know.
///
/// `notify` false kept it from the agent. Ours is told all the same, because it would be found to
/// lack the entity, or to have one too many.
fn notify(wanted: bool, done: &str, result: Option<&prost_types::Struct>) -> Result<Value> {
    if !wanted {
        return Ok(Value::Null);
    }
    let mut result = struct_to_json("result", result)?;
    result.entry("resultcode").or_insert_with(|| SUCCESS.into());
    result.entry("result").or_insert_with(|| done.into());
    Ok(result.into())
}

fn args(rest: JsonObject) -> Result<Option<prost_types::Struct>> {
    json_to_struct("args", &rest).map(Some)
}

/// The entity that the path names.
pub(super) async fn named(call: &Call) -> Result<Entity> {
    let request = ShowEntityRequest { endpoint: call.endpoint()?, number: call.entity()? };
    let shown = ask(call.clients.entities().show_entity(timed(request))).await?;
    Ok(shown.entity.unwrap_or_default())
}

pub(super) async fn index(mut call: Call) -> Result<Envelope> {
    let with_ports = call.body.flag("ports", false)?;
    let endpoint = call.endpoint()?;
    let agent_id = call.clients.agent(call.agent_id()?).await?.id;
    let query = IndexEntitiesRequest { agent_id, endpoint, ..IndexEntitiesRequest::default() };
    let entities = entities_like(&call.clients, &query).await?;
    let rows = entities.iter().map(|entity| rows::entity(entity, with_ports)).collect();
    Ok(Envelope::new("list endpoint entitys success", rows))
}

pub(super) async fn create(mut call: Call) -> Result<Envelope> {
    let endpoint = call.endpoint()?;
    let mut body = std::mem::take(&mut call.body);
    let wants = body.flag("notify", true)?;
    let agent = call.clients.agent(call.agent_id()?).await?;
    let request = CreateEntityRequest {
        endpoint,
        agent_id: agent.id,
        ports: body.wishes("ports")?,
        description: body.text("desc")?.unwrap_or_default(),
        number: body.count("entity")?.unwrap_or_default(),
        finish_time: body.moment("finishtime")?,
        args: args(body.rest())?,
        ..CreateEntityRequest::default()
    };
    let created = ask(call.clients.entities().create_entity(timed(request))).await?;
    let entity = created.entity.unwrap_or_default();
    let row = json!({
        "entity": entity.number,
        "agent_id": entity.agent_id,
        "metadata": metadata::of(&call.clients, &agent).await?,
        "endpoint": entity.endpoint,
        "ports": rows::numbers(&entity.ports),
        "notify": notify(wants, "create entity success", created.result.as_ref())?,
    });
    Ok(Envelope::new("create entity success", vec![row]))
}

pub(super) async fn show(mut call: Call) -> Result<Envelope> {
    let with_ports = call.body.flag("ports", false)?;
    let entity = named(&call).await?;
    let agent = call.clients.agent(entity.agent_id).await?;
    let row = json!({
        "endpoint": entity.endpoint,
        "agent_id": entity.agent_id,
        "metadata": metadata::of(&call.clients, &agent).await?,
        "entity": entity.number,
        "ports": if with_ports { rows::numbers(&entity.ports) } else { Vec::new() },
    });
    Ok(Envelope::new("show entity success", vec![row]))
}

pub(super) async fn delete(mut call: Call) -> Result<Envelope> {
    let (endpoint, number) = (call.endpoint()?, call.entity()?);
    let mut body = std::mem::take(&mut call.body);
    let wants = body.flag("notify", true)?;
    let request = DeleteEntityRequest {
        endpoint: endpoint.clone(),
        number,
        token: body.text("token")?.unwrap_or_default(),
        finish_time: body.moment("finishtime")?,
        args: args(body.rest())?,
        ..DeleteEntityRequest::default()
    };
    let deleted = ask(call.clients.entities().delete_entity(timed(request))).await?;
    let row = json!({
        "entity": number,
        "endpoint": endpoint,
        "notify": notify(wants, "delete entity success", deleted.result.as_ref())?,
    });
    Ok(Envelope::new("delete entity success", vec![row]))
}
