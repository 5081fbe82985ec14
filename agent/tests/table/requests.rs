//! Messages of requests: each is answered to the manager, once, whatever becomes of it and of
//! whom.

use std::{fs, path::Path};

use goperation::{
    MessageId, from_timestamp, now_millis, struct_to_json,
    v1::{RespondRequest, ResponseState, UpgradeState},
};
use goperation_bridge::{Body, Kind, Message, Route, rabbit::CastQueue};
use goperation_harness::{Ledger, poll_until};
use goperation_store::{Options, Row, Scan, SledStore, Store as _, Txn};
use serde_json::json;

use super::*;
use crate::{
    clerk::{Answer, Clerk},
    fleet::{On, script},
};

/// An endpoint whose methods note that they ran: one that answers, one that only reads, one that
/// fails, and one that says how far it is and waits for `go`.
fn game(fleet: &Fleet, ledger: &Ledger) -> String {
    let folder = fleet.path();
    let note = format!("echo \"$GOP_MESSAGE_ID\" >> {}", ledger.path().display());
    let go = folder.join("go").display().to_string();
    let play = r#"echo '{"details": [{"id": 3, "result": "ok"}], "resultcode": 0, "score": 7}'"#;
    let play = script(folder, "play", &format!("{note}\n{play}"));
    let fail = script(folder, "fail", &format!("{note}\necho no luck >&2; exit 3"));
    let wait = format!(
        "{note}\necho first > \"$GOP_PROGRESS\"; echo half > \"$GOP_PROGRESS\"\n\
         while [ ! -e {go} ]; do sleep 0.05; done; echo late > \"$GOP_PROGRESS\""
    );
    let wait = script(folder, "wait", &wait);
    format!(
        "[endpoints.game.methods]\nplay = {{ program = [{play:?}] }}\n\
         look = {{ program = [{play:?}], read_only = true }}\n\
         fail = {{ program = [{fail:?}] }}\nwait = {{ program = [{wait:?}] }}\n\
         again = {{ program = [{wait:?}], idempotent = true }}\n"
    )
}

/// Sends a method to an agent as that request.
async fn ask(fleet: &Fleet, agent: &TestAgent, method: (&str, &str), id: &str, finish: u64) {
    ask_with(fleet, agent, method, id, finish, json!({})).await;
}

async fn ask_with(
    fleet: &Fleet,
    agent: &TestAgent,
    method: (&str, &str),
    id: &str,
    finish: u64,
    args: Value,
) {
    let message = Message {
        namespace: method.0.to_owned(),
        method: method.1.to_owned(),
        finish_time: Some(finish),
        request: Some(id.to_owned()),
        ..Message::new(
            Kind::Cast,
            MessageId::parse("id", id).unwrap(),
            Body::Object(args.as_object().unwrap().clone()),
        )
    };
    fleet.transport.publish(&Route::Cast(agent.address()), &message).await.unwrap();
}

fn soon() -> u64 {
    now_millis() + 60_000
}

/// What is in the outbox of an agent that is down.
async fn outbox(work_dir: &Path) -> Vec<Row> {
    let store = SledStore::open(Options::new(work_dir.join(".gop/store"))).unwrap();
    let rows = store.scan(Scan::prefix("o/")).await.unwrap();
    store.close().await;
    rows
}

fn result(answer: &RespondRequest) -> Value {
    Value::Object(struct_to_json("result", answer.result.as_ref()).unwrap())
}

fn brief(answer: &RespondRequest) -> (ResponseState, &str, i32) {
    (answer.state(), answer.reason.as_str(), answer.resultcode)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_of_a_message_is_an_answer() {
    use ResponseState::{Failed, Silent, Succeeded};
    let (fleet, ledger) = (Fleet::start(On::Embedded).await, Ledger::create());
    let clerk = Clerk::start(&fleet).await;
    let agent = clerk.agent(&fleet, "h1", &game(&fleet, &ledger)).await;
    ask(&fleet, &agent, ("game", "play"), "inactive", soon()).await;
    let answer = clerk.answer("inactive").await;
    assert_eq!(brief(&answer), (Silent, "AGENT_NOT_ACTIVE", -124), "{answer:?}");
    assert_eq!((answer.agent_id, answer.start_time), (agent.wire_id(), None));

    fleet.activate(&agent).await;
    let before = now_millis();
    for (id, method) in [
        ("plays", ("game", "play")),
        ("looks", ("game", "look")),
        ("fails", ("game", "fail")),
        ("unknown", ("game", "dance")),
        ("status", ("manager", "status_agent")),
        ("wrong", ("manager", "dance")),
    ] {
        ask(&fleet, &agent, method, id, soon()).await;
    }
    for (id, end) in [
        ("plays", (Succeeded, "", 0)),
        ("looks", (Succeeded, "", 0)),
        ("fails", (Failed, "METHOD_FAILED", -1)),
        ("unknown", (Silent, "METHOD_NOT_FOUND", -124)),
        ("status", (Succeeded, "", 0)),
        ("wrong", (Silent, "METHOD_NOT_FOUND", -124)),
    ] {
        let answer = clerk.answer(id).await;
        assert_eq!(brief(&answer), end, "{id}: {answer:?}");
        assert_eq!(answer.agent_id, agent.wire_id());
    }
    let plays = clerk.answer("plays").await;
    assert_eq!(result(&plays), json!({"score": 7}));
    assert_eq!((plays.details.len(), plays.details[0].id), (1, 3));
    let time = |time: &Option<_>| from_timestamp(time.as_ref().unwrap());
    let (start, end) = (time(&plays.start_time), time(&plays.end_time));
    assert!(before <= start && start <= end && end <= now_millis(), "{before} {start} {end}");
    let fails = clerk.answer("fails").await;
    assert_eq!(result(&fails)["exit_code"], "3");
    assert_eq!(result(&clerk.answer("status").await)["state"], "ACTIVE");

    // A dead letter says it to nobody.
    assert_eq!(fleet.transport.dead_letters(10).await.unwrap(), []);
    let work_dir = agent.work_dir.clone();
    agent.stop().await;
    assert_eq!(outbox(&work_dir).await, []);
    clerk.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_comes_too_late_is_answered() {
    let (fleet, ledger) = (Fleet::start(On::Embedded).await, Ledger::create());
    let clerk = Clerk::start(&fleet).await;
    let toml = format!("max_in_flight = 1\n{}", game(&fleet, &ledger));
    let agent = clerk.agent(&fleet, "h1", &toml).await;
    fleet.activate(&agent).await;
    ask(&fleet, &agent, ("game", "wait"), "first", soon()).await;
    ledger.wait_for(1, SOON).await;
    let finish = now_millis() + 5000;
    ask(&fleet, &agent, ("game", "play"), "late", finish).await;
    poll_until(SOON, "it is accepted", async || !clerk.said("late").is_empty()).await;
    poll_until(SOON, "its time is over", async || now_millis() > finish).await;
    fs::write(fleet.path().join("go"), "").unwrap();
    let answer = clerk.answer("late").await;
    assert_eq!(brief(&answer), (ResponseState::Silent, "OVER_FINISHTIME", -124), "{answer:?}");
    assert_eq!(ledger.lines().len(), 1);
    assert_eq!(fleet.transport.dead_letters(10).await.unwrap(), []);
    agent.stop().await;
    clerk.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_the_manager_also_over_a_start() {
    let (fleet, ledger) = (Fleet::start(On::Embedded).await, Ledger::create());
    let clerk = Clerk::start(&fleet).await;
    let toml = game(&fleet, &ledger);
    let agent = clerk.agent(&fleet, "h1", &toml).await;
    fleet.activate(&agent).await;
    clerk.set(Answer::Error(Reason::Unavailable));
    for id in ["a", "b", "c", "d", "e", "f"] {
        ask(&fleet, &agent, ("game", "play"), id, soon()).await;
    }
    ask(&fleet, &agent, ("game", "dance"), "g", soon()).await;
    ledger.wait_for(6, SOON).await;
    poll_until(SOON, "it refuses", async || agent.handle.counts().refused > 0).await;
    clerk.has_refused().await;
    let work_dir = agent.work_dir.clone();
    agent.stop().await;
    assert_eq!(outbox(&work_dir).await.len(), 7);

    let agent = clerk.agent(&fleet, "h1", &toml).await;
    clerk.set(Answer::Error(Reason::Unavailable));
    clerk.has_refused().await;
    clerk.set(Answer::Taken);
    for id in ["a", "b", "c", "d", "e", "f", "g"] {
        let answer = clerk.answer(id).await;
        assert_eq!(answer.state() == ResponseState::Succeeded, id != "g", "{answer:?}");
    }
    agent.stop().await;
    assert_eq!(outbox(&work_dir).await, []);
    assert_eq!(ledger.lines().len(), 6);
    clerk.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_the_same_answer_and_has_no_effect() {
    let (fleet, ledger) = (Fleet::start(On::Embedded).await, Ledger::create());
    let clerk = Clerk::start(&fleet).await;
    let agent = clerk.agent(&fleet, "h1", &game(&fleet, &ledger)).await;
    let methods = [("r0", "play"), ("r1", "play"), ("r2", "look"), ("r3", "fail"), ("r4", "dance")];
    let ask_one = async |(id, method): (&str, &str)| {
        ask(&fleet, &agent, ("game", method), id, soon()).await;
    };
    // It is not ACTIVE, and so that is the answer, also later.
    ask_one(methods[0]).await;
    clerk.answer("r0").await;
    fleet.activate(&agent).await;
    for method in &methods[1..] {
        ask_one(*method).await;
        clerk.answer(method.0).await;
    }
    for method in methods {
        ask_one(method).await;
        let answers = clerk.answers(method.0, 2).await;
        assert_eq!(answers[0], answers[1]);
    }
    assert_eq!(clerk.answer("r0").await.reason, "AGENT_NOT_ACTIVE");
    let counts = ledger.counts();
    assert_eq!(counts.len(), 3, "{counts:?}");
    assert!(counts.values().all(|&count| count == 1), "{counts:?}");
    let work_dir = agent.work_dir.clone();
    agent.stop().await;
    assert_eq!(outbox(&work_dir).await, []);
    clerk.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_asks_for_is_dropped_and_what_is_refused_is_kept() {
    let (fleet, ledger) = (Fleet::start(On::Embedded).await, Ledger::create());
    let clerk = Clerk::start(&fleet).await;
    let toml = game(&fleet, &ledger);
    for (id, reason, kept) in [
        ("gone", Reason::RequestNotFound, 0),
        ("kept", Reason::PermissionDenied, 1),
        ("away", Reason::Internal, 1),
        ("wrong", Reason::InvalidArgument, 0),
        ("large", Reason::TooLarge, 0),
    ] {
        let agent = clerk.agent(&fleet, id, &toml).await;
        fleet.activate(&agent).await;
        clerk.set(Answer::Error(reason));
        ask(&fleet, &agent, ("game", "play"), id, soon()).await;
        ledger.wait_for(1, SOON).await;
        clerk.has_refused().await;
        let work_dir = agent.work_dir.clone();
        agent.stop().await;
        assert_eq!(outbox(&work_dir).await.len(), kept, "{reason}");
        fs::write(ledger.path(), "").unwrap();
    }
    clerk.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agents_death_broke_off_is_answered_by_the_next_start() {
    let (fleet, ledger) = (Fleet::start(On::Embedded).await, Ledger::create());
    let clerk = Clerk::start(&fleet).await;
    let toml = format!("drain = \"100ms\"\n{}", game(&fleet, &ledger));
    let agent = clerk.agent(&fleet, "h1", &toml).await;
    fleet.activate(&agent).await;
    ask(&fleet, &agent, ("game", "wait"), "broken", soon()).await;
    ledger.wait_for(1, SOON).await;
    agent.stop().await;
    assert!(clerk.said("broken").iter().all(|said| said.state() < ResponseState::Succeeded));
    let agent = clerk.agent(&fleet, "h1", &toml).await;
    let answer = clerk.answer("broken").await;
    assert_eq!(brief(&answer), (ResponseState::Failed, "INTERRUPTED", -1), "{answer:?}");
    assert_eq!(ledger.lines().len(), 1);
    agent.stop().await;
    clerk.stop().await;
    fleet.stop().await;
}

/// Declared idempotent it is run again, but not after its finish time; then it has been started all
/// the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_is_not_said_not_to_be_when_its_time_is_over() {
    let (fleet, ledger) = (Fleet::start(On::Embedded).await, Ledger::create());
    let clerk = Clerk::start(&fleet).await;
    let toml = format!("drain = \"100ms\"\n{}", game(&fleet, &ledger));
    let agent = clerk.agent(&fleet, "h1", &toml).await;
    fleet.activate(&agent).await;
    let finish = now_millis() + 10_000;
    ask(&fleet, &agent, ("game", "again"), "broken", finish).await;
    ledger.wait_for(1, SOON).await;
    agent.stop().await;
    poll_until(SOON, "the finish time", async || now_millis() > finish).await;
    let agent = clerk.agent(&fleet, "h1", &toml).await;
    let answer = clerk.answer("broken").await;
    assert_eq!(brief(&answer), (ResponseState::Failed, "INTERRUPTED", -1), "{answer:?}");
    assert_eq!(ledger.lines().len(), 1);
    agent.stop().await;
    clerk.stop().await;
    fleet.stop().await;
}

/// Of a request every agent has a message with the same id, and several may be on one host.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_start_of_one_agent_leaves_alone_what_another_one_runs() {
    let (fleet, ledger) = (Fleet::start(On::Embedded).await, Ledger::create());
    let clerk = Clerk::start(&fleet).await;
    let toml = format!("drain = \"100ms\"\n{}", game(&fleet, &ledger));
    let (one, other) =
        (clerk.agent(&fleet, "h1", &toml).await, clerk.agent(&fleet, "h2", &toml).await);
    for agent in [&one, &other] {
        fleet.activate(agent).await;
        ask(&fleet, agent, ("game", "wait"), "both", soon()).await;
    }
    ledger.wait_for(2, SOON).await;
    one.stop().await;
    let one = clerk.agent(&fleet, "h1", &toml).await;
    let answer = clerk.answer("both").await;
    assert_eq!(brief(&answer), (ResponseState::Failed, "INTERRUPTED", -1), "{answer:?}");
    assert_eq!(answer.agent_id, one.wire_id());
    fs::write(fleet.path().join("go"), "").unwrap();
    let answer = clerk.answers("both", 2).await.remove(1);
    assert_eq!(brief(&answer), (ResponseState::Succeeded, "", 0), "{answer:?}");
    assert_eq!(answer.agent_id, other.wire_id());
    one.stop().await;
    other.stop().await;
    clerk.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_and_nothing_after_the_answer() {
    let (fleet, ledger) = (Fleet::start(On::Embedded).await, Ledger::create());
    let clerk = Clerk::start(&fleet).await;
    let agent = clerk.agent(&fleet, "h1", &game(&fleet, &ledger)).await;
    fleet.activate(&agent).await;
    ask(&fleet, &agent, ("game", "wait"), "far", soon()).await;
    poll_until(SOON, "it is half done", async || {
        clerk.said("far").iter().any(|said| said.progress == "half")
    })
    .await;
    fs::write(fleet.path().join("go"), "").unwrap();
    let answer = clerk.answer("far").await;
    assert_eq!(answer.state(), ResponseState::Succeeded, "{answer:?}");
    // A message without a request writes where nobody reads.
    fleet.call(agent.target("game"), "wait", json!({}), SOON).await.unwrap();
    let progress = agent.work_dir.join(".gop/progress");
    assert_eq!(fs::read_dir(progress).unwrap().count(), 0, "nothing is left of it");
    agent.stop().await;
    let said = clerk.said("far");
    assert_eq!(said.last(), Some(&answer), "{said:?}");
    let states: Vec<_> = said.iter().map(RespondRequest::state).collect();
    assert!(states.is_sorted(), "{states:?}");
    clerk.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_answered_after_the_new_start() {
    let fleet = Fleet::start(On::Embedded).await;
    let clerk = Clerk::start(&fleet).await;
    let command = script(fleet.path(), "package", "echo installed");
    let toml = format!("[package]\ncommand = [{command:?}]\n");
    let agent = clerk.agent(&fleet, "h1", &toml).await;
    ask(&fleet, &agent, ("manager", "upgrade_agent"), "up", soon()).await;
    assert_eq!(agent.ended().await, Exit::Restart);
    assert!(clerk.said("up").iter().all(|said| said.state() < ResponseState::Succeeded));
    let agent = clerk.agent(&fleet, "h1", &toml).await;
    let answer = clerk.answer("up").await;
    assert_eq!(answer.state(), ResponseState::Succeeded, "{answer:?}");
    assert_eq!(result(&answer)["exit"], "exit code 0");
    let shown = v1::ShowAgentRequest { id: agent.wire_id() };
    let shown = fleet.agents().show_agent(shown).await.unwrap().into_inner().agent.unwrap();
    assert_eq!(shown.upgrade.unwrap().state(), UpgradeState::Succeeded);
    agent.stop().await;
    clerk.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_several_entities_says_what_became_of_each() {
    let (fleet, ledger) = (Fleet::start(On::Embedded).await, Ledger::create());
    let clerk = Clerk::start(&fleet).await;
    let body = "if [ \"$GOP_ENTITY\" = 2 ]; then echo sick >&2; exit 1; fi; echo '{\"up\": true}'";
    let status = script(fleet.path(), "status", body);
    let toml = format!("{}status = {{ program = [{status:?}] }}\n", game(&fleet, &ledger));
    let agent = clerk.agent(&fleet, "h1", &toml).await;
    fleet.activate(&agent).await;
    for number in 1..=3 {
        assert_eq!(create_entity(&fleet, &agent).await, number);
    }
    let entities = json!({"entities": "1-3,9"});
    ask_with(&fleet, &agent, ("game", "status_entity"), "each", soon(), entities).await;
    let answer = clerk.answer("each").await;
    assert_eq!(brief(&answer), (ResponseState::Failed, "METHOD_FAILED", -1), "{answer:?}");
    assert_eq!(result(&answer), json!({"failed": 2}));
    let details: Vec<_> = answer.details.iter().map(|d| (d.id, d.resultcode)).collect();
    assert_eq!(details, [(1, 0), (2, -1), (3, 0), (9, -1)]);
    ask_with(&fleet, &agent, ("game", "status_entity"), "one", soon(), json!({"entity": 3})).await;
    let answer = clerk.answer("one").await;
    assert_eq!(result(&answer)["result"], json!({"up": true}));
    agent.stop().await;
    clerk.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_for_more_entities_than_the_bound_is_not_starved_and_what_finds_no_room_says_so() {
    // The embedded transport buries what is late before the agent sees it.
    let (fleet, ledger) = (Fleet::start(On::Rabbit(CastQueue::Classic)).await, Ledger::create());
    let clerk = Clerk::start(&fleet).await;
    let toml = format!("max_entity_locks = 2\n{}", game(&fleet, &ledger));
    let agent = clerk.agent(&fleet, "h1", &toml).await;
    fleet.activate(&agent).await;
    for number in 1..=6 {
        assert_eq!(create_entity(&fleet, &agent).await, number);
    }
    let about = |entity: u32| json!({"entity": entity});
    ask_with(&fleet, &agent, ("game", "wait"), "held", soon(), about(4)).await;
    ledger.wait_for(1, SOON).await;
    let all = json!({"entities": "1-3"});
    ask_with(&fleet, &agent, ("game", "play"), "all", soon(), all).await;
    let answer = clerk.answer("all").await;
    assert_eq!(answer.state(), ResponseState::Succeeded, "{answer:?}");

    ask_with(&fleet, &agent, ("game", "wait"), "held-too", soon(), about(5)).await;
    ledger.wait_for(3, SOON).await;
    let finish = now_millis() + 10_000;
    ask_with(&fleet, &agent, ("game", "play"), "one-more", finish, about(6)).await;
    let answer = clerk.answer("one-more").await;
    assert_eq!(brief(&answer), (ResponseState::Silent, "LOCKED", -124), "{answer:?}");
    assert!(answer.message.starts_with("2 entities"), "{answer:?}");

    let many = json!({"entities": "1-10001"});
    ask_with(&fleet, &agent, ("game", "play"), "many", soon(), many).await;
    let answer = clerk.answer("many").await;
    assert_eq!(brief(&answer), (ResponseState::Silent, "INVALID_ARGUMENT", -124), "{answer:?}");
    assert!(clerk.said("held").iter().all(|said| said.state() < ResponseState::Succeeded));
    fs::write(fleet.path().join("go"), "").unwrap();
    clerk.answer("held").await;
    clerk.answer("held-too").await;
    assert_eq!(ledger.lines().len(), 3);
    agent.stop().await;
    clerk.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_busy_until_the_finish_time_says_so() {
    // The embedded transport buries what is late before the agent sees it.
    let fleet = Fleet::start(On::Rabbit(CastQueue::Classic)).await;
    let ledger = Ledger::create();
    let clerk = Clerk::start(&fleet).await;
    let toml = game(&fleet, &ledger);
    let mut agents = Vec::new();
    for (host, busy) in [("soft", AgentStatus::SoftBusy), ("hard", AgentStatus::HardBusy)] {
        let agent = clerk.agent(&fleet, host, &toml).await;
        fleet.activate(&agent).await;
        agent.handle.force_status(busy, "test").await.unwrap();
        agents.push(agent);
    }
    let finish = now_millis() + 10_000;
    for agent in &agents {
        ask(&fleet, agent, ("game", "play"), &agent.host, finish).await;
        let own = format!("{}-own", agent.host);
        ask(&fleet, agent, ("manager", "status_agent"), &own, finish).await;
    }
    for agent in agents {
        for id in [agent.host.clone(), format!("{}-own", agent.host)] {
            let answer = clerk.answer(&id).await;
            let end = (ResponseState::Silent, "AGENT_BUSY", -124);
            assert_eq!(brief(&answer), end, "{answer:?}");
        }
        assert!(agent.handle.counts().resent >= 2);
        agent.stop().await;
    }
    assert_eq!(fleet.transport.dead_letters(10).await.unwrap(), []);
    assert_eq!(ledger.lines().len(), 0);
    clerk.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_read_is_dropped() {
    let (fleet, ledger) = (Fleet::start(On::Embedded).await, Ledger::create());
    let clerk = Clerk::start(&fleet).await;
    let toml = game(&fleet, &ledger);
    let agent = clerk.agent(&fleet, "h1", &toml).await;
    fleet.activate(&agent).await;
    let work_dir = agent.work_dir.clone();
    agent.stop().await;
    let store = SledStore::open(Options::new(work_dir.join(".gop/store"))).unwrap();
    store.commit(Txn::new().put(b"o/broken".to_vec(), b"\xff\xff".to_vec())).await.unwrap();
    store.close().await;
    let agent = clerk.agent(&fleet, "h1", &toml).await;
    ask(&fleet, &agent, ("game", "play"), "good", soon()).await;
    clerk.answer("good").await;
    agent.stop().await;
    assert_eq!(outbox(&work_dir).await, []);
    clerk.stop().await;
    fleet.stop().await;
}
