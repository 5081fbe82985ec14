//! The beginning of a request: what is asked for is checked whole, the agents are chosen, and the
//! request is put on record with a row for each of them.
//!
//! Invariant: whom a request is for is fixed when it is put on record, and nothing is sent before
//! that is durable. Under an idempotency key its id is the key's, so that it is there once.

use std::{sync::Arc, time::Duration};

use goperation::{
    Error, MANAGER_NAMESPACE, MessageId, Reason, Result, now_millis, to_duration,
    v1::{CreateRequestRequest, CreateRequestResponse, RequestCounts, RequestState, ResponseState},
};
use prost::Message as _;

use super::{
    expect::expect,
    hook::{When, check_hook},
    plan::{What, plan},
    rollout::Shape,
    select::{Chosen, Selection},
};
use crate::{
    app::{App, Key, millis},
    check::{self, Violations},
    keys,
    record::{RESULT_SILENT, RESULT_UNKNOWN, RequestRecord, RowRecord},
};

/// How long an agent may start when that is not said.
pub(super) const DEFAULT_FINISH: Duration = Duration::from_secs(15);
/// Longest time in which an agent may start.
pub(super) const LONGEST_FINISH: Duration = Duration::from_secs(7 * 24 * 3600);
/// How much longer an answer is awaited when that is not said.
pub(super) const USUAL_AFTER_FINISH: Duration = Duration::from_secs(5);
/// The method whose answer comes after a package command and a restart.
pub(super) const UPGRADE: &str = "upgrade_agent";
/// How much longer its answer is awaited when that is not said.
const UPGRADE_AFTER_FINISH: Duration = Duration::from_secs(15 * 60);
/// How much longer an answer is awaited at least.
pub(super) const LEAST_AFTER_FINISH: Duration = Duration::from_secs(3);
/// Longest time in which an answer is awaited.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(8 * 24 * 3600);
/// Longest time that rows are kept.
pub(super) const LONGEST_EXPIRE: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Largest arguments, encoded, in bytes: they are in the message to each agent, and in the record.
const ARGS: usize = 256 << 10;

/// A request that was read.
#[derive(Debug)]
struct Wanted {
    q: CreateRequestRequest,
    what: What,
    selection: Selection,
    finish: u64,
    timeout: u64,
    expire: u64,
}

/// A time that must be within bounds, or what stands for none.
fn time(
    bad: &mut Violations,
    field: &str,
    given: Option<&prost_types::Duration>,
    default: Duration,
    (least, most): (Duration, Duration),
) -> Duration {
    let Some(given) = given else { return default };
    match to_duration(given).filter(|time| (least..=most).contains(time)) {
        Some(time) => time,
        None => {
            let (least, most) = (least.as_secs_f64(), most.as_secs());
            bad.add(field, format!("must be from {least}s to {most}s"));
            default
        }
    }
}

impl Wanted {
    /// Reads a request; every bad field is named at once.
    fn read(q: CreateRequestRequest) -> Result<Self> {
        let mut bad = Violations::default();
        if q.args.as_ref().is_some_and(|args| args.encoded_len() > ARGS) {
            return Err(Error::new(
                Reason::TooLarge,
                format!("args: must have at most {ARGS} bytes when encoded"),
            )
            .with("limit", ARGS));
        }
        let what = What::read(&mut bad, &q.namespace, &q.method, q.args.as_ref());
        let namespace = what.as_ref().map_or(q.namespace.as_str(), |what| what.namespace.as_str());
        let selection = Selection::read(&mut bad, namespace, q.on.as_ref());
        Shape::read(&mut bad, q.rollout.as_ref(), 0);
        let least = Duration::from_millis(1);
        let finish = q.finish_timeout.as_ref();
        let finish =
            time(&mut bad, "finish_timeout", finish, DEFAULT_FINISH, (least, LONGEST_FINISH));
        let bounds = (finish + LEAST_AFTER_FINISH, LONGEST_TIMEOUT);
        let upgrade = namespace == MANAGER_NAMESPACE && q.method == UPGRADE;
        let default = finish + if upgrade { UPGRADE_AFTER_FINISH } else { USUAL_AFTER_FINISH };
        let timeout = time(&mut bad, "timeout", q.timeout.as_ref(), default, bounds);
        let bounds = (Duration::ZERO, LONGEST_EXPIRE);
        let expire = time(&mut bad, "expire", q.expire.as_ref(), Duration::ZERO, bounds);
        for (field, hook, when) in [
            ("pre_run", &q.pre_run, When::Pre),
            ("after_run", &q.after_run, When::After),
            ("post_run", &q.post_run, When::Post),
        ] {
            if let Some(hook) = hook {
                check_hook(&mut bad, field, hook, when);
            }
        }
        let (Some(what), Some(selection)) = (what, selection) else { return Err(bad.error()) };
        bad.finish()?;
        Ok(Self {
            q,
            what,
            selection,
            finish: millis(finish),
            timeout: millis(timeout),
            expire: millis(expire),
        })
    }

    /// The rows of the agents, in their order.
    fn rows(&self, shape: &Shape, chosen: &[Chosen], now: u64) -> Vec<RowRecord> {
        let row = |(i, chosen): (usize, &Chosen)| {
            let agent = &chosen.agent;
            let mut row = RowRecord {
                agent: agent.id,
                host: agent.host.clone(),
                agent_type: agent.agent_type.clone(),
                state: ResponseState::Pending.into(),
                resultcode: RESULT_UNKNOWN,
                batch: shape.batch_of(i),
                entities: chosen.entities.as_ref().map(ToString::to_string).unwrap_or_default(),
                ..RowRecord::default()
            };
            // There is nowhere to send it to, and there never will be.
            if agent.deleted
                && let Some((reason, message)) = expect(agent, chosen.online, &self.what.namespace)
            {
                row.set_state(ResponseState::Silent);
                row.resultcode = RESULT_SILENT;
                reason.as_str().clone_into(&mut row.reason);
                row.message = message;
                row.end_time = now;
            }
            row
        };
        chosen.iter().enumerate().map(row).collect()
    }
}

/// The id of a request: that of its key, or a new one.
fn new_id(key: Option<&MessageId>) -> String {
    match key {
        Some(id) if check::request_id("id", id.as_str()).is_ok() => id.to_string(),
        _ => {
            let id = MessageId::generate().to_string();
            let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
            let parts = parts.map(|(begin, end)| id.get(begin..end).unwrap_or_default());
            parts.join("-")
        }
    }
}

fn answer(record: &RequestRecord) -> CreateRequestResponse {
    CreateRequestResponse { request: Some(record.to_api()) }
}

impl App {
    /// Begins a request, once under a key.
    pub(crate) async fn create_request(
        self: &Arc<Self>,
        q: CreateRequestRequest,
        key: Option<Key>,
        traceparent: Option<String>,
        wait: Duration,
    ) -> Result<CreateRequestResponse> {
        // What is asked for is the same wherever the key stands.
        let q = CreateRequestRequest { idempotency_key: String::new(), ..q };
        let asked = q.clone();
        let work = |id| self.begin_anew(asked, id, traceparent.unwrap_or_default());
        self.once(key, "CreateRequest", &q, wait, work).await
    }

    async fn begin_anew(
        self: &Arc<Self>,
        q: CreateRequestRequest,
        key: Option<MessageId>,
        traceparent: String,
    ) -> Result<CreateRequestResponse> {
        let id = new_id(key.as_ref());
        // Begun under the key before, by a manager that died before it could answer.
        if key.is_some()
            && let Some(record) = self.db.get::<RequestRecord>(keys::request(&id)).await?
        {
            return Ok(answer(&record));
        }
        let wanted = Wanted::read(q)?;
        let now = now_millis();
        let chosen = self.select(&wanted.what.namespace, &wanted.selection, now).await?;
        let mut bad = Violations::default();
        let shape = Shape::read(&mut bad, wanted.q.rollout.as_ref(), chosen.len());
        bad.finish()?;
        let rows = wanted.rows(&shape, &chosen, now);
        let Wanted { q, what: What { namespace, method, args }, .. } = wanted;
        let plan = plan(&namespace, &method, &args, q.rollout.as_ref(), &shape, &chosen);
        if !q.plan.is_empty() && q.plan != plan.hash {
            return Err(Error::new(
                Reason::PlanChanged,
                "the plan would be another one now: look at it again, then run it by its new hash",
            )
            .with("plan", plan.hash));
        }
        let args = serde_json::to_vec(&args)
            .map_err(|e| Error::new(Reason::Internal, format!("args cannot be stored: {e}")))?;
        let agents = i32::try_from(rows.len()).unwrap_or(i32::MAX);
        let record = RequestRecord {
            id,
            namespace,
            method,
            args,
            on: q.on,
            rollout: q.rollout,
            state: RequestState::Running.into(),
            resultcode: RESULT_UNKNOWN,
            request_time: now,
            finish_timeout: wanted.finish,
            timeout: wanted.timeout,
            finish_time: now.saturating_add(wanted.finish),
            deadline: now.saturating_add(wanted.timeout),
            expire: wanted.expire,
            pre_run: q.pre_run,
            after_run: q.after_run,
            post_run: q.post_run,
            plan: plan.hash,
            counts: Some(RequestCounts { agents, pending: agents, ..RequestCounts::default() }),
            max_failures: shape.max_failures,
            max_parallel: shape.max_parallel,
            pause: shape.pause,
            traceparent,
            ..RequestRecord::default()
        };
        Ok(answer(&self.begin_request(record, rows, |_| {}).await?))
    }
}

#[cfg(test)]
mod tests {
    use goperation::v1::{RequestHook, RequestSelection, Rollout};
    use prost_types::{Struct, Value, value::Kind};

    use super::*;

    fn asked() -> CreateRequestRequest {
        CreateRequestRequest {
            method: "status_agent".to_owned(),
            on: Some(RequestSelection { all: true, ..RequestSelection::default() }),
            ..CreateRequestRequest::default()
        }
    }

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let wanted = Wanted::read(asked()).unwrap();
        assert_eq!(wanted.what.namespace, "manager");
        assert_eq!((wanted.finish, wanted.timeout, wanted.expire), (15_000, 20_000, 0));
        let wanted = Wanted::read(CreateRequestRequest {
            namespace: "Arena".to_owned(),
            finish_timeout: seconds(60),
            expire: seconds(180),
            ..asked()
        });
        let wanted = wanted.unwrap();
        assert_eq!(wanted.what.namespace, "arena");
        assert_eq!((wanted.finish, wanted.timeout, wanted.expire), (60_000, 65_000, 180_000));
        let upgrade = CreateRequestRequest { method: UPGRADE.to_owned(), ..asked() };
        assert_eq!(Wanted::read(upgrade).unwrap().timeout, 15_000 + 15 * 60_000);
        let least =
            CreateRequestRequest { finish_timeout: seconds(60), timeout: seconds(63), ..asked() };
        assert_eq!(Wanted::read(least).unwrap().timeout, 63_000);
    }

    #[test]
    fn every_bad_field_is_named_at_once() {
        let nan = Value { kind: Some(Kind::NumberValue(f64::NAN)) };
        let error = Wanted::read(CreateRequestRequest {
            namespace: "all".to_owned(),
            method: "a b".to_owned(),
            args: Some(Struct { fields: [("n".to_owned(), nan)].into() }),
            on: None,
            rollout: Some(Rollout { batch: "x".to_owned(), ..Rollout::default() }),
            finish_timeout: seconds(0),
            timeout: seconds(17),
            expire: seconds(-1),
            pre_run: Some(RequestHook { executer: "shell".to_owned(), ..RequestHook::default() }),
            ..CreateRequestRequest::default()
        })
        .unwrap_err();
        let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
        for field in [
            "namespace",
            "method",
            "args.n",
            "on",
            "rollout.batch",
            "finish_timeout",
            "timeout",
            "expire",
            "pre_run.executer",
        ] {
            assert!(fields.contains(&field), "{field}: {fields:?}");
        }
    }

    #[test]
    fn arguments_have_a_bound() {
        let long = Value { kind: Some(Kind::StringValue("x".repeat(ARGS))) };
        let args = Some(Struct { fields: [("n".to_owned(), long)].into() });
        let error = Wanted::read(CreateRequestRequest { args, ..asked() }).unwrap_err();
        assert_eq!(error.reason, Reason::TooLarge);
    }

    #[test]
    fn an_id_is_a_uuid() {
        let key = MessageId::from_digest([7; 16]);
        assert_eq!(new_id(Some(&key)), key.as_str());
        for id in [new_id(None), new_id(Some(&MessageId::generate()))] {
            assert!(check::request_id("id", &id).is_ok(), "{id}");
        }
        assert_ne!(new_id(None), new_id(None));
    }
}
