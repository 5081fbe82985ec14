//! What the headers of a request ask for, and what gRPC metadata is in HTTP.
//!
//! Invariant: a header that cannot be read is refused when the answer depends on it, and metadata
//! that belongs to the transport passes in neither direction.

use std::time::Duration;

use goperation::{Error, Reason, parse_grpc_timeout};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT, ACCEPT_ENCODING, IF_MATCH, IF_NONE_MATCH},
};
use tonic::metadata::MetadataMap;

/// Before the name of metadata, both ways.
const PREFIX: &str = "grpc-metadata-";
/// Headers that are metadata under their own name.
const PASSED: [&str; 4] = ["authorization", "idempotency-key", "traceparent", "tracestate"];
/// The transport's own.
const RESERVED: [&str; 10] = [
    "connection",
    "content-length",
    "content-type",
    "date",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The metadata of a request.
pub(crate) fn to_metadata(headers: &HeaderMap) -> MetadataMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let own = PASSED.contains(&name.as_str()).then(|| name.clone());
        let prefixed = || name.as_str().strip_prefix(PREFIX).and_then(|name| name.parse().ok());
        if let Some(name) = own.or_else(prefixed).filter(is_free) {
            metadata.append(name, value.clone());
        }
    }
    MetadataMap::from_headers(metadata)
}

/// Adds the metadata of an answer.
pub(crate) fn add_metadata(headers: &mut HeaderMap, metadata: MetadataMap) {
    let mut last = None;
    for (name, value) in metadata.into_headers() {
        // A name is given only with the first of its values.
        last = name.or(last);
        let Some(name) = last.as_ref().filter(|name| is_free(name)) else { continue };
        if let Ok(name) = HeaderName::try_from(format!("{PREFIX}{name}")) {
            headers.append(name, value);
        }
    }
}

fn is_free(name: &HeaderName) -> bool {
    !name.as_str().starts_with("grpc-") && !RESERVED.contains(&name.as_str())
}

/// How long the caller waits: `Grpc-Timeout`.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let bad = "must be up to 8 digits and one of H, M, S, m, u, n: 1500m is 1.5 seconds";
    let timeout = value.to_str().ok().and_then(parse_grpc_timeout);
    timeout.map(Some).ok_or_else(|| Error::invalid("Grpc-Timeout", bad))
}

/// Whether the caller reads Server-Sent Events.
pub(crate) fn wants_events(headers: &HeaderMap) -> bool {
    weighted(headers, ACCEPT).any(|(range, q)| range == "text/event-stream" && q > 0.0)
}

/// Whether the caller reads gzip, and likes it no less than what is not compressed.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for (coding, q) in weighted(headers, ACCEPT_ENCODING) {
        match coding.as_str() {
            "gzip" | "x-gzip" => gzip = Some(q),
            "identity" => identity = Some(q),
            "*" => any = Some(q),
            _ => {}
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && gzip >= identity.unwrap_or(0.0)
}

/// The members of a list, with their weights.
fn weighted(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = (String, f32)> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|member| {
        let mut parts = member.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let q = parts.find_map(|part| {
            let (name, q) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| q.trim().parse().unwrap_or(0.0))
        });
        (name, q.unwrap_or(1.0))
    })
}

/// The one version that `If-Match` wants; none when it is absent or `*`.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let bad = |what: &str| Error::invalid("If-Match", what);
    let tags = tags(headers, IF_MATCH).ok_or_else(|| bad("must be \"ETAG\" or *"))?;
    let mut strong: Vec<_> = tags.iter().filter(|tag| !tag.weak).map(|tag| &tag.text).collect();
    strong.dedup();
    match (tags.is_empty() || tags.iter().any(|tag| tag.text == "*" && tag.any), strong.as_slice())
    {
        (true, _) => Ok(None),
        (false, [one]) => Ok(Some((*one).clone())),
        (false, []) => Err(Error::new(
            Reason::EtagMismatch,
            "a weak etag in If-Match matches no version; send the one of the ETag header",
        )),
        (false, _) => Err(bad("must be one version")),
    }
}

/// Whether the caller has this version already.
pub(crate) fn has_version(headers: &HeaderMap, etag: &str) -> bool {
    // Read in the caller's favour: one that cannot be read is no version.
    tags(headers, IF_NONE_MATCH)
        .is_some_and(|tags| tags.iter().any(|tag| tag.any || tag.text == etag))
}

/// A version, as an `ETag` header has it; none when it cannot be in one.
pub(crate) fn etag(version: &str) -> Option<HeaderValue> {
    let fits = !version.is_empty() && version.bytes().all(|b| b.is_ascii_graphic() && b != b'"');
    HeaderValue::from_str(&format!("\"{version}\"")).ok().filter(|_| fits)
}

struct Tag {
    text: String,
    weak: bool,
    any: bool,
}

/// The entity tags of a header; nothing when it cannot be read.
fn tags(headers: &HeaderMap, name: HeaderName) -> Option<Vec<Tag>> {
    let mut tags = Vec::new();
    for value in headers.get_all(name) {
        let mut rest = value.to_str().ok()?.trim();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('*') {
                tags.push(Tag { text: "*".to_owned(), weak: false, any: true });
                rest = after;
            } else {
                let weak = rest.starts_with("W/");
                let opened = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"')?;
                let (text, after) = opened.split_once('"')?;
                tags.push(Tag { text: text.to_owned(), weak, any: false });
                rest = after;
            }
            rest = rest.trim_start();
            rest = match rest.strip_prefix(',') {
                Some(after) => after.trim_start(),
                None if rest.is_empty() => rest,
                None => return None,
            };
        }
    }
    Some(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |&(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        all.iter().map(pair).collect()
    }

    #[test]
    fn metadata_passes_both_ways_but_for_the_transports_own() {
        let metadata = to_metadata(&headers(&[
            ("grpc-metadata-a", "1"),
            ("grpc-metadata-b-bin", "AAE"),
            ("grpc-metadata-grpc-timeout", "1S"),
            ("grpc-metadata-content-type", "x"),
            ("grpc-metadata-", "x"),
            ("idempotency-key", "k"),
            ("traceparent", "t"),
            ("user-agent", "curl"),
            ("cookie", "c"),
        ]));
        let mut names: Vec<_> = metadata.clone().into_headers().keys().cloned().collect();
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        assert_eq!(names, ["a", "b-bin", "idempotency-key", "traceparent"]);
        let mut metadata = metadata.into_headers();
        metadata.append("a", HeaderValue::from_static("2"));
        metadata.append("grpc-status", HeaderValue::from_static("0"));
        metadata.append("content-type", HeaderValue::from_static("application/grpc"));
        let mut out = HeaderMap::new();
        add_metadata(&mut out, MetadataMap::from_headers(metadata));
        let a: Vec<_> = out.get_all("grpc-metadata-a").iter().collect();
        assert_eq!(a, ["1", "2"]);
        assert_eq!(out.get("grpc-metadata-b-bin").unwrap(), "AAE");
        assert_eq!(out.len(), 5);
    }

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("99999999S", Duration::from_secs(99_999_999)),
            ("1500m", Duration::from_millis(1500)),
            ("7u", Duration::from_micros(7)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(timeout(&headers(&[("grpc-timeout", text)])).unwrap(), Some(expected));
        }
        for text in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", "1 S"] {
            assert!(timeout(&headers(&[("grpc-timeout", text)])).is_err(), "{text}");
        }
        let bytes = HeaderValue::from_bytes(b"1\xc3\xa9").unwrap();
        assert!(
            timeout(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), bytes)])).is_err()
        );
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn gzip_is_taken_where_it_is_liked() {
        for (text, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("*", true),
            ("", false),
            ("br", false),
            ("gzip;q=0", false),
            ("gzip; q=0.000, *", false),
            ("*;q=0", false),
            ("identity, gzip;q=0.5", false),
            ("identity;q=0.5, gzip", true),
            ("gzip;q=x", false),
        ] {
            assert_eq!(accepts_gzip(&headers(&[("accept-encoding", text)])), expected, "{text}");
        }
    }

    #[test]
    fn events_are_asked_for_by_name() {
        for (text, expected) in [
            ("text/event-stream", true),
            ("text/html, text/Event-Stream;q=0.9", true),
            ("text/event-stream;q=0", false),
            ("*/*", false),
        ] {
            assert_eq!(wants_events(&headers(&[("accept", text)])), expected, "{text}");
        }
    }

    #[test]
    fn versions_are_compared() {
        let wanted = |text: &str| if_match(&headers(&[("if-match", text)]));
        assert_eq!(if_match(&HeaderMap::new()).unwrap(), None);
        assert_eq!(wanted("*").unwrap(), None);
        assert_eq!(wanted("\"a,b\"").unwrap().as_deref(), Some("a,b"));
        assert_eq!(wanted("W/\"b\", \"a\", \"a\"").unwrap().as_deref(), Some("a"));
        assert_eq!(wanted("W/\"a\"").unwrap_err().reason, Reason::EtagMismatch);
        for bad in ["a", "\"a", "\"a\" \"b\"", "\"a\", \"b\""] {
            assert_eq!(wanted(bad).unwrap_err().reason, Reason::InvalidArgument, "{bad}");
        }
        let has = |text: &str| has_version(&headers(&[("if-none-match", text)]), "a");
        assert!(has("\"a\"") && has("W/\"a\"") && has("\"b\", \"a\"") && has("*"));
        assert!(!has("\"b\"") && !has("a") && !has_version(&HeaderMap::new(), "a"));
        assert_eq!(etag("a").unwrap(), "\"a\"");
        assert!(etag("").is_none() && etag("a\"b").is_none() && etag("é").is_none());
    }
}
