//! JSON in and out. In: text with a bounded depth, whose errors name line and column. Out: proto3
//! JSON with names in lowerCamelCase, 64-bit integers as numbers, defaults written, enums by name.
//!
//! A message field, a member of a oneof or an `optional` field that is not set is left out, never
//! `null`; every other field is there.
//!
//! Invariant: a number that is integral is written without a fraction, and parsing never recurses
//! deeper than [`DEEPEST`].

use std::io;

use goperation::{Error, Reason};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, ReflectMessage as _, SerializeOptions, Value as Dynamic,
};
use serde::Serialize as _;
use serde_json::{
    Serializer, Value,
    ser::{CompactFormatter, Formatter},
};

/// How deep a body may be nested.
pub(crate) const DEEPEST: usize = 100;

/// Reads one JSON value.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Error> {
    check_depth(bytes)?;
    serde_json::from_slice(bytes).map_err(|error| {
        let (text, place) = (error.to_string(), (error.line(), error.column()));
        let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
        syntax(what, place)
    })
}

fn syntax(what: &str, (line, column): (usize, usize)) -> Error {
    let message = format!("the body is not JSON: {what} at line {line}, column {column}");
    Error::new(Reason::InvalidArgument, message).with("line", line).with("column", column)
}

/// Refuses what is nested too deep, before anything recurses.
fn check_depth(bytes: &[u8]) -> Result<(), Error> {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    let (mut line, mut start) = (1, 0);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' => (line, start) = (line + 1, at + 1),
            _ if escaped => {}
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = in_text && !escaped && *byte == b'\\';
        if depth > DEEPEST {
            let what = format!("it is nested more than {DEEPEST} deep");
            return Err(syntax(&what, (line, at + 1 - start)));
        }
    }
    Ok(())
}

/// Writes a message.
pub(crate) fn write(message: &DynamicMessage) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(256);
    message.serialize_with_options(&mut writer(&mut out), &options()).map_err(unwritable)?;
    Ok(out)
}

/// Writes one field of a message.
pub(crate) fn write_field(
    message: &DynamicMessage,
    field: &FieldDescriptor,
) -> Result<Vec<u8>, Error> {
    let value = message.get_field(field);
    if field.supports_presence() && !message.has_field(field) {
        return Ok(b"null".to_vec());
    }
    if let Dynamic::Message(message) = value.as_ref() {
        return write(message);
    }
    // Only a message can be written by itself: the others are written in one, and taken out.
    let mut holder = DynamicMessage::new(message.descriptor());
    holder.set_field(field, value.into_owned());
    let mut holder = holder
        .serialize_with_options(serde_json::value::Serializer, &options())
        .map_err(unwritable)?;
    let value = holder.get_mut(field.json_name()).map(Value::take).unwrap_or_default();
    let mut out = Vec::new();
    value.serialize(&mut writer(&mut out)).map_err(unwritable)?;
    Ok(out)
}

const fn options() -> SerializeOptions {
    SerializeOptions::new().stringify_64_bit_integers(false).skip_default_fields(false)
}

fn writer(out: &mut Vec<u8>) -> Serializer<&mut Vec<u8>, Integral> {
    Serializer::with_formatter(out, Integral)
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::new(Reason::Internal, format!("the answer cannot be written as JSON: {error}"))
}

/// Writes 7.0 as `7`.
struct Integral;

impl Integral {
    fn integer(value: f64) -> Option<i64> {
        #[expect(clippy::cast_precision_loss, reason = "2^53 is exact as a double")]
        let limit = goperation::MAX_SAFE_INTEGER as f64;
        // -0.0 is not the integer 0.
        let integral = value.fract() == 0.0 && value.abs() <= limit;
        #[expect(clippy::cast_possible_truncation, reason = "an integer within ±2^53")]
        (integral && (value != 0.0 || value.is_sign_positive())).then_some(value as i64)
    }
}

impl Formatter for Integral {
    fn write_f32<W: ?Sized + io::Write>(&mut self, out: &mut W, value: f32) -> io::Result<()> {
        match Self::integer(f64::from(value)) {
            Some(integer) => CompactFormatter.write_i64(out, integer),
            None => CompactFormatter.write_f32(out, value),
        }
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        match Self::integer(value) {
            Some(integer) => CompactFormatter.write_i64(out, integer),
            None => CompactFormatter.write_f64(out, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{from_json, message};

    fn text(bytes: Result<Vec<u8>, Error>) -> String {
        String::from_utf8(bytes.unwrap()).unwrap()
    }

    #[test]
    fn bad_json_is_named_with_line_and_column() {
        for (bytes, said) in [
            (&b"{\n  \"a\": nope}"[..], "expected ident at line 2, column 9"),
            (b"{\"a\": 1", "EOF while parsing an object at line 1, column 7"),
            (b"", "EOF while parsing a value at line 1, column 0"),
            (b"{} {}", "trailing characters at line 1, column 4"),
            (b"\"\xff\"", "invalid unicode code point at line 1, column 2"),
        ] {
            let error = parse(bytes).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidArgument);
            assert_eq!(error.message, format!("the body is not JSON: {said}"));
        }
        assert_eq!(parse(b"{\"a\": 1, \"a\": 2}").unwrap(), json!({"a": 2}));
    }

    #[test]
    fn what_is_too_deep_is_refused_before_it_is_read() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = |n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
            assert!(parse(deep(DEEPEST).as_bytes()).is_ok());
            for n in [DEEPEST + 1, 10_000, 1_000_000] {
                let error = parse(deep(n).as_bytes()).unwrap_err();
                assert!(error.message.contains("nested more than 100 deep at line 1"), "{error}");
            }
        }
        // A bracket in a text is none.
        let text = format!("[\"\\\"{}\"]", "[".repeat(1000));
        assert!(parse(text.as_bytes()).is_ok());
    }

    #[test]
    fn integral_numbers_have_no_fraction() {
        let book = from_json(
            &message("Book"),
            json!({
                "facts": {"a": 7, "b": -3.5, "c": 9_007_199_254_740_992.0, "d": [0, -0.0]},
                "paid": 7.0, "pages": "9007199254740993", "copies": 5,
            }),
        );
        assert_eq!(
            text(write(&book)),
            concat!(
                r#"{"id":0,"title":"","genres":[],"#,
                r#""facts":{"a":7,"b":-3.5,"c":9007199254740992,"d":[0,-0.0]},"copies":5,"paid":7,"#,
                r#""pages":9007199254740993,"notes":{},"editors":[],"cover":"","etag":""}"#,
            )
        );
    }

    #[test]
    fn one_field_is_written_by_itself() {
        let field = |message: &DynamicMessage, name: &str| {
            let field = message.descriptor().get_field_by_name(name).unwrap();
            text(write_field(message, &field))
        };
        let book = from_json(
            &message("Book"),
            json!({
                "author": {"fullName": "A"}, "genres": [2], "notes": {"n": 7}, "lent": false,
                "id": 5
            }),
        );
        for (name, expected) in [
            ("author", r#"{"fullName":"A","born":0,"labels":{}}"#),
            ("genres", r#"["GENRE_POEM"]"#),
            ("notes", r#"{"n":7}"#),
            ("lent", "false"),
            ("id", "5"),
            ("title", r#""""#),
            ("editors", "[]"),
            ("facts", "null"),
            ("gift", "null"),
        ] {
            assert_eq!(field(&book, name), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>(), text in "[\\[\\]{}\",:0-9a\\\\ \n]{0,40}") {
            let _ = parse(&bytes);
            prop_assert_eq!(
                parse(text.as_bytes()).is_ok(),
                serde_json::from_str::<Value>(&text).is_ok()
            );
        }
    }
}
