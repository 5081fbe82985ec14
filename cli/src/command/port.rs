//! `gop port ls|reserve|free`.

use goperation::v1::{CreatePortRequest, FreePortsRequest, IndexPortsRequest, Port, Protocol};

use crate::{
    args::PortCommand,
    client::{Client, PAGE, all_pages},
    command::entity,
    error::Error,
    hint::{Repeat, Subject},
    output::{Output, or_dash, table, time},
    parse,
};

/// Runs one command.
pub(crate) async fn run(
    client: &Client,
    output: Output,
    command: PortCommand,
) -> Result<(), Error> {
    match command {
        PortCommand::Ls(agent) => list(client, output, agent.id).await,
        PortCommand::Reserve { entity: name, ports, count, message_id } => {
            let name = name.entity()?;
            let request = CreatePortRequest {
                endpoint: name.endpoint.clone(),
                entity: name.number,
                wishes: parse::wishes(ports, count),
                message_id,
            };
            let answer = match client.ports().create_port(client.request(request)).await {
                Ok(answer) => answer.into_inner(),
                Err(status) => {
                    // Only for the hint: which agent's ports to look at.
                    let mut subject = Subject::entity(&name.endpoint, name.number);
                    subject.agent = entity::agent_of(client, &name).await.ok();
                    subject.repeat = Repeat::MessageId;
                    return Err(Error::from(status).about(&subject));
                }
            };
            output.answer(&answer, |a| rows(&a.ports))
        }
        PortCommand::Free { agent, ports, strict } => {
            let request = FreePortsRequest {
                agent_id: agent.id,
                ports,
                strict,
                ..FreePortsRequest::default()
            };
            free(client, output, request).await
        }
    }
}

/// A port in a few characters: `game=20000/udp`.
pub(crate) fn short(port: &Port) -> String {
    let name = if port.name.is_empty() { String::new() } else { format!("{}=", port.name) };
    format!("{name}{}/{}", port.port, protocol(port))
}

async fn list(client: &Client, output: Output, agent: i32) -> Result<(), Error> {
    let answer = all_pages(|page_token| {
        let request = client.request(IndexPortsRequest {
            agent_id: agent,
            page_size: PAGE,
            page_token,
            ..IndexPortsRequest::default()
        });
        let mut ports = client.ports();
        async move { ports.index_ports(request).await }
    })
    .await
    .map_err(|e| e.about(&Subject::agent(agent)))?;
    output.answer(&answer, |a| rows(&a.ports))
}

async fn free(client: &Client, output: Output, request: FreePortsRequest) -> Result<(), Error> {
    let agent = request.agent_id;
    let answer = client
        .ports()
        .free_ports(client.request(request))
        .await
        .map_err(|e| Error::from(e).about(&Subject::agent(agent)))?
        .into_inner();
    output.answer(&answer, |a| {
        let freed: Vec<_> = a.freed.iter().map(short).collect();
        let mut text = format!("freed {}\n", or_dash(freed.join(",")));
        if !a.unknown.is_empty() {
            let unknown: Vec<_> = a.unknown.iter().map(ToString::to_string).collect();
            text += &format!("not reserved {}\n", unknown.join(","));
        }
        text
    })
}

fn rows(ports: &[Port]) -> String {
    table(
        ["PORT", "PROTOCOL", "NAME", "ENTITY", "AGENT", "SINCE"],
        ports.iter().map(|p| {
            [
                p.port.to_string(),
                protocol(p).to_owned(),
                or_dash(p.name.clone()),
                format!("{}:{}", p.endpoint, p.entity),
                p.agent_id.to_string(),
                time(p.create_time.as_ref()),
            ]
        }),
    )
}

fn protocol(port: &Port) -> &'static str {
    match port.protocol() {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Both | Protocol::Unspecified => "both",
    }
}
