//! Which ports an agent may hand out: the `ports_range` of its configuration.
//!
//! Invariant: the ranges are sorted, disjoint and within 1024 to 65535.

use std::{fmt, ops::RangeInclusive};

use goperation::{Error, Violation};

/// The lowest port that can be handed out.
const LOWEST: u16 = 1024;

/// The ports that an agent may hand out; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortRanges(Vec<(u16, u16)>);

impl PortRanges {
    /// The ranges of a list of `a-b` (both ends included) or `a`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming as `field[n]` every entry that is no range, reaches below 1024 or
    /// overlaps an earlier one.
    pub fn parse<S: AsRef<str>>(field: &str, entries: &[S]) -> Result<Self, Error> {
        let mut ranges: Vec<(u16, u16)> = Vec::with_capacity(entries.len());
        let mut violations = Vec::new();
        for (i, entry) in entries.iter().map(AsRef::as_ref).enumerate() {
            match parse_entry(entry).and_then(|range| disjoint(entry, range, &ranges)) {
                Ok(range) => ranges.push(range),
                Err(description) => {
                    violations.push(Violation { field: format!("{field}[{i}]"), description });
                }
            }
        }
        if !violations.is_empty() {
            return Err(Error::violations(violations));
        }
        ranges.sort_unstable();
        Ok(Self(ranges))
    }

    /// Whether the port may be handed out.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= port);
        self.0[..after].last().is_some_and(|&(_, last)| port <= last)
    }

    /// The ports, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(|&(first, last)| RangeInclusive::new(first, last))
    }

    /// The ranges, each as `a-b` or `a`, ascending.
    #[must_use]
    pub fn to_strings(&self) -> Vec<String> {
        let text = |&(first, last): &(u16, u16)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        };
        self.0.iter().map(text).collect()
    }

    /// How many ports there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|&(first, last)| usize::from(last - first) + 1).sum()
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.to_strings().join(","))
    }
}

fn parse_entry(entry: &str) -> Result<(u16, u16), String> {
    let number = |text: &str| {
        let text = text.trim();
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse::<u16>().ok().filter(|_| digits);
        number.ok_or_else(|| format!("`{entry}` is neither a port nor a range of ports a-b"))
    };
    let (first, last) = match entry.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(entry)?, number(entry)?),
    };
    if first > last {
        return Err(format!("`{entry}` ends before it begins; write {last}-{first}"));
    }
    if first < LOWEST {
        return Err(format!("`{entry}` reaches below {LOWEST}, the lowest port allowed"));
    }
    Ok((first, last))
}

fn disjoint(entry: &str, range: (u16, u16), earlier: &[(u16, u16)]) -> Result<(u16, u16), String> {
    match earlier.iter().find(|other| range.0 <= other.1 && other.0 <= range.1) {
        Some((first, last)) => Err(format!("`{entry}` overlaps {first}-{last}")),
        None => Ok(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_usable() {
        let ranges =
            PortRanges::parse("ports_range", &["7100", "1024-1026", " 65534 - 65535 "]).unwrap();
        assert_eq!(ranges.to_string(), "1024-1026,7100,65534-65535");
        let ports: Vec<_> = ranges.iter().collect();
        assert_eq!(ports, [1024, 1025, 1026, 7100, 65534, 65535]);
        assert_eq!(ranges.count(), ports.len());
        for port in 0..=u16::MAX {
            assert_eq!(ranges.contains(port), ports.contains(&port), "{port}");
        }
    }

    #[test]
    fn every_bad_entry_is_named() {
        for bad in [
            "",
            "a",
            "-",
            "1-",
            "-7000",
            "7000-7001-7002",
            "65536",
            "+7000",
            "80",
            "1023-7000",
            "7001-7000",
        ] {
            let error = PortRanges::parse("ports_range", &[bad]).unwrap_err();
            assert_eq!(error.violations[0].field, "ports_range[0]", "{bad}");
            assert!(error.message.contains(&format!("`{bad}`")), "{error}");
        }
        let error = PortRanges::parse("ports_range", &["80", "7000-7010", "7010-7020", "7030"])
            .unwrap_err();
        let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["ports_range[0]", "ports_range[2]"]);
        assert!(error.message.contains("overlaps 7000-7010"), "{error}");
    }

    #[test]
    fn no_entries_are_no_ports() {
        let ranges = PortRanges::parse::<&str>("ports_range", &[]).unwrap();
        assert_eq!((ranges.count(), ranges.to_string().as_str()), (0, "none"));
    }
}
