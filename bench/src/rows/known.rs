//! What it costs that many agents are known: the manager's memory, a CALL to one of them, a page
//! of them.
//!
//! Invariant: two managers at one node differ only in how many agents they know. One agent of each
//! lives; the others are registered as agents do it, with queues, and then away.

use std::time::Instant;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use goperation::v1::{
    AgentEndpoint, AgentFacts, CallRequest, CreateAgentRequest, EndpointMethod, IndexAgentsRequest,
    SyncAgentRequest, Target as Addressee, agent_service_client::AgentServiceClient,
    bridge_service_client::BridgeServiceClient,
};
use goperation_harness::GopProcess;

use super::Wanted;
use crate::{
    Result,
    bench::{AT_ONCE, Bench},
    measure::{Load, Sample, closed_loop},
    process,
    row::{Measured, Part, Round, Row, Target, Unit},
    site::Site,
};

const MEMORY: Row = Row {
    name: "known.memory",
    what: "manager with 10,000 agents known, resident",
    against: "",
    unit: Unit::Mebibytes,
    target: Target::AtMost(200.0),
};
const CALL: Row = Row {
    name: "known.call",
    what: "cost per CALL with 10,000 agents known, 64 at once",
    against: "itself with 10 known",
    unit: Unit::Millis,
    target: Target::RatioAtMost(1.2),
};
const PAGE: Row = Row {
    name: "known.page",
    what: "page of 100 among 10,000 agents, p50",
    against: "among 100",
    unit: Unit::Millis,
    target: Target::RatioAtMost(1.5),
};

pub(super) const ROWS: &[Row] = &[MEMORY, CALL, PAGE];

/// Agents that are known, in full and in the short form.
const MANY: (usize, usize) = (10_000, 1000);
const FEW: usize = 10;
const PAGE_SIZE: usize = 100;
/// Agents that live at each manager: their numbers come first.
const LIVE: usize = 1;

pub(super) async fn measure(bench: &Bench, wanted: &Wanted) -> Result<Vec<Measured>> {
    // A node of its own: ten thousand queues would stay with the rows after these.
    let node = Bench::start(bench.short, None).await?;
    let size = bench.sized(MANY.0, MANY.1);
    let (mut few, mut many) = (Known::start(&node).await?, Known::start(&node).await?);
    few.grow(FEW).await?;
    let began = Instant::now();
    many.grow(size).await?;
    let took = format!("{size} agents, registered in {:.0} s", began.elapsed().as_secs_f64());
    eprintln!("known: {took}");
    let times = |many: f64, what, few: f64| Round::of_times(many, vec![Part::one(what, few)]);
    let note = |row: Row, rounds| Measured::new(row, rounds).noting(took.clone());
    let mut all = Vec::new();

    if wanted.has(&MEMORY) {
        let pid = many.site.manager.pid();
        let one = || process::resident(pid).map(Round::alone);
        let rounds = (0..bench.rounds()).map(|_| one()).collect::<Result<_>>()?;
        let few = process::resident(few.site.manager.pid())?;
        all.push(note(MEMORY, rounds).noting(format!("{few:.0} MiB with {FEW} agents")));
    }
    if wanted.has(&CALL) {
        let cost = |sample: Sample| 1e3 / sample.rate;
        let mut rounds = Vec::new();
        for number in 0..bench.rounds() {
            let (many, few) = if number % 2 == 0 {
                let many = many.call(bench.load()).await?;
                (many, few.call(bench.load()).await?)
            } else {
                let few = few.call(bench.load()).await?;
                (many.call(bench.load()).await?, few)
            };
            rounds.push(times(cost(many), "with 10 known", cost(few)));
        }
        all.push(note(CALL, rounds));
    }
    if wanted.has(&PAGE) {
        few.grow(PAGE_SIZE).await?;
        let middle = many.token(size / 2).await?;
        let mut rounds = Vec::new();
        for number in 0..bench.rounds() {
            let (many, few) = if number % 2 == 0 {
                let many = many.page(bench.load(), &middle).await?;
                (many, few.page(bench.load(), "").await?)
            } else {
                let few = few.page(bench.load(), "").await?;
                (many.page(bench.load(), &middle).await?, few)
            };
            rounds.push(times(many.p50, "among 100", few.p50));
        }
        let first = many.page(bench.load(), "").await?.p50;
        let row = note(PAGE, rounds).noting("a page from the middle of them");
        all.push(row.noting(format!("the first page {first:.2} ms")));
    }
    if let Some(memory) = all.iter_mut().find(|measured| measured.row.name == MEMORY.name) {
        let now = process::resident(many.site.manager.pid())?;
        memory.notes.push(format!("{now:.0} MiB after these rows"));
    }
    Ok(all)
}

/// A manager and the agents that it knows.
struct Known {
    site: Site,
    _fleet: GopProcess,
    agents: usize,
}

impl Known {
    async fn start(node: &Bench) -> Result<Self> {
        let site = Site::start(node).await?;
        let fleet = site.emulate(node, LIVE, &[]).await?;
        Ok(Self { site, _fleet: fleet, agents: LIVE })
    }

    /// Registers agents until so many are known.
    async fn grow(&mut self, to: usize) -> Result<()> {
        let agents = AgentServiceClient::new(self.site.channel.clone());
        let new = (self.agents..to).map(|number| register(agents.clone(), number));
        stream::iter(new).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        self.agents = to;
        let q = IndexAgentsRequest { page_size: 1, ..IndexAgentsRequest::default() };
        let known = agents.clone().index_agents(q).await?.into_inner().total_size;
        if usize::try_from(known)? != to {
            return Err(format!("{to} agents were registered, and {known} are known").into());
        }
        Ok(())
    }

    /// CALLs of the read-only method of the agent that lives.
    async fn call(&self, load: Load) -> Result<Sample> {
        let bridge = BridgeServiceClient::new(self.site.channel.clone());
        let call = CallRequest {
            target: Some(Addressee {
                topic: "agent.application".to_owned(),
                host: "emu-00001".to_owned(),
                namespace: "stub".to_owned(),
                ..Addressee::default()
            }),
            method: "look".to_owned(),
            ..CallRequest::default()
        };
        closed_loop(AT_ONCE, load, move || {
            let (mut bridge, call) = (bridge.clone(), call.clone());
            async move { Ok(bridge.call(call).await.map(drop)?) }
        })
        .await
    }

    /// The token of the page that begins after so many agents.
    async fn token(&self, after: usize) -> Result<String> {
        let mut agents = AgentServiceClient::new(self.site.channel.clone());
        let (mut seen, mut token) = (0, String::new());
        while seen < after {
            let q = page(&token);
            let answer = agents.index_agents(q).await?.into_inner();
            seen += answer.agents.len();
            token = answer.next_page_token;
        }
        Ok(token)
    }

    /// One page again and again, one at a time.
    async fn page(&self, load: Load, token: &str) -> Result<Sample> {
        let agents = AgentServiceClient::new(self.site.channel.clone());
        let token = token.to_owned();
        closed_loop(1, load, move || {
            let (mut agents, q) = (agents.clone(), page(&token));
            async move {
                let found = agents.index_agents(q).await?.into_inner().agents.len();
                if found != PAGE_SIZE {
                    return Err(format!("a page of {found} agents").into());
                }
                Ok(())
            }
        })
        .await
    }
}

fn page(token: &str) -> IndexAgentsRequest {
    let page_size = i32::try_from(PAGE_SIZE).unwrap_or(i32::MAX);
    IndexAgentsRequest { page_size, page_token: token.to_owned(), ..IndexAgentsRequest::default() }
}

/// Registers an agent and tells of its endpoint, as an agent does at its start.
async fn register(
    mut agents: AgentServiceClient<tonic::transport::Channel>,
    number: usize,
) -> Result<()> {
    let secret = format!("secret of agent {number:05}");
    let address = "127.0.0.1".to_owned();
    let ports_ranges = vec!["10000-10039".to_owned()];
    let facts = AgentFacts {
        cpu: 8,
        memory_mib: 32_768,
        disk_mib: 500_000,
        version: "1.0.0".to_owned(),
        metadata: [("zone".to_owned(), "z1".to_owned())].into(),
    };
    let create = CreateAgentRequest {
        r#type: "application".to_owned(),
        host: format!("known-{number:05}"),
        secret: secret.clone(),
        address: address.clone(),
        ports_ranges: ports_ranges.clone(),
        facts: Some(facts.clone()),
        ..CreateAgentRequest::default()
    };
    let agent = agents.create_agent(create).await?.into_inner().agent;
    let methods = ["create", "delete", "status", "work", "again", "look"];
    let methods = methods.map(|name| EndpointMethod {
        name: name.to_owned(),
        read_only: name == "look",
        idempotent: name == "again",
    });
    let sync = SyncAgentRequest {
        id: agent.ok_or("an agent without a record")?.id,
        secret,
        generation: 1,
        endpoints: vec![AgentEndpoint {
            name: "stub".to_owned(),
            driver: "script".to_owned(),
            methods: methods.into(),
        }],
        ports_ranges,
        facts: Some(facts),
        address,
        ..SyncAgentRequest::default()
    };
    agents.sync_agent(sync).await?;
    Ok(())
}
