//! What the transport says, as the typed failures of the contract (§3).

use std::time::Duration;

use goperation::{Error, MessageId, Reason, Violation};

use crate::{PublishError, TransportError};

/// When a repeat may succeed after a fault of the broker or a full queue.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A publish that failed, other than by [`PublishError::NoQueue`] to an agent's CALL queue.
pub(crate) fn publish(error: PublishError, id: &MessageId, target: &str) -> Error {
    match error {
        PublishError::NoQueue => queue_not_found(target),
        PublishError::Full => Error::new(
            Reason::QueueFull,
            format!("the queue of {target} is full; repeat when it has been worked off"),
        )
        .with("target", target)
        .with_retry_after(RETRY_AFTER)
        .with_message_id(id),
        PublishError::Unavailable(why) => broker_unavailable(&why).with_message_id(id),
        PublishError::Busy(why) => {
            Error::new(Reason::RateLimited, why).with_retry_after(RETRY_AFTER).with_message_id(id)
        }
        PublishError::Unknown(why) => unknown(id, &format!("the broker did not confirm it: {why}")),
        PublishError::TooLarge { limit } => {
            Error::new(Reason::TooLarge, format!("the message is larger than {limit} bytes"))
                .with("limit", limit)
        }
    }
}

/// The broker cannot be reached: known not to be published.
pub(crate) fn broker_unavailable(why: &str) -> Error {
    Error::new(Reason::BrokerUnavailable, format!("the broker is not available: {why}"))
        .with_retry_after(RETRY_AFTER)
}

/// Nobody ever made that target, or it was deleted.
pub(crate) fn queue_not_found(target: &str) -> Error {
    Error::new(
        Reason::QueueNotFound,
        format!("no queue for {target}: it was never created, or was deleted"),
    )
    .with("target", target)
}

/// It may have happened.
pub(crate) fn unknown(id: &MessageId, why: &str) -> Error {
    Error::new(
        Reason::OutcomeUnknown,
        format!("{why}; whether it happened is unknown, repeating with message id {id} is safe"),
    )
    .with_message_id(id)
}

/// Too much of something at a time.
pub(crate) fn rate_limited(what: &str, limit: usize) -> Error {
    Error::new(Reason::RateLimited, format!("{limit} {what} at a time is the limit"))
        .with("limit", limit)
        .with_retry_after(RETRY_AFTER)
}

/// The process is stopping.
pub(crate) fn stopping() -> Error {
    Error::new(Reason::Unavailable, "the bridge is stopping")
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Unavailable(why) => broker_unavailable(&why),
            TransportError::Refused(why) => {
                Self::new(Reason::Internal, format!("the broker refused it: {why}"))
            }
        }
    }
}

/// Collects the bad fields of a request, so that all are named at once.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<Violation>);

impl Fields {
    /// The value, or its violations kept.
    pub(crate) fn take<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.extend(error.violations);
                None
            }
        }
    }

    /// A bad field.
    pub(crate) fn bad(&mut self, field: &str, description: impl Into<String>) {
        self.0.push(Violation { field: field.to_owned(), description: description.into() });
    }

    /// The failure that names all bad fields; `None` when there is none.
    pub(crate) fn error(self) -> Option<Error> {
        if self.0.is_empty() { None } else { Some(Error::violations(self.0)) }
    }
}
