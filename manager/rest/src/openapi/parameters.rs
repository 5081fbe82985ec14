//! Parameters of an operation: the path's, the query's, and the headers that every one takes.
//!
//! Invariant: the parameters and the body of an operation together name each field of the request
//! once.

use std::collections::HashSet;

use http::Method;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::behavior::Behavior;
use super::example;
use super::schema::{Schemas, Way, well_known};
use crate::rule::{Binding, Body};
use crate::template::{Segment, Template, Variable};

/// A path of OpenAPI with the names of its variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    /// `/v1/agents/{id}:activate`.
    pub(super) text: String,
    /// One for each variable of the template, in order.
    pub(super) names: Vec<String>,
}

impl Path {
    /// The path of a binding with the names that OpenAPI shall have: the last word of each
    /// variable, or all of it when two have the same.
    pub(super) fn of(binding: &Binding) -> Self {
        let input = binding.method.input();
        let variables = &binding.template.variables;
        let short: Vec<_> = variables.iter().map(|v| last_name(&input, v)).collect();
        let unique = short.iter().collect::<HashSet<_>>().len() == short.len();
        let long = || variables.iter().map(|variable| variable.field.join(".")).collect();
        Self::with(&binding.template, if unique { short } else { long() })
    }

    /// The path of a template with these names. OpenAPI takes two paths that differ in names only
    /// for one, so bindings of one shape must share theirs.
    pub(super) fn with(template: &Template, names: Vec<String>) -> Self {
        let mut text = String::new();
        let mut index = 0;
        while let Some(segment) = template.segments.get(index) {
            text.push('/');
            let variable = template.variables.iter().position(|v| v.first == index && v.count > 0);
            if let Some((name, variable)) =
                variable.and_then(|at| Some((names.get(at)?, template.variables.get(at)?)))
            {
                text.push_str(&format!("{{{name}}}"));
                index += variable.count;
                continue;
            }
            match segment {
                Segment::Literal(literal) => text.push_str(literal),
                Segment::One => text.push('*'),
                Segment::Rest => text.push_str("**"),
            }
            index += 1;
        }
        if let Some(verb) = &template.verb {
            text.push(':');
            text.push_str(verb);
        }
        Self { text, names }
    }

    /// The path without names: what OpenAPI tells paths apart by.
    pub(super) fn shape(template: &Template) -> String {
        Self::with(template, vec![String::new(); template.variables.len()]).text
    }
}

fn last_name(input: &MessageDescriptor, variable: &Variable) -> String {
    field_at(input, &variable.field)
        .map_or_else(|| variable.field.join("."), |field| field.json_name().to_owned())
}

/// The field at the end of a path.
fn field_at(message: &MessageDescriptor, path: &[String]) -> Option<FieldDescriptor> {
    let (first, rest) = path.split_first()?;
    let field = message.get_field_by_name(first)?;
    match rest {
        [] => Some(field),
        _ => field_at(field.kind().as_message()?, rest),
    }
}

/// All parameters of a binding.
pub(super) fn of(binding: &Binding, path: &Path, schemas: &mut Schemas<'_>) -> Vec<Value> {
    let input = binding.method.input();
    let mut parameters = Vec::new();
    for (variable, name) in binding.template.variables.iter().zip(&path.names) {
        if let Some(field) = field_at(&input, &variable.field) {
            parameters.push(in_path(&field, name, variable, &binding.template, schemas));
        }
    }
    if binding.body != Body::Whole {
        let mut query = Query { binding, schemas, parameters: &mut parameters, inside: Vec::new() };
        query.message(&input, &[], &[]);
    }
    parameters.extend(headers(binding));
    parameters
}

fn in_path(
    field: &FieldDescriptor,
    name: &str,
    variable: &Variable,
    template: &Template,
    schemas: &mut Schemas<'_>,
) -> Value {
    let mut schema = schemas.field(field, Way::In);
    let mut text = taken(&mut schema, "description");
    taken(&mut schema, "readOnly");
    let covered = template.segments.iter().skip(variable.first).take(variable.count);
    if covered.clone().any(|segment| *segment == Segment::Rest) {
        text.push_str(" May have slashes.");
    } else if schema["type"] == "string" {
        // An empty segment is another path.
        schema["minLength"] = 1.into();
    }
    json!({
        "name": name, "in": "path", "required": true, "description": text.trim(),
        "schema": schema, "example": example::field(field),
    })
}

/// The fields of a request that are in its query.
struct Query<'a, 's> {
    binding: &'a Binding,
    schemas: &'a mut Schemas<'s>,
    parameters: &'a mut Vec<Value>,
    /// Messages around the one that is looked at: one inside itself ends there.
    inside: Vec<String>,
}

impl Query<'_, '_> {
    fn message(&mut self, message: &MessageDescriptor, path: &[String], json_path: &[String]) {
        if self.inside.iter().any(|name| name == message.full_name()) {
            return;
        }
        self.inside.push(message.full_name().to_owned());
        for field in message.fields() {
            let path = [path, &[field.name().to_owned()]].concat();
            let json_path = [json_path, &[field.json_name().to_owned()]].concat();
            if !self.elsewhere(&path) {
                self.field(&field, &path, &json_path);
            }
        }
        self.inside.pop();
    }

    fn elsewhere(&self, path: &[String]) -> bool {
        let in_body = matches!(&self.binding.body,
            Body::Field(field) if path.first().is_some_and(|first| first == field.name()));
        in_body || self.binding.template.variables.iter().any(|v| v.field == path)
    }

    fn field(&mut self, field: &FieldDescriptor, path: &[String], json_path: &[String]) {
        let value = match field.kind() {
            Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
            kind => kind,
        };
        if let Kind::Message(message) = &value
            && well_known(message.full_name()).is_none()
        {
            // Messages in a list or a map have no place in a query.
            if !field.is_list() && !field.is_map() {
                self.message(message, path, json_path);
            }
            return;
        }
        let mut schema = self.schemas.field(field, Way::In);
        let text = taken(&mut schema, "description");
        if taken(&mut schema, "readOnly") == "true" {
            return;
        }
        let mut parameter = json!({
            "name": json_path.join("."), "in": "query", "description": text,
            "required": Behavior::of(field).required,
        });
        let json = matches!(&value, Kind::Message(message) if is_json(message.full_name()));
        if json && !field.is_list() && !field.is_map() {
            // An object of any depth is written as JSON.
            parameter["content"] = json!({"application/json": {"schema": schema}});
        } else {
            parameter["schema"] = schema;
        }
        if field.is_map() {
            parameter["style"] = "deepObject".into();
            parameter["explode"] = true.into();
        } else if field.is_list() {
            parameter["style"] = "form".into();
            parameter["explode"] = true.into();
        }
        self.parameters.push(parameter);
    }
}

fn is_json(full_name: &str) -> bool {
    ["google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"]
        .contains(&full_name)
}

fn taken(schema: &mut Value, key: &str) -> String {
    match schema.as_object_mut().and_then(|schema| schema.remove(key)) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// True if the answer of the binding has a version.
pub(super) fn has_etag(binding: &Binding) -> bool {
    binding.answered().is_some_and(|message| message.get_field_by_name("etag").is_some())
}

/// True if the request can name the version that it is for.
fn takes_etag(binding: &Binding) -> bool {
    let input = binding.method.input();
    let in_body = match &binding.body {
        Body::Field(field) => field.kind().as_message().cloned(),
        _ => None,
    };
    [Some(input), in_body]
        .into_iter()
        .flatten()
        .any(|message| message.get_field_by_name("etag").is_some())
}

fn headers(binding: &Binding) -> Vec<Value> {
    let mut names = vec!["GrpcTimeout"];
    if binding.can_be_unchanged() {
        names.push("IfNoneMatch");
    }
    if binding.verb != Method::GET && binding.verb != Method::POST && takes_etag(binding) {
        names.push("IfMatch");
    }
    let reference = |name| json!({"$ref": format!("#/components/parameters/{name}")});
    names.into_iter().map(reference).collect()
}

/// `components.parameters`: the headers.
pub(super) fn components() -> Map<String, Value> {
    let header = |name: &str, text: &str, schema: Value| json!({"name": name, "in": "header", "description": text, "schema": schema});
    let string = || json!({"type": "string"});
    [
        (
            "GrpcTimeout",
            header(
                "Grpc-Timeout",
                "How long the caller waits: digits, then H, M, S, m, u or n.",
                json!({"type": "string", "pattern": "^[0-9]{1,8}[HMSmun]$"}),
            ),
        ),
        (
            "IfNoneMatch",
            header(
                "If-None-Match",
                "ETags that the caller has: 304 when the resource is still one of them.",
                string(),
            ),
        ),
        (
            "IfMatch",
            header(
                "If-Match",
                "ETag of the version that was seen: 412 when the resource is another by now.",
                string(),
            ),
        ),
    ]
    .into_iter()
    .map(|(name, parameter)| (name.to_owned(), parameter))
    .collect()
}
