//! The message that an HTTP request is: its body, query, path and `If-Match` put together.
//!
//! Invariant: what the path names wins over the body, and a request that is refused names
//! everything that is wrong with it.

use goperation::{Error, Reason, Violation};
use http::{HeaderMap, Method};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, Value as Dynamic};
use serde_json::{Map, Value};

use crate::{
    body::{self, field_of, violation},
    headers, json, leaf, mask, query,
    rule::{Binding, Body},
    template::Variable,
    wkt,
};

/// The field by which a resource says which version it is.
pub(crate) const ETAG: &str = "etag";

/// What of an HTTP request becomes the message.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    /// Values of the path's variables.
    pub(crate) values: Vec<String>,
    /// The query, without its question mark.
    pub(crate) query: &'a str,
    /// Its headers.
    pub(crate) headers: &'a HeaderMap,
    /// The body, decoded.
    pub(crate) body: &'a [u8],
}

/// Makes the message.
pub(crate) fn message(binding: &Binding, parts: &Parts<'_>) -> Result<DynamicMessage, Error> {
    let mut bad = Vec::new();
    let given = given(binding, parts.body)?;
    let mut request = match &given {
        Some(json) => read_body(binding, json, &mut bad),
        None => DynamicMessage::new(binding.method.input()),
    };
    query::read(&mut request, parts.query, binding, &mut bad);
    for (variable, text) in binding.template.variables.iter().zip(&parts.values) {
        if let Err(what) = set_variable(&mut request, variable, text) {
            bad.push(violation(&variable.field.join("."), what));
        }
    }
    if !bad.is_empty() {
        return Err(Error::violations(bad));
    }
    if binding.verb == Method::PATCH
        && let (Some(json), Some(field)) = (&given, mask::field(&binding.method.input()))
        && !request.has_field(&field)
        && let Some(mask) = mask::of_body(&field, json, binding)
    {
        request.set_field(&field, mask);
    }
    match_version(&mut request, binding, parts.headers)?;
    Ok(request)
}

/// The body as an object of the request's fields.
fn given(binding: &Binding, body: &[u8]) -> Result<Option<Map<String, Value>>, Error> {
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    let name = binding.method.name();
    match (&binding.body, json::parse(body)) {
        (Body::None, Ok(Value::Object(object))) if object.is_empty() => Ok(None),
        (Body::None, _) => Err(Error::new(
            Reason::InvalidArgument,
            format!("{name} takes no body; what the path does not say belongs in the query"),
        )),
        (_, Err(error)) => Err(error),
        (Body::Whole, Ok(Value::Object(object))) => Ok(Some(object)),
        (Body::Whole, Ok(_)) => Err(Error::invalid("body", "must be a JSON object")),
        (Body::Field(field), Ok(json)) => {
            Ok(Some(Map::from_iter([(field.json_name().to_owned(), json)])))
        }
    }
}

fn read_body(
    binding: &Binding,
    given: &Map<String, Value>,
    bad: &mut Vec<Violation>,
) -> DynamicMessage {
    let input = binding.method.input();
    let mut given = given.clone();
    // proto3 JSON knows one spelling of the paths in a mask; clients use both.
    let field = mask::field(&input);
    let text = field.as_ref().and_then(|field| {
        let names = [field.json_name(), field.name()];
        let name = names.into_iter().find(|name| given.get(*name).is_some_and(Value::is_string))?;
        given.remove(name)
    });
    let mut request = body::read(&input, &Value::Object(given), bad);
    if let (Some(field), Some(Value::String(text))) = (field, text) {
        request.set_field(&field, mask::parse(&field, &text, binding));
    }
    request
}

fn set_variable(
    request: &mut DynamicMessage,
    variable: &Variable,
    text: &str,
) -> Result<(), String> {
    let mut path: Vec<FieldDescriptor> = Vec::new();
    let mut message = Some(prost_reflect::ReflectMessage::descriptor(request));
    for name in &variable.field {
        let field = message.and_then(|message| field_of(&message, name));
        let field = field.ok_or("is no field")?;
        message = wkt::message_of(&field);
        path.push(field);
    }
    let (field, outer) = path.split_last().ok_or("is no field")?;
    let value = leaf::from_text(field, text).and_then(|json| leaf::from_json(field, json))?;
    if let (Some(message), Some(value)) = (query::descend(request, outer), value) {
        message.set_field(field, value);
    }
    Ok(())
}

/// Sets the version that `If-Match` wants: in the request, or else in its resource.
fn match_version(
    request: &mut DynamicMessage,
    binding: &Binding,
    headers: &HeaderMap,
) -> Result<(), Error> {
    if binding.verb == Method::GET {
        return Ok(());
    }
    let Some(wanted) = headers::if_match(headers)? else { return Ok(()) };
    let input = binding.method.input();
    let own = input.get_field_by_name(ETAG).map(|etag| vec![etag]);
    let path = own.or_else(|| {
        let resource = mask::target(binding)?;
        let etag = wkt::message_of(&resource)?.get_field_by_name(ETAG)?;
        Some(vec![resource, etag])
    });
    let path =
        path.filter(|path| path.last().is_some_and(|f| f.kind() == Kind::String && !f.is_list()));
    let Some((etag, outer)) = path.as_deref().and_then(<[_]>::split_last) else {
        let name = binding.method.name();
        return Err(Error::invalid("If-Match", format!("{name} has no version to compare")));
    };
    let Some(message) = query::descend(request, outer) else { return Ok(()) };
    let given = message.get_field(etag);
    if given.as_str().is_some_and(|given| !given.is_empty() && given != wanted) {
        return Err(Error::invalid("If-Match", "is another version than the etag of the request"));
    }
    message.set_field(etag, Dynamic::String(wanted));
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use prost_reflect::DescriptorPool;
    use serde_json::json;

    use super::*;
    use crate::{
        rule,
        testing::{self, to_json},
    };

    struct Case<'a> {
        method: &'a str,
        values: &'a [&'a str],
        query: &'a str,
        if_match: &'a str,
        body: &'a str,
    }

    const CASE: Case<'_> = Case { method: "", values: &[], query: "", if_match: "", body: "" };

    impl Case<'_> {
        fn of(&self, binding: &Binding) -> Result<Value, String> {
            let mut headers = HeaderMap::new();
            if !self.if_match.is_empty() {
                headers.insert("if-match", HeaderValue::from_str(self.if_match).unwrap());
            }
            let values = self.values.iter().map(|&v| v.to_owned()).collect();
            let body = self.body.as_bytes();
            let parts = Parts { values, query: self.query, headers: &headers, body };
            message(binding, &parts).map(|m| to_json(&m)).map_err(|e| format!("{}: {e}", e.reason))
        }

        fn ask(&self) -> Result<Value, String> {
            self.of(&testing::binding(self.method, |_| true))
        }
    }

    #[test]
    fn the_path_wins_over_the_body() {
        let case =
            Case { method: "EditBook", values: &["5"], body: r#"{"id": 9, "title": "t"}"#, ..CASE };
        assert_eq!(case.ask(), Ok(json!({"book": {"id": 5, "title": "t"}, "updateMask": "title"})));
    }

    #[test]
    fn path_query_and_body_are_all_checked() {
        let case = Case {
            method: "EditBook",
            values: &["x"],
            query: "no=1",
            body: r#"{"title": 1, "author": {"born": ""}}"#,
            ..CASE
        };
        let error = case.ask().unwrap_err();
        for part in [
            "book.id: must be a 32-bit integer",
            "no: is not a parameter",
            "book.title: must be text",
            "book.author.born: must be a 32-bit integer",
        ] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
    }

    #[test]
    fn a_mask_is_taken_from_the_body() {
        let body = r#"{
            "id": 9, "etag": "e", "title": "t", "genres": [], "facts": {"a": {"b": 1}},
            "author": {"labels": {"k": "v"}, "teacher": {"fullName": "B"}}, "printedTime": null,
            "editors": [{"born": 1}]
        }"#;
        let mut case = Case { method: "EditBook", values: &["5"], body, ..CASE };
        let expected =
            "author.labels,author.teacher.fullName,editors,facts,genres,printedTime,title";
        assert_eq!(case.ask().unwrap()["updateMask"], expected);
        let whole = format!(r#"{{"book": {body}}}"#);
        let binding = testing::binding("EditBook", |b| b.body == Body::Whole);
        let in_whole = Case { body: &whole, values: &["5"], ..CASE };
        assert_eq!(in_whole.of(&binding).unwrap()["updateMask"], expected);
        case.query = "update_mask=title";
        assert_eq!(case.ask().unwrap()["updateMask"], "title");
        let in_whole = Case {
            values: &["5"],
            body: r#"{"book": {"title": "t"}, "update_mask": "printed_time,author.fullName"}"#,
            ..CASE
        };
        let mask = in_whole.of(&binding).unwrap()["updateMask"].clone();
        assert_eq!(mask, "printedTime,author.fullName");
        // Only what the path names: there is nothing to change, and the service says so.
        let nothing = Case { method: "EditBook", values: &["5"], body: r#"{"id": 5}"#, ..CASE };
        assert_eq!(nothing.ask(), Ok(json!({"book": {"id": 5}})));
    }

    #[test]
    fn a_body_where_none_is_taken_is_refused() {
        let mut case = Case { method: "DeleteBook", values: &["5"], ..CASE };
        for body in ["", " \n", "{}", " { } "] {
            case.body = body;
            assert_eq!(case.ask(), Ok(json!({"id": 5})));
        }
        for body in ["{\"id\":1}", "[]", "x", "null"] {
            case.body = body;
            assert!(case.ask().unwrap_err().contains("takes no body"), "{body}");
        }
    }

    #[test]
    fn an_empty_body_is_an_empty_message() {
        let mut case = Case { method: "CreateBook", ..CASE };
        assert_eq!(case.ask(), Ok(json!({})));
        case.body = "{}";
        assert_eq!(case.ask(), Ok(json!({})));
        case.body = "[]";
        assert_eq!(case.ask(), Err("INVALID_ARGUMENT: body: must be a JSON object".to_owned()));
    }

    #[test]
    fn a_field_in_the_body_may_be_any_value() {
        let case =
            Case { method: "NameBook", values: &["5"], query: "loud=true", body: "\"t\"", ..CASE };
        assert_eq!(case.ask(), Ok(json!({"id": 5, "title": "t", "loud": true})));
        let bad = Case { body: "{}", ..case };
        assert_eq!(bad.ask(), Err("INVALID_ARGUMENT: title: must be text".to_owned()));
    }

    #[test]
    fn if_match_fills_the_etag() {
        let mut case = Case { method: "DeleteBook", values: &["5"], if_match: "\"e1\"", ..CASE };
        assert_eq!(case.ask(), Ok(json!({"id": 5, "etag": "e1"})));
        case.if_match = "*";
        assert_eq!(case.ask(), Ok(json!({"id": 5})));
        case.if_match = "W/\"e1\"";
        assert!(case.ask().unwrap_err().starts_with("ETAG_MISMATCH"));
        (case.if_match, case.query) = ("\"e1\"", "etag=e2");
        assert!(case.ask().unwrap_err().starts_with("INVALID_ARGUMENT"));
        let edit = Case { method: "EditBook", values: &["5"], if_match: "\"e1\"", ..CASE };
        assert_eq!(edit.ask(), Ok(json!({"book": {"id": 5, "etag": "e1"}})));
        let none = Case { method: "NameBook", values: &["5"], if_match: "\"e1\"", ..CASE };
        assert!(none.ask().unwrap_err().contains("has no version to compare"));
    }

    #[test]
    fn our_own_mask_is_about_our_own_fields() {
        let pool = DescriptorPool::decode(goperation::DESCRIPTOR).unwrap();
        let all = rule::bindings(&pool).unwrap();
        let edit = all.iter().find(|b| b.method.name() == "EditAgent").unwrap();
        let body = r#"{"portsRanges": ["7000-7999"], "labels": {"a": "b"}, "id": 5}"#;
        let case = Case { values: &["5"], body, ..CASE };
        assert_eq!(case.of(edit).unwrap()["updateMask"], "labels,portsRanges");
    }
}
