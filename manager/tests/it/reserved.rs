//! Reserved agents: on record before their hosts are there.

use goperation::{Error, Reason, v1::*};
use prost_types::FieldMask;

use crate::harness::{Manager, answer, renewal, secret, until};

fn reservation(host: &str) -> CreateAgentRequest {
    CreateAgentRequest {
        r#type: "application".to_owned(),
        host: host.to_owned(),
        address: "10.0.0.9".to_owned(),
        ports_ranges: vec!["8000-8999".to_owned()],
        facts: Some(facts(4)),
        reserve: true,
        endpoints: vec!["Game".to_owned(), "db".to_owned()],
        ..CreateAgentRequest::default()
    }
}

fn facts(cpu: i32) -> AgentFacts {
    AgentFacts { cpu, memory_mib: 1024, disk_mib: 2048, ..AgentFacts::default() }
}

async fn create(manager: &Manager, request: CreateAgentRequest) -> Result<Agent, Error> {
    answer(manager.agents().create_agent(request).await).map(|a| a.agent.unwrap())
}

async fn edit(manager: &Manager, agent: Agent, paths: &[&str]) -> Result<Agent, Error> {
    let paths: Vec<_> = paths.iter().map(|&path| path.to_owned()).collect();
    let update_mask = (!paths.is_empty()).then_some(FieldMask { paths });
    let request = EditAgentRequest { agent: Some(agent), update_mask };
    answer(manager.agents().edit_agent(request).await).map(|a| a.agent.unwrap())
}

async fn delete(manager: &Manager, id: i32, etag: &str) -> Result<Agent, Error> {
    let request = DeleteAgentRequest { id, force: false, etag: etag.to_owned() };
    answer(manager.agents().delete_agent(request).await).map(|a| a.agent.unwrap())
}

async fn add(manager: &Manager, agent_id: i32, names: &[&str]) -> Result<Vec<Endpoint>, Error> {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    let request = CreateEndpointsRequest { agent_id, names };
    answer(manager.endpoints().create_endpoints(request).await).map(|a| a.endpoints)
}

async fn remove(manager: &Manager, agent_id: i32, names: &str) -> Result<(), Error> {
    let request = DeleteEndpointsRequest { agent_id, names: names.to_owned() };
    answer(manager.endpoints().delete_endpoints(request).await).map(|_| ())
}

async fn endpoints(manager: &Manager) -> Vec<(String, i32)> {
    let index = manager.endpoints().index_endpoints(IndexEndpointsRequest::default()).await;
    let all = answer(index).unwrap().endpoints;
    all.into_iter().map(|endpoint| (endpoint.name, endpoint.agents)).collect()
}

fn row(name: &str, agents: i32) -> (String, i32) {
    (name.to_owned(), agents)
}

fn changes(manager: &Manager) -> Vec<String> {
    manager.fake.look(|seen| seen.changes.clone())
}

#[tokio::test]
async fn an_agent_is_put_on_record() {
    let manager = Manager::start().await;
    let agent = create(&manager, reservation("H1")).await.unwrap();
    assert_eq!((agent.id, agent.host.as_str(), agent.reserved), (1, "h1", true));
    assert_eq!(agent.endpoints, ["db", "game"]);
    assert_eq!((agent.state(), agent.online), (AgentState::Unactive, false));
    assert_eq!(agent.facts, Some(facts(4)));
    let manager = manager.crash().await;
    assert_eq!(manager.show(1).await.unwrap(), agent);
    assert_eq!(endpoints(&manager).await, [row("db", 1), row("game", 1)]);
    // It has no queues: nobody would take messages from them.
    assert_eq!(changes(&manager), Vec::<String>::new());
    let queues = manager.bridge().index_queues(IndexQueuesRequest::default()).await;
    let queues = answer(queues).unwrap().queues;
    assert!(queues.iter().all(|queue| !queue.name.contains("h1")), "{queues:?}");

    // One number a host and type, whoever has it.
    let error = create(&manager, reservation("h1")).await.unwrap_err();
    assert_eq!((error.reason, &*error.metadata["agent"]), (Reason::AlreadyExists, "1"));
    assert_eq!(manager.register("h2").await, 2);
    let error = create(&manager, reservation("h2")).await.unwrap_err();
    assert_eq!((error.reason, &*error.metadata["agent"]), (Reason::AlreadyExists, "2"));
}

#[tokio::test]
async fn bad_reservations_are_refused_by_name() {
    let manager = Manager::start().await;
    let bad = CreateAgentRequest {
        secret: secret("h1"),
        endpoints: vec!["db".to_owned(), "DB".to_owned(), "all".to_owned()],
        facts: Some(facts(-1)),
        ports_ranges: vec!["80".to_owned()],
        ..reservation("h1")
    };
    let error = create(&manager, bad).await.unwrap_err();
    let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["secret", "endpoints[1]", "endpoints[2]", "facts.cpu", "ports_ranges[0]"]);
    // An agent needs a secret, and brings its own endpoints.
    let bad = CreateAgentRequest { reserve: false, ..reservation("h1") };
    let error = create(&manager, bad).await.unwrap_err();
    let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["secret", "endpoints"]);
}

#[tokio::test]
async fn who_registers_first_takes_the_record_over() {
    let manager = Manager::start().await;
    let reserved = create(&manager, reservation("h1")).await.unwrap();
    let labelled = Agent { id: 1, description: "rack 3".to_owned(), ..Agent::default() };
    edit(&manager, labelled, &["description"]).await.unwrap();

    let taken = manager.try_register("h1", &secret("h1")).await.unwrap();
    assert!(!taken.known);
    let agent = taken.agent.unwrap();
    assert_eq!((agent.id, agent.reserved, agent.facts), (1, false, None));
    assert_eq!((agent.description.as_str(), agent.create_time), ("rack 3", reserved.create_time));
    assert_eq!(agent.ports_ranges, ["7000-7999"]);
    assert_ne!(agent.etag, reserved.etag);
    assert_eq!(endpoints(&manager).await, []);
    // What an agent before it may have left is drained first.
    assert_eq!(changes(&manager), ["delete application.h1", "create application.h1 [] -[]"]);

    // From here on it is an agent as any other.
    let manager = manager.crash().await;
    assert!(manager.try_register("h1", &secret("h1")).await.unwrap().known);
    let error = manager.try_register("h1", &secret("somebody")).await.unwrap_err();
    assert_eq!(error.reason, Reason::IdentityTaken);
    manager.sync(1, "h1", 1, &["cdn"], &[]).await.unwrap();
    assert_eq!(endpoints(&manager).await, [row("cdn", 1)]);
    manager.renew(renewal(1, "h1")).await.unwrap();
    assert!(manager.show(1).await.unwrap().online);
    assert_eq!(manager.register("h2").await, 2);
}

#[tokio::test]
async fn only_one_of_many_claimants_takes_it_over() {
    let manager = Manager::start().await;
    create(&manager, reservation("h1")).await.unwrap();
    let secrets: Vec<_> = (0..8).map(|i| secret(&format!("claimant{i}"))).collect();
    let claims = secrets.iter().map(|secret| manager.try_register("h1", secret));
    let claims = futures::future::join_all(claims).await;
    let (won, lost): (Vec<_>, Vec<_>) = claims.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 7));
    for error in lost {
        assert_eq!(error.unwrap_err().reason, Reason::IdentityTaken);
    }
    assert_eq!(manager.register("h2").await, 2);
}

#[tokio::test]
async fn nothing_that_an_agent_does_works_for_it() {
    let manager = Manager::start().await;
    create(&manager, reservation("h1")).await.unwrap();
    for secret in [secret("h1"), String::new()] {
        let error = manager
            .renew(RenewAgentRequest { secret: secret.clone(), ..renewal(1, "h1") })
            .await
            .unwrap_err();
        assert_eq!(error.reason, Reason::PermissionDenied);
        let sync =
            SyncAgentRequest { id: 1, secret: secret.clone(), ..SyncAgentRequest::default() };
        let error = answer(manager.agents().sync_agent(sync).await).unwrap_err();
        assert_eq!(error.reason, Reason::PermissionDenied);
        let claim = ClaimMessageRequest {
            id: 1,
            secret,
            message_id: "m1".to_owned(),
            ..ClaimMessageRequest::default()
        };
        let error = answer(manager.agents().claim_message(claim).await).unwrap_err();
        assert_eq!(error.reason, Reason::PermissionDenied);
    }
    assert_eq!(manager.show(1).await.unwrap().endpoints, ["db", "game"]);
}

#[tokio::test]
async fn nobody_is_called_for_it() {
    let manager = Manager::start().await;
    create(&manager, reservation("h1")).await.unwrap();
    let mut agents = manager.agents();
    let activate = ActivateAgentRequest { id: 1, state: 0 };
    let free = FreePortsRequest { agent_id: 1, ports: vec![8000], ..FreePortsRequest::default() };
    for error in [
        answer(agents.activate_agent(activate).await).unwrap_err(),
        answer(agents.pause_agent(PauseAgentRequest { id: 1 }).await).unwrap_err(),
        answer(agents.resume_agent(ResumeAgentRequest { id: 1 }).await).unwrap_err(),
        answer(manager.ports().free_ports(free).await).unwrap_err(),
        manager.try_create(1, "db").await.unwrap_err(),
    ] {
        assert_eq!((error.reason, &*error.metadata["agent"]), (Reason::AgentOffline, "1"));
    }
    assert!(manager.fake.look(|seen| seen.calls.is_empty()));
    // No number was used.
    manager.sync(manager.register("h2").await, "h2", 1, &["db"], &[]).await.unwrap();
    assert_eq!(manager.try_create(2, "db").await.unwrap().number, 1);
}

#[tokio::test]
async fn a_report_needs_no_secret_only_while_it_is_reserved() {
    let manager = Manager::start().await;
    create(&manager, reservation("h1")).await.unwrap();
    let report = |secret: &str| ReportAgentRequest {
        id: 1,
        secret: secret.to_owned(),
        facts: Some(facts(64)),
        snapshot: Some(AgentSnapshot { processes: 7, ..AgentSnapshot::default() }),
    };
    let send = |request| async { answer(manager.agents().report_agent(request).await) };
    send(report("")).await.unwrap();
    let agent = manager.show(1).await.unwrap();
    assert_eq!((agent.facts.unwrap().cpu, agent.snapshot.unwrap().processes), (64, 7));
    let error = send(report(&secret("h1"))).await.unwrap_err();
    assert_eq!(error.reason, Reason::PermissionDenied);

    manager.register("h1").await;
    let agent = manager.show(1).await.unwrap();
    assert_eq!((agent.snapshot, agent.report_time), (None, None));
    let error = send(report("")).await.unwrap_err();
    assert_eq!(error.reason, Reason::PermissionDenied);
    send(report(&secret("h1"))).await.unwrap();
}

#[tokio::test]
async fn its_hardware_is_written_until_it_reports_itself() {
    let manager = Manager::start().await;
    create(&manager, reservation("h1")).await.unwrap();
    let given = |cpu| Agent {
        id: 1,
        facts: Some(AgentFacts { version: "1.2".to_owned(), ..facts(cpu) }),
        ports_ranges: vec!["9000-9099".to_owned()],
        description: "rack 3".to_owned(),
        ..Agent::default()
    };
    let edited = edit(&manager, given(16), &["facts.cpu"]).await.unwrap();
    assert_eq!(edited.facts, Some(facts(16)));
    assert_eq!((edited.ports_ranges, edited.description), (vec!["8000-8999".into()], "".into()));
    let edited =
        edit(&manager, given(32), &["facts.version", "ports_ranges", "description"]).await.unwrap();
    let wanted = AgentFacts { version: "1.2".to_owned(), ..facts(16) };
    assert_eq!(edited.facts, Some(wanted));
    assert_eq!((edited.ports_ranges, edited.description), (given(0).ports_ranges, "rack 3".into()));
    let edited = edit(&manager, given(32), &["facts"]).await.unwrap();
    assert_eq!(edited.facts, given(32).facts);
    // Without a mask: what has a value.
    let edited = edit(&manager, given(48), &[]).await.unwrap();
    assert_eq!(edited.facts.unwrap().cpu, 48);

    for (agent, paths, field) in [
        (given(-1), &["facts.cpu"][..], "agent.facts.cpu"),
        (given(-1), &[], "agent.facts.cpu"),
        (
            Agent { ports_ranges: vec!["x".into()], ..given(1) },
            &["ports_ranges"],
            "agent.ports_ranges[0]",
        ),
        (given(1), &["host"], "update_mask"),
        (given(1), &["facts.nonsense"], "update_mask"),
    ] {
        let error = edit(&manager, agent, paths).await.unwrap_err();
        assert_eq!(error.violations[0].field, field, "{error}");
    }
    let stale = Agent { etag: "0-0".to_owned(), ..given(1) };
    let error = edit(&manager, stale, &["facts.cpu"]).await.unwrap_err();
    assert_eq!(error.reason, Reason::EtagMismatch);

    manager.register("h1").await;
    let seen = manager.show(1).await.unwrap();
    for path in ["facts", "facts.cpu", "facts.metadata", "ports_ranges"] {
        let error = edit(&manager, given(1), &["description", path]).await.unwrap_err();
        assert_eq!(error.reason, Reason::StateRefused);
        assert!(error.message.contains("reports it itself"), "{error}");
    }
    assert_eq!(manager.show(1).await.unwrap(), seen);
    // An agent that is sent back as it was shown is no attempt at it.
    let edited = edit(&manager, given(1), &[]).await.unwrap();
    assert_eq!((edited.description.as_str(), edited.facts), ("rack 3", None));
}

#[tokio::test]
async fn it_is_deleted_without_anybody() {
    let manager = Manager::start().await;
    let agent = create(&manager, reservation("h1")).await.unwrap();
    let error = delete(&manager, 1, "0-0").await.unwrap_err();
    assert_eq!(error.reason, Reason::EtagMismatch);
    let deleted = delete(&manager, 1, &agent.etag).await.unwrap();
    assert_eq!(deleted.state(), AgentState::Deleted);
    assert_eq!(delete(&manager, 1, "").await.unwrap().state(), AgentState::Deleted);
    assert!(manager.fake.look(|seen| seen.calls.is_empty() && seen.changes.is_empty()));
    assert_eq!(endpoints(&manager).await, []);
    let manager = manager.crash().await;
    assert_eq!(manager.show(1).await.unwrap().state(), AgentState::Deleted);
    let error = add(&manager, 1, &["db"]).await.unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused);

    // A deleted one is not taken over, and not in the way.
    assert_eq!(manager.register("h1").await, 2);
    let force = DeleteAgentRequest { id: 2, force: true, etag: String::new() };
    answer(manager.agents().delete_agent(force).await).unwrap();
    let again = create(&manager, reservation("h1")).await.unwrap();
    assert_eq!((again.id, again.reserved), (3, true));
    let clean = manager.agents().clean_agent(CleanAgentRequest { id: 1 }).await;
    answer(clean).unwrap();
    assert_eq!(manager.show(1).await.unwrap_err().reason, Reason::AgentNotFound);
    let force = DeleteAgentRequest { id: 3, force: true, etag: String::new() };
    answer(manager.agents().delete_agent(force).await).unwrap();
    assert_eq!(manager.show(3).await.unwrap().state(), AgentState::Deleted);
}

#[tokio::test]
async fn what_a_deleted_agent_left_is_removed_though_its_host_is_reserved() {
    let manager = Manager::start().await;
    manager.register("h1").await;
    manager.fake.look(|seen| seen.down = true);
    let force = DeleteAgentRequest { id: 1, force: true, etag: String::new() };
    answer(manager.agents().delete_agent(force).await).unwrap();
    create(&manager, reservation("h1")).await.unwrap();
    manager.fake.look(|seen| {
        seen.changes.clear();
        seen.down = false;
    });
    until("the queues are removed", || async {
        changes(&manager).first().is_some_and(|change| change == "delete application.h1")
    })
    .await;
    // Nobody has registered: nothing is made.
    until("the delete is over", || async {
        let rows = goperation_store::Scan::prefix("m/delete/");
        goperation_store::Store::scan(manager.store(), rows).await.unwrap().is_empty()
    })
    .await;
    assert!(changes(&manager).iter().all(|change| change == "delete application.h1"));
    let jobs = goperation_store::Scan::prefix("m/queues/");
    assert!(goperation_store::Store::scan(manager.store(), jobs).await.unwrap().is_empty());
    // Who takes it over gets them.
    manager.register("h1").await;
    assert!(manager.fake.look(|seen| seen.queues.contains_key("application.h1")));
}

#[tokio::test]
async fn its_endpoints_are_written_all_or_none() {
    let manager = Manager::start().await;
    let plain = CreateAgentRequest { endpoints: Vec::new(), ..reservation("h1") };
    create(&manager, plain).await.unwrap();
    let made = add(&manager, 1, &["game", "DB"]).await.unwrap();
    let made: Vec<_> = made.iter().map(|e| (e.name.as_str(), e.agents, e.entities)).collect();
    assert_eq!(made, [("db", 1, 0), ("game", 1, 0)]);
    let error = add(&manager, 1, &["cdn", "db"]).await.unwrap_err();
    assert_eq!((error.reason, &*error.metadata["endpoint"]), (Reason::AlreadyExists, "db"));
    let manager = manager.crash().await;
    assert_eq!(manager.show(1).await.unwrap().endpoints, ["db", "game"]);
    for bad in [&[][..], &["db", "db"], &["a-b"]] {
        let error = add(&manager, 1, bad).await.unwrap_err();
        assert_eq!(error.reason, Reason::InvalidArgument, "{bad:?}");
    }
    assert_eq!(add(&manager, 9, &["cdn"]).await.unwrap_err().reason, Reason::AgentNotFound);

    let error = remove(&manager, 1, "db,cdn").await.unwrap_err();
    assert_eq!((error.reason, &*error.metadata["endpoint"]), (Reason::EndpointNotFound, "cdn"));
    assert_eq!(endpoints(&manager).await, [row("db", 1), row("game", 1)]);
    for bad in ["", "db,", "db,db", "a-b"] {
        let error = remove(&manager, 1, bad).await.unwrap_err();
        assert_eq!(error.reason, Reason::InvalidArgument, "{bad:?}");
    }
    remove(&manager, 1, "Game,db").await.unwrap();
    assert_eq!(endpoints(&manager).await, []);
    assert!(manager.show(1).await.unwrap().endpoints.is_empty());
    assert_eq!(remove(&manager, 1, "db").await.unwrap_err().reason, Reason::EndpointNotFound);

    // Any other agent's are in its own configuration.
    let id = manager.agent("h2", &["db"]).await;
    assert_eq!(add(&manager, id, &["game"]).await.unwrap_err().reason, Reason::StateRefused);
    assert_eq!(remove(&manager, id, "db").await.unwrap_err().reason, Reason::StateRefused);
    assert_eq!(endpoints(&manager).await, [row("db", 1)]);
}
