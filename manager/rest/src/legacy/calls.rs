//! What only agents and their endpoints can tell: logs.

use goperation::{
    Error, JsonObject, MANAGER_NAMESPACE, Result, json_to_struct, struct_to_json,
    v1::{Agent, CallRequest, Target},
};
use serde_json::json;

use super::{
    Call,
    clients::{Clients, ask, timed},
    entitys,
    envelope::Envelope,
};

/// Lines of a log when none are said.
const LINES: i32 = 10;

async fn ask_agent(
    clients: &Clients,
    agent: &Agent,
    namespace: &str,
    method: &str,
    args: &JsonObject,
) -> Result<JsonObject> {
    let request = CallRequest {
        target: Some(Target {
            topic: format!("agent.{}", agent.r#type),
            host: agent.host.clone(),
            fanout: false,
            namespace: namespace.to_owned(),
        }),
        method: method.to_owned(),
        args: Some(json_to_struct("args", args)?),
        ..CallRequest::default()
    };
    let answered = ask(clients.bridge().call(timed(request))).await?;
    struct_to_json("result", answered.result.as_ref())
}

pub(super) async fn agent_readlog(mut call: Call) -> Result<Envelope> {
    let mut args = JsonObject::new();
    let lines = call.body.count("lines")?.unwrap_or(LINES);
    args.insert("lines".to_owned(), lines.into());
    let agent = call.clients.agent(call.agent_id()?).await?;
    let row = ask_agent(&call.clients, &agent, MANAGER_NAMESPACE, "readlog", &args).await?;
    Ok(Envelope::new("readlog success", vec![row.into()]))
}

/// A path below an entity's logs.
fn path(call: &mut Call) -> Result<Option<String>> {
    let path = call.body.text("path")?;
    if path.as_ref().is_some_and(|path| path.split('/').any(|part| part == "..")) {
        return Err(Error::invalid("path", "must not have .. in it"));
    }
    Ok(path)
}

/// Asks the endpoint of the entity that the path names.
async fn ask_entity(call: &Call, method: &str, mut args: JsonObject) -> Result<JsonObject> {
    let entity = entitys::named(call).await?;
    let agent = call.clients.agent(entity.agent_id).await?;
    args.insert("entity".to_owned(), entity.number.into());
    ask_agent(&call.clients, &agent, &entity.endpoint, method, &args).await
}

pub(super) async fn entity_logs(mut call: Call) -> Result<Envelope> {
    let mut args = JsonObject::new();
    if let Some(path) = path(&mut call)? {
        args.insert("path".to_owned(), path.into());
    }
    let mut row = ask_entity(&call, "logs", args).await?;
    for list in ["dirs", "files"] {
        row.entry(list).or_insert_with(|| json!([]));
    }
    Ok(Envelope::new("list logs success", vec![row.into()]))
}

pub(super) async fn entity_readlog(mut call: Call) -> Result<Envelope> {
    let path = path(&mut call)?.ok_or_else(|| Error::invalid("path", "is required"))?;
    let lines = call.body.count("lines")?.unwrap_or(LINES);
    let mut args = JsonObject::new();
    args.insert("path".to_owned(), path.into());
    args.insert("lines".to_owned(), lines.into());
    let row = ask_entity(&call, "readlog", args).await?;
    Ok(Envelope::new("readlog success", vec![row.into()]))
}
