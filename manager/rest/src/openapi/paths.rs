//! The operations, by path and HTTP method.
//!
//! Invariant: each binding is one operation, with an id that no other has.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::behavior::Behavior;
use super::comments::{Comments, summary};
use super::parameters::{self, Path};
use super::schema::{Schemas, Way, in_path};
use super::{errors, example};
use crate::rule::{Binding, Body};

/// `paths`.
pub(super) fn paths(
    bindings: &[Binding],
    comments: &Comments,
    schemas: &mut Schemas<'_>,
) -> Map<String, Value> {
    let mut paths: Map<String, Value> = Map::new();
    let mut names: HashMap<String, Vec<String>> = HashMap::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for binding in bindings {
        let shape = Path::shape(&binding.template);
        let shared = names.entry(shape).or_insert_with(|| Path::of(binding).names);
        let path = Path::with(&binding.template, shared.clone());
        let count = seen.entry(binding.method.full_name().to_owned()).or_default();
        *count += 1;
        let suffix = if *count == 1 { String::new() } else { count.to_string() };
        let operation = operation(binding, &path, &suffix, comments, schemas);
        let item = paths.entry(path.text).or_insert_with(|| json!({}));
        item[binding.verb.as_str().to_lowercase()] = operation;
    }
    paths
}

fn operation(
    binding: &Binding,
    path: &Path,
    suffix: &str,
    comments: &Comments,
    schemas: &mut Schemas<'_>,
) -> Value {
    let method = &binding.method;
    let service = method.parent_service().name();
    let text = comments.method(method);
    let mut operation = json!({
        "operationId": format!("{service}_{}{suffix}", method.name()),
        "tags": [service],
        "summary": summary(text),
        "description": text,
        "parameters": parameters::of(binding, path, schemas),
        "responses": responses(binding, comments, schemas),
    });
    if let Some(schema) = schemas.body(binding, suffix) {
        operation["requestBody"] = json!({
            "required": needs_body(binding),
            "content": {"application/json": {
                "schema": schema, "example": request_example(binding),
            }},
        });
    }
    operation
}

fn request_example(binding: &Binding) -> Value {
    match &binding.body {
        Body::Whole => example::request(&binding.method.input(), &in_path(binding)),
        Body::Field(field) => example::field(field),
        Body::None => Value::Null,
    }
}

/// True if a field that the body has is required.
fn needs_body(binding: &Binding) -> bool {
    match &binding.body {
        Body::Whole => {
            let elsewhere = in_path(binding);
            let input = binding.method.input();
            input.fields().any(|field| {
                Behavior::of(&field).required && !elsewhere.iter().any(|name| name == field.name())
            })
        }
        Body::Field(field) => Behavior::of(field).required,
        Body::None => false,
    }
}

fn responses(binding: &Binding, comments: &Comments, schemas: &mut Schemas<'_>) -> Value {
    let mut responses = errors::references();
    let answer = if binding.method.is_server_streaming() {
        stream(binding, schemas)
    } else {
        unary(binding, comments, schemas)
    };
    responses.insert("200".to_owned(), answer);
    if binding.can_be_unchanged() {
        let headers = json!({"ETag": {"$ref": "#/components/headers/ETag"}});
        let unchanged = json!({"description": "The caller has this version.", "headers": headers});
        responses.insert("304".to_owned(), unchanged);
    }
    responses.into()
}

fn unary(binding: &Binding, comments: &Comments, schemas: &mut Schemas<'_>) -> Value {
    let output = binding.method.output();
    let schema = match &binding.response_body {
        Some(field) => schemas.bare(field, Way::Out),
        None => schemas.message(&output, Way::Out),
    };
    let text = match &binding.response_body {
        Some(field) => comments.field(field),
        None => comments.message(&output),
    };
    let mut content = json!({"schema": schema});
    if let Some(message) = binding.answered() {
        content["example"] = example::answer(&message);
    }
    let text = if text.is_empty() { "The answer." } else { text };
    let mut response = json!({"description": text, "content": {"application/json": content}});
    if parameters::has_etag(binding) {
        response["headers"] = json!({"ETag": {"$ref": "#/components/headers/ETag"}});
    }
    response
}

/// A stream has one line, or one event, for each message.
fn stream(binding: &Binding, schemas: &mut Schemas<'_>) -> Value {
    let output = binding.method.output();
    let result = schemas.message(&output, Way::Out);
    let line = schemas.named(&format!("{}Line", output.name()), |_| {
        json!({
            "description": "One line of the stream; only the last one may have an error.",
            "oneOf": [
                {"type": "object", "properties": {"result": result}, "required": ["result"]},
                {
                    "type": "object",
                    "properties": {"error": {"$ref": "#/components/schemas/Problem"}},
                    "required": ["error"],
                },
            ],
        })
    });
    json!({
        "description": "A stream: one JSON object a line, or Server-Sent Events when these are \
                        accepted: `data` for each message, the event `error` for a failure.",
        "content": {
            "application/x-ndjson": {
                "schema": line, "example": {"result": example::answer(&output)},
            },
            "text/event-stream": {"schema": {"type": "string"}},
        },
    })
}
