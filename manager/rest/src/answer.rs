//! The HTTP answer that a message is.
//!
//! Invariant: Content-Length and Content-Type are those of the body, also where the body is left
//! out, for HEAD.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use goperation::{Error, Reason};
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, VARY},
};
use http_body_util::Full;
use prost_reflect::DynamicMessage;

use crate::{Answer, headers, json, request, rule::Binding};

/// From this size on an answer is compressed for who reads gzip.
const WORTH_IT: usize = 1024;
/// From this size on compressing is no work for the runtime's threads.
const LARGE: usize = 64 << 10;

/// The answer to a request with these headers.
pub(crate) async fn message(
    message: &DynamicMessage,
    binding: &Binding,
    asked: &HeaderMap,
) -> Result<Response<Answer>, Error> {
    let etag = version(message, binding).as_deref().and_then(headers::etag);
    let seen = etag.as_ref().and_then(|etag| etag.to_str().ok()).map(|etag| etag.trim_matches('"'));
    if binding.can_be_unchanged() && seen.is_some_and(|seen| headers::has_version(asked, seen)) {
        let mut response = Response::new(Answer::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().extend(etag.map(|etag| (ETAG, etag)));
        return Ok(response);
    }
    let mut response = body(bytes(message, binding)?, asked).await?;
    response.headers_mut().extend(etag.map(|etag| (ETAG, etag)));
    Ok(response)
}

/// What of a message is the answer, as JSON.
pub(crate) fn bytes(message: &DynamicMessage, binding: &Binding) -> Result<Vec<u8>, Error> {
    match &binding.response_body {
        None => json::write(message),
        Some(field) => json::write_field(message, field),
    }
}

/// The version of the resource that is answered.
fn version(message: &DynamicMessage, binding: &Binding) -> Option<String> {
    let etag = |message: &DynamicMessage| {
        Some(message.get_field_by_name(request::ETAG)?.as_str()?.to_owned())
    };
    match &binding.response_body {
        None => etag(message),
        Some(field) => etag(message.get_field(field).as_message()?),
    }
}

async fn body(json: Vec<u8>, asked: &HeaderMap) -> Result<Response<Answer>, Error> {
    let varies = json.len() >= WORTH_IT;
    let compressed = varies && headers::accepts_gzip(asked);
    let bytes = match compressed {
        false => json,
        true if json.len() < LARGE => gzip(&json).map_err(|error| broken(&error))?,
        true => tokio::task::spawn_blocking(move || gzip(&json))
            .await
            .map_err(|error| broken(&error))?
            .map_err(|error| broken(&error))?,
    };
    let length = bytes.len();
    let mut response = Response::new(Answer::new(Full::new(Bytes::from(bytes))));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if varies {
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    }
    if compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn broken(error: &dyn std::error::Error) -> Error {
    Error::new(Reason::Internal, format!("the answer cannot be compressed: {error}"))
}
