//! `[metadata]`: what an operator says of a host, for placement to choose by.
//!
//! Invariant: every value is one text of one line, as reports carry it.

use std::collections::BTreeMap;

use goperation::ConfigError;
use toml::{Spanned, Value};

use super::check::Source;

/// Most entries.
const ENTRIES: usize = 64;
/// Longest key and longest value, in characters.
const KEY: usize = 63;
const VALUE: usize = 256;

/// The table as it stands in the file.
pub(super) type RawMetadata = BTreeMap<Spanned<String>, Spanned<Value>>;

/// Checks the table; a list is a text joined by commas.
pub(super) fn read(
    source: &Source<'_>,
    raw: RawMetadata,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut metadata = BTreeMap::new();
    for (key, value) in raw {
        let good = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let name = key.get_ref();
        if name.is_empty() || name.len() > KEY || !name.chars().all(good) {
            let message = format!("a key has 1 to {KEY} letters, digits, `_`, `-` or `.`");
            return Err(source.bad(key.span(), message));
        }
        let Some(text) = text(value.get_ref()) else {
            let message = "must be a text, a number, true, false, or a list of these";
            return Err(source.bad(value.span(), message));
        };
        if text.chars().count() > VALUE || text.chars().any(char::is_control) {
            let message = format!("must be one line of at most {VALUE} characters");
            return Err(source.bad(value.span(), message));
        }
        if metadata.len() == ENTRIES {
            return Err(source.bad(key.span(), format!("there are more than {ENTRIES} entries")));
        }
        metadata.insert(key.into_inner(), text);
    }
    Ok(metadata)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(flag) => Some(flag.to_string()),
        Value::Array(items) => {
            let item = |item: &Value| if item.is_array() { None } else { text(item) };
            items.iter().map(item).collect::<Option<Vec<_>>>().map(|items| items.join(","))
        }
        Value::Datetime(_) | Value::Table(_) => None,
    }
}
