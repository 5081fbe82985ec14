//! What a host is and does, from the kernel to the manager's history.

use std::collections::BTreeSet;

use goperation::{
    from_timestamp,
    v1::{AgentReport, AgentSnapshot, IndexReportsRequest, ShowAgentRequest},
};
use goperation_harness::poll_until;

use crate::fleet::{Fleet, On, SOON, TestAgent};

const EACH_SECOND: &str = "report_interval = \"1s\"\n[metadata]\nzone = \"a\"\nssd = true\n";

async fn reports(fleet: &Fleet, agent: &TestAgent) -> Vec<AgentReport> {
    let request =
        IndexReportsRequest { id: agent.wire_id(), page_size: 1000, ..Default::default() };
    let answer = fleet.agents().index_reports(request).await.unwrap().into_inner();
    assert_eq!(usize::try_from(answer.total_size), Ok(answer.reports.len()));
    answer.reports
}

fn percents(of: &AgentSnapshot) -> [f64; 6] {
    [of.user, of.nice, of.system, of.iowait, of.irq, of.soft_irq]
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_come_by_themselves_and_are_kept_in_order() {
    let fleet = Fleet::start(On::Embedded).await;
    let agents = [fleet.agent("h1", EACH_SECOND).await, fleet.agent("h2", EACH_SECOND).await];
    for agent in &agents {
        poll_until(SOON, "three reports are there", async || {
            reports(&fleet, agent).await.len() >= 3
        })
        .await;
        let reports = reports(&fleet, agent).await;
        let times: Vec<_> =
            reports.iter().map(|r| from_timestamp(r.time.as_ref().unwrap())).collect();
        assert!(times.is_sorted_by(|newer, older| newer >= older), "newest first: {times:?}");
        let taken: BTreeSet<_> = reports
            .iter()
            .map(|r| from_timestamp(r.snapshot.unwrap().time.as_ref().unwrap()))
            .collect();
        assert_eq!(taken.len(), reports.len(), "each is a snapshot of its own");

        // The first one has no rates.
        for report in &reports[..reports.len() - 1] {
            let snapshot = report.snapshot.unwrap();
            assert!(snapshot.memory_free_mib > 0 && snapshot.disk_free_mib > 0, "{snapshot:?}");
            assert!(snapshot.processes > 0 && snapshot.num_threads > 0, "{snapshot:?}");
            assert!(snapshot.listen > 0 && snapshot.num_fds > 0, "{snapshot:?}");
            // A manager and two agents switch context whenever they do anything at all.
            assert!(snapshot.context > 0.0, "{snapshot:?}");
            let busy: f64 = percents(&snapshot).into_iter().sum();
            assert!((0.0..=100.001).contains(&busy), "{snapshot:?}");
        }
    }

    // The last one is with the agent, too, and what the operator said of the host.
    let request = ShowAgentRequest { id: agents[0].wire_id() };
    let shown = fleet.agents().show_agent(request).await.unwrap().into_inner().agent.unwrap();
    let facts = shown.facts.unwrap();
    assert!(facts.cpu > 0 && facts.memory_mib >= shown.snapshot.unwrap().memory_free_mib);
    assert_eq!((facts.metadata["zone"].as_str(), facts.metadata["ssd"].as_str()), ("a", "true"));
    assert_eq!(facts.metadata["local_ip"], "127.0.0.1");
    for agent in agents {
        agent.stop().await;
    }
    fleet.stop().await;
}
