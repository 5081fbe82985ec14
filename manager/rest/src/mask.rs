//! Which fields a PATCH changes: `google.protobuf.FieldMask`.
//!
//! Invariant: a path in a mask has the names of the proto, however the client has spelled it; what
//! follows the name of a map is a key, and stays as it is.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value as Dynamic};
use serde_json::{Map, Value};

use crate::{
    body::{self, field_of},
    rule::{Binding, Body},
    wkt,
};

/// The field of a request that is its mask.
pub(crate) fn field(request: &MessageDescriptor) -> Option<FieldDescriptor> {
    request.fields().find(wkt::is_mask)
}

/// The field of a request that its mask is about: the one in the body, or else the only message.
pub(crate) fn target(binding: &Binding) -> Option<FieldDescriptor> {
    if let Body::Field(field) = &binding.body {
        return Some(field.clone());
    }
    let input = binding.method.input();
    let mut messages = input.fields().filter(|field| wkt::message_of(field).is_some());
    messages.next().filter(|_| messages.next().is_none())
}

/// A value of a mask field: the paths in that text, as the proto spells them.
pub(crate) fn parse(mask: &FieldDescriptor, text: &str, binding: &Binding) -> Dynamic {
    let message = target(binding).and_then(|field| wkt::message_of(&field));
    let paths = text.split(',').map(str::trim).filter(|path| !path.is_empty());
    value(mask, paths.map(|path| spell(path, message.as_ref())).collect())
}

/// The mask of a body: the path of each value that is in it, except of those that the URL names
/// and of the etag.
pub(crate) fn of_body(
    mask: &FieldDescriptor,
    json: &Map<String, Value>,
    binding: &Binding,
) -> Option<Dynamic> {
    let target = target(binding)?;
    let message = wkt::message_of(&target)?;
    let json = match &binding.body {
        Body::None => return None,
        Body::Whole => [target.json_name(), target.name()].iter().find_map(|n| json.get(*n))?,
        Body::Field(_) => json.get(target.json_name())?,
    };
    let mut paths = Vec::new();
    collect(&message, json.as_object()?, "", &mut paths);
    let variables = &binding.template.variables;
    let named = |path: &str| {
        variables.iter().any(|v| v.field.join(".") == format!("{}.{path}", target.name()))
    };
    paths.retain(|path| path != "etag" && !named(path));
    (!paths.is_empty()).then(|| value(mask, paths))
}

fn collect(
    message: &MessageDescriptor,
    json: &Map<String, Value>,
    at: &str,
    paths: &mut Vec<String>,
) {
    for (key, value) in json {
        let Some(field) = field_of(message, key) else { continue };
        let path = body::join(at, field.name());
        match (wkt::message_of(&field), value) {
            (Some(inner), Value::Object(object)) if !object.is_empty() => {
                collect(&inner, object, &path, paths);
            }
            _ => paths.push(path),
        }
    }
}

/// As the proto spells a path; as far as it is one.
fn spell(path: &str, message: Option<&MessageDescriptor>) -> String {
    let (head, tail) = path.split_once('.').map_or((path, None), |(head, tail)| (head, Some(tail)));
    let Some(field) = message.and_then(|message| field_of(message, head)) else {
        return if message.is_some() { path.to_owned() } else { snake(path) };
    };
    match (tail, wkt::message_of(&field)) {
        (None, _) => field.name().to_owned(),
        (Some(tail), Some(inner)) => format!("{}.{}", field.name(), spell(tail, Some(&inner))),
        (Some(tail), None) => format!("{}.{tail}", field.name()),
    }
}

fn snake(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn value(mask: &FieldDescriptor, paths: Vec<String>) -> Dynamic {
    let Kind::Message(message) = mask.kind() else {
        return Dynamic::default_value_for_field(mask);
    };
    let mut value = DynamicMessage::new(message);
    let paths = paths.into_iter().map(Dynamic::String).collect();
    value.set_field_by_name("paths", Dynamic::List(paths));
    Dynamic::Message(value)
}
