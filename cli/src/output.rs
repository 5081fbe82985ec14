//! What is printed on stdout: tables for people, proto3 JSON for scripts.
//!
//! Invariant: a closed stdout ends the command quietly; nothing here panics.

use std::{io::Write as _, sync::LazyLock};

use comfy_table::{Table, presets::NOTHING};
use goperation::{DESCRIPTOR, JsonObject, MAX_SAFE_INTEGER, from_timestamp, struct_to_json};
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use prost_types::{Struct, Timestamp};
use serde_json::Value;

use crate::error::Error;

/// Where answers go, and in which form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// Prints JSON, or tables.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints an answer: as it came for scripts, or what `people` makes of it.
    pub(crate) fn answer<M: Message + Name>(
        self,
        answer: &M,
        people: impl FnOnce(&M) -> String,
    ) -> Result<(), Error> {
        if !self.json {
            return print(&people(answer));
        }
        let value = to_json(answer)?;
        print(&serde_json::to_string_pretty(&value).map_err(|e| Error::Failed(e.to_string()))?)
    }

    /// Whether it is for scripts.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints what was done here, without a manager.
    pub(crate) fn local(self, value: &Value, people: impl FnOnce() -> String) -> Result<(), Error> {
        if self.json { print(&format!("{value:#}")) } else { print(&people()) }
    }

    /// Prints one answer of a stream, on one line.
    pub(crate) fn line<M: Message + Name>(
        self,
        answer: &M,
        people: impl FnOnce(&M) -> String,
    ) -> Result<(), Error> {
        if self.json { print(&to_json(answer)?.to_string()) } else { print(&people(answer)) }
    }
}

/// Prints a text and the end of its line, at once.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        stdout.write_all(b"\n")?;
    }
    Ok(stdout.flush()?)
}

/// What each field is: read once, also for a stream of many answers.
static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTOR).ok());

/// proto3 JSON of a message, fields with default values included.
fn to_json<M: Message + Name>(message: &M) -> Result<Value, Error> {
    let broken = |e: String| Error::Failed(format!("cannot write {} as JSON: {e}", M::full_name()));
    let descriptor = POOL
        .as_ref()
        .and_then(|pool| pool.get_message_by_name(&M::full_name()))
        .ok_or_else(|| broken("it is not in the descriptor".to_owned()))?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).map_err(|e| broken(e.to_string()))?;
    let options = SerializeOptions::new().skip_default_fields(false);
    let mut value = dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|e| broken(e.to_string()))?;
    integers(&mut value);
    Ok(value)
}

/// Writes integral numbers without a fraction: a protobuf `Value` only has doubles.
fn integers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            #[expect(clippy::cast_precision_loss, reason = "2^53 is exact as a double")]
            let limit = MAX_SAFE_INTEGER as f64;
            if let Some(n) = number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() <= limit) {
                #[expect(clippy::cast_possible_truncation, reason = "an integer within ±2^53")]
                let whole = n as i64;
                *value = Value::from(whole);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(integers),
        Value::Object(object) => object.values_mut().for_each(integers),
        _ => {}
    }
}

/// A table without borders; cells are never wrapped, so that a line is a row.
pub(crate) fn table<const N: usize>(
    headers: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(headers);
    for row in rows {
        table.add_row(row.map(|cell| one_line(&cell)));
    }
    layout(&mut table)
}

/// The fields of one thing, one a line.
pub(crate) fn fields<'a>(fields: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    for (name, value) in fields {
        table.add_row([format!("{name}:"), one_line(&or_dash(value))]);
    }
    layout(&mut table)
}

fn layout(table: &mut Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A text of one line, whatever an operator has put into a description.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A text, or a dash where there is none.
pub(crate) fn or_dash(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() { "-".to_owned() } else { text }
}

/// The beginning of a text; `--json` has the whole.
pub(crate) fn short(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A moment in UTC, to the second.
pub(crate) fn time(time: Option<&Timestamp>) -> String {
    let moment = time.and_then(|t| {
        std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(from_timestamp(t)))
    });
    moment.map_or_else(|| "-".to_owned(), |m| humantime::format_rfc3339_seconds(m).to_string())
}

/// The JSON object in an answer; one that cannot be exact is shown as it can be.
pub(crate) fn object(value: Option<&Struct>) -> JsonObject {
    struct_to_json("result", value).unwrap_or_else(|e| {
        JsonObject::from_iter([("unreadable".to_owned(), Value::String(e.message))])
    })
}

/// The object in an answer for people: several lines, or none when it is empty.
pub(crate) fn result(value: Option<&Struct>) -> String {
    let object = object(value);
    if object.is_empty() { String::new() } else { format!("{:#}\n", Value::Object(object)) }
}

/// `a=1,b=2`, or a dash.
pub(crate) fn labels(labels: &std::collections::HashMap<String, String>) -> String {
    let mut pairs: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.sort_unstable();
    or_dash(pairs.join(","))
}

#[cfg(test)]
mod tests {
    use goperation::v1::{Agent, CallResponse, IndexAgentsResponse};
    use serde_json::json;

    use super::*;

    #[test]
    fn json_has_defaults_and_integers() {
        let object = json!({"x": 1, "y": 1.5, "z": [2]});
        let result = goperation::json_to_struct("r", object.as_object().unwrap()).unwrap();
        let answer = CallResponse { message_id: "m".into(), result: Some(result) };
        assert_eq!(
            to_json(&answer).unwrap().to_string(),
            r#"{"messageId":"m","result":{"x":1,"y":1.5,"z":[2]}}"#
        );
        let agents = IndexAgentsResponse { agents: vec![Agent::default()], ..Default::default() };
        let value = to_json(&agents).unwrap();
        assert_eq!(value["agents"][0]["status"], 0);
        assert_eq!(value["agents"][0]["clockSkew"], false);
        assert_eq!(value["totalSize"], 0);
    }

    #[test]
    fn a_table_has_no_borders_and_no_wrapping() {
        let long = "x".repeat(300);
        let text =
            table(["ID", "NAME"], [["1".into(), long.clone()], ["20".into(), "a\nb".into()]]);
        assert_eq!(text, format!("ID   NAME\n1    {long}\n20   a b\n"));
        assert_eq!(
            fields([("id", "1".into()), ("longer", String::new())]),
            "id:       1\nlonger:   -\n"
        );
    }
}
