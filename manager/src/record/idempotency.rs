//! The record of an idempotency key.

use goperation::v1::{Candidate, LeftOut};

use crate::db::Record;

/// What was asked for under a key, and how far it is.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct KeyRecord {
    /// SHA-256 of the request.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) hash: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(crate) endpoint: String,
    #[prost(uint32, tag = "3")]
    pub(crate) number: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) agent: u32,
    /// Id under which the agent is asked, however often.
    #[prost(string, tag = "5")]
    pub(crate) message: String,
    /// When it is forgotten.
    #[prost(uint64, tag = "6")]
    pub(crate) keep_until: u64,
    /// Of a choice: the agents that suit.
    #[prost(message, repeated, tag = "7")]
    pub(crate) candidates: Vec<Candidate>,
    /// Of a choice: the agents that refused before this one was asked.
    #[prost(message, repeated, tag = "8")]
    pub(crate) refused: Vec<LeftOut>,
    /// The answer, once it ended well.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub(crate) response: Option<Vec<u8>>,
    /// The failure as an encoded `google.rpc.Status`, once it ended badly and left something.
    #[prost(bytes = "vec", optional, tag = "10")]
    pub(crate) failure: Option<Vec<u8>>,
}

impl Record for KeyRecord {
    const VERSION: u8 = 1;
}
