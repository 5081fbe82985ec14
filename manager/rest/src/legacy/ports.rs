//! Ports of agents and of entities.

use goperation::{
    Error, Reason, Result,
    v1::{CreatePortRequest, FreePortsRequest, IndexPortsRequest, Port},
};

use super::{
    Call,
    clients::{self, Clients, ask, timed},
    envelope::Envelope,
    fields, rows,
};

async fn ports_like(clients: &Clients, query: &IndexPortsRequest) -> Result<Vec<Port>> {
    let ports = clients::whole(|page_size, page_token| {
        let query = IndexPortsRequest { page_size, page_token, ..query.clone() };
        let mut client = clients.ports();
        async move {
            let page = ask(client.index_ports(timed(query))).await?;
            Ok((page.ports, page.next_page_token))
        }
    })
    .await;
    // The old system looked for rows, and there were none.
    ports.or_else(|error| match error.reason {
        Reason::AgentNotFound | Reason::EntityNotFound => Ok(Vec::new()),
        _ => Err(error),
    })
}

pub(super) async fn allocated(call: Call) -> Result<Envelope> {
    let query = IndexPortsRequest { agent_id: some_agent(&call)?, ..IndexPortsRequest::default() };
    let ports = ports_like(&call.clients, &query).await?;
    Ok(Envelope::new("list agent ports success", rows::ports(&ports)))
}

/// An agent, which may not exist.
fn some_agent(call: &Call) -> Result<i32> {
    match call.agent_id()? {
        0 => Err(Error::invalid("agent_id", "must be a number from 1")),
        id => Ok(id),
    }
}

pub(super) async fn index(call: Call) -> Result<Envelope> {
    let query = IndexPortsRequest {
        agent_id: some_agent(&call)?,
        endpoint: call.endpoint()?,
        entity: call.entity()?,
        ..IndexPortsRequest::default()
    };
    let ports = ports_like(&call.clients, &query).await?;
    Ok(Envelope::new("list entity ports success", rows::ports(&ports)))
}

pub(super) async fn create(mut call: Call) -> Result<Envelope> {
    let wishes = call.body.wishes("ports")?;
    if wishes.is_empty() {
        return Err(Error::invalid("ports", "is required"));
    }
    call.clients.agent(call.agent_id()?).await?;
    let request = CreatePortRequest {
        endpoint: call.endpoint()?,
        entity: call.entity()?,
        wishes,
        message_id: String::new(),
    };
    ask(call.clients.ports().create_port(timed(request))).await?;
    Ok(Envelope::new("add ports success", Vec::new()))
}

pub(super) async fn delete(mut call: Call) -> Result<Envelope> {
    let strict = call.body.flag("strict", true)?;
    let request = FreePortsRequest {
        agent_id: call.clients.agent(call.agent_id()?).await?.id,
        ports: fields::ports("ports", call.param("ports"))?,
        endpoint: call.endpoint()?,
        entity: call.entity()?,
        strict,
        ..FreePortsRequest::default()
    };
    ask(call.clients.ports().free_ports(timed(request))).await?;
    Ok(Envelope::new("delete ports success", Vec::new()))
}
