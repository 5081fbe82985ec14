//! Deletion of entities.

use goperation::{Error, Reason, v1::*};
use serde_json::json;

use crate::{
    fake::{args, object},
    harness::{Manager, answer, has},
};

async fn delete(manager: &Manager, number: i32) -> Result<DeleteEntityResponse, Error> {
    let request = DeleteEntityRequest {
        endpoint: "db".to_owned(),
        number,
        args: Some(goperation::json_to_struct("args", &object(json!({"keep": true}))).unwrap()),
        ..DeleteEntityRequest::default()
    };
    answer(manager.entities().delete_entity(request).await)
}

async fn state(manager: &Manager, number: i32) -> EntityState {
    manager.entity("db", number).await.unwrap().state()
}

#[tokio::test]
async fn a_deleted_entity_is_gone_and_again_is_fine() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.try_create(id, "db").await.unwrap();
    let deleted = delete(&manager, 1).await.unwrap();
    let result = goperation::struct_to_json("result", deleted.result.as_ref()).unwrap();
    assert_eq!(result, object(json!({"gone": true})));
    let call = &manager.fake.calls("delete_entity")[0];
    assert_eq!(args(call), object(json!({"entity": 1, "args": {"keep": true}})));
    assert_eq!(manager.entity("db", 1).await.unwrap_err().reason, Reason::EntityNotFound);
    let manager = manager.crash().await;
    delete(&manager, 1).await.unwrap();
    assert_eq!(manager.fake.calls("delete_entity").len(), 1);
    // One that never was is not found.
    assert_eq!(delete(&manager, 2).await.unwrap_err().reason, Reason::EntityNotFound);
    assert_eq!(manager.try_create(id, "db").await.unwrap().number, 2);
}

#[tokio::test]
async fn an_agent_that_does_not_know_it_has_deleted_it() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.try_create(id, "db").await.unwrap();
    manager.fake.refuse(Reason::EntityNotFound);
    delete(&manager, 1).await.unwrap();
    assert!(manager.entity("db", 1).await.is_err());
}

#[tokio::test]
async fn a_refusal_gives_the_state_back() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.try_create(id, "db").await.unwrap();
    for reason in [Reason::AgentOffline, Reason::MethodFailed, Reason::Locked] {
        manager.fake.refuse(reason);
        let error = delete(&manager, 1).await.unwrap_err();
        assert_eq!(error.reason, reason);
        assert_eq!(error.metadata["entity"], "1");
        assert_eq!(state(&manager, 1).await, EntityState::Ready);
    }
    let ids: std::collections::BTreeSet<_> =
        manager.fake.calls("delete_entity").into_iter().map(|call| call.message_id).collect();
    assert_eq!(ids.len(), 3, "each try is a new message");
}

#[tokio::test]
async fn an_unknown_outcome_stays_deleting_and_is_asked_for_by_the_same_id() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.try_create(id, "db").await.unwrap();
    manager.fake.refuse(Reason::OutcomeUnknown);
    assert_eq!(delete(&manager, 1).await.unwrap_err().reason, Reason::OutcomeUnknown);
    assert_eq!(state(&manager, 1).await, EntityState::Deleting);
    // It may have happened, so a refusal now gives nothing back.
    let manager = manager.crash().await;
    manager.fake.refuse(Reason::AgentOffline);
    delete(&manager, 1).await.unwrap_err();
    assert_eq!(state(&manager, 1).await, EntityState::Deleting);
    let calls = manager.fake.calls("delete_entity");
    assert_eq!(calls[0].message_id, calls[1].message_id);
    manager.fake.agree();
    delete(&manager, 1).await.unwrap();
    assert!(manager.entity("db", 1).await.is_err());
}

#[tokio::test]
async fn an_interrupted_deletion_is_tried_anew() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.try_create(id, "db").await.unwrap();
    manager.fake.refuse(Reason::Interrupted);
    delete(&manager, 1).await.unwrap_err();
    assert_eq!(state(&manager, 1).await, EntityState::Deleting);
    // Nothing is on its way: the agent may be told to remove it.
    let synced = manager.sync(id, "h1", 2, &["db"], &[has("db", 1)]).await.unwrap();
    assert_eq!(synced.remove, [EntityName { endpoint: "db".to_owned(), number: 1 }]);
    manager.fake.agree();
    delete(&manager, 1).await.unwrap();
    let calls = manager.fake.calls("delete_entity");
    assert_ne!(calls[0].message_id, calls[1].message_id);
}

#[tokio::test]
async fn what_may_still_be_created_is_not_deleted_yet() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.fake.refuse(Reason::OutcomeUnknown);
    manager.try_create(id, "db").await.unwrap_err();
    let error = delete(&manager, 1).await.unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused);
    assert_eq!(error.metadata["state"], "CREATING");
    assert!(error.retry_after.is_some());
}

#[tokio::test]
async fn an_etag_guards_a_deletion() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.try_create(id, "db").await.unwrap();
    let request = |etag: &str| DeleteEntityRequest {
        endpoint: "db".to_owned(),
        number: 1,
        etag: etag.to_owned(),
        ..DeleteEntityRequest::default()
    };
    let error = answer(manager.entities().delete_entity(request("0-0")).await).unwrap_err();
    assert_eq!(error.reason, Reason::EtagMismatch);
    assert!(manager.fake.calls("delete_entity").is_empty());
    let etag = manager.entity("db", 1).await.unwrap().etag;
    answer(manager.entities().delete_entity(request(&etag)).await).unwrap();
}
