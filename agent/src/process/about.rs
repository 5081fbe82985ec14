//! What an entity's placeholders stand for, and which ports it must have.

use std::path::Path;

use goperation::{Error, Reason, Result, Violation};

use super::placeholder::{Placeholder, Template};
use crate::{
    config::process::{NamedPort, ProcessConfig},
    ports::{Reserved, Wish},
};

/// An entity, as its process is told of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    /// Endpoint.
    pub(crate) endpoint: &'a str,
    /// Number.
    pub(crate) number: u32,
    /// Its home.
    pub(crate) home: &'a Path,
    /// Its ports.
    pub(crate) ports: &'a [Reserved],
    /// Address of the host.
    pub(crate) address: &'a str,
}

impl About<'_> {
    /// A template's text for it.
    ///
    /// # Errors
    /// `STATE_REFUSED` when it has no port of a name any more.
    pub(crate) fn expand(&self, template: &Template) -> Result<String> {
        template.expand(|place| {
            Ok(match place {
                Placeholder::Number => self.number.to_string(),
                Placeholder::Endpoint => self.endpoint.to_owned(),
                Placeholder::Home => self.home.to_string_lossy().into_owned(),
                Placeholder::Ip => self.address.to_owned(),
                Placeholder::Port(name) => self.port(name)?.to_string(),
            })
        })
    }

    fn port(&self, name: &str) -> Result<u16> {
        self.ports.iter().find(|port| port.name == name).map(|port| port.port).ok_or_else(|| {
            let message =
                format!("{} {} has no port {name}: reserve one", self.endpoint, self.number);
            Error::new(Reason::StateRefused, message).with("port", name)
        })
    }
}

/// The ports that a new entity asks for: those that its create names, and one for each declared
/// name that is not among them.
///
/// # Errors
/// `INVALID_ARGUMENT` when a declared name is given to no port of its protocol, or to several.
pub(crate) fn wishes(config: &ProcessConfig, given: &[Wish]) -> Result<Vec<Wish>> {
    let mut wishes = given.to_vec();
    let mut violations = Vec::new();
    for NamedPort { name, protocol } in &config.ports {
        let named: Vec<usize> = (0..given.len()).filter(|&i| names(&given[i], name)).collect();
        let mut bad = |i: usize, field: &str, description: String| {
            violations.push(Violation { field: format!("ports[{i}].{field}"), description });
        };
        match named[..] {
            [] => {
                wishes.push(Wish { port: None, protocol: *protocol, count: 1, name: name.clone() })
            }
            [i] => {
                let has = given[i].protocol.singles();
                if !protocol.singles().iter().all(|single| has.contains(single)) {
                    bad(i, "protocol", format!("port {name} of this endpoint is {protocol}"));
                }
            }
            [_, i, ..] => bad(i, "name", format!("only one port may have the name {name}")),
        }
        // Its ports are named `-1`, `-2`, …: none has the name that is meant.
        for (i, wish) in given.iter().enumerate().filter(|(_, wish)| wish.wanted() > 1) {
            if wish.name == *name {
                bad(i, "count", format!("must be 1: only one port has the name {name}"));
            }
        }
    }
    if violations.is_empty() { Ok(wishes) } else { Err(Error::violations(violations)) }
}

/// Whether a port of the wish gets that name.
fn names(wish: &Wish, name: &str) -> bool {
    if wish.wanted() == 1 || wish.name.is_empty() {
        return wish.name == name;
    }
    let nth = name.strip_prefix(wish.name.as_str()).and_then(|rest| rest.strip_prefix('-'));
    // As it is written: `+1` and `01` are other names.
    nth.and_then(|nth| nth.parse::<u32>().ok().filter(|n| n.to_string() == nth))
        .is_some_and(|nth| (1..=wish.wanted()).contains(&nth))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ports::Protocol,
        process::testing::{config, reserved},
    };

    fn wish(name: &str, protocol: Protocol) -> Wish {
        Wish { port: None, protocol, count: 1, name: name.to_owned() }
    }

    #[test]
    fn a_template_is_filled_in_for_the_entity() {
        let ports = [reserved("", 7000), reserved("game", 7001)];
        let home = Path::new("/w/{number}/3");
        let about = About { endpoint: "tee", number: 3, home, ports: &ports, address: "10.0.0.1" };
        let text = "{endpoint} {number} {home} {ip}:{port.game}";
        let said = about.expand(&Template::parse(text).unwrap()).unwrap();
        assert_eq!(said, "tee 3 /w/{number}/3 10.0.0.1:7001");
        let gone = about.expand(&Template::parse("{port.query}").unwrap()).unwrap_err();
        assert_eq!(gone.reason, Reason::StateRefused);
        assert!(gone.message.contains("tee 3 has no port query"), "{gone}");
    }

    #[test]
    fn what_a_create_does_not_name_is_wished() {
        let config = config(
            "ports = [{ name = \"game\", protocol = \"udp\" }, { name = \"rcon-2\", protocol = \"tcp\" }]",
        );
        let declared = [wish("game", Protocol::Udp), wish("rcon-2", Protocol::Tcp)];
        assert_eq!(wishes(&config, &[]).unwrap(), declared);

        let other = wish("extra", Protocol::Both);
        let all = wishes(&config, std::slice::from_ref(&other)).unwrap();
        assert_eq!(all, [other, declared[0].clone(), declared[1].clone()]);

        // `both` has UDP too, and a numbered name is a name.
        let given = [
            Wish { port: Some(7001), ..wish("game", Protocol::Both) },
            Wish { count: 3, ..wish("rcon", Protocol::Tcp) },
        ];
        assert_eq!(wishes(&config, &given).unwrap(), given);

        let bad = [
            wish("game", Protocol::Tcp),
            Wish { count: 2, ..wish("rcon-2", Protocol::Tcp) },
            Wish { count: 2, ..wish("rcon", Protocol::Tcp) },
            wish("rcon-2", Protocol::Tcp),
        ];
        let error = wishes(&config, &bad).unwrap_err();
        let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["ports[0].protocol", "ports[3].name", "ports[1].count"], "{error}");
    }
}
