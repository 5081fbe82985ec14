//! What HTTP clients meet on the manager's port: REST from the annotations, the legacy REST,
//! OpenAPI with its page, and gRPC-Web. Native gRPC passes through.
//!
//! Invariant: nothing is decided here. Every answer is that of a gRPC service, called in this
//! process through the same [`tonic::service::Routes`] that gRPC clients reach.

mod answer;
mod body;
mod call;
mod config;
mod cors;
mod deadline;
mod gateway;
mod guard;
mod headers;
mod incoming;
mod json;
mod large;
mod leaf;
mod legacy;
mod mask;
mod openapi;
mod percent;
mod problem;
mod query;
mod request;
mod rest;
mod resume;
mod router;
mod rule;
mod stream;
mod template;
#[cfg(test)]
mod testing;
mod wkt;

pub use config::{Config, NotAnOrigin, Origin};
pub use gateway::{Error, Gateway};
pub use legacy::legacy_routes;

/// The body of a request, from whatever server.
pub(crate) type Incoming = tonic::body::Body;
/// The body of an answer.
pub(crate) type Answer = tonic::body::Body;
