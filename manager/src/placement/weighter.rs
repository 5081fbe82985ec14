//! What comes first: `KEY`, or `KEY/N`.

use super::{
    Host,
    key::Key,
    value::{self, Value},
};

/// A weighter.
#[derive(Debug, Clone)]
pub(super) struct Weighter {
    text: String,
    key: Key,
    /// What the value is divided by; it is taken as it is without.
    by: Option<i64>,
}

impl Weighter {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (key, by) = match text.rsplit_once('/') {
            None => (text, None),
            Some((key, by)) => {
                let (key, by) = (key.trim_end(), by.trim_start());
                match Value::Text(by.to_owned()).integer() {
                    Some(by) if by != 0 => (key, Some(by)),
                    // A label may have a `/` of its own.
                    None if value::number(by).is_none() && text.contains('.') => (text, None),
                    _ => return Err(format!("N must be a whole number other than 0, not `{by}`")),
                }
            }
        };
        Ok(Self { text: text.to_owned(), key: Key::parse(key)?, by })
    }

    /// What it makes of an agent, or why it can make nothing of it.
    pub(super) fn weigh(&self, host: &Host, now: u64) -> Result<Value, String> {
        let (text, key) = (&self.text, self.key.text());
        let Some(is) = self.key.of(host, now) else {
            return Err(format!("it has no {key}, by which `{text}` weighs"));
        };
        let Some(by) = self.by else { return Ok(is) };
        match is.number() {
            Some(number) => Ok(Value::Number(divided(number, by))),
            None => Err(format!("its {key} is {is}, which `{text}` cannot divide")),
        }
    }
}

/// Rounded down, below zero too.
#[expect(clippy::cast_precision_loss, reason = "weights are compared, not counted with")]
fn divided(number: f64, by: i64) -> f64 {
    // A zero has no sign here.
    let floor = |quotient: f64| quotient.floor() + 0.0;
    match value::whole(number) {
        Some(whole) => {
            let (quotient, rest) = (whole / by, whole % by);
            let down = i64::from(rest != 0 && (rest < 0) != (by < 0));
            (quotient - down) as f64
        }
        None => floor(number / by as f64),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use goperation::v1::AgentFacts;

    use super::*;
    use crate::record::AgentRecord;

    #[test]
    fn division_is_rounded_down() {
        for (number, by, quotient) in [
            (7.0, 5, 1.0),
            (7.0, -200, -1.0),
            (0.0, -5, 0.0),
            (0.5, 1, 0.0),
            (0.5, -1, -1.0),
            (12.5, 5, 2.0),
            (-7.0, 2, -4.0),
            (-7.0, -2, 3.0),
            (-0.0, 3, 0.0),
            (9_007_199_254_740_991.0, 3, 3_002_399_751_580_330.0),
        ] {
            let is = divided(number, by);
            assert_eq!((is, is.is_sign_negative()), (quotient, quotient < 0.0), "{number}/{by}");
        }
    }

    #[test]
    fn weights_of_an_agent() {
        let metadata = [("mysql", "5.10"), ("os", "x"), ("ratio", "2.5"), ("a/b", "3")];
        let metadata: HashMap<_, _> =
            metadata.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let agent = AgentRecord {
            facts: Some(AgentFacts { cpu: 7, metadata, ..AgentFacts::default() }),
            labels: [("a/2".to_owned(), "l".to_owned())].into(),
            ..AgentRecord::default()
        };
        let host = Host { agent, online: true, entities: 0 };
        let weigh = |text: &str| Weighter::parse(text).unwrap().weigh(&host, 0);
        for (text, weight) in [
            ("cpu", "7"),
            ("cpu/2", "3"),
            (" cpu / -2 ", "-4"),
            ("metadata.mysql", "5.10"),
            ("metadata.ratio/2", "1"),
            ("metadata.a/b", "3"),
            ("metadata.a/b/2", "1"),
            ("labels.a/2/1", ""),
        ] {
            match weigh(text) {
                Ok(value) => assert_eq!(value.to_string(), weight, "{text}"),
                Err(why) => assert!(weight.is_empty() && why.contains("cannot divide"), "{why}"),
            }
        }
        assert_eq!(weigh("disk/5").unwrap_err(), "it has no disk, by which `disk/5` weighs");
        assert_eq!(
            weigh("metadata.os/2").unwrap_err(),
            "its metadata.os is x, which `metadata.os/2` cannot divide"
        );
        for bad in ["", "/2", "cpu/0", "cpu/", "cpu/x", "cpu/1.5", "metadata.a/0.5", "speed"] {
            assert!(Weighter::parse(bad).is_err(), "{bad}");
        }
    }
}
