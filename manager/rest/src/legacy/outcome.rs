//! The status that a reason had in the old system.
//!
//! Invariant: every reason has one; a route's own exceptions stand beside it in the table.

use goperation::{Error, Reason};
use http::StatusCode;
use serde_json::{Value, json};

use super::envelope::Envelope;

/// What a failure is to an old client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This error class, by which its message begins, and this status.
    Fault(&'static str, StatusCode),
    /// 200, with `resultcode` -1.
    Logical,
}

use Outcome::{Fault, Logical};

/// What was asked for cannot be meant.
pub(super) const INVALID: Outcome = Fault("InvalidArgument", StatusCode::BAD_REQUEST);
/// A row is not there.
pub(super) const MISSING: Outcome = Fault("NoResultFound", StatusCode::NOT_FOUND);
/// A row is there already.
pub(super) const DUPLICATE: Outcome = Fault("DBDuplicateEntry", StatusCode::INTERNAL_SERVER_ERROR);
/// Only said in `resultcode`.
pub(super) const LOGICAL: Outcome = Logical;

/// The agent said no.
const REFUSED: Outcome = Fault("RpcResultError", StatusCode::INTERNAL_SERVER_ERROR);
/// The agent cannot be asked.
const UNPREPARED: Outcome = Fault("RpcPrepareError", StatusCode::INTERNAL_SERVER_ERROR);
/// The agent did not answer.
const SILENT: Outcome = Fault("MessagingTimeout", StatusCode::SERVICE_UNAVAILABLE);
/// Nobody takes the message.
const NOWHERE: Outcome = Fault("AMQPDestinationNotFound", StatusCode::SERVICE_UNAVAILABLE);
/// The agent has no such method.
const UNKNOWN: Outcome = Fault("NoSuchMethod", StatusCode::NOT_IMPLEMENTED);
/// The old system made nothing of it.
const CRASHED: Outcome = Fault("ServerError", StatusCode::INTERNAL_SERVER_ERROR);

fn of(reason: Reason) -> Outcome {
    match reason {
        Reason::InvalidArgument
        | Reason::FanoutCall
        | Reason::PortOutOfRange
        | Reason::UnsupportedMediaType
        | Reason::AgentNotFound
        | Reason::EndpointNotFound
        | Reason::EntityNotFound
        | Reason::PortNotFound
        | Reason::EntitiesRemain
        | Reason::KeyReused
        | Reason::PlanChanged => INVALID,
        Reason::CacheNotFound | Reason::RequestNotFound => MISSING,
        Reason::RouteNotFound | Reason::MethodNotAllowed => {
            Fault("HTTPNotFound", StatusCode::NOT_FOUND)
        }
        Reason::Unauthenticated | Reason::PermissionDenied => {
            Fault("Request Failed: HTTPUnauthorized", StatusCode::UNAUTHORIZED)
        }
        Reason::HostRefused => Fault("HTTPForbidden", StatusCode::FORBIDDEN),
        Reason::RequestTimeout => Fault("HTTPRequestTimeout", StatusCode::REQUEST_TIMEOUT),
        Reason::TooLarge => Fault("HTTPRequestEntityTooLarge", StatusCode::PAYLOAD_TOO_LARGE),
        Reason::AgentOffline => UNPREPARED,
        Reason::AgentBusy | Reason::OutcomeUnknown => SILENT,
        Reason::QueueNotFound | Reason::BrokerUnavailable | Reason::QueueFull => NOWHERE,
        Reason::Unavailable | Reason::RateLimited => {
            Fault("HTTPServiceUnavailable", StatusCode::SERVICE_UNAVAILABLE)
        }
        Reason::NamespaceNotFound | Reason::MethodNotFound => UNKNOWN,
        Reason::AgentNotActive
        | Reason::OverFinishtime
        | Reason::Interrupted
        | Reason::MethodFailed
        | Reason::PortTaken
        | Reason::PortsExhausted
        | Reason::StateRefused
        | Reason::NoAgentSuits
        | Reason::Locked
        | Reason::ClockSkew => REFUSED,
        Reason::AlreadyExists | Reason::IdentityTaken => DUPLICATE,
        Reason::EtagMismatch | Reason::Internal => CRASHED,
    }
}

/// The answer to a request that failed so, on a route with those exceptions. One that is not built
/// yet says so in the envelope too.
pub(super) fn answer(
    error: &Error,
    except: &[(Reason, Outcome)],
    unbuilt: bool,
) -> (StatusCode, Value) {
    if unbuilt {
        let message = format!("NotImplementedError: {}", error.message);
        let mut value = Envelope::refused(&message).to_json();
        value["msg"] = message.into();
        return (StatusCode::NOT_IMPLEMENTED, value);
    }
    let exception = except.iter().find(|(reason, _)| *reason == error.reason);
    match exception.map_or_else(|| of(error.reason), |(_, outcome)| *outcome) {
        Logical => (StatusCode::OK, Envelope::refused(&error.message).to_json()),
        UNKNOWN => {
            let message = format!("NoSuchMethod: {}", error.message);
            let mut value = Envelope::refused(&message).to_json();
            value["msg"] = message.into();
            (StatusCode::NOT_IMPLEMENTED, value)
        }
        Fault(class, status) => {
            let own = if status == StatusCode::BAD_REQUEST { "Argument is Invalid: " } else { "" };
            (status, json!({ "msg": format!("{class}: {own}{}", error.message) }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_status_that_old_clients_know() {
        for &reason in Reason::ALL {
            let (status, body) = answer(&Error::new(reason, "why"), &[], false);
            assert!(
                [400, 401, 403, 404, 408, 413, 500, 501, 503].contains(&status.as_u16()),
                "{reason}: {status}"
            );
            assert!(body["msg"].as_str().unwrap().ends_with(": why"), "{body}");
        }
    }

    #[test]
    fn messages_begin_as_they_did() {
        for (reason, status, msg) in [
            (Reason::InvalidArgument, 400, "InvalidArgument: Argument is Invalid: why"),
            (Reason::Unauthenticated, 401, "Request Failed: HTTPUnauthorized: why"),
            (Reason::OutcomeUnknown, 503, "MessagingTimeout: why"),
            (Reason::RequestNotFound, 404, "NoResultFound: why"),
            (Reason::KeyReused, 400, "InvalidArgument: Argument is Invalid: why"),
        ] {
            let (is, body) = answer(&Error::new(reason, "why"), &[], false);
            assert_eq!((is.as_u16(), &body), (status, &json!({ "msg": msg })));
        }
    }

    #[test]
    fn an_exception_wins_and_what_is_not_built_has_both_bodies() {
        let error = Error::new(Reason::StateRefused, "why");
        let (status, body) = answer(&error, &[(Reason::StateRefused, LOGICAL)], false);
        assert_eq!(
            (status.as_u16(), &body["resultcode"], &body["msg"]),
            (200, &json!(-1), &json!(null))
        );
        let (status, body) = answer(&error, &[], true);
        assert_eq!(status, 501);
        let mut keys: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["data", "msg", "pagenum", "result", "resultcode", "total"]);
    }
}
