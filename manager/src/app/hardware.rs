//! What an operator may write of a reserved agent, because no agent reports it yet: facts and
//! ranges of ports.
//!
//! Invariant: of an agent that has registered none of it is ever written here; its next sync would
//! undo that.

use goperation::{
    Error, Reason, Result,
    v1::{Agent, AgentFacts},
};

use crate::{
    check::{self, Violations},
    record::AgentRecord,
};

/// What is written.
#[derive(Debug, Default)]
pub(super) struct Hardware {
    paths: Vec<&'static str>,
    /// Named by a mask, so that it must not be passed over.
    named: bool,
    facts: AgentFacts,
    ports_ranges: Vec<String>,
    /// Why it cannot be written.
    refused: Option<Error>,
}

impl Hardware {
    /// The paths of a mask that are of this.
    pub(super) const PATHS: &[&'static str] = &[
        "facts",
        "facts.cpu",
        "facts.memory_mib",
        "facts.disk_mib",
        "facts.version",
        "facts.metadata",
        "ports_ranges",
    ];

    /// What the paths of a mask name; without a mask, what has a value.
    pub(super) fn read(agent: &Agent, named: Option<&[&'static str]>) -> Self {
        let (facts, ranges) = (agent.facts.clone(), agent.ports_ranges.clone());
        let paths = named.map_or_else(
            || {
                let ranges = (!ranges.is_empty()).then_some("ports_ranges");
                facts.as_ref().map(|_| "facts").into_iter().chain(ranges).collect()
            },
            <[_]>::to_vec,
        );
        let facts = facts.unwrap_or_default();
        let mut bad = Violations::default();
        if paths.iter().any(|path| path.starts_with("facts")) {
            check_facts(&mut bad, "agent.facts", &facts);
        }
        if paths.contains(&"ports_ranges") {
            check::ports_ranges(&mut bad, "agent.ports_ranges", &ranges);
        }
        let refused = bad.finish().err();
        Self { paths, named: named.is_some(), facts, ports_ranges: ranges, refused }
    }

    /// Sets it, and says whether that changed anything.
    ///
    /// # Errors
    /// `STATE_REFUSED` when the agent reports itself what a mask names; `INVALID_ARGUMENT`.
    pub(super) fn apply(&self, record: &mut AgentRecord) -> Result<bool> {
        let Some(first) = self.paths.first() else { return Ok(false) };
        if !record.reserved || record.deleted {
            return if self.named { Err(reported(record, first)) } else { Ok(false) };
        }
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        let before = (record.facts.clone(), record.ports_ranges.clone());
        for path in &self.paths {
            if *path == "ports_ranges" {
                record.ports_ranges.clone_from(&self.ports_ranges);
                continue;
            }
            let facts = record.facts.get_or_insert_default();
            match *path {
                "facts.cpu" => facts.cpu = self.facts.cpu,
                "facts.memory_mib" => facts.memory_mib = self.facts.memory_mib,
                "facts.disk_mib" => facts.disk_mib = self.facts.disk_mib,
                "facts.version" => facts.version.clone_from(&self.facts.version),
                "facts.metadata" => facts.metadata.clone_from(&self.facts.metadata),
                _ => facts.clone_from(&self.facts),
            }
        }
        Ok(before != (record.facts.clone(), record.ports_ranges.clone()))
    }
}

/// Facts that an operator writes.
pub(super) fn check_facts(bad: &mut Violations, field: &str, facts: &AgentFacts) {
    for (name, number) in
        [("cpu", facts.cpu), ("memory_mib", facts.memory_mib), ("disk_mib", facts.disk_mib)]
    {
        if number < 0 {
            bad.add(format!("{field}.{name}"), "must not be negative");
        }
    }
}

fn reported(record: &AgentRecord, path: &str) -> Error {
    let why = if record.deleted { "is DELETED" } else { "reports it itself" };
    Error::new(
        Reason::StateRefused,
        format!(
            "{path} is written only of a reserved agent; agent {} on {} {why}",
            record.id, record.host
        ),
    )
    .with("agent", record.id)
}
