//! A request to many agents: from CreateRequest until the stream has said of each what became of
//! it.
//!
//! Invariant: a round counts only when every agent has succeeded. Both sides have as many agents at
//! the same node all the time; the one that is not measured only holds its connections.

use std::time::Instant;

use futures::StreamExt as _;
use goperation::{
    JsonObject, json_to_struct,
    v1::{
        CreateRequestRequest, RequestSelection, WatchRequestRequest,
        request_service_client::RequestServiceClient, watch_request_response::Event,
    },
};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions,
    },
    types::FieldTable,
};

use super::Wanted;
use crate::{
    Result,
    bench::Bench,
    limit::crowd::BROADCAST,
    measure::millis,
    row::{Measured, Part, Round, Row, Target, Unit},
    site::Site,
};

const REQUEST: Row = Row {
    name: "request",
    what: "request to 1,000 emulated agents until every row is stored and streamed",
    against: "bare broadcast + gather over durable queues",
    unit: Unit::Millis,
    target: Target::RatioAtMost(1.5),
};

pub(super) const ROWS: &[Row] = &[REQUEST];

const AGENTS: usize = 1000;
/// A round takes half a second and its ratio varies by half, so there are more than of other rows.
const ROUNDS: usize = 9;
/// Characters of the argument that all agents get.
const TEXT: usize = 256;
/// Queue in which the bare answers are gathered.
const GATHER: &str = "gather";
/// Answers that the bare asker holds before it acknowledges them together.
const BATCH: u16 = 100;

pub(super) async fn measure(bench: &Bench, _wanted: &Wanted) -> Result<Vec<Measured>> {
    let site = Site::start(bench).await?;
    let _fleet = site.emulate(bench, AGENTS, &[]).await?;
    let vhost = bench.vhost().await;
    let count = AGENTS.to_string();
    let crowd = ["crowd", "--uri", &vhost.uri, "--agents", &count, "--gather", GATHER];
    let _crowd = bench.role(crowd).await?;
    let mut bare = Bare::connect(&vhost.uri).await?;
    let mut args = JsonObject::new();
    args.insert("text".to_owned(), "x".repeat(TEXT).into());
    let body = serde_json::to_vec(&args)?;

    // Once each that does not count: the first finds caches and pools empty.
    ours(&site, &args).await?;
    bare.ask(&body).await?;
    let mut rounds = Vec::new();
    for number in 0..ROUNDS {
        let (ours, limit) = if number % 2 == 0 {
            let ours = ours(&site, &args).await?;
            (ours, bare.ask(&body).await?)
        } else {
            let limit = bare.ask(&body).await?;
            (ours(&site, &args).await?, limit)
        };
        rounds.push(Round::of_times(ours, vec![Part::one("broadcast and gather", limit)]));
    }
    let row = Measured::new(REQUEST, rounds).noting(format!("{AGENTS} agents, method stub.work"));
    Ok(vec![row])
}

/// Asks all agents for their journaled method; the milliseconds until the summary was streamed.
async fn ours(site: &Site, args: &JsonObject) -> Result<f64> {
    let mut requests = RequestServiceClient::new(site.channel.clone());
    let on = RequestSelection { endpoint: "stub".to_owned(), ..RequestSelection::default() };
    let request = CreateRequestRequest {
        namespace: "stub".to_owned(),
        method: "work".to_owned(),
        args: Some(json_to_struct("args", args)?),
        on: Some(on),
        ..CreateRequestRequest::default()
    };
    let began = Instant::now();
    let created = requests.create_request(request).await?.into_inner().request;
    let id = created.ok_or("a request without a record")?.id;
    let watch = WatchRequestRequest { id, ..WatchRequestRequest::default() };
    let mut events = requests.watch_request(watch).await?.into_inner();
    while let Some(event) = events.next().await {
        if let Some(Event::Summary(request)) = event?.event {
            let took = millis(began.elapsed());
            let counts = request.counts.unwrap_or_default();
            if usize::try_from(counts.succeeded)? != AGENTS {
                return Err(format!("not all of {AGENTS} agents have succeeded: {counts:?}").into());
            }
            return Ok(took);
        }
    }
    Err("the stream ended without a summary".into())
}

/// The asker of the bare crowd.
struct Bare {
    _connections: [Connection; 2],
    publishing: Channel,
    answers: Consumer,
}

impl Bare {
    async fn connect(uri: &str) -> Result<Self> {
        let connect = || Connection::connect(uri, ConnectionProperties::default());
        let (publisher, consumer) = tokio::try_join!(connect(), connect())?;
        let publishing = publisher.create_channel().await?;
        publishing.confirm_select(ConfirmSelectOptions::default()).await?;
        let consuming = consumer.create_channel().await?;
        consuming.basic_qos(BATCH * 2, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let answers =
            consuming.basic_consume(GATHER.into(), "".into(), options, FieldTable::default());
        Ok(Self { answers: answers.await?, _connections: [publisher, consumer], publishing })
    }

    /// Broadcasts once and takes an answer of each; the milliseconds.
    async fn ask(&mut self, body: &[u8]) -> Result<f64> {
        let began = Instant::now();
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let lasts = BasicProperties::default().with_delivery_mode(2);
        let sent = self.publishing.basic_publish(BROADCAST.into(), "".into(), options, body, lasts);
        let sent = sent.await?.await?;
        if !matches!(sent, Confirmation::Ack(None)) {
            return Err(format!("the broadcast was not taken: {sent:?}").into());
        }
        for number in 1..=AGENTS {
            let answer = self.answers.next().await.ok_or("the consumer has ended")??;
            if number % usize::from(BATCH) == 0 || number == AGENTS {
                answer.acker.ack(BasicAckOptions { multiple: true }).await?;
            }
        }
        Ok(millis(began.elapsed()))
    }
}
