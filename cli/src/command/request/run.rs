//! `gop request run`: what was typed becomes a request, or the plan of one.
//!
//! Invariant: a request is always asked for under a key, so that whoever does not learn whether
//! it has begun can ask again.

use std::time::Duration;

use goperation::{
    JsonObject, MANAGER_NAMESPACE, MessageId, Reason,
    v1::{
        self, CreateRequestRequest, CreateRequestResponse, PlanRequestRequest, RequestHook,
        RequestSelection, Rollout,
    },
};
use serde_json::Value;
use tonic::{Response, Status};

use super::{
    text,
    view::Form,
    watch::{self, Asked},
};
use crate::{
    args::{self, Follow, RunRequest, Selection},
    client::Client,
    error::Error,
    hint::{KEY, Repeat, Subject},
    output::Output,
    parse::{self, Several},
};

/// Plans a request, or begins it and waits for its end.
pub(super) async fn run(client: &Client, output: Output, args: RunRequest) -> Result<(), Error> {
    if args.plan {
        let message = PlanRequestRequest {
            namespace: namespace(args.namespace),
            method: args.method,
            args: Some(args.args.to_struct()?),
            on: Some(selection(args.on)),
            rollout: rollout(args.rollout),
        };
        return plan(client, output, message).await;
    }
    let (how, wait) = (args.follow, args.patience.wait);
    let message = message(client, args)?;
    let subject = Subject {
        endpoint: Some(message.namespace.clone()).filter(|name| name != MANAGER_NAMESPACE),
        repeat: Repeat::Keyed,
        ..Subject::default()
    };
    let key = message.idempotency_key.clone();
    let mut requests = client.requests();
    let begun = begin(requests.create_request(client.request(message)), key, &subject).await?;
    follow(client, output, begun.request, how, wait).await
}

/// Begins a request. Where it has not begun, or may have, the key is told under which to ask again.
pub(crate) async fn begin<T>(
    begins: impl Future<Output = Result<Response<T>, Status>>,
    key: String,
    subject: &Subject,
) -> Result<T, Error> {
    let answer = tokio::select! {
        answer = begins => answer.map_err(|status| goperation::Error::from_status(&status)),
        _ = tokio::signal::ctrl_c() => Err(goperation::Error::new(
            Reason::OutcomeUnknown,
            "interrupted before the manager has answered, so the request may have begun",
        )),
    };
    answer.map(Response::into_inner).map_err(|mut error| {
        error.metadata.entry(KEY.to_owned()).or_insert(key);
        Error::from(error).about(subject)
    })
}

/// Waits for the end of a request that has begun, unless that is not wished.
pub(crate) async fn follow(
    client: &Client,
    output: Output,
    request: Option<v1::Request>,
    how: Follow,
    wait: Duration,
) -> Result<(), Error> {
    if how.detach {
        return output.answer(&CreateRequestResponse { request }, begun);
    }
    let form = match (how.watch || how.jsonl, output.is_json()) {
        (true, _) => Form::of_watch(output, how.jsonl),
        (false, true) => Form::EndJson,
        (false, false) => Form::End,
    };
    let request =
        request.ok_or_else(|| Error::Failed("the manager's answer has no request".to_owned()))?;
    let asked = Asked { form, cursor: String::new(), follow: false, wait };
    watch::watch(client, request, asked).await
}

fn begun(answer: &CreateRequestResponse) -> String {
    let request = answer.request.clone().unwrap_or_default();
    let all = text::agents(request.counts.unwrap_or_default().agents);
    let (id, method) = (&request.id, text::method(&request));
    format!("begun {id}: {method} on {all}\n`gop request watch {id}` shows it\n")
}

/// Shows whom a request would touch.
pub(crate) async fn plan(
    client: &Client,
    output: Output,
    message: PlanRequestRequest,
) -> Result<(), Error> {
    let answer = client.requests().plan_request(client.request(message)).await?.into_inner();
    output.answer(&answer, text::plan)
}

/// The key that was said, or a new one.
pub(crate) fn key(said: String) -> String {
    if said.is_empty() { MessageId::generate().to_string() } else { said }
}

fn message(client: &Client, args: RunRequest) -> Result<CreateRequestRequest, Error> {
    Ok(CreateRequestRequest {
        namespace: namespace(args.namespace),
        method: args.method,
        args: Some(args.args.to_struct()?),
        on: Some(selection(args.on)),
        rollout: rollout(args.rollout),
        finish_timeout: args.finish.and_then(duration),
        timeout: client.given().and_then(duration),
        expire: args.expire.and_then(duration),
        pre_run: hook("--pre-run", args.hooks.pre_run)?,
        after_run: hook("--after-run", args.hooks.after_run)?,
        post_run: hook("--post-run", args.hooks.post_run)?,
        plan: args.plan_hash,
        idempotency_key: key(args.key),
    })
}

fn namespace(given: String) -> String {
    if given.is_empty() { MANAGER_NAMESPACE.to_owned() } else { given }
}

pub(crate) fn duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

pub(crate) fn selection(on: Selection) -> RequestSelection {
    let mut selection = RequestSelection {
        endpoint: on.endpoint,
        filter: on.filter,
        includes: on.includes,
        ..RequestSelection::default()
    };
    match on.on {
        Some(Several::All) => selection.all = true,
        Some(Several::Numbers(agents)) => selection.agents = agents,
        None => {}
    }
    match on.entities {
        Some(Several::All) => selection.entities = "all".to_owned(),
        Some(Several::Numbers(entities)) => selection.entities = entities,
        None => {}
    }
    selection
}

/// None when nothing of it was said: all are sent to at once.
pub(crate) fn rollout(args: args::Rollout) -> Option<Rollout> {
    let rollout = Rollout {
        batch: args.batch.unwrap_or_default(),
        canary: args.canary.unwrap_or_default(),
        pause: args.pause.and_then(duration),
        max_failures: args.max_failures,
        max_parallel: args.max_parallel.unwrap_or_default(),
    };
    (rollout != Rollout::default()).then_some(rollout)
}

/// A hook as the old API writes it.
fn hook(flag: &str, source: Option<String>) -> Result<Option<RequestHook>, Error> {
    let Some(source) = source else { return Ok(None) };
    let mut object = parse::read_object(flag, &source)?;
    let wrong = |what: String| Error::Usage(format!("{flag}: {what}"));
    let text = |value: Option<Value>, field: &str| match value {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(wrong(format!("`{field}` must be text"))),
    };
    let inner = |value: Option<Value>, field: &str| match value {
        None => Ok(None),
        Some(Value::Object(object)) => parse::to_struct(&object).map(Some),
        Some(_) => Err(wrong(format!("`{field}` must be an object"))),
    };
    let hook = RequestHook {
        executer: text(object.remove("executer"), "executer")?,
        ekwargs: inner(object.remove("ekwargs"), "ekwargs")?,
        condition: text(object.remove("condition"), "condition")?,
        ckwargs: inner(object.remove("ckwargs"), "ckwargs")?,
    };
    unknown(&object).map_or(Ok(Some(hook)), |name| {
        Err(wrong(format!("`{name}` is none of executer, ekwargs, condition, ckwargs")))
    })
}

fn unknown(object: &JsonObject) -> Option<&String> {
    object.keys().next()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command, RequestCommand};

    fn typed(args: &[&str]) -> RunRequest {
        let args = ["gop", "request", "run", "echo"].iter().chain(args);
        match Cli::try_parse_from(args).unwrap().command {
            Command::Request(RequestCommand::Run(run)) => *run,
            _ => panic!("another command"),
        }
    }

    #[test]
    fn whom_and_how_are_as_they_were_typed() {
        let args = typed(&["--on", "3-1,7", "--filter", "online = true", "--include", "cpu>=2"]);
        assert_eq!(rollout(args.rollout.clone()), None);
        let want = RequestSelection {
            agents: "1-3,7".to_owned(),
            filter: "online = true".to_owned(),
            includes: vec!["cpu>=2".to_owned()],
            ..RequestSelection::default()
        };
        assert_eq!(selection(args.on), want);

        let args =
            typed(&["--on", "all", "--entities", "all", "--batch", "10%", "--max-fail", "0"]);
        let on = selection(args.on.clone());
        assert_eq!((on.all, on.entities.as_str(), on.agents.as_str()), (true, "all", ""));
        let want = Rollout {
            batch: "10%".to_owned(),
            max_failures: Some("0".to_owned()),
            ..Rollout::default()
        };
        assert_eq!(rollout(args.rollout), Some(want));

        let args = typed(&["--endpoint", "sample", "--pause", "5s", "--canary", "1"]);
        assert_eq!(args.on.on, None);
        let want = prost_types::Duration { seconds: 5, nanos: 0 };
        assert_eq!(rollout(args.rollout).map(|r| (r.pause, r.canary)), Some((Some(want), 1)));
    }

    #[test]
    fn what_a_plan_does_not_ask_for_is_refused() {
        let run = ["gop", "request", "run", "echo", "--on", "all"];
        assert!(typed(&["--on", "all", "--plan", "--batch", "10%", "--args", "{}"]).plan);
        for more in [
            &["--plan", "--finish", "1m"][..],
            &["--plan", "--expire", "1m"],
            &["--plan", "--pre-run", "{}"],
            &["--plan", "--after-run", "{}"],
            &["--plan", "--post-run", "{}"],
            &["--plan", "--wait", "1m"],
            &["--plan", "--watch"],
            &["--plan", "--detach"],
            &["--plan", "--key", "k"],
            &["--detach", "--wait", "1m"],
        ] {
            let error = Cli::try_parse_from(run.iter().chain(more)).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict, "{more:?}: {error}");
        }
        let id = "0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e77";
        let resume = ["gop", "request", "resume", id, "--wait", "1m"];
        let error = Cli::try_parse_from(resume).unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::MissingRequiredArgument, "{error}");
        for shown in ["--watch", "--jsonl"] {
            assert!(Cli::try_parse_from(resume.iter().chain(&[shown])).is_ok());
        }
    }

    #[test]
    fn a_hook_has_its_four_fields_only() {
        let text = r#"{"executer": "http", "ekwargs": {"url": "http://h"}, "condition": "agents"}"#;
        let read = hook("--pre-run", Some(text.to_owned())).unwrap().unwrap();
        assert_eq!((read.executer.as_str(), read.condition.as_str()), ("http", "agents"));
        assert!(read.ekwargs.is_some() && read.ckwargs.is_none());
        assert_eq!(hook("--pre-run", None).unwrap(), None);
        for bad in ["{\"executer\": 1}", "{\"ekwargs\": \"\"}", "{\"url\": \"\"}", "[]", "x"] {
            let error = hook("--post-run", Some(bad.to_owned())).unwrap_err().to_string();
            assert!(error.starts_with("--post-run: "), "{error}");
        }
    }
}
