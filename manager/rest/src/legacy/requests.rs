//! `/asyncrequests`: lists, and what became of one.

use std::cmp::Ordering;

use goperation::{
    Error, Result,
    v1::{IndexRequestsRequest, Request, RequestState, ShowRequestRequest},
};
use serde_json::{Value, json};

use super::{
    Call,
    clients::{Clients, ask, timed},
    envelope::Envelope,
    fields::Fields,
    respones, rows,
};

/// Rows of a page.
const LIMIT: usize = 200;
/// Rows that the service gives at once, at most.
const ROWS: usize = 1000;
/// MAX_REQUEST_RESULT.
const REQUEST_RESULT: usize = 256;

/// UNFINISH.
const UNFINISHED: i32 = 0;
/// FINISH.
pub(super) const FINISHED: i32 = 1;

type Compare = fn(&Line, &Line) -> Ordering;

/// Columns by which requests can be ordered.
const COLUMNS: [(&str, Compare); 7] = [
    ("request_id", |a, b| a.id.cmp(&b.id)),
    ("resultcode", |a, b| a.resultcode.cmp(&b.resultcode)),
    ("status", |a, b| a.status.cmp(&b.status)),
    ("request_time", |a, b| a.request_time.cmp(&b.request_time)),
    ("finishtime", |a, b| a.finishtime.cmp(&b.finishtime)),
    ("deadline", |a, b| a.deadline.cmp(&b.deadline)),
    ("expire", |a, b| a.expire.cmp(&b.expire)),
];

/// A request in a list.
struct Line {
    id: String,
    resultcode: i32,
    status: i32,
    request_time: u64,
    finishtime: u64,
    deadline: u64,
    expire: i64,
}

impl Line {
    fn of(request: &Request) -> Self {
        Self {
            id: request.id.clone(),
            resultcode: request.resultcode,
            status: status(request),
            request_time: rows::seconds(request.request_time.as_ref()),
            finishtime: rows::seconds(request.finish_time.as_ref()),
            deadline: rows::seconds(request.deadline.as_ref()),
            expire: rows::whole_seconds(request.expire.as_ref()),
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "request_id": self.id,
            "resultcode": self.resultcode,
            "status": self.status,
            "request_time": self.request_time,
            "finishtime": self.finishtime,
            "deadline": self.deadline,
            "expire": self.expire,
        })
    }
}

/// Whether a request has ended.
pub(super) fn status(request: &Request) -> i32 {
    use RequestState as S;
    match request.state() {
        S::Finished | S::Cancelled | S::Failed => FINISHED,
        S::Running | S::Stopped | S::Unspecified => UNFINISHED,
    }
}

/// Which requests are asked for, as the service filters them.
fn filter(body: &mut Fields) -> Result<String> {
    let mut conditions = Vec::new();
    match body.int("status")? {
        None => {}
        Some(0) => conditions
            .push("state != FINISHED AND state != CANCELLED AND state != FAILED".to_owned()),
        Some(1) => conditions.push("state != RUNNING AND state != STOPPED".to_owned()),
        Some(_) => return Err(Error::invalid("status", "must be 0 or 1")),
    }
    for (name, operator) in [("start", ">="), ("end", "<=")] {
        if let Some(time) = body.time(name)? {
            conditions.push(format!("request_time {operator} {time}"));
        }
    }
    Ok(conditions.join(" AND "))
}

fn order(body: &mut Fields) -> Result<Option<Compare>> {
    let Some(column) = body.text("order")? else { return Ok(None) };
    let known = COLUMNS.iter().find(|(name, _)| *name == column);
    known.map(|(_, compare)| Some(*compare)).ok_or_else(|| {
        let columns = COLUMNS.map(|(name, _)| name).join(", ");
        Error::invalid("order", format!("must be one of {columns}"))
    })
}

/// Requests that pass, newest first: all, or at least `enough` of them if there are so many.
async fn lines(clients: &Clients, filter: String, enough: Option<usize>) -> Result<Vec<Line>> {
    let page_size = enough.map_or(ROWS, |enough| enough.min(ROWS));
    let mut query = IndexRequestsRequest {
        page_size: i32::try_from(page_size).unwrap_or_default(),
        page_token: String::new(),
        filter,
    };
    let mut lines = Vec::new();
    loop {
        let page = ask(clients.requests().index_requests(timed(query.clone()))).await?;
        lines.extend(page.requests.iter().map(Line::of));
        query.page_token = page.next_page_token;
        if query.page_token.is_empty() || enough.is_some_and(|enough| lines.len() >= enough) {
            return Ok(lines);
        }
    }
}

/// Newest first, in which lines are, unless something else is said.
fn arrange(lines: &mut [Line], order: Option<Compare>, descending: bool) {
    if !descending {
        lines.reverse();
    }
    if let Some(compare) = order {
        lines.sort_by(|a, b| if descending { compare(b, a) } else { compare(a, b) });
    }
}

pub(super) async fn index(mut call: Call) -> Result<Envelope> {
    let body = &mut call.body;
    let order = order(body)?;
    let descending = body.flag("desc", order.is_none())?;
    let number = body.count("page_num")?.unwrap_or_default().unsigned_abs();
    let filter = filter(body)?;
    let first = usize::try_from(number).unwrap_or(usize::MAX).saturating_mul(LIMIT);
    let as_they_are = order.is_none() && descending;
    let enough = as_they_are.then(|| first.saturating_add(LIMIT));
    let mut lines = lines(&call.clients, filter, enough).await?;
    arrange(&mut lines, order, descending);
    let rows: Vec<_> = lines.iter().skip(first).take(LIMIT).map(Line::to_json).collect();
    if number > 0 && rows.is_empty() {
        return Err(Error::invalid("page_num", "is past the last page"));
    }
    Ok(Envelope::new("list async requests success", rows).on_page(number))
}

/// The request that the path names.
pub(super) async fn named(call: &Call) -> Result<Request> {
    let request = ShowRequestRequest { id: call.param("request_id").to_owned() };
    let shown = ask(call.clients.requests().show_request(timed(request))).await?;
    Ok(shown.request.unwrap_or_default())
}

/// What a request says in words; `kept` is whether its rows are still there.
fn words(request: &Request, kept: bool) -> String {
    let counts = request.counts.unwrap_or_default();
    let said = if request.result.is_empty() {
        let answered = counts.agents - counts.pending - counts.running;
        format!("{answered} of {} agents have answered", counts.agents)
    } else {
        request.result.clone()
    };
    let note = match rows::whole_seconds(request.expire.as_ref()) {
        0 => String::new(),
        _ if !kept => "; its responses were in cache and have expired".to_owned(),
        seconds => format!("; its responses are in cache for {seconds} seconds after its end"),
    };
    format!("{}{note}", respones::cut(&said, REQUEST_RESULT.saturating_sub(note.len())))
}

pub(super) async fn show(mut call: Call) -> Result<Envelope> {
    let with_agents = call.body.flag("agents", true)?;
    let with_details = call.body.flag("details", false)?;
    let request = named(&call).await?;
    let responses = if with_agents {
        respones::of(&call.clients, &request, with_details).await?
    } else {
        Some(Vec::new())
    };
    let row = json!({
        "request_id": request.id,
        "request_time": rows::seconds(request.request_time.as_ref()),
        "finishtime": rows::seconds(request.finish_time.as_ref()),
        "deadline": rows::seconds(request.deadline.as_ref()),
        "status": status(&request),
        "expire": rows::whole_seconds(request.expire.as_ref()),
        "resultcode": request.resultcode,
        "result": words(&request, responses.is_some()),
        "respones": responses.unwrap_or_default(),
    });
    Ok(Envelope::new("show async request success", vec![row]))
}

#[cfg(test)]
mod tests {
    use goperation::v1::RequestCounts;

    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::new(value.as_object().unwrap().clone())
    }

    fn line(id: &str, resultcode: i32, request_time: u64) -> Line {
        let request = Request { id: id.to_owned(), resultcode, ..Request::default() };
        Line { request_time, ..Line::of(&request) }
    }

    #[test]
    fn lists_are_filtered_as_they_are_asked_for() {
        for (body, want) in [
            (json!({}), ""),
            (json!({"status": 1}), "state != RUNNING AND state != STOPPED"),
            (
                json!({"status": "0"}),
                "state != FINISHED AND state != CANCELLED AND state != FAILED",
            ),
            (
                json!({"start": 1_700_000_000, "end": "1700000060"}),
                "request_time >= 1700000000 AND request_time <= 1700000060",
            ),
            (json!({"start": "2023-11-14 22:13:20"}), "request_time >= 1700000000"),
            (json!({"end": "2023-11-14T23:13:20+01:00"}), "request_time <= 1700000000"),
        ] {
            assert_eq!(filter(&mut fields(body.clone())).unwrap(), want, "{body}");
        }
        for bad in [
            json!({"status": 2}),
            json!({"start": "yesterday"}),
            json!({"end": -1}),
            json!({"end": "2023-13-14 22:13:20"}),
            json!({"start": [1]}),
        ] {
            assert!(filter(&mut fields(bad.clone())).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_column_orders() {
        let ordered = |body: Value| {
            let mut body = fields(body);
            let order = order(&mut body).unwrap();
            let descending = body.flag("desc", order.is_none()).unwrap();
            // As the service gives them: newest first.
            let mut lines = vec![line("b", 0, 9), line("c", 1, 5), line("a", 0, 1)];
            arrange(&mut lines, order, descending);
            lines.into_iter().map(|line| line.id).collect::<String>()
        };
        for (body, want) in [
            (json!({}), "bca"),
            (json!({"desc": false}), "acb"),
            (json!({"order": "request_id"}), "abc"),
            (json!({"order": "request_id", "desc": true}), "cba"),
            (json!({"order": "request_time"}), "acb"),
            (json!({"order": "resultcode", "desc": true}), "cba"),
            (json!({"order": "resultcode"}), "abc"),
        ] {
            assert_eq!(ordered(body.clone()), want, "{body}");
        }
        assert!(order(&mut fields(json!({"order": "result"}))).is_err());
    }

    #[test]
    fn words_are_cut_and_say_where_responses_are() {
        let mut request = Request {
            counts: Some(RequestCounts { agents: 5, pending: 1, running: 2, ..Default::default() }),
            ..Request::default()
        };
        assert_eq!(words(&request, true), "2 of 5 agents have answered");
        request.result = "x".repeat(300);
        assert_eq!(words(&request, true), "x".repeat(256));
        request.expire = Some(prost_types::Duration { seconds: 180, nanos: 0 });
        let said = words(&request, true);
        assert!(said.ends_with("in cache for 180 seconds after its end"), "{said}");
        assert_eq!(said.len(), 256);
        assert!(words(&request, false).ends_with("have expired"));
    }
}
