//! CALL: a client asks the manager, whose bridge asks an agent over RabbitMQ.
//!
//! The agent is an emulated one, whose methods do nothing: all else of it is what `gop agent` runs.

use goperation::v1::{CallRequest, Target as Address, bridge_service_client::BridgeServiceClient};
use prost_types::{Struct, Value, value::Kind};
use tonic::transport::Channel;

use super::Wanted;
use crate::{
    Result,
    bench::{AT_ONCE, Bench},
    limit::{amqp::Requester, commit, unary::Unary},
    measure::{Load, Sample, closed_loop},
    peer::Peer,
    row::{Measured, Part, Round, Row, Target, Unit},
    site::Site,
};

pub(super) const ROWS: &[Row] = &[CALL, APART, ONE, JOURNALED];

const CALL: Row = Row {
    name: "call",
    what: "CALL of a read-only method, 64 at once",
    against: "lapin request/reply + 1 tonic unary",
    unit: Unit::PerSecond,
    target: Target::RatioAtLeast(0.8),
};
const APART: Row = Row {
    name: "call.apart",
    what: "the same, the bridge a process of its own",
    against: "lapin request/reply + 2 tonic unaries",
    unit: Unit::PerSecond,
    target: Target::RatioAtLeast(0.8),
};
const ONE: Row = Row {
    name: "call.one",
    what: "the same, 1 at a time, p50",
    against: "the sum of their p50s",
    unit: Unit::Millis,
    target: Target::RatioAtMost(1.5),
};
const JOURNALED: Row = Row {
    name: "call.journaled",
    what: "CALL of a journaled method, 64 at once",
    against: "lapin request/reply + 1 tonic unary + 2 group commits",
    unit: Unit::PerSecond,
    target: Target::RatioAtLeast(0.75),
};

/// Of a journal's entry: what a message and its outcome take.
pub(super) const ENTRY_BYTES: usize = 300;
/// *received*, before the broker's ack, and *done*, before the reply: no fewer keep the promise.
pub(super) const COMMITS: f64 = 2.0;

/// The limit: a bare responder on a virtual host of its own, and a bare unary service.
pub(super) struct Bare {
    pub(super) requester: std::sync::Arc<Requester>,
    unary: Unary,
    _responder: goperation_harness::GopProcess,
}

impl Bare {
    pub(super) async fn start(bench: &Bench) -> Result<Self> {
        let vhost = bench.vhost().await;
        let responder = bench.role(["respond", "--uri", &vhost.uri]).await?;
        let requester = Requester::connect(&vhost.uri).await?.into();
        Ok(Self { requester, unary: Unary::start(bench).await?, _responder: responder })
    }

    async fn request(&self, at_once: usize, load: Load) -> Result<Sample> {
        let requester = std::sync::Arc::clone(&self.requester);
        let body = serde_json::to_vec(&serde_json::json!({"text": TEXT}))?;
        closed_loop(at_once, load, move || {
            let (requester, body) = (std::sync::Arc::clone(&requester), body.clone());
            async move { requester.call(&body).await.map(|_| ()) }
        })
        .await
    }

    pub(super) async fn unary(&self, at_once: usize, load: Load) -> Result<Sample> {
        call(&self.unary.client, LOOK, at_once, load).await
    }
}

pub(super) async fn measure(bench: &Bench, wanted: &Wanted) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    let bare = Bare::start(bench).await?;
    let site = Site::start(bench).await?;
    let _agent = site.emulate(bench, 1, &[]).await?;
    let client = BridgeServiceClient::new(site.channel.clone());
    let load = bench.load();
    if wanted.has(&CALL) {
        let peer = Peer::start(bench).await?;
        let mut rounds = Vec::new();
        let mut last = None;
        for _ in 0..bench.rounds() {
            let ours = call(&client, LOOK, AT_ONCE, load).await?;
            let parts = parts(&bare, 1.0, AT_ONCE, load, |sample| sample.rate).await?;
            let peer = match &peer {
                Some(peer) => Some(peer.call(AT_ONCE, load).await?.rate),
                None => None,
            };
            rounds.push(Round::of_rates(ours.rate, parts).beside(peer));
            last = Some(ours);
        }
        measured.push(noting(Measured::new(CALL, rounds), last));
    }
    if wanted.has(&APART) {
        let site = Site::start_with(bench, true, "").await?;
        let _agent = site.emulate(bench, 1, &[]).await?;
        let client = BridgeServiceClient::new(site.channel.clone());
        let mut rounds = Vec::new();
        let mut last = None;
        for _ in 0..bench.rounds() {
            let ours = call(&client, LOOK, AT_ONCE, load).await?;
            let parts = parts(&bare, 2.0, AT_ONCE, load, |sample| sample.rate).await?;
            rounds.push(Round::of_rates(ours.rate, parts));
            last = Some(ours);
        }
        measured.push(noting(Measured::new(APART, rounds), last));
    }
    if wanted.has(&ONE) {
        let mut rounds = Vec::new();
        let mut last = None;
        for _ in 0..bench.rounds() {
            let ours = call(&client, LOOK, 1, load).await?;
            let parts = parts(&bare, 1.0, 1, load, |sample| sample.p50).await?;
            rounds.push(Round::of_times(ours.p50, parts));
            last = Some(ours);
        }
        measured.push(noting(Measured::new(ONE, rounds), last));
    }
    if wanted.has(&JOURNALED) {
        let mut rounds = Vec::new();
        let mut last = None;
        for _ in 0..bench.rounds() {
            let ours = call(&client, WORK, AT_ONCE, load).await?;
            let mut parts = parts(&bare, 1.0, AT_ONCE, load, |sample| sample.rate).await?;
            let commit = commit::rate(AT_ONCE, load, ENTRY_BYTES).await?;
            parts.push(Part::many("group commit", COMMITS, commit.rate));
            rounds.push(Round::of_rates(ours.rate, parts));
            last = Some(ours);
        }
        measured.push(noting(Measured::new(JOURNALED, rounds), last));
    }
    Ok(measured)
}

async fn parts(
    bare: &Bare,
    unaries: f64,
    at_once: usize,
    load: Load,
    of: fn(Sample) -> f64,
) -> Result<Vec<Part>> {
    let request = of(bare.request(at_once, load).await?);
    let unary = of(bare.unary(at_once, load).await?);
    Ok(vec![Part::one("lapin request/reply", request), Part::many("tonic unary", unaries, unary)])
}

fn noting(measured: Measured, last: Option<Sample>) -> Measured {
    match last {
        Some(Sample { p50, p99, .. }) => {
            measured.noting(format!("ours, last round: p50 {p50:.2} ms, p99 {p99:.2} ms"))
        }
        None => measured,
    }
}

/// Method of the emulated agents that only reads.
pub(super) const LOOK: &str = "look";
/// Method of the emulated agents that is journaled.
pub(super) const WORK: &str = "work";
const TEXT: &str = "as much as the arguments of a usual method take, or so it is assumed here";

/// What every message brings.
pub(super) fn args() -> Struct {
    let text = Value { kind: Some(Kind::StringValue(TEXT.to_owned())) };
    Struct { fields: [("text".to_owned(), text)].into() }
}

/// The first emulated agent.
pub(super) fn target() -> Address {
    Address {
        topic: "agent.application".to_owned(),
        host: "emu-00001".to_owned(),
        fanout: false,
        namespace: "stub".to_owned(),
    }
}

/// CALLs a method of the first emulated agent, again and again.
pub(super) async fn call(
    client: &BridgeServiceClient<Channel>,
    method: &'static str,
    at_once: usize,
    load: Load,
) -> Result<Sample> {
    let client = client.clone();
    closed_loop(at_once, load, move || {
        let mut client = client.clone();
        let request = CallRequest {
            target: Some(target()),
            method: method.to_owned(),
            args: Some(args()),
            ..CallRequest::default()
        };
        async move {
            client.call(request).await?;
            Ok(())
        }
    })
    .await
}
