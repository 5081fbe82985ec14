//! The JSON error of `/v1`: what an [`Error`] is to a client of HTTP.
//!
//! Invariant: the status, the code and the reason are those of the one table of reasons, and the
//! details are those that gRPC carries.

use std::time::Duration;

use bytes::Bytes;
use goperation::{DOMAIN, Error, Reason};
use http::{
    HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::Answer;

/// Where the methods that a path has are, in the metadata of METHOD_NOT_ALLOWED.
pub(crate) const ALLOWED: &str = "allow";

/// The answer to a request that failed so.
pub(crate) fn problem(error: &Error) -> Response<Answer> {
    let body = Bytes::from(body(error).to_string());
    let mut response = Response::new(Answer::new(Full::new(body.clone())));
    *response.status_mut() = StatusCode::from_u16(error.reason.http_status())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    if let Some(after) = error.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds_up(after)));
    }
    if error.reason == Reason::MethodNotAllowed
        && let Some(allow) = error.metadata.get(ALLOWED)
        && let Ok(allow) = HeaderValue::from_str(allow)
    {
        headers.insert(ALLOW, allow);
    }
    response
}

/// The body of that answer.
pub(crate) fn body(error: &Error) -> Value {
    let mut details = vec![json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": error.reason.as_str(),
        "domain": DOMAIN,
        "metadata": error.metadata,
    })];
    if !error.violations.is_empty() {
        let violations: Vec<_> = error
            .violations
            .iter()
            .map(|v| json!({"field": v.field, "description": v.description}))
            .collect();
        details.push(json!({
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": violations,
        }));
    }
    if let Some(after) = error.retry_after {
        details.push(json!({
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": duration(after),
        }));
    }
    let code = error.reason.code();
    json!({
        "code": code as i32,
        "status": name(code),
        "reason": error.reason.as_str(),
        "message": error.message,
        "details": details,
    })
}

fn seconds_up(after: Duration) -> u64 {
    after.as_secs() + u64::from(after.subsec_nanos() > 0)
}

/// As proto3 JSON writes a duration.
fn duration(after: Duration) -> String {
    let (seconds, nanos) = (after.as_secs(), after.subsec_nanos());
    match nanos {
        0 => format!("{seconds}s"),
        _ if nanos.is_multiple_of(1_000_000) => format!("{seconds}.{:03}s", nanos / 1_000_000),
        _ => format!("{seconds}.{nanos:09}s"),
    }
}

/// The name of a code, as gRPC writes it.
fn name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_status_code_and_name() {
        for &reason in Reason::ALL {
            let error = Error::new(reason, "what happened");
            assert_eq!(problem(&error).status().as_u16(), reason.http_status());
            let body = body(&error);
            assert_eq!(body["reason"], reason.as_str());
            assert_eq!(body["code"], reason.code() as i32);
            let name = body["status"].as_str().unwrap().replace('_', "").to_lowercase();
            assert_eq!(name, format!("{:?}", reason.code()).to_lowercase());
        }
    }

    #[test]
    fn details_and_headers_are_those_of_the_error() {
        let error = Error::invalid("agent.id", "is missing")
            .with("port", 7001)
            .with_retry_after(Duration::from_millis(1500));
        assert_eq!(
            body(&error)["details"],
            json!([
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "INVALID_ARGUMENT",
                    "domain": "goperation",
                    "metadata": {"port": "7001"},
                },
                {
                    "@type": "type.googleapis.com/google.rpc.BadRequest",
                    "fieldViolations": [{"field": "agent.id", "description": "is missing"}],
                },
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.500s"},
            ])
        );
        let response = problem(&error);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["content-type"], "application/json");
        let length = body(&error).to_string().len().to_string();
        assert_eq!(response.headers()["content-length"], length.as_str());
        let not_allowed = Error::new(Reason::MethodNotAllowed, "no").with(ALLOWED, "GET, OPTIONS");
        assert_eq!(problem(&not_allowed).headers()["allow"], "GET, OPTIONS");
    }
}
