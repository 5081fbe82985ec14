//! Whom a request is for: the agents that a selection means as they are on record now, each with
//! its entities when entities are selected.
//!
//! Invariant: in order of their numbers, none twice. Whoever is named is chosen, or fails a
//! condition that was given with it, or is named in the error: nobody is left out unsaid.

use std::collections::BTreeMap;

use goperation::{
    AgentStatus, EndpointName, Error, MANAGER_NAMESPACE, Ranges, Reason, Result, Violation,
    v1::RequestSelection,
};

use crate::{
    app::App,
    check::{Violations, no_endpoint},
    filter::Filter,
    keys,
    lease::Seen,
    placement::{Host, Wish},
    record::{AgentRecord, EntityRecord},
};

/// Longest list of numbers, in bytes.
const LONGEST: usize = 64 * 1024;
/// Most ranges that an error names.
const NAMED: usize = 64;

/// An agent that a request is for.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) agent: AgentRecord,
    /// Whether it may be there: nobody knows yet that its lease is over.
    pub(super) online: bool,
    /// Its entities, when entities are selected.
    pub(super) entities: Option<Ranges>,
}

/// Entities that are selected.
#[derive(Debug)]
enum Entities {
    All,
    Named(Ranges),
}

/// A selection that was read.
#[derive(Debug)]
pub(super) struct Selection {
    /// All above DELETED when none are named.
    agents: Option<Ranges>,
    endpoint: Option<EndpointName>,
    filter: Option<Filter>,
    includes: Wish,
    entities: Option<Entities>,
}

/// The agents and entities among which is chosen.
#[derive(Debug, Default)]
struct Fleet {
    hosts: BTreeMap<u32, Host>,
    /// The last number that an agent got: what is not on record up to here was deleted and cleaned.
    last: u32,
    /// Entities of the endpoint, each with its agent; empty when they do not matter.
    entities: BTreeMap<u32, u32>,
}

impl Selection {
    /// Reads a selection for a namespace; every bad field is collected below `on`.
    pub(super) fn read(
        bad: &mut Violations,
        namespace: &str,
        on: Option<&RequestSelection>,
    ) -> Option<Self> {
        let Some(on) = on else {
            bad.add("on", "must be given");
            return None;
        };
        let mut own = Violations::default();
        let agents = ranges(&mut own, "agents", &on.agents);
        if on.all && !on.agents.trim().is_empty() {
            own.add("all", "cannot be together with agents");
        }
        let endpoint = Some(on.endpoint.trim()).filter(|name| !name.is_empty());
        let filter = Some(on.filter.as_str()).filter(|text| !text.trim().is_empty());
        let selection = Self {
            agents,
            endpoint: endpoint.and_then(|name| own.take(EndpointName::parse("endpoint", name))),
            filter: filter.and_then(|text| own.take(App::agent_filter(text))),
            includes: Wish::read(&mut own, &on.includes, &[]),
            entities: entities(&mut own, namespace, &on.entities),
        };
        let mut violations = own.error().violations;
        for Violation { field, .. } in &mut violations {
            field.insert_str(0, "on.");
        }
        if violations.is_empty() && !says_whom(on) {
            let field = "on".to_owned();
            let description = "must say whom: all, agents, endpoint, filter, includes or entities";
            violations.push(Violation { field, description: description.to_owned() });
        }
        let good = violations.is_empty();
        for Violation { field, description } in violations {
            bad.add(field, description);
        }
        good.then_some(selection)
    }

    /// Chooses among a fleet.
    fn choose(&self, fleet: Fleet, now: u64) -> Result<Vec<Chosen>> {
        let mut entities = self.entities(&fleet)?;
        let has = |host: &Host, name: &EndpointName| {
            host.agent.endpoints.iter().any(|endpoint| endpoint.name == name.as_str())
        };
        if let Some(name) = &self.endpoint
            && !fleet.hosts.values().any(|host| !host.agent.deleted && has(host, name))
        {
            return Err(no_endpoint(name.as_str()));
        }
        let chosen = self
            .base(fleet)?
            .into_iter()
            .filter(|host| self.endpoint.as_ref().is_none_or(|name| has(host, name)))
            .filter(|host| self.filter.as_ref().is_none_or(|filter| passes(filter, host)))
            .filter(|host| self.includes.holds(host, now).is_ok())
            .filter_map(|host| {
                let entities = match &mut entities {
                    Some(entities) => Some(entities.remove(&host.agent.id)?),
                    None => None,
                };
                let entities = entities.map(|numbers| numbers.into_iter().collect());
                Some(Chosen { agent: host.agent, online: host.online, entities })
            });
        Ok(chosen.collect())
    }

    /// The agents that are named, deleted ones included, or all above DELETED.
    fn base(&self, fleet: Fleet) -> Result<Vec<Host>> {
        let Fleet { mut hosts, last, .. } = fleet;
        let Some(named) = &self.agents else {
            let live = |host: &Host| {
                !host.agent.deleted && host.agent.status > AgentStatus::Deleted.number()
            };
            return Ok(hosts.into_values().filter(live).collect());
        };
        // One that has registered since the last number was read is there all the same.
        let there = |number: u32| number <= last || hosts.contains_key(&number);
        let never = missing(named, there, last.max(last_of(&hosts)));
        if !never.is_empty() {
            return Err(not_found(Reason::AgentNotFound, "agents", &never));
        }
        let numbers = named.as_slice().iter().flat_map(|&(a, b)| a..=b);
        Ok(numbers.map(|number| hosts.remove(&number).unwrap_or_else(|| cleaned(number))).collect())
    }

    /// The selected entities by agent.
    fn entities(&self, fleet: &Fleet) -> Result<Option<BTreeMap<u32, Vec<u32>>>> {
        let Some(selected) = &self.entities else { return Ok(None) };
        if let Entities::Named(named) = selected {
            let there = |number: u32| fleet.entities.contains_key(&number);
            let never = missing(named, there, last_of(&fleet.entities));
            if !never.is_empty() {
                return Err(not_found(Reason::EntityNotFound, "entities", &never));
            }
        }
        let mut on = BTreeMap::<u32, Vec<u32>>::new();
        for (&number, &agent) in &fleet.entities {
            let wanted = match selected {
                Entities::All => true,
                Entities::Named(named) => named.contains(number),
            };
            if wanted {
                on.entry(agent).or_default().push(number);
            }
        }
        Ok(Some(on))
    }
}

impl App {
    /// The agents that a selection means now.
    ///
    /// # Errors
    /// `AGENT_NOT_FOUND` or `ENTITY_NOT_FOUND` with every number that is named and never was,
    /// `ENDPOINT_NOT_FOUND` when no agent has it.
    pub(super) async fn select(
        &self,
        namespace: &str,
        selection: &Selection,
        now: u64,
    ) -> Result<Vec<Chosen>> {
        // Before the records: a number that was given later has its record then.
        let last = self.db.begin().number(keys::agent_counter()).await?;
        let counts = self.entity_counts().await?;
        let mut fleet = Fleet { last: u32::try_from(last).unwrap_or(u32::MAX), ..Fleet::default() };
        for (_, agent) in self.db.all::<AgentRecord>(keys::AGENTS.to_vec()).await? {
            let entities = counts.get(&agent.id).copied().unwrap_or_default();
            let host = Host {
                // Also before its first renewal since the manager's start it may be there.
                online: !self.leases.is_over(agent.id),
                entities: u32::try_from(entities).unwrap_or(u32::MAX),
                agent,
            };
            fleet.hosts.insert(host.agent.id, host);
        }
        if selection.entities.is_some() {
            let records = self.db.all::<EntityRecord>(keys::entities_of(namespace)).await?;
            fleet.entities = records.into_iter().map(|(_, e)| (e.number, e.agent)).collect();
        }
        selection.choose(fleet, now)
    }
}

fn says_whom(on: &RequestSelection) -> bool {
    on.all
        || !on.includes.is_empty()
        || [&on.agents, &on.endpoint, &on.filter, &on.entities].iter().any(|t| !t.trim().is_empty())
}

/// Numbers as ranges; none when there is no text.
fn ranges(bad: &mut Violations, field: &str, text: &str) -> Option<Ranges> {
    if text.len() > LONGEST {
        bad.add(field, format!("must have at most {LONGEST} bytes"));
        return None;
    }
    match text.trim() {
        "" => None,
        text => bad.take(Ranges::parse(field, text)),
    }
}

fn entities(bad: &mut Violations, namespace: &str, text: &str) -> Option<Entities> {
    let selected = if text.trim().eq_ignore_ascii_case("all") {
        Some(Entities::All)
    } else {
        ranges(bad, "entities", text).map(Entities::Named)
    };
    if selected.is_some() && namespace == MANAGER_NAMESPACE {
        bad.add("entities", "are of an endpoint: the namespace must be one");
    }
    selected
}

fn passes(filter: &Filter, host: &Host) -> bool {
    let seen = Seen { online: host.online, clock_offset: 0 };
    let entities = usize::try_from(host.entities).unwrap_or(usize::MAX);
    filter.passes(&host.agent.to_api(Some(seen), entities))
}

fn last_of<T>(numbered: &BTreeMap<u32, T>) -> u32 {
    numbered.last_key_value().map_or(0, |(&number, _)| number)
}

/// Ranges of the named numbers that are not there; nothing is there above `last`.
fn missing(named: &Ranges, there: impl Fn(u32) -> bool, last: u32) -> Vec<(u32, u32)> {
    let mut missing: Vec<(u32, u32)> = Vec::new();
    let mut add = |a: u32, b: u32| match missing.last_mut() {
        Some(before) if before.1.checked_add(1) == Some(a) => before.1 = b,
        _ => missing.push((a, b)),
    };
    for &(a, b) in named.as_slice() {
        // A range may go far beyond all that is there.
        for number in a..=b.min(last) {
            if !there(number) {
                add(number, number);
            }
        }
        if b > last {
            add(a.max(last.saturating_add(1)), b);
        }
    }
    missing
}

/// That some of the named numbers never were.
fn not_found(reason: Reason, what: &str, never: &[(u32, u32)]) -> Error {
    let texts: Vec<_> = never
        .iter()
        .take(NAMED)
        .map(|&(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") })
        .collect();
    let mut text = texts.join(",");
    if never.len() > NAMED {
        text.push_str(&format!(" and {} more ranges", never.len() - NAMED));
    }
    Error::new(reason, format!("there are no {what} {text}")).with(what, text)
}

/// An agent that was deleted and whose record is gone.
fn cleaned(id: u32) -> Host {
    let agent = AgentRecord {
        id,
        status: AgentStatus::Deleted.number(),
        deleted: true,
        ..AgentRecord::default()
    };
    Host { agent, online: false, entities: 0 }
}

#[cfg(test)]
mod tests;
