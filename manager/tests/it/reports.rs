//! The history of reports: bounded, in order, and gone with its agent.

use goperation::{
    Error, Reason, from_timestamp, to_timestamp,
    v1::{
        AgentFacts, AgentReport, AgentSnapshot, CleanAgentRequest, CreateAgentRequest,
        DeleteAgentRequest, IndexReportsRequest, IndexReportsResponse, ReportAgentRequest,
    },
};
use goperation_store::{Scan, Store as _};
use prost_types::Timestamp;

use crate::harness::{Manager, answer, secret, until};

/// A report that is told from others by its number of processes.
fn report(id: i32, number: i32) -> ReportAgentRequest {
    let snapshot = AgentSnapshot { processes: number, load1: 0.5, ..AgentSnapshot::default() };
    ReportAgentRequest {
        id,
        secret: secret("h1"),
        facts: None,
        snapshot: Some(AgentSnapshot { time: Some(to_timestamp(1_000)), ..snapshot }),
    }
}

async fn send(manager: &Manager, report: ReportAgentRequest) -> Result<(), Error> {
    answer(manager.agents().report_agent(report).await).map(drop)
}

async fn send_all(manager: &Manager, id: i32, numbers: impl IntoIterator<Item = i32>) {
    for number in numbers {
        send(manager, report(id, number)).await.unwrap();
    }
}

async fn index(
    manager: &Manager,
    request: IndexReportsRequest,
) -> Result<IndexReportsResponse, Error> {
    answer(manager.agents().index_reports(request).await)
}

fn of(id: i32) -> IndexReportsRequest {
    IndexReportsRequest { id, ..IndexReportsRequest::default() }
}

fn numbers(reports: &[AgentReport]) -> Vec<i32> {
    reports.iter().map(|report| report.snapshot.unwrap().processes).collect()
}

async fn kept(manager: &Manager, id: i32) -> Vec<i32> {
    numbers(&index(manager, of(id)).await.unwrap().reports)
}

/// Rows of reports in the store, of all agents.
async fn rows(manager: &Manager) -> usize {
    manager.store().scan(Scan::prefix("m/report")).await.unwrap().len()
}

#[tokio::test]
async fn the_newest_are_kept_and_come_first() {
    let manager = Manager::with(|config| config.reports_kept = 5).await;
    let id = manager.register("h1").await;
    assert!(index(&manager, of(id)).await.unwrap().reports.is_empty());
    let begun = goperation::now_millis();
    send_all(&manager, id, 0..3).await;
    assert_eq!(kept(&manager, id).await, [2, 1, 0]);
    send_all(&manager, id, 3..40).await;
    let answer = index(&manager, of(id)).await.unwrap();
    assert_eq!((numbers(&answer.reports), answer.total_size), (vec![39, 38, 37, 36, 35], 5));
    assert_eq!(rows(&manager).await, 6, "five and the span");
    for report in &answer.reports {
        // The manager's time, not the agent's.
        let time = from_timestamp(report.time.as_ref().unwrap());
        assert!((begun..=goperation::now_millis()).contains(&time), "{report:?}");
        assert_eq!(report.snapshot.unwrap().time, Some(to_timestamp(1_000)));
    }
    let manager = manager.crash().await;
    assert_eq!(kept(&manager, id).await, [39, 38, 37, 36, 35]);
    send_all(&manager, id, 40..42).await;
    assert_eq!(kept(&manager, id).await, [41, 40, 39, 38, 37]);
    assert_eq!(manager.show(id).await.unwrap().snapshot.unwrap().processes, 41);
}

#[tokio::test]
async fn a_flood_from_many_connections_stays_within_the_bound() {
    let manager = Manager::with(|config| config.reports_kept = 7).await;
    let id = manager.register("h1").await;
    let all = (0..60).map(|number| send(&manager, report(id, number)));
    for sent in futures::future::join_all(all).await {
        sent.unwrap();
    }
    let kept = kept(&manager, id).await;
    let mut different = kept.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!((kept.len(), different.len(), rows(&manager).await), (7, 7, 8));
    assert_eq!(manager.show(id).await.unwrap().snapshot.unwrap().processes, kept[0]);
}

#[tokio::test]
async fn only_snapshots_are_kept() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    let facts = Some(AgentFacts { cpu: 8, ..AgentFacts::default() });
    send(&manager, ReportAgentRequest { facts, snapshot: None, ..report(id, 0) }).await.unwrap();
    assert_eq!((kept(&manager, id).await, rows(&manager).await), (vec![], 0));
    assert_eq!(manager.show(id).await.unwrap().facts.unwrap().cpu, 8);
}

#[tokio::test]
async fn without_a_history_the_last_one_is_known() {
    let manager = Manager::with(|config| config.reports_kept = 0).await;
    let id = manager.register("h1").await;
    send_all(&manager, id, 0..3).await;
    assert!(kept(&manager, id).await.is_empty());
    assert_eq!(rows(&manager).await, 1, "the span");
    assert_eq!(manager.show(id).await.unwrap().snapshot.unwrap().processes, 2);
}

#[tokio::test]
async fn a_lower_bound_holds_for_silent_agents_too() {
    let manager = Manager::start().await;
    let (first, second) = (manager.register("h1").await, manager.register("h2").await);
    send_all(&manager, first, 0..9).await;
    let second_reports =
        |number| ReportAgentRequest { secret: secret("h2"), ..report(second, number) };
    for number in 0..2 {
        send(&manager, second_reports(number)).await.unwrap();
    }
    let manager = manager.restart_with(|config| config.reports_kept = 3).await;
    until("the oldest are dropped", || async { rows(&manager).await == 3 + 2 + 2 }).await;
    assert_eq!(kept(&manager, first).await, [8, 7, 6]);
    assert_eq!(kept(&manager, second).await, [1, 0]);
}

#[tokio::test]
async fn since_and_until_are_by_the_managers_time() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    send_all(&manager, id, 0..12).await;
    let all = index(&manager, of(id)).await.unwrap().reports;
    assert_eq!(numbers(&all), (0..12).rev().collect::<Vec<_>>());
    let time = |report: &AgentReport| from_timestamp(report.time.as_ref().unwrap());
    let (low, high) = (time(&all[8]), time(&all[3]));
    for (since, until) in
        [(None, None), (Some(low), None), (None, Some(high)), (Some(low), Some(high))]
    {
        let (from, to) = (since.unwrap_or(0), until.unwrap_or(u64::MAX));
        let wanted: Vec<_> =
            all.iter().filter(|report| (from..to).contains(&time(report))).copied().collect();
        let request = IndexReportsRequest {
            since: since.map(to_timestamp),
            until: until.map(to_timestamp),
            ..of(id)
        };
        let answer = index(&manager, request).await.unwrap();
        assert_eq!(answer.reports, wanted);
        assert_eq!(answer.total_size as usize, wanted.len());
    }
    let after = Some(to_timestamp(goperation::now_millis() + 60_000));
    let none = index(&manager, IndexReportsRequest { since: after, ..of(id) }).await.unwrap();
    assert_eq!((none.reports.len(), none.total_size), (0, 0));
}

#[tokio::test]
async fn pages_join_though_reports_come_and_go_meanwhile() {
    let manager = Manager::with(|config| config.reports_kept = 10).await;
    let id = manager.register("h1").await;
    send_all(&manager, id, 0..10).await;
    let mut seen = Vec::new();
    let mut request = IndexReportsRequest { page_size: 3, ..of(id) };
    for more in 10.. {
        let page = index(&manager, request.clone()).await.unwrap();
        seen.extend(numbers(&page.reports));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
        // Each adds one before the first page and drops one after the last.
        send_all(&manager, id, more..=more).await;
    }
    // 0 and 1 were dropped before they were reached.
    assert_eq!(seen, [9, 8, 7, 6, 5, 4, 3, 2]);

    let other = IndexReportsRequest { page_size: 3, ..of(id) };
    let token = index(&manager, other.clone()).await.unwrap().next_page_token;
    let since = Some(to_timestamp(1));
    let error = index(&manager, IndexReportsRequest { page_token: token, since, ..other }).await;
    assert_eq!(error.unwrap_err().violations[0].field, "page_token");
}

#[tokio::test]
async fn they_go_with_the_record_of_their_agent() {
    let manager = Manager::with(|config| config.reports_kept = 4).await;
    let id = manager.register("h1").await;
    send_all(&manager, id, 0..9).await;
    let force = DeleteAgentRequest { id, force: true, etag: String::new() };
    answer(manager.agents().delete_agent(force).await).unwrap();
    // What was reported of a deleted agent can still be read; nothing is added.
    assert_eq!(kept(&manager, id).await.len(), 4);
    let error = send(&manager, report(id, 9)).await.unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused);
    answer(manager.agents().clean_agent(CleanAgentRequest { id }).await).unwrap();
    assert_eq!(rows(&manager).await, 0);
    let error = index(&manager, of(id)).await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentNotFound);
}

#[tokio::test]
async fn what_was_reported_for_a_reserved_agent_goes_when_it_is_taken_over() {
    let manager = Manager::start().await;
    let reservation = CreateAgentRequest {
        r#type: "application".to_owned(),
        host: "h1".to_owned(),
        reserve: true,
        ..CreateAgentRequest::default()
    };
    answer(manager.agents().create_agent(reservation).await).unwrap();
    let unsigned = ReportAgentRequest { secret: String::new(), ..report(1, 7) };
    send(&manager, unsigned).await.unwrap();
    assert_eq!(kept(&manager, 1).await, [7]);
    assert_eq!(manager.register("h1").await, 1);
    assert_eq!((kept(&manager, 1).await, rows(&manager).await), (vec![], 0));
    send(&manager, report(1, 8)).await.unwrap();
    assert_eq!(kept(&manager, 1).await, [8]);
}

#[tokio::test]
async fn what_cannot_be_reckoned_with_is_refused_by_name() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    let bad = AgentSnapshot {
        time: Some(Timestamp { seconds: i64::MAX, nanos: 0 }),
        load1: f64::NAN,
        user: -1.0,
        sent: f64::INFINITY,
        listen: -1,
        ..AgentSnapshot::default()
    };
    let facts = Some(AgentFacts { cpu: -1, ..AgentFacts::default() });
    let bad = ReportAgentRequest { facts, snapshot: Some(bad), ..report(id, 0) };
    // Who it is comes first.
    let stranger = ReportAgentRequest { secret: secret("other"), ..bad.clone() };
    assert_eq!(send(&manager, stranger).await.unwrap_err().reason, Reason::PermissionDenied);
    let error = send(&manager, bad).await.unwrap_err();
    let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "facts.cpu",
            "snapshot.time",
            "snapshot.load1",
            "snapshot.user",
            "snapshot.sent",
            "snapshot.listen"
        ]
    );
    assert_eq!((kept(&manager, id).await, rows(&manager).await), (vec![], 0));
    assert_eq!(manager.show(id).await.unwrap().report_time, None);
}

#[tokio::test]
async fn bad_questions_are_refused_by_name() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    for (request, fields) in [
        (IndexReportsRequest { page_size: -1, ..of(0) }, &["id", "page_size"][..]),
        (IndexReportsRequest { page_token: "x".to_owned(), ..of(id) }, &["page_token"]),
        (IndexReportsRequest { since: time(9), until: time(8), ..of(id) }, &["until"]),
    ] {
        let error = index(&manager, request).await.unwrap_err();
        let named: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(named, fields);
    }
    let error = index(&manager, of(99)).await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentNotFound);
}
