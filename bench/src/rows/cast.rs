//! CAST: accepted by the broker, journaled by the agent, run.
//!
//! One unit has run when the agent says so: its own count of done messages, asked by CALL.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _};
use goperation::v1::{CallRequest, CastRequest, bridge_service_client::BridgeServiceClient};
use prost_types::value::Kind;
use tokio::time::sleep;
use tonic::transport::Channel;

use super::{
    Wanted,
    call::{Bare, COMMITS, ENTRY_BYTES, WORK, args, target},
};
use crate::{
    Result,
    bench::{AT_ONCE, Bench},
    limit::{amqp::Requester, commit},
    measure::count,
    peer::Peer,
    row::{Measured, Part, Round, Row, Target, Unit},
    site::Site,
};

pub(super) const ROWS: &[Row] = &[CAST];

const CAST: Row = Row {
    name: "cast",
    what: "CAST, accepted → journaled → run, 64 at once",
    against: "lapin persistent confirmed publish + consume, 1 tonic unary, 2 group commits",
    unit: Unit::PerSecond,
    target: Target::RatioAtLeast(0.8),
};

/// Between two questions whether all have run.
const PAUSE: Duration = Duration::from_millis(2);

pub(super) async fn measure(bench: &Bench, _: &Wanted) -> Result<Vec<Measured>> {
    let bare = Bare::start(bench).await?;
    let peer = Peer::start(bench).await?;
    let site = Site::start(bench).await?;
    let _agent = site.emulate(bench, 1, &[]).await?;
    let client = BridgeServiceClient::new(site.channel.clone());
    let number = bench.sized(20_000, 4_000);
    let load = bench.load();
    let mut rounds = Vec::new();
    for _ in 0..bench.rounds() {
        let ours = ours(&client, number).await?;
        let publish = publish(&bare.requester, number).await?;
        let unary = bare.unary(AT_ONCE, load).await?;
        let commit = commit::rate(AT_ONCE, load, ENTRY_BYTES).await?;
        let parts = vec![
            Part::one("lapin publish + consume", publish),
            Part::one("tonic unary", unary.rate),
            Part::many("group commit", COMMITS, commit.rate),
        ];
        let peer = match &peer {
            Some(peer) => Some(peer.cast(AT_ONCE, load).await?.rate),
            None => None,
        };
        rounds.push(Round::of_rates(ours, parts).beside(peer));
    }
    Ok(vec![Measured::new(CAST, rounds)])
}

/// So many CASTs a second were sent and have run.
async fn ours(client: &BridgeServiceClient<Channel>, number: u64) -> Result<f64> {
    let before = done(client).await?;
    let began = Instant::now();
    let casts = futures::stream::iter(0..number).map(|_| {
        let mut client = client.clone();
        async move {
            let request = CastRequest {
                target: Some(target()),
                method: WORK.to_owned(),
                args: Some(args()),
                ..CastRequest::default()
            };
            client.cast(request).await.map(|_| ())
        }
    });
    casts.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    // The question is one of the messages that it counts.
    let mut asked = 1;
    while done(client).await? < before + count(number + asked) {
        asked += 1;
        sleep(PAUSE).await;
    }
    Ok(count(number) / began.elapsed().as_secs_f64())
}

/// Messages that the agent has done.
async fn done(client: &BridgeServiceClient<Channel>) -> Result<f64> {
    let request = CallRequest {
        target: Some(goperation::v1::Target { namespace: String::new(), ..target() }),
        method: "status_agent".to_owned(),
        ..CallRequest::default()
    };
    let answer = client.clone().call(request).await?.into_inner();
    let find = |fields: Option<prost_types::Struct>, name: &str| {
        fields.and_then(|mut fields| fields.fields.remove(name)).and_then(|value| value.kind)
    };
    let Some(Kind::StructValue(messages)) = find(answer.result, "messages") else {
        return Err("status_agent tells no messages".into());
    };
    match find(Some(messages), "done") {
        Some(Kind::NumberValue(done)) => Ok(done),
        _ => Err("status_agent does not tell how many are done".into()),
    }
}

/// The same by bare lapin.
async fn publish(requester: &Arc<Requester>, number: u64) -> Result<f64> {
    let before = requester.taken().await?;
    let body = serde_json::to_vec(&serde_json::json!({"text": "x".repeat(80)}))?;
    let began = Instant::now();
    let casts = futures::stream::iter(0..number).map(|_| requester.cast(&body));
    casts.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    while requester.taken().await? < before + number {
        sleep(PAUSE).await;
    }
    Ok(count(number) / began.elapsed().as_secs_f64())
}
