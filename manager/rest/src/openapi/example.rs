//! Examples of requests and answers.
//!
//! Invariant: an example is valid by the schema of the same message and way.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::behavior::Behavior;

/// How deep messages are filled in; one that has itself in a field ends there.
const DEPTH: usize = 4;
/// A moment, in every example the same.
const MOMENT: &str = "2026-01-02T03:04:05Z";

/// A request without the fields named: what is required, or all that a client may set when
/// nothing is.
pub(super) fn request(message: &MessageDescriptor, without: &[String]) -> Value {
    input(message, without, DEPTH)
}

/// The answer with every field.
pub(super) fn answer(message: &MessageDescriptor) -> Value {
    output(message, DEPTH)
}

/// One field of a request.
pub(super) fn field(field: &FieldDescriptor) -> Value {
    of(field, &mut |inner| input(inner, &[], DEPTH))
}

fn input(message: &MessageDescriptor, without: &[String], depth: usize) -> Value {
    let open = || message.fields().filter(|field| !without.iter().any(|w| w == field.name()));
    let required: Vec<_> = open().filter(|field| Behavior::of(field).required).collect();
    let settable = |field: &FieldDescriptor| {
        let behavior = Behavior::of(field);
        !behavior.output_only && !behavior.immutable && field.name() != "etag"
    };
    let shown = if required.is_empty() { open().filter(settable).collect() } else { required };
    let mut example = Map::new();
    for field in shown.iter().filter(|field| depth > 0 || field.kind().as_message().is_none()) {
        let value = of(field, &mut |inner| input(inner, &[], depth - 1));
        example.insert(field.json_name().to_owned(), value);
    }
    example.into()
}

fn output(message: &MessageDescriptor, depth: usize) -> Value {
    let mut example = Map::new();
    for field in message.fields() {
        let value = match field.kind() {
            Kind::Message(_) if depth > 0 => of(&field, &mut |inner| output(inner, depth - 1)),
            Kind::Message(_) if field.is_map() => json!({}),
            Kind::Message(_) if field.is_list() => json!([]),
            Kind::Message(_) => continue,
            _ => of(&field, &mut |_| Value::Null),
        };
        example.insert(field.json_name().to_owned(), value);
    }
    example.into()
}

fn of(field: &FieldDescriptor, inner: &mut dyn FnMut(&MessageDescriptor) -> Value) -> Value {
    if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        let value = of(&entry.map_entry_value_field(), inner);
        json!({"zone": value})
    } else if field.is_list() {
        json!([single(field, inner)])
    } else {
        single(field, inner)
    }
}

fn single(field: &FieldDescriptor, inner: &mut dyn FnMut(&MessageDescriptor) -> Value) -> Value {
    match field.kind() {
        Kind::Message(message) => {
            well_known(message.full_name()).unwrap_or_else(|| inner(&message))
        }
        Kind::Enum(kind) => {
            let values: Vec<_> = kind.values().collect();
            // The first one is UNSPECIFIED.
            let value = values.get(1).or(values.first());
            value.map_or(Value::Null, |value| value.name().into())
        }
        Kind::String => text(field.name()).into(),
        Kind::Bytes => "Z28=".into(),
        Kind::Bool => false.into(),
        Kind::Double | Kind::Float => json!(0.5),
        _ => integer(field.name()).into(),
    }
}

/// What fields of that name usually hold; only for the eye.
fn text(field: &str) -> &str {
    match field {
        "endpoint" | "namespace" | "endpoints" | "names" => "sample",
        "host" => "h1",
        "type" => "application",
        "topic" => "agent.application",
        "address" => "192.0.2.1",
        "ports_ranges" => "7000-7999",
        "secret" => "a-secret-of-16-or-more",
        "method" => "status",
        "queue" => "news",
        "message_id" => "0190b3a0c0de7000800000000000cafe",
        "next_page_token" => "",
        "etag" => "3",
        "version" => env!("CARGO_PKG_VERSION"),
        "key" => "greeting",
        // Of a request; agents' are numbers.
        "id" => "0190b3a0-c0de-7000-8000-00000000cafe",
        "agents" => "1-3",
        "batch" => "10%",
        "max_failures" => "5%",
        "executer" => "http",
        _ => "text",
    }
}

fn integer(field: &str) -> i32 {
    match field {
        "port" | "ports" => 7001,
        "memory_mib" | "memory_free_mib" => 16_384,
        "disk_mib" | "disk_free_mib" => 102_400,
        _ => 1,
    }
}

fn well_known(full_name: &str) -> Option<Value> {
    Some(match full_name.strip_prefix("google.protobuf.")? {
        "Timestamp" => MOMENT.into(),
        "Duration" => "30s".into(),
        "FieldMask" => "description".into(),
        "Struct" => json!({"text": "hello"}),
        "ListValue" => json!([1]),
        "Value" | "StringValue" => "text".into(),
        "Empty" => json!({}),
        "Any" => json!({"@type": "type.googleapis.com/google.protobuf.Empty", "value": {}}),
        "BoolValue" => false.into(),
        "BytesValue" => "Z28=".into(),
        "DoubleValue" | "FloatValue" => json!(0.5),
        "Int32Value" | "UInt32Value" | "Int64Value" | "UInt64Value" => 1.into(),
        _ => return None,
    })
}
