//! `entity_token`, and deletions with and without the token.

use goperation_harness::Ledger;
use serde_json::json;

use super::*;
use crate::fleet::{On, script};

const TOML: &str = "[endpoints.game]\n";

/// CALLs a method of the endpoint about an entity.
async fn ask(
    fleet: &Fleet,
    agent: &TestAgent,
    method: &str,
    args: Value,
) -> Result<JsonObject, Error> {
    fleet.call(agent.target("game"), method, args, WAIT).await
}

async fn token(fleet: &Fleet, agent: &TestAgent, args: Value) -> Result<(), Error> {
    ask(fleet, agent, "entity_token", args).await.map(drop)
}

async fn refused_delete(fleet: &Fleet, agent: &TestAgent, args: Value, said: &str) {
    let error = ask(fleet, agent, "delete_entity", args.clone()).await.unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused, "{args}: {error}");
    assert!(error.message.contains(said), "{args}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_the_token_deletes_the_entity() {
    let fleet = Fleet::start(On::Embedded).await;
    let agent = fleet.agent("h1", TOML).await;
    fleet.activate(&agent).await;
    let n = create_entity(&fleet, &agent).await;
    let other = create_entity(&fleet, &agent).await;

    // Never said.
    refused_delete(&fleet, &agent, json!({"entity": n, "token": "a"}), "never said").await;
    token(&fleet, &agent, json!({"entity": n, "token": "a"})).await.unwrap();
    refused_delete(&fleet, &agent, json!({"entity": n}), "somebody else").await;
    refused_delete(&fleet, &agent, json!({"entity": n, "token": "b"}), "somebody else").await;
    // Another entity has its own.
    ask(&fleet, &agent, "delete_entity", json!({"entity": other})).await.unwrap();
    // Of two announcements the later one counts.
    token(&fleet, &agent, json!({"entity": n, "token": "b", "expire": 3600})).await.unwrap();
    refused_delete(&fleet, &agent, json!({"entity": n, "token": "a"}), "somebody else").await;

    // It is there after a restart.
    assert_eq!(agent.stop().await, Exit::Stopped);
    let agent = fleet.agent("h1", TOML).await;
    refused_delete(&fleet, &agent, json!({"entity": n}), "somebody else").await;
    ask(&fleet, &agent, "delete_entity", json!({"entity": n, "token": "b"})).await.unwrap();
    for args in [json!({"entity": n, "token": "b"}), json!({"entity": 99, "token": "b"})] {
        let error = token(&fleet, &agent, args).await.unwrap_err();
        assert_eq!(error.reason, Reason::EntityNotFound, "{error}");
    }
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_expires() {
    let fleet = Fleet::start(On::Embedded).await;
    let agent = fleet.agent("h1", TOML).await;
    fleet.activate(&agent).await;
    let n = create_entity(&fleet, &agent).await;
    for (args, field) in [
        (json!({"entity": n, "token": "t", "expire": 0}), "args.expire"),
        (json!({"entity": n, "token": "t", "expire": 3601}), "args.expire"),
        (json!({"entity": n, "token": ""}), "args.token"),
        (json!({"entity": n, "token": "t".repeat(257)}), "args.token"),
        (json!({"entity": n}), "args"),
        (json!({"entity": n, "token": "t", "exprie": 5}), "args"),
    ] {
        let error = token(&fleet, &agent, args.clone()).await.unwrap_err();
        assert_eq!(error.violations[0].field, field, "{args}: {error}");
    }
    token(&fleet, &agent, json!({"entity": n, "token": "t", "expire": 1})).await.unwrap();
    refused_delete(&fleet, &agent, json!({"entity": n}), "somebody else").await;
    let deleted = async || ask(&fleet, &agent, "delete_entity", json!({"entity": n})).await.is_ok();
    goperation_harness::poll_until(SOON, "the token has expired", deleted).await;
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_failed_keeps_its_token_and_the_program_does_not_see_it() {
    let fleet = Fleet::start(On::Embedded).await;
    let ledger = Ledger::create();
    let gone = fleet.path().join("gone");
    let body = format!("cat >> {}; [ -e {gone:?} ]", ledger.path().display());
    let delete = script(fleet.path(), "delete", &body);
    let toml = format!("[endpoints.game.methods.delete]\nprogram = [{delete:?}]\n");
    let agent = fleet.agent("h1", &toml).await;
    fleet.activate(&agent).await;
    let n = create_entity(&fleet, &agent).await;
    let request = || v1::DeleteEntityRequest {
        endpoint: "game".to_owned(),
        number: n,
        token: "one-time".to_owned(),
        ..v1::DeleteEntityRequest::default()
    };
    let failed = fleet.entities().delete_entity(request()).await.unwrap_err();
    let failed = Error::from_status(&failed);
    assert_eq!(failed.reason, Reason::MethodFailed, "{failed}");
    refused_delete(&fleet, &agent, json!({"entity": n}), "somebody else").await;
    std::fs::write(&gone, "").unwrap();
    fleet.entities().delete_entity(request()).await.unwrap();
    let seen = std::fs::read_to_string(ledger.path()).unwrap();
    assert!(seen.contains("delete") && !seen.contains("one-time"), "{seen}");
    // Done already.
    fleet.entities().delete_entity(request()).await.unwrap();
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_that_delete_with_their_tokens_all_but_one_are_refused_or_late() {
    let fleet = Fleet::start(On::Embedded).await;
    let agent = fleet.agent("h1", TOML).await;
    fleet.activate(&agent).await;
    let n = create_entity(&fleet, &agent).await;
    for name in ["a", "b", "c"] {
        token(&fleet, &agent, json!({"entity": n, "token": name})).await.unwrap();
    }
    let delete = |name: &str| {
        let args = json!({"entity": n, "token": name});
        let (fleet, agent) = (&fleet, &agent);
        async move { ask(fleet, agent, "delete_entity", args).await.map_err(|e| e.reason) }
    };
    let ended = futures::future::join_all(["a", "b", "c"].map(delete)).await;
    assert!(ended[2].is_ok(), "{ended:?}");
    for late in &ended[..2] {
        let reason = late.as_ref().unwrap_err();
        assert!(matches!(reason, Reason::StateRefused | Reason::EntityNotFound), "{ended:?}");
    }
    agent.stop().await;
    fleet.stop().await;
}
