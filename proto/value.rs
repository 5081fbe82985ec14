//! Arguments and results: JSON objects inside and on the broker, `google.protobuf.Struct` in gRPC.
//!
//! Invariant: integral values have no fraction, and none is beyond ±2^53: such a number would be
//! rounded somewhere on its way, so it is refused instead (contract §3).

use prost_types::{ListValue, Struct, Value as PbValue, value::Kind};
use serde_json::{Number, Value};

use crate::{Error, Violation};

/// A JSON object.
pub type JsonObject = serde_json::Map<String, Value>;

/// 2^53: the largest integer up to which a double has every integer.
pub const MAX_SAFE_INTEGER: u64 = 1 << 53;

/// Nesting beyond this is refused: a level is up to three messages within each other in a
/// `google.protobuf.Struct`, and readers of protobuf take no more than 100, those of the message
/// around it among them.
pub const MAX_DEPTH: usize = 30;

/// The JSON object of a protobuf struct; none is an empty one.
///
/// # Errors
/// `INVALID_ARGUMENT` naming, below `field`, every number beyond ±2^53 or not finite.
pub fn struct_to_json(field: &str, value: Option<&Struct>) -> Result<JsonObject, Error> {
    let mut bad = Vec::new();
    let object = value.map(|s| object_to_json(field, s, 0, &mut bad)).unwrap_or_default();
    if bad.is_empty() { Ok(object) } else { Err(Error::violations(bad)) }
}

/// The protobuf struct of a JSON object.
///
/// # Errors
/// `INVALID_ARGUMENT` as [`check_object`] says.
pub fn json_to_struct(field: &str, object: &JsonObject) -> Result<Struct, Error> {
    check_object(field, object)?;
    Ok(object_to_struct(object))
}

/// Whether a JSON object can cross unchanged.
///
/// # Errors
/// `INVALID_ARGUMENT` naming, below `field`, every integer beyond ±2^53 and nesting beyond [`MAX_DEPTH`].
pub fn check_object(field: &str, object: &JsonObject) -> Result<(), Error> {
    let mut bad = Vec::new();
    for (key, value) in object {
        check(&format!("{field}.{key}"), value, 1, &mut bad);
    }
    if bad.is_empty() { Ok(()) } else { Err(Error::violations(bad)) }
}

fn too_deep() -> String {
    format!("is nested more than {MAX_DEPTH} deep")
}

fn violation(path: &str, description: &str) -> Violation {
    Violation { field: path.to_owned(), description: description.to_owned() }
}

fn check(path: &str, value: &Value, depth: usize, bad: &mut Vec<Violation>) {
    if depth > MAX_DEPTH {
        return bad.push(violation(path, &too_deep()));
    }
    match value {
        Value::Number(n) if !is_safe(n) => {
            bad.push(violation(path, "is an integer beyond ±2^53; send it as text"));
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                check(&format!("{path}[{i}]"), item, depth + 1, bad);
            }
        }
        Value::Object(object) => {
            for (key, value) in object {
                check(&format!("{path}.{key}"), value, depth + 1, bad);
            }
        }
        _ => {}
    }
}

fn is_safe(number: &Number) -> bool {
    match (number.as_u64(), number.as_i64(), number.as_f64()) {
        (Some(n), _, _) => n <= MAX_SAFE_INTEGER,
        (_, Some(n), _) => n.unsigned_abs() <= MAX_SAFE_INTEGER,
        #[expect(clippy::cast_precision_loss, reason = "2^53 is exact as a double")]
        (_, _, Some(n)) => n.abs() <= MAX_SAFE_INTEGER as f64,
        _ => false,
    }
}

fn object_to_json(
    path: &str,
    value: &Struct,
    depth: usize,
    bad: &mut Vec<Violation>,
) -> JsonObject {
    value
        .fields
        .iter()
        .map(|(k, v)| (k.clone(), value_to_json(&format!("{path}.{k}"), v, depth + 1, bad)))
        .collect()
}

fn value_to_json(path: &str, value: &PbValue, depth: usize, bad: &mut Vec<Violation>) -> Value {
    if depth > MAX_DEPTH {
        bad.push(violation(path, &too_deep()));
        return Value::Null;
    }
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(b)) => Value::Bool(*b),
        Some(Kind::StringValue(s)) => Value::String(s.clone()),
        Some(Kind::NumberValue(n)) => number_to_json(*n).unwrap_or_else(|| {
            bad.push(violation(path, "is not finite, or an integer beyond ±2^53; send it as text"));
            Value::Null
        }),
        Some(Kind::ListValue(list)) => Value::Array(
            list.values
                .iter()
                .enumerate()
                .map(|(i, v)| value_to_json(&format!("{path}[{i}]"), v, depth + 1, bad))
                .collect(),
        ),
        Some(Kind::StructValue(s)) => Value::Object(object_to_json(path, s, depth, bad)),
    }
}

fn number_to_json(n: f64) -> Option<Value> {
    #[expect(clippy::cast_precision_loss, reason = "2^53 is exact as a double")]
    let limit = MAX_SAFE_INTEGER as f64;
    if n.fract() == 0.0 && n.abs() <= limit {
        #[expect(clippy::cast_possible_truncation, reason = "an integer within ±2^53")]
        return Some(Value::from(n as i64));
    }
    if n.abs() > limit { None } else { Number::from_f64(n).map(Value::Number) }
}

fn object_to_struct(object: &JsonObject) -> Struct {
    Struct { fields: object.iter().map(|(k, v)| (k.clone(), value_to_struct(v))).collect() }
}

fn value_to_struct(value: &Value) -> PbValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(b) => Kind::BoolValue(*b),
        // Never NaN: JSON has none, and the default is only for a number beyond a double.
        Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or_default()),
        Value::String(s) => Kind::StringValue(s.clone()),
        Value::Array(items) => {
            Kind::ListValue(ListValue { values: items.iter().map(value_to_struct).collect() })
        }
        Value::Object(object) => Kind::StructValue(object_to_struct(object)),
    };
    PbValue { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> JsonObject {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn whatever_is_not_too_deep_can_be_read_where_it_is_deepest() {
        use prost::Message as _;

        use crate::v1::{AgentResponse, IndexResponsesResponse, ResponseDetail};

        let nested = |depth| {
            let inner = (1..depth).fold(json!(1), |inner, _| json!({"a": inner}));
            object(json!({"result": inner}))
        };
        let mut result = json_to_struct("r", &nested(MAX_DEPTH)).unwrap();
        let detail =
            ResponseDetail { id: 1, result: result.fields.remove("result"), resultcode: 0 };
        let response = AgentResponse { details: vec![detail], ..AgentResponse::default() };
        let all = IndexResponsesResponse { responses: vec![response], ..Default::default() };
        assert_eq!(IndexResponsesResponse::decode(&*all.encode_to_vec()).unwrap(), all);
        let error = json_to_struct("r", &nested(MAX_DEPTH + 1)).unwrap_err();
        assert!(error.violations[0].description.ends_with("more than 30 deep"), "{error:?}");
    }

    #[test]
    fn integers_stay_integers() {
        let before =
            object(json!({"a": 7, "b": [1.5, -3, {"c": null}], "d": 9_007_199_254_740_992u64}));
        let after =
            struct_to_json("args", Some(&json_to_struct("args", &before).unwrap())).unwrap();
        assert_eq!(serde_json::to_string(&after).unwrap(), serde_json::to_string(&before).unwrap());
    }

    #[test]
    fn every_unsafe_integer_is_named() {
        let error = json_to_struct(
            "args",
            &object(json!({"a": 9_007_199_254_740_993u64, "b": [{"c": -9_007_199_254_740_993i64}], "d": 1e300})),
        )
        .unwrap_err();
        let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["args.a", "args.b[0].c", "args.d"]);
    }

    #[test]
    fn depth_is_bounded() {
        let mut value = json!(1);
        for _ in 0..100 {
            value = json!([value]);
        }
        assert!(check_object("args", &object(json!({"a": value}))).is_err());
    }
}
