//! The document of our own API: whole, true to the annotations, and with examples that are valid.

use std::collections::BTreeSet;

use prost_reflect::DescriptorPool;
use serde_json::{Value, json};

use super::document;
use crate::rule::{self, Binding};
use crate::testing;

const VERBS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

fn ours() -> (Value, Vec<Binding>) {
    let pool = DescriptorPool::decode(goperation::DESCRIPTOR).unwrap();
    let bindings = rule::bindings(&pool).unwrap();
    (document(&pool, &bindings), bindings)
}

/// Every operation as `(path, verb, operation)`.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (verb, operation) in item.as_object().unwrap() {
            assert!(VERBS.contains(&verb.as_str()), "{verb} {path}");
            operations.push((path.clone(), verb.clone(), operation.clone()));
        }
    }
    operations
}

fn operation(document: &Value, id: &str) -> Value {
    let all = operations(document);
    all.into_iter().find(|(_, _, operation)| operation["operationId"] == id).unwrap().2
}

fn visit(value: &Value, see: &mut dyn FnMut(&Value)) {
    see(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| visit(item, see)),
        Value::Object(fields) => fields.values().for_each(|field| visit(field, see)),
        _ => {}
    }
}

#[test]
fn every_reference_resolves() {
    let (document, _) = ours();
    let mut seen = 0;
    visit(&document, &mut |value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').expect(reference);
            assert!(document.pointer(pointer).is_some_and(|found| !found.is_null()), "{reference}");
            seen += 1;
        }
    });
    assert!(seen > 500, "{seen}");
}

#[test]
fn every_binding_is_one_operation_with_an_id_of_its_own() {
    let (document, bindings) = ours();
    let operations = operations(&document);
    assert_eq!(operations.len(), bindings.len());
    let ids: BTreeSet<_> =
        operations.iter().map(|(_, _, o)| o["operationId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), operations.len());
    for binding in &bindings {
        let (service, method) = (binding.method.parent_service().name(), binding.method.name());
        assert!(ids.contains(&format!("{service}_{method}")), "{service}.{method}");
    }
    assert!(ids.contains("EntityService_IndexEntities3"));
}

#[test]
fn everything_is_described() {
    let (document, _) = ours();
    for (path, verb, operation) in operations(&document) {
        let summary = operation["summary"].as_str().unwrap();
        assert!(summary.len() > 5 && !summary.ends_with('.'), "{verb} {path}: {summary}");
        assert!(operation["description"].as_str().unwrap().starts_with(summary), "{verb} {path}");
        for parameter in operation["parameters"].as_array().unwrap() {
            let named = parameter.get("$ref").is_some() || parameter["description"] != "";
            assert!(named, "{verb} {path}: {parameter}");
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            assert!(schema["description"].is_string(), "{name}.{field}");
        }
    }
    for tag in document["tags"].as_array().unwrap() {
        assert!(tag["description"].as_str().unwrap().len() > 10, "{tag}");
    }
}

#[test]
fn every_variable_of_a_path_is_declared_and_nothing_else() {
    let (document, _) = ours();
    for (path, verb, operation) in operations(&document) {
        let in_text: Vec<_> = path
            .split('{')
            .skip(1)
            .map(|rest| rest.split_once('}').expect("a variable ends").0.to_owned())
            .collect();
        let parameters = operation["parameters"].as_array().unwrap();
        let declared: Vec<_> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .inspect(|parameter| assert_eq!(parameter["required"], true))
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(declared, in_text, "{verb} {path}");
    }
    // One shape, one path: OpenAPI tells paths apart without the names of their variables.
    let shape = |path: &str| {
        let mut parts = path.split('{');
        let first = parts.next().unwrap().to_owned();
        parts.fold(first, |text, part| text + "{" + part.split_once('}').unwrap().1)
    };
    let paths = document["paths"].as_object().unwrap();
    let shapes: BTreeSet<_> = paths.keys().map(|path| shape(path)).collect();
    assert_eq!(shapes.len(), paths.len());
}

/// What is wrong with a value by a schema of the document.
fn violations(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut root = schema.clone();
    root["components"] = document["components"].clone();
    let validator = jsonschema::options().should_validate_formats(true).build(&root).unwrap();
    validator
        .iter_errors(value)
        .map(|error| format!("{error} at {}", error.instance_path()))
        .collect()
}

#[test]
fn every_example_is_valid() {
    let (document, _) = ours();
    let mut seen = 0;
    visit(&document, &mut |value| {
        if let (Some(schema), Some(example)) = (value.get("schema"), value.get("example")) {
            assert_eq!(violations(&document, schema, example), Vec::<String>::new(), "{example}");
            seen += 1;
        }
    });
    assert!(seen > 100, "{seen}");
}

#[test]
fn answers_require_what_is_always_written_and_requests_what_is_required() {
    let (document, _) = ours();
    let schemas = &document["components"]["schemas"];
    let required = |name: &str| {
        let names = schemas[name]["required"].as_array().cloned().unwrap_or_default();
        names.iter().map(|name| name.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert!(required("Agent").is_superset(&["id", "labels", "state"].map(String::from).into()));
    assert!(!required("Agent").contains("createTime"), "a message may be absent");
    assert_eq!(required("AgentInput"), BTreeSet::new());
    assert_eq!(required("CreateAgentRequest"), ["host", "type"].map(String::from).into());
    // The path has the rest.
    assert_eq!(required("CreatePortRequest"), ["wishes"].map(String::from).into());
    assert!(schemas["CreatePortRequest"]["properties"].get("endpoint").is_none());
    assert_eq!(schemas["AgentInput"]["properties"]["online"]["readOnly"], true);
    let host = &schemas["AgentInput"]["properties"]["host"];
    assert_eq!(host["description"], "Host name, lower case. Set at creation only.");
}

#[test]
fn errors_are_those_of_the_table() {
    let (document, _) = ours();
    for &reason in goperation::Reason::ALL {
        let status = reason.http_status();
        let component = &document["components"]["responses"][format!("Error{status}")];
        let schema = &component["content"]["application/json"]["schema"];
        let body = crate::problem::body(&goperation::Error::new(reason, "no"));
        assert_eq!(violations(&document, schema, &body), Vec::<String>::new());
        let mut other = body;
        let elsewhere = goperation::Reason::ALL.iter().find(|r| r.http_status() != status).unwrap();
        other["reason"] = elsewhere.as_str().into();
        assert_ne!(violations(&document, schema, &other), Vec::<String>::new());
    }
    for (path, verb, operation) in operations(&document) {
        for reason in goperation::Reason::ALL {
            let status = reason.http_status();
            let reference = format!("#/components/responses/Error{status}");
            let response = &operation["responses"][status.to_string()];
            assert_eq!(response, &json!({"$ref": reference}), "{verb} {path}");
        }
    }
}

#[test]
fn bodies_queries_and_streams_are_as_they_are_called() {
    let (document, _) = ours();
    let show = operation(&document, "AgentService_ShowAgent");
    let answer = &show["responses"]["200"];
    let reference = json!({"$ref": "#/components/schemas/Agent"});
    assert_eq!(answer["content"]["application/json"]["schema"], reference);
    assert!(answer["headers"]["ETag"].is_object());
    // An agent changes by itself, a cache does not.
    assert!(show["responses"]["304"].is_null());
    let cache = operation(&document, "CacheService_ShowCache");
    assert!(cache["responses"]["304"].is_object());

    let edit = operation(&document, "AgentService_EditAgent");
    let body = &edit["requestBody"];
    assert_eq!(body["required"], true);
    let schema = &body["content"]["application/json"]["schema"];
    assert_eq!(schema["$ref"], "#/components/schemas/AgentInput");
    let names = |operation: &Value| {
        let parameters = operation["parameters"].as_array().unwrap();
        let name =
            |p: &Value| p.get("name").or(p.get("$ref")).unwrap().as_str().unwrap().to_owned();
        parameters.iter().map(name).collect::<Vec<_>>()
    };
    let common = ["#/components/parameters/IfMatch"];
    assert_eq!(names(&edit)[..2], ["id", "updateMask"]);
    assert!(names(&edit).contains(&common[0].to_owned()));
    let count = operation(&document, "EndpointService_CountEndpoints");
    assert_eq!(count["parameters"][0]["name"], "names");
    assert_eq!(count["parameters"][0]["explode"], true);

    let receive = operation(&document, "BridgeService_Receive");
    let content = receive["responses"]["200"]["content"].as_object().unwrap();
    assert_eq!(content.keys().collect::<Vec<_>>(), ["application/x-ndjson", "text/event-stream"]);
    assert!(document["paths"]["/v1/agents/{id}:activate"]["post"].is_object());
}

#[test]
fn what_our_api_does_not_use_is_described_too() {
    let pool = testing::library();
    let document = document(&pool, &rule::bindings(&pool).unwrap());
    let show = &document["paths"]["/t1/{name}"]["get"];
    assert_eq!(show["parameters"][0]["description"], "May have slashes.");
    let index = operation(&document, "Library_IndexBooks");
    let parameter = |name: &str| {
        let all = index["parameters"].as_array().unwrap();
        all.iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    assert_eq!(parameter("author.fullName")["schema"], json!({"type": "string"}));
    assert_eq!(parameter("author.labels")["style"], "deepObject");
    assert_eq!(parameter("genres")["schema"]["items"]["$ref"], "#/components/schemas/Genre");
    assert_eq!(parameter("facts")["content"]["application/json"]["schema"]["type"], "object");
    assert_eq!(parameter("since")["schema"]["format"], "date-time");
    assert_eq!(parameter("most")["schema"]["minimum"], 0);
    let all = index["parameters"].as_array().unwrap();
    assert!(all.iter().all(|p| p["name"] != "author.teacher.fullName"), "without end");

    let names = operation(&document, "Library_IndexBooks2");
    let names = &names["responses"]["200"]["content"]["application/json"]["schema"];
    assert_eq!(names, &json!({"type": "array", "items": {"type": "string"}}));
    let title = operation(&document, "Library_NameBook");
    let body = &title["requestBody"]["content"]["application/json"];
    assert_eq!((&body["schema"], &body["example"]), (&json!({"type": "string"}), &json!("text")));

    let book = &document["components"]["schemas"]["Book"];
    let required = book["required"].as_array().unwrap();
    for absent in ["author", "lent", "paid", "gift", "copies", "printedTime"] {
        assert!(!required.contains(&json!(absent)), "{absent}");
    }
    assert!(required.contains(&json!("genres")) && required.contains(&json!("pages")));
    visit(&document, &mut |value| {
        if let (Some(schema), Some(example)) = (value.get("schema"), value.get("example")) {
            assert_eq!(violations(&document, schema, example), Vec::<String>::new(), "{example}");
        }
    });
}
