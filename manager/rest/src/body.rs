//! A body of JSON as the message that it is.
//!
//! Invariant: when it is not one, every bad field is named by its path in the proto, not just the
//! first, up to [`MOST`]; no integer is ever rounded; and what is said of a body is never much
//! larger than the body.

use std::collections::HashMap;

use goperation::{MAX_DEPTH, MAX_SAFE_INTEGER, Violation};
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor,
};
use serde_json::{Map, Number, Value};

use crate::{leaf, wkt};

/// How many bad fields are named.
const MOST: usize = 100;
/// How much of a name is repeated.
const LONGEST: usize = 100;

/// Reads a message. What is wrong goes to `bad`.
pub(crate) fn read(
    message: &MessageDescriptor,
    json: &Value,
    bad: &mut Vec<Violation>,
) -> DynamicMessage {
    let options = DeserializeOptions::new();
    let read = DynamicMessage::deserialize_with_options(message.clone(), json, &options);
    let before = bad.len();
    Check { leaves: read.is_err(), bad }.message(message, json, "");
    match read {
        Ok(read) => read,
        Err(error) => {
            if bad.len() == before {
                bad.push(violation("body", error.to_string()));
            }
            DynamicMessage::new(message.clone())
        }
    }
}

/// A bad field.
pub(crate) fn violation(field: &str, description: impl Into<String>) -> Violation {
    Violation { field: field.to_owned(), description: description.into() }
}

/// The field that JSON names so: in lowerCamelCase or as in the proto.
pub(crate) fn field_of(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name))
}

/// The path of a field within a message that is itself at `at`.
pub(crate) fn join(at: &str, name: &str) -> String {
    let name = match name.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    };
    if at.is_empty() { name } else { format!("{at}.{name}") }
}

/// Looks for what is wrong: at each single value only when reading has failed.
struct Check<'a> {
    leaves: bool,
    bad: &'a mut Vec<Violation>,
}

impl Check<'_> {
    fn message(&mut self, message: &MessageDescriptor, json: &Value, at: &str) {
        let Value::Object(object) = json else {
            let at = if at.is_empty() { "body" } else { at };
            return self.push(at, "must be a JSON object");
        };
        let mut names: HashMap<u32, &str> = HashMap::new();
        let mut oneofs: HashMap<String, String> = HashMap::new();
        for (key, value) in object {
            if self.is_full() {
                return;
            }
            let path = join(at, key);
            let Some(field) = field_of(message, key) else {
                let what = format!("is not a field of {}", message.name());
                self.push(&path, what);
                continue;
            };
            let path = join(at, field.name());
            if let Some(other) = names.insert(field.number(), key) {
                let what = format!("is given twice, as {other} and as {key}");
                self.push(&path, what);
            }
            if value.is_null() {
                continue;
            }
            let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
            if let Some(other) = oneof.and_then(|of| second(&mut oneofs, &of, &field)) {
                self.push(&path, format!("cannot be given together with {other}"));
            }
            self.field(&field, value, &path);
        }
    }

    fn field(&mut self, field: &FieldDescriptor, value: &Value, path: &str) {
        if is_json(field) {
            self.numbers(value, path, 0);
        }
        match value {
            Value::Array(items) if field.is_list() => {
                for (i, item) in items.iter().enumerate() {
                    if self.is_full() {
                        return;
                    }
                    self.element(field, item, &format!("{path}[{i}]"), |item| vec![item].into());
                }
            }
            Value::Object(entries) if field.is_map() => {
                for (key, item) in entries {
                    let one = |item| Value::Object(Map::from_iter([(key.clone(), item)]));
                    self.element(field, item, &join(path, key), one);
                }
            }
            _ if field.is_list() => self.push(path, "must be a JSON list"),
            _ if field.is_map() => self.push(path, "must be a JSON object"),
            _ => self.element(field, value, path, |item| item),
        }
    }

    /// One value, which `holder` makes a value of the whole field.
    fn element(
        &mut self,
        field: &FieldDescriptor,
        item: &Value,
        path: &str,
        holder: impl FnOnce(Value) -> Value,
    ) {
        let kind = match field.kind() {
            Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
            kind => kind,
        };
        match kind {
            Kind::Message(message) if !wkt::is(&message) => self.message(&message, item, path),
            _ if !self.leaves => {}
            _ => {
                if let Err(what) = leaf::from_json(field, holder(item.clone())) {
                    self.push(path, what);
                }
            }
        }
    }

    /// Every number in a value of any JSON must be one that a double holds exactly.
    fn numbers(&mut self, value: &Value, path: &str, depth: usize) {
        match value {
            _ if depth > MAX_DEPTH => {
                self.push(path, format!("is nested more than {MAX_DEPTH} deep"));
            }
            Value::Number(number) if !is_safe(number) => {
                self.push(path, "is an integer beyond ±2^53; send it as text");
            }
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    if self.is_full() {
                        return;
                    }
                    self.numbers(item, &format!("{path}[{i}]"), depth + 1);
                }
            }
            Value::Object(object) => {
                for (key, item) in object {
                    self.numbers(item, &join(path, key), depth + 1);
                }
            }
            _ => {}
        }
    }

    fn is_full(&self) -> bool {
        self.bad.len() >= MOST
    }

    fn push(&mut self, path: &str, what: impl Into<String>) {
        if !self.is_full() {
            self.bad.push(violation(path, what));
        }
    }
}

fn is_safe(number: &Number) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "2^53 is exact as a double")]
    let limit = MAX_SAFE_INTEGER as f64;
    match (number.as_u64(), number.as_i64()) {
        (Some(n), _) => n <= MAX_SAFE_INTEGER,
        (_, Some(n)) => n.unsigned_abs() <= MAX_SAFE_INTEGER,
        // What is written with a fraction or exponent has been rounded already when it is larger.
        _ => number.as_f64().is_some_and(|n| n.abs() <= limit),
    }
}

fn is_json(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => is_json(&entry.map_entry_value_field()),
        Kind::Message(message) => wkt::is_json(&message),
        _ => false,
    }
}

/// The member of the oneof that was there before.
fn second(
    seen: &mut HashMap<String, String>,
    oneof: &OneofDescriptor,
    field: &FieldDescriptor,
) -> Option<String> {
    seen.insert(oneof.name().to_owned(), field.name().to_owned())
        .filter(|other| other != field.name())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{message, to_json};

    fn bad(json: Value) -> Vec<(String, String)> {
        let mut bad = Vec::new();
        read(&message("Book"), &json, &mut bad);
        bad.into_iter().map(|v| (v.field, v.description)).collect()
    }

    fn fields(json: Value) -> Vec<String> {
        bad(json).into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn both_spellings_and_every_type_are_read() {
        let mut bad = Vec::new();
        let json = json!({
            "id": "7", "author": {"full_name": "A", "teacher": {"fullName": "B"}},
            "genres": ["GENRE_POEM", 1], "facts": {"a": [7, 7.5, null]}, "copies": "3",
            "gift": "x", "pages": 9_007_199_254_740_993_i64,
            "printed_time": "2026-01-02T03:04:05Z", "lent": null, "notes": {"n": [1]},
            "cover": "_-8=",
        });
        let read = read(&message("Book"), &json, &mut bad);
        assert_eq!(bad, []);
        assert_eq!(
            to_json(&read),
            json!({
                "id": 7, "author": {"fullName": "A", "teacher": {"fullName": "B"}},
                "genres": ["GENRE_POEM", "GENRE_NOVEL"], "facts": {"a": [7.0, 7.5, null]},
                "copies": "3", "gift": "x", "pages": "9007199254740993",
                "printedTime": "2026-01-02T03:04:05Z", "notes": {"n": [1.0]}, "cover": "/+8=",
            })
        );
    }

    #[test]
    fn every_bad_field_is_named() {
        assert_eq!(
            bad(json!({
                "id": "x", "nothing": 1, "author": {"born": 1.5, "labels": {"a": 1}, "no": 1},
                "genres": ["GENRE_POEM", "POEM"], "printed_time": "now", "editors": [{}, 1],
                "pages": true,
            }))
            .into_iter()
            .map(|(field, what)| format!("{field}: {what}"))
            .collect::<Vec<_>>(),
            [
                "author.born: must be a 32-bit integer",
                "author.labels.a: must be text",
                "author.no: is not a field of Author",
                "editors[1]: must be a JSON object",
                "genres[1]: must be one of GENRE_UNSPECIFIED, GENRE_NOVEL, GENRE_POEM, or its number",
                "id: must be a 32-bit integer",
                "nothing: is not a field of Book",
                "pages: must be a 64-bit integer",
                "printed_time: must be a time of RFC 3339, as 2026-01-02T03:04:05Z",
            ]
        );
        assert_eq!(fields(json!([])), ["body"]);
        assert_eq!(
            fields(json!({"author": [], "genres": {}, "notes": 1})),
            ["author", "genres", "notes"]
        );
    }

    #[test]
    fn one_field_given_twice_is_refused() {
        assert_eq!(fields(json!({"printed_time": null, "printedTime": null})), ["printed_time"]);
        assert_eq!(fields(json!({"paid": 1, "gift": "x"})), ["paid"]);
        assert_eq!(fields(json!({"paid": 1, "gift": null})), [""; 0]);
    }

    #[test]
    fn no_integer_is_rounded() {
        let large = 9_007_199_254_740_993_i64;
        assert_eq!(
            fields(json!({"facts": {"a": {"b": [1, large]}}, "notes": {"n": large}})),
            ["facts.a.b[1]", "notes.n"]
        );
    }

    #[test]
    fn what_is_said_is_bounded() {
        let key = "k".repeat(100_000);
        let many = json!({
            "editors": vec![1; 1000],
            "facts": {key.clone(): vec![1e300; 1000]},
            "notes": {key: 1e300},
        });
        let bad = bad(many);
        assert_eq!(bad.len(), MOST);
        assert!(bad.iter().all(|(field, _)| field.len() < 300));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let name = prop_oneof![
            prop::sample::select(vec![
                "id",
                "author",
                "genres",
                "facts",
                "copies",
                "paid",
                "gift",
                "pages",
                "printedTime",
                "printed_time",
                "lent",
                "notes",
                "editors",
                "cover",
                "fullName",
                "labels",
                "teacher",
                "born",
            ])
            .prop_map(str::to_owned),
            any::<String>(),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[0-9TZ:.+-]{0,30}s?".prop_map(Value::from),
            "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,12})?Z"
                .prop_map(Value::from),
            "-?[0-9]{1,20}([.][0-9]{1,12})?s".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((name.clone(), inner), 0..6)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_json_panics(json in any_json()) {
            let mut bad = Vec::new();
            let read = read(&message("Book"), &json, &mut bad);
            if bad.is_empty() {
                prop_assert!(crate::json::write(&read).is_ok());
            }
        }
    }
}
