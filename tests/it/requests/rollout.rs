//! Roll-outs (contract §8): where they stop, how they go on, and that each agent is touched once,
//! also when the manager is killed on the way. How many run at a time is told by the agents.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use goperation::{
    Reason,
    v1::{self, RequestState, ResponseState},
};
use goperation_emulator::{Conduct, Config, Share};
use goperation_harness::{poll_for, poll_until};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::stage::{END, adds_up, work};
use crate::{emulation::Emulation, procs::Site};

const AGENTS: usize = 40;
/// What the emulation chooses by who fails, as it is unless said otherwise.
const EMULATED: u64 = 1;
/// The seed of the moments, unless the environment variable names another one.
const SEED: u64 = 0x726f_6c6c_6f75_7421;
const SEED_ENV: &str = "GOP_TEST_SEED";

fn seeded() -> StdRng {
    let seed = std::env::var(SEED_ENV).ok().and_then(|s| s.parse().ok()).unwrap_or(SEED);
    println!("seed {seed}: {SEED_ENV}={seed} repeats it");
    StdRng::seed_from_u64(seed)
}

fn emulated(site: &Site, more: &[&str]) -> Emulation {
    let agents = AGENTS.to_string();
    let mut args = vec!["--agents", &agents];
    args.extend(more);
    Emulation::of(site, "emulation", &args)
}

/// The hosts whose agents fail when so many of them shall.
fn failing(share: Share) -> BTreeSet<String> {
    let agents = u32::try_from(AGENTS).unwrap();
    let config = Config { seed: EMULATED, fail: share, ..Config::new(agents, "/nowhere") };
    let roles = config.roles().unwrap().into_iter();
    roles.filter(|role| role.conduct == Conduct::Failing).map(|role| role.host()).collect()
}

fn request(rollout: v1::Rollout) -> v1::CreateRequestRequest {
    v1::CreateRequestRequest { rollout: Some(rollout), ..work() }
}

async fn plan(site: &Site, q: &v1::CreateRequestRequest) -> v1::PlanRequestResponse {
    let q = v1::PlanRequestRequest {
        namespace: q.namespace.clone(),
        method: q.method.clone(),
        args: q.args.clone(),
        on: q.on.clone(),
        rollout: q.rollout.clone(),
    };
    site.requests().plan_request(q).await.unwrap().into_inner()
}

async fn resume(site: &Site, id: &str) -> v1::Request {
    let q = v1::ResumeRequestRequest { id: id.to_owned(), max_failures: None };
    site.requests().resume_request(q).await.unwrap().into_inner().request.unwrap()
}

/// Waits until it has stopped, and of those that were sent to, which are so many, each has answered.
async fn stands_still(site: &Site, id: &str, sent: usize) {
    poll_until(END, &format!("{id} stops after {sent}"), async || {
        let request = site.show_request(id).await.unwrap();
        let counts = request.counts.unwrap();
        let unsent = usize::try_from(counts.pending).unwrap();
        request.state() == RequestState::Stopped && counts.running == 0 && unsent == AGENTS - sent
    })
    .await;
}

/// How often each agent was touched by a request.
fn touched(emulation: &Emulation, id: &str) -> BTreeMap<i32, usize> {
    let mut touched = BTreeMap::new();
    for effect in emulation.effects(id) {
        *touched.entry(i32::try_from(effect.agent).unwrap()).or_default() += 1;
    }
    touched
}

/// The first agents of a plan, each once.
fn once(plan: &v1::PlanRequestResponse, count: usize) -> BTreeMap<i32, usize> {
    plan.agents[..count].iter().map(|agent| (agent.agent_id, 1)).collect()
}

/// How many agents of a plan are touched when it has come to its next stop, or to its end.
fn next_stop(
    plan: &v1::PlanRequestResponse,
    failing: &BTreeSet<String>,
    begin: usize,
    most: usize,
) -> usize {
    let (mut done, mut failed) = (begin, 0);
    while failed <= most
        && let Some(next) = plan.agents.get(done)
    {
        let rest = &plan.agents[done..];
        let batch = rest.iter().take_while(|agent| agent.batch == next.batch);
        failed += batch.clone().filter(|agent| failing.contains(&agent.host)).count();
        done += batch.count();
    }
    done
}

fn millis(time: Option<prost_types::Timestamp>) -> i64 {
    let time = time.expect("a time");
    time.seconds * 1000 + i64::from(time.nanos) / 1_000_000
}

/// When each agent began and ended, by its own clock.
fn spans<'a>(rows: impl IntoIterator<Item = &'a v1::AgentResponse>) -> Vec<(i64, i64)> {
    rows.into_iter().map(|row| (millis(row.start_time), millis(row.end_time))).collect()
}

/// How many of them were at a time, at most.
fn most_at_once(spans: &[(i64, i64)]) -> usize {
    let at = |time: i64| spans.iter().filter(|(begin, end)| (*begin..*end).contains(&time)).count();
    spans.iter().map(|(begin, _)| at(*begin)).max().unwrap_or_default()
}

/// Every row is final, and says what its agent does.
fn all_have_answered(rows: &BTreeMap<i32, v1::AgentResponse>, failing: &BTreeSet<String>) {
    assert_eq!(rows.len(), AGENTS);
    for row in rows.values() {
        let fails = failing.contains(&row.host);
        let wanted = if fails { ResponseState::Failed } else { ResponseState::Succeeded };
        assert_eq!((row.state(), row.late), (wanted, false), "{row:?}");
    }
}

/// Stops at the limit, sends nothing more until it is resumed, and asks for the plan's hash.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_rollout_stops_at_its_limit_and_touches_each_once() {
    let site = Site::start().await;
    let emulation = emulated(&site, &["--fail", "10%"]);
    let _agents = emulation.start().await;
    let failing = failing(Share::Permille(100));
    assert_eq!(failing.len(), AGENTS / 10);
    let wanted = request(v1::Rollout {
        batch: "10%".to_owned(),
        canary: 2,
        max_failures: Some("1".to_owned()),
        ..v1::Rollout::default()
    });
    let planned = plan(&site, &wanted).await;
    assert_eq!((planned.agents.len(), planned.ready), (AGENTS, AGENTS.try_into().unwrap()));
    let by_plan = v1::CreateRequestRequest { plan: planned.hash.clone(), ..wanted.clone() };

    // The fleet changes: the plan is another one, and nothing is begun.
    let id = planned.agents[AGENTS / 2].agent_id;
    let state = v1::AgentState::Unactive.into();
    site.agents().activate_agent(v1::ActivateAgentRequest { id, state }).await.unwrap();
    let error = site.create_request(by_plan.clone()).await.unwrap_err();
    assert_eq!(error.reason, Reason::PlanChanged, "{error}");
    let index = v1::IndexRequestsRequest::default();
    assert_eq!(site.requests().index_requests(index).await.unwrap().into_inner().total_size, 0);
    let changed = plan(&site, &wanted).await;
    assert_eq!(error.metadata.get("plan"), Some(&changed.hash));
    let refuses = changed.agents.iter().filter(|agent| !agent.reason.is_empty());
    let refuses: Vec<_> = refuses.map(|agent| (agent.agent_id, agent.reason.as_str())).collect();
    assert_eq!(refuses, [(id, "AGENT_NOT_ACTIVE")]);
    site.activate(id).await;
    assert_eq!(plan(&site, &wanted).await, planned);

    let begun = site.create_request(by_plan).await.unwrap();
    assert_eq!(begun.plan, planned.hash);
    let (mut done, mut stops) = (0, 0);
    loop {
        done = next_stop(&planned, &failing, done, 1);
        if done == AGENTS {
            break;
        }
        stops += 1;
        stands_still(&site, &begun.id, done).await;
        assert_eq!(touched(&emulation, &begun.id), once(&planned, done));
        // Whatever it might still send would be before what is sent now.
        let other = site.create_request(work()).await.unwrap().id;
        site.until_state(&other, RequestState::Finished).await;
        assert_eq!(touched(&emulation, &other), once(&planned, AGENTS));
        assert_eq!(touched(&emulation, &begun.id), once(&planned, done));
        assert_eq!(resume(&site, &begun.id).await.state(), RequestState::Running);
    }
    println!("{stops} stops");
    let ended = site.until_state(&begun.id, RequestState::Finished).await;
    let rows = site.responses(&begun.id).await;
    assert_eq!(ended.resultcode, 0, "{ended:?}");
    adds_up(&ended, &rows);
    all_have_answered(&rows, &failing);
    assert_eq!(touched(&emulation, &begun.id), once(&planned, AGENTS));
    site.stop().await;
}

/// When the manager is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    AfterCanary,
    InPause,
    InBatch,
    Stopped,
}

const CANARY: i32 = 2;
const PAUSE: Duration = Duration::from_secs(1);

impl Moment {
    /// Whether it is that moment; `at`: not before so many have answered.
    fn is_now(self, request: &v1::Request, at: i32) -> bool {
        let v1::RequestCounts { agents, pending, running, .. } = request.counts.unwrap();
        let done = agents - pending - running;
        let state = request.state();
        match self {
            Self::AfterCanary => done == CANARY && running == 0,
            Self::InPause => {
                state == RequestState::Running && done >= at && running == 0 && pending > 0
            }
            Self::InBatch => state == RequestState::Running && done >= at && running > 0,
            Self::Stopped => state == RequestState::Stopped,
        }
    }
}

/// A roll-out with pauses goes on where it was when the manager is killed.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_rollout_goes_on_where_the_manager_was_killed() {
    let mut rng = seeded();
    let mut site = Site::start().await;
    let emulation = emulated(&site, &["--fail", "10%", "--latency", "300ms"]);
    let _agents = emulation.start().await;
    let failing = failing(Share::Permille(100));
    let wanted = request(v1::Rollout {
        batch: "10%".to_owned(),
        canary: CANARY,
        pause: Some(PAUSE.try_into().unwrap()),
        max_failures: Some("0".to_owned()),
        ..v1::Rollout::default()
    });
    let planned = plan(&site, &wanted).await;
    let id = site.create_request(wanted).await.unwrap().id;

    let mut moments = vec![
        (Moment::AfterCanary, 0),
        (Moment::InBatch, rng.random_range(2..20)),
        (Moment::InPause, rng.random_range(3..24)),
        (Moment::Stopped, 0),
    ];
    let (mut done, mut stops) = (0, 0);
    loop {
        // A moment to kill it, or where the roll-out stands still.
        let now = poll_for(END, "the next moment", async || {
            let request = site.show_request(&id).await.ok()?;
            let now = moments.iter().position(|(moment, at)| moment.is_now(&request, *at));
            let still = request.state() != RequestState::Running;
            (still || now.is_some()).then_some((request, now))
        });
        let (request, now) = now.await;
        if let Some(now) = now {
            let (moment, _) = moments.remove(now);
            println!("killed {moment:?}, {:?}", request.counts);
            site.kill_manager();
            site.start_manager().await;
        } else if request.state() == RequestState::Finished {
            break;
        } else {
            // Also after it was killed here.
            assert_eq!(request.state(), RequestState::Stopped);
            done = next_stop(&planned, &failing, done, 0);
            stands_still(&site, &id, done).await;
            assert_eq!(touched(&emulation, &id), once(&planned, done));
            stops += 1;
            resume(&site, &id).await;
        }
    }
    println!("{stops} stops");
    assert_eq!(next_stop(&planned, &failing, done, 0), AGENTS);
    assert_eq!(moments, []);
    let rows = site.responses(&id).await;
    adds_up(&site.show_request(&id).await.unwrap(), &rows);
    all_have_answered(&rows, &failing);
    assert_eq!(touched(&emulation, &id), once(&planned, AGENTS));
    // No batch begins before the one before has ended, and the pause.
    let mut batches: BTreeMap<i32, Vec<_>> = BTreeMap::new();
    for row in rows.values() {
        batches.entry(row.batch).or_default().extend(spans([row]));
    }
    let batches: Vec<_> = batches.into_values().collect();
    for pair in batches.windows(2) {
        let ended = pair[0].iter().map(|(_, end)| *end).max().unwrap();
        let begun = pair[1].iter().map(|(begin, _)| *begin).min().unwrap();
        assert!(u128::try_from(begun - ended).unwrap() >= PAUSE.as_millis(), "{pair:?}");
    }
    site.stop().await;
}

/// How many agents run a method at a time is bounded for a request and for all of them together,
/// also when the manager is killed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_no_more_agents_run_at_a_time_than_may() {
    const PARALLEL: usize = 3;
    const CAP: usize = 5;
    let mut rng = seeded();
    let mut site = Site::start().await;
    site.configure_manager(&format!("[requests]\nmax_running = {{ work = {CAP} }}\n"));
    site.kill_manager();
    site.start_manager().await;
    let emulation = emulated(&site, &["--fail", "10%", "--latency", "200ms"]);
    let _agents = emulation.start().await;
    let bounded = request(v1::Rollout {
        max_parallel: PARALLEL.try_into().unwrap(),
        ..v1::Rollout::default()
    });
    let planned = plan(&site, &bounded).await;
    let bounded = site.create_request(bounded).await.unwrap().id;
    let free = site.create_request(work()).await.unwrap().id;
    let ids = [&bounded, &free];

    let at: usize = rng.random_range(10..50);
    let both = || ids.iter().map(|id| emulation.effects(id).len()).sum::<usize>();
    poll_until(END, "it is under way", async || both() >= at).await;
    site.kill_manager();
    site.start_manager().await;
    let mut all = Vec::new();
    for id in ids {
        let ended = site.until_state(id, RequestState::Finished).await;
        let rows = site.responses(id).await;
        adds_up(&ended, &rows);
        all_have_answered(&rows, &failing(Share::Permille(100)));
        assert_eq!(touched(&emulation, id), once(&planned, AGENTS));
        let own = spans(rows.values());
        let most = most_at_once(&own);
        println!("{most} at a time");
        assert!(id != &bounded || (2..=PARALLEL).contains(&most), "{most}");
        all.extend(own);
    }
    let most = most_at_once(&all);
    println!("{most} at a time of both");
    assert!((PARALLEL + 1..=CAP).contains(&most), "{most}");
    site.stop().await;
}
