//! Values and their order: numbers as numbers, versions as versions, everything else as text.
//!
//! Invariant: what is a version is written with dots or as a whole number, so `5.10` follows `5.9`
//! wherever it stands in a text; fractions are only in the keys that are numbers.

use std::{cmp::Ordering, fmt};

use super::version::{self, Version};

/// What an agent has under a key, or what a weighter made of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Finite.
    Number(f64),
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// A whole number as it is written; of any length.
struct Integer<'a> {
    negative: bool,
    digits: &'a str,
}

impl<'a> Integer<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = digits.trim_start_matches('0');
        Some(Self { negative: negative && !digits.is_empty(), digits })
    }

    fn compare(&self, other: &Self) -> Ordering {
        let size = |a: &Self, b: &Self| version::digits(a.digits, b.digits);
        match (self.negative, other.negative) {
            (false, false) => size(self, other),
            (true, true) => size(other, self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

/// What two texts are to each other in a condition.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    if let (Some(a), Some(b)) = (Integer::read(a), Integer::read(b)) {
        return a.compare(&b);
    }
    match (Version::read(a), Version::read(b)) {
        (Some(a), Some(b)) => a.compare(&b),
        _ => a.cmp(b),
    }
}

impl Value {
    /// The order of candidates. Unlike [`compare`] it is one for any three texts, too: negative
    /// numbers, then numbers and versions, then the rest.
    pub(super) fn rank(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
            (Self::Text(a), Self::Text(b)) => class(a).cmp(&class(b)).then_with(|| compare(a, b)),
        }
    }

    /// It as a number, if it is one.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => number(text),
        }
    }

    /// It as a whole number, if it is one.
    pub(super) fn integer(&self) -> Option<i64> {
        match self {
            Self::Number(number) => whole(*number),
            Self::Text(text) => Integer::read(text).and_then(|_| text.parse().ok()),
        }
    }
}

fn class(text: &str) -> u8 {
    match (Integer::read(text), Version::read(text)) {
        (Some(Integer { negative: true, .. }), _) => 0,
        (Some(_), _) | (_, Some(_)) => 1,
        _ => 2,
    }
}

/// A decimal number: digits, and a fraction if there is one.
pub(super) fn number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !all(whole) || !all(fraction) {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A number that has no fraction and is exact.
#[expect(clippy::cast_possible_truncation, reason = "it is within ±2^53 and has no fraction")]
pub(super) fn whole(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() < EXACT).then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_as_what_they_are() {
        for (a, order, b) in [
            ("9", Ordering::Less, "10"),
            ("-10", Ordering::Less, "-9"),
            ("-1", Ordering::Less, "0"),
            ("-0", Ordering::Equal, "0"),
            ("007", Ordering::Equal, "7"),
            ("99999999999999999998", Ordering::Less, "99999999999999999999"),
            ("5.9", Ordering::Less, "5.10"),
            ("5.5", Ordering::Equal, "5.5.0"),
            ("5", Ordering::Less, "5.5"),
            ("10", Ordering::Greater, "5.5"),
            ("10", Ordering::Less, "9 lives"),
            ("a", Ordering::Less, "b"),
            ("", Ordering::Less, "a"),
        ] {
            assert_eq!(compare(a, b), order, "{a} {b}");
            assert_eq!(compare(b, a), order.reverse(), "{b} {a}");
        }
    }

    #[test]
    fn the_order_of_candidates_has_no_circles() {
        // As text 10 is before `9 lives`, which is before 9, which is before 10.
        let text = |text: &str| Value::Text(text.to_owned());
        let sorted = ["-7", "-2", "0", "9", "9.5", "10", "10.1.1", "1:2", "9 lives", "x"].map(text);
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(a.rank(b), i.cmp(&j), "{a} {b}");
            }
        }
    }

    #[test]
    fn numbers_are_plain() {
        for (text, value) in [("0", 0.0), ("-2.5", -2.5), ("10", 10.0), ("00.50", 0.5)] {
            assert_eq!(number(text), Some(value), "{text}");
        }
        for bad in ["", "-", "1.", ".5", "1e3", "inf", "NaN", "+1", "1.2.3", " 1", "0x1"] {
            assert_eq!(number(bad), None, "{bad}");
        }
        assert_eq!(Value::Number(2.5).integer(), None);
        assert_eq!(Value::Number(-2.0).integer(), Some(-2));
        assert_eq!(Value::Number(1e300).integer(), None);
        assert_eq!(Value::Text("5.0".into()).integer(), None);
        assert_eq!(Value::Text("9223372036854775808".into()).integer(), None);
    }
}
