//! Records of what is under way, and of what must be remembered for a while.

use crate::db::Record;

/// The number of an agent, where its identity is looked up.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct IdRecord {
    #[prost(uint32, tag = "1")]
    pub(crate) id: u32,
}

impl Record for IdRecord {
    const VERSION: u8 = 1;
}

/// That the queues of an agent are to be made.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct QueueJob {
    /// What a deleted agent of the same host and type left is drained and removed first.
    #[prost(bool, tag = "1")]
    pub(crate) remove_first: bool,
    /// Endpoints that the agent had and has no more.
    #[prost(string, repeated, tag = "2")]
    pub(crate) former: Vec<String>,
}

impl Record for QueueJob {
    const VERSION: u8 = 1;
}

/// How far the delete of an agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum DeletePhase {
    /// The agent was or will be asked; it has not agreed yet.
    Precommit = 0,
    /// The record says DELETED; the agent is told until its lease is over.
    Committed = 1,
    /// The record says DELETED; nobody is told.
    Forced = 2,
}

/// The delete of an agent.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct DeleteRecord {
    #[prost(uint32, tag = "1")]
    pub(crate) agent: u32,
    #[prost(string, tag = "2")]
    pub(crate) agent_type: String,
    #[prost(string, tag = "3")]
    pub(crate) host: String,
    /// What the agent compares in the second phase.
    #[prost(string, tag = "4")]
    pub(crate) secret: String,
    #[prost(enumeration = "DeletePhase", tag = "5")]
    pub(crate) phase: i32,
    /// Id under which the second phase is sent, however often.
    #[prost(string, tag = "6")]
    pub(crate) postcommit: String,
    #[prost(uint64, tag = "7")]
    pub(crate) time: u64,
}

impl Record for DeleteRecord {
    const VERSION: u8 = 1;
}

/// That an entity was deleted: an inventory that still has it is older, or its delete was lost.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct GoneRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) time: u64,
}

impl Record for GoneRecord {
    const VERSION: u8 = 1;
}

/// Which agent has a message that was for any one.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct ClaimRecord {
    #[prost(uint32, tag = "1")]
    pub(crate) holder: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) keep_until: u64,
}

impl Record for ClaimRecord {
    const VERSION: u8 = 1;
}
