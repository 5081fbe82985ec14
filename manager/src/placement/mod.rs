//! Which agents suit a new entity, best first: conditions and order as a client writes them, and
//! the choice among agents as they are on record.
//!
//! Invariant: pure, and a total order: the same agents give the same list whatever order they come
//! in, because the number of the agent decides where the weighters leave two equal.

mod include;
mod key;
#[cfg(test)]
mod model;
mod value;
mod version;
mod weighter;

use std::cmp::Ordering;

use goperation::{
    AgentStatus,
    v1::{Candidate, LeftOut},
};

use self::{include::Include, value::Value, weighter::Weighter};
use crate::{
    check::Violations,
    record::{AgentRecord, int},
};

/// Facts that are as old as this, in milliseconds, are not believed.
const OLD: u64 = 30 * 60 * 1000;
/// Most conditions of a choice.
const INCLUDES: usize = 64;
/// Most weighters of a choice.
const WEIGHTERS: usize = 16;
/// Longest condition or weighter, in characters.
const LENGTH: usize = 512;

/// An agent that has the endpoint, as placement sees it.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) agent: AgentRecord,
    /// Whether its lease is held.
    pub(crate) online: bool,
    /// Entities on it, of all endpoints.
    pub(crate) entities: u32,
}

/// What is wished for: conditions that all must hold, and what comes first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    includes: Vec<Include>,
    weighters: Vec<Weighter>,
}

/// What came of a wish.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    /// Agents that suit, best first.
    pub(crate) candidates: Vec<Candidate>,
    /// The others, by their numbers.
    pub(crate) left_out: Vec<LeftOut>,
}

impl Wish {
    /// Reads conditions and weighters; each bad one is named by its index.
    pub(crate) fn read(bad: &mut Violations, includes: &[String], weighters: &[String]) -> Self {
        let includes = read(bad, "includes", includes, INCLUDES, Include::parse);
        let weighters = read(bad, "weighters", weighters, WEIGHTERS, Weighter::parse);
        Self { includes, weighters }
    }

    /// Why one of the conditions does not hold for an agent, if one does not. Whether the agent is
    /// there, and how old its facts are, is not asked.
    pub(crate) fn holds(&self, host: &Host, now: u64) -> Result<(), String> {
        self.includes.iter().try_for_each(|include| include.holds(host, now))
    }

    /// What each weighter makes of an agent, or why it does not suit.
    fn weigh(&self, host: &Host, now: u64) -> Result<Vec<Value>, String> {
        available(host, now)?;
        self.holds(host, now)?;
        self.weighters.iter().map(|weighter| weighter.weigh(host, now)).collect()
    }

    /// Chooses among the agents that have the endpoint.
    pub(crate) fn choose(&self, hosts: &[Host], now: u64) -> Choice {
        let (mut suiting, mut left_out) = (Vec::new(), Vec::new());
        for host in hosts {
            match self.weigh(host, now) {
                Ok(weights) => suiting.push((weights, host)),
                Err(why) => left_out.push(LeftOut {
                    agent_id: int(host.agent.id),
                    host: host.agent.host.clone(),
                    reason: String::new(),
                    why,
                }),
            }
        }
        suiting.sort_by(|(a, host), (b, other)| {
            let first = if self.weighters.is_empty() {
                host.entities.cmp(&other.entities)
            } else {
                by_weight(a, b)
            };
            first.then(host.agent.id.cmp(&other.agent.id))
        });
        left_out.sort_by_key(|left| left.agent_id);
        let candidates = suiting.into_iter().map(|(weights, host)| Candidate {
            agent_id: int(host.agent.id),
            host: host.agent.host.clone(),
            entities: int(host.entities),
            weights: weights.iter().map(Value::to_string).collect(),
        });
        Choice { candidates: candidates.collect(), left_out }
    }
}

fn by_weight(a: &[Value], b: &[Value]) -> Ordering {
    a.iter().zip(b).map(|(a, b)| a.rank(b)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

/// Whether an agent may get an entity at all, whatever is wished for.
fn available(host: &Host, now: u64) -> Result<(), String> {
    let agent = &host.agent;
    if agent.reserved {
        return Err("it is only on record: no agent has registered as it yet".to_owned());
    }
    if !host.online {
        return Err("it is offline".to_owned());
    }
    if agent.status != AgentStatus::Active.number() {
        let status = AgentStatus::from_number(agent.status).map_or("unknown", AgentStatus::name);
        return Err(format!("it is {status}, not ACTIVE"));
    }
    match age(agent, now) {
        None => Err("it has not reported its facts yet".to_owned()),
        Some(age) if age >= OLD => Err(format!("its facts are {} minutes old", age / 60_000)),
        Some(_) => Ok(()),
    }
}

/// How old the facts of an agent are, in milliseconds.
fn age(agent: &AgentRecord, now: u64) -> Option<u64> {
    (agent.report_time > 0).then(|| now.saturating_sub(agent.report_time))
}

fn read<T>(
    bad: &mut Violations,
    field: &str,
    texts: &[String],
    most: usize,
    parse: fn(&str) -> Result<T, String>,
) -> Vec<T> {
    if texts.len() > most {
        bad.add(field, format!("must be at most {most}"));
        return Vec::new();
    }
    let mut read = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        let parsed = if text.chars().count() > LENGTH {
            Err(format!("must have at most {LENGTH} characters"))
        } else {
            parse(text)
        };
        match parsed {
            Ok(parsed) => read.push(parsed),
            Err(why) => bad.add(format!("{field}[{i}]"), why),
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use goperation::{Error, v1::AgentFacts};

    use super::*;

    pub(super) const NOW: u64 = 1_000_000_000;

    fn host(id: u32) -> Host {
        let agent = AgentRecord {
            id,
            host: format!("h{id}"),
            status: 1,
            report_time: NOW - 1000,
            facts: Some(AgentFacts { cpu: 4, ..AgentFacts::default() }),
            ..AgentRecord::default()
        };
        Host { agent, online: true, entities: 0 }
    }

    fn with(id: u32, change: impl FnOnce(&mut Host)) -> Host {
        let mut host = host(id);
        change(&mut host);
        host
    }

    fn wish(includes: &[&str], weighters: &[&str]) -> Result<Wish, Error> {
        let mut bad = Violations::default();
        let texts = |texts: &[&str]| texts.iter().map(|&t| t.to_owned()).collect::<Vec<_>>();
        let wish = Wish::read(&mut bad, &texts(includes), &texts(weighters));
        bad.finish().map(|()| wish)
    }

    #[test]
    fn only_agents_that_are_there_and_said_so_lately() {
        let hosts = [
            host(9),
            with(1, |h| h.agent.reserved = true),
            with(2, |h| h.online = false),
            with(3, |h| h.agent.status = 0),
            with(4, |h| h.agent.status = -10),
            with(5, |h| h.agent.report_time = 0),
            with(6, |h| h.agent.report_time = NOW - OLD),
            with(7, |h| h.agent.report_time = NOW - OLD + 1),
            // The clock was set back.
            with(8, |h| h.agent.report_time = NOW + 1),
        ];
        let choice = Wish::default().choose(&hosts, NOW);
        let ids: Vec<_> = choice.candidates.iter().map(|c| c.agent_id).collect();
        assert_eq!(ids, [7, 8, 9]);
        let whys: Vec<_> = choice.left_out.iter().map(|l| (l.agent_id, l.why.as_str())).collect();
        assert_eq!(
            whys,
            [
                (1, "it is only on record: no agent has registered as it yet"),
                (2, "it is offline"),
                (3, "it is UNACTIVE, not ACTIVE"),
                (4, "it is SOFTBUSY, not ACTIVE"),
                (5, "it has not reported its facts yet"),
                (6, "its facts are 30 minutes old"),
            ]
        );
    }

    #[test]
    fn the_fewest_entities_come_first_unless_something_else_is_wished_for() {
        let hosts = [
            with(1, |h| h.entities = 3),
            with(2, |h| h.entities = 1),
            with(3, |h| h.entities = 1),
            with(4, |h| h.agent.facts.as_mut().unwrap().cpu = 16),
        ];
        let ids = |wish: &Wish| {
            let choice = wish.choose(&hosts, NOW);
            choice.candidates.iter().map(|c| c.agent_id).collect::<Vec<_>>()
        };
        assert_eq!(ids(&Wish::default()), [4, 2, 3, 1]);
        assert_eq!(ids(&wish(&[], &["cpu/-1", "entities"]).unwrap()), [4, 2, 3, 1]);
        assert_eq!(ids(&wish(&[], &["cpu"]).unwrap()), [1, 2, 3, 4]);
        assert_eq!(ids(&wish(&["cpu<16"], &["entities/2", "id/-1"]).unwrap()), [3, 2, 1]);
        let weights = &wish(&[], &["cpu/-3", "entities"]).unwrap().choose(&hosts, NOW).candidates;
        assert_eq!(weights[0].weights, ["-6", "0"]);
    }

    #[test]
    fn every_bad_text_is_named() {
        let long = format!("host={}", "x".repeat(LENGTH));
        let error = wish(&["cpu>=2", "cpu", "speed>1", &long], &["cpu/0", "cpu", ""]).unwrap_err();
        let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            ["includes[1]", "includes[2]", "includes[3]", "weighters[0]", "weighters[2]"]
        );
        let many = vec!["cpu>1"; INCLUDES + 1];
        assert_eq!(wish(&many, &[]).unwrap_err().violations[0].field, "includes");
    }
}
