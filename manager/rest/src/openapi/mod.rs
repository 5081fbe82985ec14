//! OpenAPI 3.1 of the API, and the page that shows it.
//!
//! Invariant: paths, fields, comments and reasons are read from the descriptors, the annotations
//! and the table of reasons; none is written here.

mod behavior;
mod comments;
mod errors;
mod example;
mod pages;
mod parameters;
mod paths;
mod schema;
#[cfg(test)]
mod tests;

use prost_reflect::DescriptorPool;
use serde_json::{Value, json};

use self::comments::Comments;
pub(crate) use self::pages::Pages;
use self::schema::Schemas;
use crate::rule::Binding;

const DESCRIPTION: &str = "A control plane for fleets of game servers.\n\n\
    Every operation is a gRPC method as well, by the names in its id. \
    Fields are written in lowerCamelCase and read in snake_case too; an answer has every field, \
    with its default when nothing was set, except messages that are not there. \
    HEAD answers each GET without its body, OPTIONS says which methods a path has, and answers \
    come compressed to whoever accepts gzip. Every error is a `Problem`.";

/// The document of an API whose methods are called by these bindings.
pub(crate) fn document(pool: &DescriptorPool, bindings: &[Binding]) -> Value {
    let comments = Comments::of(pool);
    let mut schemas = Schemas::new(&comments, bindings);
    schemas.named("Problem", |_| errors::problem());
    let paths = paths::paths(bindings, &comments, &mut schemas);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Goperation",
            "description": DESCRIPTION,
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache License 2.0", "identifier": env!("CARGO_PKG_LICENSE")},
        },
        "servers": [{"url": "/"}],
        "tags": tags(bindings, &comments),
        "paths": paths,
        "components": {
            "schemas": schemas.into_components(),
            "responses": errors::responses(),
            "parameters": parameters::components(),
            "headers": errors::headers(),
        },
    })
}

/// One for each service, in the order of the files.
fn tags(bindings: &[Binding], comments: &Comments) -> Vec<Value> {
    let mut services =
        bindings.iter().map(|b| b.method.parent_service().clone()).collect::<Vec<_>>();
    services.dedup_by(|a, b| a.full_name() == b.full_name());
    services
        .iter()
        .map(|service| json!({"name": service.name(), "description": comments.service(service)}))
        .collect()
}
