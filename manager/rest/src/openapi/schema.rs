//! JSON Schemas of messages and enums, as proto3 JSON writes them.
//!
//! Invariant: a schema of an answer requires each field that is always written, a schema of a
//! request only what the service requires; a message that goes both ways has one of each.

use std::collections::HashSet;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::{behavior::Behavior, comments::Comments};
use crate::rule::{Binding, Body};

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From a client.
    In,
    /// To a client.
    Out,
}

/// The schemas of a document while it is built.
pub(super) struct Schemas<'a> {
    comments: &'a Comments,
    /// Package whose names stand without it.
    home: String,
    /// Full names of the messages that answers have: in requests they get another name.
    answered: HashSet<String>,
    components: Map<String, Value>,
}

impl<'a> Schemas<'a> {
    pub(super) fn new(comments: &'a Comments, bindings: &[Binding]) -> Self {
        let home = bindings.first().map_or(String::new(), |binding| {
            binding.method.parent_service().package_name().to_owned()
        });
        let mut answered = HashSet::new();
        for binding in bindings {
            reach(&binding.method.output(), &mut answered);
        }
        Self { comments, home, answered, components: Map::new() }
    }

    /// What was built: the content of `components.schemas`.
    pub(super) fn into_components(self) -> Map<String, Value> {
        self.components
    }

    /// A schema that is used by its name.
    pub(super) fn named(&mut self, name: &str, build: impl FnOnce(&mut Self) -> Value) -> Value {
        if !self.components.contains_key(name) {
            // There before it is built: a message may have itself in a field.
            self.components.insert(name.to_owned(), Value::Null);
            let schema = build(self);
            self.components.insert(name.to_owned(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// A message.
    pub(super) fn message(&mut self, message: &MessageDescriptor, way: Way) -> Value {
        if let Some(schema) = well_known(message.full_name()) {
            return schema;
        }
        let name = self.short(message.full_name());
        let both = way == Way::In && self.answered.contains(message.full_name());
        let name = if both { format!("{name}Input") } else { name };
        self.named(&name, |schemas| schemas.object(message, way, &[]))
    }

    /// The body of a binding, if it has one.
    pub(super) fn body(&mut self, binding: &Binding, suffix: &str) -> Option<Value> {
        match &binding.body {
            Body::None => None,
            Body::Field(field) => Some(self.field(field, Way::In)),
            Body::Whole => {
                let input = binding.method.input();
                let elsewhere = in_path(binding);
                let name = format!("{}{suffix}", self.short(input.full_name()));
                Some(self.named(&name, |schemas| schemas.object(&input, Way::In, &elsewhere)))
            }
        }
    }

    /// A field, with its comment.
    pub(super) fn field(&mut self, field: &FieldDescriptor, way: Way) -> Value {
        let mut schema = self.bare(field, way);
        let behavior = Behavior::of(field);
        let mut text = self.comments.field(field).to_owned();
        if behavior.immutable {
            text.push_str(" Set at creation only.");
        }
        if let Some(schema) = schema.as_object_mut() {
            if !text.is_empty() {
                schema.insert("description".to_owned(), text.trim().into());
            }
            if behavior.output_only {
                schema.insert("readOnly".to_owned(), true.into());
            }
        }
        schema
    }

    /// A field without its comment.
    pub(super) fn bare(&mut self, field: &FieldDescriptor, way: Way) -> Value {
        if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
            let value = self.kind(&entry.map_entry_value_field().kind(), way);
            json!({"type": "object", "additionalProperties": value})
        } else if field.is_list() {
            json!({"type": "array", "items": self.kind(&field.kind(), way)})
        } else {
            self.kind(&field.kind(), way)
        }
    }

    fn object(&mut self, message: &MessageDescriptor, way: Way, without: &[String]) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in message.fields().filter(|field| !without.iter().any(|w| w == field.name())) {
            properties.insert(field.json_name().to_owned(), self.field(&field, way));
            if match way {
                Way::In => Behavior::of(&field).required,
                Way::Out => !field.supports_presence(),
            } {
                required.push(field.json_name().to_owned());
            }
        }
        let mut schema = json!({"type": "object", "properties": properties});
        let text = self.comments.message(message);
        if let Some(schema) = schema.as_object_mut() {
            if !text.is_empty() {
                schema.insert("description".to_owned(), text.into());
            }
            if !required.is_empty() {
                schema.insert("required".to_owned(), required.into());
            }
        }
        schema
    }

    fn kind(&mut self, kind: &Kind, way: Way) -> Value {
        match kind {
            Kind::Message(message) => self.message(message, way),
            Kind::Enum(kind) => self.enumeration(kind),
            Kind::Double => number("double"),
            Kind::Float => number("float"),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({
                "type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX,
            }),
            Kind::Uint32 | Kind::Fixed32 => json!({
                "type": "integer", "format": "uint32", "minimum": 0, "maximum": u32::MAX,
            }),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({"type": "integer", "format": "int64"})
            }
            Kind::Uint64 | Kind::Fixed64 => {
                json!({"type": "integer", "format": "uint64", "minimum": 0})
            }
            Kind::Bool => json!({"type": "boolean"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
        }
    }

    fn enumeration(&mut self, kind: &EnumDescriptor) -> Value {
        if kind.full_name() == "google.protobuf.NullValue" {
            return json!({"type": "null"});
        }
        let name = self.short(kind.full_name());
        self.named(&name, |schemas| {
            let names: Vec<_> = kind.values().map(|value| value.name().to_owned()).collect();
            let mut text = schemas.comments.enumeration(kind).to_owned();
            text.push_str("\n\n");
            for value in kind.values() {
                let comment = schemas.comments.value(&value);
                text.push_str(&format!("- `{}`: {comment}\n", value.name()));
            }
            json!({"type": "string", "enum": names, "description": text.trim()})
        })
    }

    fn short(&self, full_name: &str) -> String {
        let inside = full_name.strip_prefix(&self.home).and_then(|rest| rest.strip_prefix('.'));
        inside.unwrap_or(full_name).to_owned()
    }
}

/// Names of the request's own fields that the path sets.
pub(super) fn in_path(binding: &Binding) -> Vec<String> {
    let alone = binding.template.variables.iter().filter(|variable| variable.field.len() == 1);
    alone.filter_map(|variable| variable.field.first().cloned()).collect()
}

fn reach(message: &MessageDescriptor, found: &mut HashSet<String>) {
    if well_known(message.full_name()).is_some() || !found.insert(message.full_name().to_owned()) {
        return;
    }
    for field in message.fields() {
        if let Kind::Message(inner) = field.kind() {
            reach(&inner, found);
        }
    }
}

/// JSON has no word for these three.
fn number(format: &str) -> Value {
    json!({"anyOf": [
        {"type": "number", "format": format},
        {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]},
    ]})
}

/// Messages that proto3 JSON writes in a way of their own.
pub(super) fn well_known(full_name: &str) -> Option<Value> {
    Some(match full_name.strip_prefix("google.protobuf.")? {
        "Timestamp" => json!({"type": "string", "format": "date-time"}),
        "Duration" => json!({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"}),
        "FieldMask" => json!({"type": "string"}),
        "Struct" => json!({"type": "object", "additionalProperties": true}),
        "ListValue" => json!({"type": "array", "items": {}}),
        "Value" => json!({}),
        "Empty" => json!({"type": "object"}),
        "Any" => json!({
            "type": "object", "properties": {"@type": {"type": "string"}}, "required": ["@type"],
        }),
        "BoolValue" => json!({"type": "boolean"}),
        "StringValue" => json!({"type": "string"}),
        "BytesValue" => json!({"type": "string", "contentEncoding": "base64"}),
        "DoubleValue" => number("double"),
        "FloatValue" => number("float"),
        "Int32Value" => json!({"type": "integer", "format": "int32"}),
        "UInt32Value" => json!({"type": "integer", "format": "uint32", "minimum": 0}),
        "Int64Value" => json!({"type": "integer", "format": "int64"}),
        "UInt64Value" => json!({"type": "integer", "format": "uint64", "minimum": 0}),
        _ => return None,
    })
}
