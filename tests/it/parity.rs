//! For each annotated method and each of its bindings: by gRPC and by REST, success and failure
//! alike, over the network, to a live fleet. The answers are the same.
//!
//! Invariant: the methods come from the descriptor, so a new one without a case fails the test.

mod cases;
mod fixture;
mod wire;

use std::collections::BTreeSet;

use futures::StreamExt as _;
use goperation::Error;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use tonic::Status;

use crate::{
    dev::{dev, end},
    fleet::SOON,
};
use cases::{Ask, Case};
use fixture::Fixture;
use wire::{Answer, Rule, Wire, to_json};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
/// How often a reading is repeated until nothing has changed in between.
const TRIES: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn grpc_and_rest_answer_alike() {
    let (process, address) = dev(&["--agents", "4"]).await;
    let wire = Wire::new(&address);
    let fixture = Fixture::new(&wire).await;
    let rules = wire.rules();
    let cases = cases::all(&fixture);
    covered(&rules, &cases);

    let mut bad = Vec::new();
    for case in &cases {
        let rule =
            rules.iter().find(|r| (r.name().as_str(), r.binding) == (case.method, case.binding));
        let rule =
            rule.unwrap_or_else(|| panic!("{} has no binding {}", case.method, case.binding));
        if let Err(why) = check(&wire, rule, &case.ask).await {
            bad.push(format!("{}: {:?}\n{why}", rule.shown(), case.ask));
        }
    }
    let methods: BTreeSet<_> = rules.iter().map(Rule::name).collect();
    let (all, bindings) = (cases.len(), rules.len());
    println!("{} methods, {bindings} bindings, {all} cases, {} bad", methods.len(), bad.len());
    assert!(bad.is_empty(), "{} of {all} differ\n\n{}", bad.len(), bad.join("\n\n"));
    drop(fixture);
    end(process).await;
}

/// Every binding has a success and a failure.
fn covered(rules: &[Rule], cases: &[Case]) {
    assert!(rules.len() > 50, "the annotations are read");
    let has = |rule: &Rule, failing: bool| {
        cases.iter().any(|case| {
            (case.method, case.binding) == (rule.name().as_str(), rule.binding)
                && matches!(case.ask, Ask::Fails(..)) == failing
        })
    };
    // A request without fields cannot be wrong.
    let fails = |rule: &Rule| rule.method.input().fields().len() > 0;
    let missing: Vec<_> = rules
        .iter()
        .flat_map(|rule| {
            let success = (!has(rule, false)).then(|| format!("{}: success", rule.shown()));
            let failure = fails(rule) && !has(rule, true);
            let failure = failure.then(|| format!("{}: failure", rule.shown()));
            success.into_iter().chain(failure)
        })
        .collect();
    assert!(missing.is_empty(), "without a case:\n{}", missing.join("\n"));
}

async fn check(wire: &Wire, rule: &Rule, ask: &Ask) -> Result<(), String> {
    match ask {
        Ask::Read(request) => read(wire, rule, request).await,
        Ask::Each { grpc, rest, differ } => {
            let answer = wire.grpc(&rule.method, grpc).await.map_err(|s| format!("gRPC: {s:?}"))?;
            let seen = succeeded(rule, &wire.rest(rule, rest, JSON).await)?;
            same(&blurred(&answer, differ), &blurred(&seen, differ))
        }
        Ask::Stream { grpc, lines, events, differ } => {
            let wanted = messages(wire, rule, grpc, differ).await;
            same(&wanted, &ndjson(wire, rule, lines, differ).await)?;
            same(&wanted, &server_sent(wire, rule, events, differ).await)
        }
        Ask::Ending(request) => {
            let wanted = whole(wire, rule, request).await;
            let seen = wire.rest(rule, request, JSON).await;
            same(&wanted, &from_ndjson(rule, &lines(&seen, "application/x-ndjson"), &[]))?;
            let seen = wire.rest(rule, request, EVENTS).await;
            same(&wanted, &from_events(rule, &lines(&seen, EVENTS), &[]))
        }
        Ask::Fails(request, reason) => {
            let status = failure(wire, rule, request).await?;
            let error = Error::from_status(&status);
            if error.reason != *reason {
                return Err(format!("expected {reason}, got {error:?}"));
            }
            let mut accepts = vec![JSON];
            if rule.method.is_server_streaming() {
                accepts.push(EVENTS);
            }
            for accept in accepts {
                let seen = wire.rest(rule, request, accept).await;
                failed(wire, &status, &error, &seen).map_err(|why| format!("{accept}: {why}"))?;
            }
            Ok(())
        }
    }
}

/// A reading, with nothing changed between two readings by gRPC around it.
async fn read(wire: &Wire, rule: &Rule, request: &Value) -> Result<(), String> {
    let grpc = async || wire.grpc(&rule.method, request).await.map_err(|s| format!("gRPC: {s:?}"));
    let mut before = grpc().await?;
    for _ in 0..TRIES {
        let seen = succeeded(rule, &wire.rest(rule, request, JSON).await)?;
        let after = grpc().await?;
        if before == after {
            return same(&to_json(&after), &to_json(&seen));
        }
        before = after;
    }
    Err("it never stood still".to_owned())
}

fn succeeded(rule: &Rule, answer: &Answer) -> Result<DynamicMessage, String> {
    if answer.status == 200 {
        Ok(Wire::parsed(rule, answer.json()))
    } else {
        Err(format!("REST: {} {}", answer.status, String::from_utf8_lossy(&answer.body)))
    }
}

async fn failure(wire: &Wire, rule: &Rule, request: &Value) -> Result<Status, String> {
    let answered = if rule.method.is_server_streaming() {
        match wire.grpc_stream(&rule.method, request).await {
            Ok(mut stream) => stream.message().await.map(|message| format!("{message:?}")),
            Err(status) => Err(status),
        }
    } else {
        wire.grpc(&rule.method, request).await.map(|answer| to_json(&answer).to_string())
    };
    match answered {
        Ok(answer) => Err(format!("gRPC succeeds with {answer}")),
        Err(status) => Ok(status),
    }
}

fn failed(wire: &Wire, status: &Status, error: &Error, seen: &Answer) -> Result<(), String> {
    let mut body = seen.json();
    let details = body.as_object_mut().and_then(|body| body.remove("details"));
    let wanted = json!({
        "code": i32::from(status.code()),
        "status": canonical(status.code()),
        "reason": error.reason.as_str(),
        "message": status.message(),
    });
    same(&wanted, &body)?;
    if seen.status != error.reason.http_status() {
        return Err(format!("HTTP {} instead of {}", seen.status, error.reason.http_status()));
    }
    let details = wire.details_json(&details.unwrap_or_default());
    same(&unordered(wire.details(status)), &unordered(details))?;
    let after = error.retry_after.map(|after| after.as_secs_f64().ceil().to_string());
    let header = seen.headers.get(http::header::RETRY_AFTER).map(|v| v.to_str().unwrap());
    if header != after.as_deref() {
        return Err(format!("Retry-After is {header:?} instead of {after:?}"));
    }
    Ok(())
}

/// Details have no order, and a message id that was made here is another one each time.
fn unordered(mut details: Vec<Value>) -> Value {
    for detail in &mut details {
        if let Some(Value::String(id)) =
            detail.pointer_mut("/google.rpc.ErrorInfo/metadata/message_id")
            && id.len() == 32
        {
            *id = "…".to_owned();
        }
    }
    details.sort_by_key(Value::to_string);
    details.into()
}

/// `NOT_FOUND`, as google.rpc.Code has it.
fn canonical(code: tonic::Code) -> String {
    let mut name = String::new();
    for (i, c) in format!("{code:?}").chars().enumerate() {
        if c.is_uppercase() && i > 0 {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

fn same(grpc: &Value, rest: &Value) -> Result<(), String> {
    if grpc == rest { Ok(()) } else { Err(format!("gRPC {grpc:#}\nREST {rest:#}")) }
}

/// The JSON of an answer without the named fields, at whatever depth.
fn blurred(answer: &DynamicMessage, differ: &[&str]) -> Value {
    fn blur(value: &mut Value, differ: &[&str]) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, _| !differ.contains(&name.as_str()));
                fields.values_mut().for_each(|value| blur(value, differ));
            }
            Value::Array(values) => values.iter_mut().for_each(|value| blur(value, differ)),
            _ => {}
        }
    }
    let mut value = to_json(answer);
    blur(&mut value, differ);
    value
}

/// Two messages of the stream.
async fn messages(wire: &Wire, rule: &Rule, request: &Value, differ: &[&str]) -> Value {
    let stream = wire.grpc_stream(&rule.method, request).await.unwrap();
    let two = stream.take(2).map(|message| blurred(&message.unwrap(), differ));
    tokio::time::timeout(SOON, two.collect::<Vec<_>>()).await.expect("two messages").into()
}

/// All messages of a stream that ends.
async fn whole(wire: &Wire, rule: &Rule, request: &Value) -> Value {
    let stream = wire.grpc_stream(&rule.method, request).await.unwrap();
    let all = stream.map(|message| to_json(&message.unwrap()));
    tokio::time::timeout(SOON, all.collect::<Vec<_>>()).await.expect("the stream ends").into()
}

/// The lines of a stream that has ended well.
fn lines(answer: &Answer, kind: &str) -> Vec<String> {
    let said = answer.headers.get(http::header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap());
    assert_eq!((answer.status, said), (200, Some(kind)), "{answer:?}");
    String::from_utf8(answer.body.to_vec()).unwrap().lines().map(str::to_owned).collect()
}

async fn ndjson(wire: &Wire, rule: &Rule, request: &Value, differ: &[&str]) -> Value {
    let (kind, lines) = wire.rest_stream(rule, request, JSON, |lines| lines.len() >= 2).await;
    assert!(kind.starts_with("application/x-ndjson") || kind.starts_with(JSON), "{kind}");
    from_ndjson(rule, &lines[..2], differ)
}

fn from_ndjson(rule: &Rule, lines: &[String], differ: &[&str]) -> Value {
    let read = |line: &String| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let fields = line.as_object_mut().unwrap();
        let result = fields.remove("result").unwrap_or_else(|| panic!("no result in {fields:?}"));
        assert!(fields.is_empty(), "{fields:?}");
        blurred(&Wire::parsed(rule, result), differ)
    };
    lines.iter().map(read).collect()
}

fn data(line: &str) -> Option<&str> {
    line.strip_prefix("data:").map(str::trim)
}

async fn server_sent(wire: &Wire, rule: &Rule, request: &Value, differ: &[&str]) -> Value {
    let enough = |lines: &[String]| lines.iter().filter_map(|line| data(line)).count() >= 2;
    let (kind, lines) = wire.rest_stream(rule, request, EVENTS, enough).await;
    assert!(kind.starts_with(EVENTS), "{kind}");
    let Value::Array(mut events) = from_events(rule, &lines, differ) else { unreachable!() };
    events.truncate(2);
    events.into()
}

fn from_events(rule: &Rule, lines: &[String], differ: &[&str]) -> Value {
    assert!(!lines.iter().any(|line| line.starts_with("event: error")), "{lines:?}");
    let read = |data| {
        let message: Value = serde_json::from_str(data).unwrap();
        blurred(&Wire::parsed(rule, message), differ)
    };
    lines.iter().filter_map(|line| data(line)).map(read).collect()
}
