//! `/openapi.json`, and the page at `/docs/` that shows it.
//!
//! Invariant: every answer is made once, at the start; a page asks no other host for anything.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use flate2::{Compression, read::GzEncoder};
use goperation::{Error, Reason};
use http::header::{
    ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use prost_reflect::DescriptorPool;

use super::document;
use crate::Answer;
use crate::problem::{self, problem};
use crate::rule;

const DOCUMENT: &str = "/openapi.json";
const PAGE: &str = "/docs/";
const METHODS: &str = "GET, HEAD, OPTIONS";
/// No script, font or image but ours; the styles that Swagger UI sets on elements are inline.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; object-src 'none'; base-uri 'none'; \
                      form-action 'self'; frame-ancestors 'none'";
/// What the page uses of Swagger UI.
const ASSETS: [&str; 4] =
    ["swagger-ui.css", "index.css", "swagger-ui-bundle.js", "favicon-32x32.png"];

/// Everything that is served here.
#[derive(Debug)]
pub(crate) struct Pages {
    files: HashMap<String, File>,
}

#[derive(Debug)]
struct File {
    content_type: &'static str,
    plain: Coded,
    /// Made when it is first asked for.
    gzip: OnceLock<Coded>,
}

/// A file in one coding: another coding is another entity, with a tag of its own.
#[derive(Debug)]
struct Coded {
    bytes: Bytes,
    etag: String,
}

impl Pages {
    /// The pages of an API.
    pub(crate) fn new(pool: &DescriptorPool) -> Result<Self, rule::Error> {
        let mut files = HashMap::new();
        let document = format!("{}\n", document(pool, &rule::bindings(pool)?));
        files.insert(DOCUMENT.to_owned(), File::new("application/json", document.into()));
        let index = Bytes::from_static(include_bytes!("page/index.html"));
        files.insert(PAGE.to_owned(), File::new("text/html; charset=utf-8", index));
        let start = Bytes::from_static(include_bytes!("page/start.js"));
        files.insert(format!("{PAGE}start.js"), File::new(content_type("start.js"), start));
        for name in ASSETS {
            let config = Arc::new(utoipa_swagger_ui::Config::from(DOCUMENT));
            match utoipa_swagger_ui::serve(name, config) {
                Ok(Some(file)) => {
                    let bytes = match file.bytes {
                        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
                        Cow::Owned(bytes) => bytes.into(),
                    };
                    files.insert(format!("{PAGE}{name}"), File::new(content_type(name), bytes));
                }
                // The page is broken then, and nothing else is.
                _ => tracing::error!(name, "swagger ui lacks a file"),
            }
        }
        Ok(Self { files })
    }

    /// The answer, when the path is one of ours.
    pub(crate) fn answer(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Option<Response<Answer>> {
        if path == PAGE.trim_end_matches('/') {
            return Some(moved());
        }
        let file = self.files.get(path)?;
        Some(match *method {
            Method::GET | Method::HEAD => file.answer(*method == Method::GET, headers),
            Method::OPTIONS => {
                let mut response = Response::new(Answer::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
                response
            }
            _ => {
                let message = format!("{path} has no method {method}: {METHODS}");
                let error = Error::new(Reason::MethodNotAllowed, message);
                problem(&error.with(problem::ALLOWED, METHODS))
            }
        })
    }
}

impl File {
    fn new(content_type: &'static str, bytes: Bytes) -> Self {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let etag = format!("\"{:016x}\"", hasher.finish());
        Self { content_type, plain: Coded { bytes, etag }, gzip: OnceLock::new() }
    }

    fn gzip(&self) -> &Coded {
        self.gzip.get_or_init(|| Coded {
            bytes: gzip(&self.plain.bytes),
            etag: format!("{}-gzip\"", self.plain.etag.trim_end_matches('"')),
        })
    }

    fn answer(&self, with_body: bool, request: &HeaderMap) -> Response<Answer> {
        let zipped = takes_gzip(request);
        let coded = if zipped { self.gzip() } else { &self.plain };
        let seen = has_tag(request, &coded.etag);
        let mut response = Response::new(if with_body && !seen {
            Answer::new(Full::new(coded.bytes.clone()))
        } else {
            Answer::empty()
        });
        let headers = response.headers_mut();
        if let Ok(etag) = HeaderValue::from_str(&coded.etag) {
            headers.insert(ETAG, etag);
        }
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if seen {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CONTENT_LENGTH, coded.bytes.len().into());
        if zipped {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

/// The page is a folder: what it uses lies beside it.
fn moved() -> Response<Answer> {
    let mut response = Response::new(Answer::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_static(PAGE));
    headers.insert(CONTENT_LENGTH, 0.into());
    response
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        _ => "image/png",
    }
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut zipped = Vec::new();
    // Reading a slice into memory does not fail.
    let _length = GzEncoder::new(bytes, Compression::fast()).read_to_end(&mut zipped);
    zipped.into()
}

fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// True if gzip is accepted by name, and not with a weight of 0.
fn takes_gzip(headers: &HeaderMap) -> bool {
    words(headers, ACCEPT_ENCODING).any(|word| {
        let mut parts = word.split(';').map(str::trim);
        let named = parts.next().is_some_and(|coding| coding.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
        named && weight != Some(0.0)
    })
}

fn has_tag(headers: &HeaderMap, etag: &str) -> bool {
    words(headers, IF_NONE_MATCH).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn pages() -> Pages {
        Pages::new(&DescriptorPool::decode(goperation::DESCRIPTOR).unwrap()).unwrap()
    }

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    async fn read(response: Response<Answer>) -> Bytes {
        response.into_body().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn the_document_is_served_plain_zipped_by_head_and_by_tag() {
        let pages = pages();
        let get = |headers: &HeaderMap| pages.answer(&Method::GET, DOCUMENT, headers).unwrap();
        let plain = get(&HeaderMap::new());
        assert_eq!(plain.headers()[CONTENT_TYPE], "application/json");
        let (length, etag) =
            (plain.headers()[CONTENT_LENGTH].clone(), plain.headers()[ETAG].clone());
        let head = pages.answer(&Method::HEAD, DOCUMENT, &HeaderMap::new()).unwrap();
        assert_eq!(head.headers(), plain.headers());
        assert!(read(head).await.is_empty());
        let text = read(plain).await;
        assert_eq!(length, text.len().to_string());
        let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(document["openapi"], "3.1.0");

        let zipped = get(&with(ACCEPT_ENCODING, "br, gzip;q=0.5"));
        assert_eq!(zipped.headers()[CONTENT_ENCODING], "gzip");
        assert_ne!(zipped.headers()[ETAG], etag, "another coding is another entity");
        let bytes = read(zipped).await;
        let mut unzipped = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut unzipped).unwrap();
        assert_eq!(unzipped, text);
        let refused = get(&with(ACCEPT_ENCODING, "gzip;q=0"));
        assert!(refused.headers().get(CONTENT_ENCODING).is_none());

        let seen = get(&with(IF_NONE_MATCH, &format!("\"x\", W/{}", etag.to_str().unwrap())));
        assert_eq!(seen.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(seen.headers()[ETAG], etag);
        assert!(read(seen).await.is_empty());
        assert_eq!(get(&with(IF_NONE_MATCH, "\"x\"")).status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn the_page_has_all_that_it_names_and_names_no_other_host() {
        let pages = pages();
        let none = HeaderMap::new();
        let moved = pages.answer(&Method::GET, "/docs", &none).unwrap();
        assert_eq!(
            (moved.status().as_u16(), &moved.headers()[LOCATION]),
            (308, &PAGE.parse().unwrap())
        );
        let index = pages.answer(&Method::GET, PAGE, &none).unwrap();
        assert!(index.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().contains("'self'"));
        let index = String::from_utf8(read(index).await.to_vec()).unwrap();
        assert!(!index.contains("://"), "{index}");
        let named: Vec<_> = index
            .split("=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .filter(|word| [".js", ".css", ".png"].iter().any(|end| word.ends_with(end)))
            .collect();
        assert_eq!(named.len(), ASSETS.len() + 1);
        for name in named {
            let asset = pages.answer(&Method::GET, &format!("{PAGE}{name}"), &none).expect(name);
            assert_eq!(asset.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert!(read(asset).await.len() > 50, "{name}");
        }
    }

    #[tokio::test]
    async fn other_methods_and_paths_are_refused_or_left_alone() {
        let pages = pages();
        let none = HeaderMap::new();
        for path in ["/docs/nothing", "/openapi.yaml", "/v1/agents", "/docs/../openapi.json"] {
            assert!(pages.answer(&Method::GET, path, &none).is_none(), "{path}");
        }
        let options = pages.answer(&Method::OPTIONS, DOCUMENT, &none).unwrap();
        assert_eq!(
            (options.status().as_u16(), &options.headers()[ALLOW]),
            (204, &METHODS.parse().unwrap())
        );
        let refused = pages.answer(&Method::POST, DOCUMENT, &none).unwrap();
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()[ALLOW]),
            (405, &METHODS.parse().unwrap())
        );
        let body: serde_json::Value = serde_json::from_slice(&read(refused).await).unwrap();
        assert_eq!(body["reason"], "METHOD_NOT_ALLOWED");
    }
}
