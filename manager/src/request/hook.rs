//! Hooks: what a request calls before it is sent, when it was sent and when it has ended.
//!
//! Invariant: a hook ends within its own time limit, goes to no address that hooks may not call,
//! and follows no redirect.

mod address;
mod condition;
mod http;

use ::http::{HeaderName, HeaderValue};
use goperation::{JsonObject, struct_to_json, v1::RequestHook};
use prost::Message as _;

use crate::{app::App, check::Violations, record::RequestRecord};

use self::{condition::Condition, http::Call};

/// Largest hook, encoded, in bytes.
const LARGEST: usize = 64 << 10;

/// When a hook is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Before anything is sent.
    Pre,
    /// When the first batch was sent.
    After,
    /// After the last answer.
    Post,
}

impl When {
    fn name(self) -> &'static str {
        match self {
            Self::Pre => "pre_run",
            Self::After => "after_run",
            Self::Post => "post_run",
        }
    }
}

/// A hook, read.
#[derive(Debug)]
struct Hook {
    call: Call,
    condition: Option<Condition>,
}

impl Hook {
    /// Reads a hook; what is wrong with it is collected.
    fn read(bad: &mut Violations, field: &str, hook: &RequestHook, when: When) -> Option<Self> {
        if hook.encoded_len() > LARGEST {
            bad.add(field, format!("must have at most {LARGEST} bytes"));
            return None;
        }
        if hook.executer != "http" {
            bad.add(format!("{field}.executer"), "must be `http`: there is no other");
        }
        let ekwargs = object(bad, &format!("{field}.ekwargs"), hook.ekwargs.as_ref());
        let ckwargs = object(bad, &format!("{field}.ckwargs"), hook.ckwargs.as_ref());
        let call = ekwargs.and_then(|given| Call::read(bad, &format!("{field}.ekwargs"), &given));
        let condition = match hook.condition.as_str() {
            "" if ckwargs.as_ref().is_none_or(JsonObject::is_empty) => None,
            name => Some(ckwargs.and_then(|given| Condition::read(bad, field, name, &given, when))),
        };
        match (call, condition) {
            (Some(call), None) => Some(Self { call, condition: None }),
            (Some(call), Some(Some(condition))) => Some(Self { call, condition: Some(condition) }),
            _ => None,
        }
    }
}

fn object(
    bad: &mut Violations,
    field: &str,
    given: Option<&prost_types::Struct>,
) -> Option<JsonObject> {
    bad.take(struct_to_json(field, given))
}

/// Names everything that is wrong with a hook.
pub(super) fn check_hook(bad: &mut Violations, field: &str, hook: &RequestHook, when: When) {
    Hook::read(bad, field, hook, when);
}

impl App {
    /// Calls a hook if its condition holds, and says why it failed. One that is `async` is not
    /// waited for, and never fails.
    ///
    /// A manager that dies in between may call it again: the request's id goes along.
    pub(super) async fn call_hook(
        &self,
        hook: &RequestHook,
        when: When,
        record: &RequestRecord,
    ) -> Result<(), String> {
        let name = when.name();
        let mut bad = Violations::default();
        let hook = Hook::read(&mut bad, name, hook, when);
        bad.finish().map_err(|error| error.message)?;
        let Some(Hook { mut call, condition }) = hook else {
            return Err(format!("{name} cannot be read"));
        };
        if let Some(condition) = condition.filter(|_| when != When::Pre) {
            let rows = self.light_rows(&record.id).await.map_err(|error| error.message)?;
            if !condition.holds(when, &rows) {
                return Ok(());
            }
        }
        for (header, value) in [
            (HeaderName::from_static("goperation-request"), &record.id),
            (HeaderName::from_static("traceparent"), &record.traceparent),
        ] {
            if let (false, Ok(value)) = (value.is_empty(), HeaderValue::try_from(value)) {
                call.add_header(header, value);
            }
        }
        let allow_local = self.request_rules.hooks.allow_local;
        let apart = call.apart;
        if !apart {
            return call.run(allow_local).await;
        }
        let (id, abort) = (record.id.clone(), self.abort.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                called = call.run(allow_local) => if let Err(error) = called {
                    tracing::warn!(request = id, hook = name, error, "a hook failed that nobody waits for");
                },
                () = abort.cancelled() => {}
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use goperation::{json_to_struct, v1::RequestHook};
    use serde_json::{Value, json};

    use super::*;

    fn structure(value: &Value) -> Option<prost_types::Struct> {
        value.as_object().map(|object| json_to_struct("hook", object).unwrap())
    }

    fn bad_fields(hook: &RequestHook, when: When) -> Vec<String> {
        let mut bad = Violations::default();
        check_hook(&mut bad, "pre_run", hook, when);
        let bad = bad.finish().err().map(|error| error.violations).unwrap_or_default();
        bad.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn a_hook_is_checked_as_a_whole() {
        let good = RequestHook {
            executer: "http".to_owned(),
            ekwargs: structure(&json!({"url": "http://h/", "method": "GET"})),
            condition: "agents".to_owned(),
            ckwargs: structure(&json!({"operator": "=", "value": 0})),
        };
        assert!(bad_fields(&good, When::Post).is_empty());
        assert!(bad_fields(&good, When::Pre).is_empty());
        // It has nothing to count by.
        assert_eq!(bad_fields(&good, When::After), ["pre_run.ckwargs.counter"]);
        let bad = RequestHook {
            executer: "shell".to_owned(),
            ekwargs: None,
            condition: "moon".to_owned(),
            ckwargs: structure(&json!({"operator": "~"})),
        };
        assert_eq!(
            bad_fields(&bad, When::Post),
            [
                "pre_run.executer",
                "pre_run.ekwargs.url",
                "pre_run.condition",
                "pre_run.ckwargs.operator",
                "pre_run.ckwargs.value",
            ]
        );
        let stray = RequestHook { condition: String::new(), ..good.clone() };
        assert_eq!(bad_fields(&stray, When::Post), ["pre_run.condition"]);
        let large = json!({"url": "http://h/", "data": "x".repeat(LARGEST)});
        let large = RequestHook { ekwargs: structure(&large), ..good };
        assert_eq!(bad_fields(&large, When::Post), ["pre_run"]);
    }
}
