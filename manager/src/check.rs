//! Checks of what clients send, so that every bad field is named at once.

use std::collections::{BTreeMap, HashMap};

use goperation::{
    Error, Reason, Result, Violation, from_timestamp,
    v1::{PortWish, Protocol},
};

/// Longest description, in characters.
pub(crate) const DESCRIPTION: usize = 4096;
/// Most labels.
pub(crate) const LABELS: usize = 64;
/// Longest key of a label, in characters.
pub(crate) const LABEL_KEY: usize = 63;
/// Longest value of a label, in characters.
pub(crate) const LABEL_VALUE: usize = 256;
/// Most ports in one wish.
pub(crate) const PORT_COUNT: i32 = 1000;
/// Longest name of a port, in characters.
pub(crate) const PORT_NAME: usize = 64;

/// How far from now a finish time may be, in milliseconds.
const LONGEST_FINISH: u64 = 7 * 24 * 3600 * 1000;

/// Bad fields, collected.
#[derive(Debug, Default)]
pub(crate) struct Violations(Vec<Violation>);

impl Violations {
    pub(crate) fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(Violation { field: field.into(), description: description.into() });
    }

    /// The value, or its violations collected.
    pub(crate) fn take<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.0.extend(error.violations)).ok()
    }

    /// Whether everything was right.
    pub(crate) fn finish(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::violations(self.0)) }
    }

    /// The error, where a value was missing because of what was collected.
    pub(crate) fn error(self) -> Error {
        Error::violations(self.0)
    }
}

/// One error of those of several fields.
pub(crate) fn all_bad(errors: impl IntoIterator<Item = Error>) -> Error {
    Error::violations(errors.into_iter().flat_map(|error| error.violations).collect())
}

/// Both values, or all that is wrong with either.
pub(crate) fn both<A, B>(a: Result<A>, b: Result<B>) -> Result<(A, B)> {
    let mut bad = Violations::default();
    match (bad.take(a), bad.take(b)) {
        (Some(a), Some(b)) => Ok((a, b)),
        _ => Err(bad.error()),
    }
}

/// The number of an agent or entity.
pub(crate) fn number(field: &str, number: i32) -> Result<u32> {
    match u32::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(Error::invalid(field, "must be a number from 1")),
    }
}

/// Until when something may be started that a client gave a time for.
pub(crate) fn finish_time(
    field: &str,
    given: Option<&prost_types::Timestamp>,
    now: u64,
) -> Result<Option<u64>> {
    let Some(given) = given else { return Ok(None) };
    let time = from_timestamp(given);
    if time > now && time <= now + LONGEST_FINISH {
        Ok(Some(time))
    } else {
        Err(Error::invalid(field, "must be in the future, at most 7 days from now"))
    }
}

/// A description.
pub(crate) fn description(bad: &mut Violations, field: &str, text: &str) {
    if text.chars().count() > DESCRIPTION {
        bad.add(field, format!("must have at most {DESCRIPTION} characters"));
    }
}

/// Whether a text can be the key of a label.
pub(crate) fn is_label_key(key: &str) -> bool {
    (1..=LABEL_KEY).contains(&key.len())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
}

/// Labels.
pub(crate) fn labels(
    bad: &mut Violations,
    field: &str,
    labels: &HashMap<String, String>,
) -> BTreeMap<String, String> {
    if labels.len() > LABELS {
        bad.add(field, format!("must be at most {LABELS}"));
    }
    let labels: BTreeMap<_, _> = labels.clone().into_iter().collect();
    for (key, value) in &labels {
        if !is_label_key(key) {
            bad.add(
                format!("{field}.{key}"),
                "a key has 1 to 63 letters, digits or any of . _ - /",
            );
        }
        if value.chars().count() > LABEL_VALUE {
            bad.add(
                format!("{field}.{key}"),
                format!("a value has at most {LABEL_VALUE} characters"),
            );
        }
    }
    labels
}

/// Wishes of a reservation. What ranges the agent has is the agent's to say.
pub(crate) fn wishes(bad: &mut Violations, field: &str, wishes: &[PortWish]) {
    let mut total = 0;
    for (i, wish) in wishes.iter().enumerate() {
        if !(0..=65535).contains(&wish.port) {
            bad.add(format!("{field}[{i}].port"), "must be 0 for any, or a port up to 65535");
        }
        if Protocol::try_from(wish.protocol).is_err() {
            bad.add(format!("{field}[{i}].protocol"), "must be TCP, UDP or BOTH");
        }
        if !(0..=PORT_COUNT).contains(&wish.count) {
            bad.add(format!("{field}[{i}].count"), format!("must be 0 to {PORT_COUNT}"));
        } else if wish.port != 0 && wish.count > 1 {
            bad.add(format!("{field}[{i}].count"), "must be 0 or 1 with a given port");
        } else {
            total += wish.count.max(1);
        }
        if wish.name.chars().count() > PORT_NAME || wish.name.chars().any(char::is_control) {
            bad.add(
                format!("{field}[{i}].name"),
                format!("must have at most {PORT_NAME} printable characters"),
            );
        }
    }
    if total > PORT_COUNT {
        bad.add(field, format!("must be at most {PORT_COUNT} ports together"));
    }
}

/// Ranges of ports as `a-b` or `a`, both ends usable, none below 1024.
pub(crate) fn ports_ranges(bad: &mut Violations, field: &str, ranges: &[String]) {
    for (i, range) in ranges.iter().enumerate() {
        let (a, b) = range.split_once('-').unwrap_or((range, range));
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|&port| port >= 1024);
        match (port(a), port(b)) {
            (Some(a), Some(b)) if a <= b => {}
            _ => bad.add(format!("{field}[{i}]"), "must be a-b or a, from 1024 to 65535"),
        }
    }
}

/// That there is no such agent.
pub(crate) fn no_agent(id: u32) -> Error {
    Error::new(Reason::AgentNotFound, format!("there is no agent {id}")).with("agent", id)
}

/// That no agent has an endpoint.
pub(crate) fn no_endpoint(name: &str) -> Error {
    Error::new(Reason::EndpointNotFound, format!("no agent has the endpoint {name}"))
        .with("endpoint", name)
}

/// The id of a request.
pub(crate) fn request_id(field: &str, id: &str) -> Result<()> {
    let fits = |(i, byte): (usize, u8)| match i {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
    };
    if id.len() == 36 && id.bytes().enumerate().all(fits) {
        return Ok(());
    }
    Err(Error::invalid(field, "must be a UUID in lower case, as a request was answered with"))
}

/// That there is no such request.
pub(crate) fn no_request(id: &str) -> Error {
    Error::new(Reason::RequestNotFound, format!("there is no request {id}")).with("request", id)
}

/// That there is no such entity.
pub(crate) fn no_entity(endpoint: &str, number: u32) -> Error {
    Error::new(Reason::EntityNotFound, format!("there is no entity {number} of {endpoint}"))
        .with("endpoint", endpoint)
        .with("entity", number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_wish_is_named() {
        let wish = |port, count| PortWish { port, count, ..PortWish::default() };
        let mut bad = Violations::default();
        wishes(&mut bad, "ports", &[wish(70000, 1), wish(7000, 2), wish(0, -1), wish(7000, 1)]);
        let fields: Vec<_> = bad.error().violations.into_iter().map(|v| v.field).collect();
        assert_eq!(fields, ["ports[0].port", "ports[1].count", "ports[2].count"]);
    }

    #[test]
    fn ids_of_requests() {
        for (id, good) in [
            ("0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e77", true),
            ("0192F3A1-7c5e-7d10-8a33-0c6f1f5b2e77", false),
            ("0192f3a17c5e7d108a330c6f1f5b2e77", false),
            ("0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e7", false),
            ("0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e7/", false),
            ("", false),
        ] {
            assert_eq!(request_id("id", id).is_ok(), good, "{id}");
        }
    }

    #[test]
    fn ranges_of_ports() {
        for (range, good) in
            [("1024-65535", true), ("7000", true), ("1023", false), ("9-8", false), ("x", false)]
        {
            let mut bad = Violations::default();
            ports_ranges(&mut bad, "ports_ranges", &[range.to_owned()]);
            assert_eq!(bad.finish().is_ok(), good, "{range}");
        }
    }
}
