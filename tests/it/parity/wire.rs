//! The two ways to a method: gRPC and REST, both over the network and both built from the
//! descriptor alone.
//!
//! Invariant: nothing of the shim's own code is used here; a path, a query and a body are made from
//! the annotation and the request as a client would make them.

use bytes::{Buf, BufMut, Bytes};
use futures::StreamExt as _;
use goperation::DESCRIPTOR;
use http_body_util::{BodyExt as _, BodyStream, Full};
use hyper_util::{client::legacy, rt::TokioExecutor};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, ReflectMessage as _,
    SerializeOptions,
};
use serde_json::{Map, Value, json};
use tonic::{
    Request, Status, Streaming,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use crate::fleet::{SOON, connection};

/// What a path or a query may have as it is (RFC 3986, unreserved).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One annotated way of calling a method by HTTP.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// The method.
    pub(super) method: MethodDescriptor,
    /// 0 for the annotation itself, then its `additional_bindings` in order.
    pub(super) binding: usize,
    verb: http::Method,
    template: String,
    body: String,
    response_body: String,
}

impl Rule {
    /// `AgentService/ShowAgent`.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.method.parent_service().name(), self.method.name())
    }

    /// How it reads in a message.
    pub(super) fn shown(&self) -> String {
        format!("{} as {} {}", self.name(), self.verb, self.template)
    }
}

/// A REST answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// Its body, which must be JSON and say so.
    pub(super) fn json(&self) -> Value {
        let kind = self.headers.get(http::header::CONTENT_TYPE).map(|v| v.to_str().unwrap());
        assert_eq!(kind, Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }
}

/// Both ways to one manager.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    pub(super) pool: DescriptorPool,
    channel: Channel,
    http: legacy::Client<legacy::connect::HttpConnector, Full<Bytes>>,
    address: String,
}

impl Wire {
    pub(super) fn new(address: &str) -> Self {
        Self {
            pool: DescriptorPool::decode(DESCRIPTOR).unwrap(),
            channel: connection(address.parse().unwrap()),
            http: legacy::Client::builder(TokioExecutor::new()).build_http(),
            address: address.to_owned(),
        }
    }

    /// Every annotated method with every binding.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let option = self.pool.get_extension_by_name("google.api.http").unwrap();
        let methods: Vec<_> =
            self.pool.services().flat_map(|s| s.methods().collect::<Vec<_>>()).collect();
        let mut rules = Vec::new();
        for method in methods {
            let options = method.options();
            if !options.has_extension(&option) {
                continue;
            }
            let rule = options.get_extension(&option).as_message().unwrap().clone();
            let more = rule.get_field_by_name("additional_bindings").unwrap();
            let more = more.as_list().unwrap().iter().map(|v| v.as_message().unwrap().clone());
            let all = std::iter::once(rule.clone()).chain(more);
            rules.extend(all.enumerate().map(|(i, rule)| to_rule(&method, i, &rule)));
        }
        rules
    }

    /// The method of that name.
    fn method(&self, name: &str) -> MethodDescriptor {
        let (service, method) = name.split_once('/').unwrap();
        let service = self.pool.get_service_by_name(&format!("goperation.v1.{service}")).unwrap();
        service.methods().find(|m| m.name() == method).unwrap_or_else(|| panic!("no {name}"))
    }

    /// Calls a method that must succeed and answers its JSON.
    pub(super) async fn ask(&self, name: &str, request: Value) -> Value {
        let method = self.method(name);
        let answer = self.grpc(&method, &request).await;
        to_json(&answer.unwrap_or_else(|s| panic!("{name} {request}: {s:?}")))
    }

    /// Calls a unary method by gRPC.
    pub(super) async fn grpc(
        &self,
        method: &MethodDescriptor,
        request: &Value,
    ) -> Result<DynamicMessage, Status> {
        let (mut grpc, path, codec) = self.to_grpc(method);
        grpc.ready().await.unwrap();
        let mut request = Request::new(message(method.input(), request));
        request.set_timeout(SOON);
        Ok(grpc.unary(request, path, codec).await?.into_inner())
    }

    /// Begins a stream by gRPC.
    pub(super) async fn grpc_stream(
        &self,
        method: &MethodDescriptor,
        request: &Value,
    ) -> Result<Streaming<DynamicMessage>, Status> {
        let (mut grpc, path, codec) = self.to_grpc(method);
        grpc.ready().await.unwrap();
        let request = Request::new(message(method.input(), request));
        Ok(grpc.server_streaming(request, path, codec).await?.into_inner())
    }

    fn to_grpc(
        &self,
        method: &MethodDescriptor,
    ) -> (tonic::client::Grpc<Channel>, http::uri::PathAndQuery, Dynamic) {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let grpc = tonic::client::Grpc::new(self.channel.clone());
        (grpc, path.parse().unwrap(), Dynamic(method.output()))
    }

    /// Begins a call by REST.
    async fn begin(
        &self,
        rule: &Rule,
        request: &Value,
        accept: &str,
    ) -> http::Response<hyper::body::Incoming> {
        let (target, body) = to_rest(rule, request);
        let mut builder = http::Request::builder()
            .method(rule.verb.clone())
            .uri(format!("http://{}{target}", self.address))
            .header(http::header::ACCEPT, accept);
        if body.is_some() {
            builder = builder.header(http::header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let answer = self.http.request(builder.body(Full::new(body)).unwrap());
        tokio::time::timeout(SOON, answer).await.expect("REST answers in time").unwrap()
    }

    /// Calls a method by REST.
    pub(super) async fn rest(&self, rule: &Rule, request: &Value, accept: &str) -> Answer {
        let (parts, body) = self.begin(rule, request, accept).await.into_parts();
        let body = tokio::time::timeout(SOON, body.collect()).await.expect("the body ends in time");
        let body = body.unwrap().to_bytes();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// The first lines of a stream by REST that `count` takes, and the type that it had.
    pub(super) async fn rest_stream(
        &self,
        rule: &Rule,
        request: &Value,
        accept: &str,
        enough: impl Fn(&[String]) -> bool,
    ) -> (String, Vec<String>) {
        let (parts, body) = self.begin(rule, request, accept).await.into_parts();
        let kind = parts.headers.get(http::header::CONTENT_TYPE);
        let kind = kind.map(|kind| kind.to_str().unwrap().to_owned()).unwrap_or_default();
        assert_eq!(parts.status.as_u16(), 200, "{parts:?}");
        let (mut frames, mut text) = (BodyStream::new(body), Vec::new());
        let read = async {
            loop {
                let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
                let lines = String::from_utf8(text[..whole].to_vec()).unwrap();
                let lines: Vec<_> = lines.lines().map(str::to_owned).collect();
                if enough(&lines) {
                    return lines;
                }
                let frame = frames.next().await.expect("the stream goes on").unwrap();
                text.extend_from_slice(&frame.into_data().unwrap_or_default());
            }
        };
        (kind, tokio::time::timeout(SOON, read).await.expect("the messages come in time"))
    }

    /// A successful REST answer as the response message.
    pub(super) fn parsed(rule: &Rule, body: Value) -> DynamicMessage {
        let desc = rule.method.output();
        let body = match rule.response_body.as_str() {
            "" => body,
            field => {
                let name = desc.get_field_by_name(field).unwrap().json_name().to_owned();
                Value::Object(Map::from_iter([(name, body)]))
            }
        };
        message(desc, &body)
    }

    /// The details of a gRPC status.
    pub(super) fn details(&self, status: &Status) -> Vec<Value> {
        let status = tonic_types::pb::Status::decode(status.details()).unwrap();
        let decode = |any: &prost_types::Any| {
            let name = any.type_url.rsplit('/').next().unwrap();
            let desc = self.pool.get_message_by_name(name).unwrap();
            let detail = DynamicMessage::decode(desc, any.value.as_slice()).unwrap();
            json!({name: to_json(&detail)})
        };
        status.details.iter().map(decode).collect()
    }

    /// The details of an error's JSON body.
    pub(super) fn details_json(&self, details: &Value) -> Vec<Value> {
        let read = |any: &Value| {
            let mut any = any.as_object().expect("a detail is an object").clone();
            let kind = any.remove("@type").expect("a detail has its type");
            let name = kind.as_str().unwrap().strip_prefix("type.googleapis.com/").unwrap();
            let desc = self.pool.get_message_by_name(name).unwrap();
            json!({name: to_json(&message(desc, &Value::Object(any)))})
        };
        details.as_array().expect("details are a list").iter().map(read).collect()
    }
}

fn to_rule(method: &MethodDescriptor, binding: usize, rule: &DynamicMessage) -> Rule {
    let text = |name: &str| {
        rule.get_field_by_name(name).unwrap().as_str().map(str::to_owned).unwrap_or_default()
    };
    let (verb, template) = ["get", "put", "post", "delete", "patch"]
        .into_iter()
        .map(|verb| (verb, text(verb)))
        .find(|(_, template)| !template.is_empty())
        .unwrap_or_else(|| panic!("{} has no path", method.full_name()));
    Rule {
        method: method.clone(),
        binding,
        verb: verb.to_uppercase().parse().unwrap(),
        template,
        body: text("body"),
        response_body: text("response_body"),
    }
}

/// Takes a field out of a JSON request; `path` as the annotation writes it.
fn take(desc: &MessageDescriptor, request: &mut Value, path: &str) -> Option<Value> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(a, b)| (a, Some(b)));
    let field = desc.get_field_by_name(first).unwrap_or_else(|| panic!("no field {path}"));
    let request = request.as_object_mut()?;
    match rest {
        None => request.remove(field.json_name()),
        Some(rest) => {
            let inner = field.kind().as_message().unwrap().clone();
            take(&inner, request.get_mut(field.json_name())?, rest)
        }
    }
}

/// The path with query, and the body, of a request.
fn to_rest(rule: &Rule, request: &Value) -> (String, Option<Value>) {
    let desc = rule.method.input();
    let mut left = request.clone();
    let mut target = String::new();
    let mut template = rule.template.as_str();
    while let Some((before, after)) = template.split_once('{') {
        let (variable, after) = after.split_once('}').unwrap();
        let (path, pattern) = variable.split_once('=').unwrap_or((variable, "*"));
        let value = take(&desc, &mut left, path)
            .unwrap_or_else(|| panic!("{}: {path} is not in {request}", rule.shown()));
        let value = scalar(&value).unwrap();
        target.push_str(before);
        // Only a variable of several segments keeps its slashes.
        let parts = if pattern == "*" { vec![value.as_str()] } else { value.split('/').collect() };
        let parts = parts.into_iter().map(|part| utf8_percent_encode(part, ESCAPED).to_string());
        target.push_str(&parts.collect::<Vec<_>>().join("/"));
        template = after;
    }
    target.push_str(template);
    let body = match rule.body.as_str() {
        "" => None,
        "*" => Some(std::mem::replace(&mut left, Value::Object(Map::new()))),
        field => Some(take(&desc, &mut left, field).unwrap_or(Value::Object(Map::new()))),
    };
    let mut query = Vec::new();
    to_query("", &left, &mut query);
    if !query.is_empty() {
        target = format!("{target}?{}", query.join("&"));
    }
    (target, body)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

fn to_query(name: &str, value: &Value, query: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
                to_query(&name, value, query);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| to_query(name, value, query)),
        value => {
            let value = scalar(value).unwrap();
            query.push(format!("{name}={}", utf8_percent_encode(&value, ESCAPED)));
        }
    }
}

/// A message from its JSON; a field that the message does not have is refused.
pub(super) fn message(desc: MessageDescriptor, json: &Value) -> DynamicMessage {
    let name = desc.full_name().to_owned();
    DynamicMessage::deserialize(desc, json.clone())
        .unwrap_or_else(|e| panic!("{name} from {json}: {e}"))
}

/// The JSON of a message: only what is set, numbers as numbers.
pub(super) fn to_json(message: &DynamicMessage) -> Value {
    let options = SerializeOptions::new().stringify_64_bit_integers(false);
    let name = message.descriptor().full_name().to_owned();
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Messages of any type, by their descriptors.
#[derive(Debug, Clone)]
struct Dynamic(MessageDescriptor);

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item.encode_to_vec().as_slice());
        Ok(())
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        DynamicMessage::decode(self.0.clone(), bytes)
            .map(Some)
            .map_err(|e| Status::internal(e.to_string()))
    }
}
