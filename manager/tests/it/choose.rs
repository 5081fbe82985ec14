//! Choice of agents, and creation where the choice falls.

use std::{collections::HashMap, time::Duration};

use futures::FutureExt as _;
use goperation::{Error, Reason, v1::*};

use crate::{
    fake::willing,
    harness::{Manager, answer, has, renewal, secret, until},
};

/// An agent that is ACTIVE, online and has reported just now.
pub(crate) async fn ready(manager: &Manager, host: &str, endpoints: &[&str], cpu: i32) -> i32 {
    let id = manager.agent(host, endpoints).await;
    online(manager, id, host, cpu).await;
    id
}

/// What an agent does again when the manager has started anew.
pub(crate) async fn online(manager: &Manager, id: i32, host: &str, cpu: i32) {
    manager.renew(RenewAgentRequest { status: 1, ..renewal(id, host) }).await.unwrap();
    let facts = AgentFacts {
        cpu,
        metadata: HashMap::from([("mysql".to_owned(), format!("5.{cpu}"))]),
        ..AgentFacts::default()
    };
    let snapshot = AgentSnapshot { user: 12.5, memory_free_mib: 100 * cpu, ..Default::default() };
    let report = ReportAgentRequest {
        id,
        secret: secret(host),
        facts: Some(facts),
        snapshot: Some(snapshot),
    };
    answer(manager.agents().report_agent(report).await).unwrap();
}

async fn choose(
    manager: &Manager,
    includes: &[&str],
    weighters: &[&str],
) -> Result<ChooseResponse, Error> {
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    let request = ChooseRequest {
        name: "Db".to_owned(),
        includes: texts(includes),
        weighters: texts(weighters),
        limit: 0,
    };
    answer(manager.endpoints().choose(request).await)
}

fn ids(candidates: &[Candidate]) -> Vec<i32> {
    candidates.iter().map(|candidate| candidate.agent_id).collect()
}

pub(crate) fn by_choice() -> CreateEntityRequest {
    CreateEntityRequest { endpoint: "db".to_owned(), ..CreateEntityRequest::default() }
}

async fn create(
    manager: &Manager,
    request: CreateEntityRequest,
) -> Result<CreateEntityResponse, Error> {
    answer(manager.entities().create_entity(request).await)
}

/// The host that a call goes to.
fn host(call: &CallRequest) -> String {
    call.target.as_ref().unwrap().host.clone()
}

#[tokio::test]
async fn agents_are_chosen_by_what_they_said() {
    let manager = Manager::start().await;
    let a = ready(&manager, "h1", &["db", "game"], 9).await;
    let b = ready(&manager, "h2", &["db"], 10).await;
    let offline = manager.agent("h3", &["db"]).await;
    ready(&manager, "h4", &["game"], 64).await;
    manager.try_create(a, "game").await.unwrap();

    let choice = choose(&manager, &[], &[]).await.unwrap();
    assert_eq!(ids(&choice.candidates), [b, a]);
    assert_eq!((choice.candidates[1].entities, &*choice.candidates[1].host), (1, "h1"));
    let left: Vec<_> = choice.left_out.iter().map(|l| (l.agent_id, l.why.as_str())).collect();
    assert_eq!(left, [(offline, "it is offline")]);

    let choice = choose(&manager, &["metadata.mysql>5.9"], &["cpu"]).await.unwrap();
    assert_eq!(ids(&choice.candidates), [b]);
    assert_eq!(choice.left_out[0].why, "`metadata.mysql>5.9` does not hold: metadata.mysql is 5.9");
    let choice = choose(&manager, &["cputime<13"], &["free/-300", "id"]).await.unwrap();
    assert_eq!(ids(&choice.candidates), [b, a]);
    assert_eq!(choice.candidates[1].weights, ["-3", &a.to_string()]);

    let request = ChooseRequest { name: "db".to_owned(), limit: 1, ..ChooseRequest::default() };
    let choice = answer(manager.endpoints().choose(request.clone()).await).unwrap();
    assert_eq!((ids(&choice.candidates), choice.left_out.len()), (vec![b], 1));
    let request = ChooseRequest { name: "nothing".to_owned(), ..request };
    let error = answer(manager.endpoints().choose(request).await).unwrap_err();
    assert_eq!(error.reason, Reason::EndpointNotFound);
    let error = choose(&manager, &["cpu>1", "cpu"], &["x", "cpu"]).await.unwrap_err();
    let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["includes[1]", "weighters[0]"]);
}

#[tokio::test]
async fn an_entity_goes_to_the_best_agent_and_a_dry_run_to_none() {
    let manager = Manager::start().await;
    let a = ready(&manager, "h1", &["db"], 1).await;
    let b = ready(&manager, "h2", &["db"], 2).await;
    let dry = CreateEntityRequest { dry: true, ..by_choice() };
    let answered = create(&manager, dry).await.unwrap();
    assert_eq!((ids(&answered.candidates), answered.entity), (vec![a, b], None));
    assert!(manager.fake.calls("create_entity").is_empty());

    let mut agents = Vec::new();
    for number in 1..=4 {
        let answered = create(&manager, by_choice()).await.unwrap();
        let entity = answered.entity.unwrap();
        assert_eq!((entity.number, entity.state()), (number, EntityState::Ready));
        assert_eq!(ids(&answered.candidates)[0], entity.agent_id);
        assert!(answered.result.is_some() && answered.refused.is_empty());
        agents.push(entity.agent_id);
    }
    assert_eq!(agents, [a, b, a, b]);

    let request =
        CreateEntityRequest { weighters: vec!["cpu/-1".to_owned()], number: 9, ..by_choice() };
    let entity = create(&manager, request).await.unwrap().entity.unwrap();
    assert_eq!((entity.number, entity.agent_id), (9, b));

    let text = || vec!["cpu>0".to_owned()];
    let request = CreateEntityRequest {
        agent_id: a,
        includes: text(),
        weighters: text(),
        dry: true,
        ..by_choice()
    };
    let error = create(&manager, request).await.unwrap_err();
    let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["includes", "weighters", "dry"]);
    let request = CreateEntityRequest { weighters: text(), ..by_choice() };
    let error = create(&manager, request).await.unwrap_err();
    assert_eq!(error.violations[0].field, "weighters[0]");
}

#[tokio::test]
async fn a_refusal_leaves_it_to_the_next_under_a_new_number() {
    let manager = Manager::start().await;
    let a = ready(&manager, "h1", &["db"], 1).await;
    let b = ready(&manager, "h2", &["db"], 1).await;
    for (i, reason) in [
        Reason::AgentOffline,
        Reason::AgentBusy,
        Reason::AgentNotActive,
        Reason::QueueNotFound,
        Reason::PortTaken,
        Reason::PortsExhausted,
        Reason::PortOutOfRange,
        Reason::StateRefused,
        Reason::NamespaceNotFound,
        Reason::Locked,
        Reason::OverFinishtime,
    ]
    .into_iter()
    .enumerate()
    {
        manager.fake.answer(move |call| match host(call).as_str() {
            "h1" => Err(Error::new(reason, "scripted")),
            _ => willing(call),
        });
        let request = CreateEntityRequest { weighters: vec!["id".to_owned()], ..by_choice() };
        let answered = create(&manager, request).await.unwrap();
        let number = 2 * i32::try_from(i).unwrap() + 2;
        let entity = answered.entity.unwrap();
        assert_eq!((entity.number, entity.agent_id), (number, b), "{reason}");
        assert_eq!(ids(&answered.candidates), [a, b]);
        let refused = &answered.refused[0];
        assert_eq!(
            (refused.agent_id, &*refused.host, &*refused.reason, &*refused.why),
            (a, "h1", reason.as_str(), "scripted")
        );
        let error = manager.entity("db", number - 1).await.unwrap_err();
        assert_eq!(error.reason, Reason::EntityNotFound, "{reason}");
    }
    assert_eq!(manager.show(a).await.unwrap().entities, 0);
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_elsewhere() {
    let manager = Manager::start().await;
    ready(&manager, "h1", &["db"], 1).await;
    ready(&manager, "h2", &["db"], 1).await;
    for (reason, state) in [
        (Reason::MethodFailed, None),
        (Reason::InvalidArgument, None),
        (Reason::BrokerUnavailable, None),
        (Reason::OutcomeUnknown, Some(EntityState::Creating)),
        (Reason::Internal, Some(EntityState::Creating)),
        (Reason::Interrupted, Some(EntityState::Failed)),
    ] {
        let before = manager.fake.calls("create_entity").len();
        manager.fake.refuse(reason);
        let request = CreateEntityRequest { weighters: vec!["id".to_owned()], ..by_choice() };
        let error = create(&manager, request).await.unwrap_err();
        assert_eq!(error.reason, reason);
        assert_eq!(manager.fake.calls("create_entity").len(), before + 1, "{reason}");
        let number = error.metadata["entity"].parse().unwrap();
        let found = manager.entity("db", number).await.ok().map(|entity| entity.state());
        assert_eq!(found, state, "{reason}");
        assert!(state.is_none() || error.metadata.contains_key("message_id"), "{reason}");
    }
}

#[tokio::test]
async fn that_nobody_takes_it_tells_of_each() {
    let manager = Manager::start().await;
    let a = ready(&manager, "h1", &["db"], 1).await;
    let b = ready(&manager, "h2", &["db"], 1).await;
    let request = CreateEntityRequest { includes: vec!["cpu>1".to_owned()], ..by_choice() };
    let error = create(&manager, request).await.unwrap_err();
    assert_eq!(error.reason, Reason::NoAgentSuits);
    assert!(error.message.contains(&format!("agent {b} on h2: `cpu>1` does not hold: cpu is 1")));
    assert_eq!(error.metadata[&format!("agent_{a}")], "`cpu>1` does not hold: cpu is 1");
    assert!(manager.fake.calls("create_entity").is_empty());

    manager.fake.answer(|call| {
        let reason = if host(call) == "h1" { Reason::PortsExhausted } else { Reason::Locked };
        Err(Error::new(reason, format!("{} is full", host(call))))
    });
    let error = create(&manager, by_choice()).await.unwrap_err();
    assert_eq!(error.reason, Reason::NoAgentSuits);
    assert!(error.message.contains("h1 is full") && error.message.contains("h2 is full"));
    assert_eq!(error.metadata[&format!("agent_{a}")], "PORTS_EXHAUSTED");
    assert_eq!(error.metadata[&format!("agent_{b}")], "LOCKED");
    for number in [1, 2] {
        assert!(manager.entity("db", number).await.is_err());
    }

    // A number that was given is used up with the first try.
    let request = CreateEntityRequest { number: 7, ..by_choice() };
    let error = create(&manager, request).await.unwrap_err();
    assert_eq!(error.reason, Reason::NoAgentSuits);
    assert_eq!(manager.fake.calls("create_entity").len(), 3);
    manager.fake.agree();
    assert_eq!(create(&manager, by_choice()).await.unwrap().entity.unwrap().number, 8);
}

#[tokio::test]
async fn an_agent_gets_its_share_of_the_time_to_begin_and_all_of_it_to_end() {
    let manager = Manager::start().await;
    for i in 0..3 {
        ready(&manager, &format!("h{i}"), &["db"], 1).await;
    }
    manager.fake.answer(|call| match host(call).as_str() {
        "h2" => willing(call),
        _ => Err(Error::new(Reason::AgentBusy, "scripted")),
    });
    let mut request = tonic::Request::new(by_choice());
    request.set_timeout(Duration::from_secs(61));
    answer(manager.entities().create_entity(request).await).unwrap();
    let now = goperation::now_millis();
    let calls = manager.fake.calls("create_entity");
    let begin: Vec<_> = calls
        .iter()
        .map(|c| goperation::from_timestamp(c.finish_time.as_ref().unwrap()).saturating_sub(now))
        .collect();
    // A third, half of the rest, the rest: nearly nothing of it was used.
    for (begin, share) in begin.into_iter().zip([20, 30, 60]) {
        assert!((share - 15..=share + 1).contains(&(begin / 1000)), "{begin} of {share}");
    }
    assert!(calls.iter().all(|call| call.timeout.unwrap().seconds >= 45));
}

#[tokio::test]
async fn many_at_once_need_no_lock() {
    let manager = Manager::start().await;
    for i in 0..3 {
        ready(&manager, &format!("h{i}"), &["db"], 1).await;
    }
    let all = (0..30).map(|_| create(&manager, by_choice()));
    let mut numbers: Vec<_> = futures::future::join_all(all)
        .await
        .into_iter()
        .map(|answered| answered.unwrap().entity.unwrap().number)
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=30).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_agent_that_was_chosen_and_has_gone_is_passed_over() {
    let manager = Manager::start().await;
    let a = ready(&manager, "h1", &["db"], 1).await;
    let b = ready(&manager, "h2", &["db"], 1).await;
    let (go, gate) = tokio::sync::watch::channel(false);
    manager.fake.answer_later(move |request| {
        let mut gate = gate.clone();
        async move {
            let _ = gate.wait_for(|open| *open).await;
            match host(&request).as_str() {
                "h1" => Err(Error::new(Reason::PortsExhausted, "scripted")),
                _ => willing(&request),
            }
        }
        .boxed()
    });
    let request = CreateEntityRequest { weighters: vec!["id".to_owned()], ..by_choice() };
    let mut client = manager.entities();
    let waiting = tokio::spawn(async move { client.create_entity(request).await });
    until("the first is asked", || async { !manager.fake.calls("create_entity").is_empty() }).await;
    // While the first is asked, the second loses its endpoint.
    manager.sync(b, "h2", 2, &[], &[]).await.unwrap();
    go.send(true).unwrap();
    let error = answer(waiting.await.unwrap()).unwrap_err();
    assert_eq!(error.reason, Reason::NoAgentSuits);
    assert_eq!(error.metadata[&format!("agent_{a}")], "PORTS_EXHAUSTED");
    assert_eq!(error.metadata[&format!("agent_{b}")], "ENDPOINT_NOT_FOUND");
    assert_eq!(manager.fake.calls("create_entity").len(), 1);
    manager.sync(a, "h1", 2, &["db"], &[has("db", 9)]).await.unwrap();
}
