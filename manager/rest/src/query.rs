//! The query of a URL: the fields of a request that are neither in its path nor in its body.
//!
//! Invariant: every parameter is a field, or is named as bad; none is ignored.

use std::collections::HashMap;

use goperation::Violation;
use prost_reflect::{DynamicMessage, FieldDescriptor, Value as Dynamic};
use serde_json::{Map, Value};

use crate::{
    body::{field_of, violation},
    leaf, mask, percent,
    rule::{Binding, Body},
    wkt,
};

/// How deep a parameter may name a field.
const DEEPEST: usize = 32;

/// What one parameter gives, perhaps several times.
struct Parameter {
    path: Vec<FieldDescriptor>,
    /// Values, with the keys that they have in a map.
    values: Vec<(Option<String>, String)>,
}

/// Sets what the query says. What is wrong goes to `bad`.
pub(crate) fn read(
    request: &mut DynamicMessage,
    query: &str,
    binding: &Binding,
    bad: &mut Vec<Violation>,
) {
    let mut order = Vec::new();
    let mut parameters: HashMap<String, Parameter> = HashMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (decode(name), decode(value)) {
            (Err(error), _) => bad.push(violation(name, error.to_string())),
            (Ok(name), Err(error)) => bad.push(violation(&name, error.to_string())),
            (Ok(name), Ok(value)) => match find(&name, binding) {
                Err(what) => bad.push(violation(&name, what)),
                Ok((path, key)) => {
                    let name = dotted(&path);
                    let parameter = parameters.entry(name.clone()).or_insert_with(|| {
                        order.push(name);
                        Parameter { path, values: Vec::new() }
                    });
                    parameter.values.push((key, value));
                }
            },
        }
    }
    let mut oneofs = HashMap::new();
    for name in order {
        let Some(parameter) = parameters.remove(&name) else { continue };
        if let Some(other) = second_of_oneof(&mut oneofs, &parameter.path) {
            bad.push(violation(&name, format!("cannot be given together with {other}")));
        } else {
            parameter.set(request, &name, binding, bad);
        }
    }
}

fn decode(text: &str) -> Result<String, percent::Error> {
    Ok(percent::decode(&text.replace('+', " "))?.into_owned())
}

fn dotted(path: &[FieldDescriptor]) -> String {
    path.iter().map(FieldDescriptor::name).collect::<Vec<_>>().join(".")
}

/// The field that a parameter names, and the key in it: `author.labels[a]`.
fn find(name: &str, binding: &Binding) -> Result<(Vec<FieldDescriptor>, Option<String>), String> {
    let (names, key) = match name.strip_suffix(']').and_then(|name| name.split_once('[')) {
        Some((names, key)) => (names, Some(key.to_owned())),
        None => (name, None),
    };
    let unknown = || format!("is not a parameter of {}", binding.method.name());
    let mut message = binding.method.input();
    let mut path: Vec<FieldDescriptor> = Vec::new();
    for part in names.split('.') {
        if let Some(field) = path.last() {
            message = wkt::message_of(field).ok_or_else(unknown)?;
        }
        let field = field_of(&message, part).filter(|_| path.len() < DEEPEST);
        path.push(field.ok_or_else(unknown)?);
    }
    if matches!(&binding.body, Body::Field(body) if path.first() == Some(body)) {
        return Err("belongs in the body".to_owned());
    }
    if binding.body == Body::Whole {
        return Err("belongs in the body; there is no query".to_owned());
    }
    let is_named = |v: &crate::template::Variable| {
        v.field.iter().map(String::as_str).eq(path.iter().map(FieldDescriptor::name))
    };
    if binding.template.variables.iter().any(is_named) {
        return Err("is in the path already".to_owned());
    }
    match (path.last(), &key) {
        (Some(field), None) if field.is_map() => Err(format!("needs a key: {name}[KEY]")),
        (Some(field), Some(_)) if !field.is_map() => Err(unknown()),
        (Some(field), None) if wkt::message_of(field).is_some() => {
            Err(format!("has fields; name one: {name}.FIELD"))
        }
        _ => Ok((path, key)),
    }
}

fn second_of_oneof(seen: &mut HashMap<String, String>, path: &[FieldDescriptor]) -> Option<String> {
    // Also a member further up: `a.x` and `b.y` when `a` and `b` are of one oneof.
    for (at, field) in path.iter().enumerate() {
        let Some(oneof) = field.containing_oneof().filter(|oneof| !oneof.is_synthetic()) else {
            continue;
        };
        let oneof = format!("{} {}", dotted(&path[..at]), oneof.name());
        let member = dotted(&path[..=at]);
        match seen.get(&oneof) {
            Some(other) if *other != member => return Some(other.clone()),
            Some(_) => {}
            None => drop(seen.insert(oneof, member)),
        }
    }
    None
}

impl Parameter {
    fn set(
        self,
        request: &mut DynamicMessage,
        name: &str,
        binding: &Binding,
        bad: &mut Vec<Violation>,
    ) {
        let Some((field, outer)) = self.path.split_last() else { return };
        let before = bad.len();
        let value = if wkt::is_mask(field) {
            self.one(name, bad).map(|text| mask::parse(field, &text, binding))
        } else if field.is_list() {
            self.list(field, name, bad)
        } else if field.is_map() {
            self.map(field, name, bad)
        } else {
            self.one(name, bad).and_then(|text| {
                let read = leaf::from_text(field, &text);
                take(read.and_then(|json| leaf::from_json(field, json)), name, bad)
            })
        };
        if bad.len() > before {
            return;
        }
        if let (Some(message), Some(value)) = (descend(request, outer), value) {
            message.set_field(field, value);
        }
    }

    fn one(&self, name: &str, bad: &mut Vec<Violation>) -> Option<String> {
        if self.values.len() > 1 {
            bad.push(violation(name, "is given more than once"));
            return None;
        }
        self.values.first().map(|(_, text)| text.clone())
    }

    fn list(
        &self,
        field: &FieldDescriptor,
        name: &str,
        bad: &mut Vec<Violation>,
    ) -> Option<Dynamic> {
        let mut all = Vec::new();
        for (i, (_, text)) in self.values.iter().enumerate() {
            let read = leaf::from_text(field, text)
                .and_then(|json| leaf::from_json(field, Value::Array(vec![json])));
            if let Some(Dynamic::List(one)) = take(read, &format!("{name}[{i}]"), bad) {
                all.extend(one);
            }
        }
        Some(Dynamic::List(all))
    }

    fn map(
        &self,
        field: &FieldDescriptor,
        name: &str,
        bad: &mut Vec<Violation>,
    ) -> Option<Dynamic> {
        let mut all = HashMap::new();
        for (key, text) in &self.values {
            let key = key.clone().unwrap_or_default();
            let name = format!("{name}[{key}]");
            let read = leaf::from_text(field, text).and_then(|json| {
                leaf::from_json(field, Value::Object(Map::from_iter([(key, json)])))
            });
            let Some(Dynamic::Map(one)) = take(read, &name, bad) else { continue };
            for (key, value) in one {
                if all.insert(key, value).is_some() {
                    bad.push(violation(&name, "is given more than once"));
                }
            }
        }
        Some(Dynamic::Map(all))
    }
}

fn take(
    read: Result<Option<Dynamic>, String>,
    name: &str,
    bad: &mut Vec<Violation>,
) -> Option<Dynamic> {
    read.unwrap_or_else(|what| {
        bad.push(violation(name, what));
        None
    })
}

/// The message at a path, made on the way when it is not there.
pub(crate) fn descend<'a>(
    message: &'a mut DynamicMessage,
    path: &[FieldDescriptor],
) -> Option<&'a mut DynamicMessage> {
    path.iter().try_fold(message, |message, field| message.get_field_mut(field).as_message_mut())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{self, to_json};

    fn ask(method: &str, query: &str) -> Result<Value, Vec<String>> {
        let binding = testing::binding(method, |_| true);
        let mut request = DynamicMessage::new(binding.method.input());
        let mut bad = Vec::new();
        read(&mut request, query, &binding, &mut bad);
        if bad.is_empty() {
            return Ok(to_json(&request));
        }
        Err(bad.into_iter().map(|v| format!("{}: {}", v.field, v.description)).collect())
    }

    #[test]
    fn every_kind_of_field_is_read() {
        for (query, expected) in [
            ("", json!({})),
            ("&page_size=5&", json!({"pageSize": 5})),
            ("pageSize=-5", json!({"pageSize": -5})),
            ("names=a&names=b+c%26", json!({"names": ["a", "b c&"]})),
            ("names=", json!({"names": [""]})),
            ("genres=2&genres=GENRE_NOVEL", json!({"genres": ["GENRE_POEM", "GENRE_NOVEL"]})),
            ("author.full_name=A&author.born=1", json!({"author": {"fullName": "A", "born": 1}})),
            (
                "author.teacher.labels[a.b]=1",
                json!({"author": {"teacher": {"labels": {"a.b": "1"}}}}),
            ),
            ("labels%5Bk%5D=v", json!({"labels": {"k": "v"}})),
            ("marks[7]=true", json!({"marks": {"7": true}})),
            ("since=2026-01-02T03:04:05Z", json!({"since": "2026-01-02T03:04:05Z"})),
            ("age=1.5s", json!({"age": "1.500s"})),
            ("lent=false", json!({"lent": false})),
            ("deep=true&ratio=0.5", json!({"deep": true, "ratio": 0.5})),
            ("facts={%22a%22:[1]}", json!({"facts": {"a": [1.0]}})),
            ("any=null", json!({"any": null})),
            ("paid=7", json!({"paid": 7.0})),
            ("cover=_-8", json!({"cover": "/+8="})),
            ("most=18446744073709551615", json!({"most": "18446744073709551615"})),
        ] {
            assert_eq!(ask("IndexBooks", query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn every_bad_parameter_is_named() {
        let query = "nothing=1&page_size=x&pageSize=2&deep=1&genres=X&genres=1&author=1&labels=1\
            &names[a]=1&marks[x]=true&since=now&paid=1&gift=a&cover=%ff&facts=1&a%zz=1\
            &facts.a=1&author.teacher.no=1&labels[a]=1&labels[a]=2&any={%22a%22:9007199254740993}";
        let bad = ask("IndexBooks", query).unwrap_err();
        for (field, what) in [
            ("nothing", "is not a parameter of IndexBooks"),
            ("page_size", "is given more than once"),
            ("deep", "must be true or false"),
            (
                "genres[0]",
                "must be one of GENRE_UNSPECIFIED, GENRE_NOVEL, GENRE_POEM, or its number",
            ),
            ("author", "has fields; name one: author.FIELD"),
            ("labels", "needs a key: labels[KEY]"),
            ("names[a]", "is not a parameter of IndexBooks"),
            ("marks[x]", "has a key that is not of its type"),
            ("since", "must be a time of RFC 3339, as 2026-01-02T03:04:05Z"),
            ("gift", "cannot be given together with paid"),
            ("cover", "is not UTF-8 when it is decoded"),
            ("facts", "must be a JSON object"),
            ("a%zz", "has a % that is not followed by two hexadecimal digits"),
            ("facts.a", "is not a parameter of IndexBooks"),
            ("author.teacher.no", "is not a parameter of IndexBooks"),
            ("labels[a]", "is given more than once"),
            ("any", "has an integer beyond ±2^53; send it as text"),
        ] {
            let line = format!("{field}: {what}");
            assert!(bad.contains(&line), "{line} is not in {bad:#?}");
        }
        assert_eq!(bad.len(), 17, "{bad:#?}");
    }

    #[test]
    fn what_is_elsewhere_is_not_in_the_query() {
        let bad = |method, query| ask(method, query).unwrap_err().join("; ");
        assert_eq!(bad("DeleteBook", "id=5"), "id: is in the path already");
        assert_eq!(bad("EditBook", "book.title=a"), "book.title: belongs in the body");
        assert_eq!(bad("CreateBook", "key=a"), "key: belongs in the body; there is no query");
        let deep = format!("author{}.born=1", ".teacher".repeat(40));
        assert!(ask("IndexBooks", &deep).is_err());
    }

    #[test]
    fn a_mask_may_have_either_spelling() {
        let mask = |query| ask("EditBook", query).map(|json| json["updateMask"].clone());
        for query in
            ["update_mask=printed_time,author.full_name", "updateMask=printedTime,author.fullName"]
        {
            assert_eq!(mask(query), Ok(json!("printedTime,author.fullName")), "{query}");
        }
        // What follows a map is a key: not a name to be spelled in another way.
        let binding = testing::binding("EditBook", |_| true);
        let mut request = DynamicMessage::new(binding.method.input());
        read(&mut request, "update_mask=author.labels.myKey", &binding, &mut Vec::new());
        let mask = request.get_field_by_name("update_mask").unwrap().into_owned();
        let paths = mask.as_message().unwrap().get_field_by_name("paths").unwrap().into_owned();
        assert_eq!(paths.as_list().unwrap()[0].as_str(), Some("author.labels.myKey"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_query_panics(
            any in any::<String>(),
            pairs in prop::collection::vec((
                "(page_size|names|genres|author(.teacher){0,3}(.born)?|labels|marks|since|age|mask|\
                    lent|facts|any|paid|gift|cover|most|deep|ratio)([\\[]?.{0,3}[\\]]?)?",
                "[0-9a-zA-Z%{}\"\\[\\].:+-]{0,24}",
            ), 0..6),
        ) {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let binding = testing::binding("IndexBooks", |_| true);
            for query in [any, pairs.join("&")] {
                let mut request = DynamicMessage::new(binding.method.input());
                read(&mut request, &query, &binding, &mut Vec::new());
            }
        }
    }
}
