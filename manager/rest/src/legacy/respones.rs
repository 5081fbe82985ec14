//! Rows of agents in a request, as `respones` had them.
//!
//! Invariant: an agent has a row when it has ended, whatever became of it; texts are no longer than
//! their columns were.
//!
//! The old system kept the responses of a request with `expire` in its cache, and others in its
//! database. From the cache a detail came as it was, and not at all when it was not asked for; from
//! the database `details` was always there, and each result a text.

use goperation::{
    AgentStatus, JsonObject, MANAGER_NAMESPACE, Reason, Result, struct_to_json,
    v1::{
        AgentResponse, IndexResponsesRequest, Request, RequestState, ResponseDetail, ResponseState,
    },
};
use prost_types::Struct;
use serde_json::{Value, json};

use super::{
    clients::{self, Clients, ask, timed},
    commands::STATUS,
    rows,
};

/// MAX_AGENT_RESULT.
const AGENT_RESULT: usize = 1024;
/// MAX_DETAIL_RESULT.
const DETAIL_RESULT: usize = 8192;
/// The key of a result that is its text.
const RESULT: &str = "result";

/// How rows are shown.
#[derive(Debug, Clone, Copy)]
struct Form {
    /// Details are asked for.
    details: bool,
    /// As from the cache.
    cached: bool,
    /// The agents were asked for their status.
    status: bool,
    /// It failed before anything was sent.
    failed: bool,
}

/// The rows of a request, in order of the agents' numbers; none when they are not kept any more.
pub(super) async fn of(
    clients: &Clients,
    request: &Request,
    details: bool,
) -> Result<Option<Vec<Value>>> {
    let form = Form {
        details,
        cached: rows::whole_seconds(request.expire.as_ref()) > 0,
        status: request.namespace == MANAGER_NAMESPACE && request.method == STATUS,
        failed: request.state() == RequestState::Failed,
    };
    let found = clients::whole(|page_size, page_token| {
        let query = IndexResponsesRequest {
            id: request.id.clone(),
            page_size,
            page_token,
            filter: String::new(),
        };
        let mut client = clients.requests();
        async move {
            let page = ask(client.index_responses(timed(query))).await?;
            let rows = page.responses.into_iter().filter(has_ended).map(|row| form.show(row));
            Ok((rows.collect(), page.next_page_token))
        }
    })
    .await;
    match found {
        Ok(rows) => Ok(Some(rows)),
        Err(error) if error.reason == Reason::StateRefused => Ok(None),
        Err(error) => Err(error),
    }
}

fn has_ended(row: &AgentResponse) -> bool {
    use ResponseState as S;
    matches!(row.state(), S::Succeeded | S::Failed | S::Silent | S::Skipped)
}

impl Form {
    fn show(self, row: AgentResponse) -> Value {
        let result = object(row.result.as_ref());
        let agent_time = rows::seconds(row.end_time.as_ref());
        let server_time = row.server_time.as_ref().or(row.end_time.as_ref());
        let mut shown = json!({
            "agent_id": row.agent_id,
            "server_time": rows::seconds(server_time),
            "agent_time": agent_time,
            "resultcode": row.resultcode,
            "result": cut(&text(&row, &result, self.failed), AGENT_RESULT),
        });
        if self.details || !self.cached {
            shown["details"] = Value::Array(self.details(&row, &result));
        }
        shown
    }

    fn details(self, row: &AgentResponse, result: &JsonObject) -> Vec<Value> {
        if !self.details {
            return Vec::new();
        }
        let detail = |(id, code, result): (i32, i32, Value)| {
            let result = if self.cached { result } else { as_text(&result).into() };
            json!({"detail_id": id, "resultcode": code, "result": result})
        };
        if self.status && row.details.is_empty() && row.state() == ResponseState::Succeeded {
            return endpoints(result).into_iter().map(detail).collect();
        }
        let known = |detail: &ResponseDetail| {
            let result = detail.result.clone().map(|value| (RESULT.to_owned(), value));
            let result = object(Some(&Struct { fields: result.into_iter().collect() }));
            (detail.id, detail.resultcode, result.get(RESULT).cloned().unwrap_or_default())
        };
        row.details.iter().map(known).map(detail).collect()
    }
}

/// A result; what cannot be read says why.
fn object(result: Option<&Struct>) -> JsonObject {
    struct_to_json(RESULT, result)
        .unwrap_or_else(|error| JsonObject::from_iter([(RESULT.to_owned(), error.message.into())]))
}

/// What an agent says of its status, as the detail of each of its endpoints.
fn endpoints(status: &JsonObject) -> Vec<(i32, i32, Value)> {
    let names = status.get("endpoints").and_then(Value::as_array).cloned().unwrap_or_default();
    let entities = |name: &Value| {
        let counts = status.get("entities").and_then(Value::as_object);
        counts.zip(name.as_str()).and_then(|(counts, name)| counts.get(name)).cloned()
    };
    // All of them share one lock, and the gate is the agent's.
    let locked =
        status.get("lock").and_then(|lock| lock.get("holder")).is_some_and(|h| !h.is_null());
    let number = status.get("status").and_then(Value::as_i64).unwrap_or_default();
    let frozen = number <= AgentStatus::SoftBusy.number().into();
    let detail = |name: &Value| {
        json!({
            "endpoint": name,
            "entitys": entities(name).unwrap_or_else(|| 0.into()),
            "locked": i32::from(locked),
            "frozen": frozen,
        })
    };
    (0..).zip(names.iter()).map(|(id, name)| (id, 0, detail(name))).collect()
}

/// What a row says in words.
fn text(row: &AgentResponse, result: &JsonObject, failed: bool) -> String {
    let AgentResponse { reason, message, .. } = row;
    let said = result.get(RESULT).and_then(Value::as_str);
    match (row.state(), said) {
        (ResponseState::Silent, _) if message.is_empty() => reason.clone(),
        (ResponseState::Silent, _) => format!("{reason}: {message}"),
        (ResponseState::Skipped, _) if failed => "not sent to: pre_run failed".to_owned(),
        (ResponseState::Skipped, _) => "not sent to: the request was cancelled".to_owned(),
        (_, Some(said)) => said.to_owned(),
        (ResponseState::Failed, None) if reason == Reason::MethodFailed.as_str() => message.clone(),
        (ResponseState::Failed, None) => format!("{reason}: {message}"),
        (_, None) if !message.is_empty() => message.clone(),
        (_, None) if result.is_empty() => "success".to_owned(),
        (_, None) => Value::Object(result.clone()).to_string(),
    }
}

/// A detail's result as its column had it.
fn as_text(result: &Value) -> String {
    match result {
        Value::Null => String::new(),
        Value::String(text) => cut(text, DETAIL_RESULT),
        other => cut(&other.to_string(), DETAIL_RESULT),
    }
}

/// At most so many characters.
pub(super) fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use goperation::{json_to_struct, to_timestamp};

    use super::*;

    fn to_struct(value: Value) -> Struct {
        json_to_struct("x", value.as_object().unwrap()).unwrap()
    }

    fn row(state: ResponseState, resultcode: i32) -> AgentResponse {
        AgentResponse {
            agent_id: 3,
            state: state.into(),
            resultcode,
            end_time: Some(to_timestamp(7_900)),
            ..AgentResponse::default()
        }
    }

    const DB: Form = Form { details: true, cached: false, status: false, failed: false };

    #[test]
    fn an_answer_from_the_database_and_from_the_cache() {
        let value = |value: Value| to_struct(json!({ "r": value })).fields.remove("r");
        let answered = AgentResponse {
            result: Some(to_struct(json!({"result": "start success", "n": 1}))),
            details: vec![
                ResponseDetail { id: 5, resultcode: 0, result: value(json!({"pid": 9})) },
                ResponseDetail { id: 6, resultcode: -1, result: value(json!("1:a|N/A|no")) },
            ],
            server_time: Some(to_timestamp(8_100)),
            ..row(ResponseState::Succeeded, 0)
        };
        let mut want = json!({
            "agent_id": 3, "server_time": 8, "agent_time": 7, "resultcode": 0,
            "result": "start success",
            "details": [{"detail_id": 5, "resultcode": 0, "result": "{\"pid\":9}"},
                        {"detail_id": 6, "resultcode": -1, "result": "1:a|N/A|no"}],
        });
        assert_eq!(DB.show(answered.clone()), want);
        let cached = Form { cached: true, ..DB };
        want["details"][0]["result"] = json!({"pid": 9});
        assert_eq!(cached.show(answered.clone()), want);
        want["details"] = json!([]);
        assert_eq!(Form { details: false, ..DB }.show(answered.clone()), want);
        want.as_object_mut().unwrap().remove("details");
        assert_eq!(Form { details: false, ..cached }.show(answered), want);
    }

    #[test]
    fn what_became_of_those_without_an_answer() {
        let of = |state, code, reason: &str, message: &str| {
            let (reason, message) = (reason.to_owned(), message.to_owned());
            let shown = DB.show(AgentResponse { reason, message, ..row(state, code) });
            assert_eq!((&shown["server_time"], &shown["agent_time"]), (&json!(7), &json!(7)));
            assert_eq!((&shown["resultcode"], &shown["details"]), (&json!(code), &json!([])));
            shown["result"].as_str().unwrap().to_owned()
        };
        use ResponseState as S;
        assert_eq!(of(S::Silent, -124, "AGENT_OFFLINE", "it is off"), "AGENT_OFFLINE: it is off");
        assert_eq!(of(S::Silent, -124, "OVER_FINISHTIME", ""), "OVER_FINISHTIME");
        assert_eq!(of(S::Failed, -1, "METHOD_FAILED", "disk full"), "disk full");
        assert_eq!(of(S::Failed, -1, "INTERRUPTED", "it died"), "INTERRUPTED: it died");
        assert!(of(S::Skipped, -127, "", "").contains("cancelled"));
        assert_eq!(of(S::Succeeded, 0, "", ""), "success");
        assert_eq!(of(S::Failed, -1, "METHOD_FAILED", &"é".repeat(2000)), "é".repeat(1024));
        for (state, ended) in [
            (S::Pending, false),
            (S::Sent, false),
            (S::Accepted, false),
            (S::Running, false),
            (S::Skipped, true),
        ] {
            assert_eq!(has_ended(&row(state, 0)), ended, "{state:?}");
        }
    }

    #[test]
    fn texts_are_as_long_as_their_columns() {
        let long = AgentResponse {
            result: Some(to_struct(json!({"text": "x".repeat(2000)}))),
            details: vec![ResponseDetail {
                id: 1,
                resultcode: 0,
                result: to_struct(json!({"r": ["y".repeat(9000)]})).fields.remove("r"),
            }],
            ..row(ResponseState::Succeeded, 0)
        };
        let shown = DB.show(long);
        let result = shown["result"].as_str().unwrap();
        assert!(result.starts_with("{\"text\":\"xx") && result.len() == 1024, "{result}");
        assert_eq!(shown["details"][0]["result"].as_str().unwrap().len(), 8192);
    }

    #[test]
    fn a_status_has_a_detail_for_each_endpoint() {
        let status = |number: i32, holder: Value| AgentResponse {
            result: Some(to_struct(json!({
                "status": number, "endpoints": ["bare", "db"], "entities": {"db": 2},
                "lock": {"holder": holder, "waiters": []},
            }))),
            ..row(ResponseState::Succeeded, 0)
        };
        let form = Form { details: true, cached: true, status: true, failed: false };
        let detail = |id: i32, name: &str, entities: i32, locked: i32, frozen: bool| {
            json!({"detail_id": id, "resultcode": 0,
                   "result": {"endpoint": name, "entitys": entities, "locked": locked,
                              "frozen": frozen}})
        };
        assert_eq!(
            form.show(status(1, Value::Null))["details"],
            json!([detail(0, "bare", 0, 0, false), detail(1, "db", 2, 0, false)])
        );
        assert_eq!(
            form.show(status(-10, json!({"operation": "set_status"})))["details"],
            json!([detail(0, "bare", 0, 1, true), detail(1, "db", 2, 1, true)])
        );
        let failed =
            AgentResponse { state: ResponseState::Failed.into(), ..status(1, json!(null)) };
        assert_eq!(form.show(failed)["details"], json!([]));
    }
}
