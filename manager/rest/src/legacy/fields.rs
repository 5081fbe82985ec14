//! The fields of a body, and the few types that they have.
//!
//! Invariant: what is read is taken out, so what is left are the arguments of the endpoint's own
//! method.

use goperation::{AgentType, EndpointName, Error, HostName, JsonObject, Result, v1::PortWish};
use prost_types::Timestamp;
use serde_json::Value;

/// The fields of a body.
#[derive(Debug, Default)]
pub(super) struct Fields(JsonObject);

impl Fields {
    pub(super) fn new(object: JsonObject) -> Self {
        Self(object)
    }

    /// What was not read.
    pub(super) fn rest(self) -> JsonObject {
        self.0
    }

    /// A value, unless it is absent or null.
    pub(super) fn value(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// A value that must be there, were it null.
    pub(super) fn present(&mut self, name: &str) -> Result<Value> {
        self.0.remove(name).ok_or_else(|| missing(name))
    }

    /// True or false; 1 and 0 pass for them.
    pub(super) fn flag(&mut self, name: &str, default: bool) -> Result<bool> {
        match self.value(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(Value::Number(n)) if n.as_i64() == Some(0) => Ok(false),
            Some(Value::Number(n)) if n.as_i64() == Some(1) => Ok(true),
            Some(_) => Err(Error::invalid(name, "must be true or false")),
        }
    }

    /// A text.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Error::invalid(name, "must be a text")),
        }
    }

    /// A text that must be there.
    pub(super) fn needed_text(&mut self, name: &str) -> Result<String> {
        self.text(name)?.ok_or_else(|| missing(name))
    }

    /// An integer; one in a text passes for it.
    pub(super) fn int(&mut self, name: &str) -> Result<Option<i64>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let int = match &value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        int.map(Some).ok_or_else(|| Error::invalid(name, "must be an integer"))
    }

    /// An integer from 0 that the services can take.
    pub(super) fn count(&mut self, name: &str) -> Result<Option<i32>> {
        let Some(int) = self.int(name)? else { return Ok(None) };
        match i32::try_from(int) {
            Ok(count) if count >= 0 => Ok(Some(count)),
            _ => Err(Error::invalid(name, format!("must be an integer from 0 to {}", i32::MAX))),
        }
    }

    /// A number from 0; one in a text passes for it.
    pub(super) fn measure(&mut self, name: &str) -> Result<f64> {
        let number = match self.value(name) {
            None => return Ok(0.0),
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        let number = number.filter(|number| number.is_finite() && *number >= 0.0);
        number.ok_or_else(|| Error::invalid(name, "must be a number from 0"))
    }

    /// An integer that must be there.
    pub(super) fn needed_count(&mut self, name: &str) -> Result<i32> {
        self.count(name)?.ok_or_else(|| missing(name))
    }

    /// An integer that must be there, were it null, which is 0.
    pub(super) fn present_count(&mut self, name: &str) -> Result<i32> {
        if !self.0.contains_key(name) {
            return Err(missing(name));
        }
        Ok(self.count(name)?.unwrap_or_default())
    }

    /// A moment in seconds since 1970.
    pub(super) fn moment(&mut self, name: &str) -> Result<Option<Timestamp>> {
        let Some(seconds) = self.int(name)? else { return Ok(None) };
        if seconds < 0 {
            return Err(Error::invalid(name, "must be seconds since 1970"));
        }
        Ok(Some(Timestamp { seconds, nanos: 0 }))
    }

    /// A moment in seconds since 1970, given so or as a date with a time, `2024-01-31 18:00:00`: in
    /// UTC unless it says otherwise.
    pub(super) fn time(&mut self, name: &str) -> Result<Option<i64>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let seconds = match &value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => match text.parse() {
                Ok(seconds) => Some(seconds),
                Err(_) => text.parse::<Timestamp>().ok().map(|time| time.seconds),
            },
            _ => None,
        };
        seconds.filter(|&seconds| seconds >= 0).map(Some).ok_or_else(|| {
            Error::invalid(name, "must be seconds since 1970, or a date as 2024-01-31 18:00:00")
        })
    }

    /// An object.
    pub(super) fn object(&mut self, name: &str) -> Result<Option<JsonObject>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(Error::invalid(name, "must be an object")),
        }
    }

    /// Texts: a list of them, or one text with commas. Nothing when absent.
    pub(super) fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>> {
        let bad = || Error::invalid(name, "must be a list of texts, or texts joined by commas");
        let text = |value: Value| match value {
            Value::String(text) => Ok(text),
            Value::Number(number) if number.is_u64() => Ok(number.to_string()),
            _ => Err(bad()),
        };
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(Some(Vec::new())),
            Some(Value::String(text)) => Ok(Some(split(&text))),
            Some(Value::Array(items)) => {
                Ok(Some(items.into_iter().map(text).collect::<Result<_>>()?))
            }
            Some(_) => Err(bad()),
        }
    }

    /// A list of texts, which may have commas of their own. Nothing is an empty list.
    pub(super) fn texts_as_they_are(&mut self, name: &str) -> Result<Vec<String>> {
        let bad = || Error::invalid(name, "must be a list of texts");
        let text = |item: Value| item.as_str().map(str::to_owned).ok_or_else(bad);
        match self.value(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items.into_iter().map(text).collect(),
            Some(_) => Err(bad()),
        }
    }

    /// Names of endpoints. Nothing when absent.
    pub(super) fn endpoints(&mut self, name: &str) -> Result<Option<Vec<String>>> {
        let Some(names) = self.texts(name)? else { return Ok(None) };
        names.iter().map(|text| endpoint(name, text)).collect::<Result<_>>().map(Some)
    }

    /// Ports that are wished for: a list of numbers and nulls, or numbers joined by commas; null in
    /// the list is any port.
    pub(super) fn wishes(&mut self, name: &str) -> Result<Vec<PortWish>> {
        let items = match self.value(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(Value::String(text)) => split(&text).into_iter().map(Value::String).collect(),
            Some(value) => vec![value],
        };
        if items.is_empty() {
            return Err(Error::invalid(name, "must not be empty"));
        }
        let wish = |item: Value| {
            let port = match &item {
                Value::Null => Some(0),
                Value::Number(number) => number.as_u64().and_then(port),
                Value::String(text) => text.parse().ok().and_then(port),
                _ => None,
            };
            let port = port.ok_or_else(|| {
                Error::invalid(name, format!("{item} is not a port from 1 to 65535, or null"))
            })?;
            Ok(PortWish { port, ..PortWish::default() })
        };
        items.into_iter().map(wish).collect()
    }
}

/// Ports of a path: numbers joined by commas, no ranges.
pub(super) fn ports(name: &str, text: &str) -> Result<Vec<i32>> {
    let number = |text: String| {
        text.parse()
            .ok()
            .and_then(port)
            .ok_or_else(|| Error::invalid(name, format!("`{text}` is not a port from 1 to 65535")))
    };
    split(text).into_iter().map(number).collect()
}

fn port(number: u64) -> Option<i32> {
    u16::try_from(number).ok().filter(|&port| port > 0).map(i32::from)
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn missing(name: &str) -> Error {
    Error::invalid(name, "is required")
}

/// The name of an endpoint.
pub(super) fn endpoint(field: &str, text: &str) -> Result<String> {
    EndpointName::parse(field, text).map(|name| name.to_string())
}

/// The name of a host.
pub(super) fn host(field: &str, text: &str) -> Result<String> {
    HostName::parse(field, text).map(|name| name.to_string())
}

/// A type of agents.
pub(super) fn agent_type(field: &str, text: &str) -> Result<String> {
    AgentType::parse(field, text).map(|name| name.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::new(json!({ "x": value }).as_object().unwrap().clone())
    }

    #[test]
    fn ports_in_each_of_their_forms() {
        let wishes = |value| {
            let wishes = fields(value).wishes("x")?;
            Ok::<_, Error>(wishes.iter().map(|wish| wish.port).collect::<Vec<_>>())
        };
        for (value, ports) in [
            (json!(null), &[][..]),
            (json!([7001, null, "7002"]), &[7001, 0, 7002]),
            (json!("7001,7002"), &[7001, 7002]),
            (json!(7001), &[7001]),
        ] {
            assert_eq!(wishes(value.clone()).unwrap(), ports, "{value}");
        }
        for bad in
            [json!([]), json!([0]), json!([65536]), json!("7001-7003"), json!([true]), json!({})]
        {
            assert!(wishes(bad.clone()).is_err(), "{bad}");
        }
        assert_eq!(ports("ports", "1,65535").unwrap(), [1, 65535]);
        for bad in ["", "0", "1-2", "1,", "1, 2"] {
            assert!(ports("ports", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_as_a_text_or_a_list() {
        for (value, names) in [
            (json!("db"), &["db"][..]),
            (json!("Db,game"), &["db", "game"]),
            (json!(["db", "game"]), &["db", "game"]),
            (json!([]), &[]),
        ] {
            assert_eq!(fields(value.clone()).endpoints("x").unwrap().unwrap(), names, "{value}");
        }
        assert!(fields(json!(null)).endpoints("x").unwrap().is_none());
        for bad in [json!("a-b"), json!([null]), json!({}), json!(["db", "all"])] {
            assert!(fields(bad.clone()).endpoints("x").is_err(), "{bad}");
        }
    }

    #[test]
    fn plain_values() {
        for (value, flag) in
            [(json!(null), true), (json!(false), false), (json!(0), false), (json!(1), true)]
        {
            assert_eq!(fields(value.clone()).flag("x", true).unwrap(), flag, "{value}");
        }
        assert!(fields(json!("yes")).flag("x", true).is_err());
        assert_eq!(fields(json!("7")).int("x").unwrap(), Some(7));
        for bad in [json!(1.5), json!(true), json!("x"), json!([])] {
            assert!(fields(bad.clone()).int("x").is_err(), "{bad}");
        }
        assert!(fields(json!(-1)).count("x").is_err());
        assert!(fields(json!(-1)).moment("x").is_err());
        assert!(fields(json!(null)).present("x").unwrap().is_null());
        assert!(fields(json!(null)).present("y").is_err());
    }
}
