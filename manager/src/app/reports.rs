//! What agents report of their hosts, and the history of it.
//!
//! Invariant: of an agent at most `reports_kept` reports are on record, the newest ones: the oldest
//! goes in the transaction that adds one. They are numbered in the order in which they came, so
//! that no clock can change their order, and go with the record of their agent.

use goperation::{
    Result, from_timestamp, to_timestamp,
    v1::{
        AgentReport, AgentSnapshot, IndexReportsRequest, IndexReportsResponse, ReportAgentRequest,
        ReportAgentResponse,
    },
};

use super::{App, hardware::check_facts, register::authorise};
use crate::{
    check::{self, Violations},
    db::Tx,
    keys,
    page::Ask,
    record::{AgentRecord, ReportRecord, ReportSpan},
};

/// Most reports that are removed in one transaction that is not about them.
const CHUNK: u64 = 500;
/// The last second that a timestamp can have: of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;

impl App {
    pub(crate) async fn report_agent(
        &self,
        q: ReportAgentRequest,
        now: u64,
    ) -> Result<ReportAgentResponse> {
        let mut bad = Violations::default();
        let id = bad.take(check::number("id", q.id));
        if let Some(facts) = &q.facts {
            check_facts(&mut bad, "facts", facts);
        }
        if let Some(snapshot) = &q.snapshot {
            check_snapshot(&mut bad, snapshot);
        }
        let Some(id) = id else { return Err(bad.error()) };
        let mut bad = bad.finish().err();
        let mut tx = self.db.begin();
        loop {
            let mut record: AgentRecord =
                tx.get(keys::agent(id)).await?.ok_or_else(|| check::no_agent(id))?;
            // Nobody has a secret for a reserved agent: an operator reports what it will have.
            if !record.reserved || !q.secret.is_empty() {
                authorise(&record, &q.secret)?;
            }
            super::not_deleted(&record)?;
            if let Some(bad) = bad.take() {
                return Err(bad);
            }
            if q.facts.is_some() {
                record.facts.clone_from(&q.facts);
            }
            if q.snapshot.is_some() {
                record.snapshot = q.snapshot;
                let report = ReportRecord { time: now, snapshot: q.snapshot };
                self.keep_report(&mut tx, id, &report).await?;
            }
            record.report_time = now;
            record.touch(now);
            tx.put(keys::agent(id), &record);
            if tx.commit().await? {
                return Ok(ReportAgentResponse {});
            }
        }
    }

    async fn keep_report(&self, tx: &mut Tx, id: u32, report: &ReportRecord) -> Result<()> {
        let key = keys::report_span(id);
        let mut span = tx.get::<ReportSpan>(key.clone()).await?.unwrap_or_default();
        tx.put(keys::report(id, span.next), report);
        span.next += 1;
        self.drop_oldest(tx, id, &mut span);
        tx.put(key, &span);
        Ok(())
    }

    /// Drops what is over the bound; only after the bound was lowered that is more than one.
    fn drop_oldest(&self, tx: &mut Tx, id: u32, span: &mut ReportSpan) {
        let over = span.next.saturating_sub(span.first).saturating_sub(self.reports_kept);
        for _ in 0..over.min(CHUNK) {
            tx.delete(keys::report(id, span.first));
            span.first += 1;
        }
    }

    /// Drops the oldest reports of all agents, those of silent ones too, after the bound was
    /// lowered.
    pub(super) async fn trim_reports(&self) -> Result<()> {
        for key in self.db.keys(keys::REPORT_SPANS.to_vec()).await? {
            let Some(id) = keys::last_number(&key) else { continue };
            let mut tx = self.db.begin();
            loop {
                let Some(mut span) = tx.get::<ReportSpan>(key.clone()).await? else { break };
                let before = span.first;
                self.drop_oldest(&mut tx, id, &mut span);
                if span.first == before {
                    break;
                }
                tx.put(key.clone(), &span);
                // Whether or not somebody was faster, it is looked at again.
                tx.commit().await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn index_reports(
        &self,
        q: IndexReportsRequest,
    ) -> Result<IndexReportsResponse> {
        let mut bad = Violations::default();
        let id = bad.take(check::number("id", q.id));
        let since = q.since.as_ref().map_or(0, from_timestamp);
        let until = q.until.as_ref().map_or(u64::MAX, from_timestamp);
        if since > until {
            bad.add("until", "must not be before since");
        }
        let query = ["reports", &q.id.to_string(), &since.to_string(), &until.to_string()];
        let ask = bad.take(Ask::new(q.page_size, &q.page_token, &query));
        let (Some(id), Some(ask)) = (id, ask) else { return Err(bad.error()) };
        bad.finish()?;

        self.agent_record(id).await?;
        let rows = self.db.all::<ReportRecord>(keys::reports_of(id)).await?;
        let rows = rows.into_iter().filter(|(_, report)| (since..until).contains(&report.time));
        let page = ask.cut(rows.collect(), true);
        Ok(IndexReportsResponse {
            reports: page.rows.into_iter().map(to_api).collect(),
            next_page_token: page.next,
            total_size: page.total,
        })
    }
}

fn to_api(report: ReportRecord) -> AgentReport {
    AgentReport { time: Some(to_timestamp(report.time)), snapshot: report.snapshot }
}

/// Drops all reports of an agent.
pub(super) async fn forget(tx: &mut Tx, id: u32) -> Result<()> {
    let key = keys::report_span(id);
    if let Some(span) = tx.get::<ReportSpan>(key.clone()).await? {
        for number in span.first..span.next {
            tx.delete(keys::report(id, number));
        }
        tx.delete(key);
    }
    Ok(())
}

/// Numbers that anybody can reckon with, and a time that JSON can say.
fn check_snapshot(bad: &mut Violations, of: &AgentSnapshot) {
    let time = of.time.unwrap_or_default();
    if !(0..=LAST_SECOND).contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos) {
        bad.add("snapshot.time", "must be from 1970 to 9999");
    }
    for (name, number) in [
        ("load1", of.load1),
        ("load5", of.load5),
        ("load15", of.load15),
        ("context", of.context),
        ("interrupts", of.interrupts),
        ("soft_interrupts", of.soft_interrupts),
        ("user", of.user),
        ("nice", of.nice),
        ("system", of.system),
        ("iowait", of.iowait),
        ("irq", of.irq),
        ("soft_irq", of.soft_irq),
        ("received", of.received),
        ("sent", of.sent),
    ] {
        if !number.is_finite() || number < 0.0 {
            bad.add(format!("snapshot.{name}"), "must be a number from 0");
        }
    }
    for (name, number) in [
        ("memory_free_mib", of.memory_free_mib),
        ("disk_free_mib", of.disk_free_mib),
        ("processes", of.processes),
        ("running", of.running),
        ("sleeping", of.sleeping),
        ("num_threads", of.num_threads),
        ("num_fds", of.num_fds),
        ("memory_used_mib", of.memory_used_mib),
        ("memory_cached_mib", of.memory_cached_mib),
        ("memory_buffers_mib", of.memory_buffers_mib),
        ("memory_unused_mib", of.memory_unused_mib),
        ("listen", of.listen),
        ("syn", of.syn),
        ("established", of.established),
        ("closing", of.closing),
    ] {
        if number < 0 {
            bad.add(format!("snapshot.{name}"), "must not be negative");
        }
    }
}
