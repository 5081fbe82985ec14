//! Deletion of entities by a one-time token, and finish times of creation and deletion.

use goperation::{Error, Reason, from_timestamp, now_millis, to_timestamp, v1::*};
use serde_json::json;

use crate::{
    fake::{args, object, willing},
    harness::{Manager, answer},
};

const TOKEN: &str = "one-time";

async fn with_entity() -> (Manager, i32) {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.try_create(id, "db").await.unwrap();
    (manager, id)
}

fn with(token: &str) -> DeleteEntityRequest {
    DeleteEntityRequest {
        endpoint: "db".to_owned(),
        number: 1,
        token: token.to_owned(),
        ..DeleteEntityRequest::default()
    }
}

async fn delete(manager: &Manager, request: DeleteEntityRequest) -> Result<(), Error> {
    answer(manager.entities().delete_entity(request).await).map(|_| ())
}

fn methods(manager: &Manager) -> Vec<String> {
    let calls = manager.fake.look(|seen| seen.calls.clone());
    calls.into_iter().map(|call| call.method).filter(|m| m != "create_entity").collect()
}

#[tokio::test]
async fn the_agent_is_told_the_token_first() {
    let (manager, _) = with_entity().await;
    delete(&manager, with(TOKEN)).await.unwrap();
    assert_eq!(methods(&manager), ["entity_token", "delete_entity"]);
    let call = &manager.fake.calls("entity_token")[0];
    assert_eq!(args(call), object(json!({"entity": 1, "token": TOKEN, "expire": 60})));
    assert_eq!(call.target.as_ref().unwrap().namespace, "db");
    let call = &manager.fake.calls("delete_entity")[0];
    assert_eq!(args(call), object(json!({"entity": 1, "args": {}, "token": TOKEN})));
    assert!(manager.entity("db", 1).await.is_err());
    // Gone: nothing is sent any more.
    delete(&manager, with(TOKEN)).await.unwrap();
    assert_eq!(methods(&manager).len(), 2);
}

#[tokio::test]
async fn without_a_token_nothing_is_told() {
    let (manager, _) = with_entity().await;
    delete(&manager, with("")).await.unwrap();
    assert_eq!(methods(&manager), ["delete_entity"]);
}

#[tokio::test]
async fn a_token_that_was_not_taken_leaves_everything_as_it_was() {
    let (manager, _) = with_entity().await;
    let seen = manager.entity("db", 1).await.unwrap();
    for (answered, reason) in [
        (Reason::AgentOffline, Reason::AgentOffline),
        (Reason::MethodNotFound, Reason::MethodNotFound),
        (Reason::OutcomeUnknown, Reason::Unavailable),
    ] {
        manager.fake.refuse(answered);
        let error = delete(&manager, with(TOKEN)).await.unwrap_err();
        assert_eq!((error.reason, &*error.metadata["entity"]), (reason, "1"), "{error}");
        assert_eq!(manager.entity("db", 1).await.unwrap(), seen);
    }
    assert!(manager.fake.calls("delete_entity").is_empty());
    let stale = DeleteEntityRequest { etag: "0-0".to_owned(), ..with(TOKEN) };
    let error = delete(&manager, stale).await.unwrap_err();
    assert_eq!(error.reason, Reason::EtagMismatch);
    assert_eq!(manager.fake.calls("entity_token").len(), 3);
    let long = "t".repeat(257);
    let error = delete(&manager, with(&long)).await.unwrap_err();
    assert_eq!(error.violations[0].field, "token");
}

#[tokio::test]
async fn a_refused_deletion_gives_the_state_back() {
    let (manager, _) = with_entity().await;
    manager.fake.answer(|request| match request.method.as_str() {
        "delete_entity" => Err(Error::new(Reason::StateRefused, "somebody else is deleting it")),
        _ => willing(request),
    });
    assert_eq!(delete(&manager, with(TOKEN)).await.unwrap_err().reason, Reason::StateRefused);
    assert_eq!(manager.entity("db", 1).await.unwrap().state(), EntityState::Ready);
}

#[tokio::test]
async fn the_same_token_again_after_an_unknown_outcome() {
    let (manager, _) = with_entity().await;
    manager.fake.answer(|request| match request.method.as_str() {
        "delete_entity" => Err(Error::new(Reason::OutcomeUnknown, "lost")),
        _ => willing(request),
    });
    assert_eq!(delete(&manager, with(TOKEN)).await.unwrap_err().reason, Reason::OutcomeUnknown);
    assert_eq!(manager.entity("db", 1).await.unwrap().state(), EntityState::Deleting);
    // The agent has deleted it: it does not know it for a token, but has the answer.
    manager.fake.answer(|request| match request.method.as_str() {
        "entity_token" => Err(Error::new(Reason::EntityNotFound, "deleted")),
        _ => willing(request),
    });
    let manager = manager.crash().await;
    delete(&manager, with(TOKEN)).await.unwrap();
    let calls = manager.fake.calls("delete_entity");
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].message_id, calls[1].message_id);
    assert!(manager.entity("db", 1).await.is_err());
}

#[tokio::test]
async fn finish_times_go_with_the_calls() {
    let (manager, id) = with_entity().await;
    let finish = now_millis() + 3_600_000;
    let create = |millis| CreateEntityRequest {
        endpoint: "db".to_owned(),
        agent_id: id,
        finish_time: Some(to_timestamp(millis)),
        ..CreateEntityRequest::default()
    };
    answer(manager.entities().create_entity(create(finish)).await).unwrap();
    let sent = |method: &str| {
        let call = manager.fake.calls(method).pop().unwrap();
        // The wait is no longer for it.
        assert!(call.timeout.unwrap().seconds <= 5, "{:?}", call.timeout);
        from_timestamp(&call.finish_time.unwrap())
    };
    assert_eq!(sent("create_entity"), finish);
    let late = |millis| DeleteEntityRequest { finish_time: Some(to_timestamp(millis)), ..with("") };
    for bad in [now_millis() - 1, 0, now_millis() + 8 * 24 * 3_600_000] {
        for error in [
            answer(manager.entities().create_entity(create(bad)).await).unwrap_err(),
            delete(&manager, late(bad)).await.unwrap_err(),
        ] {
            assert_eq!(error.reason, Reason::InvalidArgument);
            assert_eq!(error.violations[0].field, "finish_time");
        }
    }
    delete(&manager, late(finish)).await.unwrap();
    assert_eq!(sent("delete_entity"), finish);

    // Until then it may be created still, so it is not deleted.
    manager.fake.refuse(Reason::OutcomeUnknown);
    answer(manager.entities().create_entity(create(finish)).await).unwrap_err();
    let request = DeleteEntityRequest { number: 3, ..with("") };
    let error = delete(&manager, request).await.unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused);
    assert!(error.retry_after.unwrap().as_secs() > 3000, "{error}");
}
