//! What the run of a request owes to others: the bound over the fleet, what a start takes up, and
//! how a request leaves the record.

use std::{collections::BTreeMap, time::Duration};

use goperation::{Reason, v1::*};
use goperation_store::{Scan, Store as _};

use crate::{
    harness::{Manager, answer, until},
    request_fleet::*,
};

async fn keys(manager: &Manager, prefix: &str) -> usize {
    manager.store().scan(Scan::prefix(prefix)).await.unwrap().len()
}

async fn ids(manager: &Manager) -> Vec<String> {
    let request = IndexRequestsRequest::default();
    let page = answer(manager.requests().index_requests(request).await).unwrap();
    page.requests.into_iter().map(|request| request.id).collect()
}

/// Agents of a request in that state.
async fn agents_in(manager: &Manager, id: &str, state: &str) -> Vec<i32> {
    let rows = rows(manager, id, &format!("state = {state}")).await.unwrap();
    rows.into_iter().map(|row| row.agent_id).collect()
}

#[tokio::test]
async fn no_more_agents_run_a_method_than_the_fleet_may_over_all_requests_and_starts() {
    let mut manager = Manager::with(|config| {
        config.requests.max_running = BTreeMap::from([("status_agent".to_owned(), 3)]);
    })
    .await;
    fleet(&manager, 4).await;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(create(&manager, asked()).await.unwrap().id);
    }
    // Another method has no bound.
    let other = CreateRequestRequest { method: "echo".to_owned(), ..asked() };
    let other = create(&manager, other).await.unwrap().id;
    until_rows(&manager, &other, "state = SENT", 4).await;
    let mut left = 12;
    while left > 0 {
        let mut running = Vec::new();
        until("as many run as may", || async {
            let mut sent = 0;
            for id in &all {
                sent += agents_in(&manager, id, "SENT").await.len();
            }
            assert!(sent <= 3, "{sent} run");
            sent == left.min(3)
        })
        .await;
        for id in &all {
            let agents = agents_in(&manager, id, "SENT").await;
            running.extend(agents.into_iter().map(|agent| (id.clone(), agent)));
        }
        let (id, agent) = running.pop().unwrap();
        succeed(&manager, &id, agent).await;
        left -= 1;
        if left == 6 {
            manager = manager.crash().await;
            online(&manager, 4).await;
        }
    }
    for id in &all {
        until_state(&manager, id, RequestState::Finished).await;
    }
}

#[tokio::test]
async fn a_killed_manager_goes_on_in_the_pause_between_two_batches() {
    let mut manager = Manager::start().await;
    fleet(&manager, 4).await;
    let rollout = Rollout {
        batch: "2".to_owned(),
        pause: Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 }),
        ..Rollout::default()
    };
    let request = CreateRequestRequest { rollout: Some(rollout), ..asked() };
    let id = create(&manager, request).await.unwrap().id;
    until_rows(&manager, &id, "state = SENT AND batch = 1", 2).await;
    for agent in [1, 2] {
        succeed(&manager, &id, agent).await;
    }
    manager = manager.crash().await;
    online(&manager, 4).await;
    until_rows(&manager, &id, "state = SENT AND batch = 2", 2).await;
    let ended = rows(&manager, &id, "batch = 1").await.unwrap();
    let ended =
        ended.iter().filter_map(|row| row.server_time.as_ref()).map(goperation::from_timestamp);
    let begun = rows(&manager, &id, "batch = 2").await.unwrap();
    let begun =
        begun.iter().filter_map(|row| row.send_time.as_ref()).map(goperation::from_timestamp);
    assert!(begun.min().unwrap() >= ended.max().unwrap() + 300);
    for agent in [3, 4] {
        succeed(&manager, &id, agent).await;
    }
    until_state(&manager, &id, RequestState::Finished).await;
    let mut hosts = BTreeMap::new();
    for cast in manager.fake.look(|seen| seen.casts.clone()) {
        *hosts.entry(cast.target.unwrap().host).or_insert(0) += 1;
        assert_eq!(cast.message_id, id);
    }
    // The first batch was confirmed, so it was not sent again.
    assert_eq!((hosts["h1"], hosts["h2"], hosts.len()), (1, 1, 4));
}

#[tokio::test]
async fn a_late_answer_finds_a_request_that_ended_under_another_manager() {
    let mut manager = Manager::start().await;
    fleet(&manager, 2).await;
    let id = create(&manager, asked()).await.unwrap().id;
    until_rows(&manager, &id, "state = SENT", 2).await;
    succeed(&manager, &id, 1).await;
    assert_eq!(overtime(&manager, &id, "").await.unwrap().resultcode, 1);
    manager = manager.restart().await;
    let before = all_events(&manager, &id).await;
    assert!(!respond(&manager, word(&id, 2, ResponseState::Running)).await.unwrap());
    succeed(&manager, &id, 2).await;
    let ended = show(&manager, &id).await.unwrap();
    assert_eq!((ended.state(), ended.resultcode), (RequestState::Finished, 0));
    let cursor = &before.last().unwrap().cursor;
    let mut stream = watch(&manager, &id, cursor, true).await.unwrap();
    let late = next(&mut stream).await.unwrap().unwrap();
    assert!(of_agent(&late).unwrap().late);
    // It is not run anew by that.
    assert_eq!(keys(&manager, "m/request-open/").await, 0);
}

#[tokio::test]
async fn old_requests_leave_with_all_that_they_left_and_running_ones_stay() {
    let mut manager = Manager::start().await;
    fleet(&manager, 2).await;
    let running = create(&manager, asked()).await.unwrap().id;
    until_rows(&manager, &running, "state = SENT", 2).await;
    let mut ended = Vec::new();
    for _ in 0..3 {
        let id = create(&manager, asked()).await.unwrap().id;
        until_rows(&manager, &id, "state = SENT", 2).await;
        overtime(&manager, &id, "").await.unwrap();
        ended.push(id);
    }
    // By hand, and only when it has ended.
    let delete = async |manager: &Manager, id: &str| {
        let request = DeleteRequestRequest { id: id.to_owned() };
        answer(manager.requests().delete_request(request).await)
    };
    assert_eq!(delete(&manager, &running).await.unwrap_err().reason, Reason::StateRefused);
    let gone = ended.pop().unwrap();
    delete(&manager, &gone).await.unwrap();
    let error = delete(&manager, &gone).await.unwrap_err();
    assert_eq!(error.reason, Reason::RequestNotFound);
    // Its run may still be there, and must not bring it back.
    assert!(!respond(&manager, word(&gone, 1, ResponseState::Succeeded)).await.unwrap());
    assert_eq!(cancel(&manager, &gone).await.unwrap_err().reason, Reason::RequestNotFound);
    assert_eq!(show(&manager, &gone).await.unwrap_err().reason, Reason::RequestNotFound);
    for prefix in ["m/request-row/", "m/request-event/"] {
        assert_eq!(keys(&manager, &format!("{prefix}{gone}/")).await, 0, "{prefix}");
    }

    manager = manager.restart_with(|config| config.requests.most = 2).await;
    let (young, old) = (ended.pop().unwrap(), ended.pop().unwrap());
    until("the oldest that has ended is gone", || async {
        ids(&manager).await == [young.clone(), running.clone()]
    })
    .await;
    manager = manager.restart_with(|config| config.requests.keep = Duration::from_millis(1)).await;
    until("only what runs is left", || async { ids(&manager).await == [running.clone()] }).await;
    for id in [old, young] {
        for prefix in ["m/request-row/", "m/request-event/"] {
            let what = format!("nothing is left below {prefix}{id}");
            let prefix = format!("{prefix}{id}/");
            until(&what, || async { keys(&manager, &prefix).await == 0 }).await;
        }
    }
    until("no mark is left", || async { keys(&manager, "m/request-expiry/").await == 0 }).await;
    assert_eq!(keys(&manager, "m/request-row/").await, 2);
    assert_eq!(keys(&manager, "m/request-time/").await, 1);
}

#[tokio::test]
async fn rows_leave_before_their_request_when_they_are_kept_for_a_time() {
    let manager = Manager::start().await;
    fleet(&manager, 2).await;
    let request = CreateRequestRequest { expire: seconds(1), ..asked() };
    let id = create(&manager, request).await.unwrap().id;
    until_rows(&manager, &id, "state = SENT", 2).await;
    overtime(&manager, &id, "").await.unwrap();
    until("its rows are gone", || async { keys(&manager, "m/request-row/").await == 0 }).await;
    until("its events are gone", || async { keys(&manager, "m/request-event/").await == 0 }).await;
    assert!(!respond(&manager, word(&id, 1, ResponseState::Succeeded)).await.unwrap());
    assert_eq!(keys(&manager, "m/request-row/").await, 0);
    assert_eq!(show(&manager, &id).await.unwrap().counts.unwrap().silent, 2);
}
