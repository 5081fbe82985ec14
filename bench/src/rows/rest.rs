//! REST: the same record of an agent by HTTP/1.1 and JSON, and by gRPC, from one manager.
//!
//! An answer counts when its status is 200 (OK) and there is something in it.

use goperation::v1::{ShowAgentRequest, agent_service_client::AgentServiceClient};
use http_body_util::{BodyExt as _, Empty};
use hyper::{StatusCode, Uri, body::Bytes};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tonic::transport::Channel;

use super::Wanted;
use crate::{
    Result,
    bench::{AT_ONCE, Bench},
    measure::{Load, Sample, closed_loop},
    row::{Measured, Part, Round, Row, Target, Unit},
    site::Site,
};

pub(super) const ROWS: &[Row] = &[SHOW];

const SHOW: Row = Row {
    name: "rest.show",
    what: "REST: one agent's record, 64 at once, connections kept alive",
    against: "the same by gRPC, one connection",
    unit: Unit::PerSecond,
    target: Target::RatioAtLeast(0.5),
};

pub(super) async fn measure(bench: &Bench, wanted: &Wanted) -> Result<Vec<Measured>> {
    if !wanted.has(&SHOW) {
        return Ok(Vec::new());
    }
    let site = Site::start(bench).await?;
    let _agent = site.emulate(bench, 1, &[]).await?;
    let uri: Uri = format!("{}/v1/agents/1", site.url).parse()?;
    let mut connector = HttpConnector::new();
    // As tonic's.
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new());
    let client = client.build::<_, Empty<Bytes>>(connector);
    let show = AgentServiceClient::new(site.channel.clone());
    let (load, mut rounds) = (bench.load(), Vec::new());
    let mut note = String::new();
    for number in 0..bench.rounds() {
        let (ours, limit) = if number % 2 == 0 {
            let ours = rest(&client, &uri, load).await?;
            (ours, grpc(&show, load).await?)
        } else {
            let limit = grpc(&show, load).await?;
            (rest(&client, &uri, load).await?, limit)
        };
        rounds.push(Round::of_rates(ours.rate, vec![Part::one("gRPC", limit.rate)]));
        note = format!("p99 {:.1} ms, gRPC {:.1} ms", ours.p99, limit.p99);
    }
    Ok(vec![Measured::new(SHOW, rounds).noting(note)])
}

async fn rest(
    client: &Client<HttpConnector, Empty<Bytes>>,
    uri: &Uri,
    load: Load,
) -> Result<Sample> {
    let (client, uri) = (client.clone(), uri.clone());
    closed_loop(AT_ONCE, load, move || {
        let answer = client.get(uri.clone());
        async move {
            let answer = answer.await?;
            let status = answer.status();
            let body = answer.into_body().collect().await?.to_bytes();
            if status != StatusCode::OK || body.is_empty() {
                return Err(format!("{status} with {} bytes", body.len()).into());
            }
            Ok(())
        }
    })
    .await
}

async fn grpc(show: &AgentServiceClient<Channel>, load: Load) -> Result<Sample> {
    let show = show.clone();
    closed_loop(AT_ONCE, load, move || {
        let mut show = show.clone();
        async move {
            let answer = show.show_agent(ShowAgentRequest { id: 1 }).await?.into_inner();
            if answer.agent.is_none() {
                return Err("no agent in the answer".into());
            }
            Ok(())
        }
    })
    .await
}
