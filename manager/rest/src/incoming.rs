//! The body of a request, whole and bounded in size and time.
//!
//! Invariant: no more than the limit is ever held, also of a body that is small only while it is
//! compressed.

use std::{io::Read as _, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use goperation::{Error, Reason};
use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::Body as _;
use http_body_util::BodyExt as _;

use crate::Incoming;

/// What a body may be.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Bytes, after decoding.
    pub(crate) max_body: usize,
    /// How long it may take to arrive.
    pub(crate) body_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_body: 4 << 20, body_timeout: Duration::from_secs(30) }
    }
}

/// Reads a body: decoded, no larger than the limit, and in time.
pub(crate) async fn read_body(
    headers: &HeaderMap,
    mut body: Incoming,
    limits: &Limits,
) -> Result<Bytes, Error> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let gzip = is_gzip(headers)?;
    let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limits.max_body as u64) {
        return Err(too_large(limits));
    }
    let collected = tokio::time::timeout(limits.body_timeout, collect(&mut body, limits)).await;
    let bytes = collected.map_err(|_| {
        let waited = limits.body_timeout.as_secs();
        Error::new(
            Reason::RequestTimeout,
            format!("the body did not arrive within {waited} s; send it in one go"),
        )
    })??;
    if !gzip || bytes.is_empty() {
        return Ok(bytes);
    }
    let limits = limits.clone();
    let decoded = tokio::task::spawn_blocking(move || {
        let decoded = decode(&bytes, &limits);
        // It has a turn, which is kept until here even when the request is given up.
        drop(body);
        decoded
    });
    decoded.await.map_err(|_| Error::new(Reason::Internal, "the body could not be decoded"))?
}

async fn collect(body: &mut Incoming, limits: &Limits) -> Result<Bytes, Error> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|status| {
            let error = Error::from_status(&status);
            // Not the peer's fault: the body was not let in.
            if error.reason == Reason::Unavailable {
                return error;
            }
            let message = format!("the body broke off: {}", status.message());
            Error::new(Reason::InvalidArgument, message)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + data.remaining() > limits.max_body {
            return Err(too_large(limits));
        }
        // Most bodies are one frame, which need not be copied.
        if all.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Error> {
    let mut gzip = false;
    for value in headers.get_all(CONTENT_ENCODING) {
        for coding in value.to_str().unwrap_or("?").split(',').map(str::trim) {
            match coding.to_ascii_lowercase().as_str() {
                "" | "identity" => {}
                "gzip" | "x-gzip" if !gzip => gzip = true,
                _ => {
                    let message =
                        format!("Content-Encoding {coding:?} is not known; gzip is, once");
                    return Err(Error::new(Reason::UnsupportedMediaType, message));
                }
            }
        }
    }
    Ok(gzip)
}

fn decode(bytes: &[u8], limits: &Limits) -> Result<Bytes, Error> {
    let mut out = Vec::new();
    let mut reader = MultiGzDecoder::new(bytes).take(limits.max_body as u64 + 1);
    reader.read_to_end(&mut out).map_err(|error| {
        Error::new(Reason::InvalidArgument, format!("the body is not gzip: {error}"))
    })?;
    if out.len() > limits.max_body { Err(too_large(limits)) } else { Ok(out.into()) }
}

fn too_large(limits: &Limits) -> Error {
    let most = limits.max_body;
    Error::new(Reason::TooLarge, format!("the body is larger than {most} bytes"))
        .with("max_body", most)
}

/// Refuses a body that is not JSON. One without a type is taken for JSON.
pub(crate) fn check_type(headers: &HeaderMap) -> Result<(), Error> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or("?");
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let json = kind == "application/json"
        || kind.strip_prefix("application/").is_some_and(|kind| kind.ends_with("+json"));
    let utf8 = parts.all(|part| match part.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    if json && utf8 {
        return Ok(());
    }
    Err(Error::new(
        Reason::UnsupportedMediaType,
        format!("Content-Type is {text:?}; send application/json in UTF-8"),
    ))
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io::Write as _};

    use flate2::{Compression, write::GzEncoder};
    use futures::stream;
    use http::{HeaderName, HeaderValue};
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    use super::*;

    const LIMITS: Limits = Limits { max_body: 1000, body_timeout: Duration::from_secs(30) };

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).unwrap();
        HeaderMap::from_iter([(HeaderName::from_static(name), value)])
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn read(headers: &HeaderMap, body: impl Into<Bytes>) -> Result<Bytes, Reason> {
        let body = Incoming::new(Full::new(body.into()));
        read_body(headers, body, &LIMITS).await.map_err(|error| error.reason)
    }

    fn chunks(n: usize) -> Incoming {
        let frame = |_| Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"0123456789")));
        Incoming::new(StreamBody::new(stream::iter((0..n).map(frame))))
    }

    #[tokio::test]
    async fn a_body_is_read_whole_and_no_larger() {
        let none = HeaderMap::new();
        assert_eq!(read(&none, "").await.unwrap(), "");
        assert_eq!(read(&none, "abc").await.unwrap(), "abc");
        assert_eq!(read(&none, vec![0; 1000]).await.unwrap().len(), 1000);
        assert_eq!(read(&none, vec![0; 1001]).await, Err(Reason::TooLarge));
        assert_eq!(read_body(&none, chunks(100), &LIMITS).await.unwrap().len(), 1000);
        let error = read_body(&none, chunks(101), &LIMITS).await.unwrap_err();
        assert_eq!(error.reason, Reason::TooLarge);
        // Nothing of it need arrive.
        let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let never = Incoming::new(never);
        let error = read_body(&headers("content-length", "1001"), never, &LIMITS).await;
        assert_eq!(error.unwrap_err().reason, Reason::TooLarge);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_awaited_for_ever() {
        let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let error = read_body(&HeaderMap::new(), Incoming::new(never), &LIMITS).await.unwrap_err();
        assert_eq!(error.reason, Reason::RequestTimeout);
    }

    #[tokio::test]
    async fn what_is_compressed_is_bounded_when_it_is_not() {
        for coding in ["gzip", "X-GZIP", "identity, gzip"] {
            let gzipped = headers("content-encoding", coding);
            assert_eq!(read(&gzipped, gzip(b"abc")).await.unwrap(), "abc");
            assert_eq!(read(&gzipped, gzip(&[0; 1000])).await.unwrap().len(), 1000);
            assert_eq!(read(&gzipped, gzip(&[0; 1001])).await, Err(Reason::TooLarge));
            assert_eq!(read(&gzipped, gzip(&[0; 900_000])).await, Err(Reason::TooLarge));
            assert_eq!(read(&gzipped, "abc").await, Err(Reason::InvalidArgument));
            let two = [gzip(b"a"), gzip(b"b")].concat();
            assert_eq!(read(&gzipped, two).await.unwrap(), "ab");
        }
        for coding in ["br", "gzip, gzip", "gzip, br", "\u{e9}"] {
            let coded = headers("content-encoding", coding);
            assert_eq!(read(&coded, "abc").await, Err(Reason::UnsupportedMediaType), "{coding}");
        }
    }

    #[test]
    fn only_json_is_taken() {
        assert!(check_type(&HeaderMap::new()).is_ok());
        for (text, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/json;charset=\"utf-8\"; x=y", true),
            ("application/merge-patch+json", true),
            ("application/json; charset=latin1", false),
            ("application/x-www-form-urlencoded", false),
            ("text/json", false),
            ("", false),
        ] {
            assert_eq!(check_type(&headers("content-type", text)).is_ok(), expected, "{text}");
        }
    }
}
