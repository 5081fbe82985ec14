//! Every failure by its reason: one table gives the gRPC code and the HTTP status of each, and
//! one type carries it through gRPC, REST and the broker alike.
//!
//! Invariant: a reason means one cause (contract §3), and an [`Error`] survives the way
//! `Error` → `tonic::Status` → `Error` and `Error` → bytes → `Error` unchanged.

use std::{collections::BTreeMap, fmt, time::Duration};

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// `google.rpc.ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "goperation";

/// Metadata key of the message id that makes a repeat safe.
const MESSAGE_ID: &str = "message_id";

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $code:ident, $http:literal;)*) => {
        /// Why something failed (contract §3).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The reason as it stands in `ErrorInfo.reason`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Its gRPC code.
            #[must_use]
            pub fn code(self) -> Code {
                match self { $(Self::$name => Code::$code,)* }
            }

            /// Its HTTP status.
            #[must_use]
            pub fn http_status(self) -> u16 {
                match self { $(Self::$name => $http,)* }
            }

            /// The reason of that name.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// No such agent.
    AgentNotFound = "AGENT_NOT_FOUND", NotFound, 404;
    /// No such endpoint.
    EndpointNotFound = "ENDPOINT_NOT_FOUND", NotFound, 404;
    /// No such entity.
    EntityNotFound = "ENTITY_NOT_FOUND", NotFound, 404;
    /// No such reservation.
    PortNotFound = "PORT_NOT_FOUND", NotFound, 404;
    /// No such cache, or it has expired.
    CacheNotFound = "CACHE_NOT_FOUND", NotFound, 404;
    /// No such request.
    RequestNotFound = "REQUEST_NOT_FOUND", NotFound, 404;
    /// CAST or CALL to a target that was never created, or was deleted.
    QueueNotFound = "QUEUE_NOT_FOUND", NotFound, 404;
    /// The agent is known, but it is not there.
    AgentOffline = "AGENT_OFFLINE", Unavailable, 503;
    /// The agent was still at or below SOFTBUSY when the wait ended.
    AgentBusy = "AGENT_BUSY", Unavailable, 503;
    /// An endpoint method on an agent below ACTIVE.
    AgentNotActive = "AGENT_NOT_ACTIVE", FailedPrecondition, 409;
    /// The broker is down or blocked: known not to be published.
    BrokerUnavailable = "BROKER_UNAVAILABLE", Unavailable, 503;
    /// This process is stopping or its store has failed: nothing was done.
    Unavailable = "UNAVAILABLE", Unavailable, 503;
    /// It arrived too late and was not started.
    OverFinishtime = "OVER_FINISHTIME", DeadlineExceeded, 504;
    /// Published, or published and never confirmed; no reply in time.
    OutcomeUnknown = "OUTCOME_UNKNOWN", DeadlineExceeded, 504;
    /// Started, then the agent died; not idempotent, so not run again.
    Interrupted = "INTERRUPTED", Aborted, 409;
    /// The method itself failed.
    MethodFailed = "METHOD_FAILED", Unknown, 500;
    /// CALL with fanout.
    FanoutCall = "FANOUT_CALL", InvalidArgument, 400;
    /// Fields of the request are wrong; each is named.
    InvalidArgument = "INVALID_ARGUMENT", InvalidArgument, 400;
    /// The agent lacks the endpoint.
    NamespaceNotFound = "NAMESPACE_NOT_FOUND", Unimplemented, 501;
    /// The endpoint lacks the method.
    MethodNotFound = "METHOD_NOT_FOUND", Unimplemented, 501;
    /// A given port has a holder.
    PortTaken = "PORT_TAKEN", AlreadyExists, 409;
    /// Not enough free ports.
    PortsExhausted = "PORTS_EXHAUSTED", ResourceExhausted, 409;
    /// A given port is outside the agent's ranges.
    PortOutOfRange = "PORT_OUT_OF_RANGE", OutOfRange, 400;
    /// It exists already.
    AlreadyExists = "ALREADY_EXISTS", AlreadyExists, 409;
    /// No agent suits a new entity, or all that do refused.
    NoAgentSuits = "NO_AGENT_SUITS", FailedPrecondition, 409;
    /// Another claimant has this host and type.
    IdentityTaken = "IDENTITY_TAKEN", AlreadyExists, 409;
    /// The agent still has entities.
    EntitiesRemain = "ENTITIES_REMAIN", FailedPrecondition, 409;
    /// The status does not allow it.
    StateRefused = "STATE_REFUSED", FailedPrecondition, 409;
    /// The entity is locked, or too many are.
    Locked = "LOCKED", Aborted, 409;
    /// The resource is not the version that was seen.
    EtagMismatch = "ETAG_MISMATCH", Aborted, 412;
    /// The idempotency key was used with another body.
    KeyReused = "KEY_REUSED", FailedPrecondition, 409;
    /// The plan is not the one that was seen.
    PlanChanged = "PLAN_CHANGED", FailedPrecondition, 409;
    /// The agent's clock is too far off.
    ClockSkew = "CLOCK_SKEW", FailedPrecondition, 409;
    /// Who asks is not known.
    Unauthenticated = "UNAUTHENTICATED", Unauthenticated, 401;
    /// Who asks may not.
    PermissionDenied = "PERMISSION_DENIED", PermissionDenied, 403;
    /// Too many requests.
    RateLimited = "RATE_LIMITED", ResourceExhausted, 429;
    /// The queue is full.
    QueueFull = "QUEUE_FULL", ResourceExhausted, 429;
    /// The message or body is too large.
    TooLarge = "TOO_LARGE", InvalidArgument, 413;
    /// REST: no resource has this path.
    RouteNotFound = "ROUTE_NOT_FOUND", NotFound, 404;
    /// REST: the path does not have this method.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", Unimplemented, 405;
    /// REST: the body did not arrive in time.
    RequestTimeout = "REQUEST_TIMEOUT", Cancelled, 408;
    /// REST: the body is of another type than JSON, or of an unknown coding.
    UnsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE", InvalidArgument, 415;
    /// REST: the Host or Origin is not one that may ask here.
    HostRefused = "HOST_REFUSED", PermissionDenied, 403;
    /// A defect or a failed disk on our side.
    Internal = "INTERNAL", Internal, 500;
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One bad field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, as in the proto: `ports[0].count`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub description: String,
}

/// A result with a typed error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A typed failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Why.
    pub reason: Reason,
    /// For a person: what, where, and what to do next.
    pub message: String,
    /// For a program: the names and numbers of the message.
    pub metadata: BTreeMap<String, String>,
    /// Bad fields.
    pub violations: Vec<Violation>,
    /// When a repeat may succeed.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// A failure for that reason.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            retry_after: None,
        }
    }

    /// One bad field.
    #[must_use]
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::violations(vec![Violation { field: field.into(), description: description.into() }])
    }

    /// All bad fields of a request.
    #[must_use]
    pub fn violations(violations: Vec<Violation>) -> Self {
        let message = violations
            .iter()
            .map(|v| format!("{}: {}", v.field, v.description))
            .collect::<Vec<_>>()
            .join("; ");
        Self { violations, ..Self::new(Reason::InvalidArgument, message) }
    }

    /// Adds a name or number for programs.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Adds the id with which a repeat is safe.
    #[must_use]
    pub fn with_message_id(self, id: impl fmt::Display) -> Self {
        self.with(MESSAGE_ID, id)
    }

    /// Says when a repeat may succeed.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// An encoded `google.rpc.Status`: how an error crosses the broker.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Status::from(self.clone()).details().to_vec()
    }

    /// The error in an encoded `google.rpc.Status`.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        match tonic_types::pb::Status::decode(bytes) {
            Ok(pb) => Self::from_status(&Status::with_details(
                Code::from(pb.code),
                pb.message,
                bytes.to_vec().into(),
            )),
            Err(e) => Self::new(Reason::Internal, format!("an error that cannot be read: {e}")),
        }
    }

    /// The error in a gRPC status; one without our `ErrorInfo` gets the nearest reason.
    #[must_use]
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let reason = info
            .and_then(|info| Reason::parse(&info.reason))
            .unwrap_or_else(|| nearest(status.code()));
        Self {
            reason,
            message: status.message().to_owned(),
            metadata: info.map(|i| i.metadata.clone().into_iter().collect()).unwrap_or_default(),
            violations: details
                .bad_request()
                .map(|bad| {
                    bad.field_violations
                        .iter()
                        .map(|v| Violation {
                            field: v.field.clone(),
                            description: v.description.clone(),
                        })
                        .collect()
                })
                .unwrap_or_default(),
            retry_after: details.retry_info().and_then(|r| r.retry_delay),
        }
    }
}

/// The reason for a status that is not ours: a proxy's, or the transport's.
fn nearest(code: Code) -> Reason {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Reason::InvalidArgument,
        Code::Unauthenticated => Reason::Unauthenticated,
        Code::PermissionDenied => Reason::PermissionDenied,
        Code::ResourceExhausted => Reason::RateLimited,
        Code::Unavailable => Reason::Unavailable,
        Code::DeadlineExceeded | Code::Cancelled => Reason::OutcomeUnknown,
        Code::Unimplemented => Reason::MethodNotFound,
        _ => Reason::Internal,
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            error.reason.as_str(),
            DOMAIN,
            error.metadata.into_iter().collect::<std::collections::HashMap<_, _>>(),
        );
        for v in error.violations {
            details.add_bad_request_violation(v.field, v.description);
        }
        if let Some(after) = error.retry_after {
            details.set_retry_info(Some(after));
        }
        Self::with_error_details(error.reason.code(), error.message, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_grpc_and_the_broker() {
        for &reason in Reason::ALL {
            let error = Error {
                violations: vec![Violation { field: "a.b".into(), description: "no".into() }],
                ..Error::new(reason, "what happened")
            }
            .with("port", 7001)
            .with_retry_after(Duration::from_millis(1500));
            assert_eq!(Error::from_status(&Status::from(error.clone())), error);
            assert_eq!(Error::decode(&error.encode()), error);
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
    }

    #[test]
    fn a_foreign_status_gets_the_nearest_reason() {
        let error = Error::from_status(&Status::unavailable("proxy"));
        assert_eq!((error.reason, error.message.as_str()), (Reason::Unavailable, "proxy"));
    }
}
