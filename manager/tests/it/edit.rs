//! Updates and edits: field masks and etags.

use goperation::{Reason, v1::*};
use prost_types::FieldMask;

use crate::harness::{Manager, answer, has};

fn labels(pairs: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
    pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(|&p| p.to_owned()).collect() })
}

#[tokio::test]
async fn an_update_replaces_and_an_edit_touches_only_what_it_names() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    let agent = Agent {
        id,
        description: "one".to_owned(),
        labels: labels(&[("a", "1"), ("b", "2")]),
        ..Agent::default()
    };
    let update = UpdateAgentRequest { agent: Some(agent.clone()) };
    let updated = answer(manager.agents().update_agent(update).await).unwrap().agent.unwrap();
    assert_eq!((updated.description.as_str(), updated.labels.len()), ("one", 2));

    let edit = |agent: Agent, update_mask| EditAgentRequest { agent: Some(agent), update_mask };
    let given =
        Agent { id, description: "two".into(), labels: labels(&[("a", "9")]), ..Agent::default() };
    let by_key = edit(given.clone(), mask(&["labels.a", "labels.b"]));
    let edited = answer(manager.agents().edit_agent(by_key).await).unwrap().agent.unwrap();
    assert_eq!((edited.description.as_str(), edited.labels), ("one", labels(&[("a", "9")])));
    let edited = manager.agents().edit_agent(edit(given.clone(), None)).await;
    assert_eq!(answer(edited).unwrap().agent.unwrap().description, "two");

    let refused = manager.agents().edit_agent(edit(given, mask(&["host", "status"]))).await;
    let error = answer(refused).unwrap_err();
    assert_eq!((error.reason, error.violations.len()), (Reason::InvalidArgument, 2));

    let blank = UpdateAgentRequest { agent: Some(Agent { id, ..Agent::default() }) };
    let blank = answer(manager.agents().update_agent(blank).await).unwrap().agent.unwrap();
    assert_eq!((blank.description.as_str(), blank.labels.len()), ("", 0));
    let manager = manager.crash().await;
    assert_eq!(manager.show(id).await.unwrap().etag, blank.etag);
}

#[tokio::test]
async fn an_etag_guards_what_was_seen() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    let seen = manager.show(id).await.unwrap();
    let change = |description: &str, etag: &str| UpdateAgentRequest {
        agent: Some(Agent {
            id,
            description: description.to_owned(),
            etag: etag.to_owned(),
            ..Agent::default()
        }),
    };
    answer(manager.agents().update_agent(change("mine", &seen.etag)).await).unwrap();
    let late = manager.agents().update_agent(change("theirs", &seen.etag)).await;
    assert_eq!(answer(late).unwrap_err().reason, Reason::EtagMismatch);
    assert_eq!(manager.show(id).await.unwrap().description, "mine");
    answer(manager.agents().update_agent(change("any", "")).await).unwrap();

    let delete = DeleteAgentRequest { id, force: true, etag: seen.etag };
    let error = answer(manager.agents().delete_agent(delete).await).unwrap_err();
    assert_eq!(error.reason, Reason::EtagMismatch);
    assert!(!manager.show(id).await.unwrap().status.is_negative());
}

#[tokio::test]
async fn entities_are_edited_the_same_way() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.sync(id, "h1", 2, &["db"], &[has("db", 1)]).await.unwrap();
    let seen = manager.entity("db", 1).await.unwrap();
    let entity = |description: &str, etag: &str| Entity {
        endpoint: "db".to_owned(),
        number: 1,
        description: description.to_owned(),
        labels: labels(&[("a", "1")]),
        etag: etag.to_owned(),
        ..Entity::default()
    };
    let update = UpdateEntityRequest { entity: Some(entity("one", &seen.etag)) };
    let updated = answer(manager.entities().update_entity(update.clone()).await).unwrap();
    assert_eq!(updated.entity.unwrap().description, "one");
    let error = answer(manager.entities().update_entity(update).await).unwrap_err();
    assert_eq!(error.reason, Reason::EtagMismatch);

    let edit =
        EditEntityRequest { entity: Some(entity("two", "")), update_mask: mask(&["description"]) };
    let edited = answer(manager.entities().edit_entity(edit).await).unwrap().entity.unwrap();
    assert_eq!((edited.description.as_str(), edited.labels.len()), ("two", 1));
    let edit = EditEntityRequest { entity: Some(entity("", "")), update_mask: mask(&["agent_id"]) };
    let error = answer(manager.entities().edit_entity(edit).await).unwrap_err();
    assert_eq!(error.reason, Reason::InvalidArgument);
    let missing = Entity { number: 9, ..entity("", "") };
    let edit = EditEntityRequest { entity: Some(missing), update_mask: None };
    let error = answer(manager.entities().edit_entity(edit).await).unwrap_err();
    assert_eq!(error.reason, Reason::EntityNotFound);
}
