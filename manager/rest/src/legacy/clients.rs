//! The gRPC services that do the work.

use std::time::Duration;

use goperation::{
    Error, Reason, Result,
    v1::{
        Agent, ShowAgentRequest, agent_service_client::AgentServiceClient,
        bridge_service_client::BridgeServiceClient, cache_service_client::CacheServiceClient,
        endpoint_service_client::EndpointServiceClient, entity_service_client::EntityServiceClient,
        port_service_client::PortServiceClient, request_service_client::RequestServiceClient,
    },
};
use tonic::{Request, Response, Status, service::Routes};

/// How long an agent is waited for: the time of a CALL in the old system.
const WAIT: Duration = Duration::from_secs(16);
/// What a service is given beyond that for its own answer.
const SLACK: Duration = Duration::from_secs(2);
/// Rows that a service gives at once, at most.
const ROWS: i32 = 1000;

/// The services, reached in this process.
#[derive(Debug, Clone)]
pub(super) struct Clients(Routes);

macro_rules! clients {
    ($($name:ident: $client:ident;)*) => {
        impl Clients {
            $(pub(super) fn $name(&self) -> $client<Routes> {
                // Nothing is decoded here that is not in memory already.
                $client::new(self.0.clone()).max_decoding_message_size(usize::MAX)
            })*
        }
    };
}

clients! {
    agents: AgentServiceClient;
    endpoints: EndpointServiceClient;
    entities: EntityServiceClient;
    ports: PortServiceClient;
    caches: CacheServiceClient;
    bridge: BridgeServiceClient;
    requests: RequestServiceClient;
}

impl Clients {
    pub(super) fn new(grpc: Routes) -> Self {
        Self(grpc)
    }

    /// An agent that is not deleted: to the old system the others were unknown.
    pub(super) async fn agent(&self, id: i32) -> Result<Agent> {
        let unknown = || {
            Error::new(Reason::AgentNotFound, format!("there is no agent {id}")).with("agent", id)
        };
        // The service takes none as a fault of the request; to us it is one that is not there.
        if id == 0 {
            return Err(unknown());
        }
        let mut client = self.agents();
        let shown = ask(client.show_agent(timed(ShowAgentRequest { id }))).await?;
        let deleted = goperation::AgentStatus::Deleted.number();
        shown.agent.filter(|agent| agent.status > deleted).ok_or_else(unknown)
    }
}

/// A request with the time that it has.
pub(super) fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(WAIT);
    request
}

/// Waits for an answer of a service.
pub(super) async fn ask<T>(answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T> {
    match tokio::time::timeout(WAIT + SLACK, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::from_status(&status)),
        Err(_) => Err(Error::new(Reason::OutcomeUnknown, "the service did not answer in time")),
    }
}

/// The rows of a list: `count` pages of [`ROWS`] rows from page `first` on. `page` asks for as many
/// rows as it is given, after that token, and answers them with the next token.
pub(super) async fn list<T, F, A>(first: usize, count: usize, mut page: F) -> Result<Vec<T>>
where
    F: FnMut(i32, String) -> A,
    A: Future<Output = Result<(Vec<T>, String)>>,
{
    let (mut all, mut token) = (Vec::new(), String::new());
    for number in 0..first.saturating_add(count) {
        let (rows, next) = page(ROWS, token).await?;
        if number >= first {
            all.extend(rows);
        }
        token = next;
        if token.is_empty() {
            break;
        }
    }
    Ok(all)
}

/// Every row of a list.
pub(super) async fn whole<T, F, A>(page: F) -> Result<Vec<T>>
where
    F: FnMut(i32, String) -> A,
    A: Future<Output = Result<(Vec<T>, String)>>,
{
    list(0, usize::MAX, page).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pages_are_skipped_and_joined() {
        let page = async |first, count| {
            list(first, count, |_, token: String| async move {
                let at: usize = token.parse().unwrap_or(0);
                let next = if at < 4 { (at + 1).to_string() } else { String::new() };
                Ok((vec![10 * at, 10 * at + 1], next))
            })
            .await
            .unwrap()
        };
        assert_eq!(page(0, 2).await, [0, 1, 10, 11]);
        assert_eq!(page(3, 2).await, [30, 31, 40, 41]);
        assert_eq!(page(4, usize::MAX).await, [40, 41]);
        assert_eq!(page(9, 2).await, [0; 0]);
    }
}
