//! The executer `http`: one request, whose answer must be a good one.
//!
//! Invariant: everything of a call, the look at its addresses included, ends within its time
//! limit. Nothing of the answer but its status is looked at.

use std::time::Duration;

use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{CONTENT_TYPE, HOST},
    uri::PathAndQuery,
};
use bytes::Bytes;
use goperation::JsonObject;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::address::resolve;
use crate::check::Violations;

const KNOWN: [&str; 8] = ["url", "method", "headers", "params", "data", "json", "timeout", "async"];
static METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];
/// Headers that say where a message ends, or belong to the connection.
const OURS: [&str; 9] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Longest address, with its parameters.
const URL: usize = 8192;
/// Time limit of a call, in seconds, when none is said.
const TIMEOUT: f64 = 5.0;
/// Shortest and longest time limit, in seconds.
const TIMEOUTS: std::ops::RangeInclusive<f64> = 3.0..=60.0;
const FORM: &str = "application/x-www-form-urlencoded";

/// A call, read.
#[derive(Debug)]
pub(super) struct Call {
    method: Method,
    host: String,
    port: u16,
    path: PathAndQuery,
    headers: HeaderMap,
    body: Bytes,
    timeout: Duration,
    /// Nobody waits for it.
    pub(super) apart: bool,
}

impl Call {
    /// Reads what a hook says of it; what is wrong is collected.
    pub(super) fn read(bad: &mut Violations, field: &str, given: &JsonObject) -> Option<Self> {
        for key in given.keys().filter(|key| !KNOWN.contains(&key.as_str())) {
            bad.add(format!("{field}.{key}"), format!("is not one of {}", KNOWN.join(", ")));
        }
        let at = |key: &str| format!("{field}.{key}");
        let params = take(bad, at("params"), pairs(given.get("params"))).unwrap_or_default();
        let headers = take(bad, at("headers"), headers(given.get("headers")));
        let body = take(bad, at("data"), body(given));
        let method = take(bad, at("method"), method(given.get("method")));
        let timeout = take(bad, at("timeout"), timeout(given.get("timeout")));
        let apart = take(bad, at("async"), flag(given.get("async")));
        let uri = take(bad, at("url"), url(given.get("url"), &params))?;
        let (mut headers, (body, kind)) = (headers?, body?);
        if let Some(kind) = kind {
            headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(kind));
        }
        let authority = uri.authority()?;
        headers.entry(HOST).or_insert(HeaderValue::from_str(authority.as_str()).ok()?);
        let without = if body.is_empty() { Method::GET } else { Method::POST };
        Some(Self {
            method: method?.unwrap_or(without),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            path: uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")),
            headers,
            body,
            timeout: timeout?,
            apart: apart?,
        })
    }

    /// Adds a header that the hook does not say itself.
    pub(super) fn add_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.entry(name).or_insert(value);
    }

    /// Calls it, and says why it failed. The address is named without what may be secret in it.
    pub(super) async fn run(self, allow_local: bool) -> Result<(), String> {
        let (limit, method) = (self.timeout, self.method.clone());
        let place = format!("{method} to {}:{}", self.host, self.port);
        let why = match tokio::time::timeout(limit, self.answered(allow_local)).await {
            Ok(Ok(status)) if status.is_success() => return Ok(()),
            Ok(Ok(status)) if status.is_redirection() => {
                format!("was answered {status}, and redirects are not followed")
            }
            Ok(Ok(status)) => format!("was answered {status}"),
            Ok(Err(why)) => format!("cannot be done: {why}"),
            Err(_) => format!("was not answered within {} s", limit.as_secs_f64()),
        };
        Err(format!("{place} {why}"))
    }

    async fn answered(self, allow_local: bool) -> Result<StatusCode, String> {
        let stream = self.connect(allow_local).await?;
        let broken = |error: hyper::Error| format!("the connection broke: {error}");
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let mut request = Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = Uri::from(self.path);
        *request.headers_mut() = self.headers;
        let mut connection = std::pin::pin!(connection);
        let mut sending = std::pin::pin!(sender.send_request(request));
        let answer = tokio::select! {
            biased;
            answer = &mut sending => answer,
            // It has ended: the answer is there, or why there is none.
            _ = &mut connection => sending.await,
        };
        answer.map(|answer| answer.status()).map_err(broken)
    }

    async fn connect(&self, allow_local: bool) -> Result<TcpStream, String> {
        let addresses = resolve(&self.host, self.port, allow_local).await;
        let mut last = String::new();
        for address in addresses.map_err(|error| error.to_string())? {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = format!("{address} cannot be reached: {error}"),
            }
        }
        Err(last)
    }
}

/// The value of a field, or what is wrong with it collected.
fn take<T>(bad: &mut Violations, field: String, read: Result<T, String>) -> Option<T> {
    read.map_err(|what| bad.add(field, what)).ok()
}

/// A value as a form or a header has it.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Pairs of a form: a list says the same key several times.
fn pairs(given: Option<&Value>) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let Some(given) = given.filter(|given| !given.is_null()) else { return Ok(pairs) };
    let object = given.as_object().ok_or("must be an object")?;
    for (key, value) in object {
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for value in values {
            let value = text(value);
            let value = value.ok_or_else(|| format!("{key} must be text, a number or a list"))?;
            pairs.push((key.clone(), value));
        }
    }
    Ok(pairs)
}

fn encoded(pairs: &[(String, String)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

fn headers(given: Option<&Value>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (key, value) in pairs(given)? {
        let name = key.parse::<HeaderName>().map_err(|_| format!("{key:?} is not a header"))?;
        if OURS.contains(&name.as_str()) {
            return Err(format!("{name} is not for a hook to say"));
        }
        let value = HeaderValue::try_from(value)
            .map_err(|_| format!("the value of {name} has characters that no header may have"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// The body with its type: `data` as it is or as a form, or `json`.
fn body(given: &JsonObject) -> Result<(Bytes, Option<&'static str>), String> {
    let said = |key: &str| given.get(key).filter(|value| !value.is_null());
    match (said("data"), said("json")) {
        (Some(_), Some(_)) => Err("must not be there beside json".to_owned()),
        (None, Some(json)) => Ok((json.to_string().into(), Some("application/json"))),
        (Some(Value::String(data)), None) => Ok((data.clone().into(), None)),
        (Some(data), None) => match pairs(Some(data)) {
            Ok(pairs) => Ok((encoded(&pairs).into(), Some(FORM))),
            Err(_) => Err("must be text, or an object with what a form has".to_owned()),
        },
        (None, None) => Ok((Bytes::new(), None)),
    }
}

fn method(given: Option<&Value>) -> Result<Option<Method>, String> {
    let Some(given) = given else { return Ok(None) };
    let known = given
        .as_str()
        .map(str::to_uppercase)
        .and_then(|given| METHODS.iter().find(|method| method.as_str() == given).cloned());
    known.map(Some).ok_or_else(|| {
        let names: Vec<_> = METHODS.iter().map(Method::as_str).collect();
        format!("must be one of {}", names.join(", "))
    })
}

fn timeout(given: Option<&Value>) -> Result<Duration, String> {
    let seconds = given.map_or(Some(TIMEOUT), Value::as_f64);
    seconds
        .filter(|seconds| TIMEOUTS.contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("must be from {} to {} seconds", TIMEOUTS.start(), TIMEOUTS.end()))
}

fn flag(given: Option<&Value>) -> Result<bool, String> {
    given.map_or(Some(false), Value::as_bool).ok_or_else(|| "must be true or false".to_owned())
}

/// The address with its parameters.
fn url(given: Option<&Value>, params: &[(String, String)]) -> Result<Uri, String> {
    let text = given.and_then(Value::as_str).ok_or("must be given, such as http://host/path")?;
    let (text, _fragment) = text.split_once('#').unwrap_or((text, ""));
    let sign = if text.contains('?') { '&' } else { '?' };
    let text = match encoded(params) {
        none if none.is_empty() => text.to_owned(),
        params => format!("{text}{sign}{params}"),
    };
    if text.len() > URL {
        return Err(format!("must have at most {URL} characters with params"));
    }
    let uri = text.parse::<Uri>().map_err(|e| format!("is not an address: {e}"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err("must begin with http: https is not spoken yet".to_owned()),
        _ => return Err("must begin with http://".to_owned()),
    }
    let authority = uri.authority().ok_or("has no host")?;
    if authority.as_str().contains('@') {
        return Err("must not have a user: say it in a header".to_owned());
    }
    if authority.host().is_empty() || uri.port_u16() == Some(0) {
        return Err("has no host, or no port".to_owned());
    }
    Ok(uri)
}

#[cfg(test)]
mod tests;
