//! One value of a field, from JSON or from the text of a path or query.
//!
//! Invariant: a value that is read has the type of its field; every other one is said to be wrong
//! in words that name what would be right.

use goperation::check_object;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value as Dynamic,
};
use serde_json::{Map, Value};

use crate::{json, wkt};

/// Reads the JSON of a field: of the whole list or map when it is one. `null` is nothing.
pub(crate) fn from_json(field: &FieldDescriptor, json: Value) -> Result<Option<Dynamic>, String> {
    // Only a message can be read by itself: so the field is read in one, and taken out.
    let nothing = json.is_null();
    let holder = Value::Object(Map::from_iter([(field.json_name().to_owned(), json)]));
    let options = DeserializeOptions::new();
    let parent = field.parent_message().clone();
    let mut holder = DynamicMessage::deserialize_with_options(parent, holder, &options)
        .map_err(|error| what_is_wrong(field, &error))?;
    match holder.take_field(field) {
        None if nothing => Ok(None),
        value => Ok(Some(value.unwrap_or_else(|| Dynamic::default_value_for_field(field)))),
    }
}

/// The JSON of one value (an element of a list, a value of a map) that is written as this text.
pub(crate) fn from_text(field: &FieldDescriptor, text: &str) -> Result<Value, String> {
    let string = || Ok(Value::from(text));
    match value_field(field).kind() {
        Kind::Bool => truth(text).ok_or_else(|| expected(field)),
        Kind::Enum(_) => Ok(text.parse::<i32>().map_or_else(|_| text.into(), Value::from)),
        Kind::Message(message) if wkt::is_json(&message) => {
            let json = json::parse(text.as_bytes()).map_err(|_| expected(field))?;
            let holder = Map::from_iter([(String::new(), json.clone())]);
            let unsafe_integer = |_| "has an integer beyond ±2^53; send it as text".to_owned();
            check_object("", &holder).map_err(unsafe_integer)?;
            Ok(json)
        }
        Kind::Message(message) if wkt::is_wrapper(&message) => match wrapped(&message) {
            Some(field) => from_text(&field, text),
            None => string(),
        },
        Kind::Message(message)
            if !matches!(message.name(), "Timestamp" | "Duration" | "FieldMask")
                || !wkt::is(&message) =>
        {
            Err("cannot be given as text".to_owned())
        }
        // Numbers too: proto3 JSON reads them from text.
        _ => string(),
    }
}

fn what_is_wrong(field: &FieldDescriptor, error: &serde_json::Error) -> String {
    // A key is parsed as a number or truth value; every other failure is of the value.
    let text = error.to_string();
    if field.is_map() && (text.contains("in string") || text.contains("provided string")) {
        return "has a key that is not of its type".to_owned();
    }
    expected(field)
}

fn truth(text: &str) -> Option<Value> {
    match text {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        _ => None,
    }
}

/// The field of a wrapper.
fn wrapped(message: &MessageDescriptor) -> Option<FieldDescriptor> {
    message.get_field_by_name("value")
}

/// The field that one value has the type of: of a map, that of its values.
fn value_field(field: &FieldDescriptor) -> FieldDescriptor {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field(),
        _ => field.clone(),
    }
}

/// What a value of the field must be.
pub(crate) fn expected(field: &FieldDescriptor) -> String {
    let text = match value_field(field).kind() {
        Kind::Bool => "must be true or false",
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "must be a 32-bit integer",
        Kind::Uint32 | Kind::Fixed32 => "must be a 32-bit integer that is not negative",
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => "must be a 64-bit integer",
        Kind::Uint64 | Kind::Fixed64 => "must be a 64-bit integer that is not negative",
        Kind::Float | Kind::Double => "must be a number",
        Kind::String => "must be text",
        Kind::Bytes => "must be base64",
        Kind::Enum(of) if of.full_name() == "google.protobuf.NullValue" => "must be null",
        Kind::Enum(of) => {
            let names: Vec<_> = of.values().map(|value| value.name().to_owned()).collect();
            return format!("must be one of {}, or its number", names.join(", "));
        }
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => "must be a time of RFC 3339, as 2026-01-02T03:04:05Z",
            "google.protobuf.Duration" => "must be a duration in seconds, as 1.5s",
            "google.protobuf.FieldMask" => "must be field paths with commas between them",
            "google.protobuf.ListValue" => "must be a JSON list",
            "google.protobuf.Value" => "must be JSON",
            _ => match wrapped(&message).filter(|_| wkt::is_wrapper(&message)) {
                Some(field) => return expected(&field),
                None => "must be a JSON object",
            },
        },
    };
    text.to_owned()
}
