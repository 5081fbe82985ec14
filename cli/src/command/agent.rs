//! `gop agent ls|show|facts|reserve|activate|pause|resume|status|upgrade|delete|clean`.

use goperation::v1::{
    ActivateAgentRequest, Agent, AgentState, CleanAgentRequest, CreateAgentRequest,
    DeleteAgentRequest, IndexAgentsRequest, PauseAgentRequest, ResumeAgentRequest,
    ShowAgentRequest,
};

use super::{facts, fleet, upgrade};
use crate::{
    args::{AgentCommand, Upgraded},
    client::{Client, PAGE, all_pages},
    error::Error,
    hint::Subject,
    output::{Output, fields, labels, or_dash, table, time},
};

/// Runs one command.
pub(crate) async fn run(
    client: &Client,
    output: Output,
    command: AgentCommand,
) -> Result<(), Error> {
    match command {
        AgentCommand::Ls { filter, all } => list(client, output, filter, all).await,
        AgentCommand::Show(agent) => one(client, output, agent.id).await,
        AgentCommand::Facts(args) => facts::run(client, output, args).await,
        AgentCommand::Reserve { host, agent_type, endpoints, ports_ranges, address } => {
            let message = CreateAgentRequest {
                r#type: agent_type,
                host,
                address,
                ports_ranges,
                endpoints,
                reserve: true,
                ..CreateAgentRequest::default()
            };
            let answer = client.agents().create_agent(client.request(message)).await?.into_inner();
            output.answer(&answer, |a| rows(a.agent.as_slice()))
        }
        AgentCommand::Activate { agent, off } => {
            let state = if off { AgentState::Unactive } else { AgentState::Active };
            let message = ActivateAgentRequest { id: agent.id, state: state.into() };
            let answer = client.agents().activate_agent(client.request(message)).await;
            let answer = known(answer, agent.id)?;
            output.answer(&answer, |a| rows(a.agent.as_slice()))
        }
        AgentCommand::Pause(agent) => {
            let message = PauseAgentRequest { id: agent.id };
            let answer = client.agents().pause_agent(client.request(message)).await;
            let answer = known(answer, agent.id)?;
            output.answer(&answer, |a| rows(a.agent.as_slice()))
        }
        AgentCommand::Resume(agent) => {
            let message = ResumeAgentRequest { id: agent.id };
            let answer = client.agents().resume_agent(client.request(message)).await;
            let answer = known(answer, agent.id)?;
            output.answer(&answer, |a| rows(a.agent.as_slice()))
        }
        AgentCommand::Status(args) => fleet::status(client, output, args).await,
        AgentCommand::Upgrade(args) => match args.what().map_err(Error::Usage)? {
            Upgraded::One(id, file) => upgrade::run(client, output, id, file, *args).await,
            Upgraded::Fleet(on, file) => fleet::upgrade(client, output, on, file, *args).await,
        },
        AgentCommand::Delete { agent, force } => {
            let message = DeleteAgentRequest { id: agent.id, force, ..Default::default() };
            let answer = client.agents().delete_agent(client.request(message)).await;
            let answer = known(answer, agent.id)?;
            output.answer(&answer, |a| rows(a.agent.as_slice()))
        }
        AgentCommand::Clean(agent) => {
            let message = CleanAgentRequest { id: agent.id };
            let answer = client.agents().clean_agent(client.request(message)).await;
            let answer = known(answer, agent.id)?;
            output.answer(&answer, |_| format!("removed the record of agent {}", agent.id))
        }
        AgentCommand::Adopt(_) => {
            Err(Error::Usage("`gop agent adopt` works on this host, not on a manager".to_owned()))
        }
    }
}

/// One agent, as the manager has it on record.
pub(crate) async fn show(client: &Client, id: i32) -> Result<Agent, Error> {
    let request = client.request(ShowAgentRequest { id });
    let answer = known(client.agents().show_agent(request).await, id)?;
    answer.agent.ok_or_else(|| Error::Failed(format!("the manager's answer has no agent {id}")))
}

async fn list(
    client: &Client,
    output: Output,
    filter: Option<String>,
    all: bool,
) -> Result<(), Error> {
    let answer = all_pages(|page_token| {
        let request = client.request(IndexAgentsRequest {
            page_size: PAGE,
            page_token,
            filter: filter.clone().unwrap_or_default(),
            order_by: String::new(),
            show_deleted: all,
        });
        let mut agents = client.agents();
        async move { agents.index_agents(request).await }
    })
    .await?;
    output.answer(&answer, |a| rows(&a.agents))
}

async fn one(client: &Client, output: Output, id: i32) -> Result<(), Error> {
    let request = client.request(ShowAgentRequest { id });
    let answer = known(client.agents().show_agent(request).await, id)?;
    output.answer(&answer, |a| a.agent.as_ref().map(details).unwrap_or_default())
}

pub(super) fn known<T>(
    answer: Result<tonic::Response<T>, tonic::Status>,
    id: i32,
) -> Result<T, Error> {
    match answer {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => Err(Error::from(status).about(&Subject::agent(id))),
    }
}

fn rows(agents: &[Agent]) -> String {
    table(
        ["ID", "TYPE", "HOST", "STATE", "ONLINE", "CLOCK", "ENTITIES", "ENDPOINTS"],
        agents.iter().map(|a| {
            [
                a.id.to_string(),
                a.r#type.clone(),
                a.host.clone(),
                state(a),
                online(a),
                clock(a),
                a.entities.to_string(),
                or_dash(a.endpoints.join(",")),
            ]
        }),
    )
}

fn details(a: &Agent) -> String {
    let facts = a.facts.clone().unwrap_or_default();
    let mut lines = vec![
        ("id", a.id.to_string()),
        ("type", a.r#type.clone()),
        ("host", a.host.clone()),
        ("address", a.address.clone()),
        ("state", format!("{} ({})", state(a), a.status)),
        ("cause", a.status_cause.clone()),
        ("since", time(a.status_time.as_ref())),
        ("online", online(a)),
        ("clock", clock(a)),
        ("ports", a.ports_ranges.join(",")),
        ("endpoints", a.endpoints.join(",")),
        ("entities", a.entities.to_string()),
        ("version", facts.version),
        (
            "host has",
            format!(
                "{} CPU, {} MiB memory, {} MiB disk",
                facts.cpu, facts.memory_mib, facts.disk_mib
            ),
        ),
    ];
    if let Some(now) = &a.snapshot {
        lines.push((
            "host now",
            format!(
                "load {:.2}, {} MiB memory free, {} MiB disk free, {} processes",
                now.load1, now.memory_free_mib, now.disk_free_mib, now.processes
            ),
        ));
    }
    if let Some(last) = &a.upgrade {
        lines.push(("upgrade", upgrade::summary(last)));
    }
    lines.push(("reported", time(a.report_time.as_ref())));
    lines.push(("metadata", labels(&facts.metadata)));
    lines.push(("description", a.description.clone()));
    lines.push(("labels", labels(&a.labels)));
    lines.push(("registered", time(a.create_time.as_ref())));
    lines.push(("etag", a.etag.clone()));
    fields(lines)
}

fn state(agent: &Agent) -> String {
    let name = agent.state().as_str_name();
    name.strip_prefix("AGENT_STATE_").unwrap_or(name).to_owned()
}

/// Whether it is there, or only on record.
fn online(agent: &Agent) -> String {
    match (agent.reserved, agent.online) {
        (true, _) => "reserved",
        (_, true) => "yes",
        _ => "no",
    }
    .to_owned()
}

/// `ok`, or how far the agent's clock is off.
fn clock(agent: &Agent) -> String {
    if !agent.clock_skew {
        return "ok".to_owned();
    }
    let offset = agent.clock_offset.unwrap_or_default();
    let seconds =
        offset.seconds.saturating_mul(10).saturating_add(i64::from(offset.nanos) / 100_000_000);
    let sign = if seconds < 0 { '-' } else { '+' };
    format!("CLOCK_SKEW {sign}{}.{}s", seconds.abs() / 10, seconds.abs() % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skewed_clock_is_seen() {
        let offset = prost_types::Duration { seconds: -7, nanos: -250_000_000 };
        let agent = Agent { clock_skew: true, clock_offset: Some(offset), ..Agent::default() };
        assert_eq!(clock(&agent), "CLOCK_SKEW -7.2s");
        assert_eq!(clock(&Agent::default()), "ok");
    }

    #[test]
    fn a_reserved_agent_is_seen() {
        let agent = Agent { reserved: true, ..Agent::default() };
        assert_eq!(online(&agent), "reserved");
        assert_eq!(online(&Agent::default()), "no");
    }
}
