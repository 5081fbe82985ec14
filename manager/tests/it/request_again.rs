//! What nobody may lose sight of: requests whose sending is in doubt, whose run broke off, or of
//! which there are too many.

use std::{collections::BTreeMap, time::Duration};

use goperation::{Error, Reason, v1::*};
use goperation_store::{Store as _, Txn};

use crate::{
    harness::{Manager, answer, renewal, until},
    request_fleet::*,
};

fn host_of(cast: &CastRequest) -> String {
    cast.target.clone().unwrap().host
}

/// How often each host was sent to; under one id, always.
fn tries(manager: &Manager, id: &str) -> BTreeMap<String, usize> {
    let mut tries = BTreeMap::new();
    for cast in manager.fake.look(|seen| seen.casts.clone()) {
        assert_eq!((cast.message_id.as_str(), cast.request_id.as_str()), (id, id));
        *tries.entry(host_of(&cast)).or_default() += 1;
    }
    tries
}

fn doubt() -> Error {
    Error::new(Reason::OutcomeUnknown, "scripted")
}

#[tokio::test]
async fn what_was_in_doubt_when_a_rollout_stopped_is_sent_when_it_goes_on() {
    let mut manager = Manager::start().await;
    fleet(&manager, 4).await;
    manager.fake.take_casts(|cast| match host_of(cast).as_str() {
        "h1" => Ok(()),
        "h4" => Err(Error::new(Reason::BrokerUnavailable, "scripted")),
        _ => Err(doubt()),
    });
    let rollout = Some(Rollout { max_failures: Some("0".to_owned()), ..Rollout::default() });
    let id = create(&manager, CreateRequestRequest { rollout, ..asked() }).await.unwrap().id;
    until_rows(&manager, &id, "state = SENT", 1).await;
    until_rows(&manager, &id, "state = PENDING AND reason = OUTCOME_UNKNOWN", 2).await;
    respond(&manager, word(&id, 1, ResponseState::Failed)).await.unwrap();
    until_state(&manager, &id, RequestState::Stopped).await;
    until("who was not sent to waits again", || async {
        rows(&manager, &id, "agent_id = 4").await.unwrap()[0].reason.is_empty()
    })
    .await;
    manager = manager.crash().await;
    online(&manager, 4).await;
    manager.fake.take_casts(|_| Ok(()));
    let before = tries(&manager, &id);
    // Stopped, it sends to nobody; but who has got it answers.
    succeed(&manager, &id, 2).await;
    assert!(!respond(&manager, word(&id, 4, ResponseState::Succeeded)).await.unwrap());
    assert_eq!(show(&manager, &id).await.unwrap().state(), RequestState::Stopped);
    assert_eq!(rows(&manager, &id, "state = PENDING").await.unwrap().len(), 2);
    assert_eq!(tries(&manager, &id), before);

    let resume = ResumeRequestRequest { id: id.clone(), max_failures: None };
    answer(manager.requests().resume_request(resume).await).unwrap();
    until_rows(&manager, &id, "state = SENT", 2).await;
    let after = tries(&manager, &id);
    assert_eq!((after["h1"], after["h2"]), (before["h1"], before["h2"]));
    assert_eq!((after["h3"], after["h4"]), (before["h3"] + 1, before["h4"] + 1));
    for agent in [3, 4] {
        succeed(&manager, &id, agent).await;
    }
    let ended = until_state(&manager, &id, RequestState::Finished).await;
    let counts = ended.counts.unwrap();
    assert_eq!((counts.succeeded, counts.failed, ended.resultcode), (3, 1, 0));
}

#[tokio::test]
async fn what_was_in_doubt_when_it_was_cancelled_ends_by_its_deadline() {
    let mut manager = Manager::start().await;
    fleet(&manager, 2).await;
    manager.fake.take_casts(|_| Err(doubt()));
    let request = CreateRequestRequest {
        rollout: Some(Rollout { batch: "1".to_owned(), ..Rollout::default() }),
        finish_timeout: seconds(3),
        timeout: seconds(6),
        ..asked()
    };
    let id = create(&manager, request).await.unwrap().id;
    until_rows(&manager, &id, "reason = OUTCOME_UNKNOWN", 1).await;
    let cancelled = cancel(&manager, &id).await.unwrap();
    assert_eq!(cancelled.counts.unwrap().skipped, 1);
    manager = manager.crash().await;
    let before = tries(&manager, &id);
    let ended = until_state(&manager, &id, RequestState::Cancelled).await;
    assert_eq!(tries(&manager, &id), before, "a cancelled one sends nothing");
    assert_eq!(ended.resultcode, 1);
    let all = rows(&manager, &id, "").await.unwrap();
    let brief = |row: &AgentResponse| (row.state(), row.resultcode, row.reason.clone());
    let text = str::to_owned;
    assert_eq!(
        all.iter().map(brief).collect::<Vec<_>>(),
        [
            (ResponseState::Silent, -124, text("OUTCOME_UNKNOWN")),
            (ResponseState::Skipped, -127, text("")),
        ]
    );
}

#[tokio::test]
async fn whose_own_queue_takes_nothing_holds_nobody_up() {
    let manager = Manager::start().await;
    fleet(&manager, 4).await;
    manager.fake.take_casts(|cast| if host_of(cast) == "h1" { Err(doubt()) } else { Ok(()) });
    let request = CreateRequestRequest {
        rollout: Some(Rollout { max_parallel: 2, ..Rollout::default() }),
        finish_timeout: seconds(600),
        ..asked()
    };
    let id = create(&manager, request).await.unwrap().id;
    for agent in 2..=4 {
        until_rows(&manager, &id, &format!("agent_id = {agent} AND state = SENT"), 1).await;
        succeed(&manager, &id, agent).await;
    }
    until_rows(&manager, &id, "agent_id = 1 AND reason = OUTCOME_UNKNOWN", 1).await;
    manager.fake.take_casts(|_| Ok(()));
    until_rows(&manager, &id, "agent_id = 1 AND state = SENT", 1).await;
    succeed(&manager, &id, 1).await;
    let ended = until_state(&manager, &id, RequestState::Finished).await;
    assert_eq!(ended.counts.unwrap().succeeded, 4);
}

#[tokio::test]
async fn who_was_never_sent_to_is_not_said_to_have_been() {
    let manager = Manager::start().await;
    fleet(&manager, 2).await;
    let over = || Error::new(Reason::OverFinishtime, "scripted");
    manager.fake.take_casts(move |cast| if host_of(cast) == "h1" { Err(over()) } else { Ok(()) });
    let request =
        CreateRequestRequest { finish_timeout: seconds(1), timeout: seconds(4), ..asked() };
    let id = create(&manager, request).await.unwrap().id;
    until_state(&manager, &id, RequestState::Finished).await;
    let rows = rows(&manager, &id, "").await.unwrap();
    let reasons: Vec<_> = rows.iter().map(|row| row.reason.as_str()).collect();
    assert_eq!(reasons, ["OVER_FINISHTIME", "OUTCOME_UNKNOWN"]);
}

/// Puts something in place of what stands under a key; the first that is answered is what stood.
async fn swap(manager: &Manager, key: &[u8], value: Vec<u8>) -> Vec<u8> {
    let was = manager.store().get(key.to_vec()).await.unwrap().unwrap();
    manager.store().commit(Txn::new().put(key, value)).await.unwrap();
    was
}

/// A request for two agents that ends soon.
async fn short(manager: &Manager) -> String {
    fleet(manager, 2).await;
    let request =
        CreateRequestRequest { finish_timeout: seconds(5), timeout: seconds(8), ..asked() };
    create(manager, request).await.unwrap().id
}

#[tokio::test]
async fn a_run_that_broke_off_is_taken_up_again() {
    let manager = Manager::start().await;
    let id = short(&manager).await;
    // Why they are silent cannot be found out for a while.
    let key = [b"m/agent/".as_slice(), &1_u32.to_be_bytes()].concat();
    let was = swap(&manager, &key, b"?".to_vec()).await;
    until("it broke off at its deadline", || async {
        overtime(&manager, &id, "").await.unwrap_err().reason == Reason::Unavailable
    })
    .await;
    assert_eq!(show(&manager, &id).await.unwrap().state(), RequestState::Running);
    swap(&manager, &key, was).await;
    // Nobody asks for it.
    let ended = until_state(&manager, &id, RequestState::Finished).await;
    assert_eq!(ended.counts.unwrap().silent, 2);
    assert!(summary(all_events(&manager, &id).await.last().unwrap()).is_some());
}

#[tokio::test]
async fn a_request_that_a_start_cannot_read_is_taken_up_when_it_can() {
    let mut manager = Manager::start().await;
    let id = short(&manager).await;
    // A row that no version of ours has written, beside those that the run writes.
    let key = [b"m/request-row/", id.as_bytes(), b"/", &9_u32.to_be_bytes()].concat();
    manager.store().commit(Txn::new().put(key.clone(), b"?".to_vec())).await.unwrap();
    manager = manager.crash().await;
    // It is tried before anything is served.
    assert_eq!(show(&manager, &id).await.unwrap().state(), RequestState::Running);
    let error = overtime(&manager, &id, "").await.unwrap_err();
    assert!(matches!(error.reason, Reason::Unavailable | Reason::Internal), "{error:?}");
    manager.store().commit(Txn::new().delete(key)).await.unwrap();
    let ended = until_state(&manager, &id, RequestState::Finished).await;
    assert_eq!(ended.counts.unwrap().silent, 2);
}

#[tokio::test]
async fn no_more_requests_are_open_than_may_be_kept() {
    let mut manager = Manager::with(|config| config.requests.most = 2).await;
    fleet(&manager, 1).await;
    let first = create(&manager, asked()).await.unwrap().id;
    create(&manager, asked()).await.unwrap();
    let third = || CreateRequestRequest { idempotency_key: "third".to_owned(), ..asked() };
    for _ in 0..2 {
        let error = create(&manager, third()).await.unwrap_err();
        assert_eq!((error.reason, error.metadata["most"].as_str()), (Reason::RateLimited, "2"));
        assert!(error.message.contains("cancel one"), "{error}");
        assert!(error.retry_after.is_some());
        // Also by the next manager.
        manager = manager.restart().await;
        online(&manager, 1).await;
    }
    let list = IndexRequestsRequest::default();
    assert_eq!(answer(manager.requests().index_requests(list).await).unwrap().total_size, 2);
    cancel(&manager, &first).await.unwrap();
    overtime(&manager, &first, "").await.unwrap();
    let begun = create(&manager, third()).await.unwrap();
    assert_eq!(create(&manager, third()).await.unwrap().id, begun.id);
    assert_eq!(create(&manager, asked()).await.unwrap_err().reason, Reason::RateLimited);
}

#[tokio::test]
async fn a_plan_does_not_take_those_for_offline_that_a_start_has_not_heard_yet() {
    let mut manager = Manager::with(|config| config.lease = Duration::from_secs(600)).await;
    fleet(&manager, 2).await;
    let on = RequestSelection { filter: "online = true".to_owned(), ..RequestSelection::default() };
    let planned = PlanRequestRequest {
        method: asked().method,
        on: Some(on.clone()),
        ..PlanRequestRequest::default()
    };
    let plan = async |manager: &Manager| {
        answer(manager.requests().plan_request(planned.clone()).await).unwrap()
    };
    let before = plan(&manager).await;
    assert_eq!((before.agents.len(), before.ready), (2, 2));
    manager = manager.crash().await;
    assert_eq!(plan(&manager).await, before);
    let by_plan =
        || CreateRequestRequest { on: Some(on.clone()), plan: before.hash.clone(), ..asked() };
    assert_eq!(create(&manager, by_plan()).await.unwrap().plan, before.hash);
    // One that says that it goes is offline at once.
    online(&manager, 2).await;
    manager
        .renew(RenewAgentRequest { status: 1, stopping: true, ..renewal(1, "h1") })
        .await
        .unwrap();
    assert_eq!(create(&manager, by_plan()).await.unwrap_err().reason, Reason::PlanChanged);
    let all = PlanRequestRequest { on: asked().on, ..planned.clone() };
    let of_all = answer(manager.requests().plan_request(all).await).unwrap();
    let reasons: Vec<_> = of_all.agents.iter().map(|agent| agent.reason.as_str()).collect();
    assert_eq!((reasons, of_all.ready), (vec!["AGENT_OFFLINE", ""], 1));
    // And so is everyone whose lease ends without a word.
    manager = manager.restart_with(|config| config.lease = Duration::from_millis(1)).await;
    until("the leases are over", || async { plan(&manager).await.agents.is_empty() }).await;
}
