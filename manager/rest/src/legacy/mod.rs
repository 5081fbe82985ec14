//! The REST of the old system under `/v1.0`, for the scripts and pages that speak it.
//!
//! Invariant: nothing is decided here. [`table`] says which handler a path has, a handler renames
//! between the old names and the messages of the gRPC services, and [`outcome`] gives each reason
//! the status that it had.

mod agents;
mod answers;
mod auth;
mod caches;
mod calls;
mod clients;
mod commands;
mod endpoints;
mod entitys;
mod envelope;
mod fields;
mod ids;
mod metadata;
mod outcome;
mod ports;
mod requests;
mod respones;
mod rows;
mod table;

use std::net::SocketAddr;

use bytes::Bytes;
use goperation::{Error, JsonObject, Reason};
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use serde_json::Value;
use tonic::service::Routes;

pub use table::legacy_routes;

use self::{
    auth::Auth,
    clients::Clients,
    envelope::Envelope,
    fields::Fields,
    table::{Body, Found, Route},
};
use crate::{
    Answer, Config, Incoming,
    incoming::{Limits, check_type, read_body},
    json,
    large::{self, Turn},
};

/// The query parameter that replaces the method.
const METHOD: &str = "_method";
/// The header under which a repeat gets the first answer, on routes that begin requests.
const KEY: &str = "idempotency-key";

/// What answers below `/v1.0` and `/n1.0`.
pub(crate) struct Legacy {
    clients: Clients,
    auth: Auth,
    limits: Limits,
}

/// A request on its way to its handler.
pub(super) struct Call {
    clients: Clients,
    params: Vec<(&'static str, String)>,
    body: Fields,
    key: Option<HeaderValue>,
}

/// What went wrong, and on which route if there is one.
struct Failed(Option<&'static Route>, Error);

impl Legacy {
    /// The old REST over those services.
    pub(crate) fn new(grpc: Routes, config: &Config) -> Self {
        Self {
            clients: Clients::new(grpc),
            auth: Auth::new(config.trusted_token.clone()),
            limits: Limits { max_body: config.max_body, body_timeout: config.body_timeout },
        }
    }

    /// Answers a request of that peer.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        peer: Option<SocketAddr>,
    ) -> Response<Answer> {
        // It was so for every path, known or not; what a page may do is said before.
        if request.method() == Method::OPTIONS {
            return respond(StatusCode::OK, Bytes::new());
        }
        let (parts, body) = request.into_parts();
        let (status, value) = match self.run(&parts, body, peer).await {
            Ok(envelope) => (StatusCode::OK, envelope.to_json()),
            Err(Failed(route, error)) => {
                let except = route.map(|route| route.except).unwrap_or_default();
                let unbuilt = route.is_some_and(|route| route.handler.is_none());
                outcome::answer(&error, except, unbuilt)
            }
        };
        respond(status, Bytes::from(value.to_string()))
    }

    async fn run(
        &self,
        parts: &Parts,
        body: Incoming,
        peer: Option<SocketAddr>,
    ) -> Result<Envelope, Failed> {
        let lost = |error| Failed(None, error);
        self.auth.check(&parts.headers, parts.uri.path(), peer).map_err(lost)?;
        let Found { route, params } =
            table::find(&method(parts).map_err(lost)?, parts.uri.path()).map_err(lost)?;
        let failed = |error| Failed(Some(route), error);
        let Some(handler) = route.handler else {
            let what = format!("{} {} is not there yet", route.method, route.path);
            return Err(failed(Error::new(Reason::MethodNotFound, what)));
        };
        let body = self.read(parts, body, route.body).await.map_err(failed)?;
        let key = parts.headers.get(KEY).cloned();
        handler(Call { clients: self.clients.clone(), params, body, key }).await.map_err(failed)
    }

    async fn read(&self, parts: &Parts, body: Incoming, wanted: Body) -> Result<Fields, Error> {
        check_type(&parts.headers)?;
        let bytes = read_body(&parts.headers, body, &self.limits).await?;
        let length = bytes.len();
        let turn = parts.extensions.get::<Turn>().cloned();
        let parse = move || if bytes.is_empty() { Ok(Value::Null) } else { json::parse(&bytes) };
        let value = large::work(length, turn, parse).await??;
        match (value, wanted) {
            (_, Body::Ignored) => Ok(Fields::new(JsonObject::new())),
            (Value::Object(object), _) => Ok(Fields::new(object)),
            (Value::Null, Body::Optional) => Ok(Fields::new(JsonObject::new())),
            (Value::Null, Body::Required) => Err(Error::invalid("body", "is required")),
            _ => Err(Error::invalid("body", "must be a JSON object")),
        }
    }
}

/// The method by which the route is looked up. What any web page can make a browser ask, by a
/// picture's address, must stay without effect: a safe method is not replaced by another kind.
fn method(parts: &Parts) -> Result<String, Error> {
    let query = parts.uri.query().unwrap_or_default();
    let mut parameters = form_urlencoded::parse(query.as_bytes());
    let Some((_, wanted)) = parameters.find(|(name, _)| name == METHOD) else {
        return Ok(parts.method.to_string());
    };
    let wanted = wanted.to_ascii_uppercase();
    if parts.method.is_safe() && !matches!(wanted.as_str(), "GET" | "HEAD") {
        let said = format!("{} cannot be replaced by {wanted}: send a POST", parts.method);
        return Err(Error::invalid(METHOD, said));
    }
    Ok(wanted)
}

fn respond(status: StatusCode, body: Bytes) -> Response<Answer> {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Answer::new(Full::new(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, length);
    response
}

impl Call {
    /// A variable of the path.
    fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// The one agent that the path names.
    fn agent_id(&self) -> Result<i32, Error> {
        ids::single("agent_id", self.param("agent_id"))
    }

    /// The idempotency key; empty without one.
    fn idempotency_key(&self) -> Result<String, Error> {
        let Some(key) = &self.key else { return Ok(String::new()) };
        let key = key.to_str().ok().filter(|key| !key.is_empty());
        let key =
            key.ok_or_else(|| Error::invalid("Idempotency-Key", "must be printable ASCII"))?;
        Ok(key.to_owned())
    }

    /// The endpoint that the path names.
    fn endpoint(&self) -> Result<String, Error> {
        fields::endpoint("endpoint", self.param("endpoint"))
    }

    /// The entity that the path names.
    fn entity(&self) -> Result<i32, Error> {
        let text = self.param("entity");
        text.parse().map_err(|_| Error::invalid("entity", format!("`{text}` is not a number")))
    }
}

#[cfg(test)]
mod tests;
