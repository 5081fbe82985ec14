//! Failures: of the manager itself, and how those of its store reach a caller.
//!
//! Invariant: what goes out is a typed [`goperation::Error`]; the source of a defect is logged
//! here, once, and never sent.

use goperation::{Error as Typed, Reason, Result};
use goperation_store as store;

/// Why a manager ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed. What is in memory may be ahead of the disk: start again from disk.
    #[error("the manager's store failed")]
    Store(#[source] store::Error),
    /// What is stored cannot be read.
    #[error("the manager's record cannot be used: {0}")]
    Record(Typed),
    /// The gRPC server failed.
    #[error("the gRPC server failed")]
    Serve(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A failure of the store, for the caller of an RPC.
pub(crate) fn from_store(error: store::Error) -> Typed {
    match error {
        store::Error::Closed => Typed::new(Reason::Unavailable, "the manager is stopping"),
        error => {
            tracing::error!(error = &error as &dyn std::error::Error, "store failed");
            Typed::new(Reason::Internal, "the manager's store failed; see its log")
        }
    }
}

/// Logs a failed RPC once, at the edge, and gives it on as a status.
pub(crate) fn edge<T>(result: Result<T>) -> Result<tonic::Response<T>, tonic::Status> {
    match result {
        Ok(answer) => Ok(tonic::Response::new(answer)),
        Err(error) => {
            if error.reason == Reason::Internal {
                tracing::error!(reason = %error.reason, %error, "request failed");
            } else {
                tracing::info!(reason = %error.reason, %error, "request refused");
            }
            Err(error.into())
        }
    }
}
