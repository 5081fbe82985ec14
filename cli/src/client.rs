//! The way to the manager: one channel, a deadline on every request, and pages that follow
//! each other by themselves.
//!
//! Invariant: no request is sent without a deadline, except a stream that is followed.

use std::{future::Future, time::Duration};

use goperation::v1::{
    self, agent_service_client::AgentServiceClient, bridge_service_client::BridgeServiceClient,
    cache_service_client::CacheServiceClient, endpoint_service_client::EndpointServiceClient,
    entity_service_client::EntityServiceClient, port_service_client::PortServiceClient,
    request_service_client::RequestServiceClient,
};
use tonic::{
    IntoRequest, Request, Response, Status,
    transport::{Channel, Endpoint},
};

use crate::{args::Global, error::Error};

/// A connection is there within this time, or it is not.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take when nobody says so.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The same where a process is started or stopped.
const PATIENCE: Duration = Duration::from_secs(120);
/// A manager that is gone without a word is noticed within twice this time, on a stream too.
const ALIVE: Duration = Duration::from_secs(15);
/// Dead letters have whole messages in them.
const MAX_ANSWER: usize = 64 << 20;
/// Rows a page.
pub(crate) const PAGE: i32 = 500;

/// A connection to a manager.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
    /// How long one answer may take; what is usual when not said.
    given: Option<Duration>,
    timeout: Duration,
}

impl Client {
    /// Connects to the server that the flags name.
    pub(crate) async fn connect(global: &Global) -> Result<Self, Error> {
        let server = uri(&global.server)?;
        let timeout = global.timeout.unwrap_or(TIMEOUT);
        let endpoint = Endpoint::from_shared(server.clone())
            .map_err(|e| Error::Usage(format!("--server: `{server}` is not an address: {e}")))?
            .connect_timeout(CONNECT.min(timeout))
            .http2_keep_alive_interval(ALIVE)
            .keep_alive_timeout(ALIVE);
        let channel = endpoint
            .connect()
            .await
            .map_err(|e| Error::Unreachable { server, cause: innermost(&e) })?;
        Ok(Self { channel, given: global.timeout, timeout })
    }

    /// One that waits for processes, unless it was said how long: as long as usual, and `more`.
    pub(crate) fn patient(&self, more: Duration) -> Self {
        Self { timeout: self.given.unwrap_or(PATIENCE + more), ..self.clone() }
    }

    /// How long one answer may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long one answer may take, if that was said.
    pub(crate) fn given(&self) -> Option<Duration> {
        self.given
    }

    /// A request with the deadline of the command.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = message.into_request();
        request.set_timeout(self.timeout);
        request
    }

    /// Agents.
    pub(crate) fn agents(&self) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// Endpoints.
    pub(crate) fn endpoints(&self) -> EndpointServiceClient<Channel> {
        EndpointServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// Entities.
    pub(crate) fn entities(&self) -> EntityServiceClient<Channel> {
        EntityServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// Ports.
    pub(crate) fn ports(&self) -> PortServiceClient<Channel> {
        PortServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// Caches.
    pub(crate) fn caches(&self) -> CacheServiceClient<Channel> {
        CacheServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// Requests.
    pub(crate) fn requests(&self) -> RequestServiceClient<Channel> {
        RequestServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// CAST, CALL, NOTIFY and queues.
    pub(crate) fn bridge(&self) -> BridgeServiceClient<Channel> {
        BridgeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }
}

/// The address of a server; without a scheme it is `http`.
fn uri(server: &str) -> Result<String, Error> {
    match server.split_once("://") {
        None => Ok(format!("http://{server}")),
        Some(("http", _)) => Ok(server.to_owned()),
        Some((scheme, _)) => Err(Error::Usage(format!(
            "--server: `{scheme}` is not known; only http is, TLS comes later"
        ))),
    }
}

/// The last cause of a chain: what the system said.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The answer of an index: one page, or several put together.
pub(crate) trait Page: Default {
    /// Takes the token of the next page out, empty on the last one.
    fn next(&mut self) -> String;
    /// Adds the rows of a later page.
    fn append(&mut self, later: Self);
}

macro_rules! pages {
    ($($answer:ident: $rows:ident),* $(,)?) => {
        $(impl Page for v1::$answer {
            fn next(&mut self) -> String {
                std::mem::take(&mut self.next_page_token)
            }

            fn append(&mut self, later: Self) {
                self.$rows.extend(later.$rows);
                self.total_size = later.total_size;
            }
        })*
    };
}

pages! {
    IndexAgentsResponse: agents,
    IndexReportsResponse: reports,
    IndexEndpointsResponse: endpoints,
    IndexEntitiesResponse: entities,
    IndexPortsResponse: ports,
    IndexQueuesResponse: queues,
    IndexCachesResponse: caches,
    IndexDeadLettersResponse: dead_letters,
    IndexResponsesResponse: responses,
}

/// All pages of an index as one answer.
pub(crate) async fn all_pages<P, F, A>(mut fetch: F) -> Result<P, Error>
where
    P: Page,
    F: FnMut(String) -> A,
    A: Future<Output = Result<Response<P>, Status>>,
{
    let mut all = fetch(String::new()).await?.into_inner();
    let mut token = all.next();
    while !token.is_empty() {
        let mut page = fetch(token.clone()).await?.into_inner();
        let next = page.next();
        all.append(page);
        // A server that gives the same token again would keep us here for ever.
        token = if next == token { String::new() } else { next };
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use goperation::v1::{IndexQueuesResponse, Queue};

    use super::*;

    #[tokio::test]
    async fn pages_follow_each_other() {
        let page = |token: String| {
            let number: usize = token.parse().unwrap_or(0);
            std::future::ready(Ok(Response::new(IndexQueuesResponse {
                queues: vec![Queue { name: format!("q{number}"), ..Queue::default() }],
                next_page_token: if number < 2 { (number + 1).to_string() } else { String::new() },
                total_size: 3,
            })))
        };
        let all: IndexQueuesResponse = all_pages(page).await.unwrap();
        let names: Vec<_> = all.queues.iter().map(|q| q.name.as_str()).collect();
        assert_eq!((names, all.total_size), (vec!["q0", "q1", "q2"], 3));
    }

    #[test]
    fn servers() {
        assert_eq!(uri("h1:7999").unwrap(), "http://h1:7999");
        assert_eq!(uri("http://h1:7999").unwrap(), "http://h1:7999");
        assert!(uri("https://h1").is_err());
    }
}
