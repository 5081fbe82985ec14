//! `/agents/{agent_id}/status` and `…/upgrade`: requests that go to many agents.
//!
//! Invariant: what is asked for comes of the body alone and not of the time at which it arrives, so
//! a repeat under the same idempotency key is the same request.

use goperation::{
    Error, JsonObject, MANAGER_NAMESPACE, Reason, Result, json_to_struct, now_millis,
    v1::{
        CreateRequestRequest, PlanRequestRequest, Request, RequestHook, RequestSelection,
        UpgradeAgentsRequest,
    },
};
use prost_types::{Duration, Struct};
use serde_json::{Value, json};

use super::{
    Call,
    clients::{Clients, ask, timed},
    envelope::Envelope,
    fields::Fields,
    ids::Ids,
    rows,
};

/// The method that tells of an agent.
pub(super) const STATUS: &str = "status_agent";
/// The method that upgrades an agent.
const UPGRADE: &str = "upgrade_agent";
/// How far the clock of a client may be off, in seconds.
const OFF: i64 = 5;
/// How long agents may start when that is not said, in seconds.
const FINISH: i64 = 15;
/// How much time there must be at least to start, and after that to answer, in seconds.
const LEAST: i64 = 3;
/// How long the answers to `status` are kept when that is not said, in seconds.
const STATUS_EXPIRE: i32 = 180;

/// The times of a request, in seconds after it was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Times {
    finish: Option<i64>,
    timeout: Option<i64>,
    expire: i32,
}

impl Times {
    /// Reads the times of a body by the clock of who sent it, which says `request_time`. `now` is
    /// the time here.
    fn read(body: &mut Fields, now: i64, expire: i32) -> Result<Self> {
        let asked = body.int("request_time")?;
        let asked = asked.ok_or_else(|| Error::invalid("request_time", "is required"))?;
        if now.checked_sub(asked).is_none_or(|offset| offset.saturating_abs() > OFF) {
            let said = format!(
                "is {asked} and the time of the server is {now}: they may be at most {OFF} seconds \
                 apart"
            );
            return Err(Error::invalid("request_time", said));
        }
        let finish = after(body, "finishtime", asked)?;
        if finish.is_some_and(|finish| finish < LEAST) {
            let said = format!("must be at least {LEAST} seconds after request_time");
            return Err(Error::invalid("finishtime", said));
        }
        // The last second is not counted.
        let timeout = after(body, "deadline", asked)?.map(|deadline| deadline.saturating_sub(1));
        let least = finish.unwrap_or(FINISH).saturating_add(LEAST);
        if timeout.is_some_and(|timeout| timeout < least) {
            let said = format!("must be at least {} seconds after finishtime", LEAST + 1);
            return Err(Error::invalid("deadline", said));
        }
        let expire = body.count("expire")?.unwrap_or(expire);
        Ok(Self { finish, timeout, expire })
    }

    fn finish_timeout(&self) -> Option<Duration> {
        self.finish.map(duration)
    }

    fn timeout(&self) -> Option<Duration> {
        self.timeout.map(duration)
    }

    fn expire(&self) -> Option<Duration> {
        Some(duration(self.expire.into()))
    }
}

/// How long after `asked` a moment is; none when it is not said, or 0.
fn after(body: &mut Fields, name: &str, asked: i64) -> Result<Option<i64>> {
    match body.int(name)? {
        None | Some(0) => Ok(None),
        Some(time) => match time.checked_sub(asked) {
            Some(after) => Ok(Some(after)),
            None => Err(Error::invalid(name, "must be seconds since 1970")),
        },
    }
}

fn duration(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

/// The time here, in seconds since 1970.
fn now() -> i64 {
    i64::try_from(now_millis() / 1000).unwrap_or(i64::MAX)
}

/// The agents that the path names. To the old system deleted ones were unknown.
async fn agents(call: &Call, method: &str) -> Result<RequestSelection> {
    let text = call.param("agent_id");
    if Ids::parse("agent_id", text)? == Ids::All {
        return Ok(RequestSelection { all: true, ..RequestSelection::default() });
    }
    let on = RequestSelection { agents: text.to_owned(), ..RequestSelection::default() };
    let plan = PlanRequestRequest {
        namespace: MANAGER_NAMESPACE.to_owned(),
        method: method.to_owned(),
        on: Some(on.clone()),
        ..PlanRequestRequest::default()
    };
    let plan = ask(call.clients.requests().plan_request(timed(plan))).await?;
    let deleted = |reason: &str| reason == Reason::QueueNotFound.as_str();
    match plan.agents.iter().find(|agent| deleted(&agent.reason)) {
        None => Ok(on),
        Some(agent) => {
            let id = agent.agent_id;
            let said = format!("there is no agent {id}");
            Err(Error::new(Reason::AgentNotFound, said).with("agent", id))
        }
    }
}

/// What is to be called at a certain time of the request.
fn hook(body: &mut Fields, name: &str) -> Result<Option<RequestHook>> {
    let below = |error: Error| {
        let below = |violation: &goperation::Violation| {
            let field = format!("{name}.{}", violation.field);
            goperation::Violation { field, description: violation.description.clone() }
        };
        Error::violations(error.violations.iter().map(below).collect())
    };
    match body.value(name) {
        None => Ok(None),
        Some(Value::Object(object)) => read_hook(Fields::new(object)).map(Some).map_err(below),
        Some(_) => Err(Error::invalid(name, "must be an object")),
    }
}

fn read_hook(mut hook: Fields) -> Result<RequestHook> {
    let executer = hook.needed_text("executer")?;
    let ekwargs = hook.object("ekwargs")?;
    let ekwargs = ekwargs.ok_or_else(|| Error::invalid("ekwargs", "is required"))?;
    let condition = hook.text("condition")?.unwrap_or_default();
    let ckwargs = hook.object("ckwargs")?;
    if let Some(other) = hook.rest().keys().next() {
        return Err(Error::invalid(other, "is not known"));
    }
    let to_struct =
        |name: &str, object: Option<JsonObject>| object.map(|o| json_to_struct(name, &o));
    Ok(RequestHook {
        executer,
        ekwargs: to_struct("ekwargs", Some(ekwargs)).transpose()?,
        condition,
        ckwargs: to_struct("ckwargs", ckwargs).transpose()?,
    })
}

/// The answer: what became of it is not known yet.
fn begun(what: &str, request: &Request) -> Envelope {
    let row = json!({
        "request_id": request.id,
        "request_time": rows::seconds(request.request_time.as_ref()),
        "finishtime": rows::seconds(request.finish_time.as_ref()),
        "deadline": rows::seconds(request.deadline.as_ref()),
        "expire": rows::whole_seconds(request.expire.as_ref()),
        "status": null,
        "resultcode": null,
        "result": null,
    });
    Envelope::new(what, vec![row])
}

/// Begins the request for [`STATUS`]; what else the body has are its arguments.
async fn begin_status(
    clients: &Clients,
    on: RequestSelection,
    times: &Times,
    args: Struct,
    key: String,
) -> Result<Request> {
    let request = CreateRequestRequest {
        namespace: MANAGER_NAMESPACE.to_owned(),
        method: STATUS.to_owned(),
        args: Some(args),
        on: Some(on),
        finish_timeout: times.finish_timeout(),
        timeout: times.timeout(),
        expire: times.expire(),
        idempotency_key: key,
        ..CreateRequestRequest::default()
    };
    let created = ask(clients.requests().create_request(timed(request))).await?;
    Ok(created.request.unwrap_or_default())
}

pub(super) async fn status(mut call: Call) -> Result<Envelope> {
    let key = call.idempotency_key()?;
    let mut body = std::mem::take(&mut call.body);
    let times = Times::read(&mut body, now(), STATUS_EXPIRE)?;
    let args = json_to_struct("args", &body.rest())?;
    let on = agents(&call, STATUS).await?;
    let request = begin_status(&call.clients, on, &times, args, key).await?;
    Ok(begun("status agents success", &request))
}

pub(super) async fn upgrade(mut call: Call) -> Result<Envelope> {
    let key = call.idempotency_key()?;
    let body = &mut call.body;
    let times = Times::read(body, now(), 0)?;
    let request = UpgradeAgentsRequest {
        file: body.text("file")?.unwrap_or_default(),
        finish_timeout: times.finish_timeout(),
        timeout: times.timeout(),
        expire: times.expire(),
        pre_run: hook(body, "pre_run")?,
        after_run: hook(body, "after_run")?,
        post_run: hook(body, "post_run")?,
        idempotency_key: key,
        ..UpgradeAgentsRequest::default()
    };
    let on = Some(agents(&call, UPGRADE).await?);
    let request = UpgradeAgentsRequest { on, ..request };
    let begins = ask(call.clients.agents().upgrade_agents(timed(request))).await?;
    Ok(begun("upgrade agents success", &begins.request.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn read(body: Value) -> Result<Times> {
        let mut body = Fields::new(body.as_object().unwrap().clone());
        let times = Times::read(&mut body, NOW, 180)?;
        // They are no arguments of the method.
        assert_eq!(body.rest().keys().collect::<Vec<_>>(), ["else"]);
        Ok(times)
    }

    #[test]
    fn times_are_counted_from_the_clock_of_the_client() {
        let not_said = Times { finish: None, timeout: None, expire: 180 };
        for asked in [NOW - 5, NOW, NOW + 5] {
            assert_eq!(read(json!({"request_time": asked, "else": 1})).unwrap(), not_said);
            let body = json!({"request_time": asked, "finishtime": asked + 3,
                              "deadline": asked + 7, "expire": 0, "else": 1});
            let times = Times { finish: Some(3), timeout: Some(6), expire: 0 };
            assert_eq!(read(body).unwrap(), times);
        }
        let body = json!({"request_time": NOW.to_string(), "finishtime": 0, "deadline": null,
                          "expire": null, "else": 1});
        assert_eq!(read(body).unwrap(), not_said);
        let body = json!({"request_time": NOW, "deadline": NOW + 19, "else": 1});
        assert_eq!(read(body).unwrap().timeout, Some(18));
    }

    #[test]
    fn times_that_cannot_be_meant() {
        for (field, body) in [
            ("request_time", json!({})),
            ("request_time", json!({"request_time": "now"})),
            ("request_time", json!({"request_time": NOW - 6})),
            ("request_time", json!({"request_time": NOW + 6})),
            ("request_time", json!({"request_time": i64::MIN})),
            ("finishtime", json!({"request_time": NOW, "finishtime": NOW + 2})),
            ("finishtime", json!({"request_time": NOW, "finishtime": "x"})),
            ("finishtime", json!({"request_time": NOW, "finishtime": i64::MIN})),
            ("deadline", json!({"request_time": NOW, "deadline": NOW + 18})),
            ("deadline", json!({"request_time": NOW, "finishtime": NOW + 5, "deadline": NOW + 8})),
            ("deadline", json!({"request_time": NOW, "deadline": i64::MIN})),
            ("expire", json!({"request_time": NOW, "expire": -1})),
        ] {
            let error = read(body.clone()).unwrap_err();
            assert_eq!(error.violations[0].field, field, "{body}");
        }
    }

    #[test]
    fn hooks_as_the_old_schema_had_them() {
        let read = |value: Value| {
            hook(
                &mut Fields::new(json!({"pre_run": value}).as_object().unwrap().clone()),
                "pre_run",
            )
        };
        assert_eq!(read(json!(null)).unwrap(), None);
        let whole = json!({"executer": "http", "ekwargs": {"url": "http://h/"},
                           "condition": "agents", "ckwargs": {"value": 0}});
        let hook = read(whole).unwrap().unwrap();
        assert_eq!((hook.executer.as_str(), hook.condition.as_str()), ("http", "agents"));
        assert!(hook.ekwargs.is_some() && hook.ckwargs.is_some());
        for (field, value) in [
            ("pre_run", json!("http")),
            ("pre_run.executer", json!({"ekwargs": {}})),
            ("pre_run.ekwargs", json!({"executer": "http"})),
            ("pre_run.ekwargs", json!({"executer": "http", "ekwargs": []})),
            ("pre_run.x", json!({"executer": "http", "ekwargs": {}, "x": 1})),
        ] {
            assert_eq!(read(value.clone()).unwrap_err().violations[0].field, field, "{value}");
        }
    }
}
