//! Numbers in a path as the old `map_to_int` read them: `all`, or a list of numbers and ranges
//! without spaces, `1-3,7`.
//!
//! Invariant: a set is kept as its ranges, so a large one costs nothing.

use goperation::Error;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ids {
    /// Every one.
    All,
    /// Those in these ranges, both ends included: sorted, disjoint and not adjacent.
    Set(Vec<(u32, u32)>),
}

impl Ids {
    /// Reads it.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the part that is neither a number nor a range.
    pub(super) fn parse(field: &str, text: &str) -> Result<Self, Error> {
        if text == "all" {
            return Ok(Self::All);
        }
        let mut parts = Vec::new();
        for part in text.split(',') {
            let range = match part.split_once('-') {
                Some((a, b)) => bound(a).zip(bound(b)).map(|(a, b)| (a.min(b), a.max(b))),
                None => number(part).map(|n| (n, n)),
            };
            parts.push(range.ok_or_else(|| {
                Error::invalid(field, format!("`{part}` is not a number or a range a-b"))
            })?);
        }
        parts.sort_unstable();
        let mut ranges: Vec<(u32, u32)> = Vec::with_capacity(parts.len());
        for (a, b) in parts {
            match ranges.last_mut() {
                Some(last) if a <= last.1.saturating_add(1) => last.1 = last.1.max(b),
                _ => ranges.push((a, b)),
            }
        }
        Ok(Self::Set(ranges))
    }
}

/// The one number that a path names.
///
/// # Errors
/// `INVALID_ARGUMENT` when it is none, or several.
pub(super) fn single(field: &str, text: &str) -> Result<i32, Error> {
    let Ids::Set(ranges) = Ids::parse(field, text)? else {
        return Err(Error::invalid(field, "must be one number, and not all"));
    };
    match ranges.as_slice() {
        &[(a, b)] if a == b => {
            i32::try_from(a).map_err(|_| Error::invalid(field, "is too large a number"))
        }
        _ => Err(Error::invalid(field, "must be one number")),
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// An end of a range: it begins with 1 to 9.
fn bound(text: &str) -> Option<u32> {
    number(text).filter(|_| !text.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_as_the_old_function_read_them() {
        for (text, ranges) in [
            ("1,2", &[(1, 2)][..]),
            ("1-3,7", &[(1, 3), (7, 7)]),
            ("5-1", &[(1, 5)]),
            ("01", &[(1, 1)]),
            ("0", &[(0, 0)]),
            ("3,3,3", &[(3, 3)]),
            ("7,1-2,4,3", &[(1, 4), (7, 7)]),
            ("1-4000000000", &[(1, 4_000_000_000)]),
        ] {
            assert_eq!(Ids::parse("agent_id", text).unwrap(), Ids::Set(ranges.into()), "{text}");
        }
        assert_eq!(Ids::parse("agent_id", "all").unwrap(), Ids::All);
        for bad in ["", "1, 2", "a", "1-", "-1", "0-3", "01-3", "1,,2", "1-2-3", "+1", "1.5", "All"]
        {
            assert!(Ids::parse("agent_id", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_number_where_one_is_wanted() {
        for (text, id) in [("7", 7), ("07", 7), ("7-7", 7), ("7,7", 7), ("0", 0)] {
            assert_eq!(single("agent_id", text).unwrap(), id, "{text}");
        }
        for bad in ["all", "1,2", "1-2", "", "x", "4294967295", "99999999999"] {
            assert!(single("agent_id", bad).is_err(), "{bad:?}");
        }
    }
}
