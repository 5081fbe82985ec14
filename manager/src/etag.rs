//! Etags: which version of a record somebody has seen.
//!
//! Invariant: each change of a record changes its etag, and a record made anew under a name that
//! was used before has another one.

use goperation::{Error, Reason, Result};

/// The etag of a record.
pub(crate) fn of(create_time: u64, revision: u64) -> String {
    format!("{create_time:x}-{revision:x}")
}

/// Whether the version that was seen is the one on record; none given fits always.
///
/// # Errors
/// `ETAG_MISMATCH` with both.
pub(crate) fn check(given: &str, current: &str, what: &str) -> Result<()> {
    if given.is_empty() || given == current {
        return Ok(());
    }
    Err(Error::new(
        Reason::EtagMismatch,
        format!("{what} was changed meanwhile: its etag is {current}, not {given}; show it again"),
    )
    .with("etag", current))
}
