//! How the manager reaches a bridge: by the gRPC trait of one in this process, or by a gRPC client
//! of one elsewhere.
//!
//! Invariant: every call through here ends, whatever the bridge does: a method that was sent and
//! not answered in time is OUTCOME_UNKNOWN with its message id.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use goperation::{
    Error, JsonObject, MessageId, Reason, Result, json_to_struct, struct_to_json, to_timestamp,
    v1::{bridge_service_client::BridgeServiceClient, bridge_service_server::BridgeService, *},
};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::http,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint, Uri},
};
use tower::{ServiceExt as _, util::BoxCloneSyncService};

/// How long a change of queues or a question about them may take.
const TOPOLOGY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the broker may take to confirm a CAST.
const CAST_TIMEOUT: Duration = Duration::from_secs(5);
/// What the bridge gets beyond the wait, so that its typed answer comes before ours.
const SLACK: Duration = Duration::from_secs(1);
/// How long making a connection to a bridge may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type Service = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, LinkError>;

/// Why the way to the bridge failed. A type of its own: futures over a boxed error are not `Send`
/// for every lifetime.
#[derive(Debug, thiserror::Error)]
#[error("the way to the bridge failed")]
pub(crate) struct LinkError(#[source] tonic::transport::Error);

/// What a receiver is sent.
pub(crate) type Incoming = Pin<Box<dyn Stream<Item = Result<ReceiveResponse, Status>> + Send>>;

/// Whatever way there is to the bridge.
#[derive(Clone)]
pub(crate) enum Client {
    /// Messages go to it as they are: to encode and decode them would cost more than all else that
    /// the manager does with them.
    Here(Arc<dyn BridgeService<ReceiveStream = Incoming>>),
    There(BridgeServiceClient<Service>),
}

macro_rules! methods {
    ($($method:ident: $request:ty => $answer:ty;)+) => {$(
        pub(crate) async fn $method(
            &mut self,
            request: Request<$request>,
        ) -> Result<Response<$answer>, Status> {
            match self {
                Self::Here(bridge) => bridge.$method(request).await,
                Self::There(client) => client.$method(request).await,
            }
        }
    )+};
}

impl Client {
    methods! {
        cast: CastRequest => CastResponse;
        call: CallRequest => CallResponse;
        notify: NotifyRequest => NotifyResponse;
        acknowledge: AcknowledgeRequest => AcknowledgeResponse;
        show_queue: ShowQueueRequest => ShowQueueResponse;
        index_dead_letters: IndexDeadLettersRequest => IndexDeadLettersResponse;
        create_agent_queues: CreateAgentQueuesRequest => CreateAgentQueuesResponse;
        delete_agent_queues: DeleteAgentQueuesRequest => DeleteAgentQueuesResponse;
    }

    pub(crate) async fn receive(
        &mut self,
        request: Request<ReceiveRequest>,
    ) -> Result<Incoming, Status> {
        match self {
            Self::Here(bridge) => Ok(bridge.receive(request).await?.into_inner()),
            Self::There(client) => Ok(Box::pin(client.receive(request).await?.into_inner())),
        }
    }
}

/// The way to a bridge.
#[derive(Clone)]
pub struct BridgeLink(Client);

impl fmt::Debug for BridgeLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BridgeLink(..)")
    }
}

impl BridgeLink {
    /// A bridge in this process.
    #[must_use]
    pub fn embedded(bridge: impl BridgeService<ReceiveStream = Incoming>) -> Self {
        Self(Client::Here(Arc::new(bridge)))
    }

    /// A bridge elsewhere. The connection is made at the first use and again whenever it is lost.
    #[must_use]
    pub fn remote(uri: Uri) -> Self {
        let channel: Channel = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .connect_lazy();
        let service = channel.map_err(LinkError);
        Self(Client::There(BridgeServiceClient::new(BoxCloneSyncService::new(service))))
    }

    pub(crate) fn client(&self) -> Client {
        self.0.clone()
    }

    /// Sends a CALL to one agent and waits `wait` for its result.
    pub(crate) async fn call(
        &self,
        call: Call<'_>,
        now: u64,
        wait: Duration,
    ) -> Result<JsonObject> {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let mut request = Request::new(CallRequest {
            target: Some(call.to.target(call.namespace)),
            method: call.method.to_owned(),
            args: Some(json_to_struct("args", &call.args)?),
            timeout: prost_types::Duration::try_from(wait).ok(),
            finish_time: Some(to_timestamp(call.finish.unwrap_or(now.saturating_add(millis)))),
            message_id: call.id.to_string(),
        });
        request.set_timeout(wait + SLACK);
        let mut client = self.client();
        let answer = tokio::time::timeout(wait + 2 * SLACK, client.call(request)).await;
        let what = || format!("{} was sent to {}", call.method, call.to);
        match answer {
            Ok(Ok(response)) => struct_to_json("result", response.into_inner().result.as_ref()),
            Ok(Err(status)) => Err(failed(&status, what, call.id.as_str())),
            Err(_) => Err(unknown(&what(), "the bridge did not answer in time", call.id.as_str())),
        }
    }

    /// Sends a CAST to one agent.
    pub(crate) async fn cast(&self, call: Call<'_>) -> Result<()> {
        let request = CastRequest {
            target: Some(call.to.target(call.namespace)),
            method: call.method.to_owned(),
            args: Some(json_to_struct("args", &call.args)?),
            agents: String::new(),
            finish_time: call.finish.map(to_timestamp),
            message_id: call.id.to_string(),
            request_id: String::new(),
        };
        self.send(request, "").await
    }

    /// Sends a CAST that has its id to whomever its target says, as part of a trace if that is
    /// said.
    pub(crate) async fn send(&self, cast: CastRequest, traceparent: &str) -> Result<()> {
        let id = cast.message_id.clone();
        let what = format!("{} was sent", cast.method);
        let mut request = Request::new(cast);
        request.set_timeout(CAST_TIMEOUT);
        if !traceparent.is_empty()
            && let Ok(trace) = traceparent.parse::<MetadataValue<Ascii>>()
        {
            request.metadata_mut().insert("traceparent", trace);
        }
        let mut client = self.client();
        match tokio::time::timeout(CAST_TIMEOUT + SLACK, client.cast(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(failed(&status, || what, &id)),
            Err(_) => Err(unknown(&what, "the bridge did not answer in time", &id)),
        }
    }

    /// Makes the queues of an agent and binds them to the broadcasts of exactly these endpoints.
    pub(crate) async fn create_queues(
        &self,
        to: &To,
        endpoints: Vec<String>,
        former: Vec<String>,
    ) -> Result<()> {
        let request = CreateAgentQueuesRequest {
            r#type: to.agent_type.clone(),
            host: to.host.clone(),
            endpoints,
            former_endpoints: former,
        };
        let mut client = self.client();
        topology(request, |request| client.create_agent_queues(request)).await.map(|_| ())
    }

    /// Removes the queues of an agent.
    pub(crate) async fn delete_queues(&self, to: &To) -> Result<i32> {
        let request =
            DeleteAgentQueuesRequest { r#type: to.agent_type.clone(), host: to.host.clone() };
        let mut client = self.client();
        let answer = topology(request, |request| client.delete_agent_queues(request)).await?;
        Ok(answer.drained)
    }

    /// A queue as it is now; one that does not exist says so.
    pub(crate) async fn queue(&self, name: String) -> Result<Queue> {
        let absent = Queue { name: name.clone(), exists: false, depth: 0, consumers: 0 };
        let mut client = self.client();
        let answer =
            topology(ShowQueueRequest { name }, |request| client.show_queue(request)).await;
        match answer {
            Ok(answer) => Ok(answer.queue.unwrap_or(absent)),
            Err(error) if error.reason == Reason::QueueNotFound => Ok(absent),
            Err(error) => Err(error),
        }
    }
}

/// A command that was sent, and of which nothing else is known.
pub(crate) fn unknown(what: &str, why: &str, id: &str) -> Error {
    Error::new(Reason::OutcomeUnknown, format!("{what}, but {why}")).with_message_id(id)
}

/// A command that failed: known not to be sent, in the bridge's own words, or unknown.
pub(crate) fn failed(status: &Status, what: impl FnOnce() -> String, id: &str) -> Error {
    if never_connected(status) {
        return Error::new(
            Reason::BrokerUnavailable,
            format!("the bridge cannot be reached: {}", status.message()),
        )
        .with_retry_after(SLACK);
    }
    let error = Error::from_status(status);
    // Not the bridge's own words: whether it has sent it is not known.
    if is_foreign(status) && error.reason != Reason::InvalidArgument {
        return unknown(&what(), &format!("the bridge failed: {}", error.message), id);
    }
    error
}

/// Whether a status has no `ErrorInfo` of ours: it comes from the way, not from the bridge.
fn is_foreign(status: &Status) -> bool {
    use tonic::Code;
    // Every typed error of ours carries details.
    status.details().is_empty() || status.code() == Code::Cancelled
}

/// Whether there was no connection to a bridge: nothing was sent.
fn never_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

async fn topology<Q, A, F>(request: Q, send: impl FnOnce(Request<Q>) -> F) -> Result<A>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut request = Request::new(request);
    request.set_timeout(TOPOLOGY_TIMEOUT);
    match tokio::time::timeout(TOPOLOGY_TIMEOUT + SLACK, send(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::from_status(&status)),
        Err(_) => Err(Error::new(Reason::BrokerUnavailable, "the bridge did not answer in time")
            .with_retry_after(SLACK)),
    }
}

/// One agent, as messages are addressed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct To {
    pub(crate) agent_type: String,
    pub(crate) host: String,
}

impl To {
    pub(crate) fn target(&self, namespace: &str) -> Target {
        Target {
            topic: format!("agent.{}", self.agent_type),
            host: self.host.clone(),
            fanout: false,
            namespace: namespace.to_owned(),
        }
    }
}

/// Every agent, or all that have the namespace's endpoint.
pub(crate) fn everyone(namespace: &str) -> Target {
    Target {
        topic: "agent".to_owned(),
        host: String::new(),
        fanout: true,
        namespace: namespace.to_owned(),
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "agent {} on {}", self.agent_type, self.host)
    }
}

/// A command for one agent.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) to: &'a To,
    pub(crate) namespace: &'a str,
    pub(crate) method: &'a str,
    pub(crate) args: JsonObject,
    pub(crate) id: &'a MessageId,
    /// When it may be started at the latest, unless that is the end of the wait.
    pub(crate) finish: Option<u64>,
}

/// Whether a failed method is known not to have had its effect.
pub(crate) fn had_no_effect(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::OutcomeUnknown | Reason::Interrupted | Reason::Internal | Reason::Unavailable
    )
}

#[cfg(test)]
mod tests {
    use tower::service_fn;

    use super::*;

    /// The end of a CAST over that way.
    async fn cast<F>(way: impl Fn() -> F + Clone + Send + Sync + 'static) -> Error
    where
        F: Future<Output = Status> + Send + 'static,
    {
        let service = service_fn(move |_: http::Request<Body>| {
            let answer = way();
            async move { Ok::<_, LinkError>(answer.await.into_http()) }
        });
        let client = BridgeServiceClient::new(BoxCloneSyncService::new(service));
        let link = BridgeLink(Client::There(client));
        let cast = CastRequest { message_id: "m1".to_owned(), ..CastRequest::default() };
        link.send(cast, "").await.unwrap_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_cast_that_the_bridge_does_not_answer_is_unknown() {
        let error = cast(std::future::pending).await;
        assert_eq!(error.reason, Reason::OutcomeUnknown);
        assert_eq!(error.metadata["message_id"], "m1");
    }

    #[tokio::test]
    async fn only_the_bridges_own_words_say_that_a_cast_was_not_sent() {
        for foreign in [Status::unavailable("a proxy"), Status::internal("h2"), Status::unknown("")]
        {
            let error = cast(move || std::future::ready(foreign.clone())).await;
            assert_eq!(error.reason, Reason::OutcomeUnknown, "{error}");
        }
        for reason in [Reason::BrokerUnavailable, Reason::QueueNotFound, Reason::QueueFull] {
            let own = Error::new(reason, "no");
            assert_eq!(cast(move || std::future::ready(own.clone().into())).await.reason, reason);
        }
    }
}
