//! The `google.api.http` annotations of a descriptor set, read.
//!
//! Invariant: every binding names fields that its request and response really have.

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    MethodDescriptor,
};

use crate::{
    template::{self, Template},
    wkt,
};

/// Name of the annotation.
const ANNOTATION: &str = "google.api.http";

/// What of the request is in the body.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Body {
    /// Nothing: what the path does not set is in the query.
    None,
    /// `*`: all that the path does not set; there is no query.
    Whole,
    /// One field of the request; the rest is in the query.
    Field(FieldDescriptor),
}

/// One way of calling a method by HTTP: the annotation itself or one of its `additional_bindings`.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    /// The method.
    pub(crate) method: MethodDescriptor,
    /// The HTTP method.
    pub(crate) verb: http::Method,
    /// The path.
    pub(crate) template: Template,
    /// What is in the body.
    pub(crate) body: Body,
    /// The field of the response that is the answer; the whole of it when none.
    pub(crate) response_body: Option<FieldDescriptor>,
}

impl Binding {
    /// The message that answers a call: the `response_body`, or the whole response.
    pub(crate) fn answered(&self) -> Option<MessageDescriptor> {
        match &self.response_body {
            Some(field) if field.is_list() || field.is_map() => None,
            Some(field) => field.kind().as_message().cloned(),
            None => Some(self.method.output()),
        }
    }

    /// True if the answer has a version, and changes only with it. What an agent or an entity is
    /// changes by itself too: nobody who polls one may be told that nothing is new.
    pub(crate) fn can_be_unchanged(&self) -> bool {
        const ALIVE: [&str; 2] = ["goperation.v1.Agent", "goperation.v1.Entity"];
        self.verb == http::Method::GET
            && self.answered().is_some_and(|message| {
                message.get_field_by_name(crate::request::ETAG).is_some()
                    && !ALIVE.contains(&message.full_name())
            })
    }
}

/// Why the annotations cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The path is no template.
    #[error("{method}: the path {path:?} cannot be read")]
    Template {
        /// Full name of the method.
        method: String,
        /// The path.
        path: String,
        /// What is wrong with it.
        #[source]
        source: template::Error,
    },
    /// The annotation says what cannot be.
    #[error("{method}: {what}")]
    Rule {
        /// Full name of the method.
        method: String,
        /// What it says.
        what: String,
    },
}

impl Error {
    /// An annotation of this method that cannot be served.
    pub(crate) fn rule(method: &MethodDescriptor, what: impl Into<String>) -> Self {
        Self::Rule { method: method.full_name().to_owned(), what: what.into() }
    }
}

/// Every binding of every annotated method, in the order of the files.
pub(crate) fn bindings(pool: &DescriptorPool) -> Result<Vec<Binding>, Error> {
    let Some(extension) = pool.get_extension_by_name(ANNOTATION) else { return Ok(Vec::new()) };
    let mut bindings = Vec::new();
    for service in pool.services() {
        for method in service.methods() {
            of_method(&method, &extension, &mut bindings)?;
        }
    }
    Ok(bindings)
}

fn of_method(
    method: &MethodDescriptor,
    extension: &ExtensionDescriptor,
    bindings: &mut Vec<Binding>,
) -> Result<(), Error> {
    let options = method.options();
    if !options.has_extension(extension) {
        return Ok(());
    }
    if method.is_client_streaming() {
        return Err(Error::rule(method, "a stream of requests has no REST form"));
    }
    let rule = options.get_extension(extension);
    let Some(rule) = rule.as_message() else { return Ok(()) };
    bindings.push(binding(method, rule)?);
    let additional = rule.get_field_by_name("additional_bindings");
    for rule in additional.as_deref().and_then(|list| list.as_list()).unwrap_or_default() {
        if let Some(rule) = rule.as_message() {
            bindings.push(binding(method, rule)?);
        }
    }
    Ok(())
}

fn binding(method: &MethodDescriptor, rule: &DynamicMessage) -> Result<Binding, Error> {
    let (verb, path) = pattern(method, rule)?;
    let template = Template::parse(&path).map_err(|source| Error::Template {
        method: method.full_name().to_owned(),
        path: path.clone(),
        source,
    })?;
    let input = method.input();
    for variable in &template.variables {
        check_variable(method, &input, &variable.field)?;
    }
    let field = |message: &MessageDescriptor, name: &str| {
        message.get_field_by_name(name).ok_or_else(|| {
            Error::rule(method, format!("{} has no field {name:?}", message.full_name()))
        })
    };
    let body = match text(rule, "body").as_str() {
        "" => Body::None,
        "*" => Body::Whole,
        name => Body::Field(field(&input, name)?),
    };
    let response_body = match text(rule, "response_body").as_str() {
        "" => None,
        name => Some(field(&method.output(), name)?),
    };
    Ok(Binding { method: method.clone(), verb, template, body, response_body })
}

fn pattern(
    method: &MethodDescriptor,
    rule: &DynamicMessage,
) -> Result<(http::Method, String), Error> {
    for name in ["get", "put", "post", "delete", "patch"] {
        if rule.has_field_by_name(name) {
            // The names of the fields are those of the HTTP methods, and none is a bad one.
            let verb = http::Method::from_bytes(name.to_ascii_uppercase().as_bytes());
            return Ok((verb.unwrap_or_default(), text(rule, name)));
        }
    }
    let custom = rule.get_field_by_name("custom");
    let custom = custom.as_deref().and_then(|custom| custom.as_message());
    let verb = custom.and_then(|custom| {
        let kind = text(custom, "kind");
        let verb = http::Method::from_bytes(kind.as_bytes()).ok().filter(|_| kind != "*")?;
        Some((verb, text(custom, "path")))
    });
    verb.ok_or_else(|| Error::rule(method, "the annotation has no method and path"))
}

/// A variable sets one field that a path can hold: not a list, a map or a message of ours.
fn check_variable(
    method: &MethodDescriptor,
    input: &MessageDescriptor,
    path: &[String],
) -> Result<(), Error> {
    let bad = || {
        let (name, path) = (input.full_name(), path.join("."));
        Error::rule(method, format!("the variable {path:?} is no single value in {name}"))
    };
    let mut message = input.clone();
    for (at, name) in path.iter().enumerate() {
        let field = message.get_field_by_name(name).filter(|f| !f.is_list() && !f.is_map());
        let field = field.ok_or_else(bad)?;
        let last = at + 1 == path.len();
        match field.kind() {
            Kind::Message(inner) if !last && !wkt::is(&inner) => message = inner,
            Kind::Message(inner) if last && wkt::is(&inner) => {}
            Kind::Message(_) => return Err(bad()),
            _ if !last => return Err(bad()),
            _ => {}
        }
    }
    Ok(())
}

fn text(message: &DynamicMessage, name: &str) -> String {
    message
        .get_field_by_name(name)
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing;

    fn find<'a>(all: &'a [Binding], name: &str) -> Vec<&'a Binding> {
        all.iter().filter(|b| b.method.name() == name).collect()
    }

    #[test]
    fn the_annotations_of_our_api_are_read() {
        let pool = DescriptorPool::decode(goperation::DESCRIPTOR).unwrap();
        let all = bindings(&pool).unwrap();
        let edit = find(&all, "EditAgent");
        assert_eq!(edit.len(), 1);
        assert_eq!(edit[0].verb, http::Method::PATCH);
        assert!(matches!(&edit[0].body, Body::Field(field) if field.name() == "agent"));
        assert_eq!(edit[0].response_body.as_ref().unwrap().name(), "agent");
        assert_eq!(edit[0].template.variables[0].field, ["agent", "id"]);
        let index = find(&all, "IndexEntities");
        assert_eq!(index.len(), 3, "additional bindings");
        assert!(index.iter().all(|b| b.body == Body::None));
        for service in pool.services().filter(|s| s.package_name() == "goperation.v1") {
            for method in service.methods() {
                assert!(!find(&all, method.name()).is_empty(), "{} has no path", method.name());
            }
        }
    }

    /// What the breaking check of the protos does not see: it compares no options.
    #[test]
    fn every_path_of_the_last_release_is_there() {
        let paths = |set: &[u8]| -> BTreeSet<String> {
            bindings(&DescriptorPool::decode(set).unwrap())
                .unwrap()
                .into_iter()
                .map(|b| format!("{} {} {:?}", b.method.full_name(), b.verb, b.template))
                .collect()
        };
        let released = paths(include_bytes!("../../../proto/released.binpb"));
        let gone: Vec<_> = released.difference(&paths(goperation::DESCRIPTOR)).cloned().collect();
        assert!(released.len() > 40 && gone.is_empty(), "{gone:#?}");
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        for (rule, said) in [
            (r#"get: "v1""#, "cannot be read"),
            (r#"get: "/v1/{nothing}""#, "no single value"),
            (r#"get: "/v1/{many}""#, "no single value"),
            (r#"get: "/v1/{inner}""#, "no single value"),
            (r#"get: "/v1/{name.more}""#, "no single value"),
            (r#"post: "/v1" body: "nothing""#, "has no field"),
            (r#"get: "/v1" response_body: "nothing""#, "has no field"),
            (r#"custom: {kind: "*" path: "/v1"}"#, "no method and path"),
        ] {
            let source = format!(
                r#"syntax = "proto3"; package t; import "google/api/annotations.proto";
                message M {{ string name = 1; repeated string many = 2; M inner = 3; }}
                service S {{ rpc R(M) returns (M) {{ option (google.api.http) = {{ {rule} }}; }} }}"#
            );
            let error = bindings(&testing::compile(&source)).unwrap_err();
            assert!(error.to_string().contains(said), "{rule}: {error}");
        }
    }
}
