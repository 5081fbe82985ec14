//! What the journal has of a message as the answer to its request.
//!
//! Invariant: the same entry gives the same answer, however often it is asked, and every answer
//! can be sent.

use goperation::{
    Error, JsonObject, Reason, json_to_struct, to_timestamp,
    v1::{RespondRequest, ResponseDetail, ResponseState},
};
use serde_json::Value;

use super::wire_id;
use crate::journal::Entry;

/// Result code of a method that failed and says nothing else.
const RESULT_ERROR: i32 = -1;
/// Result code of what was not started.
const RESULT_SILENT: i32 = -124;

/// The answer of an entry that is done; none when no request asks for it.
pub(super) fn answer(entry: &Entry, agent: Option<u32>) -> Option<RespondRequest> {
    let request = entry.of_request()?;
    let outcome = entry.outcome()?;
    let (start, end) = entry.times();
    let blank = RespondRequest {
        id: request.to_owned(),
        agent_id: wire_id(agent),
        start_time: (start > 0).then(|| to_timestamp(start)),
        end_time: (end > 0).then(|| to_timestamp(end)),
        ..RespondRequest::default()
    };
    let mut answer = match outcome {
        Ok(result) => succeeded(blank, result),
        Err(error) if entry.is_refused() => refused(blank, &error),
        Err(error) => failed(blank, &error),
    };
    answer.bound();
    Some(answer)
}

/// A method that ended by itself: it may say itself that it failed, and what became of each of
/// what it was for.
fn succeeded(mut answer: RespondRequest, mut result: JsonObject) -> RespondRequest {
    answer.details = take_details(&mut result);
    answer.resultcode = take_code(&mut result);
    match json_to_struct("result", &result) {
        Ok(result) => answer.result = Some(result),
        Err(error) => return failed(answer, &error),
    }
    if answer.resultcode == 0 {
        answer.set_state(ResponseState::Succeeded);
        return answer;
    }
    answer.set_state(ResponseState::Failed);
    answer.reason = Reason::MethodFailed.as_str().to_owned();
    answer.message = format!("the method answered result code {}", answer.resultcode);
    answer
}

fn failed(mut answer: RespondRequest, error: &Error) -> RespondRequest {
    answer.set_state(ResponseState::Failed);
    answer.resultcode = RESULT_ERROR;
    // Its own words.
    if error.reason == Reason::MethodFailed {
        let words = error.metadata.iter().map(|(name, text)| (name.clone(), text.clone().into()));
        let words: JsonObject = words.collect();
        answer.result = json_to_struct("result", &words).ok();
    }
    with_words(answer, error)
}

fn refused(mut answer: RespondRequest, error: &Error) -> RespondRequest {
    answer.set_state(ResponseState::Silent);
    answer.resultcode = RESULT_SILENT;
    with_words(answer, error)
}

fn with_words(mut answer: RespondRequest, error: &Error) -> RespondRequest {
    answer.reason = error.reason.as_str().to_owned();
    answer.message.clone_from(&error.message);
    answer
}

fn whole(value: Option<&Value>) -> Option<i32> {
    value?.as_i64().and_then(|number| i32::try_from(number).ok())
}

/// Takes `resultcode` out of a result; 0 when it is not there. What is no result code stays.
fn take_code(result: &mut JsonObject) -> i32 {
    let Some(code) = whole(result.get("resultcode")) else { return 0 };
    result.remove("resultcode");
    code
}

/// Takes `details` out of a result. What are no details stay.
fn take_details(result: &mut JsonObject) -> Vec<ResponseDetail> {
    let Some(Value::Array(rows)) = result.get("details") else { return Vec::new() };
    let Some(details) = rows.iter().map(detail).collect::<Option<_>>() else { return Vec::new() };
    result.remove("details");
    details
}

fn detail(row: &Value) -> Option<ResponseDetail> {
    const RESULT: &str = "result";
    let row = row.as_object()?;
    let resultcode = match row.get("resultcode") {
        None | Some(Value::Null) => 0,
        code => whole(code)?,
    };
    let result = match row.get(RESULT) {
        Some(value) => {
            let holder = JsonObject::from_iter([(RESULT.to_owned(), value.clone())]);
            json_to_struct("details", &holder).ok()?.fields.remove(RESULT)
        }
        None => None,
    };
    Some(ResponseDetail { id: whole(row.get("id"))?, resultcode, result })
}

#[cfg(test)]
mod tests {
    use goperation::struct_to_json;
    use serde_json::json;

    use super::*;

    fn of(result: Value) -> RespondRequest {
        succeeded(RespondRequest::default(), result.as_object().unwrap().clone())
    }

    fn left(answer: &RespondRequest) -> Value {
        Value::Object(struct_to_json("result", answer.result.as_ref()).unwrap())
    }

    #[test]
    fn details_and_result_code_are_taken_out_of_the_result() {
        let answer = of(json!({
            "details": [{"id": 3, "result": "ok"}, {"id": 4, "resultcode": -1, "result": {"a": 1}}],
            "resultcode": 0,
            "kept": true,
        }));
        assert_eq!(left(&answer), json!({"kept": true}));
        assert_eq!(answer.state(), ResponseState::Succeeded);
        let rows: Vec<_> = answer.details.iter().map(|d| (d.id, d.resultcode)).collect();
        assert_eq!(rows, [(3, 0), (4, -1)]);
        assert!(answer.details.iter().all(|detail| detail.result.is_some()));
    }

    #[test]
    fn what_are_no_details_stays_in_the_result() {
        for result in [
            json!({"details": "none"}),
            json!({"details": [1]}),
            json!({"details": [{"id": "a"}]}),
            json!({"details": [{"id": 1}, {"id": 2, "resultcode": "x"}]}),
            json!({"resultcode": "fine"}),
            json!({"resultcode": 5_000_000_000_u64}),
        ] {
            let answer = of(result.clone());
            assert_eq!(left(&answer), result);
            assert_eq!((answer.details.len(), answer.resultcode), (0, 0));
            assert_eq!(answer.state(), ResponseState::Succeeded);
        }
    }

    #[test]
    fn another_result_code_than_0_is_a_failure() {
        let answer = of(json!({"resultcode": 5, "why": "half"}));
        assert_eq!((answer.state(), answer.resultcode), (ResponseState::Failed, 5));
        assert_eq!(answer.reason, "METHOD_FAILED");
        assert_eq!(left(&answer), json!({"why": "half"}));
    }

    #[test]
    fn a_failure_has_the_programs_words() {
        let error = Error::new(Reason::MethodFailed, "exit code 3").with("stderr", "no");
        let answer = failed(RespondRequest::default(), &error);
        assert_eq!((answer.state(), answer.resultcode), (ResponseState::Failed, RESULT_ERROR));
        assert_eq!(answer.message, "exit code 3");
        assert_eq!(left(&answer), json!({"stderr": "no"}));
        let answer = refused(RespondRequest::default(), &error);
        assert_eq!((answer.state(), answer.resultcode), (ResponseState::Silent, RESULT_SILENT));
    }
}
