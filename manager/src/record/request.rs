//! The records of a request: itself, its row for each agent, and what has happened.

use goperation::v1::{
    Request, RequestCounts, RequestHook, RequestSelection, RequestState, ResponseDetail,
    ResponseState, Rollout,
};

use crate::db::Record;

/// Result code of what is not known yet.
pub(crate) const RESULT_UNKNOWN: i32 = -127;
/// Result code of an agent that has not answered.
pub(crate) const RESULT_SILENT: i32 = -124;

/// A request.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RequestRecord {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) namespace: String,
    #[prost(string, tag = "3")]
    pub(crate) method: String,
    /// Arguments as JSON.
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) args: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub(crate) on: Option<RequestSelection>,
    #[prost(message, optional, tag = "6")]
    pub(crate) rollout: Option<Rollout>,
    #[prost(enumeration = "RequestState", tag = "7")]
    pub(crate) state: i32,
    #[prost(sint32, tag = "8")]
    pub(crate) resultcode: i32,
    #[prost(string, tag = "9")]
    pub(crate) result: String,
    #[prost(uint64, tag = "10")]
    pub(crate) request_time: u64,
    /// How long after its sending an agent may begin, in milliseconds.
    #[prost(uint64, tag = "11")]
    pub(crate) finish_timeout: u64,
    /// How long after its sending an answer is awaited, in milliseconds.
    #[prost(uint64, tag = "12")]
    pub(crate) timeout: u64,
    /// Of the agents that were sent to last.
    #[prost(uint64, tag = "13")]
    pub(crate) finish_time: u64,
    /// Of the agents that were sent to last.
    #[prost(uint64, tag = "14")]
    pub(crate) deadline: u64,
    /// 0 until it has ended.
    #[prost(uint64, tag = "15")]
    pub(crate) end_time: u64,
    /// How long rows are kept after the end, in milliseconds; 0 for as long as the request.
    #[prost(uint64, tag = "16")]
    pub(crate) expire: u64,
    #[prost(message, optional, tag = "17")]
    pub(crate) pre_run: Option<RequestHook>,
    #[prost(message, optional, tag = "18")]
    pub(crate) after_run: Option<RequestHook>,
    #[prost(message, optional, tag = "19")]
    pub(crate) post_run: Option<RequestHook>,
    /// Hash of the plan.
    #[prost(string, tag = "20")]
    pub(crate) plan: String,
    /// Raised by each change: the etag.
    #[prost(uint64, tag = "21")]
    pub(crate) revision: u64,
    /// Number of the last event; 0 before the first.
    #[prost(uint64, tag = "22")]
    pub(crate) last_event: u64,
    #[prost(message, optional, tag = "23")]
    pub(crate) counts: Option<RequestCounts>,
    /// Until when the pause after a batch lasts; 0 for none.
    #[prost(uint64, tag = "24")]
    pub(crate) paused_until: u64,
    /// Agents that failed or were silent since it began, or was resumed.
    #[prost(uint32, tag = "25")]
    pub(crate) failures: u32,
    /// More failures than this stop it.
    #[prost(uint32, optional, tag = "26")]
    pub(crate) max_failures: Option<u32>,
    /// Agents that run at a time, at most; 0 for no bound.
    #[prost(uint32, tag = "27")]
    pub(crate) max_parallel: u32,
    /// Pause between batches, in milliseconds.
    #[prost(uint64, tag = "28")]
    pub(crate) pause: u64,
    /// W3C trace context of whoever asked.
    #[prost(string, tag = "29")]
    pub(crate) traceparent: String,
    /// It was cancelled; what was sent is still waited for.
    #[prost(bool, tag = "30")]
    pub(crate) cancelled: bool,
    /// Whether `pre_run` has been called, and `after_run`, and `post_run`: each is once.
    #[prost(bool, tag = "31")]
    pub(crate) pre_run_done: bool,
    #[prost(bool, tag = "32")]
    pub(crate) after_run_done: bool,
    #[prost(bool, tag = "33")]
    pub(crate) post_run_done: bool,
}

impl Record for RequestRecord {
    const VERSION: u8 = 1;
}

/// The row of an agent.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RowRecord {
    #[prost(uint32, tag = "1")]
    pub(crate) agent: u32,
    #[prost(string, tag = "2")]
    pub(crate) host: String,
    #[prost(string, tag = "3")]
    pub(crate) agent_type: String,
    #[prost(enumeration = "ResponseState", tag = "4")]
    pub(crate) state: i32,
    #[prost(sint32, tag = "5")]
    pub(crate) resultcode: i32,
    #[prost(string, tag = "6")]
    pub(crate) reason: String,
    #[prost(string, tag = "7")]
    pub(crate) message: String,
    /// What the method answered, as JSON.
    #[prost(bytes = "vec", optional, tag = "8")]
    pub(crate) result: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "9")]
    pub(crate) details: Vec<ResponseDetail>,
    #[prost(bool, tag = "10")]
    pub(crate) late: bool,
    #[prost(string, tag = "11")]
    pub(crate) progress: String,
    /// From 1.
    #[prost(uint32, tag = "12")]
    pub(crate) batch: u32,
    #[prost(uint64, tag = "13")]
    pub(crate) send_time: u64,
    /// The agent does not begin later.
    #[prost(uint64, tag = "14")]
    pub(crate) finish_time: u64,
    /// It is given up then.
    #[prost(uint64, tag = "15")]
    pub(crate) deadline: u64,
    #[prost(uint64, tag = "16")]
    pub(crate) start_time: u64,
    #[prost(uint64, tag = "17")]
    pub(crate) end_time: u64,
    #[prost(uint64, tag = "18")]
    pub(crate) server_time: u64,
    /// Its entities as ranges, when entities are selected.
    #[prost(string, tag = "19")]
    pub(crate) entities: String,
    /// It is being sent to, or was: durable before the first try, so that a manager that dies
    /// sends again, under the same id.
    #[prost(bool, tag = "20")]
    pub(crate) sending: bool,
}

impl Record for RowRecord {
    const VERSION: u8 = 1;
}

/// Something that has happened.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EventRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) time: u64,
    /// 0 when it is about the request itself.
    #[prost(uint32, tag = "2")]
    pub(crate) agent: u32,
    #[prost(string, tag = "3")]
    pub(crate) host: String,
    #[prost(enumeration = "ResponseState", tag = "4")]
    pub(crate) state: i32,
    #[prost(sint32, tag = "5")]
    pub(crate) resultcode: i32,
    #[prost(string, tag = "6")]
    pub(crate) reason: String,
    #[prost(string, tag = "7")]
    pub(crate) message: String,
    #[prost(string, tag = "8")]
    pub(crate) progress: String,
    #[prost(bool, tag = "9")]
    pub(crate) late: bool,
    #[prost(uint32, tag = "10")]
    pub(crate) batch: u32,
    /// The request as it was then, when it is about the request.
    #[prost(message, optional, tag = "11")]
    pub(crate) request: Option<Request>,
    /// Whether that is its end.
    #[prost(bool, tag = "12")]
    pub(crate) summary: bool,
}

impl Record for EventRecord {
    const VERSION: u8 = 1;
}
