//! The errors of every operation: one schema, and one response for each HTTP status.
//!
//! Invariant: statuses, codes and reasons are those of [`Reason::ALL`]; none is written here.

use std::collections::{BTreeMap, BTreeSet};

use goperation::{Error, Reason};
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::problem;

/// The reasons of each HTTP status.
fn by_status() -> BTreeMap<u16, Vec<Reason>> {
    let mut by_status: BTreeMap<u16, Vec<Reason>> = BTreeMap::new();
    for &reason in Reason::ALL {
        by_status.entry(reason.http_status()).or_default().push(reason);
    }
    by_status
}

fn component(status: u16) -> String {
    format!("Error{status}")
}

/// References to the error responses, by status.
pub(super) fn references() -> Map<String, Value> {
    let reference = |status| json!({"$ref": format!("#/components/responses/{status}")});
    by_status().keys().map(|&status| (status.to_string(), reference(component(status)))).collect()
}

/// `components.responses`.
pub(super) fn responses() -> Map<String, Value> {
    let response =
        |(&status, reasons): (&u16, &Vec<Reason>)| (component(status), response(status, reasons));
    by_status().iter().map(response).collect()
}

fn response(status: u16, reasons: &[Reason]) -> Value {
    let phrase = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let names: Vec<_> = reasons.iter().map(|reason| reason.as_str()).collect();
    let mut headers = json!({"Retry-After": {"$ref": "#/components/headers/RetryAfter"}});
    if status == StatusCode::METHOD_NOT_ALLOWED.as_u16() {
        headers["Allow"] = json!({"$ref": "#/components/headers/Allow"});
    }
    json!({
        "description": format!("{}: {}.", phrase.unwrap_or("Error"), names.join(", ")),
        "headers": headers,
        "content": {"application/json": {
            "schema": {"allOf": [
                {"$ref": "#/components/schemas/Problem"},
                {"properties": properties(reasons)},
            ]},
            "example": reasons.first().map(|&reason| example(reason)),
        }},
    })
}

/// `components.schemas.Problem`.
pub(super) fn problem() -> Value {
    let mut properties = properties(Reason::ALL);
    for (name, text) in [
        ("code", "Code of gRPC, by number."),
        ("status", "Code of gRPC, by name."),
        ("reason", "Why it failed: one reason for each cause."),
    ] {
        properties[name]["description"] = text.into();
    }
    properties["message"] = json!({
        "type": "string", "description": "For a person: what, where, and what to do next.",
    });
    properties["details"] = json!({
        "type": "array",
        "description": "For a program: google.rpc.ErrorInfo with names and numbers, and where they \
                        apply BadRequest with each bad field and RetryInfo.",
        "items": {
            "type": "object", "properties": {"@type": {"type": "string"}}, "required": ["@type"],
        },
    });
    json!({
        "type": "object",
        "description": "Why a request failed.",
        "required": ["code", "status", "reason", "message", "details"],
        "properties": properties,
    })
}

/// The reasons with their codes.
fn properties(reasons: &[Reason]) -> Value {
    let bodies: Vec<_> = reasons.iter().map(|&reason| example(reason)).collect();
    let codes: BTreeSet<_> = bodies.iter().filter_map(|body| body["code"].as_i64()).collect();
    let names: BTreeSet<_> = bodies.iter().filter_map(|body| body["status"].as_str()).collect();
    let reasons: Vec<_> = reasons.iter().map(|reason| reason.as_str()).collect();
    json!({
        "code": {"type": "integer", "enum": codes},
        "status": {"type": "string", "enum": names},
        "reason": {"type": "string", "enum": reasons},
    })
}

fn example(reason: Reason) -> Value {
    problem::body(&Error::new(reason, "what happened, and what to do next"))
}

/// `components.headers`.
pub(super) fn headers() -> Value {
    json!({
        "ETag": {
            "description": "Version of the resource.", "schema": {"type": "string"},
        },
        "RetryAfter": {
            "description": "After how many seconds a repeat may succeed, where that is known.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "Allow": {
            "description": "The methods that the path has.", "schema": {"type": "string"},
        },
    })
}
