//! A bridge that a test scripts: it remembers what it was asked and answers as it was told.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use futures::{Stream, StreamExt as _, future::BoxFuture, stream};
use goperation::{
    Error, JsonObject, Reason, json_to_struct, struct_to_json,
    v1::{bridge_service_server::BridgeService, *},
};
use serde_json::{Value, json};
use tonic::{Request, Response, Status, async_trait};

/// What an agent answers.
pub(crate) type Answer = Result<JsonObject, Error>;
type CastScript = Arc<dyn Fn(&CastRequest) -> Result<(), Error> + Send + Sync>;
type Script = Arc<dyn Fn(CallRequest) -> BoxFuture<'static, Answer> + Send + Sync>;

/// What the bridge has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) calls: Vec<CallRequest>,
    pub(crate) casts: Vec<CastRequest>,
    pub(crate) notifies: Vec<NotifyRequest>,
    /// Endpoints of the queues that there are, by `type.host`.
    pub(crate) queues: BTreeMap<String, Vec<String>>,
    /// Changes of queues in order: `create application.h1 [db] -[game]`, `delete application.h1`.
    pub(crate) changes: Vec<String>,
    /// Metadata of the last call.
    pub(crate) traceparent: Option<String>,
    /// The broker is away.
    pub(crate) down: bool,
}

/// The bridge.
#[derive(Clone)]
pub(crate) struct Fake {
    seen: Arc<Mutex<Seen>>,
    script: Arc<Mutex<Script>>,
    casts: Arc<Mutex<CastScript>>,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake(..)")
    }
}

pub(crate) fn object(value: Value) -> JsonObject {
    value.as_object().cloned().unwrap_or_default()
}

/// The arguments of a call.
pub(crate) fn args(request: &CallRequest) -> JsonObject {
    struct_to_json("args", request.args.as_ref()).unwrap()
}

/// Answers as a willing agent: a reservation gets ports from 7001 on.
pub(crate) fn willing(request: &CallRequest) -> Answer {
    let args = args(request);
    let ports = || {
        let wishes = args.get("ports").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut next = 7001;
        let mut ports = Vec::new();
        for wish in wishes {
            for _ in 0..wish.get("count").and_then(Value::as_u64).unwrap_or(1) {
                let port = wish.get("port").cloned().unwrap_or_else(|| json!(next));
                next += 1;
                let name = wish.get("name").cloned().unwrap_or_else(|| json!(""));
                ports.push(json!({"port": port, "protocol": wish["protocol"], "name": name}));
            }
        }
        Value::Array(ports)
    };
    Ok(object(match request.method.as_str() {
        "active_agent" => json!({"status": args["status"]}),
        "pause_agent" => json!({"status": -10}),
        "resume_agent" => json!({"status": 1}),
        "create_entity" => json!({"ports": ports(), "result": {"made": args["entity"]}}),
        "delete_entity" => json!({"result": {"gone": true}}),
        "status_entity" => json!({"result": {"up": true}}),
        "frozen_port" => json!({"ports": ports()}),
        _ => json!({}),
    }))
}

impl Fake {
    pub(crate) fn new() -> Self {
        let willing: Script = Arc::new(|request| Box::pin(async move { willing(&request) }));
        let taken: CastScript = Arc::new(|_| Ok(()));
        Self {
            seen: Arc::default(),
            script: Arc::new(Mutex::new(willing)),
            casts: Arc::new(Mutex::new(taken)),
        }
    }

    /// Answers calls so from now on.
    pub(crate) fn answer(&self, script: impl Fn(&CallRequest) -> Answer + Send + Sync + 'static) {
        let script = Arc::new(script);
        self.answer_later(move |request| {
            let script = script.clone();
            Box::pin(async move { script(&request) })
        });
    }

    /// Answers calls so from now on, when it is ready.
    pub(crate) fn answer_later(
        &self,
        script: impl Fn(CallRequest) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
    ) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    /// Refuses every call for that reason from now on.
    pub(crate) fn refuse(&self, reason: Reason) {
        self.answer(move |_| Err(Error::new(reason, "scripted")));
    }

    /// Answers as a willing agent from now on.
    pub(crate) fn agree(&self) {
        self.answer(willing);
    }

    /// Takes CASTs so from now on; also those that it does not take are seen.
    pub(crate) fn take_casts(
        &self,
        script: impl Fn(&CastRequest) -> Result<(), Error> + Send + Sync + 'static,
    ) {
        *self.casts.lock().unwrap() = Arc::new(script);
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap())
    }

    /// The calls of a method.
    pub(crate) fn calls(&self, method: &str) -> Vec<CallRequest> {
        self.look(|seen| seen.calls.iter().filter(|c| c.method == method).cloned().collect())
    }

    fn up(&self) -> Result<(), Status> {
        if self.look(|seen| seen.down) {
            return Err(
                Error::new(Reason::BrokerUnavailable, "scripted: the broker is away").into()
            );
        }
        Ok(())
    }
}

#[async_trait]
impl BridgeService for Fake {
    async fn cast(&self, request: Request<CastRequest>) -> Result<Response<CastResponse>, Status> {
        self.up()?;
        let request = request.into_inner();
        let message_id = request.message_id.clone();
        let script = self.casts.lock().unwrap().clone();
        let taken = script(&request);
        self.look(|seen| seen.casts.push(request));
        taken?;
        Ok(Response::new(CastResponse { message_id }))
    }

    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        self.up()?;
        let trace = request.metadata().get("traceparent").and_then(|v| v.to_str().ok());
        let trace = trace.map(str::to_owned);
        let request = request.into_inner();
        let message_id = request.message_id.clone();
        self.look(|seen| {
            seen.calls.push(request.clone());
            seen.traceparent = trace;
        });
        let script = self.script.lock().unwrap().clone();
        let answer = script(request).await.map_err(|e| e.with_message_id(&message_id))?;
        let result = Some(json_to_struct("result", &answer)?);
        Ok(Response::new(CallResponse { message_id, result }))
    }

    async fn notify(
        &self,
        request: Request<NotifyRequest>,
    ) -> Result<Response<NotifyResponse>, Status> {
        self.up()?;
        let request = request.into_inner();
        self.look(|seen| seen.notifies.push(request));
        Ok(Response::new(NotifyResponse { message_id: "n1".to_owned() }))
    }

    type ReceiveStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<ReceiveResponse, Status>> + Send>>;

    async fn receive(
        &self,
        _: Request<ReceiveRequest>,
    ) -> Result<Response<Self::ReceiveStream>, Status> {
        let first = ReceiveResponse { message_id: "n1".to_owned(), ..ReceiveResponse::default() };
        // One message, then silence.
        Ok(Response::new(Box::pin(stream::iter([Ok(first)]).chain(stream::pending()))))
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeResponse>, Status> {
        Ok(Response::new(AcknowledgeResponse { unknown: request.into_inner().ack_tokens }))
    }

    async fn index_queues(
        &self,
        _: Request<IndexQueuesRequest>,
    ) -> Result<Response<IndexQueuesResponse>, Status> {
        Err(Status::unimplemented("the manager composes this itself"))
    }

    async fn show_queue(
        &self,
        request: Request<ShowQueueRequest>,
    ) -> Result<Response<ShowQueueResponse>, Status> {
        self.up()?;
        let name = request.into_inner().name;
        let exists = name.split_once('.').is_some_and(|(kind, rest)| {
            kind == "cast" && self.look(|seen| seen.queues.contains_key(rest))
        });
        if !exists && name != "dead" {
            return Err(Error::new(Reason::QueueNotFound, "scripted: no such queue").into());
        }
        let queue = Queue { name, exists: true, depth: 3, consumers: 1 };
        Ok(Response::new(ShowQueueResponse { queue: Some(queue) }))
    }

    async fn index_dead_letters(
        &self,
        _: Request<IndexDeadLettersRequest>,
    ) -> Result<Response<IndexDeadLettersResponse>, Status> {
        let letter = DeadLetter { reason: "OVER_FINISHTIME".to_owned(), ..DeadLetter::default() };
        Ok(Response::new(IndexDeadLettersResponse {
            dead_letters: vec![letter],
            next_page_token: String::new(),
            total_size: 1,
        }))
    }

    async fn create_agent_queues(
        &self,
        request: Request<CreateAgentQueuesRequest>,
    ) -> Result<Response<CreateAgentQueuesResponse>, Status> {
        self.up()?;
        let q = request.into_inner();
        self.look(|seen| {
            let name = format!("{}.{}", q.r#type, q.host);
            seen.changes.push(format!(
                "create {name} [{}] -[{}]",
                q.endpoints.join(","),
                q.former_endpoints.join(",")
            ));
            seen.queues.insert(name, q.endpoints);
        });
        Ok(Response::new(CreateAgentQueuesResponse {}))
    }

    async fn delete_agent_queues(
        &self,
        request: Request<DeleteAgentQueuesRequest>,
    ) -> Result<Response<DeleteAgentQueuesResponse>, Status> {
        self.up()?;
        let q = request.into_inner();
        self.look(|seen| {
            let name = format!("{}.{}", q.r#type, q.host);
            seen.changes.push(format!("delete {name}"));
            seen.queues.remove(&name);
        });
        Ok(Response::new(DeleteAgentQueuesResponse { drained: 0 }))
    }
}
