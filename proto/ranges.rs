//! Sets of numbers written as ranges: `1-3,7`.
//!
//! Invariant: the ranges of a set are sorted, disjoint and not adjacent, so equal sets are equal.

use std::fmt;

use crate::Error;

/// A set of numbers ≥ 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// The set in a text; blanks around commas and dashes are allowed, a range may stand reversed.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the part that is not a number or a range of numbers ≥ 1.
    pub fn parse(field: &str, text: &str) -> Result<Self, Error> {
        let mut parts = Vec::new();
        for part in text.split(',').map(str::trim) {
            let bad = || Error::invalid(field, format!("`{part}` is not a number or a range a-b"));
            let number = |t: &str| t.trim().parse::<u32>().ok().filter(|&n| n > 0);
            let (a, b) = match part.split_once('-') {
                Some((a, b)) => (number(a).ok_or_else(bad)?, number(b).ok_or_else(bad)?),
                None => number(part).map(|n| (n, n)).ok_or_else(bad)?,
            };
            parts.push((a.min(b), a.max(b)));
        }
        Ok(Self::merged(parts))
    }

    fn merged(mut parts: Vec<(u32, u32)>) -> Self {
        parts.sort_unstable();
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for (a, b) in parts {
            match ranges.last_mut() {
                Some(last) if a <= last.1.saturating_add(1) => last.1 = last.1.max(b),
                _ => ranges.push((a, b)),
            }
        }
        Self(ranges)
    }

    /// Whether the set has the number.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        let after = self.0.partition_point(|&(a, _)| a <= number);
        after > 0 && number <= self.0[after - 1].1
    }

    /// Its ranges, both ends included.
    #[must_use]
    pub fn as_slice(&self) -> &[(u32, u32)] {
        &self.0
    }
}

impl FromIterator<u32> for Ranges {
    /// The set of these numbers; 0 is left out.
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        Self::merged(numbers.into_iter().filter(|&n| n > 0).map(|n| (n, n)).collect())
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (a, b)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            if a == b { write!(f, "{comma}{a}")? } else { write!(f, "{comma}{a}-{b}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_merges() {
        let set = Ranges::parse("agents", "7, 3-1,4,10-12,11").unwrap();
        assert_eq!(set.to_string(), "1-4,7,10-12");
        for (n, inside) in [(1, true), (4, true), (5, false), (7, true), (12, true), (13, false)] {
            assert_eq!(set.contains(n), inside, "{n}");
        }
    }

    #[test]
    fn is_made_of_numbers() {
        let set: Ranges = [9, 3, 2, 0, 1, 3, u32::MAX, u32::MAX - 1].into_iter().collect();
        assert_eq!(set.to_string(), "1-3,9,4294967294-4294967295");
        assert_eq!(Ranges::parse("agents", &set.to_string()), Ok(set));
        assert_eq!(std::iter::empty::<u32>().collect::<Ranges>(), Ranges::default());
    }

    #[test]
    fn refuses_what_is_not_a_range() {
        for bad in ["", "0", "a", "1-", "-1", "1,,2", "1-2-3"] {
            assert!(Ranges::parse("agents", bad).is_err(), "{bad}");
        }
    }
}
