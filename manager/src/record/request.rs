//! The records of a request: itself, its row for each agent, and what has happened.

use goperation::{
    JsonObject, json_to_struct, to_timestamp,
    v1::{
        AgentEvent, AgentResponse, Request, RequestCounts, RequestHook, RequestSelection,
        RequestState, ResponseDetail, ResponseState, Rollout, WatchRequestResponse,
        watch_request_response::Event,
    },
};
use prost_types::{Struct, Timestamp};

use super::int;
use crate::{db::Record, etag};

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
    /// What went wrong besides: hooks that failed after the sending.
    #[prost(string, tag = "34")]
    pub(crate) notes: String,
}

impl Record for RequestRecord {
    const VERSION: u8 = 1;
}

impl RequestRecord {
    /// Whether nothing is sent or awaited any more.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(
            self.state(),
            RequestState::Finished | RequestState::Cancelled | RequestState::Failed
        )
    }

    /// When its rows are dropped; `None` as long as they are kept with it.
    pub(crate) fn rows_until(&self) -> Option<u64> {
        let drops = self.expire > 0 && self.has_ended();
        drops.then(|| self.end_time.saturating_add(self.expire))
    }

    /// The etag.
    pub(crate) fn etag(&self) -> String {
        etag::of(self.request_time, self.revision)
    }

    /// The request as clients see it.
    pub(crate) fn to_api(&self) -> Request {
        Request {
            id: self.id.clone(),
            namespace: self.namespace.clone(),
            method: self.method.clone(),
            args: Some(to_struct(&self.args)),
            on: self.on.clone(),
            rollout: self.rollout.clone(),
            state: self.state,
            counts: self.counts,
            resultcode: self.resultcode,
            result: self.result.clone(),
            request_time: time(self.request_time),
            finish_time: time(self.finish_time),
            deadline: time(self.deadline),
            end_time: time(self.end_time),
            expire: (self.expire > 0).then(|| to_proto_duration(self.expire)),
            pre_run: self.pre_run.clone(),
            after_run: self.after_run.clone(),
            post_run: self.post_run.clone(),
            plan: self.plan.clone(),
            etag: self.etag(),
        }
    }
}

/// A JSON object as it is stored; what cannot be read is an empty one.
fn to_struct(json: &[u8]) -> Struct {
    let object: JsonObject = serde_json::from_slice(json).unwrap_or_default();
    json_to_struct("result", &object).unwrap_or_default()
}

/// 0 stands for not yet.
fn time(millis: u64) -> Option<Timestamp> {
    (millis > 0).then(|| to_timestamp(millis))
}

fn to_proto_duration(millis: u64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1000 * 1_000_000).unwrap_or_default(),
    }
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

impl RowRecord {
    /// Whether it has ended: only a late answer changes it.
    pub(crate) fn is_final(&self) -> bool {
        matches!(
            self.state(),
            ResponseState::Succeeded
                | ResponseState::Failed
                | ResponseState::Silent
                | ResponseState::Skipped
        )
    }

    /// The row as clients see it.
    pub(crate) fn to_api(&self) -> AgentResponse {
        AgentResponse {
            agent_id: int(self.agent),
            host: self.host.clone(),
            state: self.state,
            resultcode: self.resultcode,
            reason: self.reason.clone(),
            message: self.message.clone(),
            result: self.result.as_deref().map(to_struct),
            details: self.details.clone(),
            late: self.late,
            progress: self.progress.clone(),
            batch: int(self.batch),
            send_time: time(self.send_time),
            start_time: time(self.start_time),
            end_time: time(self.end_time),
            server_time: time(self.server_time),
        }
    }
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

impl EventRecord {
    /// The event as watchers see it. Results stand in the row only, so that is needed for them.
    pub(crate) fn to_api(&self, cursor: u64, row: Option<&RowRecord>) -> WatchRequestResponse {
        let event = match &self.request {
            Some(request) if self.summary => Event::Summary(request.clone()),
            Some(request) => Event::Request(request.clone()),
            None => Event::Agent(self.of_agent(row)),
        };
        WatchRequestResponse {
            cursor: cursor.to_string(),
            time: time(self.time),
            event: Some(event),
        }
    }

    fn of_agent(&self, row: Option<&RowRecord>) -> AgentEvent {
        // A row that was replaced since has nothing to say about what was before.
        let row =
            row.filter(|row| row.is_final() && (row.state, row.late) == (self.state, self.late));
        AgentEvent {
            agent_id: int(self.agent),
            host: self.host.clone(),
            state: self.state,
            resultcode: self.resultcode,
            reason: self.reason.clone(),
            message: self.message.clone(),
            progress: self.progress.clone(),
            result: row.and_then(|row| row.result.as_deref()).map(to_struct),
            details: row.map(|row| row.details.clone()).unwrap_or_default(),
            late: self.late,
            batch: int(self.batch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_result_of_its_own_answer_only() {
        let row = RowRecord {
            agent: 7,
            state: ResponseState::Succeeded.into(),
            result: Some(br#"{"a":1}"#.to_vec()),
            late: true,
            ..RowRecord::default()
        };
        let event = |state: ResponseState, late| {
            let event =
                EventRecord { agent: 7, state: state.into(), late, ..EventRecord::default() };
            match event.to_api(3, Some(&row)).event {
                Some(Event::Agent(event)) => event.result.is_some(),
                _ => panic!("another event"),
            }
        };
        assert!(event(ResponseState::Succeeded, true));
        assert!(!event(ResponseState::Silent, false));
        assert!(!event(ResponseState::Running, false));
    }

    #[test]
    fn times_that_are_not_yet_are_left_out() {
        let record = RequestRecord { request_time: 1500, expire: 2500, ..RequestRecord::default() };
        let api = record.to_api();
        assert_eq!(api.request_time, Some(to_timestamp(1500)));
        assert_eq!(api.end_time, None);
        assert_eq!(api.expire.map(|d| (d.seconds, d.nanos)), Some((2, 500_000_000)));
        assert_eq!(record.rows_until(), None);
    }
}
