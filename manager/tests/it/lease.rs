//! Renewals: who is online, whose clock is off, what the status is.

use std::time::Duration;

use goperation::{AgentStatus, Reason, now_millis, to_timestamp, v1::*};

use crate::harness::{Manager, renewal, secret, until};

#[tokio::test]
async fn online_is_who_has_renewed() {
    let manager = Manager::with(|config| config.lease = Duration::from_millis(300)).await;
    let id = manager.register("h1").await;
    assert!(!manager.show(id).await.unwrap().online);
    let answer = manager.renew(renewal(id, "h1")).await.unwrap();
    assert_eq!(answer.lease.unwrap().nanos, 300_000_000);
    assert!(manager.show(id).await.unwrap().online);
    until("the lease is over", || async { !manager.show(id).await.unwrap().online }).await;

    manager.renew(renewal(id, "h1")).await.unwrap();
    let stopping = RenewAgentRequest { stopping: true, ..renewal(id, "h1") };
    manager.renew(stopping).await.unwrap();
    assert!(!manager.show(id).await.unwrap().online);
}

#[tokio::test]
async fn after_a_restart_everyone_is_offline_until_renewed() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &[]).await;
    manager.renew(renewal(id, "h1")).await.unwrap();
    let manager = manager.restart().await;
    assert!(!manager.show(id).await.unwrap().online);
    // It syncs first: something may have been broken off.
    assert!(manager.renew(renewal(id, "h1")).await.unwrap().sync);
    assert!(manager.show(id).await.unwrap().online);
    manager.sync(id, "h1", 1, &[], &[]).await.unwrap();
    assert!(!manager.renew(renewal(id, "h1")).await.unwrap().sync);
}

#[tokio::test]
async fn generations_find_every_difference() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    assert!(manager.renew(renewal(id, "h1")).await.unwrap().sync);
    let synced = manager.sync(id, "h1", 5, &["db"], &[]).await.unwrap();
    let renew = |generation, manager_generation| RenewAgentRequest {
        generation,
        manager_generation,
        ..renewal(id, "h1")
    };
    let seen = synced.manager_generation;
    assert!(!manager.renew(renew(5, seen)).await.unwrap().sync);
    assert!(manager.renew(renew(6, seen)).await.unwrap().sync);
    assert!(manager.renew(renew(5, seen - 1)).await.unwrap().sync);
    // What the agent does not know that it should know raises the manager's.
    manager.fake.refuse(Reason::OutcomeUnknown);
    manager.try_create(id, "db").await.unwrap_err();
    assert!(manager.renew(renew(5, seen)).await.unwrap().sync);
}

#[tokio::test]
async fn only_the_agent_itself_may_speak_for_it() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    let renewal = RenewAgentRequest { secret: secret("other"), ..renewal(id, "h1") };
    let error = manager.renew(renewal.clone()).await.unwrap_err();
    assert_eq!(error.reason, Reason::PermissionDenied);
    assert!(!manager.show(id).await.unwrap().online);
    let error = manager.sync(id, "other", 1, &[], &[]).await.unwrap_err();
    assert_eq!(error.reason, Reason::PermissionDenied);
    let report =
        ReportAgentRequest { id, secret: secret("other"), ..ReportAgentRequest::default() };
    let status = manager.agents().report_agent(report).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    let error = manager.renew(RenewAgentRequest { id: 99, ..renewal }).await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentNotFound);
}

#[tokio::test]
async fn a_clock_that_is_off_is_shown() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    let ahead =
        RenewAgentRequest { time: Some(to_timestamp(now_millis() + 60_000)), ..renewal(id, "h1") };
    manager.renew(ahead).await.unwrap();
    let agent = manager.show(id).await.unwrap();
    assert!(agent.clock_skew);
    assert!(agent.clock_offset.unwrap().seconds >= 59);

    let measured = RenewAgentRequest {
        clock_offset: Some(prost_types::Duration { seconds: -2, nanos: -500_000_000 }),
        ..renewal(id, "h1")
    };
    manager.renew(measured).await.unwrap();
    let agent = manager.show(id).await.unwrap();
    assert!(!agent.clock_skew);
    let offset = agent.clock_offset.unwrap();
    assert_eq!((offset.seconds, offset.nanos), (-2, -500_000_000));
}

#[tokio::test]
async fn the_last_transition_says_why_and_since_when() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    let transition = |from: AgentStatus, to: AgentStatus, cause: &str, time| AgentTransition {
        from: from.number(),
        to: to.number(),
        cause: cause.to_owned(),
        actor: "agent".to_owned(),
        time: Some(to_timestamp(time)),
    };
    let busy = RenewAgentRequest {
        status: -10,
        transitions: vec![
            transition(AgentStatus::Initializing, AgentStatus::Unactive, "post_start", 1_000),
            transition(AgentStatus::Unactive, AgentStatus::SoftBusy, "journal bound", 2_000),
        ],
        ..renewal(id, "h1")
    };
    manager.renew(busy.clone()).await.unwrap();
    let agent = manager.show(id).await.unwrap();
    assert_eq!((agent.status, agent.state()), (-10, AgentState::Softbusy));
    assert_eq!(agent.status_cause, "journal bound");
    assert_eq!(agent.status_time.unwrap().seconds, 2);

    // The same again is no change, and no change is not written.
    manager.renew(RenewAgentRequest { transitions: vec![], ..busy.clone() }).await.unwrap();
    assert_eq!(manager.show(id).await.unwrap().etag, agent.etag);
    let manager = manager.crash().await;
    assert_eq!(manager.show(id).await.unwrap().status_cause, "journal bound");

    let wrong = RenewAgentRequest { status: 5, ..renewal(id, "h1") };
    assert_eq!(manager.renew(wrong).await.unwrap_err().reason, Reason::InvalidArgument);
}

#[tokio::test]
async fn a_report_is_kept_with_the_record() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    let report = ReportAgentRequest {
        id,
        secret: secret("h1"),
        facts: Some(AgentFacts { cpu: 8, ..AgentFacts::default() }),
        snapshot: Some(AgentSnapshot { load1: 0.5, ..AgentSnapshot::default() }),
    };
    manager.agents().report_agent(report.clone()).await.unwrap();
    // Facts that did not change are not sent again.
    let later = ReportAgentRequest { facts: None, ..report };
    manager.agents().report_agent(later).await.unwrap();
    let manager = manager.crash().await;
    let agent = manager.show(id).await.unwrap();
    assert_eq!(agent.facts.unwrap().cpu, 8);
    assert!((agent.snapshot.unwrap().load1 - 0.5).abs() < f64::EPSILON);
    assert!(agent.report_time.is_some());
}

#[tokio::test]
async fn an_operators_commands_reach_the_agent_and_the_record() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &[]).await;
    let active = ActivateAgentRequest { id, state: 0 };
    let agent = manager.agents().activate_agent(active).await.unwrap().into_inner().agent.unwrap();
    assert_eq!(agent.status, 1);
    let call = &manager.fake.calls("active_agent")[0];
    let args = crate::fake::args(call);
    assert_eq!(
        (args["agent_id"].as_i64(), args["status"].as_i64()),
        (Some(i64::from(id)), Some(1))
    );
    assert_eq!(args["address"], "10.0.0.1");
    let target = call.target.as_ref().unwrap();
    assert_eq!((target.topic.as_str(), target.host.as_str()), ("agent.application", "h1"));

    manager.agents().pause_agent(PauseAgentRequest { id }).await.unwrap();
    assert_eq!(manager.show(id).await.unwrap().status, -10);
    manager.agents().resume_agent(ResumeAgentRequest { id }).await.unwrap();
    assert_eq!(manager.show(id).await.unwrap().status, 1);

    // What was wanted is what the agent starts with, also after a restart of the manager.
    let manager = manager.restart().await;
    let starting = RenewAgentRequest { status: -20, ..renewal(id, "h1") };
    manager.renew(starting).await.unwrap();
    assert_eq!(manager.sync(id, "h1", 1, &[], &[]).await.unwrap().status, 1);
    let wrong = ActivateAgentRequest { id, state: AgentState::Deleted.into() };
    let status = manager.agents().activate_agent(wrong).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn a_refused_command_changes_nothing() {
    let manager = Manager::start().await;
    let id = manager.agent("h1", &[]).await;
    for reason in [Reason::AgentOffline, Reason::StateRefused, Reason::OutcomeUnknown] {
        manager.fake.refuse(reason);
        let active = ActivateAgentRequest { id, state: 0 };
        let error = crate::harness::answer(manager.agents().activate_agent(active).await);
        let error = error.unwrap_err();
        assert_eq!(error.reason, reason);
        assert!(error.metadata.contains_key("message_id"));
        assert_eq!(manager.show(id).await.unwrap().status, 0);
    }
    assert_eq!(manager.sync(id, "h1", 1, &[], &[]).await.unwrap().status, 0);
}
