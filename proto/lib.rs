//! The API of Goperation: generated messages and services, and the few types that every role
//! shares — typed errors, names, number ranges, statuses and JSON values.
//!
//! Invariant: nothing here has behaviour of a role. What lives here crosses a process boundary.

mod answer;
mod config;
mod error;
mod ids;
mod name;
mod ranges;
mod share;
mod status;
mod time;
mod value;

pub use config::{ConfigError, parse_config, read_config};
pub use error::{DOMAIN, Error, Reason, Result, Violation};
pub use ids::{MessageId, Secret};
pub use name::{
    AgentType, EndpointName, HostName, MANAGER_NAMESPACE, MethodName, NotifyName, RESERVED,
};
pub use ranges::Ranges;
pub use share::{NoShare, Share};
pub use status::AgentStatus;
pub use time::{from_timestamp, now_millis, parse_grpc_timeout, to_duration, to_timestamp};
pub use value::{
    JsonObject, MAX_DEPTH, MAX_SAFE_INTEGER, check_object, json_to_struct, struct_to_json,
};

/// The encoded `FileDescriptorSet` of the API with every option kept, `google.api.http` included.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// Generated messages, clients and servers of `goperation.v1`.
#[expect(
    missing_docs,
    clippy::allow_attributes,
    reason = "generated: the documentation is in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("goperation.v1");
}
