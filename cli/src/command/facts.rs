//! `gop agent facts`: what a host is and does, and what it did.

use std::time::Duration;

use goperation::{
    now_millis, to_timestamp,
    v1::{Agent, AgentReport, AgentSnapshot, IndexReportsRequest, ShowAgentRequest},
};

use super::agent::known;
use crate::{
    args::Facts,
    client::{Client, PAGE, all_pages},
    error::Error,
    hint::Subject,
    output::{Output, fields, table, time},
};

/// Runs the command.
pub(crate) async fn run(client: &Client, output: Output, args: Facts) -> Result<(), Error> {
    let id = args.agent.id;
    if args.history || args.since.is_some() {
        return history(client, output, id, args.since).await;
    }
    let request = client.request(ShowAgentRequest { id });
    let answer = known(client.agents().show_agent(request).await, id)?;
    output.answer(&answer, |a| a.agent.as_ref().map(now).unwrap_or_default())
}

async fn history(
    client: &Client,
    output: Output,
    id: i32,
    since: Option<Duration>,
) -> Result<(), Error> {
    let since = since.map(|since| {
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        to_timestamp(now_millis().saturating_sub(millis))
    });
    let answer = all_pages(|page_token| {
        let request = client.request(IndexReportsRequest {
            id,
            page_size: PAGE,
            page_token,
            since,
            until: None,
        });
        let mut agents = client.agents();
        async move { agents.index_reports(request).await }
    })
    .await
    .map_err(|error| error.about(&Subject::agent(id)))?;
    output.answer(&answer, |a| rows(&a.reports))
}

fn now(agent: &Agent) -> String {
    let facts = agent.facts.clone().unwrap_or_default();
    let mut lines = vec![
        ("agent", format!("{} on {}", agent.id, agent.host)),
        ("reported", time(agent.report_time.as_ref())),
        ("version", facts.version),
        ("processors", facts.cpu.to_string()),
        ("memory", format!("{} MiB", facts.memory_mib)),
        ("disk", format!("{} MiB", facts.disk_mib)),
    ];
    if let Some(now) = &agent.snapshot {
        lines.extend(snapshot(now));
    }
    let mut metadata: Vec<_> = facts.metadata.into_iter().collect();
    metadata.sort_unstable();
    let metadata = metadata.iter().map(|(name, value)| (name.as_str(), value.clone()));
    fields(lines) + "\n" + &fields(metadata)
}

fn snapshot(now: &AgentSnapshot) -> [(&'static str, String); 9] {
    [
        ("memory now", {
            let (free, used) = (now.memory_free_mib, now.memory_used_mib);
            let (cached, buffers) = (now.memory_cached_mib, now.memory_buffers_mib);
            format!(
                "{free} MiB free; {used} used, {cached} cached, {buffers} buffers, {} unused",
                now.memory_unused_mib
            )
        }),
        ("disk now", format!("{} MiB free", now.disk_free_mib)),
        ("load", format!("{:.2} {:.2} {:.2}", now.load1, now.load5, now.load15)),
        (
            "processor time",
            format!(
                "{:.1}% user, {:.1}% nice, {:.1}% system, {:.1}% iowait, {:.1}% irq, {:.1}% soft irq",
                now.user, now.nice, now.system, now.iowait, now.irq, now.soft_irq
            ),
        ),
        (
            "a second",
            format!(
                "{:.0} switches of context, {:.0} interrupts, {:.0} soft interrupts",
                now.context, now.interrupts, now.soft_interrupts
            ),
        ),
        (
            "processes",
            format!(
                "{}: {} running, {} sleeping; {} threads",
                now.processes, now.running, now.sleeping, now.num_threads
            ),
        ),
        ("open files", now.num_fds.to_string()),
        (
            "TCP",
            format!(
                "{} listening, {} opening, {} open, {} closing",
                now.listen, now.syn, now.established, now.closing
            ),
        ),
        ("network", format!("{} received, {} sent", rate(now.received), rate(now.sent))),
    ]
}

fn rows(reports: &[AgentReport]) -> String {
    let headers =
        ["TIME", "LOAD", "CPU", "IOWAIT", "MEMORY", "DISK", "PROCESSES", "TCP", "RECEIVED", "SENT"];
    table(
        headers,
        reports.iter().map(|report| {
            let then = report.snapshot.unwrap_or_default();
            let busy = then.user + then.nice + then.system + then.irq + then.soft_irq;
            [
                time(report.time.as_ref()),
                format!("{:.2}", then.load1),
                format!("{busy:.1}%"),
                format!("{:.1}%", then.iowait),
                format!("{} MiB", then.memory_free_mib),
                format!("{} MiB", then.disk_free_mib),
                then.processes.to_string(),
                then.established.to_string(),
                rate(then.received),
                rate(then.sent),
            ]
        }),
    )
}

/// Bytes a second.
fn rate(bytes: f64) -> String {
    if bytes < 1000.0 {
        return format!("{bytes:.0} B/s");
    }
    let (mut scaled, mut unit) = (bytes / 1024.0, "KiB/s");
    for larger in ["MiB/s", "GiB/s"] {
        if scaled >= 1000.0 {
            (scaled, unit) = (scaled / 1024.0, larger);
        }
    }
    format!("{scaled:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short() {
        for (bytes, shown) in [
            (0.0, "0 B/s"),
            (999.4, "999 B/s"),
            (1536.0, "1.5 KiB/s"),
            (125_000_000.0, "119.2 MiB/s"),
            (5e12, "4656.6 GiB/s"),
        ] {
            assert_eq!(rate(bytes), shown);
        }
    }

    #[test]
    fn an_agent_that_has_not_reported_has_facts() {
        let agent = Agent { id: 3, host: "h3".to_owned(), ..Agent::default() };
        let text = now(&agent);
        assert!(text.starts_with("agent:        3 on h3\nreported:     -\n"), "{text}");
        assert!(!text.contains("load"), "{text}");
        let agent = Agent { snapshot: Some(AgentSnapshot::default()), ..agent };
        assert!(now(&agent).contains("load:"), "{}", now(&agent));
    }
}
