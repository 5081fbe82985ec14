//! What a reservation asks for.

use std::{collections::BTreeSet, fmt};

use goperation::{Error, Violation, v1};
use serde::{Deserialize, Serialize};

/// The longest name of a port, in characters.
const NAME_MAX: usize = 64;

/// Transport protocol of a port.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// The same number on TCP and on UDP.
    #[default]
    Both,
}

impl Protocol {
    /// The protocols that it stands for: [`Protocol::Both`] is TCP and UDP.
    #[must_use]
    pub fn singles(self) -> &'static [Self] {
        match self {
            Self::Tcp => &[Self::Tcp],
            Self::Udp => &[Self::Udp],
            Self::Both => &[Self::Tcp, Self::Udp],
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Both => "both",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Protocol> for v1::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::Both => Self::Both,
        }
    }
}

/// One wish of a reservation: a given port, or any that are free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// The port that is wanted; any when it is absent or 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Protocol; both when it is absent.
    #[serde(default)]
    pub protocol: Protocol,
    /// How many of any; 1 when it is absent or 0. 1 at most with a given port.
    #[serde(default = "one")]
    pub count: u32,
    /// Name that the entity knows it by; with a count over 1, `-1`, `-2`, … are added.
    #[serde(default)]
    pub name: String,
}

fn one() -> u32 {
    1
}

impl Wish {
    /// The port that is wanted, if it is not any.
    #[must_use]
    pub fn given(&self) -> Option<u16> {
        self.port.filter(|&port| port != 0)
    }

    /// How many ports are wanted: 1 at least.
    #[must_use]
    pub fn wanted(&self) -> u32 {
        self.count.max(1)
    }

    /// The name of its `nth` port, from 0.
    #[must_use]
    pub(super) fn name_of(&self, nth: usize) -> String {
        if self.wanted() == 1 || self.name.is_empty() {
            self.name.clone()
        } else {
            format!("{}-{}", self.name, nth + 1)
        }
    }

    /// Checks what can be checked without knowing who has which port.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming every bad field as `ports[n].field`.
    pub(super) fn check_all(wishes: &[Self]) -> Result<(), Error> {
        let mut violations = Vec::new();
        let mut bad = |i: usize, field: &str, description: String| {
            violations.push(Violation { field: format!("ports[{i}].{field}"), description });
        };
        let mut given = BTreeSet::new();
        for (i, wish) in wishes.iter().enumerate() {
            if wish.name.chars().count() > NAME_MAX || wish.name.contains(char::is_control) {
                bad(i, "name", format!("at most {NAME_MAX} characters, none a control character"));
            }
            let Some(port) = wish.given() else { continue };
            if wish.wanted() > 1 {
                bad(i, "count", format!("must be 1 with a given port, not {}", wish.count));
            }
            for &protocol in wish.protocol.singles() {
                if !given.insert((protocol, port)) {
                    bad(i, "port", format!("{port}/{protocol} is asked for twice"));
                }
            }
        }
        if violations.is_empty() { Ok(()) } else { Err(Error::violations(violations)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_json() {
        let wish: Wish = serde_json::from_str("{}").unwrap();
        assert_eq!(
            wish,
            Wish { port: None, protocol: Protocol::Both, count: 1, name: String::new() }
        );
        let text = r#"{"port":7001,"protocol":"udp","count":1,"name":"game"}"#;
        let wish: Wish = serde_json::from_str(text).unwrap();
        assert_eq!((wish.given(), wish.protocol), (Some(7001), Protocol::Udp));
        assert_eq!(serde_json::to_string(&wish).unwrap(), text);
        for bad in [r#"{"ports":1}"#, r#"{"port":70000}"#, r#"{"protocol":"TCP"}"#] {
            assert!(serde_json::from_str::<Wish>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_bad_field_is_named() {
        let given = |port, protocol| Wish { port: Some(port), protocol, ..wish() };
        let error = Wish::check_all(&[
            given(7001, Protocol::Both),
            given(7001, Protocol::Udp),
            Wish { count: 2, ..given(7002, Protocol::Tcp) },
            Wish { name: "a\nb".into(), ..wish() },
            given(7002, Protocol::Udp),
        ])
        .unwrap_err();
        let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["ports[1].port", "ports[2].count", "ports[3].name"]);
    }

    #[test]
    fn names_are_numbered_when_there_are_several() {
        let several = Wish { count: 2, name: "game".into(), ..wish() };
        assert_eq!([several.name_of(0), several.name_of(1)], ["game-1", "game-2"]);
        assert_eq!(Wish { name: "game".into(), ..wish() }.name_of(0), "game");
        assert_eq!(Wish { count: 2, ..wish() }.name_of(1), "");
    }

    fn wish() -> Wish {
        Wish { port: None, protocol: Protocol::Both, count: 1, name: String::new() }
    }
}
