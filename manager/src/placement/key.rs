//! What agents are compared by: the key of a condition or weighter, and what an agent has under it.
//!
//! Invariant: a key has the same type on every agent: a number, or a text.

use goperation::v1::{AgentFacts, AgentSnapshot};

use super::{Host, age, value::Value};
use crate::check;

/// How a number is got of an agent.
type Get = fn(&Host, u64) -> Option<f64>;

/// The keys that are numbers.
static NUMBERS: &[(&str, Get)] = &[
    ("id", |host, _| Some(host.agent.id.into())),
    ("cpu", |host, _| fact(host, |facts| facts.cpu)),
    ("memory", |host, _| fact(host, |facts| facts.memory_mib)),
    ("disk", |host, _| fact(host, |facts| facts.disk_mib)),
    ("free", |host, _| now(host, |now| now.memory_free_mib.into())),
    ("left", |host, _| now(host, |now| now.disk_free_mib.into())),
    ("load", |host, _| now(host, |now| now.load1)),
    ("process", |host, _| now(host, |now| f64::from(now.running) + f64::from(now.sleeping))),
    ("cputime", |host, _| {
        now(host, |now| now.iowait + now.user + now.system + now.nice + now.irq + now.soft_irq)
    }),
    ("iowait", |host, _| now(host, |now| now.iowait)),
    ("fds", |host, _| now(host, |now| now.num_fds.into())),
    ("conns", |host, _| now(host, |now| f64::from(now.syn) + f64::from(now.established))),
    ("entities", |host, _| Some(host.entities.into())),
    ("time", |host, at| {
        let seconds = age(&host.agent, at)? / 1000;
        Some(f64::from(u32::try_from(seconds).unwrap_or(u32::MAX)))
    }),
];

/// A number of the registration; 0 is one that the agent could not read.
fn fact(host: &Host, get: fn(&AgentFacts) -> i32) -> Option<f64> {
    host.agent.facts.as_ref().map(get).filter(|&fact| fact > 0).map(f64::from)
}

/// A number of the last snapshot.
fn now(host: &Host, get: fn(&AgentSnapshot) -> f64) -> Option<f64> {
    host.agent.snapshot.as_ref().map(get).filter(|number| number.is_finite())
}

#[derive(Debug, Clone)]
enum Source {
    Number(Get),
    Host,
    Label(String),
    Metadata(String),
}

/// A key.
#[derive(Debug, Clone)]
pub(super) struct Key {
    text: String,
    source: Source,
}

impl Key {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let named = |key: &str| Some(key.to_owned()).filter(|key| !key.is_empty());
        let number = NUMBERS.iter().find(|(name, _)| *name == text);
        let source = match text.split_once('.') {
            None if text == "host" => Some(Source::Host),
            None => number.map(|(_, get)| Source::Number(*get)),
            Some(("labels", key)) if check::is_label_key(key) => named(key).map(Source::Label),
            Some(("metadata", key)) => named(key).map(Source::Metadata),
            Some(_) => None,
        };
        match source {
            Some(source) => Ok(Self { text: text.to_owned(), source }),
            None => Err(unknown(text)),
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is a number on every agent.
    pub(super) fn is_number(&self) -> bool {
        matches!(self.source, Source::Number(_))
    }

    /// What an agent has under it.
    pub(super) fn of(&self, host: &Host, now: u64) -> Option<Value> {
        let agent = &host.agent;
        let text = |text: &str| Some(Value::Text(text.to_owned()));
        match &self.source {
            // A zero has no sign here.
            Source::Number(get) => get(host, now).map(|number| Value::Number(number + 0.0)),
            Source::Host => text(&agent.host),
            Source::Label(key) => text(agent.labels.get(key)?),
            Source::Metadata(key) => text(agent.facts.as_ref()?.metadata.get(key)?),
        }
    }
}

fn unknown(text: &str) -> String {
    let names: Vec<_> = NUMBERS.iter().map(|(name, _)| *name).collect();
    format!("`{text}` is no key: there are host, {}, labels.KEY and metadata.KEY", names.join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::record::AgentRecord;

    #[test]
    fn every_key_has_its_value() {
        let snapshot = AgentSnapshot {
            memory_free_mib: 1,
            disk_free_mib: 2,
            load1: 0.5,
            running: 3,
            sleeping: 40,
            iowait: 1.0,
            user: 2.0,
            system: 4.0,
            nice: 8.0,
            irq: 16.0,
            soft_irq: 32.0,
            num_fds: 7,
            syn: 1,
            established: 8,
            ..AgentSnapshot::default()
        };
        let facts = AgentFacts {
            cpu: 4,
            memory_mib: 5,
            disk_mib: 6,
            metadata: HashMap::from([("mysql".to_owned(), "5.5".to_owned())]),
            ..AgentFacts::default()
        };
        let agent = AgentRecord {
            id: 9,
            host: "h9".into(),
            facts: Some(facts),
            snapshot: Some(snapshot),
            labels: [("zone/a".to_owned(), "z".to_owned())].into(),
            report_time: 10_000,
            ..AgentRecord::default()
        };
        let host = Host { agent, online: true, entities: 12 };
        let of = |key: &str| Key::parse(key).unwrap().of(&host, 12_999).map(|v| v.to_string());
        for (key, value) in [
            ("id", "9"),
            ("host", "h9"),
            ("cpu", "4"),
            ("memory", "5"),
            ("disk", "6"),
            ("free", "1"),
            ("left", "2"),
            ("load", "0.5"),
            ("process", "43"),
            ("cputime", "63"),
            ("iowait", "1"),
            ("fds", "7"),
            ("conns", "9"),
            ("entities", "12"),
            ("time", "2"),
            ("labels.zone/a", "z"),
            ("metadata.mysql", "5.5"),
        ] {
            assert_eq!(of(key).as_deref(), Some(value), "{key}");
        }
        for (name, _) in NUMBERS {
            assert!(of(name).is_some(), "{name}");
        }
        for missing in ["labels.zone", "metadata.redis"] {
            assert_eq!(of(missing), None, "{missing}");
        }
        for bad in ["", "Cpu", "zone", "labels.", "labels.a b", "metadata.", "facts.cpu", "cpu.x"] {
            assert!(Key::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_an_agent_did_not_say_is_missing() {
        let host = Host { agent: AgentRecord::default(), online: true, entities: 0 };
        for (name, _) in NUMBERS.iter().filter(|(name, _)| !["id", "entities"].contains(name)) {
            assert!(Key::parse(name).unwrap().of(&host, 5).is_none(), "{name}");
        }
        let snapshot = AgentSnapshot { load1: f64::NAN, ..AgentSnapshot::default() };
        let facts = AgentFacts { cpu: 0, ..AgentFacts::default() };
        let agent =
            AgentRecord { snapshot: Some(snapshot), facts: Some(facts), ..AgentRecord::default() };
        let host = Host { agent, ..host };
        for name in ["load", "cpu"] {
            assert!(Key::parse(name).unwrap().of(&host, 5).is_none(), "{name}");
        }
        assert!(Key::parse("iowait").unwrap().of(&host, 5).is_some());
    }
}
