//! Ids that are made up: of messages, and the secrets by which claimants are told apart.

use std::fmt;

use crate::Error;

/// Names one message: its effect happens at most once under this id (contract §3).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(String);

impl MessageId {
    /// A new id: a UUID of version 7, so that ids sort by the time they were made.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().simple().to_string())
    }

    /// The id that a digest gives: a UUID of version 8, always the same for the same digest.
    #[must_use]
    pub fn from_digest(digest: [u8; 16]) -> Self {
        Self(uuid::Builder::from_custom_bytes(digest).into_uuid().hyphenated().to_string())
    }

    /// The id that a client gave, or a new one when it gave none.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` unless it has 1 to 128 letters, digits, `-`, `_`, `.` or `:`.
    pub fn given_or_new(field: &str, text: &str) -> Result<Self, Error> {
        if text.is_empty() { Ok(Self::generate()) } else { Self::parse(field, text) }
    }

    /// The id in a text.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` unless it has 1 to 128 letters, digits, `-`, `_`, `.` or `:`.
    pub fn parse(field: &str, text: &str) -> Result<Self, Error> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if text.is_empty() || text.len() > 128 || !text.chars().all(fits) {
            return Err(Error::invalid(
                field,
                "must be 1 to 128 letters, digits or any of - _ . :",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What only one claimant knows. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A new secret of 122 random bits.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// The secret in a text.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` unless it has 16 to 256 characters.
    pub fn parse(field: &str, text: &str) -> Result<Self, Error> {
        if (16..=256).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::invalid(field, "must have 16 to 256 characters"))
        }
    }

    /// The secret as text, for the one message or store that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
