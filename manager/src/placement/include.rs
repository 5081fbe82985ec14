//! Conditions: `KEY OP VALUE`.

use std::cmp::Ordering;

use super::{
    Host,
    key::Key,
    value::{self, Value},
};

/// Characters that operators are made of.
const SIGNS: [char; 7] = ['<', '>', '=', '!', '&', '|', '%'];
/// The operators.
const OPERATORS: &str = "< > = != <= >= & | %";

/// What is asked of a value.
#[derive(Debug, Clone)]
enum Test {
    /// That it compares so.
    Order(fn(Ordering) -> bool, Value),
    /// That something is so of its bits, or of what is left of it.
    Whole(fn(i64, i64) -> bool, i64),
}

/// A condition.
#[derive(Debug, Clone)]
pub(super) struct Include {
    text: String,
    key: Key,
    test: Test,
}

impl Include {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let Some(at) = text.find(SIGNS) else {
            return Err(format!("must be KEY OP VALUE, as cpu>=2; OP is one of {OPERATORS}"));
        };
        let (key, rest) = text.split_at(at);
        let end = rest.find(|c| !SIGNS.contains(&c)).unwrap_or(rest.len());
        let (operator, value) = (&rest[..end], rest[end..].trim());
        let key = Key::parse(key.trim())?;
        let test = match operator {
            "<" => order(&key, Ordering::is_lt, value),
            ">" => order(&key, Ordering::is_gt, value),
            "=" => order(&key, Ordering::is_eq, value),
            "!=" => order(&key, Ordering::is_ne, value),
            "<=" => order(&key, Ordering::is_le, value),
            ">=" => order(&key, Ordering::is_ge, value),
            "&" => whole(operator, |a, bits| a & bits == bits, value),
            "|" => whole(operator, |a, bits| a & bits != 0, value),
            "%" => whole(operator, |a, by| a % by == 0, value),
            _ => Err(format!("`{operator}` is no operator: it is one of {OPERATORS}")),
        }?;
        Ok(Self { text: text.to_owned(), key, test })
    }

    /// Why it does not hold for an agent, if it does not.
    pub(super) fn holds(&self, host: &Host, now: u64) -> Result<(), String> {
        let key = self.key.text();
        let Some(is) = self.key.of(host, now) else {
            return Err(format!("`{}` does not hold: it has no {key}", self.text));
        };
        let holds = match &self.test {
            Test::Order(wanted, value) => wanted(match (&is, value) {
                (Value::Number(is), Value::Number(value)) => is.total_cmp(value),
                _ => value::compare(&is.to_string(), &value.to_string()),
            }),
            Test::Whole(wanted, value) => match is.integer() {
                Some(is) => wanted(is, *value),
                None => {
                    let text = &self.text;
                    return Err(format!("`{text}` does not hold: {key} is {is}, no whole number"));
                }
            },
        };
        if holds { Ok(()) } else { Err(format!("`{}` does not hold: {key} is {is}", self.text)) }
    }
}

fn order(key: &Key, wanted: fn(Ordering) -> bool, value: &str) -> Result<Test, String> {
    if key.is_number() {
        return match value::number(value) {
            // A zero has no sign here.
            Some(number) => Ok(Test::Order(wanted, Value::Number(number + 0.0))),
            None => Err(format!("{} is compared to a number, not to `{value}`", key.text())),
        };
    }
    Ok(Test::Order(wanted, Value::Text(value.to_owned())))
}

fn whole(operator: &str, wanted: fn(i64, i64) -> bool, value: &str) -> Result<Test, String> {
    match Value::Text(value.to_owned()).integer() {
        Some(number) if number > 0 => Ok(Test::Whole(wanted, number)),
        _ => Err(format!("{operator} takes a whole number from 1, not `{value}`")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use goperation::v1::{AgentFacts, AgentSnapshot};

    use super::*;
    use crate::record::AgentRecord;

    fn host() -> Host {
        let metadata = [("mysql", "5.10"), ("affinity", "6"), ("os", "Debian 12"), ("empty", "")];
        let metadata: HashMap<_, _> =
            metadata.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let agent = AgentRecord {
            host: "h1".into(),
            facts: Some(AgentFacts { cpu: 8, metadata, ..AgentFacts::default() }),
            snapshot: Some(AgentSnapshot { load1: 0.25, ..AgentSnapshot::default() }),
            ..AgentRecord::default()
        };
        Host { agent, online: true, entities: 0 }
    }

    #[test]
    fn conditions_hold_or_say_why_not() {
        for holds in [
            "cpu>=8",
            " cpu  <  9 ",
            "cpu = 8.0",
            "cpu!=7",
            "cpu&8",
            "cpu|12",
            "cpu%4",
            "entities=-0",
            "load<0.3",
            "metadata.mysql>=5.9",
            "metadata.mysql=5.10.0",
            "metadata.affinity & 4",
            "metadata.os=Debian 12",
            "metadata.os>A",
            "metadata.empty=",
            "metadata.os!=",
            "host=h1",
        ] {
            let include = Include::parse(holds).unwrap();
            assert_eq!(include.holds(&host(), 0), Ok(()), "{holds}");
        }
        for (text, why) in [
            ("cpu>8", "`cpu>8` does not hold: cpu is 8"),
            ("cpu&9", "`cpu&9` does not hold: cpu is 8"),
            ("cpu|7", "`cpu|7` does not hold: cpu is 8"),
            ("cpu%3", "`cpu%3` does not hold: cpu is 8"),
            ("load&1", "`load&1` does not hold: load is 0.25, no whole number"),
            (
                "metadata.os%2",
                "`metadata.os%2` does not hold: metadata.os is Debian 12, no whole \
              number",
            ),
            ("metadata.mysql<5.9", "`metadata.mysql<5.9` does not hold: metadata.mysql is 5.10"),
            ("labels.zone!=a", "`labels.zone!=a` does not hold: it has no labels.zone"),
            ("memory>1", "`memory>1` does not hold: it has no memory"),
        ] {
            let include = Include::parse(text).unwrap();
            assert_eq!(include.holds(&host(), 0), Err(why.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "must be KEY OP VALUE"),
            ("cpu", "must be KEY OP VALUE"),
            ("cpu 2", "must be KEY OP VALUE"),
            (">=2", "`` is no key"),
            ("cpus>=2", "`cpus` is no key"),
            ("cpu==2", "`==` is no operator"),
            ("cpu=>2", "`=>` is no operator"),
            ("cpu<>2", "`<>` is no operator"),
            ("cpu>=", "not to ``"),
            ("cpu>=many", "not to `many`"),
            ("cpu>=1e3", "not to `1e3`"),
            ("cpu%0", "from 1, not `0`"),
            ("cpu&1.5", "from 1, not `1.5`"),
            ("cpu|-1", "from 1, not `-1`"),
        ] {
            let why = Include::parse(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
