//! The queues of many agents by bare lapin: what `gop emulate` and the bridge have at the broker
//! for them.
//!
//! Invariant: names, arguments, bindings, prefetch, and the number of channels and connections are
//! those of ours, and nothing else is done: no registration, no canary, no supervision.

use std::time::Instant;

use clap::Args;
use futures::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    future::{BoxFuture, pending, try_join_all},
    stream,
};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    ExchangeKind,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, LongString},
    uri::AMQPUri,
};
use tokio::task::JoinSet;

use crate::{Error, Result, measure::millis};

/// To all agents that have the endpoint of emulated ones.
pub(crate) const BROADCAST: &str = "gop.fanout.stub";
/// Bytes of an answer: about those that an emulated agent sends.
const ANSWER: [u8; 160] = [b'x'; 160];

/// Frames and heartbeat of every connection of ours.
const FRAME_MAX: u32 = 16_384;
const HEARTBEAT: u16 = 5;
/// Prefetch of an emulated agent.
const PREFETCH: u16 = 32;
/// Agents of a connection that declare at a time: more only wait for one another in the broker.
const DECLARING: usize = 8;

const TYPE: &str = "application";
const DIRECT: &str = "gop.direct";
const STEP: &str = "gop.step";
const RETURN: &str = "gop.return";
const DEAD: &str = "gop.dead";
const ALL: &str = "gop.fanout.agent";

/// What a crowd is.
#[derive(Debug, Args)]
pub(crate) struct Crowd {
    /// The broker
    #[arg(long)]
    uri: String,
    /// How many agents
    #[arg(long)]
    agents: u32,
    /// Number of the first
    #[arg(long, default_value_t = 1)]
    first: u32,
    /// Agents that share two connections
    #[arg(long, default_value_t = 100)]
    shared: u32,
    /// Durable queue, made here, to which each broadcast is answered
    #[arg(long)]
    gather: Option<String>,
}

/// Two connections for some of the agents.
struct Group {
    consuming: Connection,
    publishing: Connection,
    agents: Vec<String>,
}

/// Consumes from the queues of all agents, and says so with the milliseconds that it took.
pub(crate) async fn run(crowd: Crowd) -> Result<()> {
    let began = Instant::now();
    let mut uri: AMQPUri = crowd.uri.parse()?;
    uri.query.frame_max = Some(FRAME_MAX);
    uri.query.heartbeat = Some(HEARTBEAT);
    let names: Vec<String> = (crowd.first..crowd.first + crowd.agents)
        .map(|number| format!("{TYPE}.emu-{number:05}"))
        .collect();
    let shared = usize::try_from(crowd.shared.max(1))?;
    let groups = names.chunks(shared).map(|agents| Group::connect(&uri, agents.to_vec()));
    let groups = try_join_all(groups).await?;
    let Some(first) = groups.first() else { return Err("no agents".into()) };
    declare_common(&first.consuming, crowd.gather.as_deref()).await?;
    let consumers = try_join_all(groups.iter().map(Group::consume)).await?;
    let mut answering = JoinSet::new();
    if let Some(queue) = &crowd.gather {
        for (group, consumers) in groups.iter().zip(&consumers) {
            let channel = group.publishing.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            for agent in consumers {
                answering.spawn(answer(agent.cast.clone(), channel.clone(), queue.clone()));
            }
        }
    }
    println!("ready {:.0}", millis(began.elapsed()));
    match answering.join_next().await {
        Some(ended) => ended?,
        None => pending().await,
    }
}

impl Group {
    async fn connect(uri: &AMQPUri, agents: Vec<String>) -> Result<Self, lapin::Error> {
        let connect = || Connection::connect_uri(uri.clone(), ConnectionProperties::default());
        let (consuming, publishing) = tokio::try_join!(connect(), connect())?;
        Ok(Self { consuming, publishing, agents })
    }

    async fn consume(&self) -> Result<Vec<Agent>, lapin::Error> {
        let agents = self.agents.iter().map(|name| Agent::consume(&self.consuming, name));
        stream::iter(agents).buffer_unordered(DECLARING).try_collect().await
    }
}

/// The consumers of an agent, each with a channel of its own. Dropped, they would consume no more.
struct Agent {
    cast: Consumer,
    _others: [Consumer; 3],
}

impl Agent {
    async fn consume(connection: &Connection, name: &str) -> Result<Self, lapin::Error> {
        let open = || connection.create_channel();
        let (call, any_call, cast, any) = tokio::try_join!(open(), open(), open(), open())?;
        let own = async {
            let (exchange, queue) = (format!("gop.agent.{name}"), cast_queue(name));
            let (call_key, cast_key) = (format!("call.{name}"), format!("cast.{name}"));
            let call_queue = format!("gop.call.{name}");
            let exclusive =
                QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
            // The channel keeps their order; nobody waits for each answer in turn.
            try_join_all([
                declare_exchange(&call, &exchange, ExchangeKind::Topic, FieldTable::default()),
                declare_queue(&call, &queue, QueueDeclareOptions::durable(), lasting()),
                declare_queue(&call, &call_queue, exclusive, classic()),
                bind_exchange(&call, &exchange, DIRECT, &call_key),
                bind_exchange(&call, STEP, &exchange, &format!("*.{cast_key}")),
                bind_exchange(&call, STEP, &exchange, &format!("*.any.{TYPE}")),
                bind_exchange(&call, DEAD, &exchange, &format!("dead.{name}")),
                bind(&call, &queue, DIRECT, &cast_key),
                bind(&call, &queue, RETURN, &format!("*.{cast_key}")),
                bind(&call, &queue, ALL, ""),
                bind(&call, &queue, BROADCAST, ""),
                bind(&call, &call_queue, &exchange, &call_key),
            ])
            .await?;
            tokio::try_join!(consume(&call, &call_queue), consume(&cast, &queue))
        };
        let any_call = async {
            let queue = format!("gop.anycall.{TYPE}");
            let shared =
                QueueDeclareOptions { durable: true, auto_delete: true, ..Default::default() };
            try_join_all([
                declare_queue(&any_call, &queue, shared, classic()),
                bind(&any_call, &queue, &type_exchange(), &format!("anycall.{TYPE}")),
            ])
            .await?;
            consume(&any_call, &queue).await
        };
        let any_queue = any_queue();
        let any = consume(&any, &any_queue);
        let ((call, cast), any_call, any) = tokio::try_join!(own, any_call, any)?;
        Ok(Self { cast, _others: [call, any_call, any] })
    }
}

fn cast_queue(name: &str) -> String {
    format!("gop.cast.classic.{name}")
}

fn any_queue() -> String {
    format!("gop.any.classic.{TYPE}")
}

fn type_exchange() -> String {
    format!("gop.type.{TYPE}")
}

/// What all agents share.
async fn declare_common(connection: &Connection, gather: Option<&str>) -> Result<()> {
    let channel = connection.create_channel().await?;
    let (none, queue, any) = (FieldTable::default, any_queue(), format!("any.{TYPE}"));
    let mut alternate = none();
    alternate.insert("alternate-exchange".into(), text(DEAD));
    let mut steps = vec![
        declare_exchange(&channel, DEAD, ExchangeKind::Fanout, none()),
        declare_exchange(&channel, DIRECT, ExchangeKind::Direct, none()),
        declare_exchange(&channel, RETURN, ExchangeKind::Topic, alternate),
        declare_exchange(&channel, STEP, ExchangeKind::Topic, none()),
        declare_exchange(&channel, ALL, ExchangeKind::Fanout, none()),
        declare_exchange(&channel, BROADCAST, ExchangeKind::Fanout, none()),
        declare_exchange(&channel, &type_exchange(), ExchangeKind::Direct, none()),
        declare_queue(&channel, &queue, QueueDeclareOptions::durable(), lasting()),
        bind_exchange(&channel, &type_exchange(), DIRECT, &format!("anycall.{TYPE}")),
        bind(&channel, &queue, DIRECT, &any),
        bind(&channel, &queue, RETURN, &format!("*.{any}")),
    ];
    if let Some(queue) = gather {
        steps.push(declare_queue(&channel, queue, QueueDeclareOptions::durable(), classic()));
    }
    try_join_all(steps).await?;
    Ok(channel.close(200, "done".into()).await?)
}

/// Answers each broadcast to an agent, and acknowledges it when the broker has the answer.
async fn answer(mut casts: Consumer, channel: Channel, queue: String) -> Result<()> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    while let Some(cast) = casts.next().await {
        let cast = cast?;
        let lasts = BasicProperties::default().with_delivery_mode(2);
        let sent = channel
            .basic_publish("".into(), queue.as_str().into(), options, &ANSWER, lasts)
            .await?;
        match sent.await? {
            Confirmation::Ack(None) => cast.acker.ack(BasicAckOptions::default()).await?,
            other => return Err(Error::from(format!("an answer was not taken: {other:?}"))),
        };
    }
    Err("a consumer has ended".into())
}

type Step<'a> = BoxFuture<'a, Result<(), lapin::Error>>;

fn declare_exchange<'a>(
    channel: &'a Channel,
    name: &str,
    kind: ExchangeKind,
    arguments: FieldTable,
) -> Step<'a> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), kind, options, arguments).boxed()
}

fn declare_queue<'a>(
    channel: &'a Channel,
    name: &str,
    options: QueueDeclareOptions,
    arguments: FieldTable,
) -> Step<'a> {
    let declared = channel.queue_declare(name.into(), options, arguments);
    declared.map(|declared| declared.map(drop)).boxed()
}

fn bind<'a>(channel: &'a Channel, queue: &str, from: &str, key: &str) -> Step<'a> {
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(queue.into(), from.into(), key.into(), options, none).boxed()
}

fn bind_exchange<'a>(channel: &'a Channel, to: &str, from: &str, key: &str) -> Step<'a> {
    let (options, none) = (ExchangeBindOptions::default(), FieldTable::default());
    channel.exchange_bind(to.into(), from.into(), key.into(), options, none).boxed()
}

async fn consume(channel: &Channel, queue: &str) -> Result<Consumer, lapin::Error> {
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume(queue.into(), "".into(), options, none);
    let limit = channel.basic_qos(PREFETCH, BasicQosOptions::default());
    tokio::try_join!(limit, consumer).map(|((), consumer)| consumer)
}

fn classic() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("classic"));
    arguments
}

/// Of queues whose messages become dead letters when they cannot stay.
fn lasting() -> FieldTable {
    let mut arguments = classic();
    arguments.insert("x-dead-letter-exchange".into(), text(DEAD));
    arguments
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}
