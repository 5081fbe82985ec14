//! What goes wrong on a channel, told apart by what it means.

use std::{future::Future, time::Duration};

use lapin::ErrorKind;

use crate::TransportError;

/// Longest wait for the broker's answer to one method.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// AMQP reply codes that we act on.
pub(super) const ACCESS_REFUSED: u16 = 403;
pub(super) const NOT_FOUND: u16 = 404;
pub(super) const LOCKED: u16 = 405;
pub(super) const PRECONDITION_FAILED: u16 = 406;

/// Why a method failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The broker said so, or the connection has gone.
    #[error("{0}")]
    Amqp(#[from] lapin::Error),
    /// It did not answer.
    #[error("no answer within {ANSWER:?}")]
    Silent,
    /// Something else on the way; it is not ours to look into.
    #[error("{0}")]
    Other(String),
}

impl Fault {
    /// The broker's reply code, if it was the broker.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Amqp(e) => code(e),
            Self::Silent | Self::Other(_) => None,
        }
    }
}

impl From<Fault> for TransportError {
    fn from(fault: Fault) -> Self {
        match fault.code() {
            Some(ACCESS_REFUSED | NOT_FOUND | PRECONDITION_FAILED) => {
                Self::Refused(fault.to_string())
            }
            _ => Self::Unavailable(fault.to_string()),
        }
    }
}

/// The broker's reply code in an error, if it was the broker.
pub(super) fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(e) => Some(e.get_id()),
        _ => None,
    }
}

/// A method with a deadline.
pub(super) async fn answered<T>(
    method: impl Future<Output = lapin::Result<T>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(ANSWER, method).await {
        Ok(done) => done.map_err(Fault::Amqp),
        Err(_) => Err(Fault::Silent),
    }
}
