//! `gop entity ls|show|create|status|delete`.

use goperation::v1::{
    CreateEntityRequest, DeleteEntityRequest, Entity, IndexEntitiesRequest, ShowEntityRequest,
    ShowEntityResponse, StatusEntityRequest,
};
use tonic::{Response, Status};

use crate::{
    args::{Arguments, EntityCommand},
    client::{Client, PAGE, all_pages},
    command::port,
    error::Error,
    hint::Subject,
    output::{Output, fields, labels, or_dash, result, table, time},
    parse::{self, EntityRef},
};

/// Runs one command.
pub(crate) async fn run(
    client: &Client,
    output: Output,
    command: EntityCommand,
) -> Result<(), Error> {
    match command {
        EntityCommand::Ls { endpoint, agent, filter } => {
            list(client, output, endpoint, agent, filter).await
        }
        EntityCommand::Show(name) => {
            let answer = record(client, &name.entity()?).await?;
            output.answer(&answer, |a| a.entity.as_ref().map(details).unwrap_or_default())
        }
        EntityCommand::Create {
            endpoint,
            agent,
            ports,
            count,
            args,
            description,
            labels,
            number,
        } => {
            let request = CreateEntityRequest {
                endpoint,
                agent_id: agent,
                ports: parse::wishes(ports, count),
                args: Some(args.to_struct()?),
                description,
                labels: labels.into_iter().collect(),
                number: number.unwrap_or_default(),
                finish_time: None,
            };
            create(client, output, request).await
        }
        EntityCommand::Status(name) => status(client, output, &name.entity()?).await,
        EntityCommand::Delete { entity, args, token } => {
            delete(client, output, &entity.entity()?, &args, token).await
        }
    }
}

/// The agent that an entity is on.
pub(crate) async fn agent_of(client: &Client, entity: &EntityRef) -> Result<i32, Error> {
    let answer = record(client, entity).await?;
    answer
        .entity
        .map(|e| e.agent_id)
        .ok_or_else(|| Error::Failed("the manager's answer has no entity".to_owned()))
}

async fn record(client: &Client, entity: &EntityRef) -> Result<ShowEntityResponse, Error> {
    let request = ShowEntityRequest { endpoint: entity.endpoint.clone(), number: entity.number };
    known(client.entities().show_entity(client.request(request)).await, entity)
}

fn known<T>(answer: Result<Response<T>, Status>, entity: &EntityRef) -> Result<T, Error> {
    match answer {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => {
            Err(Error::from(status).about(&Subject::entity(&entity.endpoint, entity.number)))
        }
    }
}

async fn list(
    client: &Client,
    output: Output,
    endpoint: Option<String>,
    agent: Option<i32>,
    filter: Option<String>,
) -> Result<(), Error> {
    let answer = all_pages(|page_token| {
        let request = client.request(IndexEntitiesRequest {
            endpoint: endpoint.clone().unwrap_or_default(),
            agent_id: agent.unwrap_or_default(),
            page_size: PAGE,
            page_token,
            filter: filter.clone().unwrap_or_default(),
        });
        let mut entities = client.entities();
        async move { entities.index_entities(request).await }
    })
    .await
    .map_err(|e| e.about(&Subject { agent, endpoint: endpoint.clone(), entity: None }))?;
    output.answer(&answer, |a| rows(&a.entities))
}

async fn create(
    client: &Client,
    output: Output,
    message: CreateEntityRequest,
) -> Result<(), Error> {
    let subject = Subject {
        agent: Some(message.agent_id),
        endpoint: Some(message.endpoint.clone()),
        entity: None,
    };
    let answer = client
        .entities()
        .create_entity(client.request(message))
        .await
        .map_err(|e| Error::from(e).about(&subject))?
        .into_inner();
    output.answer(&answer, |a| rows(a.entity.as_slice()) + &result(a.result.as_ref()))
}

async fn status(client: &Client, output: Output, entity: &EntityRef) -> Result<(), Error> {
    let request = StatusEntityRequest { endpoint: entity.endpoint.clone(), number: entity.number };
    let answer = client.entities().status_entity(client.request(request)).await;
    let answer = known(answer, entity)?;
    output.answer(&answer, |a| rows(a.entity.as_slice()) + &result(a.result.as_ref()))
}

async fn delete(
    client: &Client,
    output: Output,
    entity: &EntityRef,
    args: &Arguments,
    token: String,
) -> Result<(), Error> {
    let request = DeleteEntityRequest {
        endpoint: entity.endpoint.clone(),
        number: entity.number,
        args: Some(args.to_struct()?),
        token,
        ..DeleteEntityRequest::default()
    };
    let answer = client.entities().delete_entity(client.request(request)).await;
    let answer = known(answer, entity)?;
    output.answer(&answer, |a| {
        format!("deleted {}:{}\n", entity.endpoint, entity.number) + &result(a.result.as_ref())
    })
}

fn rows(entities: &[Entity]) -> String {
    table(
        ["ENTITY", "AGENT", "STATE", "PORTS", "DESCRIPTION"],
        entities.iter().map(|e| {
            [
                format!("{}:{}", e.endpoint, e.number),
                e.agent_id.to_string(),
                state(e),
                ports(e),
                or_dash(e.description.clone()),
            ]
        }),
    )
}

fn details(e: &Entity) -> String {
    fields([
        ("entity", format!("{}:{}", e.endpoint, e.number)),
        ("agent", e.agent_id.to_string()),
        ("state", state(e)),
        ("ports", ports(e)),
        ("description", e.description.clone()),
        ("labels", labels(&e.labels)),
        ("created", time(e.create_time.as_ref())),
        ("changed", time(e.update_time.as_ref())),
        ("etag", e.etag.clone()),
    ])
}

fn state(entity: &Entity) -> String {
    let name = entity.state().as_str_name();
    name.strip_prefix("ENTITY_STATE_").unwrap_or(name).to_owned()
}

fn ports(entity: &Entity) -> String {
    let all: Vec<_> = entity.ports.iter().map(port::short).collect();
    or_dash(all.join(","))
}
