//! A thousand agents, of which some fail, are silent or late, and some stand where they cannot run
//! anything: the stream, the record and what really happened agree of each of them.

use std::{collections::BTreeMap, time::Duration};

use goperation::v1::{self, ResponseState as S};
use goperation_emulator::{CHANGING, Conduct, Config, Effect, Role, Share, Standing};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::stage::{END, adds_up, is_in_order, is_what_the_rows_say, of_agent, seconds, summary};
use crate::{
    emulation::Emulation,
    procs::{Clients, Site},
};

const AGENTS: u32 = 1000;
const SEED: u64 = 20_151;
/// The longest that there is: a thousand agents renew theirs, on a machine that does much else.
const LEASE: Duration = Duration::from_secs(15);
/// In this time every agent can begin, also on a busy machine.
const FINISH: i64 = 40;
/// In this time those that are busy have said so when their finish time was over.
const TIMEOUT: i64 = 60;
/// How long after its effect a late one answers: when it has been given up.
const LATE_BY: &str = "75s";

/// What is to come of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It runs the method, and this is its answer.
    Answers(S),
    /// It runs the method, and answers when it has been given up.
    AnswersLate,
    /// It runs the method, and never answers.
    NeverAnswers,
    /// It does not run the method, for that reason.
    DoesNotRun(&'static str),
}

/// The fleet as it was asked for.
fn fleet() -> Config {
    let twenty = Share::Count(20);
    let ten = Share::Count(10);
    let five_percent = Share::Permille(50);
    Config {
        seed: SEED,
        fail: five_percent,
        silent: five_percent,
        late: five_percent,
        status: vec![
            (Standing::Unactive, twenty),
            (Standing::HardBusy, twenty),
            (Standing::SoftBusy, ten),
            (Standing::Deleted, ten),
            (Standing::Offline, ten),
        ],
        ..Config::new(AGENTS, "unused")
    }
}

/// What is to come of it for a method of its endpoint, or for one of its own.
fn end(role: Role, of_endpoint: bool) -> End {
    match (role.standing, role.conduct) {
        (Standing::Deleted, _) => End::DoesNotRun("QUEUE_NOT_FOUND"),
        (Standing::Offline, _) => End::DoesNotRun("AGENT_OFFLINE"),
        (Standing::HardBusy | Standing::SoftBusy, _) => End::DoesNotRun("AGENT_BUSY"),
        (Standing::Unactive | Standing::PerDelete, _) if of_endpoint => {
            End::DoesNotRun("AGENT_NOT_ACTIVE")
        }
        (Standing::Active, Conduct::Failing) if of_endpoint => End::Answers(S::Failed),
        (Standing::Active, Conduct::Late) if of_endpoint => End::AnswersLate,
        (Standing::Active, Conduct::Silent) if of_endpoint => End::NeverAnswers,
        _ => End::Answers(S::Succeeded),
    }
}

/// Which agents there are by the manager's record, and what each is there for.
async fn roles(clients: &Clients) -> BTreeMap<i32, Role> {
    let roles = fleet().roles().unwrap();
    let mut by_host: BTreeMap<String, Role> = roles.iter().map(|r| (r.host(), *r)).collect();
    let all = v1::IndexAgentsRequest {
        page_size: 1000,
        show_deleted: true,
        ..v1::IndexAgentsRequest::default()
    };
    let page = clients.agents().index_agents(all).await.unwrap().into_inner();
    assert_eq!(page.next_page_token, "");
    let role = |agent: v1::Agent| {
        let role = by_host.remove(&agent.host);
        (agent.id, role.unwrap_or_else(|| panic!("another agent: {agent:?}")))
    };
    let found: BTreeMap<i32, Role> = page.agents.into_iter().map(role).collect();
    assert!(by_host.is_empty(), "not on record: {by_host:?}");
    assert!(found.keys().copied().eq(1..=i32::try_from(AGENTS).unwrap()), "numbers without gap");
    found
}

/// A request on its way, and its stream.
struct Asked {
    what: &'static str,
    of_endpoint: bool,
    request: v1::Request,
    plan: v1::PlanRequestResponse,
    /// Whom it must be for.
    agents: BTreeMap<i32, Role>,
    stream: JoinHandle<Vec<v1::WatchRequestResponse>>,
    begun: Instant,
}

/// Every event of a request, from its first to the last late answer.
async fn follow(clients: Clients, id: String, late: usize) -> Vec<v1::WatchRequestResponse> {
    let mut stream = clients.watch(&id, "", true).await.unwrap();
    let (mut events, mut ended, mut late_ones) = (Vec::new(), false, 0);
    while !ended || late_ones < late {
        let next = timeout(END, stream.message()).await;
        let next = next.unwrap_or_else(|_| panic!("{late_ones} of {late} late, end: {ended}"));
        let event = next.unwrap().expect("the stream goes on");
        ended |= summary(&event).is_some();
        late_ones += usize::from(of_agent(&event).is_some_and(|agent| agent.late));
        events.push(event);
    }
    events
}

impl Asked {
    /// Plans it, begins it by that plan, and watches it.
    async fn ask(
        clients: &Clients,
        what: &'static str,
        roles: &BTreeMap<i32, Role>,
        on: v1::RequestSelection,
        of_endpoint: bool,
    ) -> Self {
        let mut agents = roles.clone();
        if on.all {
            agents.retain(|_, role| role.standing != Standing::Deleted);
        }
        let method = if of_endpoint { CHANGING } else { "status_agent" };
        let namespace = if of_endpoint { "stub" } else { "manager" };
        let plan = v1::PlanRequestRequest {
            namespace: namespace.to_owned(),
            method: method.to_owned(),
            on: Some(on.clone()),
            ..v1::PlanRequestRequest::default()
        };
        let plan = clients.requests().plan_request(plan).await.unwrap().into_inner();
        let begun = Instant::now();
        let request = if of_endpoint {
            let request = v1::CreateRequestRequest {
                namespace: namespace.to_owned(),
                method: method.to_owned(),
                on: Some(on),
                finish_timeout: seconds(FINISH),
                timeout: seconds(TIMEOUT),
                plan: plan.hash.clone(),
                ..v1::CreateRequestRequest::default()
            };
            clients.create_request(request).await.unwrap()
        } else {
            let request = v1::StatusAgentRequest {
                on: Some(on),
                finish_timeout: seconds(FINISH),
                timeout: seconds(TIMEOUT),
                ..v1::StatusAgentRequest::default()
            };
            let begun = clients.agents().status_agent(request).await.unwrap().into_inner();
            begun.request.unwrap()
        };
        let late = agents.values().filter(|role| end(**role, of_endpoint) == End::AnswersLate);
        let stream = follow(clients.clone(), request.id.clone(), late.count());
        let stream = tokio::spawn(stream);
        Self { what, of_endpoint, request, plan, agents, stream, begun }
    }

    /// What was expected of each beforehand is what was known then.
    fn was_planned(&self) {
        assert_eq!(self.request.plan, self.plan.hash, "{}", self.what);
        let planned: Vec<_> = self.plan.agents.iter().map(|agent| agent.agent_id).collect();
        assert!(planned.iter().eq(self.agents.keys()), "{}", self.what);
        let mut ready = 0;
        for agent in &self.plan.agents {
            let role = self.agents[&agent.agent_id];
            let reason = match end(role, self.of_endpoint) {
                End::DoesNotRun(reason) => reason,
                _ => "",
            };
            assert_eq!((&*agent.reason, agent.host.clone()), (reason, role.host()), "{role:?}");
            ready += i32::from(reason.is_empty());
        }
        assert_eq!(self.plan.ready, ready, "{}", self.what);
    }

    /// Waits for the last event, and compares stream, record and ledger row by row.
    async fn agrees(self, clients: &Clients, emulation: &Emulation) {
        self.was_planned();
        let Self { what, of_endpoint, request, agents, stream, begun, .. } = self;
        let events = stream.await.unwrap();
        println!("{what}: {} events, the last after {:?}", events.len(), begun.elapsed());
        is_in_order(&events);
        let rows = clients.responses(&request.id).await;
        is_what_the_rows_say(&events, &rows);
        let shown = clients.show_request(&request.id).await.unwrap();
        assert_eq!((shown.state(), shown.resultcode), (v1::RequestState::Finished, 1), "{what}");
        adds_up(&shown, &rows);

        // At its end, the late ones were as silent as the others.
        let at_end = events.iter().position(|event| summary(event).is_some()).unwrap();
        let told = summary(&events[at_end]).unwrap();
        let before = fold(&events[..at_end]);
        adds_up(told, &before);
        println!("{what}: ended after {:?}: {:?}", lasted(told), told.counts.unwrap());
        assert_eq!((told.state(), told.resultcode), (v1::RequestState::Finished, 1), "{what}");
        assert_eq!(events[..=at_end], clients.events(&request.id).await, "{what}");

        let effects = by_agent(&emulation.effects(&request.id));
        assert!(rows.keys().eq(agents.keys()) && before.keys().eq(agents.keys()), "{what}");
        assert!(effects.keys().all(|agent| agents.contains_key(agent)), "{what}: {effects:?}");
        for (number, role) in agents {
            let end = end(role, of_endpoint);
            let told = format!("{what}: agent {number}, {role:?}, {end:?}");
            is_as_it_shall(&rows[&number], role, end, &told);
            let then = if end == End::AnswersLate { End::NeverAnswers } else { end };
            is_as_it_shall(&before[&number], role, then, &told);
            let ran = of_endpoint && !matches!(end, End::DoesNotRun(_));
            let effect = effects.get(&number).cloned().unwrap_or_default();
            let shall = if ran { vec![role.conduct.name()] } else { Vec::new() };
            assert_eq!(effect, shall, "{told}");
        }
    }
}

fn lasted(request: &v1::Request) -> Duration {
    let time = |time: &Option<prost_types::Timestamp>| {
        let time = time.unwrap();
        Duration::new(time.seconds.try_into().unwrap(), time.nanos.try_into().unwrap())
    };
    time(&request.end_time) - time(&request.request_time)
}

/// The rows that events add up to.
fn fold(events: &[v1::WatchRequestResponse]) -> BTreeMap<i32, v1::AgentResponse> {
    let row = |event: &v1::AgentEvent| v1::AgentResponse {
        agent_id: event.agent_id,
        host: event.host.clone(),
        state: event.state,
        resultcode: event.resultcode,
        reason: event.reason.clone(),
        message: event.message.clone(),
        result: event.result.clone(),
        late: event.late,
        ..v1::AgentResponse::default()
    };
    events.iter().filter_map(of_agent).map(|event| (event.agent_id, row(event))).collect()
}

/// How each agent behaved that had an effect, once for each effect.
fn by_agent(effects: &[Effect]) -> BTreeMap<i32, Vec<&'static str>> {
    let mut of: BTreeMap<i32, Vec<_>> = BTreeMap::new();
    for effect in effects {
        of.entry(effect.agent.try_into().unwrap()).or_default().push(effect.conduct);
    }
    of
}

/// A row says what is to come of its agent.
fn is_as_it_shall(row: &v1::AgentResponse, role: Role, end: End, told: &str) {
    let (state, code, reason, late) = match end {
        End::Answers(S::Failed) => (S::Failed, -1, "METHOD_FAILED", false),
        End::Answers(state) => (state, 0, "", false),
        End::AnswersLate => (S::Succeeded, 0, "", true),
        End::NeverAnswers => (S::Silent, -124, "OUTCOME_UNKNOWN", false),
        End::DoesNotRun(reason) => (S::Silent, -124, reason, false),
    };
    let is = (row.state(), row.resultcode, &*row.reason, row.late);
    assert_eq!(is, (state, code, reason, late), "{told}: {row:?}");
    assert_eq!(row.host, role.host(), "{told}");
    assert_eq!(row.result.is_some(), matches!(state, S::Succeeded | S::Failed), "{told}: {row:?}");
    assert_eq!(row.message.is_empty(), state == S::Succeeded, "{told}: {row:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_thousand_agents_and_each_row_agrees() {
    let site = Site::start_leased(LEASE).await;
    let (agents, seed) = (AGENTS.to_string(), SEED.to_string());
    let more = [
        ("--agents", &*agents),
        ("--seed", &seed),
        ("--latency", "20ms"),
        ("--fail", "5%"),
        ("--silent", "5%"),
        ("--late", "5%"),
        ("--late-by", LATE_BY),
        ("--status", "unactive=20,hardbusy=20,softbusy=10,deleted=10,offline=10"),
    ];
    let more: Vec<_> = more.iter().flat_map(|(flag, value)| [*flag, *value]).collect();
    let emulation = Emulation::of(&site, "emulation", &more);
    let begun = Instant::now();
    let mut process = emulation.start().await;
    println!("after {:?}: {}", begun.elapsed(), process.ready_line());
    let roles = roles(&site).await;

    let all = || v1::RequestSelection { all: true, ..v1::RequestSelection::default() };
    let named = v1::RequestSelection {
        agents: format!("1-500,501-{AGENTS}"),
        ..v1::RequestSelection::default()
    };
    let asked = [
        Asked::ask(&site, "all", &roles, all(), true).await,
        Asked::ask(&site, "named", &roles, named, true).await,
        Asked::ask(&site, "own", &roles, all(), false).await,
    ];
    for asked in asked {
        asked.agrees(&site, &emulation).await;
    }
    process.term();
    let ended = process.wait(END).await;
    assert!(ended.success(), "{ended}");
    site.stop().await;
}
