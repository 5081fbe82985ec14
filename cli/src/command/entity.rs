//! `gop entity ls|show|create|delete`; what is about processes is below.

mod process;
mod status;

use goperation::v1::{
    CreateEntityRequest, DeleteEntityRequest, Entity, IndexEntitiesRequest, ShowEntityRequest,
    ShowEntityResponse,
};
use tonic::{Response, Status};

use self::process::Verb;

use crate::{
    args::{Arguments, EntityCommand},
    client::{Client, PAGE, all_pages},
    command::{
        endpoint::{candidates, why},
        port,
    },
    error::Error,
    hint::{Repeat, Subject},
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
            place,
            choice,
            dry_run,
            ports,
            count,
            args,
            description,
            labels,
            number,
            key,
        } => {
            let request = CreateEntityRequest {
                endpoint,
                agent_id: place.agent.unwrap_or_default(),
                ports: parse::wishes(ports, count),
                args: Some(args.to_struct()?),
                description,
                labels: labels.into_iter().collect(),
                number: number.unwrap_or_default(),
                includes: choice.includes,
                weighters: choice.weighers,
                idempotency_key: key,
                dry: dry_run,
                finish_time: None,
            };
            create(client, output, request).await
        }
        EntityCommand::Status(name) => status::run(client, output, &name.entity()?).await,
        EntityCommand::Start(names) => {
            let verb = Verb::Start;
            process::run(client, output, &names.entities()?, verb).await
        }
        EntityCommand::Stop { entities, stop } => {
            let verb = Verb::Stop(stop.grace);
            process::run(client, output, &entities.entities()?, verb).await
        }
        EntityCommand::Restart { entities, stop } => {
            let verb = Verb::Restart(stop.grace);
            process::run(client, output, &entities.entities()?, verb).await
        }
        EntityCommand::Kill(names) => {
            let verb = Verb::Kill;
            process::run(client, output, &names.entities()?, verb).await
        }
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
    .map_err(|e| e.about(&Subject { agent, endpoint: endpoint.clone(), ..Subject::default() }))?;
    output.answer(&answer, |a| rows(&a.entities))
}

async fn create(
    client: &Client,
    output: Output,
    message: CreateEntityRequest,
) -> Result<(), Error> {
    let subject = Subject {
        agent: Some(message.agent_id).filter(|&id| id != 0),
        endpoint: Some(message.endpoint.clone()),
        includes: message.includes.clone(),
        repeat: match message.idempotency_key.as_str() {
            "" => Repeat::Creates,
            _ => Repeat::Keyed,
        },
        ..Subject::default()
    };
    let answer = client
        .entities()
        .create_entity(client.request(message))
        .await
        .map_err(|e| Error::from(e).about(&subject))?
        .into_inner();
    output.answer(&answer, |a| {
        let refused: String = a
            .refused
            .iter()
            .map(|left| {
                format!("agent {} on {} refused: {}\n", left.agent_id, left.host, why(left))
            })
            .collect();
        match &a.entity {
            Some(_) => refused + &rows(a.entity.as_slice()) + &result(a.result.as_ref()),
            None => candidates(&a.candidates),
        }
    })
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
        ["ENTITY", "AGENT", "STATE", "PROCESS", "PORTS", "DESCRIPTION"],
        entities.iter().map(|e| {
            [
                format!("{}:{}", e.endpoint, e.number),
                e.agent_id.to_string(),
                state(e),
                process::state(e.process.as_ref()),
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
        ("process", process::state(e.process.as_ref())),
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
