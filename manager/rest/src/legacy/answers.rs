//! `/asyncrequests/{request_id}/response` and `…/overtime`: what agents said of a request.
//!
//! Invariant: an agent's answer has its secret with it, and agents that are given up are named.

use goperation::{
    Error, JsonObject, Reason, Result, json_to_struct,
    v1::{OvertimeRequest, RespondRequest, ResponseDetail, ResponseState},
};
use serde_json::Value;

use super::{
    Call,
    clients::{ask, timed},
    envelope::Envelope,
    fields::Fields,
    requests::{FINISHED, named, status},
};

/// RESULT_OVER_FINISHTIME.
const OVER_FINISHTIME: i32 = -124;
/// What a column of result codes held.
const CODES: std::ops::RangeInclusive<i64> = -127..=127;

/// A result code that must be there.
fn code(body: &mut Fields) -> Result<i32> {
    const NAME: &str = "resultcode";
    let code = body.int(NAME)?.ok_or_else(|| Error::invalid(NAME, "is required"))?;
    match i32::try_from(code) {
        Ok(given) if CODES.contains(&code) => Ok(given),
        _ => {
            let (least, most) = (CODES.start(), CODES.end());
            Err(Error::invalid(NAME, format!("must be an integer from {least} to {most}")))
        }
    }
}

fn details(body: &mut Fields) -> Result<Vec<ResponseDetail>> {
    const NAME: &str = "details";
    let bad = |said: &str| Error::invalid(NAME, said);
    let items = match body.value(NAME) {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) if !items.is_empty() => items,
        Some(_) => return Err(bad("must be a list of at least one")),
    };
    let read = |item: Value| {
        let Value::Object(item) = item else { return Err(bad("must be objects")) };
        let mut item = Fields::new(item);
        let id = item.needed_count("detail_id")?;
        let resultcode = code(&mut item)?;
        let result = JsonObject::from_iter([("result".to_owned(), item.present("result")?)]);
        let result = json_to_struct(NAME, &result)?.fields.remove("result");
        Ok(ResponseDetail { id, resultcode, result })
    };
    items.into_iter().map(read).collect()
}

/// An agent's answer as an old agent sends it. Its own secret has to be with it: an administrator
/// does not speak for an agent.
fn answer(id: &str, body: &mut Fields) -> Result<RespondRequest> {
    let agent_id = body.needed_count("agent_id")?;
    let end_time = body.moment("agent_time")?;
    let end_time = end_time.ok_or_else(|| Error::invalid("agent_time", "is required"))?;
    let resultcode = code(body)?;
    // How long it is kept is the request's to say.
    body.count("expire")?;
    let (state, reason) = match resultcode {
        0 => (ResponseState::Succeeded, None),
        OVER_FINISHTIME => (ResponseState::Silent, Some(Reason::OverFinishtime)),
        _ => (ResponseState::Failed, Some(Reason::MethodFailed)),
    };
    let (message, result) = match body.value("result") {
        None => (String::new(), None),
        Some(Value::String(text)) => (text, None),
        Some(Value::Object(object)) => (String::new(), Some(json_to_struct("result", &object)?)),
        Some(other) => (other.to_string(), None),
    };
    let details = details(body)?;
    let secret = body.text("secret")?.ok_or_else(|| {
        let said = "is required: an agent answers with its own secret, and nobody else for it";
        Error::invalid("secret", said)
    })?;
    Ok(RespondRequest {
        id: id.to_owned(),
        agent_id,
        secret,
        state: state.into(),
        resultcode,
        reason: reason.map(Reason::as_str).unwrap_or_default().to_owned(),
        message,
        result,
        details,
        end_time: Some(end_time),
        ..RespondRequest::default()
    })
}

pub(super) async fn response(mut call: Call) -> Result<Envelope> {
    let mut body = std::mem::take(&mut call.body);
    let answer = answer(call.param("request_id"), &mut body)?;
    let agent = answer.agent_id;
    let request = named(&call).await?;
    let responded = ask(call.clients.requests().respond(timed(answer))).await?;
    if !responded.taken {
        let said = format!(
            "agent {agent} has answered request {} already, or was not sent to",
            request.id
        );
        return Ok(Envelope::refused(&said));
    }
    Ok(Envelope::new("agent respone success", Vec::new()))
}

/// Numbers of agents, as ranges. There is at least one: no number at all would be every agent.
fn numbers(body: &mut Fields) -> Result<String> {
    let numbers = body.texts("agents")?;
    let numbers = numbers.ok_or_else(|| Error::invalid("agents", "is required"))?;
    if numbers.iter().all(|number| number.trim().is_empty()) {
        return Err(Error::invalid("agents", "must be a list of at least one number"));
    }
    Ok(numbers.join(","))
}

pub(super) async fn overtime(mut call: Call) -> Result<Envelope> {
    let time = call.body.moment("agent_time")?;
    time.ok_or_else(|| Error::invalid("agent_time", "is required"))?;
    let agents = numbers(&mut call.body)?;
    let request = named(&call).await?;
    if status(&request) == FINISHED {
        return Err(Error::invalid("request_id", format!("request {} has finished", request.id)));
    }
    let given_up = OvertimeRequest { id: request.id, agents };
    ask(call.clients.requests().overtime(timed(given_up))).await?;
    Ok(Envelope::new("agents overtime success", Vec::new()))
}

#[cfg(test)]
mod tests {
    use goperation::struct_to_json;
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn an_answer_of_an_old_agent() {
        let whole = json!({"agent_id": 7, "agent_time": 1_700_000_000, "resultcode": 0,
                           "result": {"n": 1}, "expire": 60, "secret": "s",
                           "details": [{"detail_id": 2, "resultcode": -1, "result": [1]}]});
        let read = |body: &Value| answer("id", &mut fields(body.clone()));
        let taken = read(&whole).unwrap();
        assert_eq!((taken.state(), taken.agent_id), (ResponseState::Succeeded, 7));
        let result = struct_to_json("x", taken.result.as_ref()).unwrap();
        assert_eq!(Value::Object(result), json!({"n": 1}));
        assert_eq!((taken.details[0].id, taken.details[0].resultcode), (2, -1));
        let mut body = whole.clone();
        for (code, state, reason) in [
            (-1, ResponseState::Failed, "METHOD_FAILED"),
            (5, ResponseState::Failed, "METHOD_FAILED"),
            (-124, ResponseState::Silent, "OVER_FINISHTIME"),
        ] {
            body["resultcode"] = code.into();
            body["result"] = "why".into();
            let taken = read(&body).unwrap();
            assert_eq!((taken.state(), taken.reason.as_str()), (state, reason));
            assert_eq!((taken.resultcode, taken.message.as_str()), (code, "why"));
        }
        for (field, value) in [
            ("agent_id", json!(null)),
            ("agent_time", json!(null)),
            ("resultcode", json!(null)),
            ("resultcode", json!(128)),
            ("resultcode", json!(-128)),
            ("expire", json!("x")),
            ("details", json!([])),
            ("details", json!([7])),
            ("detail_id", json!([{"resultcode": 0, "result": ""}])),
            ("result", json!([{"detail_id": 1, "resultcode": 0}])),
            ("secret", json!(null)),
        ] {
            let mut body = whole.clone();
            let key = if value.is_array() { "details" } else { field };
            body[key] = value;
            assert_eq!(read(&body).unwrap_err().violations[0].field, field, "{body}");
        }
    }

    #[test]
    fn nobody_is_not_everybody() {
        assert_eq!(numbers(&mut fields(json!({"agents": [1, "3-4"]}))).unwrap(), "1,3-4");
        for bad in
            [json!({}), json!({"agents": []}), json!({"agents": ""}), json!({"agents": [""]})]
        {
            assert!(numbers(&mut fields(bad.clone())).is_err(), "{bad}");
        }
    }
}
