//! Idempotency keys (contract §8): the same key sent many times at once, by every way there is, and
//! again after restarts, is one effect and one answer.

use std::{collections::BTreeSet, fmt::Debug};

use futures::future::join_all;
use goperation::{Error, Reason, v1};
use goperation_harness::poll_for;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use tonic::{Request, Status};

use super::{
    rest::Rest,
    stage::{END, adds_up, work},
};
use crate::{
    emulation::Emulation,
    procs::{Clients, Site},
};

const AGENTS: usize = 10;
const TIMES: usize = 50;
/// The seed of the moments, unless the environment variable names another one.
const SEED: u64 = 0x6b65_7921_6b65_7921;
const SEED_ENV: &str = "GOP_TEST_SEED";

/// Why a call has no answer: its reason, or none when it was broken off.
type Failure = Option<String>;

/// The ways to a manager.
struct Ways {
    clients: Clients,
    rest: Rest,
}

/// A method that takes a key.
trait Keyed: prost::Message + Clone + 'static {
    type Answer: prost::Message + Default + PartialEq + Debug;
    /// Its names in the API, and the field of the answer that is the body by REST.
    const NAMES: (&'static str, &'static str);
    fn path(&self) -> String;
    fn with_key(self, key: &str) -> Self;
    async fn call(self, clients: &Clients, key: Option<&str>) -> Result<Self::Answer, Status>;
    fn wrap(body: Value) -> Value;
}

fn with_metadata<Q>(q: Q, key: Option<&str>) -> Request<Q> {
    let mut request = Request::new(q);
    if let Some(key) = key {
        request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
    }
    request
}

impl Keyed for v1::CreateRequestRequest {
    type Answer = v1::CreateRequestResponse;
    const NAMES: (&'static str, &'static str) = ("CreateRequestRequest", "CreateRequestResponse");

    fn path(&self) -> String {
        "/v1/requests".to_owned()
    }

    fn with_key(self, key: &str) -> Self {
        Self { idempotency_key: key.to_owned(), ..self }
    }

    async fn call(self, clients: &Clients, key: Option<&str>) -> Result<Self::Answer, Status> {
        let answer = clients.requests().create_request(with_metadata(self, key)).await?;
        Ok(answer.into_inner())
    }

    fn wrap(body: Value) -> Value {
        json!({"request": body})
    }
}

impl Keyed for v1::CreateEntityRequest {
    type Answer = v1::CreateEntityResponse;
    const NAMES: (&'static str, &'static str) = ("CreateEntityRequest", "CreateEntityResponse");

    fn path(&self) -> String {
        format!("/v1/endpoints/{}/entities", self.endpoint)
    }

    fn with_key(self, key: &str) -> Self {
        Self { idempotency_key: key.to_owned(), ..self }
    }

    async fn call(self, clients: &Clients, key: Option<&str>) -> Result<Self::Answer, Status> {
        let answer = clients.entities().create_entity(with_metadata(self, key)).await?;
        Ok(answer.into_inner())
    }

    fn wrap(body: Value) -> Value {
        body
    }
}

impl Ways {
    fn to(site: &Site) -> Self {
        Self { clients: site.clients(), rest: Rest::new(&site.url()) }
    }

    /// Asks under a key: by the way that stands at that number.
    async fn ask<Q: Keyed>(&self, way: usize, key: &str, q: Q) -> Result<Q::Answer, Failure> {
        let called = match way % 4 {
            0 => q.with_key(key).call(&self.clients, None).await,
            1 => q.call(&self.clients, Some(key)).await,
            2 => q.with_key(key).call(&self.clients, Some(key)).await,
            _ => return self.post(key, &q).await,
        };
        called.map_err(|status| {
            // What is not said by the manager is a connection that was broken off.
            let said = !status.details().is_empty();
            said.then(|| Error::from_status(&status).reason.as_str().to_owned())
        })
    }

    async fn post<Q: Keyed>(&self, key: &str, q: &Q) -> Result<Q::Answer, Failure> {
        let (request, response) = Q::NAMES;
        let body = self.rest.write(request, q);
        let (status, body) = self.rest.post(&q.path(), key, &body).await.map_err(|_| None)?;
        match status {
            200 => Ok(self.rest.read(response, Q::wrap(body))),
            _ => Err(Some(body["reason"].as_str().expect("a reason").to_owned())),
        }
    }

    /// Asks so often at once, each again until it has its answer; `told` counts the answers.
    async fn ask_all<Q: Keyed>(
        &self,
        key: &str,
        q: &Q,
        told: watch::Sender<usize>,
    ) -> Vec<Q::Answer> {
        let told = &told;
        let asks = (0..TIMES).map(|way| async move {
            let answer =
                poll_for(END, "an answer", async || match self.ask(way, key, q.clone()).await {
                    Ok(answer) => Some(answer),
                    Err(failure) if is_passing(&failure) => None,
                    Err(failure) => panic!("{failure:?}"),
                })
                .await;
            told.send_modify(|told| *told += 1);
            answer
        });
        join_all(asks).await
    }

    /// Asks so often at once, with nobody killed: the one answer that all got.
    async fn at_once<Q: Keyed>(&self, key: &str, q: &Q) -> Q::Answer {
        let asks = (0..TIMES).map(|way| self.ask(way, key, q.clone()));
        let answers = join_all(asks).await.into_iter();
        one(answers.map(|answer| answer.unwrap_or_else(|failure| panic!("{failure:?}"))))
    }

    /// Under the same key something else is refused, by every way.
    async fn refuses<Q: Keyed>(&self, key: &str, q: &Q) {
        for way in 0..4 {
            let failure = self.ask(way, key, q.clone()).await.unwrap_err();
            assert_eq!(failure.as_deref(), Some("KEY_REUSED"), "way {way}");
        }
    }
}

/// What may come of a manager that dies or has just come back.
fn is_passing(failure: &Failure) -> bool {
    use Reason::{AgentOffline, BrokerUnavailable, OutcomeUnknown, QueueNotFound, Unavailable};
    let passing = [AgentOffline, BrokerUnavailable, OutcomeUnknown, QueueNotFound, Unavailable];
    failure.as_ref().is_none_or(|said| passing.iter().any(|reason| reason.as_str() == said))
}

/// The answer that all are.
fn one<A: PartialEq + Debug>(mut answers: impl Iterator<Item = A>) -> A {
    let first = answers.next().expect("an answer");
    for other in answers {
        assert_eq!(other, first);
    }
    first
}

async fn requests(site: &Site) -> Vec<v1::Request> {
    let index = site.requests().index_requests(v1::IndexRequestsRequest::default()).await;
    index.unwrap().into_inner().requests
}

/// The request has ended, and each agent has had its effect once.
async fn ran_once(site: &Site, emulation: &Emulation, id: &str) {
    let ended = site.until_state(id, v1::RequestState::Finished).await;
    adds_up(&ended, &site.responses(id).await);
    assert_eq!(ended.counts.unwrap().succeeded, i32::try_from(AGENTS).unwrap());
    let effects = emulation.effects(id);
    let agents: BTreeSet<u32> = effects.iter().map(|effect| effect.agent).collect();
    assert_eq!((effects.len(), agents.len()), (AGENTS, AGENTS), "{effects:?}");
}

fn seeded() -> StdRng {
    let seed = std::env::var(SEED_ENV).ok().and_then(|s| s.parse().ok()).unwrap_or(SEED);
    println!("seed {seed}: {SEED_ENV}={seed} repeats it");
    StdRng::seed_from_u64(seed)
}

/// Has the manager killed in the middle of many asks, after so many answers: their one answer.
async fn killed_after<Q: Keyed>(
    site: &mut Site,
    ways: &Ways,
    key: &str,
    q: &Q,
    answers: usize,
) -> Q::Answer {
    let (told, mut seen) = watch::channel(0);
    let kill = async {
        let far = seen.wait_for(|told| *told >= answers);
        let told = *timeout(END, far).await.expect("so many answers").unwrap();
        site.kill_manager();
        println!("killed after {told} of {TIMES} answers");
        site.start_manager().await;
    };
    let (answers, ()) = tokio::join!(ways.ask_all(key, q, told), kill);
    one(answers.into_iter())
}

/// A request is begun once under its key.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_key_sent_many_times_is_one_request() {
    let mut rng = seeded();
    let mut site = Site::start().await;
    let agents = AGENTS.to_string();
    let args = ["--agents", &agents, "--latency", "100ms"];
    let emulation = Emulation::of(&site, "emulation", &args);
    let _agents = emulation.start().await;
    let ways = Ways::to(&site);

    let first = ways.at_once("first", &work()).await;
    let id = first.request.as_ref().unwrap().id.clone();
    ran_once(&site, &emulation, &id).await;
    // It has ended, and the answer is the one that was given when it began.
    assert_eq!(ways.at_once("first", &work()).await, first);
    let other = v1::CreateRequestRequest { method: "again".to_owned(), ..work() };
    ways.refuses("first", &other).await;

    site.kill_manager();
    site.start_manager().await;
    assert_eq!(ways.at_once("first", &work()).await, first);
    ways.refuses("first", &other).await;
    assert_eq!(requests(&site).await.len(), 1);

    // Before the first answer, after it, and anywhere.
    let mut ids = BTreeSet::from([id]);
    for answers in [0, 1, rng.random_range(2..TIMES)] {
        let key = format!("killed-{answers}");
        let answer = killed_after(&mut site, &ways, &key, &work(), answers).await;
        assert_eq!(ways.at_once(&key, &work()).await, answer);
        ways.refuses(&key, &other).await;
        ids.insert(answer.request.unwrap().id);
    }
    let begun: BTreeSet<_> = requests(&site).await.into_iter().map(|request| request.id).collect();
    assert_eq!(begun, ids);
    for id in &ids {
        ran_once(&site, &emulation, id).await;
    }
    assert_eq!(emulation.ledger().len(), AGENTS * ids.len());
    site.stop().await;
}

/// An entity is created once under its key.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_key_sent_many_times_is_one_entity() {
    let mut rng = seeded();
    let mut site = Site::start().await;
    let args = ["--agents", "2", "--latency", "200ms"];
    let emulation = Emulation::of(&site, "emulation", &args);
    let mut agents = emulation.start().await;
    let ways = Ways::to(&site);
    let wanted = v1::CreateEntityRequest {
        endpoint: "stub".to_owned(),
        agent_id: 1,
        ..v1::CreateEntityRequest::default()
    };
    let other = v1::CreateEntityRequest { agent_id: 2, ..wanted.clone() };

    let first = ways.at_once("first", &wanted).await;
    ways.refuses("first", &other).await;
    site.kill_manager();
    agents.kill9();
    site.start_manager().await;
    let _agents = emulation.start().await;
    assert_eq!(ways.at_once("first", &wanted).await, first);
    ways.refuses("first", &other).await;

    let mut numbers = BTreeSet::from([first.entity.unwrap().number]);
    for answers in [0, 1, rng.random_range(2..TIMES)] {
        let key = format!("killed-{answers}");
        let answer = killed_after(&mut site, &ways, &key, &wanted, answers).await;
        assert_eq!(ways.at_once(&key, &wanted).await, answer);
        numbers.insert(answer.entity.unwrap().number);
    }
    let index = v1::IndexEntitiesRequest::default();
    let entities = site.entities().index_entities(index).await.unwrap().into_inner().entities;
    let there: BTreeSet<_> = entities.iter().map(|entity| entity.number).collect();
    assert_eq!(there, numbers);
    let mut effects: Vec<_> = emulation.ledger().into_iter().map(|e| (e.agent, e.what)).collect();
    effects.sort_unstable();
    let mut made: Vec<_> = numbers.iter().map(|n| (1, format!("stub/create#{n}"))).collect();
    made.sort_unstable();
    assert_eq!(effects, made);
    site.stop().await;
}
