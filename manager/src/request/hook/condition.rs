//! When a hook is called: conditions on the rows of its request, as the old API has them.

use goperation::{JsonObject, v1::ResponseState};
use serde_json::Value;

use super::When;
use crate::{check::Violations, record::RowRecord};

const KNOWN: [&str; 5] = ["operator", "value", "counter", "count", "all"];

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Greater,
    Less,
    Equal,
    Differs,
}

impl Operator {
    fn parse(text: &str) -> Option<Self> {
        match text {
            ">" => Some(Self::Greater),
            "<" => Some(Self::Less),
            "=" => Some(Self::Equal),
            "!=" => Some(Self::Differs),
            _ => None,
        }
    }

    fn holds(self, left: i64, right: i64) -> bool {
        match self {
            Self::Greater => left > right,
            Self::Less => left < right,
            Self::Equal => left == right,
            Self::Differs => left != right,
        }
    }
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    Agents,
    Entities,
}

/// A condition. Of a `pre_run` nothing is known yet, so there it always holds.
#[derive(Debug)]
pub(super) struct Condition {
    on: On,
    /// What a result code is compared with.
    code: (Operator, i64),
    /// What the number of those that match is compared with; of `after_run`, the number of agents.
    count: Option<(Operator, i64)>,
    /// Everyone must match, and nobody may be missing; else the number that match decides.
    all: bool,
}

impl Condition {
    pub(super) fn read(
        bad: &mut Violations,
        hook: &str,
        name: &str,
        given: &JsonObject,
        when: When,
    ) -> Option<Self> {
        let on = match (name, when) {
            ("agents", _) => Some(On::Agents),
            ("entitys", When::Pre | When::Post) => Some(On::Entities),
            ("entitys", When::After) => {
                bad.add(format!("{hook}.condition"), "must be `agents`: nobody has answered yet");
                None
            }
            _ => {
                bad.add(format!("{hook}.condition"), "must be `agents` or `entitys`");
                None
            }
        };
        let field = format!("{hook}.ckwargs");
        for key in given.keys().filter(|key| !KNOWN.contains(&key.as_str())) {
            bad.add(format!("{field}.{key}"), format!("is not one of {}", KNOWN.join(", ")));
        }
        let mut operator = |key: &str| {
            let read = given.get(key).and_then(Value::as_str).and_then(Operator::parse);
            if read.is_none() {
                bad.add(format!("{field}.{key}"), "must be one of > < = !=");
            }
            read
        };
        let code = operator("operator");
        let counted = given.contains_key("counter") || given.contains_key("count");
        let all = given.get("all").map_or(Some(true), Value::as_bool);
        let needed = when == When::After || (when == When::Post && all == Some(false));
        let counter = (counted || needed).then(|| operator("counter"));
        let mut number = |key: &str| {
            let read = given.get(key).and_then(Value::as_i64);
            if read.is_none() {
                bad.add(format!("{field}.{key}"), "must be an integer");
            }
            read
        };
        let value = number("value");
        let count = counter.map(|counter| counter.zip(counter.and_then(|_| number("count"))));
        if all.is_none() {
            bad.add(format!("{field}.all"), "must be true or false");
        }
        let count = match count {
            None => None,
            Some(count) => Some(count?),
        };
        Some(Self { on: on?, code: code.zip(value)?, count, all: all? })
    }

    /// Whether the hook is to be called.
    pub(super) fn holds(&self, when: When, rows: &[RowRecord]) -> bool {
        match when {
            When::Pre => true,
            When::After => self.counted(rows.len()),
            When::Post if self.all => rows.iter().all(|row| self.is_right(row)),
            When::Post => self.counted(rows.iter().map(|row| self.matches(row)).sum()),
        }
    }

    fn counted(&self, number: usize) -> bool {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.count.is_none_or(|(counter, count)| counter.holds(number, count))
    }

    fn has_code(&self, code: i32) -> bool {
        self.code.0.holds(code.into(), self.code.1)
    }

    /// Whether a row answered, with codes as they are wanted.
    fn is_right(&self, row: &RowRecord) -> bool {
        matches!(row.state(), ResponseState::Succeeded | ResponseState::Failed)
            && match self.on {
                On::Agents => self.has_code(row.resultcode),
                On::Entities => {
                    row.resultcode == 0
                        && row.details.iter().all(|detail| self.has_code(detail.resultcode))
                }
            }
    }

    /// How many of a row match. Who was not sent to counts for nothing.
    fn matches(&self, row: &RowRecord) -> usize {
        match self.on {
            On::Agents => {
                usize::from(row.state() != ResponseState::Skipped && self.has_code(row.resultcode))
            }
            On::Entities => {
                row.details.iter().filter(|detail| self.has_code(detail.resultcode)).count()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use goperation::v1::ResponseDetail;
    use serde_json::json;

    use super::*;

    fn condition(name: &str, ckwargs: Value, when: When) -> Result<Condition, Vec<String>> {
        let mut bad = Violations::default();
        let given = ckwargs.as_object().cloned().unwrap();
        let read = Condition::read(&mut bad, "h", name, &given, when);
        match bad.finish() {
            Ok(()) => Ok(read.unwrap()),
            Err(error) => Err(error.violations.into_iter().map(|v| v.field).collect()),
        }
    }

    fn row(state: ResponseState, resultcode: i32, details: &[i32]) -> RowRecord {
        let detail = |&resultcode| ResponseDetail { id: 1, resultcode, result: None };
        RowRecord {
            state: state.into(),
            resultcode,
            details: details.iter().map(detail).collect(),
            ..RowRecord::default()
        }
    }

    fn holds(name: &str, ckwargs: Value, when: When, rows: &[RowRecord]) -> bool {
        condition(name, ckwargs, when).unwrap().holds(when, rows)
    }

    #[test]
    fn all_means_that_nobody_is_missing() {
        let good = row(ResponseState::Succeeded, 0, &[0, 0]);
        let failed = row(ResponseState::Failed, -1, &[0, -1]);
        let silent = row(ResponseState::Silent, -124, &[]);
        let skipped = row(ResponseState::Skipped, -127, &[]);
        let zero = || json!({"operator": "=", "value": 0});
        let any = || json!({"operator": "!=", "value": 99});
        for name in ["agents", "entitys"] {
            assert!(holds(name, zero(), When::Post, &[good.clone(), good.clone()]));
            assert!(!holds(name, zero(), When::Post, &[good.clone(), failed.clone()]), "{name}");
            assert!(!holds(name, any(), When::Post, &[good.clone(), silent.clone()]), "{name}");
            assert!(!holds(name, any(), When::Post, &[good.clone(), skipped.clone()]), "{name}");
        }
        assert!(holds("agents", any(), When::Post, &[good.clone(), failed.clone()]));
        // All details match, but the agent itself has failed.
        assert!(!holds("entitys", any(), When::Post, &[good, failed]));
    }

    #[test]
    fn without_all_the_number_that_match_decides() {
        let rows = [
            row(ResponseState::Succeeded, 0, &[0, 0, -1]),
            row(ResponseState::Failed, -1, &[]),
            row(ResponseState::Silent, -124, &[]),
            row(ResponseState::Skipped, -127, &[]),
        ];
        let count = |operator: &str, value: i32, counter: &str, count: i32| {
            json!({"operator": operator, "value": value, "counter": counter, "count": count,
                   "all": false})
        };
        for (name, ckwargs, expected) in [
            ("agents", count("!=", 0, "=", 2), true),
            ("agents", count("!=", 0, ">", 2), false),
            ("agents", count("<", 0, "<", 3), true),
            ("entitys", count("=", 0, ">", 0), true),
            ("entitys", count("=", 0, "=", 2), true),
            ("entitys", count("=", 0, "!=", 2), false),
            ("entitys", count(">", 0, ">", 0), false),
        ] {
            assert_eq!(holds(name, ckwargs.clone(), When::Post, &rows), expected, "{ckwargs}");
        }
    }

    #[test]
    fn before_the_answers_only_agents_are_counted() {
        let rows = [row(ResponseState::Sent, -127, &[]), row(ResponseState::Sent, -127, &[])];
        let more = |count| json!({"operator": "=", "value": 0, "counter": ">", "count": count});
        assert!(holds("agents", more(1), When::After, &rows));
        assert!(!holds("agents", more(2), When::After, &rows));
        assert!(holds("agents", more(2), When::Pre, &rows));
        assert_eq!(condition("entitys", more(1), When::After).unwrap_err(), ["h.condition"]);
    }

    #[test]
    fn every_bad_field_is_named() {
        for (ckwargs, fields) in [
            (json!({}), vec!["h.ckwargs.operator", "h.ckwargs.value"]),
            (
                json!({"operator": "==", "value": 1.5}),
                vec!["h.ckwargs.operator", "h.ckwargs.value"],
            ),
            (json!({"operator": "=", "value": 0, "all": 1}), vec!["h.ckwargs.all"]),
            (json!({"operator": "=", "value": 0, "all": false}), vec!["h.ckwargs.counter"]),
            (json!({"operator": "=", "value": 0, "counter": "<"}), vec!["h.ckwargs.count"]),
            (json!({"operator": "=", "value": 0, "count": 1}), vec!["h.ckwargs.counter"]),
            (json!({"operator": "=", "value": 0, "x": 1}), vec!["h.ckwargs.x"]),
        ] {
            let bad = condition("agents", ckwargs.clone(), When::Post).unwrap_err();
            assert_eq!(bad, fields, "{ckwargs}");
        }
    }
}
