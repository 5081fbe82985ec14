//! Idempotency keys of creations: one entity for each, whatever breaks off where.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::FutureExt as _;
use goperation::{Error, Reason, v1::*};
use goperation_store::{Scan, Store as _, Txn};

use crate::{
    choose::{by_choice, online, ready},
    fake::{Answer, args, willing},
    harness::{Manager, answer, has, until},
};

/// Agents that have a journal: what was done under a message id is answered again.
#[derive(Debug, Clone, Default)]
struct Agents(Arc<Mutex<Done>>);

#[derive(Debug, Default)]
struct Done {
    journal: HashMap<String, Answer>,
    /// What was created, by host and number.
    created: Vec<(String, u64)>,
    /// Hosts whose ports are all taken.
    full: Vec<String>,
    /// Whether nobody hears the answers.
    silent: bool,
}

impl Agents {
    fn on(manager: &Manager) -> Self {
        let agents = Self::default();
        let all = agents.clone();
        manager.fake.answer_later(move |call| {
            let answered = all.run(&call);
            let silent = all.look(|done| done.silent);
            async move { if silent { std::future::pending().await } else { answered } }.boxed()
        });
        agents
    }

    fn look<T>(&self, look: impl FnOnce(&mut Done) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    fn run(&self, call: &CallRequest) -> Answer {
        let host = call.target.as_ref().unwrap().host.clone();
        let number = args(call).get("entity").and_then(|number| number.as_u64()).unwrap();
        self.look(|done| {
            if let Some(answered) = done.journal.get(&call.message_id) {
                return answered.clone();
            }
            let answered = if done.full.contains(&host) {
                Err(Error::new(Reason::PortsExhausted, "scripted"))
            } else {
                done.created.push((host, number));
                willing(call)
            };
            done.journal.insert(call.message_id.clone(), answered.clone());
            answered
        })
    }

    fn created(&self) -> Vec<(String, u64)> {
        self.look(|done| done.created.clone())
    }
}

fn keyed(key: &str) -> CreateEntityRequest {
    CreateEntityRequest {
        idempotency_key: key.to_owned(),
        weighters: vec!["id".to_owned()],
        ports: vec![PortWish { count: 2, ..PortWish::default() }],
        labels: [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into(),
        ..by_choice()
    }
}

async fn create(
    manager: &Manager,
    request: CreateEntityRequest,
) -> Result<CreateEntityResponse, Error> {
    answer(manager.entities().create_entity(request).await)
}

async fn fleet(manager: &Manager) -> [i32; 2] {
    [ready(manager, "h1", &["db"], 1).await, ready(manager, "h2", &["db"], 1).await]
}

/// Begins a creation and answers when what `sent` says is so.
async fn broken_off(manager: &Manager, key: &str, sent: impl Fn() -> bool) {
    let (mut client, request) = (manager.entities(), keyed(key));
    let waiting = tokio::spawn(async move { client.create_entity(request).await });
    until("it is asked for", || async { sent() }).await;
    waiting.abort();
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_and_creates_nothing() {
    let manager = Manager::start().await;
    fleet(&manager).await;
    let agents = Agents::on(&manager);
    agents.look(|done| done.full.push("h1".to_owned()));
    let first = create(&manager, keyed("k 1")).await.unwrap();
    assert_eq!((first.refused.len(), first.candidates.len()), (1, 2));
    let mut metadata =
        tonic::Request::new(CreateEntityRequest { idempotency_key: String::new(), ..keyed("") });
    metadata.metadata_mut().insert("idempotency-key", "k 1".parse().unwrap());
    let by_metadata = answer(manager.entities().create_entity(metadata).await).unwrap();
    assert_eq!(by_metadata, first);
    let manager = manager.crash().await;
    // Not even its agents are there.
    assert_eq!(create(&manager, keyed("k 1")).await.unwrap(), first);
    assert_eq!(agents.created(), [("h2".to_owned(), 2)]);

    let other = CreateEntityRequest { description: "other".to_owned(), ..keyed("k 1") };
    let error = create(&manager, other).await.unwrap_err();
    assert_eq!(error.reason, Reason::KeyReused);
    assert_eq!(error.metadata["idempotency_key"], "k 1");
    // What was created may be gone: the answer is the first one.
    let request =
        DeleteEntityRequest { endpoint: "db".to_owned(), number: 2, ..Default::default() };
    manager.fake.agree();
    answer(manager.entities().delete_entity(request).await).unwrap();
    assert_eq!(create(&manager, keyed("k 1")).await.unwrap(), first);
}

#[tokio::test]
async fn a_bad_key_is_refused() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    let on = |key: &str| CreateEntityRequest { agent_id: id, ..plain(key) };
    let error = create(&manager, on("a\tb")).await.unwrap_err();
    assert_eq!(error.violations[0].field, "idempotency_key");
    for (given, metadata) in [("a", &["b"][..]), ("", &["a", "b"]), ("", &[""])] {
        let mut request = tonic::Request::new(on(given));
        for value in metadata {
            request.metadata_mut().append("idempotency-key", value.parse().unwrap());
        }
        let error = answer(manager.entities().create_entity(request).await).unwrap_err();
        assert_eq!(error.violations[0].field, "idempotency_key", "{given} {metadata:?}");
    }
    assert!(manager.fake.calls("create_entity").is_empty());
}

fn plain(key: &str) -> CreateEntityRequest {
    CreateEntityRequest { idempotency_key: key.to_owned(), ..by_choice() }
}

#[tokio::test]
async fn a_failure_without_effect_leaves_the_key_free() {
    let manager = Manager::start().await;
    let id = ready(&manager, "h1", &["db"], 1).await;
    for reason in [
        Reason::MethodFailed,
        Reason::PortsExhausted,
        Reason::AgentOffline,
        Reason::BrokerUnavailable,
    ] {
        manager.fake.refuse(reason);
        create(&manager, plain("k")).await.unwrap_err();
        let on = CreateEntityRequest { agent_id: id, ..plain("k") };
        assert_eq!(create(&manager, on).await.unwrap_err().reason, reason);
    }
    manager.fake.agree();
    let first = create(&manager, plain("k")).await.unwrap();
    assert_eq!(create(&manager, plain("k")).await.unwrap(), first);
}

#[tokio::test]
async fn an_interrupted_creation_is_told_again() {
    let manager = Manager::start().await;
    ready(&manager, "h1", &["db"], 1).await;
    manager.fake.refuse(Reason::Interrupted);
    let first = create(&manager, plain("k")).await.unwrap_err();
    assert_eq!(first.reason, Reason::Interrupted);
    manager.fake.agree();
    let again = create(&manager, plain("k")).await.unwrap_err();
    assert_eq!((again.reason, &again.metadata), (first.reason, &first.metadata));
    assert_eq!(manager.fake.calls("create_entity").len(), 1);
}

#[tokio::test]
async fn repeats_at_the_same_time_create_one() {
    let manager = Manager::start().await;
    fleet(&manager).await;
    let agents = Agents::on(&manager);
    let all = (0..20).map(|_| create(&manager, keyed("k")));
    let all = futures::future::join_all(all).await;
    assert!(all.iter().all(|answered| answered == &all[0] && answered.is_ok()));
    assert_eq!(agents.created().len(), 1);
}

#[tokio::test]
async fn a_repeat_waits_only_for_its_own_time() {
    let manager = Manager::with(|config| config.call_timeout = Duration::from_millis(200)).await;
    fleet(&manager).await;
    let agents = Agents::on(&manager);
    agents.look(|done| done.silent = true);
    broken_off(&manager, "slow", || agents.created().len() == 1).await;
    let error = create(&manager, keyed("slow")).await.unwrap_err();
    assert_eq!(error.reason, Reason::OutcomeUnknown);
    assert_eq!(error.metadata["entity"], "1");
    assert!(error.metadata.contains_key("message_id"));
    agents.look(|done| done.silent = false);
    let mut again = tonic::Request::new(keyed("slow"));
    again.set_timeout(Duration::from_secs(60));
    let entity = answer(manager.entities().create_entity(again).await).unwrap().entity.unwrap();
    assert_eq!((entity.number, agents.created().len()), (1, 1));
}

#[tokio::test]
async fn a_repeat_without_any_time_ends_nothing() {
    let manager = Manager::with(|config| config.call_timeout = Duration::from_millis(200)).await;
    fleet(&manager).await;
    let agents = Agents::on(&manager);
    let all = agents.clone();
    manager.fake.answer_later(move |call| {
        // As the bridge does.
        if call.timeout.is_none_or(|timeout| timeout == prost_types::Duration::default()) {
            return async { Err(Error::invalid("timeout", "must be above 0")) }.boxed();
        }
        all.run(&call).unwrap();
        std::future::pending().boxed()
    });
    assert_eq!(create(&manager, keyed("k")).await.unwrap_err().reason, Reason::OutcomeUnknown);
    for _ in 0..20 {
        let mut hasty = tonic::Request::new(keyed("k"));
        hasty.metadata_mut().insert("grpc-timeout", "1u".parse().unwrap());
        answer(manager.entities().create_entity(hasty).await).unwrap_err();
    }
    // After all of them: they take turns.
    assert_eq!(create(&manager, keyed("k")).await.unwrap_err().reason, Reason::OutcomeUnknown);
    assert_eq!(manager.entity("db", 1).await.unwrap().state(), EntityState::Creating);
    assert_eq!(agents.created().len(), 1);
}

#[tokio::test]
async fn a_manager_that_dies_between_request_and_answer_creates_one() {
    let manager = Manager::start().await;
    let [a, b] = fleet(&manager).await;
    let agents = Agents::on(&manager);
    agents.look(|done| (done.silent, done.full) = (true, vec!["h1".to_owned()]));
    // The first agent refuses, and nobody hears it: the second is not asked yet.
    broken_off(&manager, "k", || agents.look(|done| done.journal.len() == 1)).await;
    let manager = manager.crash().await;
    online(&manager, b, "h2", 1).await;
    // Its refusal is heard now, and the second takes it; that is not heard.
    agents.look(|done| done.silent = false);
    let heard = Arc::new(Mutex::new(false));
    let all = agents.clone();
    let once = heard.clone();
    manager.fake.answer_later(move |call| {
        let answered = all.run(&call);
        let lost = answered.is_ok() && !std::mem::replace(&mut *once.lock().unwrap(), true);
        async move { if lost { std::future::pending().await } else { answered } }.boxed()
    });
    broken_off(&manager, "k", || *heard.lock().unwrap()).await;
    let manager = manager.crash().await;
    assert_eq!(manager.entity("db", 2).await.unwrap().state(), EntityState::Creating);
    let answered = create(&manager, keyed("k")).await.unwrap();
    let entity = answered.entity.clone().unwrap();
    assert_eq!((entity.number, entity.agent_id, entity.ports.len()), (2, b, 2));
    assert_eq!(entity.state(), EntityState::Ready);
    assert_eq!(answered.refused.iter().map(|r| r.agent_id).collect::<Vec<_>>(), [a]);
    assert!(answered.result.is_some());
    assert_eq!(agents.created(), [("h2".to_owned(), 2)]);
    let mut ids: Vec<_> =
        manager.fake.calls("create_entity").into_iter().map(|call| call.message_id).collect();
    assert_eq!(ids.len(), 4);
    ids.dedup();
    assert_eq!(ids.len(), 2);
    assert_eq!(create(&manager, keyed("k")).await.unwrap(), answered);
}

#[tokio::test]
async fn what_a_sync_found_out_meanwhile_counts() {
    let manager = Manager::with(|config| config.lease = Duration::from_millis(300)).await;
    let id = manager.agent("h1", &["db"]).await;
    let agents = Agents::on(&manager);
    let on = |key: &str| CreateEntityRequest { agent_id: id, ..plain(key) };
    let lost = async |key: &str| {
        manager.fake.refuse(Reason::OutcomeUnknown);
        let error = create(&manager, on(key)).await.unwrap_err();
        assert_eq!(error.reason, Reason::OutcomeUnknown);
        error.metadata["entity"].parse::<i32>().unwrap()
    };
    // It failed on its agent.
    let failed = lost("failed").await;
    let inventory = [AgentEntity { ready: false, failed: true, ..has("db", failed) }];
    manager.sync(id, "h1", 2, &["db"], &inventory).await.unwrap();
    for _ in 0..2 {
        let error = create(&manager, on("failed")).await.unwrap_err();
        assert_eq!(error.reason, Reason::Interrupted);
        assert_eq!(error.metadata["entity"], failed.to_string());
    }
    // It is ready, and the agent cannot be asked what its method said: nothing is guessed.
    let there = lost("ready").await;
    let inventory = [inventory[0].clone(), has("db", there)];
    manager.sync(id, "h1", 3, &["db"], &inventory).await.unwrap();
    manager.fake.refuse(Reason::AgentOffline);
    let error = create(&manager, on("ready")).await.unwrap_err();
    assert_eq!(error.reason, Reason::OutcomeUnknown);
    assert_eq!(error.metadata["cause"], "AGENT_OFFLINE");
    // The agent has forgotten the message, and still has the entity.
    manager.fake.refuse(Reason::AlreadyExists);
    let answered = create(&manager, on("ready")).await.unwrap();
    assert_eq!(answered.entity.clone().unwrap().number, there);
    assert_eq!(answered.result, None);
    // An operator deletes it: the answer stays.
    manager.fake.agree();
    let request =
        DeleteEntityRequest { endpoint: "db".to_owned(), number: there, ..Default::default() };
    answer(manager.entities().delete_entity(request).await).unwrap();
    assert_eq!(create(&manager, on("ready")).await.unwrap(), answered);
    assert!(agents.created().is_empty());
}

#[tokio::test]
async fn one_that_never_arrived_is_made_anew_when_that_is_known() {
    let manager = Manager::with(|config| {
        config.call_timeout = Duration::from_millis(200);
        config.lease = Duration::from_millis(300);
    })
    .await;
    let id = manager.agent("h1", &["db"]).await;
    let on = || CreateEntityRequest { agent_id: id, ..plain("k") };
    manager.fake.refuse(Reason::OutcomeUnknown);
    create(&manager, on()).await.unwrap_err();
    // However often it is tried in vain, the agent's inventory decides in the end.
    manager.fake.refuse(Reason::AgentOffline);
    until("it is known that it never arrived", || async {
        let error = create(&manager, on()).await.unwrap_err();
        manager.sync(id, "h1", 2, &["db"], &[]).await.unwrap();
        error.reason == Reason::AgentOffline
    })
    .await;
    manager.fake.agree();
    let entity = create(&manager, on()).await.unwrap().entity.unwrap();
    assert!(entity.number > 1);
}

#[tokio::test]
async fn a_repeat_after_its_finish_time_gets_the_answer_that_there_is() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    let on = |key: &str, finish| CreateEntityRequest {
        agent_id: id,
        finish_time: Some(goperation::to_timestamp(finish)),
        ..plain(key)
    };
    // On a busy machine a short time may be over before it is asked for.
    let mut after = 250;
    let (done, finish) = loop {
        let finish = goperation::now_millis() + after;
        match create(&manager, on("done", finish)).await {
            Ok(done) => break (done, finish),
            Err(error) if after < 10_000 => assert_eq!(error.violations[0].field, "finish_time"),
            Err(error) => panic!("{error:?}"),
        }
        after *= 2;
    };
    until("it is over", || async { goperation::now_millis() > finish }).await;
    assert_eq!(create(&manager, on("done", finish)).await.unwrap(), done);
    let error = create(&manager, on("new", finish)).await.unwrap_err();
    assert_eq!(error.violations[0].field, "finish_time");
}

#[tokio::test]
async fn a_manager_killed_anywhere_leaves_one_entity() {
    let mut manager = Manager::start().await;
    let [a, b] = fleet(&manager).await;
    let agents = Agents::on(&manager);
    for round in 0..12_u64 {
        let key = format!("k{round}");
        agents.look(|done| done.full = vec![["h1", "none"][usize::from(round % 2 == 0)].into()]);
        for _ in 0..2 {
            let (mut client, request) = (manager.entities(), keyed(&key));
            let waiting = tokio::spawn(async move { client.create_entity(request).await });
            // Somewhere in it: a creation takes a few milliseconds.
            let pause = Duration::from_micros(rand::random_range(0..6000));
            tokio::time::sleep(pause).await;
            manager = manager.crash().await;
            waiting.abort();
            let _ = waiting.await;
            online(&manager, a, "h1", 1).await;
            online(&manager, b, "h2", 1).await;
        }
        let answered = create(&manager, keyed(&key)).await.unwrap();
        assert_eq!(create(&manager, keyed(&key)).await.unwrap(), answered);
        let entity = answered.entity.unwrap();
        assert_eq!(entity.state(), EntityState::Ready);
        let created = agents.created();
        assert_eq!(created.len() as u64, round + 1, "{created:?}");
        let number = u64::try_from(entity.number).unwrap();
        assert!(created.iter().any(|(_, made)| *made == number), "{number} of {created:?}");
    }
    let request = IndexEntitiesRequest { endpoint: "db".to_owned(), ..Default::default() };
    let all = answer(manager.entities().index_entities(request).await).unwrap();
    assert_eq!(all.total_size, 12);
    assert!(all.entities.iter().all(|entity| entity.state() == EntityState::Ready));
    // Each key is found once by its time.
    let keys = async |prefix: &str| {
        let scan = Scan::prefix(prefix.as_bytes().to_vec());
        manager.store().scan(scan).await.unwrap().len()
    };
    assert_eq!((keys("m/idempotency/").await, keys("m/idempotency-time/").await), (12, 12));
}

#[tokio::test]
async fn a_key_is_forgotten_after_its_time() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    let time = [b"m/idempotency-time/".as_slice(), &7_u64.to_be_bytes(), b"/"].concat();
    // Records of version 1 with nothing but the time, the sixth field: of some other request.
    let old = ["swept", "a/b ü"].into_iter().fold(Txn::new(), |txn, key| {
        let by_time = [time.as_slice(), key.as_bytes()].concat();
        txn.put(format!("m/idempotency/{key}").into_bytes(), vec![1, 6 << 3, 7])
            .put(by_time, Vec::new())
    });
    manager.store().commit(old).await.unwrap();
    // Before it is swept it is as if it were not there.
    let on = CreateEntityRequest { agent_id: id, ..plain("swept") };
    let first = create(&manager, on.clone()).await.unwrap();
    // It is swept at the start, and what was made under it since stays.
    let manager = manager.restart().await;
    let left = async |prefix: &str| {
        let rows = manager.store().scan(Scan::prefix(prefix.as_bytes().to_vec())).await.unwrap();
        rows.len()
    };
    until("the old one is swept", || async { left("m/idempotency/").await == 1 }).await;
    assert_eq!(left("m/idempotency-time/").await, 1);
    assert_eq!(create(&manager, on).await.unwrap(), first);
}
