//! Requests from their beginning to their end: rows, events and summary say the same, however the
//! agents answer and whatever an operator does meanwhile.

use ResponseState::{Accepted, Failed, Running, Sent, Silent, Succeeded};
use goperation::{Error, Reason, struct_to_json, v1::*};
use prost_types::{Struct, Value, value::Kind};
use serde_json::json;

use crate::{
    harness::{Manager, answer},
    request_fleet::*,
};

fn object(key: &str, text: &str) -> Option<Struct> {
    let value = Value { kind: Some(Kind::StringValue(text.to_owned())) };
    Some(Struct { fields: [(key.to_owned(), value)].into() })
}

fn fields(error: &Error) -> Vec<&str> {
    error.violations.iter().map(|violation| violation.field.as_str()).collect()
}

#[tokio::test]
async fn each_agent_is_tracked_to_its_answer() {
    let manager = Manager::start().await;
    fleet(&manager, 3).await;
    let request = CreateRequestRequest { args: object("text", "hi"), ..asked() };
    let begun = create(&manager, request).await.unwrap();
    let id = begun.id.as_str();
    assert_eq!((begun.state(), begun.resultcode), (RequestState::Running, -127));
    assert_eq!(begun.counts.unwrap().agents, 3);
    assert_eq!(begun.plan.len(), 64);
    assert_eq!(begun.namespace, "manager");
    until_rows(&manager, id, "state = SENT", 3).await;
    let casts = manager.fake.look(|seen| seen.casts.clone());
    let mut hosts: Vec<_> =
        casts.iter().map(|cast| cast.target.as_ref().unwrap().host.as_str()).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["h1", "h2", "h3"]);
    for cast in casts {
        assert_eq!((cast.message_id.as_str(), cast.request_id.as_str()), (id, id));
        assert_eq!(cast.method, "status_agent");
        assert_eq!(cast.args, object("text", "hi"));
    }

    for state in [ResponseState::Accepted, ResponseState::Running] {
        assert!(respond(&manager, word(id, 1, state)).await.unwrap());
    }
    // Nothing of it goes back.
    assert!(!respond(&manager, word(id, 1, ResponseState::Accepted)).await.unwrap());
    let progress =
        RespondRequest { progress: "half".to_owned(), ..word(id, 1, ResponseState::Running) };
    assert!(respond(&manager, progress).await.unwrap());
    let done = RespondRequest {
        result: object("load", "low"),
        details: vec![ResponseDetail { id: 7, ..ResponseDetail::default() }],
        ..word(id, 1, ResponseState::Succeeded)
    };
    assert!(respond(&manager, done.clone()).await.unwrap());
    assert!(!respond(&manager, done).await.unwrap(), "a second answer changes nothing");
    let failed = RespondRequest {
        reason: "METHOD_FAILED".to_owned(),
        message: "no disk".to_owned(),
        ..word(id, 2, ResponseState::Failed)
    };
    assert!(respond(&manager, failed).await.unwrap());
    let given_up = overtime(&manager, id, "1-3").await.unwrap();
    assert_eq!((given_up.state(), given_up.resultcode), (RequestState::Finished, 1));

    let now = rows(&manager, id, "").await.unwrap();
    let brief =
        |row: &AgentResponse| (row.agent_id, row.state(), row.resultcode, row.reason.clone());
    let text = str::to_owned;
    assert_eq!(
        now.iter().map(brief).collect::<Vec<_>>(),
        [
            (1, ResponseState::Succeeded, 0, text("")),
            (2, ResponseState::Failed, -1, text("METHOD_FAILED")),
            (3, ResponseState::Silent, -124, text("OUTCOME_UNKNOWN")),
        ]
    );
    let result = struct_to_json("result", now[0].result.as_ref()).unwrap();
    assert_eq!(serde_json::Value::from(result), json!({"load": "low"}));
    assert_eq!(now[0].details[0].id, 7);
    assert_eq!(now[1].message, "no disk");

    let events = all_events(&manager, id).await;
    assert!(matches!(
        events[0].event,
        Some(watch_request_response::Event::Request(ref request)) if request.counts == begun.counts
    ));
    assert_eq!(states(&events, 1), [Sent, Accepted, Running, Running, Succeeded]);
    assert_eq!(states(&events, 2), [Sent, Failed]);
    assert_eq!(states(&events, 3), [Sent, Silent]);
    let done = events.iter().filter_map(of_agent).find(|event| event.state() == Succeeded).unwrap();
    assert_eq!((&done.result, &done.details), (&now[0].result, &now[0].details));
    assert_eq!(summary(events.last().unwrap()), Some(&show(&manager, id).await.unwrap()));

    // It has done it after all.
    let mut stream = watch(&manager, id, &events.last().unwrap().cursor, true).await.unwrap();
    succeed(&manager, id, 3).await;
    let late = next(&mut stream).await.unwrap().unwrap();
    let late = of_agent(&late).unwrap();
    assert_eq!((late.agent_id, late.state(), late.late), (3, Succeeded, true));
    let ended = show(&manager, id).await.unwrap();
    assert_eq!((ended.state(), ended.resultcode), (RequestState::Finished, 0));
    let counts = ended.counts.unwrap();
    assert_eq!((counts.succeeded, counts.failed, counts.silent, counts.late), (2, 1, 0, 1));
    assert_ne!(ended.etag, given_up.etag);
    assert_eq!(rows(&manager, id, "late = true").await.unwrap()[0].agent_id, 3);
    assert!(!respond(&manager, word(id, 3, Failed)).await.unwrap());
}

#[tokio::test]
async fn only_the_agent_itself_answers_for_it() {
    let manager = Manager::start().await;
    fleet(&manager, 2).await;
    let on = RequestSelection { agents: "1".to_owned(), ..RequestSelection::default() };
    let id = create(&manager, CreateRequestRequest { on: Some(on), ..asked() }).await.unwrap().id;
    until_rows(&manager, &id, "state = SENT", 1).await;
    let done = || word(&id, 1, ResponseState::Succeeded);
    let foreign = RespondRequest { secret: word(&id, 2, done().state()).secret, ..done() };
    let error = respond(&manager, foreign).await.unwrap_err();
    assert_eq!(error.reason, Reason::PermissionDenied);
    let error = respond(&manager, RespondRequest { agent_id: 9, ..done() }).await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentNotFound);
    for state in [ResponseState::Unspecified, ResponseState::Sent, ResponseState::Skipped] {
        let error = respond(&manager, word("x", 0, state)).await.unwrap_err();
        assert_eq!(fields(&error), ["id", "agent_id", "state"]);
    }
    // One that was not asked, and one of a request whose record is gone: nobody waits for it.
    assert!(!respond(&manager, word(&id, 2, ResponseState::Succeeded)).await.unwrap());
    let gone = "0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e77";
    assert!(!respond(&manager, word(gone, 1, ResponseState::Succeeded)).await.unwrap());
    succeed(&manager, &id, 1).await;
    until_state(&manager, &id, RequestState::Finished).await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_is_on_record() {
    let manager = Manager::start().await;
    fleet(&manager, 2).await;
    let bad = CreateRequestRequest {
        namespace: "all".to_owned(),
        method: String::new(),
        on: Some(RequestSelection { agents: "x".to_owned(), ..RequestSelection::default() }),
        rollout: Some(Rollout { max_failures: Some("many".to_owned()), ..Rollout::default() }),
        timeout: seconds(602),
        ..asked()
    };
    let error = create(&manager, bad).await.unwrap_err();
    for field in ["namespace", "method", "on.agents", "rollout.max_failures", "timeout"] {
        assert!(fields(&error).contains(&field), "{field}: {error}");
    }
    let on = RequestSelection { agents: "1-4".to_owned(), ..RequestSelection::default() };
    let never = CreateRequestRequest { on: Some(on), ..asked() };
    let error = create(&manager, never).await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentNotFound);
    assert!(error.message.contains("3-4"), "{error}");

    let planned = PlanRequestRequest {
        method: asked().method,
        on: asked().on,
        ..PlanRequestRequest::default()
    };
    let plan = answer(manager.requests().plan_request(planned).await).unwrap();
    assert_eq!((plan.agents.len(), plan.ready), (2, 2));
    let by = |hash: &str| CreateRequestRequest { plan: hash.to_owned(), ..asked() };
    let error = create(&manager, by("another")).await.unwrap_err();
    assert_eq!((error.reason, &error.metadata["plan"]), (Reason::PlanChanged, &plan.hash));
    let list = IndexRequestsRequest::default();
    assert_eq!(answer(manager.requests().index_requests(list).await).unwrap().total_size, 0);
    assert!(manager.fake.look(|seen| seen.casts.is_empty()));
    assert_eq!(create(&manager, by(&plan.hash)).await.unwrap().plan, plan.hash);

    for (id, reason) in [
        ("x", Reason::InvalidArgument),
        ("0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e77", Reason::RequestNotFound),
    ] {
        assert_eq!(show(&manager, id).await.unwrap_err().reason, reason);
        assert_eq!(rows(&manager, id, "").await.unwrap_err().reason, reason);
        assert_eq!(cancel(&manager, id).await.unwrap_err().reason, reason);
        assert_eq!(overtime(&manager, id, "").await.unwrap_err().reason, reason);
        assert_eq!(watch(&manager, id, "", false).await.unwrap_err().reason, reason);
    }
}

#[tokio::test]
async fn whoever_is_deleted_is_known_to_be_silent_at_once() {
    let manager = Manager::start().await;
    fleet(&manager, 3).await;
    let force = DeleteAgentRequest { id: 2, force: true, etag: String::new() };
    manager.agents().delete_agent(force).await.unwrap();
    let on = RequestSelection { agents: "1-2".to_owned(), ..RequestSelection::default() };
    let id = create(&manager, CreateRequestRequest { on: Some(on), ..asked() }).await.unwrap().id;
    let silent = rows(&manager, &id, "state = SILENT").await.unwrap();
    assert_eq!((silent.len(), silent[0].agent_id), (1, 2));
    assert_eq!((silent[0].reason.as_str(), silent[0].resultcode), ("QUEUE_NOT_FOUND", -124));
    until_rows(&manager, &id, "state = SENT", 1).await;
    succeed(&manager, &id, 1).await;
    let ended = until_state(&manager, &id, RequestState::Finished).await;
    assert_eq!((ended.resultcode, ended.counts.unwrap().silent), (1, 1));
    let events = all_events(&manager, &id).await;
    assert_eq!(states(&events, 2), [ResponseState::Silent]);
    // `all` means those that are there.
    let all = create(&manager, asked()).await.unwrap();
    assert_eq!(all.counts.unwrap().agents, 2);
    let casts = manager.fake.look(|seen| seen.casts.clone());
    let to = |cast: &CastRequest| cast.target.as_ref().unwrap().host.clone();
    assert!(casts.iter().filter(|cast| !cast.request_id.is_empty()).all(|cast| to(cast) != "h2"));
}

#[tokio::test]
async fn a_request_for_nobody_ends_at_once() {
    let manager = Manager::start().await;
    let begun = create(&manager, asked()).await.unwrap();
    let ended = until_state(&manager, &begun.id, RequestState::Finished).await;
    assert_eq!((ended.resultcode, ended.counts.unwrap().agents), (0, 0));
    assert!(summary(all_events(&manager, &begun.id).await.last().unwrap()).is_some());
}

#[tokio::test]
async fn a_cancelled_request_waits_for_what_was_sent() {
    let manager = Manager::start().await;
    fleet(&manager, 3).await;
    let rollout = Some(Rollout { batch: "1".to_owned(), ..Rollout::default() });
    let id = create(&manager, CreateRequestRequest { rollout, ..asked() }).await.unwrap().id;
    until_rows(&manager, &id, "state = SENT", 1).await;
    let cancelled = cancel(&manager, &id).await.unwrap();
    assert_eq!(cancelled.counts.unwrap().skipped, 2);
    assert_eq!(cancelled.end_time, None);
    // Again it changes nothing.
    assert_eq!(cancel(&manager, &id).await.unwrap().etag, cancelled.etag);
    succeed(&manager, &id, 1).await;
    let ended = until_state(&manager, &id, RequestState::Cancelled).await;
    assert!(ended.end_time.is_some());
    assert_eq!(rows(&manager, &id, "state = SKIPPED").await.unwrap().len(), 2);
    assert_eq!(manager.fake.look(|seen| seen.casts.len()), 1);
    let resume = ResumeRequestRequest { id: id.clone(), max_failures: None };
    let error = answer(manager.requests().resume_request(resume).await).unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused);
    assert!(summary(all_events(&manager, &id).await.last().unwrap()).is_some());
}

#[tokio::test]
async fn a_rollout_stops_at_its_limit_and_goes_on_when_it_is_told_to() {
    let manager = Manager::start().await;
    fleet(&manager, 4).await;
    let rollout = Rollout {
        batch: "2".to_owned(),
        canary: 1,
        max_failures: Some("0".to_owned()),
        ..Rollout::default()
    };
    let request = CreateRequestRequest { rollout: Some(rollout), ..asked() };
    let id = create(&manager, request).await.unwrap().id;
    until_rows(&manager, &id, "state = SENT AND agent_id = 1", 1).await;
    assert_eq!(rows(&manager, &id, "state = PENDING").await.unwrap().len(), 3);
    respond(&manager, word(&id, 1, ResponseState::Failed)).await.unwrap();
    until_state(&manager, &id, RequestState::Stopped).await;
    assert_eq!(manager.fake.look(|seen| seen.casts.len()), 1);

    let resume = async |max_failures: Option<&str>| {
        let max_failures = max_failures.map(str::to_owned);
        let request = ResumeRequestRequest { id: id.clone(), max_failures };
        answer(manager.requests().resume_request(request).await)
    };
    let error = resume(Some("few")).await.unwrap_err();
    assert_eq!(fields(&error), ["max_failures"]);
    resume(Some("1")).await.unwrap();
    until_rows(&manager, &id, "state = SENT AND batch = 2", 2).await;
    // One failure from here on is within the new limit.
    respond(&manager, word(&id, 2, ResponseState::Failed)).await.unwrap();
    succeed(&manager, &id, 3).await;
    until_rows(&manager, &id, "state = SENT AND batch = 3", 1).await;
    succeed(&manager, &id, 4).await;
    let ended = until_state(&manager, &id, RequestState::Finished).await;
    let counts = ended.counts.unwrap();
    assert_eq!((counts.succeeded, counts.failed, ended.resultcode), (2, 2, 0));
    assert_eq!(manager.fake.look(|seen| seen.casts.len()), 4);
}

#[tokio::test]
async fn an_agent_without_an_answer_is_given_up_at_its_deadline() {
    let manager = Manager::start().await;
    fleet(&manager, 2).await;
    let finish_timeout = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
    let timeout = Some(prost_types::Duration { seconds: 3, nanos: 100_000_000 });
    let request = CreateRequestRequest { finish_timeout, timeout, ..asked() };
    let begun = create(&manager, request).await.unwrap();
    until_rows(&manager, &begun.id, "state = SENT", 2).await;
    succeed(&manager, &begun.id, 1).await;
    let ended = until_state(&manager, &begun.id, RequestState::Finished).await;
    assert_eq!((ended.resultcode, ended.counts.unwrap().silent), (1, 1));
    let millis = |time: Option<prost_types::Timestamp>| goperation::from_timestamp(&time.unwrap());
    let took = millis(ended.end_time) - millis(begun.request_time);
    assert!(took >= 3_100, "{took}");
}

#[tokio::test]
async fn a_manager_that_dies_takes_its_requests_up_again() {
    let mut manager = Manager::start().await;
    fleet(&manager, 4).await;
    // The broker has two of the messages; whether it has the others nobody can say.
    manager.fake.take_casts(|cast| match cast.target.as_ref().unwrap().host.as_str() {
        "h1" | "h2" => Ok(()),
        _ => Err(Error::new(Reason::OutcomeUnknown, "scripted")),
    });
    let id = create(&manager, asked()).await.unwrap().id;
    until_rows(&manager, &id, "state = SENT", 2).await;
    respond(&manager, word(&id, 1, ResponseState::Accepted)).await.unwrap();
    let before = rows(&manager, &id, "agent_id <= 2").await.unwrap();
    manager.fake.take_casts(|_| Ok(()));
    manager = manager.crash().await;
    online(&manager, 4).await;
    assert_eq!(rows(&manager, &id, "agent_id <= 2").await.unwrap(), before);
    until_rows(&manager, &id, "state = SENT", 3).await;
    // Every try was under the one id, so the agents' journals make one effect of them.
    for cast in manager.fake.look(|seen| seen.casts.clone()) {
        assert_eq!((cast.message_id, cast.request_id), (id.clone(), id.clone()));
    }
    for agent in 1..=4 {
        succeed(&manager, &id, agent).await;
        manager = manager.crash().await;
        online(&manager, 4).await;
        let state = rows(&manager, &id, &format!("agent_id = {agent}")).await.unwrap()[0].state();
        assert_eq!(state, ResponseState::Succeeded, "what was taken stays");
    }
    until_state(&manager, &id, RequestState::Finished).await;
    let events = all_events(&manager, &id).await;
    assert_eq!(events.iter().filter(|event| summary(event).is_some()).count(), 1);
    assert_eq!(states(&events, 1), [Sent, Accepted, Succeeded]);
    for agent in 2..=4 {
        assert_eq!(states(&events, agent), [Sent, Succeeded]);
    }
}
