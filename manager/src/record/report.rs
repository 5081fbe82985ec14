//! Records of what agents reported.

use goperation::v1::AgentSnapshot;

use crate::db::Record;

/// One report.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct ReportRecord {
    /// When it came.
    #[prost(uint64, tag = "1")]
    pub(crate) time: u64,
    #[prost(message, optional, tag = "2")]
    pub(crate) snapshot: Option<AgentSnapshot>,
}

impl Record for ReportRecord {
    const VERSION: u8 = 1;
}

/// Which reports of an agent are kept: by their numbers, from `first` up to, not including, `next`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct ReportSpan {
    #[prost(uint64, tag = "1")]
    pub(crate) first: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) next: u64,
}

impl Record for ReportSpan {
    const VERSION: u8 = 1;
}
