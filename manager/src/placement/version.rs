//! Versions as packages write them, and their order.
//!
//! Invariant: the order is total over everything that reads as a version. It is of our own because
//! what is compared are versions of any package (`5.5.68-MariaDB`, `v1.2rc1`, `10.0.0-91-generic`),
//! in which a suffix means an earlier version only where it says so.

use std::cmp::Ordering;

/// Words that say that something comes before what they are added to.
const BEFORE: [&str; 12] = [
    "a", "alpha", "b", "beta", "c", "dev", "nightly", "pre", "preview", "rc", "snapshot",
    "unstable",
];

/// A version: numbers joined by dots, and what follows them.
#[derive(Debug)]
pub(super) struct Version<'a> {
    numbers: Vec<&'a str>,
    rest: &'a str,
}

impl<'a> Version<'a> {
    /// Whether a text looks like a version, and which one.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let (mut numbers, mut rest) = (Vec::new(), text);
        loop {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            if end == 0 {
                return None;
            }
            numbers.push(&rest[..end]);
            rest = &rest[end..];
            match rest.strip_prefix('.') {
                Some(more) if more.starts_with(|c: char| c.is_ascii_digit()) => rest = more,
                _ => break,
            }
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || ".+~_-".contains(c);
        (!rest.starts_with('.') && rest.chars().all(plain)).then_some(Self { numbers, rest })
    }

    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let longest = self.numbers.len().max(other.numbers.len());
        let number = |version: &Self, i: usize| version.numbers.get(i).copied().unwrap_or("0");
        (0..longest)
            .map(|i| digits(number(self, i), number(other, i)))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| {
                self.kind().cmp(&other.kind()).then_with(|| natural(self.word(), other.word()))
            })
    }

    /// What follows the numbers, without what joins it to them.
    fn word(&self) -> &'a str {
        self.rest.trim_start_matches(['-', '_', '~', '+'])
    }

    /// Whether what follows the numbers makes it earlier, nothing, or later.
    fn kind(&self) -> u8 {
        let word = self.word();
        let end = word.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(word.len());
        match self.rest.chars().next() {
            None => 2,
            Some('~') => 0,
            Some(c) if c != '+' && BEFORE.contains(&&*word[..end].to_ascii_lowercase()) => 1,
            Some(_) => 3,
        }
    }
}

/// Digits of any number as a number.
pub(super) fn digits(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Runs of digits as numbers, everything between them as text.
fn natural(mut a: &str, mut b: &str) -> Ordering {
    while !a.is_empty() && !b.is_empty() {
        let ((x, more_a), (y, more_b)) = (run(a), run(b));
        let is_number = |run: &str| run.starts_with(|c: char| c.is_ascii_digit());
        let order = match (is_number(x), is_number(y)) {
            (true, true) => digits(x, y),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => x.cmp(y),
        };
        if order.is_ne() {
            return order;
        }
        (a, b) = (more_a, more_b);
    }
    a.len().cmp(&b.len())
}

/// The longest beginning that is all digits, or has none.
fn run(text: &str) -> (&str, &str) {
    let first = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != first).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_order() {
        let sorted = [
            "0.9",
            "1.0~1",
            "1.0.0-alpha.2",
            "1.0.0-alpha.10",
            "1.0-beta1",
            "v1.0rc1",
            "1.0.0-rc2",
            "1.0.0",
            "1.0.0-1",
            "1.0.0-2-generic",
            "1.0.0-91-generic",
            "1.0.0-MariaDB",
            "1.0.0+build",
            "1.0.1",
            "1.9",
            "1.10",
            "2",
            "10.0.0.1",
            "99999999999999999999.1",
        ];
        let read = |text| Version::read(text).unwrap_or_else(|| panic!("{text}"));
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(read(a).compare(&read(b)), i.cmp(&j), "{a} {b}");
            }
        }
        assert!(read("5.5").compare(&read("5.5.0")).is_eq());
        assert!(read("v1.02").compare(&read("1.2")).is_eq());
    }

    #[test]
    fn what_is_no_version() {
        for text in ["", "v", "x1", "1.", "1..2", ".1", "1 2", "1:2", "-1", "1.2/3", "vv1", "1.x"] {
            assert!(Version::read(text).is_none(), "{text}");
        }
    }
}
