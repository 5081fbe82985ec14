//! Names that clients choose, checked once at the edge and known to be good from there on.

use std::fmt;

use crate::Error;

/// The namespace of an agent's own methods.
pub const MANAGER_NAMESPACE: &str = "manager";

/// Names that no endpoint can have (contract §1).
pub const RESERVED: [&str; 4] = [MANAGER_NAMESPACE, "agent", "new", "all"];

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $rule:literal, |$text:ident| $normal:expr, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The name in a text.
            ///
            /// # Errors
            /// `INVALID_ARGUMENT` naming `field` and the rule.
            pub fn parse(field: &str, $text: &str) -> Result<Self, Error> {
                let normal: String = $normal;
                let check: fn(&str) -> bool = $check;
                if check(&normal) {
                    Ok(Self(normal))
                } else {
                    Err(Error::invalid(field, concat!("must be ", $rule)))
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A named kind of thing that an agent can run (contract §1).
    EndpointName,
    "a letter, then letters or digits, 2 to 64, and none of manager, agent, new, all",
    |text| text.to_ascii_lowercase(),
    |name| (2..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        && !RESERVED.contains(&name)
);

name!(
    /// The kind of an agent: `application`, `scheduler`, …
    AgentType,
    "a letter, then letters, digits or dashes, at most 64",
    |text| text.to_ascii_lowercase(),
    |name| (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
);

name!(
    /// A host name, as DNS allows it, lower case.
    HostName,
    "a host name: labels of letters, digits and dashes joined by dots, at most 128",
    |text| text.to_ascii_lowercase(),
    |name| (1..=128).contains(&name.len())
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        })
);

name!(
    /// The name of a method.
    MethodName,
    "a letter, then letters, digits or underscores, at most 64",
    |text| text.to_owned(),
    |name| (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
);

name!(
    /// The name of a notify queue, without its `notify.` prefix.
    NotifyName,
    "letters, digits, dots, dashes or underscores, 1 to 128",
    |text| text.to_owned(),
    |name| (1..=128).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_names() {
        for good in ["db", "Game1", "a2"] {
            assert!(EndpointName::parse("name", good).is_ok(), "{good}");
        }
        for bad in ["", "a", "1a", "a-b", "manager", "ALL", "new", "agent", &"a".repeat(65)] {
            assert!(EndpointName::parse("name", bad).is_err(), "{bad}");
        }
        assert_eq!(EndpointName::parse("name", "GamE").unwrap().as_str(), "game");
    }

    #[test]
    fn host_names() {
        for good in ["h1", "H1.example.com", "a-b"] {
            assert!(HostName::parse("host", good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "h#", "*.h", &"a".repeat(64)] {
            assert!(HostName::parse("host", bad).is_err(), "{bad}");
        }
    }
}
