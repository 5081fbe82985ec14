//! Requests and their rows, as an operator lists and sees them.
//!
//! Invariant: of a long list only a part is in memory at a time, and the keys of what passes; and a
//! page ends before it is larger than a client takes.

use goperation::{
    Error, Reason, Result,
    v1::{
        IndexRequestsRequest, IndexRequestsResponse, IndexResponsesRequest, IndexResponsesResponse,
        NewRequestResponse, Request, RequestSelection, Rollout,
    },
};
use goperation_store::Key;
use prost::Message;

use super::create::{
    DEFAULT_FINISH, LEAST_AFTER_FINISH, LONGEST_EXPIRE, LONGEST_FINISH, USUAL_AFTER_FINISH,
};
use crate::{
    app::App,
    check,
    db::Record,
    filter::{Cell, Field, Filter, Kind, Row},
    keys,
    page::{Ask, Page},
    record::{RequestRecord, RowRecord},
};

/// Records that are read at a time.
const PART: usize = 64;
/// A page ends after that many bytes, so that a client that takes 4 MiB can read it.
const PAGE_BYTES: usize = 2 << 20;

const REQUESTS: &[Field] = &[
    Field("id", Kind::Text),
    Field("state", Kind::Name(&["RUNNING", "STOPPED", "FINISHED", "CANCELLED", "FAILED"])),
    Field("namespace", Kind::Text),
    Field("method", Kind::Text),
    Field("resultcode", Kind::Number),
    Field("agents", Kind::Number),
    Field("failed", Kind::Number),
    Field("silent", Kind::Number),
    Field("request_time", Kind::Number),
];

const RESPONSES: &[Field] = &[
    Field("agent_id", Kind::Number),
    Field("host", Kind::Text),
    Field(
        "state",
        Kind::Name(&[
            "PENDING",
            "SENT",
            "ACCEPTED",
            "RUNNING",
            "SUCCEEDED",
            "FAILED",
            "SILENT",
            "SKIPPED",
        ]),
    ),
    Field("reason", Kind::Text),
    Field("resultcode", Kind::Number),
    Field("batch", Kind::Number),
    Field("late", Kind::Flag),
];

/// The name of a state without what all of them begin with.
fn short<'a>(name: &'a str, prefix: &str) -> Cell<'a> {
    name.strip_prefix(prefix).map_or(Cell::None, Cell::Text)
}

impl Row for RequestRecord {
    fn cell(&self, field: &str) -> Cell<'_> {
        let counts = self.counts.unwrap_or_default();
        match field {
            "id" => Cell::Text(&self.id),
            "state" => short(self.state().as_str_name(), "REQUEST_STATE_"),
            "namespace" => Cell::Text(&self.namespace),
            "method" => Cell::Text(&self.method),
            "resultcode" => Cell::Number(self.resultcode.into()),
            "agents" => Cell::Number(counts.agents.into()),
            "failed" => Cell::Number(counts.failed.into()),
            "silent" => Cell::Number(counts.silent.into()),
            "request_time" => {
                Cell::Number(i64::try_from(self.request_time / 1000).unwrap_or(i64::MAX))
            }
            _ => Cell::None,
        }
    }
}

impl Row for RowRecord {
    fn cell(&self, field: &str) -> Cell<'_> {
        match field {
            "agent_id" => Cell::Number(self.agent.into()),
            "host" => Cell::Text(&self.host),
            "state" => short(self.state().as_str_name(), "RESPONSE_STATE_"),
            "reason" => Cell::Text(&self.reason),
            "resultcode" => Cell::Number(self.resultcode.into()),
            "batch" => Cell::Number(self.batch.into()),
            "late" => Cell::Flag(self.late),
            _ => Cell::None,
        }
    }
}

/// What a list is in order of; nothing else is kept of a row that is not on the page.
type Mark = Vec<u8>;

fn by_time(time: u64, id: &[u8]) -> Mark {
    [time.to_be_bytes().as_slice(), id].concat()
}

fn cut(ask: &Ask, marks: Vec<Mark>, descending: bool) -> Page<Mark> {
    ask.cut(marks.into_iter().map(|mark| (mark.clone(), mark)).collect(), descending)
}

impl App {
    /// The record of a request.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what is no id, `REQUEST_NOT_FOUND`.
    pub(super) async fn request_record(&self, id: &str) -> Result<RequestRecord> {
        check::request_id("id", id)?;
        self.db.get(keys::request(id)).await?.ok_or_else(|| check::no_request(id))
    }

    /// The marks of the records that pass.
    async fn passing<R: Record + Row>(
        &self,
        prefix: Key,
        filter: &Filter,
        mark: impl Fn(&R) -> Mark,
    ) -> Result<Vec<Mark>> {
        let mut found = Vec::new();
        let mut last: Option<Key> = None;
        loop {
            let part = self.db.part::<R>(prefix.clone(), last.as_deref(), PART).await?;
            found.extend(
                part.iter().filter(|(_, row)| filter.passes(row)).map(|(_, row)| mark(row)),
            );
            match part.into_iter().next_back() {
                Some((key, _)) => last = Some(key),
                None => return Ok(found),
            }
        }
    }

    /// What stands on a page, and the token of the next one. What went meanwhile is left out.
    async fn fill<R: Record, A: Message>(
        &self,
        ask: &Ask,
        page: Page<Mark>,
        key: impl Fn(&Mark) -> Option<Key>,
        show: impl Fn(&R) -> A,
    ) -> Result<(Vec<A>, String)> {
        let mut rows = Vec::with_capacity(page.rows.len());
        let (mut bytes, mut last): (usize, &[u8]) = (0, &[]);
        for mark in &page.rows {
            if bytes >= PAGE_BYTES {
                return Ok((rows, ask.token(last)));
            }
            last = mark;
            let Some(key) = key(mark) else { continue };
            if let Some(record) = self.db.get::<R>(key).await? {
                let row = show(&record);
                bytes += row.encoded_len();
                rows.push(row);
            }
        }
        Ok((rows, page.next))
    }

    pub(crate) async fn index_requests(
        &self,
        q: IndexRequestsRequest,
    ) -> Result<IndexRequestsResponse> {
        let ask = Ask::new(q.page_size, &q.page_token, &["requests", &q.filter]);
        let (ask, filter) = check::both(ask, Filter::parse(&q.filter, REQUESTS))?;
        let marks = if q.filter.trim().is_empty() {
            // Nothing needs to be known of those on other pages.
            let marks = self.db.keys(keys::REQUESTS_BY_TIME.to_vec()).await?;
            let marks = marks.iter().filter_map(|key| {
                let (time, id) = keys::after_time(keys::REQUESTS_BY_TIME, key)?;
                Some(by_time(time, id))
            });
            marks.collect()
        } else {
            let mark = |record: &RequestRecord| by_time(record.request_time, record.id.as_bytes());
            self.passing(keys::REQUESTS.to_vec(), &filter, mark).await?
        };
        let page = cut(&ask, marks, true);
        let total_size = page.total;
        let key = |mark: &Mark| {
            let (_, id) = mark.split_first_chunk::<8>()?;
            Some(keys::request(std::str::from_utf8(id).ok()?))
        };
        let (requests, next_page_token) = self.fill(&ask, page, key, RequestRecord::to_api).await?;
        Ok(IndexRequestsResponse { requests, next_page_token, total_size })
    }

    pub(crate) async fn index_responses(
        &self,
        q: IndexResponsesRequest,
        now: u64,
    ) -> Result<IndexResponsesResponse> {
        let ask = Ask::new(q.page_size, &q.page_token, &["responses", &q.id, &q.filter]);
        let (ask, filter) = check::both(ask, Filter::parse(&q.filter, RESPONSES))?;
        let record = self.request_record(&q.id).await?;
        rows_are_kept(&record, now)?;
        let mark = |row: &RowRecord| row.agent.to_be_bytes().to_vec();
        let marks = self.passing(keys::rows_of(&q.id), &filter, mark).await?;
        let page = cut(&ask, marks, false);
        let total_size = page.total;
        let key = |mark: &Mark| Some(keys::row(&q.id, keys::last_number(mark)?));
        let (responses, next_page_token) = self.fill(&ask, page, key, RowRecord::to_api).await?;
        Ok(IndexResponsesResponse { responses, next_page_token, total_size })
    }

    pub(crate) async fn show_request(&self, id: &str) -> Result<Request> {
        Ok(self.request_record(id).await?.to_api())
    }

    pub(crate) fn new_request() -> NewRequestResponse {
        let request = Request {
            namespace: goperation::MANAGER_NAMESPACE.to_owned(),
            on: Some(RequestSelection::default()),
            rollout: Some(Rollout::default()),
            resultcode: crate::record::RESULT_UNKNOWN,
            ..Request::default()
        };
        let constraints = [
            ("namespace", "`manager` for agents' own methods, else an endpoint".to_owned()),
            ("method", "a letter, then letters, digits or underscores, at most 64".to_owned()),
            ("args", "an object; integers within ±2^53".to_owned()),
            (
                "on",
                "all, or numbers of agents as ranges, or an endpoint; and filter, includes"
                    .to_owned(),
            ),
            ("on.entities", "ranges such as 1-3,7, or all; only of an endpoint".to_owned()),
            ("rollout.batch", "a number of agents, or a percentage: 10%".to_owned()),
            ("rollout.max_failures", "a number of agents, or a percentage: 5%".to_owned()),
            (
                "finish_timeout",
                format!(
                    "up to {}s; {}s when not said",
                    LONGEST_FINISH.as_secs(),
                    DEFAULT_FINISH.as_secs()
                ),
            ),
            (
                "timeout",
                format!(
                    "at least {}s more than finish_timeout; {}s more when not said",
                    LEAST_AFTER_FINISH.as_secs(),
                    USUAL_AFTER_FINISH.as_secs()
                ),
            ),
            (
                "expire",
                format!("up to {}s; 0 for as long as the request", LONGEST_EXPIRE.as_secs()),
            ),
            ("plan", "the hash that PlanRequest gave; empty for none".to_owned()),
            ("idempotency_key", "at most 128 printable characters".to_owned()),
        ];
        let constraints = constraints.into_iter().map(|(f, text)| (f.to_owned(), text)).collect();
        NewRequestResponse { request: Some(request), constraints }
    }
}

/// That the rows of a request, and what has happened to them, are still there.
pub(super) fn rows_are_kept(record: &RequestRecord, now: u64) -> Result<()> {
    match record.rows_until() {
        Some(until) if until <= now => Err(rows_are_gone(&record.id)),
        _ => Ok(()),
    }
}

/// That the rows of a request were dropped.
pub(super) fn rows_are_gone(id: &str) -> Error {
    Error::new(
        Reason::StateRefused,
        format!(
            "the rows of request {id} were kept only as long as its `expire` says and are gone; \
             ShowRequest has the totals"
        ),
    )
    .with("request", id)
}

#[cfg(test)]
mod tests {
    use goperation::v1::{RequestCounts, RequestState, ResponseState};

    use super::*;

    fn passes(filter: &str, row: &impl Row, schema: &'static [Field]) -> bool {
        Filter::parse(filter, schema).unwrap().passes(row)
    }

    #[test]
    fn every_field_of_a_request_is_filtered() {
        let record = RequestRecord {
            id: "a".to_owned(),
            namespace: "db".to_owned(),
            method: "echo".to_owned(),
            state: RequestState::Finished.into(),
            resultcode: 1,
            request_time: 7_999,
            counts: Some(RequestCounts { agents: 3, failed: 2, silent: 1, ..Default::default() }),
            ..RequestRecord::default()
        };
        for filter in [
            "id = a AND namespace = db AND method = echo",
            "state = FINISHED AND state = request_state_finished AND state != RUNNING",
            "resultcode > 0 AND agents = 3 AND failed >= 2 AND silent < 2",
            "request_time = 7",
        ] {
            assert!(passes(filter, &record, REQUESTS), "{filter}");
        }
        for filter in ["state = RUNNING", "silent = 0", "method = ech", "request_time > 7"] {
            assert!(!passes(filter, &record, REQUESTS), "{filter}");
        }
    }

    #[test]
    fn every_field_of_a_row_is_filtered() {
        let row = RowRecord {
            agent: 5,
            host: "h5".to_owned(),
            state: ResponseState::Silent.into(),
            reason: "AGENT_OFFLINE".to_owned(),
            resultcode: -124,
            batch: 2,
            late: false,
            ..RowRecord::default()
        };
        let all = "agent_id = 5 AND host = h5 AND state = SILENT AND reason = AGENT_OFFLINE AND \
                   resultcode = -124 AND batch = 2 AND late = false";
        assert!(passes(all, &row, RESPONSES));
        for filter in ["agent_id != 5", "state = FAILED", "late = true", "batch < 2"] {
            assert!(!passes(filter, &row, RESPONSES), "{filter}");
        }
    }

    #[test]
    fn rows_go_when_they_expire() {
        let record = |state: RequestState, expire| RequestRecord {
            state: state.into(),
            end_time: 100,
            expire,
            ..RequestRecord::default()
        };
        assert!(rows_are_kept(&record(RequestState::Finished, 10), 109).is_ok());
        let error = rows_are_kept(&record(RequestState::Finished, 10), 110).unwrap_err();
        assert_eq!(error.reason, Reason::StateRefused);
        assert!(rows_are_kept(&record(RequestState::Finished, 0), 999).is_ok());
        assert!(rows_are_kept(&record(RequestState::Running, 10), 999).is_ok());
    }
}
