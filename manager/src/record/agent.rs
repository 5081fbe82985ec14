//! The record of an agent.

use std::collections::BTreeMap;

use goperation::{
    AgentStatus, to_timestamp,
    v1::{Agent, AgentEndpoint, AgentFacts, AgentSnapshot, AgentState, AgentUpgrade, StrayProcess},
};

use crate::{db::Record, etag, lease::Seen};

/// Clocks that are further apart than this are skewed, in milliseconds.
pub(crate) const SKEW: u64 = 5_000;

/// An agent.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AgentRecord {
    #[prost(uint32, tag = "1")]
    pub(crate) id: u32,
    #[prost(string, tag = "2")]
    pub(crate) agent_type: String,
    #[prost(string, tag = "3")]
    pub(crate) host: String,
    #[prost(string, tag = "4")]
    pub(crate) address: String,
    /// SHA-256 of the secret, which itself is not kept; empty for a reserved agent.
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) secret_hash: Vec<u8>,
    /// The status last known, by number.
    #[prost(sint32, tag = "6")]
    pub(crate) status: i32,
    #[prost(string, tag = "7")]
    pub(crate) status_cause: String,
    #[prost(uint64, tag = "8")]
    pub(crate) status_time: u64,
    /// ACTIVE or UNACTIVE as an operator set it: what the agent starts with.
    #[prost(sint32, optional, tag = "9")]
    pub(crate) desired: Option<i32>,
    #[prost(string, repeated, tag = "10")]
    pub(crate) ports_ranges: Vec<String>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) endpoints: Vec<AgentEndpoint>,
    #[prost(message, optional, tag = "12")]
    pub(crate) facts: Option<AgentFacts>,
    #[prost(message, optional, tag = "13")]
    pub(crate) snapshot: Option<AgentSnapshot>,
    #[prost(uint64, tag = "14")]
    pub(crate) report_time: u64,
    #[prost(string, tag = "15")]
    pub(crate) description: String,
    #[prost(btree_map = "string, string", tag = "16")]
    pub(crate) labels: BTreeMap<String, String>,
    #[prost(uint64, tag = "17")]
    pub(crate) create_time: u64,
    #[prost(uint64, tag = "18")]
    pub(crate) update_time: u64,
    /// Raised by each change: the etag.
    #[prost(uint64, tag = "19")]
    pub(crate) revision: u64,
    /// Raised by each change that the agent must learn by a sync.
    #[prost(uint64, tag = "20")]
    pub(crate) manager_generation: u64,
    /// The agent's generation at its last sync.
    #[prost(uint64, tag = "21")]
    pub(crate) agent_generation: u64,
    /// Deleted: it wins over whatever the agent reports.
    #[prost(bool, tag = "22")]
    pub(crate) deleted: bool,
    /// The last ACTIVE or UNACTIVE that the agent reported.
    #[prost(sint32, tag = "23")]
    pub(crate) settled: i32,
    /// Only on record: nobody has registered as this one yet, so there is no secret.
    #[prost(bool, tag = "24")]
    pub(crate) reserved: bool,
    /// Its last upgrade, as it told.
    #[prost(message, optional, tag = "25")]
    pub(crate) upgrade: Option<AgentUpgrade>,
    /// Processes that it found at its start and that should not be.
    #[prost(message, repeated, tag = "26")]
    pub(crate) strays: Vec<StrayProcess>,
}

impl Record for AgentRecord {
    const VERSION: u8 = 1;
}

impl AgentRecord {
    /// Marks a change.
    pub(crate) fn touch(&mut self, now: u64) {
        self.revision += 1;
        self.update_time = now;
    }

    /// Takes a status, and says whether that is a change.
    pub(crate) fn set_status(&mut self, status: AgentStatus, cause: &str, time: u64) -> bool {
        let before = (self.status, self.status_cause.clone(), self.status_time);
        if self.status != status.number() || self.status_cause != cause {
            self.status = status.number();
            cause.clone_into(&mut self.status_cause);
            self.status_time = time;
        }
        if status >= AgentStatus::Unactive {
            self.settled = status.number();
        }
        before != (self.status, self.status_cause.clone(), self.status_time)
    }

    /// The status that it starts with.
    pub(crate) fn start_status(&self) -> i32 {
        self.desired.unwrap_or(self.settled)
    }

    /// The etag.
    pub(crate) fn etag(&self) -> String {
        etag::of(self.create_time, self.revision)
    }

    /// The agent as clients see it.
    pub(crate) fn to_api(&self, seen: Option<Seen>, entities: usize) -> Agent {
        let offset = seen.map(|seen| seen.clock_offset);
        Agent {
            id: int(self.id),
            r#type: self.agent_type.clone(),
            host: self.host.clone(),
            address: self.address.clone(),
            state: AgentStatus::from_number(self.status)
                .map_or(AgentState::Unspecified, AgentState::from)
                .into(),
            status: self.status,
            status_cause: self.status_cause.clone(),
            status_time: Some(to_timestamp(self.status_time)),
            online: seen.is_some_and(|seen| seen.online),
            clock_skew: offset.is_some_and(|millis| millis.unsigned_abs() > SKEW),
            clock_offset: offset.map(|millis| prost_types::Duration {
                seconds: millis / 1000,
                nanos: i32::try_from(millis % 1000 * 1_000_000).unwrap_or_default(),
            }),
            ports_ranges: self.ports_ranges.clone(),
            endpoints: self.endpoints.iter().map(|e| e.name.clone()).collect(),
            entities: i32::try_from(entities).unwrap_or(i32::MAX),
            facts: self.facts.clone(),
            snapshot: self.snapshot,
            report_time: (self.report_time > 0).then(|| to_timestamp(self.report_time)),
            description: self.description.clone(),
            labels: self.labels.clone().into_iter().collect(),
            create_time: Some(to_timestamp(self.create_time)),
            update_time: Some(to_timestamp(self.update_time)),
            etag: self.etag(),
            reserved: self.reserved,
            upgrade: self.upgrade.clone(),
            strays: self.strays.clone(),
        }
    }
}

/// A number as the API has it.
pub(crate) fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
