//! What is done with the processes of entities.

use std::time::Duration;

use goperation::{Error, MessageId, Reason, from_timestamp, v1::*};
use serde_json::{Value, json};
use tonic::Request;

use crate::{
    fake::{args, object, willing},
    harness::{Manager, answer},
};

/// What any of the verbs answers.
type Verbs = (Option<Entity>, Option<EntityProcess>);

const VERBS: [&str; 4] = ["start_entity", "stop_entity", "restart_entity", "kill_entity"];

/// Asks for one of the verbs.
async fn verb(manager: &Manager, method: &str, number: i32) -> Result<Verbs, Error> {
    let endpoint = "db".to_owned();
    let mut client = manager.entities();
    match method {
        "start_entity" => {
            let request = StartEntityRequest { endpoint, number, finish_time: None };
            answer(client.start_entity(request).await).map(|a| (a.entity, a.process))
        }
        "stop_entity" => {
            let request = StopEntityRequest { endpoint, number, ..StopEntityRequest::default() };
            answer(client.stop_entity(request).await).map(|a| (a.entity, a.process))
        }
        "restart_entity" => {
            let request =
                RestartEntityRequest { endpoint, number, ..RestartEntityRequest::default() };
            answer(client.restart_entity(request).await).map(|a| (a.entity, a.process))
        }
        _ => {
            let request = KillEntityRequest { endpoint, number };
            answer(client.kill_entity(request).await).map(|a| (a.entity, a.process))
        }
    }
}

/// Answers with this process from now on.
fn tell(manager: &Manager, process: Value) {
    manager.fake.answer(move |request| {
        if VERBS.contains(&request.method.as_str()) || request.method == "status_entity" {
            return Ok(object(json!({"state": "READY", "process": process, "result": {}})));
        }
        willing(request)
    });
}

async fn ready() -> (Manager, i32) {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &["db"]).await;
    manager.try_create(id, "db").await.unwrap();
    (manager, id)
}

#[tokio::test]
async fn each_verb_is_asked_of_the_agent_and_recorded_as_it_answers() {
    let (manager, _) = ready().await;
    for (since, method) in (1000..).zip(VERBS) {
        tell(
            &manager,
            json!({"state": "RUNNING", "pid": since, "since": since, "memory_bytes": 5,
                "bound": [{"port": 7001, "protocol": "udp", "own": true}]}),
        );
        let (entity, process) = verb(&manager, method, 1).await.unwrap();
        let process = process.unwrap();
        assert_eq!((process.pid, process.memory_bytes, process.bound.len()), (since, 5, 1));
        let recorded = entity.unwrap().process.unwrap();
        assert_eq!((recorded.state(), recorded.pid), (ProcessState::Running, since));
        assert_eq!((recorded.memory_bytes, recorded.bound.len()), (0, 0), "only for the moment");

        let call = &manager.fake.calls(method)[0];
        assert_eq!(call.target.as_ref().unwrap().namespace, "db");
        assert_eq!(args(call), object(json!({"entity": 1})));
        assert!(MessageId::parse("id", &call.message_id).is_ok() && call.finish_time.is_some());
    }
    let manager = manager.crash().await;
    assert_eq!(manager.entity("db", 1).await.unwrap().process.unwrap().pid, 1003);
}

#[tokio::test]
async fn a_status_tells_the_process_and_an_older_answer_changes_nothing() {
    let (manager, _) = ready().await;
    let status = StatusEntityRequest { endpoint: "db".to_owned(), number: 1 };
    tell(&manager, json!({"state": "RUNNING", "since": 2000, "cpu_percent": 1.5}));
    let told = answer(manager.entities().status_entity(status.clone()).await).unwrap();
    assert!((told.process.unwrap().cpu_percent - 1.5).abs() < f64::EPSILON);
    let first = manager.entity("db", 1).await.unwrap();
    assert_eq!(first.process.as_ref().unwrap().state(), ProcessState::Running);

    // Asked again, nothing has changed; and a start that is answered late comes after the crash.
    answer(manager.entities().status_entity(status).await).unwrap();
    tell(&manager, json!({"state": "STARTING", "since": 1000}));
    let (entity, process) = verb(&manager, "start_entity", 1).await.unwrap();
    assert_eq!(process.unwrap().state(), ProcessState::Starting);
    assert_eq!(entity.unwrap(), first);
    assert_eq!(manager.entity("db", 1).await.unwrap(), first);

    // An endpoint without processes of its own.
    manager.fake.agree();
    assert_eq!(verb(&manager, "start_entity", 1).await.unwrap(), (Some(first), None));
}

#[tokio::test]
async fn the_grace_and_the_finish_time_go_along() {
    let (manager, _) = ready().await;
    let finish = goperation::to_timestamp(goperation::now_millis() + 3_600_000);
    let request = StopEntityRequest {
        endpoint: "db".to_owned(),
        number: 1,
        grace: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
        finish_time: Some(finish),
    };
    answer(manager.entities().stop_entity(request).await).unwrap();
    let call = &manager.fake.calls("stop_entity")[0];
    assert_eq!(args(call), object(json!({"entity": 1, "grace_ms": 1500})));
    assert_eq!(from_timestamp(call.finish_time.as_ref().unwrap()), from_timestamp(&finish));

    for seconds in [-1, 3601] {
        let request = RestartEntityRequest {
            endpoint: "manager".to_owned(),
            number: 0,
            grace: Some(prost_types::Duration { seconds, nanos: 0 }),
            finish_time: Some(goperation::to_timestamp(1)),
        };
        let error = answer(manager.entities().restart_entity(request).await).unwrap_err();
        let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["endpoint", "number", "grace", "finish_time"]);
    }
    assert!(manager.fake.calls("restart_entity").is_empty());
}

#[tokio::test]
async fn a_game_is_waited_for_as_long_as_the_caller_waits() {
    let (manager, _) = ready().await;
    let millis = |call: &CallRequest| {
        let wait = goperation::to_duration(call.timeout.as_ref().unwrap()).unwrap();
        wait.as_millis()
    };
    for (given, least, most) in [
        // The manager of these tests has a call_timeout of 5 s.
        (None, 5_000, 5_000),
        (Some(60), 5_001, 59_500),
        (Some(3600), 600_000, 600_000),
    ] {
        let mut request = Request::new(StartEntityRequest {
            endpoint: "db".to_owned(),
            number: 1,
            finish_time: None,
        });
        if let Some(seconds) = given {
            request.set_timeout(Duration::from_secs(seconds));
        }
        answer(manager.entities().start_entity(request).await).unwrap();
        let wait = millis(manager.fake.calls("start_entity").last().unwrap());
        assert!((least..=most).contains(&wait), "{given:?}: {wait}");
    }
    // What answers at once has no need of it.
    let mut request = Request::new(StatusEntityRequest { endpoint: "db".to_owned(), number: 1 });
    request.set_timeout(Duration::from_secs(60));
    answer(manager.entities().status_entity(request).await).unwrap();
    assert_eq!(millis(&manager.fake.calls("status_entity")[0]), 5_000);
}

#[tokio::test]
async fn only_what_is_ready_is_started_and_what_is_stuck_is_killed() {
    let (manager, id) = ready().await;
    manager.fake.refuse(Reason::OutcomeUnknown);
    let delete = DeleteEntityRequest {
        endpoint: "db".to_owned(),
        number: 1,
        ..DeleteEntityRequest::default()
    };
    answer(manager.entities().delete_entity(delete).await).unwrap_err();
    manager.try_create(id, "db").await.unwrap_err();
    manager.fake.agree();
    for (number, state, killable) in [(1, "DELETING", true), (2, "CREATING", false)] {
        for method in VERBS {
            let outcome = verb(&manager, method, number).await;
            if killable && method == "kill_entity" {
                outcome.unwrap();
                continue;
            }
            let error = outcome.unwrap_err();
            assert_eq!(error.reason, Reason::StateRefused, "{method}: {error}");
            assert!(error.message.contains(state), "{method}: {error}");
            assert_eq!(error.metadata["state"], state);
        }
    }
    let error = verb(&manager, "start_entity", 9).await.unwrap_err();
    assert_eq!(error.reason, Reason::EntityNotFound);
}

#[tokio::test]
async fn a_failure_names_agent_endpoint_and_entity() {
    let (manager, id) = ready().await;
    for reason in [
        Reason::MethodNotFound,
        Reason::MethodFailed,
        Reason::PortTaken,
        Reason::AgentOffline,
        Reason::OutcomeUnknown,
    ] {
        manager.fake.refuse(reason);
        for method in VERBS {
            let error = verb(&manager, method, 1).await.unwrap_err();
            assert_eq!(error.reason, reason);
            let sent = manager.fake.calls(method).pop().unwrap().message_id;
            for (key, value) in
                [("agent", id.to_string().as_str()), ("endpoint", "db"), ("entity", "1")]
            {
                assert_eq!(error.metadata[key], value, "{reason} {method}");
            }
            assert_eq!(error.metadata["message_id"], sent);
        }
    }
    assert_eq!(manager.entity("db", 1).await.unwrap().process, None);
}
