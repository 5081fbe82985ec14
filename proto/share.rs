//! A part of the agents: `2`, or `5%` of all.
//!
//! Invariant: what is typed at a command line and what the manager reads are one rule.

use std::{error, fmt, str::FromStr};

/// A number, or a percentage of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many, of however many there are.
    Number(u32),
    /// So many of a hundred, at most 100.
    Percent(u8),
}

/// A text that is no share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoShare(String);

impl fmt::Display for NoShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a number or 0% to 100%", self.0)
    }
}

impl error::Error for NoShare {}

impl Share {
    /// How many that are of `all`, rounded up; a number is taken as it is.
    #[must_use]
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Number(number) => usize::try_from(number).unwrap_or(usize::MAX),
            Self::Percent(percent) => {
                // Not the product first: it need not fit.
                let (hundreds, rest) = (all / 100, all % 100);
                let percent = usize::from(percent);
                hundreds * percent + (rest * percent).div_ceil(100)
            }
        }
    }

    /// Whether it is nobody, of however many.
    #[must_use]
    pub const fn is_none(self) -> bool {
        matches!(self, Self::Number(0) | Self::Percent(0))
    }
}

impl FromStr for Share {
    type Err = NoShare;

    fn from_str(text: &str) -> Result<Self, NoShare> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let trimmed = text.trim();
        let share = match trimmed.strip_suffix('%').map(str::trim_end) {
            Some(percent) if digits(percent) => {
                percent.parse::<u8>().ok().filter(|&percent| percent <= 100).map(Self::Percent)
            }
            None if digits(trimmed) => trimmed.parse().ok().map(Self::Number),
            _ => None,
        };
        share.ok_or_else(|| NoShare(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_percentages() {
        for (text, of_50) in [
            ("0", Some(0)),
            ("3", Some(3)),
            (" 70 ", Some(70)),
            ("0%", Some(0)),
            ("1%", Some(1)),
            ("34 %", Some(17)),
            ("100%", Some(50)),
            ("101%", None),
            ("256%", None),
            ("", None),
            ("%", None),
            ("-1", None),
            ("+1", None),
            ("1.5%", None),
            ("5%%", None),
            ("5 5%", None),
            ("4294967296", None),
        ] {
            let share = text.parse::<Share>();
            assert_eq!(share.clone().map(|share| share.of(50)).ok(), of_50, "{text}");
            if let Err(error) = share {
                assert_eq!(error.to_string(), format!("`{text}` is not a number or 0% to 100%"));
            }
        }
        assert_eq!(Share::Percent(99).of(usize::MAX), usize::MAX / 100 * 99 + 15);
        assert!(Share::Percent(0).is_none() && Share::Number(0).is_none());
        assert!(!Share::Percent(1).is_none() && !Share::Number(1).is_none());
    }
}
