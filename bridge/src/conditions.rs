//! The filters of the bridge's two lists: conditions joined by AND.
//!
//! Invariant: a condition that was read names a field of the list; all others were refused.

use goperation::Error;

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    field: String,
    operator: &'static str,
    value: String,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Conditions(Vec<Condition>);

/// Longer ones first: `>=` begins with `>`.
const OPERATORS: [&str; 6] = ["!=", ">=", "<=", "=", ">", "<"];

impl Conditions {
    /// The conditions in a text. Texts compare whole with `=` and `!=`, and by their beginning
    /// when the value ends in `*`; numbers with every operator.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the fields that there are.
    pub(crate) fn parse(text: &str, fields: &[&str]) -> Result<Self, Error> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let bad = |part: &str| {
            Error::invalid(
                "filter",
                format!(
                    "`{}` is not FIELD OPERATOR VALUE; fields: {}; operators: {}; a text may end \
                     in *; conditions are joined by AND",
                    part.trim(),
                    fields.join(", "),
                    OPERATORS.join(" "),
                ),
            )
        };
        let read = |part: &str| {
            let at = part.find(['=', '!', '<', '>']).ok_or_else(|| bad(part))?;
            let operator = OPERATORS
                .into_iter()
                .find(|operator| part[at..].starts_with(operator))
                .ok_or_else(|| bad(part))?;
            let field = part[..at].trim();
            let value = part[at + operator.len()..].trim();
            let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
            if value.is_empty() || value.contains('"') || !fields.contains(&field) {
                return Err(bad(part));
            }
            Ok(Condition { field: field.to_owned(), operator, value: value.to_owned() })
        };
        text.split(" AND ").map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a field is looked at.
    pub(crate) fn uses(&self, field: &str) -> bool {
        self.0.iter().any(|condition| condition.field == field)
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all conditions on that field hold for the text or number.
    pub(crate) fn hold(&self, field: &str, value: &str) -> bool {
        self.0.iter().filter(|condition| condition.field == field).all(|c| c.holds(value))
    }
}

impl Condition {
    fn holds(&self, value: &str) -> bool {
        let numbers = value.parse::<i64>().ok().zip(self.value.parse::<i64>().ok());
        let order = numbers.map_or_else(|| value.cmp(&self.value), |(a, b)| a.cmp(&b));
        let equal = match self.value.strip_suffix('*') {
            Some(beginning) => value.starts_with(beginning),
            None => order.is_eq(),
        };
        match self.operator {
            "=" => equal,
            "!=" => !equal,
            ">=" => order.is_ge(),
            "<=" => order.is_le(),
            ">" => order.is_gt(),
            _ => order.is_lt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_or_not() {
        let read = Conditions::parse(r#"name = "cast.*" AND depth >= 10"#, &["name", "depth"]);
        let conditions = read.unwrap();
        assert!(conditions.hold("name", "cast.app.h1") && conditions.hold("depth", "11"));
        assert!(!conditions.hold("name", "call.app.h1") && !conditions.hold("depth", "9"));
        assert!(conditions.hold("other", "x"));
    }

    #[test]
    fn what_is_no_condition_is_refused_with_the_fields() {
        for bad in ["name", "nam = x", "name =", "name = x OR name = y\"", "= x"] {
            let error = Conditions::parse(bad, &["name", "depth"]).unwrap_err();
            assert!(error.message.contains("name, depth"), "{bad}: {error}");
        }
    }
}
