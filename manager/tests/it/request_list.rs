//! Requests and their rows in lists, and how they go.

use goperation::{Reason, v1::*};
use goperation_store::{Scan, Store as _};

use crate::{
    harness::{Manager, answer, until},
    request_fleet::*,
};

async fn ids(manager: &Manager, filter: &str, page_size: i32) -> Vec<String> {
    let mut request = IndexRequestsRequest {
        filter: filter.to_owned(),
        page_size,
        ..IndexRequestsRequest::default()
    };
    let mut ids = Vec::new();
    let total = loop {
        let page = answer(manager.requests().index_requests(request.clone()).await).unwrap();
        ids.extend(page.requests.into_iter().map(|request| request.id));
        if page.next_page_token.is_empty() {
            break page.total_size;
        }
        request.page_token = page.next_page_token;
    };
    assert_eq!(usize::try_from(total).unwrap(), ids.len(), "{filter}");
    ids
}

/// Everything that is stored of requests.
async fn stored(manager: &Manager) -> usize {
    manager.store().scan(Scan::prefix(b"m/request".to_vec())).await.unwrap().len()
}

#[tokio::test]
async fn requests_are_listed_from_the_newest_on() {
    let manager = Manager::start().await;
    fleet(&manager, 2).await;
    let mut all = Vec::new();
    for method in ["status_agent", "clean_agent", "status_agent", "status_agent", "clean_agent"] {
        let request = CreateRequestRequest { method: method.to_owned(), ..asked() };
        let begun = create(&manager, request).await.unwrap();
        // Each has a time of its own.
        let time = goperation::from_timestamp(&begun.request_time.unwrap());
        until("time goes on", || async { goperation::now_millis() > time }).await;
        all.push(begun.id);
    }
    overtime(&manager, &all[1], "").await.unwrap();
    all.reverse();
    assert_eq!(ids(&manager, "", 0).await, all);
    assert_eq!(ids(&manager, "", 2).await, all);
    let some = |places: &[usize]| places.iter().map(|&i| all[i].clone()).collect::<Vec<_>>();
    for (filter, places) in [
        ("method = clean_agent", vec![0, 3]),
        ("method = clean_agent AND state = RUNNING", vec![0]),
        ("state = FINISHED", vec![3]),
        ("resultcode = 1 AND silent = 2 AND failed = 0 AND agents = 2", vec![3]),
        ("namespace != manager", vec![]),
        ("request_time > 0 AND resultcode = -127", vec![0, 1, 2, 4]),
    ] {
        assert_eq!(ids(&manager, filter, 1).await, some(&places), "{filter}");
    }
    let by_id = format!("id = {}", all[2]);
    assert_eq!(ids(&manager, &by_id, 0).await, some(&[2]));

    let mut request = IndexRequestsRequest { page_size: 1, ..IndexRequestsRequest::default() };
    let page = answer(manager.requests().index_requests(request.clone()).await).unwrap();
    request.filter = by_id;
    request.page_token = page.next_page_token;
    let error = answer(manager.requests().index_requests(request.clone()).await).unwrap_err();
    assert_eq!(error.violations[0].field, "page_token");
    request.filter = "host = h1".to_owned();
    let error = answer(manager.requests().index_requests(request).await).unwrap_err();
    assert!(error.violations.iter().any(|violation| violation.field == "filter"));
    let blank = manager.requests().new_request(NewRequestRequest {}).await.unwrap().into_inner();
    assert_eq!(blank.request.unwrap().namespace, "manager");
    assert!(blank.constraints["finish_timeout"].contains("604800s"));
}

#[tokio::test]
async fn rows_are_listed_in_order_of_their_agents() {
    let manager = Manager::start().await;
    // More than are read at a time.
    fleet(&manager, 130).await;
    let rollout = Some(Rollout { batch: "50%".to_owned(), ..Rollout::default() });
    let id = create(&manager, CreateRequestRequest { rollout, ..asked() }).await.unwrap().id;
    until_rows(&manager, &id, "state = SENT", 65).await;
    succeed(&manager, &id, 5).await;
    let mut request =
        IndexResponsesRequest { id: id.clone(), page_size: 7, ..IndexResponsesRequest::default() };
    let mut agents = Vec::new();
    loop {
        let page = answer(manager.requests().index_responses(request.clone()).await).unwrap();
        assert_eq!(page.total_size, 130);
        agents.extend(page.responses.iter().map(|row| row.agent_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(agents, (1..=130).collect::<Vec<_>>());
    for (filter, count) in [
        ("batch = 1", 65),
        ("state = PENDING", 65),
        ("state = SENT AND agent_id <= 10", 9),
        ("state = SUCCEEDED AND host = h5 AND resultcode = 0 AND late = false", 1),
        ("reason = AGENT_OFFLINE", 0),
    ] {
        assert_eq!(rows(&manager, &id, filter).await.unwrap().len(), count, "{filter}");
    }
    let error = rows(&manager, &id, "namespace = manager").await.unwrap_err();
    assert_eq!(error.violations[0].field, "filter");
}

#[tokio::test]
async fn a_page_of_large_rows_is_not_larger_than_a_client_takes() {
    let manager = Manager::start().await;
    fleet(&manager, 8).await;
    let id = create(&manager, asked()).await.unwrap().id;
    until_rows(&manager, &id, "state = SENT", 8).await;
    let text = prost_types::value::Kind::StringValue("x".repeat(900_000));
    let value = prost_types::Value { kind: Some(text) };
    let result = prost_types::Struct { fields: [("text".to_owned(), value)].into() };
    for agent in 1..=8 {
        let done = RespondRequest {
            result: Some(result.clone()),
            ..word(&id, agent, ResponseState::Succeeded)
        };
        assert!(respond(&manager, done).await.unwrap());
    }
    let all = rows(&manager, &id, "").await.unwrap();
    assert_eq!(all.iter().map(|row| row.agent_id).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    assert!(all.iter().all(|row| row.result.as_ref() == Some(&result)));
    let request = IndexResponsesRequest { id, ..IndexResponsesRequest::default() };
    let page = answer(manager.requests().index_responses(request).await).unwrap();
    assert!(page.responses.len() < 8);
    assert_eq!(page.total_size, 8);
}

#[tokio::test]
async fn a_request_that_has_ended_can_be_removed() {
    let manager = Manager::start().await;
    fleet(&manager, 2).await;
    let id = create(&manager, asked()).await.unwrap().id;
    let delete = async || {
        let request = DeleteRequestRequest { id: id.clone() };
        answer(manager.requests().delete_request(request).await)
    };
    assert_eq!(delete().await.unwrap_err().reason, Reason::StateRefused);
    overtime(&manager, &id, "").await.unwrap();
    delete().await.unwrap();
    assert_eq!(delete().await.unwrap_err().reason, Reason::RequestNotFound);
    assert_eq!(show(&manager, &id).await.unwrap_err().reason, Reason::RequestNotFound);
    assert_eq!(ids(&manager, "", 0).await, [""; 0]);
    // An agent that answers now is not kept waiting, and nothing comes back by it.
    assert!(!respond(&manager, word(&id, 1, ResponseState::Succeeded)).await.unwrap());
    assert_eq!(stored(&manager).await, 0);
}

#[tokio::test]
async fn rows_that_expire_are_gone_and_the_totals_stay() {
    let manager = Manager::start().await;
    fleet(&manager, 2).await;
    let request = CreateRequestRequest { expire: seconds(1), ..asked() };
    let id = create(&manager, request).await.unwrap().id;
    let ended = overtime(&manager, &id, "").await.unwrap();
    let end = goperation::from_timestamp(&ended.end_time.unwrap());
    until("they are gone", || async { rows(&manager, &id, "").await.is_err() }).await;
    assert!(goperation::now_millis() >= end + 1_000);
    assert_eq!(rows(&manager, &id, "").await.unwrap_err().reason, Reason::StateRefused);
    let error = watch(&manager, &id, "", false).await.unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused);
    assert!(!respond(&manager, word(&id, 1, ResponseState::Succeeded)).await.unwrap());
    assert_eq!(show(&manager, &id).await.unwrap(), ended);
    // The sweep takes them off the disk: what stays is the request and its place in the list.
    until("they are swept", || async { stored(&manager).await == 2 }).await;
    assert_eq!(show(&manager, &id).await.unwrap().counts.unwrap().silent, 2);
}

#[tokio::test]
async fn requests_that_are_too_many_go_from_the_oldest_on() {
    let manager = Manager::start().await;
    fleet(&manager, 1).await;
    let mut all = Vec::new();
    for _ in 0..4 {
        let begun = create(&manager, asked()).await.unwrap();
        let time = goperation::from_timestamp(&begun.request_time.unwrap());
        until("time goes on", || async { goperation::now_millis() > time }).await;
        all.push(begun.id);
    }
    // The oldest one is still running, so it stays.
    for id in &all[1..] {
        overtime(&manager, id, "").await.unwrap();
    }
    let manager = manager.restart_with(|config| config.requests.most = 2).await;
    until("two are left", || async {
        let list = IndexRequestsRequest::default();
        answer(manager.requests().index_requests(list).await).unwrap().total_size == 2
    })
    .await;
    assert_eq!(ids(&manager, "", 0).await, [all[3].clone(), all[0].clone()]);
}
