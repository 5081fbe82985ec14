//! Percent-encoding, read strictly: a bad escape or text that is not UTF-8 is an error, never
//! replaced by something else.

use std::{borrow::Cow, str::Utf8Error};

use percent_encoding::percent_decode_str;

/// Why a text cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// `%` without two hexadecimal digits.
    #[error("has a % that is not followed by two hexadecimal digits")]
    Escape,
    /// Bytes that are no text.
    #[error("is not UTF-8 when it is decoded")]
    Utf8(#[source] Utf8Error),
}

/// Decodes a text.
pub(crate) fn decode(text: &str) -> Result<Cow<'_, str>, Error> {
    for (at, _) in text.match_indices('%') {
        let digits = text.as_bytes().get(at + 1..at + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(Error::Escape);
        }
    }
    percent_decode_str(text).decode_utf8().map_err(Error::Utf8)
}

/// Decodes a text, but leaves `%2F` as it is: what is a slash in a segment and what is one between
/// two is then still to be seen.
pub(crate) fn decode_but_slash(text: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = find_slash(rest) {
        out.push_str(&decode(&rest[..at])?);
        out.push_str(&rest[at..at + 3]);
        rest = &rest[at + 3..];
    }
    out.push_str(&decode(rest)?);
    Ok(out)
}

fn find_slash(text: &str) -> Option<usize> {
    match (text.find("%2F"), text.find("%2f")) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bad_escapes_and_bytes_are_refused() {
        for text in ["%", "%2", "%zz", "a%2", "%%41", "%é"] {
            assert_eq!(decode(text), Err(Error::Escape), "{text}");
        }
        assert!(matches!(decode("%ff"), Err(Error::Utf8(_))));
        assert_eq!(decode("a%20%C3%A9+").unwrap(), "a é+");
    }

    #[test]
    fn a_slash_may_stay_encoded() {
        assert_eq!(decode("a%2Fb%20").unwrap(), "a/b ");
        assert_eq!(decode_but_slash("a%2Fb%20%2fc").unwrap(), "a%2Fb %2fc");
    }

    proptest! {
        #[test]
        fn any_text_is_decoded_or_refused(text in any::<String>()) {
            if !text.contains('%') {
                prop_assert_eq!(decode(&text).unwrap(), text.as_str());
            }
            let _ = decode(&text);
            let _ = decode_but_slash(&text);
        }
    }
}
